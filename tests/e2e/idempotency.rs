//! `Idempotency-Key` on POST: per user and address, 24 h; the same key again gives the same answer, while it runs 409
//! with the task, with other parameters 422.

use std::io::Read;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::MIB;
use crate::support::disk::{next, noise};
use crate::support::http::{Request, Response};
use crate::support::server::{Server, Setup, created, gantry};
use crate::support::wait;

const LEN: usize = 24 * MIB as usize;

trait Keyed {
    fn key(self, key: &str) -> Self;
}

impl Keyed for Request {
    fn key(self, key: &str) -> Self {
        self.header("Idempotency-Key", key)
    }
}

/// An upload of a raw disk with a key, ready to be sent.
fn upload(server: &Server, key: &str) -> Request {
    server.request("POST", &server.import_target("?raw&name_label=once")).key(key)
}

/// A request for an empty disk.
fn empty(server: &Server, key: &str) -> Request {
    let body = json!({ "srId": server.sr(), "virtual_size": MIB, "name_label": "empty" });
    server.request("POST", "/rest/v0/vdis").key(key).json(&body)
}

fn replayed(response: &Response) -> bool {
    response.head.header("Idempotent-Replayed") == Some("true")
}

/// Insists that both are the same answer, the second of them for the second time.
#[track_caller]
fn same(first: &Response, again: &Response) {
    assert!(!replayed(first), "{:?}", first.head);
    assert!(replayed(again), "{} {:?}", again.text(), again.head);
    assert_eq!((first.head.status, first.text()), (again.head.status, again.text()));
    for name in ["Location", "Content-Type", "Gantry-Task"] {
        assert_eq!(first.head.header(name), again.head.header(name), "{name}");
    }
}

#[test]
fn the_same_key_again_is_the_same_disk() {
    let server = Server::start();
    let file = server.path("disk.raw");
    std::fs::write(&file, noise(LEN, 1)).expect("it can be written");
    let url = server.url(&server.import_target("?raw&name_label=once"));
    let curl = || server.curl().args(["-H", "Idempotency-Key: 6fa1"]).post_file(&file);
    let first = curl().run(&url);
    assert_eq!((first.exit, first.status, first.uploaded), (0, 201, LEN as u64), "{first:?}");
    assert_eq!(first.head.header("Idempotent-Replayed"), None);
    let id = first.json()["id"].as_str().expect("an id").to_owned();

    let again = curl().run(&url);
    assert_eq!((again.exit, again.status, again.json()), (0, 201, first.json()), "{again:?}");
    assert_eq!(again.uploaded, 0, "curl asks first, and is told without its body: {again:?}");
    assert_eq!(again.head.need("Idempotent-Replayed"), "true");
    for name in ["Location", "Content-Type", "Gantry-Task"] {
        assert_eq!(again.head.need(name), first.head.need(name));
    }
    let quoted = server.curl().args(["-H", "Idempotency-Key: \"6fa1\""]).post_file(&file).run(&url);
    assert_eq!((quoted.status, quoted.json()), (201, first.json()), "quotes are syntax: {quoted:?}");
    assert_eq!(server.vdis(), [id]);

    let other = server.curl().args(["-H", "Idempotency-Key: 6fa2"]).post_file(&file).run(&url);
    assert_eq!(other.status, 201, "{other:?}");
    assert_eq!(server.vdis().len(), 2, "another key is another disk");
}

