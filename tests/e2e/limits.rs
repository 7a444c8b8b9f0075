//! How many transfers run at once and how fast, who waits, and what waiting looks like.

use std::io::Read;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::MIB;
use crate::support::disk::noise;
use crate::support::http::{Download, Request, Upload};
use crate::support::server::{Server, Setup, created, gantry};
use crate::support::wait;

/// More than the systems between hold on their way, so that a transfer lasts for as long as its client wishes.
const LEN: usize = 24 << 20;
const TAKEN_OVER: &str = "limits were taken over";

fn pass(time: Duration) {
    std::thread::sleep(time);
}

fn raw(vdi: &str) -> String {
    format!("/rest/v0/vdis/{vdi}.raw")
}

fn begin(server: &Server, vdi: &str) -> (Download, String) {
    let download = server.request("GET", &raw(vdi)).open();
    assert_eq!(download.head.status, 200, "{:?}", download.head);
    let task = download.head.need("Gantry-Task").to_owned();
    (download, task)
}

/// Asks for a whole download without waiting for the answer.
fn ask(server: &Server, vdi: &str) -> Upload {
    server.request("GET", &raw(vdi)).begin(None)
}

/// The same, and waits until it is queued behind `before` others. Returns its task.
fn ask_queued(server: &Server, vdi: &str, before: usize) -> (Upload, String) {
    let asked = ask(server, vdi);
    let task = wait::until(Duration::from_secs(10), || {
        let queued = in_state(server, "queued");
        match queued.last() {
            Some(last) if queued.len() == before + 1 => Ok(id(last)),
            _ => Err(format!("queued: {queued:?}")),
        }
    });
    (asked, task)
}

fn id(task: &Value) -> String {
    task["id"].as_str().expect("an id").to_owned()
}

/// All tasks in one of the engine's states, oldest first.
fn in_state(server: &Server, state: &str) -> Vec<Value> {
    let tasks = server.json("/rest/v0/tasks?fields=*");
    let tasks = tasks.as_array().expect("an array").clone();
    tasks.into_iter().filter(|task| task["properties"]["state"] == state).collect()
}

/// Insists that nothing of an answer comes for a while.
#[track_caller]
fn assert_silent(asked: &Upload) {
    asked.stream.set_read_timeout(Some(Duration::from_millis(400))).expect("it can be set");
    let error =
        (&asked.stream).read(&mut [0]).map(|got| assert_eq!(got, 1, "it was cut")).expect_err("no head yet");
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock, "{error}");
    asked.stream.set_read_timeout(Some(Duration::from_secs(60))).expect("it can be set");
}

