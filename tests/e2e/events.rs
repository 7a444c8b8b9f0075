//! Server-sent events: who is subscribed to a type hears of every change of its objects, and of nothing that is
//! not theirs to see.

use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::curl::Curl;
use crate::support::disk::noise;
use crate::support::http::Download;
use crate::support::server::{Server, Setup, gantry};
use crate::support::stream::{Stream, begun, events, subscribe};
use crate::support::{MIB, wait};

fn label(server: &Server, vdi: &str, body: Value) {
    server.request("PATCH", &format!("/rest/v0/vdis/{vdi}")).json(&body).send().expect(204);
}

fn create(server: &Server, name: &str) -> String {
    let body = json!({"srId": server.sr(), "virtual_size": MIB, "name_label": name});
    let answer = server.request("POST", "/rest/v0/vdis").json(&body).send().expect(201);
    answer.json()["id"].as_str().expect("an id").to_owned()
}

fn delete(server: &Server, vdi: &str) {
    server.request("DELETE", &format!("/rest/v0/vdis/{vdi}")).send().expect(204);
}

/// A token of a new user, made by the command line with these further arguments.
fn token_of(server: &Server, user: &str, role: &str, arguments: &[&str]) -> String {
    let run = |words: &[&str]| {
        let output = gantry(words).arg("--data").arg(server.data()).output().expect("the program runs");
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).expect("text").trim().to_owned()
    };
    run(&["user", "add", user, "--role", role]);
    run(&[&["token", "create", "--user", user], arguments].concat())
}

fn events_of(server: &Server, token: &str) -> (Stream, String) {
    let curl = Curl::anonymous().args(["-b", &format!("authenticationToken={token}")]);
    begun(Stream::open_with(curl, &server.url("/rest/v0/events")))
}

#[test]
fn a_stream_begins_at_once_with_its_id_and_the_right_head() {
    let server = Server::start();
    let asked = Instant::now();
    let curl = server.curl().args(["-H", "Last-Event-ID: 42", "-H", "Accept-Encoding: gzip, br, zstd"]);
    let (stream, id) = begun(Stream::open_with(curl, &server.url("/rest/v0/events/")));
    assert!(asked.elapsed() < Duration::from_secs(5));
    assert_eq!(id.len(), 36, "{id}");
    assert_eq!(stream.head.need("Content-Type"), "text/event-stream");
    assert_eq!(stream.head.need("Cache-Control"), "no-cache, no-transform");
    assert_eq!(stream.head.header("Content-Encoding"), None);
    assert_eq!(stream.head.header("Content-Length"), None);
    let head = server.request("HEAD", "/rest/v0/events").send().expect(200).head;
    assert_eq!(head.need("Content-Type"), "text/event-stream");
    server.request("GET", "/rest/v0/events").anonymous().send().refused(401..=401);
}

#[test]
fn an_import_a_change_a_replacement_and_a_deletion_are_told_as_they_happen() {
    let server = Server::start();
    create(&server, "there before");
    let (mut stream, id) = events(&server);
    subscribe(&server, &id, json!({"collection": "VDI"}));
    let vdi = server.import("?raw&name_label=first", noise(MIB as usize, 1));
    let (name, added) = stream.event();
    assert_eq!((name.as_str(), &added["id"]), ("add", &json!(vdi)), "what was there before is not sent");
    assert_eq!(added["$subscription"], "VDI");
    let mut whole = server.json(&format!("/rest/v0/vdis/{vdi}"));
    whole["$subscription"] = "VDI".into();
    assert_eq!(added, whole, "the whole object, as it is shown by itself");
    label(&server, &vdi, json!({"name_label": "second"}));
    let (name, updated) = stream.event();
    assert_eq!((name.as_str(), &updated["name_label"]), ("update", &json!("second")));
    label(&server, &vdi, json!({"name_label": "second"}));
    server.request("PUT", &format!("/rest/v0/vdis/{vdi}/tags/blue")).send().expect(204);
    let (name, updated) = stream.event();
    assert_eq!((name.as_str(), &updated["tags"]), ("update", &json!(["blue"])), "nothing changed in between");
    let usage = updated["usage"].clone();
    let content = server.request("PUT", &format!("/rest/v0/vdis/{vdi}.raw")).body(vec![0; MIB as usize]);
    content.send().expect(204);
    let updated = stream.event_where("update", "VDI", |vdi| vdi["usage"] != usage);
    assert_eq!(updated["id"], json!(vdi));
    delete(&server, &vdi);
    let (name, removed) = stream.event();
    assert_eq!((name.as_str(), &removed["id"]), ("remove", &json!(vdi)));
    assert_eq!(removed["$subscription"], "VDI");
    stream.quiet();
}