#[test]
fn an_answer_that_is_known_can_be_read_by_who_sends_the_body_all_the_same() {
    let server = Setup::default().tls().start();
    let file = server.path("disk.raw");
    std::fs::write(&file, noise(LEN, 1)).expect("it can be written");
    let url = server.url(&server.import_target("?raw"));
    for http in ["--http1.1", "--http2"] {
        let key = format!("Idempotency-Key: {http}");
        let curl = || server.curl().args([http, "-H", "Expect:", "-H", &key]).post_file(&file);
        let first = curl().run(&url);
        let again = curl().run(&url);
        assert_eq!((again.exit, again.status, again.json()), (0, 201, first.json()), "{http}: {again:?}");
        assert_eq!(again.head.need("Idempotent-Replayed"), "true", "{http}");
        let chunked = || {
            let curl =
                server.curl().args([http, "-H", "Expect:", "-H", &format!("{key}-chunked"), "-X", "POST"]);
            curl.args(["-T", "-"]).stdin(&file)
        };
        let (first, again) = (chunked().run(&url), chunked().run(&url));
        assert_eq!((again.exit, again.status, again.json()), (0, 201, first.json()), "{http}: {again:?}");
    }
    let vdis = server.curl().run(&server.url("/rest/v0/vdis")).json();
    assert_eq!(vdis.as_array().map(Vec::len), Some(4));
}

#[test]
fn a_known_answer_comes_instead_of_the_100() {
    let server = Server::start();
    created(&upload(&server, "k").body(noise(4096, 1)).send(), "vdis");
    let mut stream = upload(&server, "k").header("Expect", "100-continue").begin(Some(4096)).stream;
    let mut first = [0; 12];
    stream.read_exact(&mut first).expect("it answers");
    assert_eq!(String::from_utf8_lossy(&first), "HTTP/1.1 201");
}

#[test]
fn while_it_runs_the_same_key_is_409_with_the_task() {
    let server = Server::start();
    let content = noise(LEN, 1);
    let mut running = upload(&server, "k").begin(Some(LEN as u64));
    running.write(&content[..LEN / 2]).expect("it takes the first half");
    let task = wait::until(Duration::from_secs(10), || {
        let tasks = server.json("/rest/v0/tasks?fields=id");
        tasks[0]["id"].as_str().map(str::to_owned).ok_or_else(|| format!("no task in {tasks}"))
    });
    let in_progress = |request: Request| {
        let answer = request.begin(Some(LEN as u64)).answer();
        let head = answer.head.clone();
        let body: Value = serde_json::from_slice(&answer.rest().expect("all of it")).expect("JSON");
        (head, body)
    };
    // The task is noted just after it has begun.
    let (head, body) = wait::until(Duration::from_secs(10), || {
        let (head, body) = in_progress(upload(&server, "k"));
        if body["data"]["taskId"].is_string() { Ok((head, body)) } else { Err(body.to_string()) }
    });
    assert_eq!((head.status, &body["code"]), (409, &json!("idempotency_in_progress")), "{body}");
    assert_eq!(body["data"]["taskId"], task.as_str());
    assert_eq!(head.need("Location"), format!("/rest/v0/tasks/{task}"));
    let (head, body) = in_progress(upload(&server, "k").header("Expect", "100-continue"));
    assert_eq!((head.status, &body["data"]["taskId"]), (409, &json!(task)), "{body}");

    let other = server.request("POST", &server.import_target("?raw&name_label=other")).key("k");
    let (head, body) = in_progress(other);
    assert_eq!((head.status, &body["code"]), (422, &json!("idempotency_mismatch")), "{body}");

    running.write(&content[LEN / 2..]).expect("it takes the rest");
    let answer = running.answer();
    assert_eq!((answer.head.status, answer.head.need("Gantry-Task")), (201, task.as_str()));
    let answer: Value = serde_json::from_slice(&answer.rest().expect("all of it")).expect("JSON");
    let (head, body) = in_progress(upload(&server, "k"));
    assert_eq!((head.status, body), (201, answer));
    assert_eq!(server.vdis().len(), 1);
}

