//! §10 Task records and their routes, and events.

use std::io::Read;

use serde_json::{Value, json};

use super::{NOBODY, Site};
use crate::support::MIB;
use crate::support::disk::noise;
use crate::support::http::Download;
use crate::support::server::Server;
use crate::support::stream::{events, subscribe};

/// A download that waits for its reader, and its task.
fn pending(server: &Server) -> (Download, String) {
    let vdi = server.import("?raw", noise(48 * MIB as usize, 1));
    let mut download = server.request("GET", &format!("/rest/v0/vdis/{vdi}.raw")).open();
    download.take_bytes(10);
    let task = download.head.need("Gantry-Task").to_owned();
    (download, task)
}

/// The table of the task record.
#[test]
fn a_task_record_has_the_members_of_its_table() {
    let site = Site::new();
    let (_download, running) = pending(&site.server);
    let failed = site.server.request("POST", &site.server.import_target("")).body(noise(4096, 1)).send();
    assert_eq!(failed.head.status, 422, "it is no VHD");
    let failed = site.server.task_ended(failed.head.need("Gantry-Task"));
    let mut seen = Vec::new();
    for task in site.get("tasks?fields=*").as_array().expect("an array") {
        let id = task["id"].as_str().expect("an id");
        assert!(id.chars().all(|c| c.is_ascii_digit() || c.is_ascii_lowercase()), "only [0-9a-z]: {id}");
        let status = task["status"].as_str().expect("a status");
        assert!(["pending", "success", "failure", "interrupted"].contains(&status), "{task}");
        assert!(task["start"].is_u64() && task.get("updatedAt").is_none_or(Value::is_u64), "{task}");
        assert_eq!(task.get("end").is_some_and(Value::is_u64), status != "pending", "{task}");
        assert!(task.get("result").is_none_or(Value::is_object), "an object or absent: {task}");
        let properties = &task["properties"];
        for member in ["name", "type", "userId", "objectId", "objectType", "method"] {
            assert!(properties[member].is_string(), "{member} of {task}");
        }
        let progress = properties.get("progress").map(|progress| progress.as_f64().expect("a number"));
        assert!(progress.is_none_or(|progress| (0.0..=100.0).contains(&progress)), "{task}");
        if let Some(made) = task["result"].get("id") {
            assert!(made.as_str().is_some_and(|id| id.len() == 36), "only for UUIDs: {task}");
        }
        seen.push(status.to_owned());
    }
    for status in ["pending", "success", "failure"] {
        assert!(seen.iter().any(|one| one == status), "{status} in {seen:?}");
    }
    for member in ["name", "message", "code"] {
        assert!(failed["result"][member].is_string(), "{member} of {failed}");
    }
    assert_eq!(site.get("tasks?fields=id&filter=status:pending")[0]["id"], running);
}

/// "`GET /tasks/<id>?wait` → `result` and `true`: end; empty: next change. Send headers early"; other values 422.
#[test]
fn a_task_is_waited_for_by_every_spelling() {
    let server = Server::start();
    let (mut download, task) = pending(&server);
    let wait = |query: &str| server.request("GET", &format!("/rest/v0/tasks/{task}?{query}")).open();
    let mut waiting: Vec<Download> = ["wait=result", "wait=true", "wait", "wait="].map(wait).into();
    for head in &waiting {
        assert_eq!(head.head.status, 200, "the head comes before there is anything to tell");
        assert!(head.head.need("Content-Type").starts_with("application/json"));
    }
    server.get(&format!("/rest/v0/tasks/{task}?wait=false")).expect(200).json();
    for query in ["wait=perhaps", "wait=1x"] {
        server.get(&format!("/rest/v0/tasks/{task}?{query}")).refused(422..=422);
    }
    std::io::copy(&mut download, &mut std::io::sink()).expect("it ends");
    for (at, waiting) in waiting.iter_mut().enumerate() {
        let mut body = Vec::new();
        waiting.read_to_end(&mut body).expect("it is answered");
        let record: Value = serde_json::from_slice(&body).expect("JSON, whatever spaces come before it");
        assert_eq!(record["id"], task.as_str());
        assert!(at >= 2 || record["status"] == "success", "{record}");
    }
    server.get("/rest/v0/tasks/0nosuchtask?wait=result").refused(404..=404);
}

