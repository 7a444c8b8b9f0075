//! The audit: who did what, from where, and what came of it, in a chain that shows when it was changed.

use std::process::Output;

use serde_json::{Value, json};

use crate::support::disk::noise;
use crate::support::server::{PASSWORD, Server, Setup, created, gantry, gantry_run, scratch};
use crate::support::wait;

/// The records, the oldest first.
#[track_caller]
fn records(server: &Server) -> Vec<Value> {
    let text = server.get("/rest/v0/audit?fields=*&ndjson").expect(200);
    let text = String::from_utf8(text.body).expect("UTF-8");
    let mut records: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect();
    records.reverse();
    records
}

fn of<'a>(records: &'a [Value], action: &str) -> Vec<&'a Value> {
    records.iter().filter(|record| record["action"] == action).collect()
}

/// The intent and the outcome of an action that was done once.
#[track_caller]
fn done_once<'a>(records: &'a [Value], action: &str) -> (&'a Value, &'a Value) {
    let found = of(records, action);
    let [intent, outcome] = found[..] else { panic!("{action}: {found:#?}") };
    assert_eq!(intent["outcome"], "intended", "{intent}");
    assert_eq!(outcome["intent"], intent["seq"], "{outcome}");
    (intent, outcome)
}

fn check(server: &Server) -> Output {
    let data = server.data().display().to_string();
    gantry_run(["check", "--audit", "--data", &data])
}

#[test]
fn imports_exports_and_deletions_are_written_down_with_who_and_from_where() {
    let server = Server::start();
    let vdi = server.import("?raw&name_label=secret%20plans", noise(4096, 1));
    server.export_bytes(&vdi, "raw");
    let content = server.request("PUT", &format!("/rest/v0/vdis/{vdi}.raw")).body(noise(4096, 2));
    content.send().expect(204);
    server.request("DELETE", &format!("/rest/v0/vdis/{vdi}")).send().expect(204);
    let records = records(&server);
    let (intent, imported) = done_once(&records, "vdi.import");
    assert_eq!(intent["object"], json!({ "type": "VDI", "name": "secret plans" }));
    assert_eq!(imported["outcome"], "success");
    assert_eq!((&imported["object"]["id"], &imported["from"]), (&json!(vdi), &json!("127.0.0.1")));
    assert_eq!((&imported["user_name"], &imported["via"]), (&json!("admin"), &json!("rest")));
    assert_eq!(imported["token"].as_str().map(str::len), Some(16), "the public id: {imported}");
    assert!(imported["task"].is_string() && imported["time"].is_u64(), "{imported}");
    let exports = of(&records, "vdi.export");
    assert_eq!(exports.len(), 1);
    assert_eq!(
        (&exports[0]["object"]["id"], &exports[0]["object"]["name"]),
        (&json!(vdi), &json!("secret plans"))
    );
    assert_eq!(done_once(&records, "vdi.replace").1["outcome"], "success");
    let (intent, deleted) = done_once(&records, "vdi.delete");
    assert_eq!((&intent["object"]["name"], &deleted["outcome"]), (&json!("secret plans"), &json!("success")));
    assert!(!format!("{records:?}").contains(server.token()), "no secret is in it");
}

#[test]
fn a_request_that_writes_its_address_in_another_way_is_written_down_all_the_same() {
    let server = Server::start();
    let vdi = server.import("?raw", noise(4096, 1));
    server.request("DELETE", &format!("/rest/v0/%76di%73/{vdi}/")).send().expect(204);
    let records = records(&server);
    assert_eq!(done_once(&records, "vdi.delete").1["object"]["id"], json!(vdi));
}

#[test]
fn many_requests_of_one_download_are_one_record() {
    let server = Server::start();
    let vdi = server.import("?raw", noise(64 << 10, 1));
    for offset in 0..16 {
        server.slice(&vdi, "raw", offset * 4096, 4096);
    }
    assert_eq!(of(&records(&server), "vdi.export").len(), 1);
}