#[test]
fn other_parameters_are_422() {
    let server = Server::start();
    let first = upload(&server, "k").body(noise(4096, 1)).send();
    let id = created(&first, "vdis");
    let target = server.import_target("?raw&name_label=once");
    for (what, request) in [
        (
            "a name",
            server.request("POST", &server.import_target("?raw&name_label=twice")).body(noise(4096, 1)),
        ),
        ("a length", server.request("POST", &target).body(noise(8192, 1))),
        (
            "a digest",
            server.request("POST", &target).header("Content-Digest", "md5=:eg==:").body(noise(4096, 1)),
        ),
    ] {
        let refusal = request.key("k").send().refused(422..=422);
        assert_eq!(refusal.code, "idempotency_mismatch", "{what}: {}", refusal.body);
    }
    let reordered = server.import_target("/?name_label=o%6Ece&raw=");
    same(&first, &server.request("POST", &reordered).key("k").body(noise(4096, 1)).send());
    assert_eq!(server.vdis(), [id]);
}

#[test]
fn of_many_at_once_one_is_done() {
    let server = Server::start();
    for round in 0..3 {
        let key = format!("round {round}").replace(' ', "-");
        let statuses: Vec<(u16, String)> = std::thread::scope(|scope| {
            let all: Vec<_> = (0..6)
                .map(|number| {
                    let (server, key) = (&server, key.as_str());
                    scope.spawn(move || {
                        let request = if number % 2 == 0 {
                            upload(server, key).body(noise(MIB as usize, 1))
                        } else {
                            empty(server, key)
                        };
                        let answer = request.send();
                        (answer.head.status, answer.json()["id"].as_str().unwrap_or_default().to_owned())
                    })
                })
                .collect();
            all.into_iter().map(|one| one.join().expect("it answers")).collect()
        });
        let mut made: Vec<_> =
            statuses.iter().filter(|(status, _)| *status == 201).map(|(_, id)| id).collect();
        assert!(statuses.iter().all(|(status, _)| matches!(status, 201 | 409)), "{statuses:?}");
        made.sort();
        made.dedup();
        assert_eq!(made.len(), 2, "one by each address: {statuses:?}");
        assert_eq!(server.vdis().len(), 2 * (round + 1));
    }
}

#[test]
fn after_a_restart_the_answer_is_still_the_same() {
    let mut server = Server::start();
    let first = upload(&server, "k").header("Accept", "text/plain").body(noise(4096, 1)).send().expect(201);
    let disk = empty(&server, "k").send();
    created(&disk, "vdis");
    server.kill();
    server.start_again();
    same(&first, &upload(&server, "k").body(noise(4096, 1)).send());
    same(&disk, &empty(&server, "k").send());
    assert_eq!(server.vdis().len(), 2);
}

#[test]
fn kill_9_in_the_middle_of_an_upload_leaves_the_key_free_for_another_try() {
    let mut server = Server::start();
    let content = noise(LEN, 1);
    let mut running = upload(&server, "k").begin(Some(LEN as u64));
    running.write(&content[..LEN / 2]).expect("it takes the first half");
    wait::until(Duration::from_secs(20), || {
        if server.disk_files().is_empty() { Err("nothing is staged".to_owned()) } else { Ok(()) }
    });
    server.kill();
    server.start_again();
    let again = upload(&server, "k").body(content.clone()).send();
    let id = created(&again, "vdis");
    assert!(!replayed(&again));
    assert_eq!(server.vdis(), std::slice::from_ref(&id));
    assert!(server.export_bytes(&id, "raw") == content);
    same(&again, &upload(&server, "k").body(content).send());
}

/// What a server leaves that is killed between the commit and the answer.
fn unanswered(server: &Server) {
    let database = rusqlite::Connection::open(server.data().join("gantry.db")).expect("it is SQLite");
    let changed = database.execute("UPDATE idempotency SET answered = 0", []).expect("it is there");
    assert!(changed > 0);
}

