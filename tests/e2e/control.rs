//! Transfers under control: paused, resumed, aborted, given other rates.

use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::MIB;
use crate::support::disk::noise;
use crate::support::http::{Download, Response, Upload};
use crate::support::server::{Server, Setup};
use crate::support::wait;

/// More than the systems between hold on their way, so that a transfer can be stopped in the middle.
pub(super) const LEN: usize = 32 << 20;
/// Shorter than the times for which these tests pause.
const IDLE: &str = "[transfers]\ndownload_idle = \"1s\"\nupload_idle = \"1s\"\nqueue_wait = \"1s\"";

/// Lets time pass in which nothing may happen.
fn pass(time: Duration) {
    std::thread::sleep(time);
}

pub(super) fn raw(vdi: &str) -> String {
    format!("/rest/v0/vdis/{vdi}.raw")
}

/// Begins a download with small buffers on its way; returns it with its task.
pub(super) fn begin(server: &Server, target: &str) -> (Download, String) {
    let download = server.request("GET", target).open();
    assert_eq!(download.head.status, 200, "{:?}", download.head);
    rustix::net::sockopt::set_socket_recv_buffer_size(download.socket(), 64 << 10).expect("it can be set");
    let task = download.head.need("Gantry-Task").to_owned();
    (download, task)
}

/// Reads what comes until nothing has for `quiet`.
pub(super) fn drain(download: &mut Download, quiet: Duration) -> Vec<u8> {
    download.socket().set_read_timeout(Some(quiet)).expect("it can be set");
    let mut all = Vec::new();
    let mut piece = vec![0; 256 << 10];
    loop {
        match download.read(&mut piece) {
            Ok(0) => panic!("the answer ended"),
            Ok(got) => all.extend_from_slice(&piece[..got]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) => panic!("the answer was cut after {} bytes: {error}", all.len()),
        }
    }
    download.socket().set_read_timeout(Some(Duration::from_secs(60))).expect("it can be set");
    all
}

fn patch(server: &Server, task: &str, change: &Value) -> Response {
    server.request("PATCH", &format!("/rest/v0/tasks/{task}")).json(change).send()
}

pub(super) fn bytes_of(task: &Value) -> u64 {
    task["properties"]["bytes"].as_u64().expect("a number")
}

pub(super) fn of_type<'a>(kind: &'a str, state: &'a str) -> impl Fn(&Value) -> bool + 'a {
    move |task| task["properties"]["type"] == kind && task["properties"]["state"] == state
}

pub(super) fn id(task: &Value) -> String {
    task["id"].as_str().expect("an id").to_owned()
}

/// Aborts a task and insists on what an abort promises, but for what its client sees.
#[track_caller]
fn assert_aborted(server: &Server, task: &str) {
    let began = Instant::now();
    server.request("POST", &format!("/rest/v0/tasks/{task}/actions/abort")).send().expect(202);
    let left = |began: Instant| Duration::from_secs(2).saturating_sub(began.elapsed());
    let record = wait::until(left(began), || {
        let record = server.task(task);
        if record["status"] == "pending" { Err(record.to_string()) } else { Ok(record) }
    });
    assert_eq!(
        (&record["status"], &record["result"]["code"]),
        (&json!("failure"), &json!("aborted")),
        "{record}"
    );
    assert_eq!(record["properties"]["state"], "aborted", "{record}");
    assert!(record["abortionRequestedAt"].as_u64() >= record["start"].as_u64(), "{record}");
    assert!(record["abortionRequestedAt"].is_u64() && record["end"].is_u64(), "{record}");
    let folder = server.sr_folder();
    wait::until(left(began).max(Duration::from_millis(500)), || {
        let own = folder.join(".gantry");
        let left: Vec<_> = server.disk_files().into_iter().filter(|file| file.starts_with(&own)).collect();
        let disk = |file: &std::path::PathBuf| {
            let name = file.strip_prefix(&folder).unwrap_or("".as_ref()).to_string_lossy();
            !name.is_empty() && (name.contains(".raw") || name.contains(".vhd") || name.contains("/work/"))
        };
        let open: Vec<_> = server.open_files().into_iter().filter(disk).collect();
        if left.is_empty() && open.is_empty() { Ok(()) } else { Err(format!("left {left:?}, open {open:?}")) }
    });
}