/// "`POST /tasks/<id>/actions/abort` → `202`, `{"taskId", "success": true}`; `?sync`: `204`, or 404 when not running".
/// "`DELETE /tasks/<id>`, `DELETE /tasks`: `204`, forget records, does not abort".
#[test]
fn tasks_are_aborted_and_forgotten() {
    let server = Server::start();
    let (_one, first) = pending(&server);
    let (_other, second) = pending(&server);
    let act = |method: &str, target: String| server.request(method, &format!("/rest/v0/{target}")).send();
    act("DELETE", format!("tasks/{first}")).refused(409..=409);
    act("DELETE", "tasks".into()).expect(204);
    for task in [&first, &second] {
        assert_eq!(server.task(task)["status"], "pending", "what runs is neither forgotten nor aborted");
    }
    let response = act("POST", format!("tasks/{first}/actions/abort")).expect(202);
    assert_eq!(response.json(), json!({"taskId": first, "success": true}));
    act("POST", format!("tasks/{second}/actions/abort?sync")).expect(204);
    assert_eq!(server.task_ended(&first)["status"], "failure");
    assert_eq!(server.task(&second)["status"], "failure");
    act("POST", format!("tasks/{second}/actions/abort?sync")).refused(404..=404);
    act("POST", "tasks/0nosuchtask/actions/abort".into()).refused(404..=404);
    act("DELETE", format!("tasks/{first}")).expect(204);
    act("GET", format!("tasks/{first}")).refused(404..=404);
    act("DELETE", format!("tasks/{first}")).refused(404..=404);
    act("DELETE", "tasks".into()).expect(204);
    assert_eq!(server.json("/rest/v0/tasks"), json!([]));
}

/// "Exports and imports → ours do [create a task], and say so in a response header of our own"; "`GET
/// /<collection>/<id>/tasks`: tasks whose `objectId` is that object".
#[test]
fn transfers_are_tasks_of_their_objects() {
    let site = Site::new();
    let export = site.send("GET", &format!("vdis/{}.raw", site.vdi)).expect(200);
    let task = export.head.need("Gantry-Task").to_owned();
    let tasks = site.get(&format!("vdis/{}/tasks?fields=id,properties.objectId", site.vdi));
    let own = tasks.as_array().expect("an array");
    assert!(own.iter().any(|one| one["id"] == task.as_str()), "{tasks}");
    assert!(own.iter().all(|one| one["properties"]["objectId"] == site.vdi.as_str()), "{tasks}");
    site.send("GET", &format!("vdis/{NOBODY}/tasks")).refused(404..=404);
}

/// The frames of server-sent events: `init`, then after subscribing `add`, `update`, `remove` with `$subscription`; 201
/// `{"id": "<type>"}`; 204 also when not subscribed; 404 for an unknown connection, 422 for an unknown type.
#[test]
fn events_have_the_frames_of_the_contract() {
    let server = Server::start();
    let (mut stream, id) = events(&server);
    let target = format!("/rest/v0/events/{id}/subscriptions");
    let made = server.request("POST", &target).json(&json!({"collection": "VDI", "fields": "*"})).send();
    assert_eq!(made.expect(201).json(), json!({"id": "VDI"}));
    subscribe(&server, &id, json!({"collection": "SR", "fields": ["name_label"]}));
    let vdi = server.import("?raw&name_label=a", noise(512, 1));
    let added = stream.event_where("add", "VDI", |event| event["id"] == vdi.as_str());
    assert_eq!((&added["$subscription"], &added["size"]), (&json!("VDI"), &json!(512)), "{added}");
    let patch = |target: String, body: Value| server.request("PATCH", &target).json(&body).send().expect(204);
    patch(format!("/rest/v0/vdis/{vdi}"), json!({"name_label": "b"}));
    stream.event_where("update", "VDI", |event| event["name_label"] == "b");
    server.request("DELETE", &format!("/rest/v0/vdis/{vdi}")).send().expect(204);
    stream.event_where("remove", "VDI", |event| event["id"] == vdi.as_str());
    patch(format!("/rest/v0/srs/{}", server.sr()), json!({"name_label": "renamed"}));
    let update = stream.event_where("update", "SR", |_| true);
    assert_eq!(update["name_label"], "renamed");
    assert!(update.get("size").is_none(), "chosen fields: {update}");
    for _ in 0..2 {
        server.request("DELETE", &format!("{target}/VDI")).send().expect(204);
    }
    server.request("POST", &target).json(&json!({"collection": "nonsense"})).send().refused(422..=422);
    let other = format!("/rest/v0/events/{NOBODY}/subscriptions");
    let refusal =
        server.request("POST", &other).json(&json!({"collection": "VDI"})).send().refused(404..=404);
    assert!(refusal.text.starts_with("no such event"), "{}", refusal.text);
    // Forms say it as well: one name is a list of one.
    let form = server.request("POST", &target).header("Content-Type", "application/x-www-form-urlencoded");
    form.body("collection=VM&fields=id&fields=name_label").send().expect(201);
}