#[test]
fn what_is_refused_is_written_down_with_its_code() {
    let server = Server::start();
    let vdi = server.import("?raw&name_label=x", noise(4096, 1));
    let data = server.data().display().to_string();
    gantry_run(["user", "add", "eve", "--data", &data]);
    let token = gantry_run(["token", "create", "--user", "eve", "--data", &data]);
    let cookie = format!("authenticationToken={}", String::from_utf8_lossy(&token.stdout).trim());
    let eve = |method: &str, path: &str| {
        server.request(method, path).anonymous().header("Cookie", &cookie).send().refused(403..=403)
    };
    eve("GET", &format!("/rest/v0/vdis/{vdi}.raw"));
    eve("DELETE", &format!("/rest/v0/vdis/{vdi}"));
    eve("GET", "/rest/v0/audit");
    let gone = "00000000-0000-4000-8000-000000000000";
    server.request("DELETE", &format!("/rest/v0/vdis/{gone}")).send().expect(404);
    let records = records(&server);
    let exports = of(&records, "vdi.export");
    assert_eq!((exports.len(), &exports[0]["code"]), (1, &json!("not_enough_privileges")));
    assert_eq!((&exports[0]["user_name"], &exports[0]["outcome"]), (&json!("eve"), &json!("refused")));
    let deletions = of(&records, "vdi.delete");
    assert_eq!(deletions.len(), 4, "two intents, two outcomes: {deletions:#?}");
    assert_eq!(
        (&deletions[1]["code"], &deletions[1]["outcome"]),
        (&json!("not_enough_privileges"), &json!("refused"))
    );
    assert_eq!(deletions[3]["code"], "no_such_object");
    // What the command line did is in the same chain.
    let (_, made) = done_once(&records, "user.create");
    assert_eq!((&made["object"]["name"], &made["via"]), (&json!("eve"), &json!("cli")));
    assert!(made["from"].as_str().is_some_and(|from| from.starts_with("uid ")), "{made}");
    assert!(of(&records, "token.create").iter().any(|one| one["object"]["id"].is_string()));
}

#[test]
fn an_upload_that_is_refused_before_its_body_is_written_down() {
    let server = Server::start();
    let request =
        server.request("POST", &server.import_target("?raw&size=100")).header("Expect", "100-continue");
    let refusal = request.begin(Some(4096)).answer();
    assert!((400..500).contains(&refusal.head.status), "{:?}", refusal.head);
    let records = records(&server);
    let imports = of(&records, "vdi.import");
    assert_eq!((imports.len(), &imports[0]["outcome"]), (1, &json!("refused")), "{imports:#?}");
    assert!(imports[0]["code"].is_string());
}

#[test]
fn logins_are_written_down_and_passwords_are_not() {
    let server = Setup::default().config("[auth]\nfailure_delay = \"0s\"").start();
    let login = |name: &str, password: &str| {
        server.request("GET", "/rest/v0/srs").basic(name, password).send().head.status
    };
    assert_eq!(login("admin", "wrong-guess"), 401);
    assert_eq!(login("nobody", "wrong-guess"), 401);
    assert_eq!(login("admin", PASSWORD), 200);
    assert_eq!(login("admin", PASSWORD), 200);
    let bad = server.request("GET", "/rest/v0/srs").anonymous().header("Cookie", "token=guess");
    bad.send().expect(401);
    let records = records(&server);
    let logins: Vec<(&str, Option<&str>)> = of(&records, "login")
        .iter()
        .map(|one| (one["outcome"].as_str().expect("a word"), one["user_name"].as_str()))
        .collect();
    let refused = "refused";
    let expected =
        [(refused, Some("admin")), (refused, Some("nobody")), ("success", Some("admin")), (refused, None)];
    assert_eq!(logins, expected);
    let text = format!("{records:?}");
    assert!(!text.contains("wrong-guess") && !text.contains(PASSWORD));
}

