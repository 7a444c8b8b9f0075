//! `GET /tasks?ndjson=true&watch=true`: a line for everything that happens to a task, without asking again.

use serde_json::{Value, json};

use crate::support::MIB;
use crate::support::disk::noise;
use crate::support::server::Server;
use crate::support::stream::Stream;

const WATCH: &str = "/rest/v0/tasks?ndjson=true&watch=true";

/// Imports a small disk and returns its id and its task's.
fn import(server: &Server, seed: u64) -> (String, String) {
    let answer =
        server.request("POST", &server.import_target("?raw")).body(noise(4096, seed)).send().expect(201);
    let vdi = answer.json()["id"].as_str().expect("an id").to_owned();
    (vdi, answer.head.need("Gantry-Task").to_owned())
}

fn forget(server: &Server, task: &str) {
    server.task_ended(task);
    server.request("DELETE", &format!("/rest/v0/tasks/{task}")).send().expect(204);
}

#[test]
fn a_watch_without_fields_sends_links_and_no_task_that_was_there_before() {
    let server = Server::start();
    let (_, before) = import(&server, 1);
    server.task_ended(&before);
    let mut watch = Stream::open(&server, WATCH);
    assert_eq!(watch.head.need("Content-Type"), "application/x-ndjson");
    assert_eq!(watch.head.header("Content-Length"), None);
    watch.quiet();
    let (_, task) = import(&server, 2);
    let link = format!("/rest/v0/tasks/{task}");
    assert_eq!(watch.json_line(), json!(["update", link]));
    forget(&server, &task);
    while watch.json_line() != json!(["remove", link]) {}
    forget(&server, &before);
    assert_eq!(watch.json_line(), json!(["remove", format!("/rest/v0/tasks/{before}")]));
}

#[test]
fn a_watch_follows_a_task_from_its_beginning_to_its_end() {
    let server = Server::start();
    let mut watch = Stream::open(&server, &format!("{WATCH}&fields=*"));
    let content = noise(8 * MIB as usize, 1);
    let mut upload = server.request("POST", &server.import_target("?raw")).begin(Some(content.len() as u64));
    upload.write(&content[..content.len() / 2]).expect("it takes the first half");
    let mut next = || {
        let line = watch.json_line();
        assert_eq!(line[0], "update", "{line}");
        line[1].clone()
    };
    let first = next();
    assert_eq!(first["status"], "pending", "{first}");
    let id = first["id"].as_str().expect("an id").to_owned();
    assert_eq!(first["href"], format!("/rest/v0/tasks/{id}"));
    let progress = |task: &Value| task["properties"]["progress"].as_u64().unwrap_or_default();
    let mut last = progress(&first);
    while last < 40 {
        let task = next();
        assert!(progress(&task) >= last, "progress never falls: {task}");
        last = progress(&task);
    }
    upload.write(&content[content.len() / 2..]).expect("it takes the rest");
    assert_eq!(upload.answer().head.status, 201);
    let ended = loop {
        let task = next();
        if task["status"] != "pending" {
            break task;
        }
    };
    assert_eq!((&ended["id"], &ended["status"]), (&json!(id), &json!("success")));
    assert_eq!(ended["properties"]["progress"], 100, "{ended}");
    forget(&server, &id);
    let gone = json!(["remove", {"id": id, "href": format!("/rest/v0/tasks/{id}")}]);
    while watch.json_line() != gone {}
}

#[test]
fn a_watch_of_an_objects_tasks_is_silent_about_others() {
    let server = Server::start();
    let (mine, other) = (import(&server, 1).0, import(&server, 2).0);
    let target = format!("/rest/v0/vdis/{mine}/tasks?ndjson&watch&fields=properties.objectId,status");
    let mut watch = Stream::open(&server, &target);
    server.export_bytes(&other, "raw");
    watch.quiet();
    server.export_bytes(&mine, "raw");
    loop {
        let line = watch.json_line();
        assert_eq!((&line[0], &line[1]["properties"]["objectId"]), (&json!("update"), &json!(mine)));
        if line[1]["status"] == "success" {
            break;
        }
    }
    let missing = "/rest/v0/vdis/6a1b4a4e-0d7f-4b0e-9d53-2f0c6ee0a111/tasks?ndjson&watch";
    server.get(missing).refused(404..=404);
}

#[test]
fn a_watch_needs_ndjson_and_head_does_not_wait() {
    let server = Server::start();
    let refusal = server.get("/rest/v0/tasks?watch=true").refused(400..=400);
    assert_eq!(refusal.text, "watch=true requires ndjson=true");
    let head = server.request("HEAD", WATCH).send().expect(200).head;
    assert_eq!(head.need("Content-Type"), "application/x-ndjson");
}
