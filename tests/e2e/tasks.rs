//! Every transfer is a task: named in the answer, visible while it runs, and true about how it ended.

use serde_json::Value;

use crate::support::MIB;
use crate::support::disk::noise;
use crate::support::server::Server;
use crate::support::wait;
use std::time::Duration;

const LEN: usize = 24 * MIB as usize;

fn well_formed(task: &Value) {
    let id = task["id"].as_str().expect("an id");
    assert!(!id.is_empty() && id.chars().all(|c| c.is_ascii_digit() || c.is_ascii_lowercase()), "{id}");
    let status = task["status"].as_str().expect("a status");
    assert!(["pending", "success", "failure", "interrupted"].contains(&status), "{task}");
    assert!(task["start"].as_u64().is_some_and(|ms| ms > 1_600_000_000_000), "milliseconds: {task}");
    assert_eq!(task["end"].as_u64().is_some(), status != "pending", "{task}");
    assert!(task["properties"]["name"].as_str().is_some_and(|name| !name.is_empty()), "{task}");
    assert!(task["properties"]["userId"].is_string(), "{task}");
    assert!(task.get("result").is_none_or(Value::is_object), "always an object or absent: {task}");
    if let Some(progress) = task["properties"].get("progress") {
        assert!((0.0..=100.0).contains(&progress.as_f64().expect("a number")), "{task}");
    }
}

#[test]
fn an_import_is_a_task_that_ends_in_success() {
    let server = Server::start();
    let response =
        server.request("POST", &server.import_target("?raw")).body(noise(LEN, 1)).send().expect(201);
    let vdi = response.json()["id"].as_str().expect("an id").to_owned();
    let task = server.task_ended(response.head.need("Gantry-Task"));
    well_formed(&task);
    assert_eq!(task["status"], "success", "{task}");
    assert_eq!(task["result"]["id"], vdi, "{task}");
    assert_eq!(task["properties"]["progress"], 100, "{task}");
    assert_eq!(task["properties"]["bytes"], LEN, "{task}");
}

#[test]
fn an_import_is_pending_while_it_runs() {
    let server = Server::start();
    let mut upload = server.request("POST", &server.import_target("?raw")).begin(Some(LEN as u64));
    upload.write(&noise(LEN, 1)[..LEN / 2]).expect("it takes the first half");
    let pending = || {
        let tasks = server.json("/rest/v0/tasks?fields=*");
        let task = tasks.as_array().and_then(|tasks| tasks.first().cloned()).ok_or("no task")?;
        let progress = task["properties"]["progress"].as_f64().unwrap_or_default();
        if progress > 10.0 { Ok(task) } else { Err(format!("no progress in {task}")) }
    };
    let task = wait::until(Duration::from_secs(10), pending);
    well_formed(&task);
    assert_eq!(task["status"], "pending", "{task}");
    assert_eq!(task["properties"]["totalBytes"], LEN, "{task}");
    upload.write(&noise(LEN, 1)[LEN / 2..]).expect("it takes the rest");
    assert_eq!(upload.answer().head.status, 201);
    let task = server.task_ended(task["id"].as_str().expect("an id"));
    assert_eq!(task["status"], "success", "{task}");
}

#[test]
fn an_export_is_a_task_that_ends_in_success_once_all_was_sent() {
    let server = Server::start();
    let vdi = server.import("?raw", noise(LEN, 1));
    for format in ["raw", "vhd"] {
        let mut download = server.request("GET", &format!("/rest/v0/vdis/{vdi}.{format}")).open();
        let id = download.head.need("Gantry-Task").to_owned();
        let length = download.head.length();
        download.take_bytes(100_000);
        let task = server.task(&id);
        well_formed(&task);
        assert_eq!(task["status"], "pending", "not before it is done: {task}");
        assert_eq!(task["properties"]["objectId"], vdi, "{task}");
        assert_eq!(task["properties"]["totalBytes"], length, "{task}");
        download.rest().expect("it goes on to its end");
        let task = server.task_ended(&id);
        well_formed(&task);
        assert_eq!(task["status"], "success", "{task}");
        assert_eq!(task["properties"]["progress"], 100, "{task}");
        assert_eq!(task["properties"]["bytes"], length, "{task}");
    }
}

#[test]
fn a_download_that_was_cut_is_no_success() {
    let server = Server::start();
    let vdi = server.import("?raw", noise(LEN, 1));
    let mut download = server.request("GET", &format!("/rest/v0/vdis/{vdi}.raw")).open();
    let id = download.head.need("Gantry-Task").to_owned();
    download.take_bytes(10);
    drop(download);
    // Long enough for a program that would take the end of the connection for the end of the work.
    std::thread::sleep(Duration::from_millis(500));
    let task = server.task(&id);
    well_formed(&task);
    assert_ne!(task["status"], "success", "{task}");
}

#[test]
fn a_refused_image_is_a_failed_task_that_says_why() {
    let server = Server::start();
    let response = server.request("POST", &server.import_target("")).body(noise(100_000, 2)).send();
    let refusal = response.refused(422..=422);
    let task = server.task_ended(response.head.need("Gantry-Task"));
    well_formed(&task);
    assert_eq!(task["status"], "failure", "{task}");
    assert_eq!(task["result"]["code"], refusal.code, "{task}");
    assert!(task["result"]["message"].as_str().is_some_and(|text| !text.is_empty()), "{task}");
}