/// Begins an upload of [`LEN`] bytes and sends the first half; returns it with its task once bytes have arrived.
pub(super) fn begin_upload(server: &Server, chunked: bool, content: &[u8]) -> (Upload, String) {
    let request = server.request("POST", &server.import_target("?raw"));
    let mut upload =
        if chunked { request.begin_chunked() } else { request.begin(Some(content.len() as u64)) };
    send(&mut upload, chunked, &content[..content.len() / 2]);
    let half = content.len() as u64 / 2;
    let task = server.wait_for_task(|task| of_type("vdi.import", "running")(task) && bytes_of(task) == half);
    (upload, id(&task))
}

fn send(upload: &mut Upload, chunked: bool, bytes: &[u8]) {
    if chunked {
        bytes.chunks(100_000).try_for_each(|chunk| upload.chunk(chunk))
    } else {
        upload.write(bytes)
    }
    .expect("it takes it");
}

#[test]
fn a_paused_download_stops_is_not_cut_and_goes_on_to_the_right_bytes() {
    let server = Setup::default().config(IDLE).start();
    let content = noise(LEN, 1);
    let vdi = server.import("?raw", content.clone());
    let (mut download, task) = begin(&server, &raw(&vdi));
    let mut got = download.take_bytes(MIB);
    server.act(&task, "pause");
    let paused = Instant::now();
    let quiet = Duration::from_millis(700);
    got.extend(drain(&mut download, quiet));
    assert!(paused.elapsed() - quiet < Duration::from_secs(2), "bytes came for {:?}", paused.elapsed());
    assert!(got.len() < LEN, "it stops in the middle");
    let before = server.task(&task);
    let properties = &before["properties"];
    assert_eq!((&before["status"], &properties["state"]), (&json!("pending"), &json!("paused")), "{before}");
    assert_eq!(properties["waiting"], "it is paused", "{before}");
    assert!(properties.get("stage").is_none() && properties.get("stalled").is_none(), "{before}");
    assert_eq!(drain(&mut download, Duration::from_secs(2)).len(), 0, "for twice the silence nothing comes");
    assert_eq!(bytes_of(&server.task(&task)), bytes_of(&before));
    server.act(&task, "resume");
    got.extend(download.rest().expect("it goes on to its end"));
    assert!(got == content);
    assert_eq!(server.task_ended(&task)["status"], "success");
    let refusal =
        server.request("POST", &format!("/rest/v0/tasks/{task}/actions/pause")).send().refused(409..=409);
    assert_eq!(refusal.body["data"]["actual"], "success", "{}", refusal.body);
}

#[test]
fn a_client_that_does_not_read_while_its_download_is_paused_is_not_cut_either() {
    let server = Setup::default().config(IDLE).start();
    let content = noise(LEN, 2);
    let vdi = server.import("?raw", content.clone());
    let (mut download, task) = begin(&server, &raw(&vdi));
    let mut got = download.take_bytes(1000);
    server.act(&task, "pause");
    pass(Duration::from_millis(2500));
    assert_eq!(server.task(&task)["properties"]["state"], "paused");
    server.act(&task, "resume");
    got.extend(download.rest().expect("it goes on to its end"));
    assert!(got == content);
    assert_eq!(server.task_ended(&task)["status"], "success");
}