/// A request function for a new user, who may move disks.
fn user(server: &Server, name: &str) -> impl Fn(&str, &str) -> Request {
    let run = |words: &[&str]| {
        let output = gantry(words).arg("--data").arg(server.data()).output().expect("the program runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    };
    run(&["user", "add", name, "--role", "operator"]);
    let cookie = format!("authenticationToken={}", run(&["token", "create", "--user", name]));
    let address = server.address();
    move |method, target| Request::new(address, method, target).header("Cookie", &cookie)
}

/// A second SR.
fn another_sr(server: &Server) -> String {
    let path = server.path("roots/other");
    std::fs::create_dir_all(&path).expect("it can be made");
    let body = json!({"name_label": "other", "path": path});
    created(&server.request("POST", "/rest/v0/srs").json(&body).send(), "srs")
}

fn import_into(server: &Server, sr: &str, content: Vec<u8>) -> String {
    created(&server.request("POST", &format!("/rest/v0/srs/{sr}/vdis?raw")).body(content).send(), "vdis")
}

#[test]
fn a_download_that_waits_sends_no_head_says_why_and_gets_in_when_another_ends() {
    let server =
        Setup::default().config("[limits]\nconcurrent = 1\n[transfers]\nqueue_wait = \"60s\"").start();
    let content = noise(LEN, 1);
    let vdi = server.import("?raw", content.clone());
    let (first, _) = begin(&server, &vdi);
    let (second, waits) = ask_queued(&server, &vdi, 0);
    let (third, last) = ask_queued(&server, &vdi, 1);
    assert_silent(&second);
    for (task, place) in [(&waits, 1), (&last, 2)] {
        let record = server.task(task);
        let properties = &record["properties"];
        assert_eq!(
            (&record["status"], &properties["state"]),
            (&json!("pending"), &json!("queued")),
            "{record}"
        );
        assert_eq!(properties["place"], place, "{record}");
        assert!(properties["waiting"].as_str().is_some_and(|why| why.contains('1')), "{record}");
        assert!(record["start"].is_u64() && properties.get("startedAt").is_none(), "{record}");
    }
    assert_eq!(in_state(&server, "running").len(), 1);
    drop(first);
    let second = second.answer();
    assert_eq!(second.head.need("Gantry-Task"), waits);
    assert!(second.rest().expect("it goes on to its end") == content);
    let third = third.answer();
    assert_eq!(third.head.need("Gantry-Task"), last);
    assert!(third.rest().expect("it goes on to its end") == content);
    let record = server.task_ended(&last);
    assert_eq!(record["status"], "success", "{record}");
    assert!(record["properties"]["startedAt"].as_u64() > record["start"].as_u64(), "{record}");
    assert!(
        record["properties"].get("waiting").is_none() && record["properties"].get("place").is_none(),
        "{record}"
    );
}

#[test]
fn who_waits_in_vain_is_told_his_place_and_when_to_ask_again() {
    let server =
        Setup::default().config("[limits]\nconcurrent = 1\n[transfers]\nqueue_wait = \"1s\"").start();
    let vdi = server.import("?raw", noise(LEN, 2));
    let (_first, _) = begin(&server, &vdi);
    let requests: [Request; 2] = [
        server.request("GET", &raw(&vdi)),
        server.request("POST", &server.import_target("?raw")).body(noise(512, 1)),
    ];
    for request in requests {
        let asked = Instant::now();
        let response = request.send().expect(503);
        assert!((900..5000).contains(&asked.elapsed().as_millis()), "after {:?}", asked.elapsed());
        assert!(response.head.need("Retry-After").parse::<u64>().expect("seconds") > 0);
        let refusal = response.refused(503..=503);
        assert_eq!(refusal.body["data"]["place"], 1, "{}", refusal.body);
        assert!(refusal.text.contains("place 1"), "{}", refusal.text);
        let record = server.task_ended(response.head.need("Gantry-Task"));
        assert_eq!(
            (&record["status"], &record["result"]["code"]),
            (&json!("failure"), &json!("queue_wait")),
            "{record}"
        );
    }
    assert_eq!(in_state(&server, "queued"), Vec::<Value>::new());
    assert_eq!(server.disk_files().len(), 1, "{:?}", server.disk_files());
}

#[test]
fn parallel_requests_for_one_transfer_that_waits_are_one_task_and_all_are_answered_in_time() {
    let server =
        Setup::default().config("[limits]\nconcurrent = 1\n[transfers]\nqueue_wait = \"2s\"").start();
    let content = noise(LEN, 3);
    let vdi = server.import("?raw", content.clone());
    let other = server.import("?raw", noise(LEN, 4));
    let (first, _) = begin(&server, &other);
    let part = |number: usize| {
        let from = number * LEN / 4;
        let range = format!("bytes={from}-{}", from + LEN / 4 - 1);
        server.request("GET", &raw(&vdi)).header("Range", &range).begin(None)
    };
    let asked = Instant::now();
    let waiting: Vec<Upload> = (0..4).map(part).collect();
    for asking in waiting {
        assert_eq!(asking.answer().head.status, 503);
    }
    assert!(asked.elapsed() < Duration::from_secs(5), "the last was answered after {:?}", asked.elapsed());
    let failed = in_state(&server, "failure");
    assert_eq!(failed.len(), 1, "{failed:?}");

    let waiting: Vec<Upload> = (0..4).map(part).collect();
    let task = id(&server.wait_for_task(|task| task["properties"]["state"] == "queued"));
    drop(first);
    for (number, asking) in waiting.into_iter().enumerate() {
        let answer = asking.answer();
        assert_eq!((answer.head.status, answer.head.need("Gantry-Task")), (206, task.as_str()));
        let from = number * LEN / 4;
        assert!(answer.rest().expect("it goes on to its end") == content[from..from + LEN / 4]);
    }
    let record = server.task_ended(&task);
    assert_eq!(
        (&record["status"], &record["properties"]["bytes"]),
        (&json!("success"), &json!(LEN)),
        "{record}"
    );
}

#[test]
fn who_hangs_up_while_he_waits_leaves_the_queue_at_once() {
    let server =
        Setup::default().config("[limits]\nconcurrent = 1\n[transfers]\nqueue_wait = \"60s\"").start();
    let vdi = server.import("?raw", noise(LEN, 5));
    let (first, _) = begin(&server, &vdi);
    let (second, gone) = ask_queued(&server, &vdi, 0);
    let (third, next) = ask_queued(&server, &vdi, 1);
    let left = Instant::now();
    drop(second);
    let record = server.task_ended(&gone);
    assert!(left.elapsed() < Duration::from_secs(2), "after {:?}", left.elapsed());
    assert_eq!(
        (&record["status"], &record["result"]["code"]),
        (&json!("failure"), &json!("client_gone")),
        "{record}"
    );
    assert_eq!(server.task(&next)["properties"]["place"], 1);
    drop(first);
    let third = third.answer();
    assert_eq!((third.head.status, third.head.need("Gantry-Task")), (200, next.as_str()));
}

/// Starts eight downloads, four of each disk, two of each by another user, and says how many at most ran at once by
/// what was observed until all had ended.
fn most_at_once(server: &Server, disks: [&str; 2], count: impl Fn(&[Value]) -> usize + Send + Sync) -> usize {
    let other = user(server, "other");
    let done = AtomicBool::new(false);
    let mut most = 0;
    std::thread::scope(|scope| {
        let downloads: Vec<_> = (0..8)
            .map(|number| {
                let target = raw(disks[number % 2]);
                let request =
                    if number % 4 < 2 { server.request("GET", &target) } else { other("GET", &target) };
                scope.spawn(move || {
                    let mut download = request.open();
                    assert_eq!(download.head.status, 200, "{:?}", download.head);
                    download.take_bytes(1000);
                    // It has its place for long enough to be seen.
                    pass(Duration::from_millis(250));
                    assert_eq!(download.rest().expect("it goes on").len(), LEN - 1000);
                })
            })
            .collect();
        let done = &done;
        let looking = scope.spawn(move || {
            let mut most = 0;
            while !done.load(Ordering::Relaxed) {
                most = most.max(count(&in_state(server, "running")));
            }
            most
        });
        downloads.into_iter().for_each(|download| download.join().expect("it ends well"));
        done.store(true, Ordering::Relaxed);
        most = looking.join().expect("it looks");
    });
    most
}

/// How many of the tasks have the most frequent value of a property.
fn largest_group(tasks: &[Value], of: impl Fn(&Value) -> String) -> usize {
    let mut counts = std::collections::HashMap::new();
    tasks.iter().for_each(|task| *counts.entry(of(task)).or_insert(0) += 1);
    counts.into_values().max().unwrap_or(0)
}

fn property(name: &'static str) -> impl Fn(&Value) -> String {
    move |task| task["properties"][name].as_str().expect("a text").to_owned()
}

#[test]
fn never_more_run_at_once_than_each_limit_allows_and_as_many_as_it_does() {
    let waits = "[transfers]\nqueue_wait = \"60s\"\n[storage]\nsr_roots = [\"{scratch}/roots\"]\n";
    let server = Setup::default().config(waits).start();
    let sr = another_sr(&server);
    let content = noise(LEN, 6);
    let (here, there) = (server.import("?raw", content.clone()), import_into(&server, &sr, content));
    let disks = [here.as_str(), there.as_str()];
    let limit = |limit: &str| server.reload(&format!("[limits]\n{limit}\n"), TAKEN_OVER);
    limit("concurrent = 3");
    assert_eq!(most_at_once(&server, disks, <[Value]>::len), 3, "concurrent");
    limit("per_backend = 2");
    let of_users = |tasks: &[Value]| largest_group(tasks, property("userId"));
    // The user is there already.
    let again = |count: &(dyn Fn(&[Value]) -> usize + Sync)| {
        gantry(["user", "remove", "other", "--data"]).arg(server.data()).output().expect("the program runs");
        most_at_once(&server, disks, count)
    };
    assert_eq!(again(&<[Value]>::len), 2, "per_backend");
    limit("per_sr = 1");
    // Each disk is the only one of its SR.
    assert_eq!(again(&|tasks| largest_group(tasks, property("objectId"))), 1, "per_sr");
    limit("per_user = 1");
    assert_eq!(again(&of_users), 1, "per_user");
    limit("per_user = 2");
    assert_eq!(again(&<[Value]>::len), 4, "two of each of two users");
}

#[test]
fn by_default_128_downloads_of_one_disk_run_at_once() {
    let server = Server::start();
    let vdi = server.import("?raw", noise(LEN, 7));
    let downloads: Vec<_> = (0..128).map(|_| begin(&server, &vdi)).collect();
    assert_eq!(in_state(&server, "running").len(), downloads.len());
}

#[test]
fn users_take_turns_however_many_requests_one_of_them_has() {
    let server =
        Setup::default().config("[limits]\nconcurrent = 1\n[transfers]\nqueue_wait = \"60s\"").start();
    let vdi = server.import("?raw", noise(LEN, 8));
    let other = user(&server, "other");
    let (first, _) = begin(&server, &vdi);
    let mine: Vec<_> = (0..4).map(|number| ask_queued(&server, &vdi, number)).collect();
    let theirs = other("GET", &raw(&vdi)).begin(None);
    let task = wait::until(Duration::from_secs(10), || {
        let queued = in_state(&server, "queued");
        if queued.len() == 5 { Ok(queued) } else { Err(format!("queued: {queued:?}")) }
    });
    let last = task.last().expect("the fifth");
    assert_eq!(last["properties"]["place"], 1, "who had nothing yet is before the other's four: {last}");
    drop(first);
    let answer = theirs.answer();
    assert_eq!((answer.head.status, answer.head.need("Gantry-Task")), (200, id(last).as_str()));
    drop((answer, mine));
}

#[test]
fn priority_changes_who_is_next() {
    let server =
        Setup::default().config("[limits]\nconcurrent = 1\n[transfers]\nqueue_wait = \"60s\"").start();
    let vdi = server.import("?raw", noise(LEN, 9));
    let (first, _) = begin(&server, &vdi);
    let queued: Vec<_> = (0..3).map(|number| ask_queued(&server, &vdi, number)).collect();
    let set = |task: &str, priority: i32| {
        let change = json!({"priority": priority});
        server.request("PATCH", &format!("/rest/v0/tasks/{task}")).json(&change).send().expect(204);
    };
    set(&queued[2].1, 5);
    set(&queued[0].1, -5);
    let places = || {
        let place = |(_, task): &(Upload, String)| server.task(task)["properties"]["place"].as_u64();
        queued.iter().map(place).collect::<Vec<_>>()
    };
    assert_eq!(places(), [Some(3), Some(2), Some(1)]);
    drop(first);
    let mut queued = queued;
    let (last, task) = queued.pop().expect("three");
    let last = last.answer();
    assert_eq!((last.head.status, last.head.need("Gantry-Task")), (200, task.as_str()));
}

#[test]
fn what_is_paused_leaves_its_place_to_another_and_waits_for_one_when_it_is_resumed() {
    let server =
        Setup::default().config("[limits]\nconcurrent = 1\n[transfers]\nqueue_wait = \"60s\"").start();
    let content = noise(LEN, 10);
    let vdi = server.import("?raw", content.clone());
    let (first, task) = begin(&server, &vdi);
    let (second, waits) = ask_queued(&server, &vdi, 0);
    server.act(&task, "pause");
    let second = second.answer();
    assert_eq!(second.head.need("Gantry-Task"), waits);
    server.act(&task, "resume");
    let record = server.task_in(&task, &["queued"]);
    assert_eq!(record["properties"]["place"], 1, "{record}");
    assert!(second.rest().expect("it goes on to its end") == content);
    assert!(first.rest().expect("it goes on to its end") == content);
    assert_eq!(server.task_ended(&task)["status"], "success");
}

/// Reads downloads at once and measures how fast they come together, after the first second.
#[track_caller]
fn assert_rate_of(downloads: Vec<Download>, rate: u64) {
    let counted = AtomicU64::new(0);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for mut download in downloads {
            let (counted, done) = (&counted, &done);
            scope.spawn(move || {
                let mut piece = vec![0; 64 << 10];
                while !done.load(Ordering::Relaxed) {
                    let got = download.read(&mut piece).expect("it goes on");
                    counted.fetch_add(got as u64, Ordering::Relaxed);
                }
            });
        }
        pass(Duration::from_secs(1));
        let (before, began) = (counted.load(Ordering::Relaxed), Instant::now());
        pass(Duration::from_secs(3));
        let ratio =
            (counted.load(Ordering::Relaxed) - before) as f64 / began.elapsed().as_secs_f64() / rate as f64;
        done.store(true, Ordering::Relaxed);
        println!("{ratio:.3} of {rate} bytes a second");
        assert!((0.95..=1.05).contains(&ratio), "{ratio:.3} of {rate} bytes a second");
    });
}