#[test]
fn chosen_members_alone_are_sent_and_an_update_of_others_is_not() {
    let server = Server::start();
    let vdi = create(&server, "a");
    let (mut stream, id) = events(&server);
    subscribe(&server, &id, json!({"collection": "VDI", "fields": ["id", "name_label", "no such member"]}));
    label(&server, &vdi, json!({"name_description": "not chosen"}));
    label(&server, &vdi, json!({"name_label": "b"}));
    let b = json!({"$subscription": "VDI", "id": vdi, "name_label": "b"});
    assert_eq!(stream.event(), ("update".into(), b));
    subscribe(&server, &id, json!({"collection": "VDI", "fields": "*"}));
    label(&server, &vdi, json!({"name_description": "chosen"}));
    let (name, updated) = stream.event();
    assert_eq!((name.as_str(), &updated["name_description"]), ("update", &json!("chosen")));
    stream.quiet();
}

#[test]
fn one_stream_takes_several_subscriptions_and_ends_each_by_itself() {
    let server = Server::start();
    let (mut stream, id) = events(&server);
    subscribe(&server, &id, json!({"collection": "VDI", "fields": ["id"]}));
    subscribe(&server, &id, json!({"collection": "SR", "fields": ["id", "VDIs", "name_label"]}));
    for quiet in ["VM", "host", "alarm", "message", "network"] {
        subscribe(&server, &id, json!({"collection": quiet}));
    }
    let vdi = create(&server, "a");
    let (mut told_vdi, mut told_sr) = (false, false);
    while !(told_vdi && told_sr) {
        match stream.event() {
            (name, data) if data["$subscription"] == "VDI" => told_vdi |= name == "add" && data["id"] == vdi,
            (name, data) => told_sr |= name == "update" && data["VDIs"] == json!([vdi]),
        }
    }
    let target = format!("/rest/v0/events/{id}/subscriptions/VDI");
    for _ in 0..2 {
        server.request("DELETE", &target).send().expect(204);
    }
    let sr = format!("/rest/v0/srs/{}", server.sr());
    server.request("PATCH", &sr).json(&json!({"name_label": "renamed"})).send().expect(204);
    delete(&server, &vdi);
    let renamed = stream.event_where("update", "SR", |sr| sr["name_label"] == "renamed");
    assert_eq!(renamed["id"], server.sr());
    let emptied = stream.event_where("update", "SR", |sr| sr["VDIs"] == json!([]));
    assert_eq!(emptied["id"], server.sr());
    stream.quiet();
}

#[test]
fn a_pool_and_a_host_tell_of_their_names() {
    let server = Server::start();
    let (mut stream, id) = events(&server);
    for (collection, kind) in [("pools", "pool"), ("hosts", "host")] {
        subscribe(&server, &id, json!({"collection": kind, "fields": ["id", "name_label"]}));
        let link = server.json(&format!("/rest/v0/{collection}"))[0].as_str().expect("a link").to_owned();
        server.request("PATCH", &link).json(&json!({"name_label": "renamed"})).send().expect(204);
        let (name, data) = stream.event();
        assert_eq!((name.as_str(), &data["name_label"]), ("update", &json!("renamed")), "{data}");
        assert_eq!(data["$subscription"], kind);
    }
}

#[test]
fn an_sr_that_is_attached_or_forgotten_comes_and_goes_with_its_disks() {
    let server = Setup::default().config("[storage]\nsr_roots = [\"{scratch}/roots\"]").start();
    let (folder, disk) = (server.path("roots/sr"), "11111111-2222-4333-8444-555555555555");
    std::fs::create_dir_all(&folder).expect("a folder can be made");
    std::fs::write(folder.join(format!("{disk}.raw")), noise(MIB as usize, 3)).expect("there is room");
    let (mut stream, id) = events(&server);
    for kind in ["SR", "VDI"] {
        subscribe(&server, &id, json!({"collection": kind, "fields": ["id"]}));
    }
    let body = json!({"name_label": "attached", "path": folder});
    let made = server.request("POST", "/rest/v0/srs").json(&body).send().expect(201).json();
    let told = |stream: &mut Stream, name: &str| {
        let mut ids = vec![stream.event(), stream.event()];
        ids.sort_by_key(|(_, data)| data["$subscription"].to_string());
        assert!(ids.iter().all(|(event, _)| event == name), "{ids:?}");
        assert_eq!((&ids[0].1["id"], &ids[1].1["id"]), (&made["id"], &json!(disk)));
    };
    told(&mut stream, "add");
    let sr = made["id"].as_str().expect("an id");
    server.request("POST", &format!("/rest/v0/srs/{sr}/actions/forget")).send().expect(204);
    told(&mut stream, "remove");
}

