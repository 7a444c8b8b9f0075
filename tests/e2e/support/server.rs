//! The real program: started on a free port and a directory of its own, killed when the test is over.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::curl::Curl;
use super::disk::{Disk, write_sparse};
use super::http::{Request, Response};
use super::{tools, wait};

/// The first administrator's password in every test.
pub const PASSWORD: &str = "correct horse: battery staple";

/// A directory that goes away with the test, on the disk where the build is: `/tmp` may be memory.
pub fn scratch() -> TempDir {
    tempfile::Builder::new()
        .prefix("e2e-")
        .tempdir_in(env!("CARGO_TARGET_TMPDIR"))
        .expect("a directory can be made")
}

/// A command line of the program, blind to the environment of whoever runs the tests.
pub fn gantry<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_gantry"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("GANTRY_") {
            command.env_remove(name);
        }
    }
    command.args(arguments).stdin(Stdio::null());
    command
}

/// Runs a command line of the program to its end.
pub fn gantry_run<S: AsRef<std::ffi::OsStr>>(arguments: impl IntoIterator<Item = S>) -> Output {
    gantry(arguments).output().expect("the program runs")
}

/// What a server is started with.
#[derive(Default)]
pub struct Setup {
    config: String,
    tls: bool,
    /// The size of a file system of its own for the data directory, in MiB.
    limited: Option<u64>,
}

impl Setup {
    /// Adds lines to the configuration file. `{scratch}` stands for the test's own directory.
    pub fn config(mut self, toml: &str) -> Self {
        self.config += toml;
        self.config.push('\n');
        self
    }

    /// Serves HTTPS, with a certificate that the server makes.
    pub fn self_signed(mut self) -> Self {
        self.tls = true;
        self.config("[tls]\nself_signed = true")
    }

    /// Serves HTTPS, with a certificate made for this test.
    pub fn tls(mut self) -> Self {
        self.tls = true;
        self
    }

    /// Gives the data directory a file system of its own, in memory, of so many MiB. Needs no rights but those of
    /// making a user namespace; where that is forbidden the test fails, because nothing else would tell.
    pub fn limited(mut self, mebibytes: u64) -> Self {
        self.limited = Some(mebibytes);
        self
    }

    /// Starts the server and waits until it says that it listens.
    pub fn start(self) -> Server {
        let scratch = scratch();
        let data = scratch.path().join("data");
        self.start_in(scratch, data)
    }

    /// Starts the server on a data directory that may hold something already.
    pub fn start_in(mut self, scratch: TempDir, data: PathBuf) -> Server {
        if self.tls && !self.config.contains("self_signed") {
            let (cert, key) = tools::certificate(scratch.path());
            self.config += &format!("[tls]\ncert = {cert:?}\nkey = {key:?}\n");
        }
        self.config = self.config.replace("{scratch}", &scratch.path().display().to_string());
        let config = scratch.path().join("gantry.toml");
        std::fs::write(&config, &self.config).expect("the configuration can be written");
        let mut server = Server {
            setup: self,
            child: None,
            address: SocketAddr::from(([127, 0, 0, 1], 0)),
            token: String::new(),
            sr: String::new(),
            config,
            served: data.clone(),
            data,
            scratch,
        };
        server.start_again();
        server.token = server.make_token();
        server.sr = server.find_local_sr();
        server
    }
}

/// A running server.
pub struct Server {
    setup: Setup,
    child: Option<Child>,
    address: SocketAddr,
    token: String,
    sr: String,
    config: PathBuf,
    /// The data directory as the server sees it.
    served: PathBuf,
    /// The same as the test sees it.
    data: PathBuf,
    scratch: TempDir,
}

impl Server {
    /// A server with the default configuration.
    pub fn start() -> Self {
        Setup::default().start()
    }