#[test]
fn what_was_read_ahead_is_given_back_by_a_pause() {
    let server = Server::start();
    let content = noise(LEN, 3);
    let vdi = server.import("?raw", content.clone());
    let (mut download, task) = begin(&server, &raw(&vdi));
    let mut got = download.take_bytes(1000);
    // Held to a rate it has always read ahead what it may, and its client asks for more all the time.
    patch(&server, &task, &json!({"bandwidth": MIB})).expect(204);
    got.extend(drain(&mut download, Duration::from_millis(20)));
    server.act(&task, "pause");
    got.extend(drain(&mut download, Duration::from_millis(700)));
    let before = server.bytes_read();
    server.act(&task, "resume");
    patch(&server, &task, &json!({"bandwidth": null})).expect(204);
    let missing = LEN - got.len();
    got.extend(download.rest().expect("it goes on to its end"));
    let read = server.bytes_read() - before;
    assert!(got == content);
    // One chunk is in the hands of the connection, and is not read again.
    assert!(read >= missing as u64 - 3 * MIB, "{read} bytes were read for the {missing} that were missing");
}

#[test]
fn a_paused_upload_is_not_cut_for_its_silence_and_becomes_the_right_disk() {
    let server = Setup::default().config(IDLE).start();
    let content = noise(LEN, 4);
    for chunked in [false, true] {
        let (mut upload, task) = begin_upload(&server, chunked, &content);
        server.act(&task, "pause");
        let (quarter, rest) = content[LEN / 2..].split_at(100_000);
        // The client is silent for longer than it may be, but not of its own will.
        send(&mut upload, chunked, quarter);
        pass(Duration::from_millis(1800));
        let record = server.task(&task);
        assert_eq!(record["properties"]["state"], "paused", "{record}");
        assert_eq!(bytes_of(&record), LEN as u64 / 2, "{record}");
        server.act(&task, "resume");
        send(&mut upload, chunked, rest);
        if chunked {
            upload.last_chunk().expect("it takes it");
        }
        let mut answer = upload.answer();
        assert_eq!(answer.head.status, 201, "{:?}", answer.head);
        let mut body = Vec::new();
        answer.read_to_end(&mut body).expect("a whole answer");
        let body: Value = serde_json::from_slice(&body).expect("JSON");
        assert!(server.export_bytes(body["id"].as_str().expect("an id"), "raw") == content);
        assert_eq!(server.task_ended(&task)["status"], "success");
    }
}

#[test]
fn an_upload_that_is_silent_after_its_pause_is_cut_after_all() {
    let server = Setup::default().config(IDLE).start();
    let content = noise(MIB as usize, 4);
    let (upload, task) = begin_upload(&server, false, &content);
    server.act(&task, "pause");
    server.act(&task, "resume");
    let record = server.task_ended(&task);
    assert_eq!(record["result"]["code"], "upload_silent", "{record}");
    assert_eq!(upload.answer().head.status, 408);
    server.assert_empty("a silent upload");
}

#[test]
fn a_queued_download_that_is_paused_does_not_begin() {
    let limits = "[limits]\nconcurrent = 1\n[transfers]\nqueue_wait = \"60s\"";
    let server = Setup::default().config(limits).start();
    let content = noise(LEN, 5);
    let vdi = server.import("?raw", content.clone());
    let (first, running) = begin(&server, &raw(&vdi));
    let second = server.request("GET", &raw(&vdi)).begin(None);
    let queued = id(&server.wait_for_task(of_type("vdi.export", "queued")));
    server.act(&queued, "pause");
    assert!(first.rest().expect("the first goes on") == content);
    assert_eq!(server.task_ended(&running)["status"], "success");
    pass(Duration::from_millis(500));
    let record = server.task(&queued);
    assert_eq!(record["properties"]["state"], "paused", "{record}");
    assert!(record["properties"].get("startedAt").is_none(), "{record}");
    server.act(&queued, "resume");
    let answer = second.answer();
    assert_eq!((answer.head.status, answer.head.need("Gantry-Task")), (200, queued.as_str()));
    assert!(answer.rest().expect("it goes on to its end") == content);
    let record = server.task_ended(&queued);
    assert!(record["properties"]["startedAt"].as_u64() > record["start"].as_u64(), "{record}");
}