#[test]
fn what_was_done_before_kill_9_and_not_answered_is_answered_afterwards() {
    let mut server = Server::start();
    let disk = upload(&server, "k").header("Accept", "text/plain").body(noise(4096, 1)).send().expect(201);
    let made = empty(&server, "k").send().expect(201);
    let new_sr = |server: &Server| {
        server.request("POST", "/rest/v0/srs").key("k").json(&json!({ "name_label": "second" })).send()
    };
    let sr = new_sr(&server).expect(201);
    let deleted = empty(&server, "deleted").send().expect(201);
    let deleted_id = deleted.json()["id"].as_str().expect("an id").to_owned();
    server.kill();
    unanswered(&server);
    server.start_again();
    // By then it is known that these were done, whatever becomes of their tasks and disks.
    server.request("DELETE", &format!("/rest/v0/vdis/{deleted_id}")).send().expect(204);
    server.request("DELETE", "/rest/v0/tasks").send().expect(204);
    same(&disk, &upload(&server, "k").body(noise(4096, 1)).send());
    same(&made, &empty(&server, "k").send());
    same(&sr, &new_sr(&server));
    same(&deleted, &empty(&server, "deleted").send());
    assert_eq!(server.vdis().len(), 2);
    assert_eq!(server.json("/rest/v0/srs").as_array().map(Vec::len), Some(2));
}

#[test]
fn kill_9_at_random_moments_and_the_same_key_again_make_one_disk() {
    let mut server = Server::start();
    let content = noise(LEN / 6, 7);
    let mut state = 0xF00D;
    for round in 0..10_usize {
        let key = format!("round-{round}");
        let json_only = round % 3 == 2;
        let request =
            if json_only { empty(&server, &key) } else { upload(&server, &key).body(content.clone()) };
        let writer = std::thread::spawn(move || {
            // Answered, or cut by the end of the server.
            std::panic::catch_unwind(|| request.send()).ok().filter(|answer| answer.head.status == 201)
        });
        let pause = if json_only { 6_000 } else { 60_000 };
        std::thread::sleep(Duration::from_micros(next(&mut state) % pause));
        server.kill();
        let told = writer.join().expect("the writer ends");
        server.start_again();
        let again =
            if json_only { empty(&server, &key) } else { upload(&server, &key).body(content.clone()) };
        let again = again.send();
        let id = created(&again, "vdis");
        if let Some(told) = told {
            same(&told, &again);
        }
        let vdis = server.vdis();
        assert_eq!(vdis.len(), round + 1, "round {round}: {vdis:?}");
        assert!(vdis.contains(&id));
    }
}

#[test]
fn a_client_that_hangs_up_finds_its_answer_later() {
    let server = Server::start();
    for round in 0..3 {
        let key = format!("round-{round}");
        let body = json!({ "srId": server.sr(), "virtual_size": MIB, "name_label": "empty" }).to_string();
        let request =
            server.request("POST", "/rest/v0/vdis").key(&key).header("Content-Type", "application/json");
        let mut hung_up = request.begin(Some(body.len() as u64));
        hung_up.write(body.as_bytes()).expect("it takes it");
        drop(hung_up);
        let mut hung_up = upload(&server, &key).begin(Some(MIB));
        hung_up.write(&noise(MIB as usize, 1)).expect("it takes it");
        drop(hung_up);
        let again = |send: &dyn Fn() -> Response| {
            wait::until(Duration::from_secs(10), || {
                let answer = send();
                if answer.head.status == 409 { Err(answer.text()) } else { Ok(answer) }
            })
        };
        created(&again(&|| empty(&server, &key).send()), "vdis");
        created(&again(&|| upload(&server, &key).body(noise(MIB as usize, 1)).send()), "vdis");
        assert_eq!(server.vdis().len(), 2 * (round + 1));
    }
}