#[test]
fn progress_never_falls() {
    let server = Server::start();
    let mut upload = server.request("POST", &server.import_target("?raw")).begin(Some(LEN as u64));
    let content = noise(LEN, 3);
    let mut last = -1.0;
    for part in content.chunks(LEN / 12) {
        upload.write(part).expect("it takes it");
        let tasks = server.json("/rest/v0/tasks?fields=*");
        if let Some(progress) = tasks[0]["properties"]["progress"].as_f64() {
            assert!(progress >= last, "{progress} after {last}");
            last = progress;
        }
    }
    assert_eq!(upload.answer().head.status, 201);
}

#[test]
fn tasks_are_a_collection_and_survive_a_restart() {
    let mut server = Server::start();
    let response =
        server.request("POST", &server.import_target("?raw")).body(noise(512, 1)).send().expect(201);
    let id = response.head.need("Gantry-Task").to_owned();
    server.task_ended(&id);
    let links = server.json("/rest/v0/tasks");
    assert_eq!(links, serde_json::json!([format!("/rest/v0/tasks/{id}")]));
    let some = server.json("/rest/v0/tasks?fields=id,status");
    assert_eq!(
        some,
        serde_json::json!([{"id": id, "status": "success", "href": format!("/rest/v0/tasks/{id}")}])
    );
    server.kill();
    server.start_again();
    assert_eq!(server.task(&id)["status"], "success");
    let refusal = server.get("/rest/v0/tasks/0nosuchtask").refused(404..=404);
    assert_eq!(refusal.body["data"]["type"], "task", "{}", refusal.body);
}

#[test]
fn task_ids_sort_by_creation() {
    let server = Server::start();
    let ids: Vec<String> = (0..5)
        .map(|seed| {
            let request = server.request("POST", &server.import_target("?raw")).body(noise(512, seed));
            request.send().expect(201).head.need("Gantry-Task").to_owned()
        })
        .collect();
    assert!(ids.is_sorted(), "{ids:?}");
}

#[test]
fn an_aborted_import_ends_soon_and_leaves_nothing() {
    let server = Server::start();
    for chunked in [false, true] {
        let request = server.request("POST", &server.import_target("?raw"));
        let mut upload = if chunked { request.begin_chunked() } else { request.begin(Some(LEN as u64)) };
        let half = &noise(LEN, 1)[..LEN / 2];
        if chunked { upload.chunk(half) } else { upload.write(half) }.expect("it takes the first half");
        let id = wait::until(Duration::from_secs(10), || {
            let tasks = server.json("/rest/v0/tasks?fields=id,status");
            let pending =
                tasks.as_array().and_then(|tasks| tasks.iter().find(|task| task["status"] == "pending"));
            pending.and_then(|task| task["id"].as_str().map(str::to_owned)).ok_or_else(|| tasks.to_string())
        });
        let response =
            server.request("POST", &format!("/rest/v0/tasks/{id}/actions/abort")).send().expect(202);
        assert_eq!(response.json()["success"], true, "{}", response.text());
        let task = wait::until(Duration::from_secs(2), || {
            let task = server.task(&id);
            if task["status"] == "pending" { Err(task.to_string()) } else { Ok(task) }
        });
        assert_eq!(
            (&task["status"], &task["result"]["code"]),
            (&"failure".into(), &"aborted".into()),
            "{task}"
        );
        server.assert_empty("an aborted import");
        if let Ok(answer) = upload.try_answer() {
            assert!(answer.head.status >= 400, "{:?}", answer.head);
        }
    }
}

#[test]
fn an_aborted_export_is_cut_and_never_ends_cleanly() {
    let server = Server::start();
    let vdi = server.import("?raw", noise(2 * LEN, 1));
    let mut download = server.request("GET", &format!("/rest/v0/vdis/{vdi}.raw")).open();
    let id = download.head.need("Gantry-Task").to_owned();
    download.take_bytes(10);
    server.request("POST", &format!("/rest/v0/tasks/{id}/actions/abort")).send().expect(202);
    let task = server.task_ended(&id);
    assert_eq!((&task["status"], &task["result"]["code"]), (&"failure".into(), &"aborted".into()), "{task}");
    download.rest().expect_err("it was cut");
    server.request("POST", "/rest/v0/tasks/0nosuchtask/actions/abort").send().refused(404..=404);
}

#[test]
fn waiting_for_a_task_waits_for_its_end() {
    let server = Server::start();
    let vdi = server.import("?raw", noise(2 * LEN, 1));
    let mut download = server.request("GET", &format!("/rest/v0/vdis/{vdi}.raw")).open();
    let id = download.head.need("Gantry-Task").to_owned();
    download.take_bytes(10);
    for wait in ["true", "result"] {
        let server = &server;
        let target = format!("/rest/v0/tasks/{id}?wait={wait}");
        let waiting = std::thread::scope(|scope| {
            let waiting = scope.spawn(move || server.json(&target));
            std::thread::sleep(Duration::from_millis(300));
            // The first time it waits for this; the second time there is nothing to wait for.
            let _ = std::io::copy(&mut download, &mut std::io::sink());
            waiting.join().expect("it is answered")
        });
        assert_eq!(waiting["status"], "success", "{waiting}");
    }
}