#[test]
fn a_growth_can_be_paused_and_goes_on() {
    let server = Server::start();
    let content = noise(8 << 20, 6);
    let vdi = server.import("?raw", content.clone());
    server.reload("[limits]\nbandwidth = \"2MiB\"", "limits were taken over");
    let size = content.len() as u64 + MIB;
    std::thread::scope(|scope| {
        let grown = scope.spawn(|| {
            server.request("PATCH", &format!("/rest/v0/vdis/{vdi}")).json(&json!({"size": size})).send()
        });
        let task =
            id(&server.wait_for_task(|task| of_type("vdi.grow", "running")(task) && bytes_of(task) > 0));
        server.act(&task, "pause");
        pass(Duration::from_millis(200));
        let before = server.task(&task);
        assert_eq!(before["properties"]["state"], "paused", "{before}");
        pass(Duration::from_millis(600));
        assert_eq!(bytes_of(&server.task(&task)), bytes_of(&before));
        server.act(&task, "resume");
        server.reload("", "limits were taken over");
        grown.join().expect("it is answered").expect(204);
        assert_eq!(server.task_ended(&task)["status"], "success");
    });
    let mut grown = content;
    grown.resize(size as usize, 0);
    assert!(server.export_bytes(&vdi, "raw") == grown);
}

#[test]
fn an_abort_ends_a_download_that_runs_or_is_paused_and_cuts_its_client() {
    let server = Server::start();
    let vdi = server.import("?raw", noise(LEN, 11));
    for paused in [false, true] {
        let (mut download, task) = begin(&server, &raw(&vdi));
        download.take_bytes(1000);
        if paused {
            server.act(&task, "pause");
        }
        assert_aborted(&server, &task);
        let error = download.rest().expect_err("it is cut");
        assert_ne!(error.kind(), io::ErrorKind::WouldBlock, "{error}");
    }
}

#[test]
fn an_abort_ends_a_download_whose_client_has_gone() {
    let server = Server::start();
    let content = noise(LEN, 12);
    let vdi = server.import("?raw", content.clone());
    let (mut download, task) = begin(&server, &raw(&vdi));
    download.take_bytes(1000);
    drop(download);
    server.task_in(&task, &["detached"]);
    server.request("PUT", &raw(&vdi)).body(noise(LEN, 13)).send().expect(204);
    assert!(server.disk_files().len() == 2, "the old content is kept for it: {:?}", server.disk_files());
    assert_aborted(&server, &task);
}

#[test]
fn an_abort_ends_a_download_that_waits_for_its_client_after_a_restart() {
    let mut server = Setup::default().config("[transfers]\ndrain = \"1s\"").start();
    let vdi = server.import("?raw", noise(LEN, 14));
    let (mut download, task) = begin(&server, &raw(&vdi));
    download.take_bytes(1000);
    assert_eq!(server.terminate().code(), Some(0));
    server.start_again();
    server.task_in(&task, &["recovering"]);
    assert_aborted(&server, &task);
}

#[test]
fn an_abort_ends_what_is_queued_and_its_client_is_told() {
    let limits = "[limits]\nconcurrent = 1\n[transfers]\nqueue_wait = \"60s\"";
    let server = Setup::default().config(limits).start();
    let vdi = server.import("?raw", noise(LEN, 15));
    let (_first, running) = begin(&server, &raw(&vdi));
    let download = server.request("GET", &raw(&vdi)).begin(None);
    let upload = server.request("POST", &server.import_target("?raw")).begin(Some(512));
    for (kind, client) in [("vdi.export", download), ("vdi.import", upload)] {
        let queued = id(&server.wait_for_task(of_type(kind, "queued")));
        server.request("POST", &format!("/rest/v0/tasks/{queued}/actions/abort")).send().expect(202);
        let record = server.task_ended(&queued);
        assert_eq!(record["result"]["code"], "aborted", "{record}");
        assert!(record["abortionRequestedAt"].is_u64(), "{record}");
        assert!(record["properties"].get("startedAt").is_none(), "it never began: {record}");
        assert_eq!(client.answer().head.status, 409);
    }
    assert_eq!(server.task(&running)["properties"]["state"], "running");
    assert_aborted(&server, &running);
}