#[test]
fn tasks_are_told_with_their_progress_until_they_are_forgotten() {
    let server = Server::start();
    let (mut stream, id) = events(&server);
    subscribe(&server, &id, json!({"collection": "task", "fields": ["id", "status", "properties.progress"]}));
    let content = noise(8 * MIB as usize, 1);
    let length = content.len() as u64;
    let mut upload = server.request("POST", &server.import_target("?raw")).begin(Some(length));
    upload.write(&content[..content.len() / 2]).expect("it takes the first half");
    let (name, added) = stream.event();
    assert_eq!((name.as_str(), &added["status"]), ("add", &json!("pending")), "{added}");
    let task = added["id"].clone();
    let halfway = |task: &Value| task["properties"]["progress"].as_u64().is_some_and(|done| done >= 40);
    let update = stream.event_where("update", "task", halfway);
    assert_eq!((&update["id"], &update["status"]), (&task, &json!("pending")));
    upload.write(&content[content.len() / 2..]).expect("it takes the rest");
    assert_eq!(upload.answer().head.status, 201);
    let ended = stream.event_where("update", "task", |task| task["status"] == "success");
    assert_eq!((&ended["id"], &ended["properties"]["progress"]), (&task, &json!(100)));
    let target = format!("/rest/v0/tasks/{}", task.as_str().expect("an id"));
    server.request("DELETE", &target).send().expect(204);
    assert_eq!(stream.event_where("remove", "task", |_| true)["id"], task);
}

#[test]
fn what_is_no_stream_no_type_or_no_list_of_members_is_refused() {
    let server = Server::start();
    let (mut stream, id) = events(&server);
    let subscriptions = |id: &str| format!("/rest/v0/events/{id}/subscriptions");
    let vdi = json!({"collection": "VDI"});
    for unknown in ["6a1b4a4e-0d7f-4b0e-9d53-2f0c6ee0a111", "nonsense"] {
        let refusal = server.request("POST", &subscriptions(unknown)).json(&vdi).send().refused(404..=404);
        assert_eq!(refusal.text, format!("no such event {unknown}"));
        assert_eq!(refusal.body["data"], json!({"id": unknown, "type": "event"}));
        let target = format!("{}/VDI", subscriptions(unknown));
        server.request("DELETE", &target).send().refused(404..=404);
    }
    for (body, member) in [
        (json!({"collection": "vdis"}), "body.collection"),
        (json!({"collection": 5}), "body.collection"),
        (json!({}), "body.collection"),
        (json!({"collection": "VDI", "fields": "id"}), "body.fields"),
        (json!({"collection": "VDI", "fields": [1]}), "body.fields"),
        (json!({"collection": "VDI", "colour": "red"}), "body.colour"),
    ] {
        let refusal = server.request("POST", &subscriptions(&id)).json(&body).send().refused(422..=422);
        assert!(refusal.error.get(member).is_some(), "{}", refusal.body);
    }
    let target = format!("{}/SR", subscriptions(&id));
    server.request("DELETE", &target).send().expect(204);
    create(&server, "a");
    stream.quiet();
}

#[test]
fn a_stream_is_its_users_own_and_ends_with_the_token_that_opened_it() {
    let server = Server::start();
    let other = token_of(&server, "ann", "viewer", &[]);
    let (stream, id) = events_of(&server, &other);
    let target = format!("/rest/v0/events/{id}/subscriptions");
    let body = json!({"collection": "VDI"});
    let refusal = server.request("POST", &target).json(&body).send().refused(404..=404);
    assert_eq!(refusal.text, format!("no such event {id}"));
    let cookie = format!("authenticationToken={other}");
    let theirs = || server.request("POST", &target).anonymous().header("Cookie", &cookie);
    theirs().json(&body).send().expect(201);
    let (mut mine, _) = events(&server);
    let users = server.json("/rest/v0/users?fields=id,email");
    let ann = users.as_array().and_then(|users| users.iter().find(|user| user["email"] == "ann")).cloned();
    let ann = ann.and_then(|user| user["id"].as_str().map(str::to_owned)).expect("an id");
    let token = format!("/rest/v0/users/{ann}/authentication_tokens/{other}");
    server.request("DELETE", &token).send().expect(204);
    let asked = Instant::now();
    // Cut as every transfer of a revoked token is: curl says that the end is missing.
    assert_eq!(stream.exit(), 18);
    assert!(asked.elapsed() < Duration::from_secs(8), "{:?}", asked.elapsed());
    mine.quiet();
}

