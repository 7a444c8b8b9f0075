//! A hundred times `kill -9` at random moments, over imports, replacements, growths, removals, renames and downloads:
//! nothing is corrupted, nothing is forgotten, nothing is left over.

mod clients;
mod model;

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use self::clients::{Dice, Partial, Stock, Wire};
use self::model::{Disk, Seen, content};
use crate::support::server::{PASSWORD, Server, Setup, created, disk_files, gantry, gantry_run, scratch};
use crate::support::wait;

const ROUNDS: usize = 100;
/// A server that starts is ready, and has said what became of its jobs, within this time.
const READY: Duration = Duration::from_secs(5);

/// The seed of a test, from the environment when a run is to be taken again.
fn seed(own: u64) -> u64 {
    let told = std::env::var("GANTRY_E2E_SEED").ok().and_then(|text| text.parse().ok());
    told.unwrap_or_else(|| u64::from(std::process::id()) << 20 | own)
}

/// Says with which numbers a test has failed, so that they can be taken again.
struct Told(u64);

impl Drop for Told {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the seed was {}; GANTRY_E2E_SEED takes it again", self.0);
        }
    }
}

/// Which of Gantry's own folders a file lies in.
fn own_folder(file: &Path) -> Option<&OsStr> {
    let folder = file.parent()?;
    (folder.parent()?.file_name()? == ".gantry").then(|| folder.file_name())?
}

struct Torture {
    server: Server,
    seen: Seen,
    srs: [String; 2],
    /// Disks that are written, one by each of two clients.
    slots: Vec<Disk>,
    stock: Stock,
    partials: [Option<Partial>; 2],
    /// Files that were found sound, and when they were written.
    checked: HashMap<PathBuf, std::time::SystemTime>,
}

#[test]
fn a_hundred_times_kill_9_leaves_nothing_corrupted_nothing_forgotten_and_nothing_over() {
    let seed = seed(0x5EED);
    let _told = Told(seed);
    let mut dice = Dice(seed | 1);
    let mut torture = Torture::begin(&mut dice);
    for round in 0..ROUNDS {
        // Now and then it dies again before it has recovered.
        while dice.roll(6) == 0 {
            torture.server.start_and_kill_after(Duration::from_micros(dice.roll(150_000)));
        }
        torture.start(round);
        torture.round(&mut dice);
    }
    torture.start(ROUNDS);
    torture.end(&mut dice);
}

#[test]
fn a_first_start_that_is_killed_leaves_a_directory_in_which_the_next_one_works() {
    let seed = seed(0xF1257);
    let _told = Told(seed);
    let mut dice = Dice(seed | 1);
    for _ in 0..12 {
        let scratch = scratch();
        let data = scratch.path().join("data");
        let mut command = gantry(["serve", "--listen", "127.0.0.1:0", "--data"]);
        command.arg(&data).env("GANTRY_ADMIN_PASSWORD", PASSWORD).stdout(Stdio::null()).stderr(Stdio::null());
        let mut child = command.spawn().expect("the program runs");
        std::thread::sleep(Duration::from_micros(dice.roll(300_000)));
        child.kill().expect("it can be killed");
        child.wait().expect("it can be waited for");
        let server = Setup::default().start_in(scratch, data);
        server.request("GET", "/health/ready").anonymous().send().expect(200);
        server.request("GET", "/rest/v0/users").basic("admin", PASSWORD).send().expect(200);
        assert_eq!(server.json("/rest/v0/srs").as_array().map(Vec::len), Some(1));
        assert_eq!(server.json("/rest/v0/pools").as_array().map(Vec::len), Some(1));
        let disk = content(dice.size(), 1);
        let vdi = server.import("?raw", disk.to_vec());
        assert!(server.export_bytes(&vdi, "raw") == *disk);
    }
}

impl Torture {
    fn begin(dice: &mut Dice) -> Self {
        // All tasks are kept, and downloads that nobody takes up again end soon.
        let config = "[tasks]\nkeep = 1000000\n[transfers]\ndetach = \"2s\"";
        let mut server = Setup::default().config(config).start();
        let body = json!({ "name_label": "as VHD", "content_format": "vhd" });
        let other = created(&server.request("POST", "/rest/v0/srs").json(&body).send(), "srs");
        let srs = [server.sr().to_owned(), other];
        let seen = Seen::default();
        let slot = |sr: &String| {
            let new = content(dice.size(), dice.roll(u64::MAX));
            let request = server.request("POST", &format!("/rest/v0/srs/{sr}/vdis?raw&name_label=slot"));
            let answer = request.body(new.to_vec()).send();
            let id = created(&answer, "vdis");
            seen.task(answer.head.need("Gantry-Task"));
            seen.content(&id, &new);
            Disk::new(id, new, "slot".into())
        };
        let slots = srs.iter().map(slot).collect();
        server.kill();
        let (stock, partials, checked) = (Stock::default(), [None, None], HashMap::new());
        Self { server, seen, srs, slots, stock, partials, checked }
    }