#[test]
fn an_abort_ends_an_upload_in_whatever_state() {
    let server = Server::start();
    let content = noise(LEN, 16);
    for (chunked, paused, goes_on) in [
        (false, false, false),
        (true, false, false),
        (false, true, true),
        (true, true, false),
        (false, false, true),
    ] {
        let (upload, task) = begin_upload(&server, chunked, &content);
        if paused {
            server.act(&task, "pause");
        }
        std::thread::scope(|scope| {
            let mut stream = upload.stream.try_clone().expect("it can be shared");
            let rest = &content[LEN / 2..LEN - 1];
            // A client that is not told would send for ever.
            let sending =
                goes_on.then(|| scope.spawn(move || io::Write::write_all(&mut stream, rest).is_ok()));
            assert_aborted(&server, &task);
            if let Some(sending) = sending {
                let _told_or_cut = sending.join().expect("it ends");
            }
        });
        match upload.try_answer() {
            Ok(answer) => assert_eq!(answer.head.status, 409, "{:?}", answer.head),
            // What was sent after the answer may have reset the connection before it was read.
            Err(error) => assert!(goes_on, "{error}"),
        }
        server.assert_empty("an aborted import");
    }
}

#[test]
fn an_abort_ends_a_growth_and_the_disk_is_as_it_was() {
    let server = Server::start();
    let content = noise(8 << 20, 17);
    let vdi = server.import("?raw", content.clone());
    server.reload("[limits]\nbandwidth = \"1MiB\"", "limits were taken over");
    std::thread::scope(|scope| {
        let grown = scope.spawn(|| {
            let size = json!({"size": content.len() as u64 + MIB});
            server.request("PATCH", &format!("/rest/v0/vdis/{vdi}")).json(&size).send()
        });
        let task =
            id(&server.wait_for_task(|task| of_type("vdi.grow", "running")(task) && bytes_of(task) > 0));
        assert_eq!(server.task_in(&task, &["running"])["properties"]["objectId"], vdi);
        assert_aborted(&server, &task);
        assert_eq!(grown.join().expect("it is answered").refused(409..=409).code, "aborted");
    });
    server.reload("", "limits were taken over");
    assert!(server.export_bytes(&vdi, "raw") == content);
}

/// Bytes per second between two looks at a counter.
fn rate(mut counter: impl FnMut() -> u64, time: Duration) -> f64 {
    let (before, began) = (counter(), Instant::now());
    pass(time);
    (counter() - before) as f64 / began.elapsed().as_secs_f64()
}

#[track_caller]
fn assert_rate(found: f64, wanted: u64) {
    let ratio = found / wanted as f64;
    println!("{found:.0} bytes a second instead of {wanted}: {ratio:.3}");
    assert!((0.95..=1.05).contains(&ratio), "{found:.0} bytes a second instead of {wanted}");
}