#[test]
fn users_do_not_share_keys() {
    let server = Server::start();
    let add = gantry(["user", "add", "ann", "--role", "operator", "--data"]).arg(server.data()).output();
    let password = String::from_utf8(add.expect("it runs").stdout).expect("text").trim().to_owned();
    let by_admin = empty(&server, "k").send();
    let by_ann = empty(&server, "k").basic("ann", &password).send();
    assert_ne!(created(&by_admin, "vdis"), created(&by_ann, "vdis"));
    same(&by_ann, &empty(&server, "k").basic("ann", &password).send());
    same(&by_admin, &empty(&server, "k").send());
    let anonymous = empty(&server, "k").anonymous().send();
    assert_eq!(anonymous.head.status, 401, "who is not known gets no answer of others");
    assert!(!replayed(&anonymous));
    assert_eq!(server.vdis().len(), 2);
}

#[test]
fn a_token_with_fewer_rights_gets_no_answer_of_its_users_others() {
    let server = Server::start();
    empty(&server, "k").send().expect(201);
    let made = gantry(["token", "create", "--scope", "read", "--data"])
        .arg(server.data())
        .output()
        .expect("it runs");
    let cookie = format!("token={}", String::from_utf8_lossy(&made.stdout).trim());
    let refusal = empty(&server, "k").anonymous().header("Cookie", &cookie).send().refused(422..=422);
    assert_eq!(refusal.code, "idempotency_mismatch");
    empty(&server, "other").anonymous().header("Cookie", &cookie).send().refused(403..=403);
}

#[test]
fn every_post_takes_a_key() {
    let server = Server::start();
    let sr =
        || server.request("POST", "/rest/v0/srs").key("k").json(&json!({ "name_label": "second" })).send();
    let first = sr();
    let id = created(&first, "srs");
    same(&first, &sr());
    assert_eq!(server.json("/rest/v0/srs").as_array().map(Vec::len), Some(2));

    let forget = || server.request("POST", &format!("/rest/v0/srs/{id}/actions/forget")).key("k").send();
    let first = forget().expect(204);
    same(&first, &forget());
    server.request("POST", &format!("/rest/v0/srs/{id}/actions/forget")).send().refused(404..=404);

    let mut running = upload(&server, "to abort").without("Idempotency-Key").begin(Some(LEN as u64));
    running.write(&noise(LEN, 1)[..LEN / 2]).expect("it takes the first half");
    let task = wait::until(Duration::from_secs(10), || {
        let tasks = server.json("/rest/v0/tasks?fields=id");
        tasks[0]["id"].as_str().map(str::to_owned).ok_or_else(|| format!("no task in {tasks}"))
    });
    let target = format!("/rest/v0/tasks/{task}/actions/abort?sync");
    let abort = || server.request("POST", &target).key("k").send();
    let first = abort().expect(204);
    same(&first, &abort());
    server.request("POST", &target).send().refused(404..=404);
}