#[test]
fn tokens_are_written_down_by_their_public_ids() {
    let server = Server::start();
    let made = server.request("POST", "/rest/v0/users/authentication_tokens");
    let made = made.json(&json!({ "description": "nightly" })).send().expect(201).json();
    let secret = made["token"]["id"].as_str().expect("a secret").to_owned();
    let user = made["token"]["user_id"].as_str().expect("a user").to_owned();
    server
        .request("DELETE", &format!("/rest/v0/users/{user}/authentication_tokens/{secret}"))
        .send()
        .expect(204);
    let records = records(&server);
    let created = *of(&records, "token.create").last().expect("it is there");
    assert_eq!((&created["object"]["name"], &created["via"]), (&json!("nightly"), &json!("rest")));
    let (_, revoked) = done_once(&records, "token.revoke");
    assert_eq!(revoked["object"]["id"], created["object"]["id"]);
    assert_eq!(revoked["object"]["id"].as_str().map(str::len), Some(16));
    assert!(!format!("{records:?}").contains(&secret));
}

#[test]
fn what_goes_on_as_a_task_is_written_down_when_it_has_ended() {
    let server = Server::start();
    let vdi = server.import("?raw&name_label=x", noise(4096, 1));
    let taken = server.request("POST", &format!("/rest/v0/vdis/{vdi}/actions/snapshot")).send().expect(202);
    let task = taken.json()["taskId"].as_str().expect("a task").to_owned();
    wait::until(std::time::Duration::from_secs(20), || {
        let records = records(&server);
        match of(&records, "vdi.snapshot")[..] {
            [_, ended] if ended["outcome"] == "success" && ended["task"] == json!(task) => Ok(()),
            ref other => Err(format!("{other:?}")),
        }
    });
}

#[test]
fn the_audit_is_a_collection_like_others() {
    let server = Server::start();
    for seed in 0..3 {
        server.import("?raw", noise(4096, seed));
    }
    let links = server.json("/rest/v0/audit?limit=2");
    let links: Vec<&str> = links.as_array().expect("a list").iter().filter_map(Value::as_str).collect();
    assert_eq!(links.len(), 2);
    let newest = server.json(links[0]);
    assert_eq!(format!("/rest/v0/audit/{}", newest["id"].as_str().expect("an id")), links[0]);
    assert_eq!((&newest["action"], newest["hash"].as_str().map(str::len)), (&json!("vdi.import"), Some(64)));
    let filtered = server.json("/rest/v0/audit?filter=action:vdi.import%20outcome:success&fields=action,seq");
    let filtered = filtered.as_array().expect("a list");
    assert_eq!(filtered.len(), 3);
    assert!(filtered.iter().all(|one| one["action"] == "vdi.import" && one.get("hash").is_none()));
    server.get("/rest/v0/audit/999999").expect(404);
    server.get("/rest/v0/audit?filter=(").expect(400);
    server.request("DELETE", "/rest/v0/audit").send().expect(404);
}