#[test]
fn the_rate_of_a_running_download_follows_what_it_is_given() {
    const RATE: u64 = 3 << 20;
    let server = Server::start();
    let content = noise(2 * LEN, 18);
    let vdi = server.import("?raw", content.clone());
    let (mut download, task) = begin(&server, &raw(&vdi));
    let counted = AtomicU64::new(0);
    patch(&server, &task, &json!({"bandwidth": RATE})).expect(204);
    assert_eq!(server.task(&task)["properties"]["bandwidth"], RATE);
    std::thread::scope(|scope| {
        let reading = scope.spawn(|| {
            let mut all = Vec::new();
            let mut piece = vec![0; 64 << 10];
            loop {
                match download.read(&mut piece).expect("it goes on") {
                    0 => return all,
                    got => all.extend_from_slice(&piece[..got]),
                }
                counted.store(all.len() as u64, Ordering::Relaxed);
            }
        });
        pass(Duration::from_secs(1));
        assert_rate(rate(|| counted.load(Ordering::Relaxed), Duration::from_secs(3)), RATE);
        assert_eq!(server.task(&task)["properties"]["stage"], "limit");
        // A form knows only text.
        let form = server.request("PATCH", &format!("/rest/v0/tasks/{task}"));
        let form = form.header("Content-Type", "application/x-www-form-urlencoded");
        form.body(format!("bandwidth={}&priority=2", 2 * RATE)).send().expect(204);
        let properties = server.task(&task)["properties"].clone();
        assert_eq!((&properties["bandwidth"], &properties["priority"]), (&json!(2 * RATE), &json!(2)));
        pass(Duration::from_millis(500));
        assert_rate(rate(|| counted.load(Ordering::Relaxed), Duration::from_secs(2)), 2 * RATE);
        let lifted = Instant::now();
        patch(&server, &task, &json!({"bandwidth": null})).expect(204);
        assert!(server.task(&task)["properties"].get("bandwidth").is_none());
        assert!(reading.join().expect("it ends") == content);
        assert!(lifted.elapsed() < Duration::from_secs(4), "the rest took {:?}", lifted.elapsed());
    });
    patch(&server, server.task_ended(&task)["id"].as_str().expect("an id"), &json!({"bandwidth": 5}))
        .refused(409..=409);
}

#[test]
fn the_rate_of_a_running_upload_follows_what_it_is_given() {
    const RATE: u64 = 3 << 20;
    let server = Server::start();
    let content = noise(LEN, 19);
    let mut upload = server.request("POST", &server.import_target("?raw")).begin(Some(LEN as u64));
    upload.write(&content[..1 << 20]).expect("it takes it");
    let task =
        id(&server.wait_for_task(|task| of_type("vdi.import", "running")(task) && bytes_of(task) == MIB));
    wait::until(Duration::from_secs(5), || {
        let record = server.task(&task);
        // Its client sends nothing.
        if record["properties"]["stage"] == "source" { Ok(()) } else { Err(record.to_string()) }
    });
    patch(&server, &task, &json!({"bandwidth": RATE})).expect(204);
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| {
            upload.write(&content[1 << 20..]).expect("it takes it");
            upload.answer().head.status
        });
        pass(Duration::from_secs(1));
        assert_rate(rate(|| bytes_of(&server.task(&task)), Duration::from_secs(3)), RATE);
        assert_eq!(server.task(&task)["properties"]["stage"], "limit");
        let lifted = Instant::now();
        patch(&server, &task, &json!({"bandwidth": null})).expect(204);
        assert_eq!(sending.join().expect("it is answered"), 201);
        assert!(lifted.elapsed() < Duration::from_secs(4), "the rest took {:?}", lifted.elapsed());
    });
}

#[test]
fn what_is_no_rate_and_no_priority_is_refused_by_name_and_changes_nothing() {
    let server = Server::start();
    let vdi = server.import("?raw", noise(LEN, 20));
    let (_download, task) = begin(&server, &raw(&vdi));
    for (name, value) in [
        ("bandwidth", json!(0)),
        ("bandwidth", json!(-1)),
        ("bandwidth", json!(1.5)),
        ("bandwidth", json!("x")),
        ("bandwidth", json!("")),
        ("bandwidth", json!("+5")),
        ("bandwidth", json!(true)),
        ("bandwidth", json!([5])),
        ("priority", json!(1.5)),
        ("priority", json!("high")),
        ("priority", json!(null)),
        ("priority", json!(1_000_000)),
        ("speed", json!(5)),
    ] {
        let refusal = patch(&server, &task, &json!({"bandwidth": 7, name: value})).refused(422..=422);
        assert!(refusal.error.get(format!("body.{name}")).is_some(), "{name} {value}: {}", refusal.body);
    }
    let record = server.task(&task);
    assert!(record["properties"].get("bandwidth").is_none(), "{record}");
    patch(&server, "0nosuchtask", &json!({"bandwidth": 5})).refused(404..=404);
    for action in ["pause", "resume", "abort"] {
        server
            .request("POST", &format!("/rest/v0/tasks/0nosuchtask/actions/{action}"))
            .send()
            .refused(404..=404);
    }
}