#[test]
fn a_token_that_is_limited_to_a_disk_hears_of_that_disk_alone() {
    let server = Server::start();
    let (seen, hidden) = (create(&server, "seen"), create(&server, "hidden"));
    let token = token_of(&server, "ann", "operator", &["--object", &seen]);
    let (mut stream, id) = events_of(&server, &token);
    let cookie = format!("authenticationToken={token}");
    for kind in ["VDI", "SR", "task"] {
        let target = format!("/rest/v0/events/{id}/subscriptions");
        let request = server.request("POST", &target).anonymous().header("Cookie", &cookie);
        request.json(&json!({"collection": kind, "fields": ["id"]})).send().expect(201);
    }
    server.export_bytes(&hidden, "raw");
    delete(&server, &hidden);
    server.import("?raw", noise(512, 1));
    stream.quiet();
    delete(&server, &seen);
    assert_eq!(stream.event(), ("remove".into(), json!({"$subscription": "VDI", "id": seen})));
}

/// A client that asks for events and reads nothing after the first.
fn lazy(server: &Server) -> (Download, String) {
    let mut download = server.request("GET", "/rest/v0/events").open();
    rustix::net::sockopt::set_socket_recv_buffer_size(download.socket(), 64 << 10).expect("a small buffer");
    let init = String::from_utf8(download.take_bytes(64)).expect("text");
    let id = init.split('"').nth(3).expect("an id").to_owned();
    (download, id)
}

#[test]
fn a_client_that_does_not_read_is_dropped_and_nobody_else_suffers() {
    let server = Server::start();
    let vdi = create(&server, "a");
    let (download, lazy_id) = lazy(&server);
    subscribe(&server, &lazy_id, json!({"collection": "VDI"}));
    let (mut stream, id) = events(&server);
    subscribe(&server, &id, json!({"collection": "VDI", "fields": ["id", "name_label"]}));
    let before = server.memory("VmRSS");
    // Every event has most of a mebibyte, because tags may be long.
    let tags: Vec<String> = (0..15).map(|tag| format!("{tag}{}", "x".repeat(60_000))).collect();
    label(&server, &vdi, json!({ "tags": tags }));
    let target = format!("/rest/v0/events/{lazy_id}/subscriptions");
    let is_dropped = |count: u32| {
        label(&server, &vdi, json!({"name_label": format!("name {count}")}));
        let asked = server.request("POST", &target).json(&json!({"collection": "VDI"})).send();
        asked.head.status == 404
    };
    let dropped_after = (0..400).find(|count| is_dropped(*count)).expect("it is dropped at its bound");
    let grown = server.memory("VmHWM").saturating_sub(before);
    assert!(grown < 128 * MIB, "{grown} bytes for a stream that may hold 20 MiB");
    assert!(dropped_after >= 15, "not before some 20 MiB wait: after {dropped_after}");
    let last = format!("name {dropped_after}");
    stream.event_where("update", "VDI", |vdi| vdi["name_label"] == json!(last));
    wait::until(Duration::from_secs(10), || {
        let log = server.log();
        if log.contains("does not read is dropped") { Ok(()) } else { Err(log) }
    });
    download.rest().expect_err("its connection was cut");
}

#[test]
fn a_server_that_stops_ends_streams_at_once_and_cleanly() {
    let mut server = Server::start();
    create(&server, "a");
    let (mut stream, id) = events(&server);
    subscribe(&server, &id, json!({"collection": "VDI"}));
    let watch = Stream::open(&server, "/rest/v0/tasks?ndjson=true&watch=true");
    let (_unread, lazy_id) = lazy(&server);
    subscribe(&server, &lazy_id, json!({"collection": "VDI"}));
    let vdi = create(&server, "b");
    stream.event_where("add", "VDI", |added| added["id"] == json!(vdi));
    let asked = Instant::now();
    assert!(server.terminate().success());
    assert!(asked.elapsed() < Duration::from_secs(6), "{:?}", asked.elapsed());
    assert_eq!((stream.exit(), watch.exit()), (0, 0));
}

#[test]
fn events_come_over_http_2_as_well() {
    let server = Setup::default().tls().start();
    let curl = server.curl().arg("--http2");
    let (mut stream, id) = begun(Stream::open_with(curl, &server.url("/rest/v0/events")));
    let post = |target: &str, body: Value| {
        let sent = ["-X", "POST", "-H", "Content-Type: application/json", "-d", &body.to_string()];
        let done = server.curl().args(sent).run(&server.url(target));
        assert_eq!(done.status, 201, "{done:?}");
        done.json()
    };
    let fields = json!({"collection": "VDI", "fields": ["id"]});
    post(&format!("/rest/v0/events/{id}/subscriptions"), fields);
    let made = post("/rest/v0/vdis", json!({"srId": server.sr(), "virtual_size": MIB}));
    assert_eq!(stream.event(), ("add".into(), json!({"$subscription": "VDI", "id": made["id"]})));
}