#[test]
fn the_chain_is_checked_beside_a_server_or_without_one_and_a_change_shows() {
    let mut server = Server::start();
    let vdi = server.import("?raw&name_label=x", noise(4096, 1));
    server.request("DELETE", &format!("/rest/v0/vdis/{vdi}")).send().expect(204);
    let sound = check(&server);
    assert_eq!(sound.status.code(), Some(0), "{sound:?}");
    assert!(String::from_utf8_lossy(&sound.stdout).contains("is whole"), "{sound:?}");
    server.terminate();
    assert_eq!(check(&server).status.code(), Some(0));
    let database = rusqlite::Connection::open(server.data().join("gantry.db")).expect("it is SQLite");
    let refused = database.execute("UPDATE audit SET record = '{}' WHERE seq = 3", []);
    assert!(refused.is_err_and(|error| error.to_string().contains("append-only")));
    database
        .execute_batch(
            "DROP TRIGGER audit_is_not_changed;
             UPDATE audit SET record = replace(record, 'admin', 'alice') WHERE seq = 3;",
        )
        .expect("it can be changed by force");
    drop(database);
    let broken = check(&server);
    assert_eq!(broken.status.code(), Some(4), "{broken:?}");
    assert!(String::from_utf8_lossy(&broken.stdout).contains("at record 3"), "{broken:?}");
    let data = server.data().display().to_string();
    let report = gantry_run(["check", "--audit", "--json", "--data", &data]);
    let report: Value = serde_json::from_slice(&report.stdout).expect("JSON");
    assert_eq!(report["problems"][0]["record"], 3, "{report}");
    let nothing = scratch();
    let missing = gantry_run(["check", "--audit", "--data", &nothing.path().display().to_string()]);
    assert_eq!(missing.status.code(), Some(1), "{missing:?}");
    assert_eq!(gantry(["check"]).output().expect("it runs").status.code(), Some(2));
}

#[test]
fn what_cannot_be_written_down_is_not_done() {
    let server = Server::start();
    let vdi = server.import("?raw", noise(4096, 1));
    let database = rusqlite::Connection::open(server.data().join("gantry.db")).expect("it is SQLite");
    database
        .execute_batch(
            "CREATE TRIGGER full BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'no room'); END;",
        )
        .expect("it can be made");
    let refused = |method: &str, target: &str| {
        let refusal = server.request(method, target).send().refused(503..=503);
        assert_eq!(refusal.code, "audit_unavailable", "{method} {target}: {refusal:?}");
    };
    refused("DELETE", &format!("/rest/v0/vdis/{vdi}"));
    refused("GET", &format!("/rest/v0/vdis/{vdi}.raw"));
    refused("POST", &server.import_target("?raw"));
    refused("POST", "/rest/v0/users/authentication_tokens");
    let login = server.request("GET", "/rest/v0/srs").basic("admin", PASSWORD).send().refused(503..=503);
    assert_eq!(login.code, "audit_unavailable");
    let data = server.data().display().to_string();
    let output = gantry_run(["token", "create", "--data", &data]);
    assert_eq!((output.status.code(), output.stdout.is_empty()), (Some(1), true), "{output:?}");
    database.execute_batch("DROP TRIGGER full").expect("it can go");
    assert_eq!(server.vdis(), std::slice::from_ref(&vdi), "nothing has happened");
    server.request("DELETE", &format!("/rest/v0/vdis/{vdi}")).send().expect(204);
}

#[test]
fn old_records_go_with_a_start_and_the_rest_still_verifies() {
    let mut server = Setup::default().config("[audit]\nkeep = \"1s\"").start();
    created(&server.request("POST", &server.import_target("?raw")).body(noise(4096, 1)).send(), "vdis");
    server.terminate();
    let last = || {
        let database = rusqlite::Connection::open(server.data().join("gantry.db")).expect("it is SQLite");
        let newest = database.query_row("SELECT max(time_ms) FROM audit", [], |row| row.get::<_, i64>(0));
        newest.expect("there are records")
    };
    let newest = last();
    wait::until(std::time::Duration::from_secs(10), || {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a time");
        if now.as_millis() > (newest + 1100).unsigned_abs().into() {
            Ok(())
        } else {
            Err("too new".to_owned())
        }
    });
    server.start_again();
    wait::until(std::time::Duration::from_secs(10), || match records(&server).len() {
        0 => Ok(()),
        left => Err(format!("{left} records are left")),
    });
    let sound = check(&server);
    assert_eq!(sound.status.code(), Some(0), "{sound:?}");
    assert!(String::from_utf8_lossy(&sound.stdout).contains("cut off"), "{sound:?}");
    server.import("?raw", noise(4096, 2));
    assert_eq!(of(&records(&server), "vdi.import").len(), 2);
    assert_eq!(check(&server).status.code(), Some(0));
}