    fn start(&mut self, round: usize) {
        let begun = Instant::now();
        self.server.start_again();
        self.server.request("GET", "/health/ready").anonymous().send().expect(200);
        self.look_at_tasks(begun + READY);
        assert!(begun.elapsed() < READY, "round {round}: {:?}", begun.elapsed());
        self.look_at_disks();
        self.look_at_files();
    }

    /// Lets the clients work, and kills the server.
    fn round(&mut self, dice: &mut Dice) {
        let Self { server, seen, srs, slots, stock, partials, .. } = self;
        let (token, scratch) = (server.token().to_owned(), server.path(""));
        let wire = Wire { address: server.address(), token: &token, seen };
        let disks: Vec<String> = slots.iter().map(|disk| disk.id.clone()).collect();
        let [first, second] = srs;
        std::thread::scope(|scope| {
            let mut own = || Dice(dice.roll(u64::MAX) | 1);
            let mut ends = Vec::new();
            for slot in slots.iter_mut() {
                let mut dice = own();
                ends.push(scope.spawn(move || clients::write(wire, &mut dice, slot)));
            }
            let mut stocking = own();
            ends.push(scope.spawn(move || clients::stock(wire, &mut stocking, [&*first, &*second], stock)));
            let mut alive = Vec::new();
            for (number, left) in partials.iter_mut().enumerate() {
                let (killed, told) = mpsc::channel();
                alive.push(killed);
                let (mut dice, disks) = (own(), &disks);
                let scratch = scratch.join(format!("reader-{number}"));
                std::fs::create_dir_all(&scratch).expect("it can be made");
                ends.push(scope.spawn(move || clients::read(wire, &mut dice, disks, left, &told, &scratch)));
            }
            let (mut peeking, disks) = (own(), &disks);
            ends.push(scope.spawn(move || clients::peek(wire, &mut peeking, disks)));
            // Not for something to happen: the moment is to be any.
            std::thread::sleep(Duration::from_micros(dice.roll(300_000)));
            server.kill();
            drop(alive);
            for end in ends {
                end.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            }
        });
    }

    /// Insists that every task is still there and will end, and that growths go on by themselves.
    fn look_at_tasks(&self, until: Instant) {
        wait::until(until.saturating_duration_since(Instant::now()), || {
            let tasks = self.server.json("/rest/v0/tasks?fields=*");
            let tasks = tasks.as_array().expect("an array");
            let ids = tasks.iter().map(|task| task["id"].as_str().expect("an id").to_owned()).collect();
            let forgotten = self.seen.forgotten(&ids);
            assert!(forgotten.is_empty(), "forgotten: {forgotten:?} of {}", self.seen.tasks());
            ids.iter().for_each(|id| self.seen.task(id));
            tasks.iter().try_for_each(|task| {
                let kind = task["properties"]["type"].as_str().expect("a type");
                match (kind, task["status"].as_str().expect("a status")) {
                    ("vdi.grow", "pending") => Err(format!("a growth goes on: {task}")),
                    ("vdi.grow", status) => {
                        assert_eq!(status, "success", "a growth goes on by itself: {task}");
                        Ok(())
                    }
                    ("vdi.export", "pending") => {
                        assert_eq!(task["properties"]["state"], "recovering", "nobody reads it: {task}");
                        Ok(())
                    }
                    (_, "pending") => panic!("nobody works on it: {task}"),
                    (_, "success" | "interrupted") => Ok(()),
                    (_, status) => {
                        let code = &task["result"]["code"];
                        assert!(
                            matches!(code.as_str(), Some("vdi_deleted" | "client_gone")),
                            "{status}: {task}"
                        );
                        Ok(())
                    }
                }
            })
        });
    }