#[test]
fn the_bandwidth_of_all_and_of_one_sr_holds_for_several_at_once() {
    let roots = "[storage]\nsr_roots = [\"{scratch}/roots\"]";
    let server = Setup::default().config(roots).start();
    let sr = another_sr(&server);
    let content = noise(LEN, 11);
    let (here, there) = (server.import("?raw", content.clone()), import_into(&server, &sr, content));
    let several = |disks: &[&str]| disks.iter().map(|vdi| begin(&server, vdi).0).collect::<Vec<_>>();
    let (here, there) = (here.as_str(), there.as_str());
    server.reload("[limits]\nbandwidth = \"4MiB\"", TAKEN_OVER);
    assert_rate_of(several(&[here, here, there, there]), 4 * MIB);
    server.reload("[limits]\nbandwidth_per_sr = \"2MiB\"", TAKEN_OVER);
    assert_rate_of(several(&[here, here, here]), 2 * MIB);
    assert_rate_of(several(&[here, here, there]), 4 * MIB);
}

#[test]
fn sighup_takes_limits_over_for_who_runs_and_who_waits_and_a_bad_file_changes_nothing() {
    let server = Setup::default().config("[limits]\nconcurrent = 1").start();
    let vdi = server.import("?raw", noise(2 * LEN, 12));
    let (first, _) = begin(&server, &vdi);
    let (second, waits) = ask_queued(&server, &vdi, 0);
    for bad in
        ["[limits]\nconcurrent = 2\nper_ser = 1", "[limits]\nconcurrent = 2\nbandwidth = \"fast\"", "[limits"]
    {
        server.reload(bad, "nothing was changed");
        assert_eq!(server.task(&waits)["properties"]["state"], "queued", "{bad}");
    }
    server.reload("[limits]\nconcurrent = 2\nbandwidth = \"4MiB\"", TAKEN_OVER);
    let second = second.answer();
    assert_eq!(second.head.need("Gantry-Task"), waits);
    let (third, last) = ask_queued(&server, &vdi, 0);
    assert_rate_of(vec![first, second], 4 * MIB);
    let third = third.answer();
    assert_eq!((third.head.status, third.head.need("Gantry-Task")), (200, last.as_str()));
    // It did not take the signal for another one.
    server.signal(Signal::HUP);
    server.get("/rest/v0/ping").expect(200);
}