    /// Starts it on the same data directory after it was stopped or killed. The port is another.
    pub fn start_again(&mut self) {
        let line = self.spawn();
        let line = line
            .recv_timeout(Duration::from_secs(60))
            .unwrap_or_else(|_| panic!("it never said that it listens"));
        let scheme = if self.setup.tls { "https" } else { "http" };
        let address = line.strip_prefix(&format!("gantry listening on {scheme}://"));
        self.address =
            address.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("it said {line:?}"));
    }

    /// Starts it and kills it after so long a time, however far it has come.
    pub fn start_and_kill_after(&mut self, time: Duration) {
        drop(self.spawn());
        std::thread::sleep(time);
        self.kill();
    }

    /// Starts it; what it says on its output comes line by line.
    fn spawn(&mut self) -> mpsc::Receiver<String> {
        assert!(self.child.is_none(), "it still runs");
        let stderr =
            File::options().append(true).create(true).open(self.path("stderr")).expect("a log can be made");
        let serve = ["serve", "--listen", "127.0.0.1:0", "--config"];
        let mut command = match self.setup.limited {
            None => gantry(serve),
            Some(mebibytes) => tools::on_file_system_of(mebibytes, &self.served, gantry(serve)),
        };
        command.arg(&self.config).arg("--data").arg(&self.served).env("GANTRY_ADMIN_PASSWORD", PASSWORD);
        command.stdout(Stdio::piped()).stderr(stderr);
        let mut child = command.spawn().expect("the program runs");
        let stdout = child.stdout.take().expect("its output is piped");
        if self.setup.limited.is_some() {
            let below = self.served.strip_prefix("/").expect("it is absolute");
            self.data = Path::new("/proc").join(child.id().to_string()).join("root").join(below);
        }
        self.child = Some(child);
        let (told, line) = mpsc::channel();
        // Goes on reading to the end, so that the program never meets a closed pipe.
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let _ = told.send(line);
            }
        });
        line
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it can be killed");
            child.wait().expect("it can be waited for");
        }
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("it takes signals");
    }

    /// Waits until it has ended by itself.
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        let mut child = self.child.take().expect("it runs");
        let ended = wait::until(limit, || match child.try_wait() {
            Ok(Some(status)) => Ok(Some(status)),
            _ => Err("it still runs".to_owned()),
        });
        ended.expect("it ended")
    }

    /// SIGTERM, and the exit status after it.
    pub fn terminate(&mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait(Duration::from_secs(40))
    }

    fn pid(&self) -> Pid {
        Pid::from_child(self.child.as_ref().expect("it runs"))
    }

    /// The number of the process.
    pub fn process_id(&self) -> i32 {
        self.pid().as_raw_nonzero().get()
    }

    /// The time that processors have spent on it.
    pub fn processor_time(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.process_id())).expect("it runs");
        let fields: Vec<&str> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
        let ticks: u64 = fields[11..13].iter().map(|field| field.parse::<u64>().expect("a number")).sum();
        // Linux counts for its users in hundredths of a second, whatever its own clock.
        Duration::from_millis(ticks * 10)
    }

    /// A number from the process's status, in bytes: `VmRSS`, `VmHWM`.
    pub fn memory(&self, field: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid().as_raw_nonzero()))
            .expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("the field is there");
        let kib: u64 = line.trim_matches(|c: char| !c.is_ascii_digit()).parse().expect("a number");
        kib * 1024
    }

    /// Bytes that the process has read, from files above all.
    pub fn bytes_read(&self) -> u64 {
        let counts = std::fs::read_to_string(format!("/proc/{}/io", self.pid().as_raw_nonzero()))
            .expect("the system counts");
        let line = counts.lines().find_map(|line| line.strip_prefix("rchar: ")).expect("the field is there");
        line.parse().expect("a number")
    }

    /// The files that the process has open, by their names.
    pub fn open_files(&self) -> Vec<PathBuf> {
        let folder = format!("/proc/{}/fd", self.pid().as_raw_nonzero());
        let entries = std::fs::read_dir(folder).expect("it runs").flatten();
        entries.filter_map(|entry| std::fs::read_link(entry.path()).ok()).collect()
    }

    /// Writes another configuration file, as [`Setup::config`] does, and tells the server; waits until it has said in its
    /// log `what` came of it.
    #[track_caller]
    pub fn reload(&self, toml: &str, what: &str) {
        let seen = self.log().matches(what).count();
        std::fs::write(&self.config, toml).expect("the configuration can be written");
        self.signal(Signal::HUP);
        wait::until(Duration::from_secs(10), || match self.log().matches(what).count() {
            now if now > seen => Ok(()),
            _ => Err(format!("it has not said {what:?}")),
        });
    }

    /// What it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path("stderr")).unwrap_or_default()
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn data(&self) -> &Path {
        &self.data
    }

    pub fn token(&self) -> &str {
        &self.token
    }

    /// The id of the SR named `local`.
    pub fn sr(&self) -> &str {
        &self.sr
    }

    /// The directory of the SR named `local`.
    pub fn sr_folder(&self) -> PathBuf {
        self.data.join("srs").join(&self.sr)
    }

    /// A path in the test's own directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// The address of something, for programs.
    pub fn url(&self, target: &str) -> String {
        let scheme = if self.setup.tls { "https" } else { "http" };
        format!("{scheme}://{}{target}", self.address)
    }

    /// Makes a token of the administrator's by the command line.
    pub fn make_token(&self) -> String {
        let create = gantry(["token", "create", "--data"]);
        let mut command = match self.setup.limited {
            None => create,
            Some(_) => tools::where_it_runs(self.pid().as_raw_nonzero().get(), create),
        };
        let output = command.arg(&self.served).output().expect("the program runs");
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        assert!(output.status.success() && !text.is_empty(), "token create: {output:?}");
        text
    }

    fn find_local_sr(&self) -> String {
        let srs = if self.setup.tls {
            let done = Curl::new(self).run(&self.url("/rest/v0/srs?fields=id,name_label"));
            assert_eq!(done.status, 200, "{done:?}");
            done.json()
        } else {
            self.get("/rest/v0/srs?fields=id,name_label").expect(200).json()
        };
        let srs = srs.as_array().expect("an array").clone();
        let local = srs.iter().find(|sr| sr["name_label"] == "local").expect("an SR named local");
        local["id"].as_str().expect("an id").to_owned()
    }

    /// A request with the session's cookie.
    pub fn request(&self, method: &str, target: &str) -> Request {
        assert!(!self.setup.tls, "the tests' own client speaks no TLS: use curl");
        let cookie = format!("authenticationToken={}", self.token);
        Request::new(self.address, method, target).header("Cookie", &cookie)
    }

    /// GET with the session's cookie.
    pub fn get(&self, target: &str) -> Response {
        self.request("GET", target).send()
    }

    /// GET of an object or array that has to be there.
    #[track_caller]
    pub fn json(&self, target: &str) -> Value {
        self.get(target).expect(200).json()
    }

    /// Where disks are imported.
    pub fn import_target(&self, query: &str) -> String {
        format!("/rest/v0/srs/{}/vdis{query}", self.sr)
    }

    /// Imports an image with its length and returns the VDI's id.
    #[track_caller]
    pub fn import(&self, query: &str, image: impl Into<Vec<u8>>) -> String {
        created(&self.request("POST", &self.import_target(query)).body(image).send(), "vdis")
    }

    /// Imports a file by `curl -T` and returns the VDI's id.
    #[track_caller]
    pub fn import_file(&self, query: &str, file: &Path) -> String {
        let done = Curl::new(self).post_file(file).run(&self.url(&self.import_target(query)));
        assert_eq!((done.exit, done.status), (0, 201), "{done:?}");
        done.json()["id"].as_str().expect("an id").to_owned()
    }

    /// Imports a disk as raw with a virtual size of its own: only what comes before the last data is sent.
    #[track_caller]
    pub fn import_disk(&self, disk: &Disk) -> String {
        let end = disk.data().map(|(offset, length)| offset + length).max().unwrap_or(0);
        self.import(&format!("?raw&size={}", disk.size), disk.bytes(0, end))
    }

    /// Downloads an export into a file, leaving holes where it is zero.
    #[track_caller]
    pub fn export(&self, vdi: &str, format: &str, file: &Path) {
        let mut download = self.request("GET", &format!("/rest/v0/vdis/{vdi}.{format}")).open();
        assert_eq!(download.head.status, 200, "{:?}", download.head);
        let length = download.head.length();
        assert_eq!(write_sparse(&mut download, file), length, "the export's length");
    }

    /// The bytes of an export.
    #[track_caller]
    pub fn export_bytes(&self, vdi: &str, format: &str) -> Vec<u8> {
        self.get(&format!("/rest/v0/vdis/{vdi}.{format}")).expect(200).body
    }

    /// A part of an export, which has to be answered with 206.
    #[track_caller]
    pub fn slice(&self, vdi: &str, format: &str, offset: u64, length: u64) -> Vec<u8> {
        let range = format!("bytes={offset}-{}", offset + length - 1);
        self.request("GET", &format!("/rest/v0/vdis/{vdi}.{format}"))
            .header("Range", &range)
            .send()
            .expect(206)
            .body
    }

    /// The ids of all VDIs.
    #[track_caller]
    pub fn vdis(&self) -> Vec<String> {
        let links = self.json("/rest/v0/vdis");
        let link =
            |link: &Value| link.as_str().and_then(|text| text.rsplit('/').next()).expect("a link").to_owned();
        links.as_array().expect("an array").iter().map(link).collect()
    }

    /// Every file in the SR's directory that is a disk's or in the way of one: what an import may leave.
    pub fn disk_files(&self) -> Vec<PathBuf> {
        disk_files(&self.sr_folder())
    }

    /// Insists that the store holds nothing: no VDI, no disk's file, nothing in progress.
    #[track_caller]
    pub fn assert_empty(&self, after: &str) {
        assert_eq!(self.vdis(), Vec::<String>::new(), "VDIs left by {after}");
        wait::until(Duration::from_secs(10), || match self.disk_files() {
            files if files.is_empty() => Ok(()),
            files => Err(format!("left by {after}: {files:?}")),
        });
    }

    /// The record of a task.
    #[track_caller]
    pub fn task(&self, id: &str) -> Value {
        self.json(&format!("/rest/v0/tasks/{id}"))
    }

    /// Waits until a task is no longer pending and returns its record.
    #[track_caller]
    pub fn task_ended(&self, id: &str) -> Value {
        wait::until(Duration::from_secs(30), || {
            let task = self.task(id);
            if task["status"] == json!("pending") { Err(format!("task {task} is pending")) } else { Ok(task) }
        })
    }

    /// Waits until some task is as wished and returns its record.
    #[track_caller]
    pub fn wait_for_task(&self, is: impl Fn(&Value) -> bool) -> Value {
        wait::until(Duration::from_secs(30), || {
            let tasks = self.json("/rest/v0/tasks?fields=*");
            let found = tasks.as_array().and_then(|tasks| tasks.iter().find(|task| is(task)).cloned());
            found.ok_or_else(|| format!("no task is as wished: {tasks:#}"))
        })
    }

    /// Waits until a task is in one of the engine's states and returns its record.
    #[track_caller]
    pub fn task_in(&self, id: &str, states: &[&str]) -> Value {
        wait::until(Duration::from_secs(30), || {
            let task = self.task(id);
            let state = task["properties"]["state"].as_str().unwrap_or_default();
            if states.contains(&state) { Ok(task) } else { Err(format!("not {states:?}: {task}")) }
        })
    }

    /// Does something to a task.
    #[track_caller]
    pub fn act(&self, task: &str, action: &str) {
        self.request("POST", &format!("/rest/v0/tasks/{task}/actions/{action}?sync")).send().expect(204);
    }

    /// Runs a download by curl and returns what came of it.
    pub fn curl(&self) -> Curl {
        Curl::new(self)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let ended = self.child.as_mut().and_then(|child| child.try_wait().ok().flatten());
        self.kill();
        if std::thread::panicking() {
            if let Some(status) = ended {
                eprintln!("the server had ended by itself: {status}");
            }
            let log = self.log();
            let skip = log.lines().count().saturating_sub(30);
            eprintln!("the server's last words:");
            log.lines().skip(skip).for_each(|line| eprintln!("    {line}"));
        }
    }
}

/// Insists on 201 with `Location` and `{"id"}` that agree, and returns the id.
#[track_caller]
pub fn created(response: &Response, collection: &str) -> String {
    assert_eq!(response.head.status, 201, "{}", response.text());
    let id = response.json()["id"].as_str().expect("an id").to_owned();
    assert_eq!(response.head.need("Location"), format!("/rest/v0/{collection}/{id}"));
    id
}

/// Every file under a folder, at any depth.
pub fn files_under(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    files.sort();
    files
}

/// As [`Server::disk_files`], for any SR's directory: all but what Gantry keeps about the SR itself.
pub fn disk_files(folder: &Path) -> Vec<PathBuf> {
    let own = folder.join(".gantry");
    let about_disks = |file: &PathBuf| match file.strip_prefix(&own) {
        Ok(inside) => inside.starts_with("work") || inside.starts_with("pinned"),
        Err(_) => true,
    };
    files_under(folder).into_iter().filter(about_disks).collect()
}