    /// Insists that each disk is what it may be, and that there is no other.
    fn look_at_disks(&mut self) {
        let found = self.server.json("/rest/v0/vdis?fields=id,name_label,size");
        let text = |vdi: &Value, field: &str| vdi[field].as_str().expect("a text").to_owned();
        let mut found: HashMap<String, (String, Value)> = found
            .as_array()
            .expect("an array")
            .iter()
            .map(|vdi| (text(vdi, "id"), (text(vdi, "name_label"), vdi["size"].clone())))
            .collect();
        let mut look = |server: &Server, disk: &mut Disk| {
            let Some((label, size)) = found.remove(&disk.id) else { return false };
            let bytes = server.export_bytes(&disk.id, "raw");
            assert_eq!(size, bytes.len(), "the size of {}", disk.id);
            disk.settle(bytes, &label);
            disk.going = false;
            true
        };
        for slot in &mut self.slots {
            assert!(look(&self.server, slot), "{} is gone", slot.id);
        }
        self.stock.disks.retain_mut(|disk| {
            let going = disk.going;
            let is_there = look(&self.server, disk);
            assert!(is_there || going, "{} is gone", disk.id);
            is_there
        });
        // Imports whose answer did not come any more.
        let coming = std::mem::take(&mut self.stock.coming);
        for (id, (label, _)) in found {
            assert!(!self.stock.gone.contains(&id), "{id} was deleted");
            let own = coming.iter().find(|(own, _)| *own == label);
            let (_, content) = own.unwrap_or_else(|| panic!("nobody has imported {id} ({label})"));
            assert!(self.server.export_bytes(&id, "raw") == **content, "{id} is not what was imported");
            self.seen.content(&id, content);
            self.stock.disks.push(Disk::new(id, content.clone(), label));
        }
    }

    /// Insists that there is a file for each disk and no other, but for what downloads hold that may go on.
    fn look_at_files(&mut self) {
        let server = &self.server;
        // What a download held goes shortly after it was given up.
        let disks = wait::until(READY, || {
            let all = self.srs.iter().flat_map(|sr| disk_files(&server.data().join("srs").join(sr)));
            let (own, disks): (Vec<_>, Vec<_>) = all.partition(|file| own_folder(file).is_some());
            let work: Vec<_> = own.iter().filter(|file| own_folder(file) == Some("work".as_ref())).collect();
            assert!(work.is_empty(), "work is left: {work:?}");
            let tasks = server.json("/rest/v0/tasks?filter=status:pending&fields=*");
            let held = tasks.as_array().expect("an array").len();
            if own.len() > held {
                return Err(format!("{own:?} are held by {tasks}"));
            }
            let name = |file: &PathBuf| file.file_stem().expect("a name").to_string_lossy().into_owned();
            let named: HashSet<String> = disks.iter().map(name).collect();
            let whole = named.len() == disks.len() && named == server.vdis().into_iter().collect();
            if whole { Ok(disks) } else { Err(format!("{disks:?} and not one for each disk")) }
        });
        for file in disks.iter().filter(|file| file.extension().is_some_and(|kind| kind == "vhd")) {
            let written = std::fs::metadata(file).and_then(|data| data.modified()).expect("it is there");
            if self.checked.insert(file.clone(), written) != Some(written) {
                let output = gantry_run(["check".as_ref(), file.as_os_str()]);
                assert!(output.status.success(), "{output:?}");
            }
        }
    }

    /// Takes up what was cut, and insists that everything ends.
    fn end(mut self, dice: &mut Dice) {
        let (token, scratch) = (self.server.token().to_owned(), self.server.path("reader-0"));
        let wire = Wire { address: self.server.address(), token: &token, seen: &self.seen };
        for left in &mut self.partials {
            while left.is_some() {
                clients::read_once(wire, dice, &[], left, None, &scratch).expect("nobody cuts it");
            }
        }
        wait::until(Duration::from_secs(20), || {
            match self.server.json("/rest/v0/tasks?filter=status:pending&fields=*") {
                Value::Array(tasks) if tasks.is_empty() => Ok(()),
                tasks => Err(format!("pending: {tasks}")),
            }
        });
        wait::until(Duration::from_secs(5), || {
            let files = self.srs.iter().flat_map(|sr| disk_files(&self.server.data().join("srs").join(sr)));
            let files: Vec<_> = files.collect();
            let disks = self.slots.len() + self.stock.disks.len();
            if files.len() == disks { Ok(()) } else { Err(format!("{files:?} of {disks} disks")) }
        });
        assert!(self.server.terminate().success());
        self.start(ROUNDS + 1);
    }
}