#[test]
fn the_stage_of_a_download_that_its_client_holds_up_is_the_sink() {
    let server = Server::start();
    let vdi = server.import("?raw", noise(LEN, 21));
    let (mut download, task) = begin(&server, &raw(&vdi));
    download.take_bytes(1000);
    wait::until(Duration::from_secs(5), || {
        let record = server.task(&task);
        if record["properties"]["stage"] == "sink" { Ok(()) } else { Err(record.to_string()) }
    });
}

#[test]
fn parallel_ranges_and_resumed_downloads_are_one_task_and_whole_ones_their_own() {
    let server = Server::start();
    let content = noise(LEN, 24);
    let vdi = server.import("?raw", content.clone());
    let exports = || {
        let tasks = server.json("/rest/v0/tasks?fields=*");
        let tasks = tasks.as_array().expect("an array").clone();
        tasks.into_iter().filter(|task| task["properties"]["type"] == "vdi.export").collect::<Vec<_>>()
    };
    // Two of the whole at once.
    let (one, first) = begin(&server, &raw(&vdi));
    let (two, second) = begin(&server, &raw(&vdi));
    assert_ne!(first, second);
    for download in [one, two] {
        assert!(download.rest().expect("it goes on to its end") == content);
    }
    for task in [&first, &second] {
        let record = server.task_ended(task);
        assert_eq!((&record["status"], bytes_of(&record)), (&json!("success"), LEN as u64), "{record}");
    }
    // One that is cut, and what goes on with it.
    let file = server.path("cut.raw");
    let (mut cut, third) = begin(&server, &raw(&vdi));
    std::fs::write(&file, cut.take_bytes(5 * MIB)).expect("there is room");
    drop(cut);
    server.task_in(&third, &["detached"]);
    let done = server.curl().args(["-C", "-", "-o"]).arg(&file).run(&server.url(&raw(&vdi)));
    assert_eq!((done.exit, done.status, done.head.need("Gantry-Task")), (0, 206, third.as_str()), "{done:?}");
    assert!(std::fs::read(&file).expect("it is there") == content);
    let record = server.task_ended(&third);
    assert_eq!((&record["status"], bytes_of(&record)), (&json!("success"), LEN as u64), "{record}");
    assert_eq!(exports().len(), 3, "{:?}", exports());
    // Eight connections of one program.
    let aria = crate::support::tools::program("aria2c", "aria2");
    let cookie = format!("--header=Cookie: authenticationToken={}", server.token());
    let folder = format!("--dir={}", server.path("").display());
    let url = server.url(&raw(&vdi));
    let options = ["--no-conf", "-q", "-x", "8", "-s", "8", "-k", "1M", "-o", "aria.raw"];
    crate::support::tools::run(&aria, options.into_iter().chain([cookie.as_str(), &folder, &url]));
    assert!(std::fs::read(server.path("aria.raw")).expect("it is there") == content);
    let tasks = exports();
    assert_eq!(tasks.len(), 4, "{tasks:?}");
    let record = server.task_ended(&id(tasks.last().expect("the fourth")));
    assert_eq!((&record["status"], bytes_of(&record)), (&json!("success"), LEN as u64), "{record}");
}

#[test]
fn the_body_of_an_action_on_a_task_is_looked_at() {
    let server = Server::start();
    for action in ["abort", "pause", "resume"] {
        let target = format!("/rest/v0/tasks/0/actions/{action}");
        let json = |body: &str| {
            let request = server.request("POST", &target).header("Content-Type", "application/json");
            request.body(body.as_bytes().to_vec()).send().head.status
        };
        assert_eq!(json("{"), 400, "{action}");
        assert_eq!(json(r#"{"force":true}"#), 422, "{action}");
        assert_eq!(json("{}"), 404, "{action}");
    }
}
