//! Transfers and the end of their server: what a drain waits for, what is paused or cut stays so, and what goes on.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::control::{LEN, begin, begin_upload, bytes_of, drain, of_type, raw};
use crate::support::MIB;
use crate::support::disk::noise;
use crate::support::http::{Download, Request};
use crate::support::server::{Server, Setup};
use crate::support::wait;

fn go_on_from(server: &Server, vdi: &str, from: usize) -> Request {
    server.request("GET", &raw(vdi)).header("Range", &format!("bytes={from}-"))
}

/// Pauses a download in the middle. Returns what came, and the task.
fn paused_in_the_middle(server: &Server, vdi: &str) -> (Download, Vec<u8>, String) {
    let (mut download, task) = begin(server, &raw(vdi));
    let mut got = download.take_bytes(MIB);
    server.act(&task, "pause");
    got.extend(drain(&mut download, Duration::from_millis(900)));
    assert!(got.len() < LEN, "it stops in the middle");
    (download, got, task)
}

fn stop(server: &mut Server, by_kill: bool) {
    if by_kill {
        server.kill();
    } else {
        let began = Instant::now();
        assert_eq!(server.terminate().code(), Some(0));
        assert!(began.elapsed() < Duration::from_secs(5), "it waited {:?} for a paused one", began.elapsed());
    }
    server.start_again();
}

fn a_pause_outlives(by_kill: bool) {
    let mut server = Setup::default().config("[transfers]\nqueue_wait = \"1s\"").start();
    let content = noise(LEN, 7);
    let vdi = server.import("?raw", content.clone());
    let (_download, mut got, task) = paused_in_the_middle(&server, &vdi);
    let progress = |record: &Value| record["properties"]["progress"].as_u64().expect("a number");
    let mut last = progress(&server.task(&task));
    let mut rises = |record: &Value| {
        assert!(progress(record) >= last, "fell from {last}: {record}");
        last = progress(record);
    };
    stop(&mut server, by_kill);
    let record = server.task_in(&task, &["paused"]);
    rises(&record);

    let asked = Instant::now();
    let response = go_on_from(&server, &vdi, got.len()).send().expect(503);
    assert!((900..5000).contains(&asked.elapsed().as_millis()), "after {:?}", asked.elapsed());
    let retry: u64 = response.head.need("Retry-After").parse().expect("seconds");
    assert!(retry > 0);
    assert_eq!(response.json()["data"]["taskId"], task.as_str(), "{}", response.text());
    rises(&server.task_in(&task, &["paused"]));

    server.act(&task, "resume");
    rises(&server.task_in(&task, &["recovering"]));
    let mut rest = go_on_from(&server, &vdi, got.len()).open();
    assert_eq!((rest.head.status, rest.head.need("Gantry-Task")), (206, task.as_str()));
    got.extend(rest.take_bytes(1000));
    rises(&server.task_in(&task, &["running"]));
    got.extend(rest.rest().expect("it goes on to its end"));
    assert!(got == content);
    let record = server.task_ended(&task);
    rises(&record);
    assert_eq!((&record["status"], bytes_of(&record)), (&json!("success"), LEN as u64), "{record}");
}

#[test]
fn a_pause_outlives_a_restart() {
    a_pause_outlives(false);
}

#[test]
fn a_pause_outlives_kill_9() {
    a_pause_outlives(true);
}

#[test]
fn a_download_that_was_paused_when_its_content_was_replaced_gets_the_old_bytes_after_a_restart() {
    let mut server = Server::start();
    let (old, new) = (noise(LEN, 8), noise(LEN, 9));
    let vdi = server.import("?raw", old.clone());
    let (download, mut got, task) = paused_in_the_middle(&server, &vdi);
    let etag = download.head.need("ETag").to_owned();
    server.request("PUT", &raw(&vdi)).body(new.clone()).send().expect(204);
    stop(&mut server, false);
    assert_eq!(server.task(&task)["properties"]["state"], "paused");
    server.act(&task, "resume");
    let rest = go_on_from(&server, &vdi, got.len()).header("If-Range", &etag).open();
    assert_eq!((rest.head.status, rest.head.need("Gantry-Task")), (206, task.as_str()));
    got.extend(rest.rest().expect("it goes on to its end"));
    assert!(got == old, "the bytes that it began with");
    assert_eq!(server.task_ended(&task)["status"], "success");
    assert!(server.export_bytes(&vdi, "raw") == new);
    wait::until(Duration::from_secs(10), || match server.disk_files().len() {
        1 => Ok(()),
        _ => Err(format!("the old content is kept: {:?}", server.disk_files())),
    });
}

#[test]
fn a_download_that_was_paused_when_its_disk_was_deleted_fails_and_keeps_nothing() {
    let mut server = Server::start();
    let vdi = server.import("?raw", noise(LEN, 10));
    let (_download, _, connected) = paused_in_the_middle(&server, &vdi);
    let (gone, _, left) = paused_in_the_middle(&server, &vdi);
    drop(gone);
    server.request("DELETE", &format!("/rest/v0/vdis/{vdi}")).send().expect(204);
    assert_eq!(server.task_ended(&left)["result"]["code"], "vdi_deleted");
    assert_eq!(server.task(&connected)["properties"]["state"], "paused", "it still has a client");
    stop(&mut server, false);
    let record = server.task_ended(&connected);
    assert_eq!(record["status"], "failure", "{record}");
    server.assert_empty("a deleted disk");
}

#[test]
fn a_drain_leaves_a_slow_download_to_the_next_server_and_ends_an_upload() {
    let mut server = Setup::default().config("[transfers]\ndrain = \"2s\"").start();
    let content = noise(LEN, 22);
    let vdi = server.import("?raw", content.clone());
    let (mut download, task) = begin(&server, &raw(&vdi));
    let mut got = download.take_bytes(MIB);
    let (_upload, upload) = begin_upload(&server, false, &content);
    let began = Instant::now();
    assert_eq!(server.terminate().code(), Some(0));
    let took = began.elapsed();
    assert!((1500..8000).contains(&took.as_millis()), "it took {took:?}");
    server.start_again();
    let record = server.task(&upload);
    assert_eq!(record["status"], "interrupted", "{record}");
    assert_eq!(server.disk_files().len(), 1, "{:?}", server.disk_files());
    server.task_in(&task, &["recovering"]);
    let rest = go_on_from(&server, &vdi, got.len()).open();
    assert_eq!((rest.head.status, rest.head.need("Gantry-Task")), (206, task.as_str()));
    got.extend(rest.rest().expect("it goes on to its end"));
    assert!(got == content);
    assert_eq!(server.task_ended(&task)["status"], "success");
}

#[test]
fn a_drain_refuses_what_is_queued() {
    let limits = "[limits]\nconcurrent = 1\n[transfers]\nqueue_wait = \"60s\"\ndrain = \"2s\"";
    let mut server = Setup::default().config(limits).start();
    let vdi = server.import("?raw", noise(LEN, 23));
    let (_first, _) = begin(&server, &raw(&vdi));
    let second = server.request("GET", &raw(&vdi)).begin(None);
    server.wait_for_task(of_type("vdi.export", "queued"));
    server.signal(rustix::process::Signal::TERM);
    let answer = second.answer();
    assert_eq!(answer.head.status, 503, "{:?}", answer.head);
    assert!(answer.head.header("Retry-After").is_some(), "{:?}", answer.head);
    assert_eq!(server.wait(Duration::from_secs(10)).code(), Some(0));
}