#[test]
fn a_form_and_json_in_another_order_are_the_same_request() {
    let server = Server::start();
    let first = server.request("POST", "/rest/v0/vdis").key("k").header("Content-Type", "application/json");
    let first = first
        .body(format!(r#"{{"name_label": "x", "virtual_size": 512, "srId": "{}"}}"#, server.sr()))
        .send();
    created(&first, "vdis");
    let again = server.request("POST", "/rest/v0/vdis").key("k").header("Content-Type", "application/json");
    let again =
        again.body(format!(r#"{{"srId":"{}","virtual_size":512,"name_label":"x"}}"#, server.sr())).send();
    same(&first, &again);
    assert_eq!(server.vdis().len(), 1);
}

#[test]
fn what_was_wrong_stays_wrong_and_what_was_in_the_way_may_be_gone() {
    let server = Server::start();
    let wrong =
        || server.request("POST", &server.import_target("?raw")).key("wrong").body(noise(1000, 1)).send();
    let first = wrong();
    first.refused(422..=422);
    same(&first, &wrong());
    let asked = || {
        let request = server.request("POST", &server.import_target("?raw=perhaps")).key("asked");
        request.header("Expect", "100-continue").begin(Some(4096)).answer().head
    };
    assert_eq!((asked().status, asked().header("Idempotent-Replayed")), (422, Some("true")));
    let bad =
        || server.request("POST", "/rest/v0/vdis").key("bad").json(&json!({ "srId": server.sr() })).send();
    let first = bad();
    first.refused(422..=422);
    same(&first, &bad());
    let image =
        || server.request("POST", &server.import_target("")).key("image").body(noise(100_000, 2)).send();
    let first = image();
    first.refused(422..=422);
    same(&first, &image());

    for _ in 0..2 {
        let request = server.request("POST", &server.import_target("?raw")).key("full");
        let answer = request.header("Expect", "100-continue").begin(Some(1 << 60)).answer();
        assert_eq!((answer.head.status, answer.head.header("Idempotent-Replayed")), (507, None));
    }
    let mut broken = upload(&server, "broken").begin(Some(LEN as u64));
    broken.write(&noise(LEN, 1)[..LEN / 2]).expect("it takes the first half");
    drop(broken);
    server.assert_empty("refused and broken uploads");
    let whole = wait::until(Duration::from_secs(10), || {
        let answer = upload(&server, "broken").body(noise(LEN, 1)).send();
        if answer.head.status == 409 { Err(answer.text()) } else { Ok(answer) }
    });
    created(&whole, "vdis");
    assert!(!replayed(&whole));
    same(&whole, &upload(&server, "broken").body(noise(LEN, 1)).send());
}

#[test]
fn a_key_that_is_none_is_refused_by_name() {
    let server = Server::start();
    for key in ["", "\"\"", "\"open", "two words", &"k".repeat(256)] {
        let refusal = empty(&server, key).send().refused(422..=422);
        assert!(refusal.error["Idempotency-Key"].is_object(), "{key}: {}", refusal.body);
        let answer = upload(&server, key).header("Expect", "100-continue").begin(Some(4096)).answer();
        assert_eq!(answer.head.status, 422, "{key}");
    }
    empty(&server, "a").key("b").send().refused(422..=422);
    server.assert_empty("requests with bad keys");
    empty(&server, &"k".repeat(255)).send().expect(201);
}

#[test]
fn a_secret_is_given_once_and_kept_nowhere() {
    let server = Server::start();
    let me = server.json("/rest/v0/users?fields=id")[0]["id"].as_str().expect("an id").to_owned();
    let target = format!("/rest/v0/users/{me}/authentication_tokens");
    let create = |body: &Value| server.request("POST", &target).key("k").json(body).send();
    let first = create(&json!({ "description": "once" })).expect(201);
    let secret = first.json()["token"]["id"].as_str().expect("a secret").to_owned();
    let refusal = create(&json!({ "description": "once" })).refused(409..=409);
    assert_eq!(
        (refusal.code.as_str(), &refusal.body["data"]["status"]),
        ("idempotency_answer_not_kept", &json!(201))
    );
    let list = server.json(&target);
    let made =
        list.as_array().expect("an array").iter().filter(|token| token["description"] == "once").count();
    assert_eq!(made, 1, "{list}");
    for file in ["gantry.db", "gantry.db-wal"] {
        let bytes = std::fs::read(server.data().join(file)).unwrap_or_default();
        assert!(!bytes.windows(secret.len()).any(|part| part == secret.as_bytes()), "{file} holds it");
    }
    let wrong = || server.request("POST", &target).key("wrong").json(&json!({ "expiresIn": "never" })).send();
    let first = wrong();
    first.refused(422..=422);
    same(&first, &wrong());
}

#[test]
fn other_methods_do_not_look_at_the_key() {
    let server = Server::start();
    let vdi = server.import("?raw", noise(4096, 1));
    for content in [noise(4096, 2), noise(4096, 3)] {
        let target = format!("/rest/v0/vdis/{vdi}.raw");
        server.request("PUT", &target).key("k").body(content.clone()).send().expect(204);
        assert!(server.export_bytes(&vdi, "raw") == content);
    }
}
