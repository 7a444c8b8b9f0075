//! The access log: one line for each request, when its answer is over.

use std::time::Duration;

use serde_json::{Value, json};

use crate::support::MIB;
use crate::support::disk::noise;
use crate::support::server::{Server, Setup};
use crate::support::wait;

fn lines(server: &Server) -> Vec<Value> {
    let log = server.log();
    let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines.filter(|line| line["target"] == "access").collect()
}

/// Waits for the line of a request.
#[track_caller]
fn line(server: &Server, method: &str, path: &str) -> Value {
    wait::until(Duration::from_secs(20), || {
        let lines = lines(server);
        let mut found = lines.iter().filter(|line| line["method"] == method && line["path"] == path);
        found.next().cloned().ok_or_else(|| format!("no {method} {path} in {lines:#?}"))
    })
}

#[test]
fn a_request_is_one_line_with_who_asked_and_what_was_answered() {
    let server = Server::start();
    let vdi = server.import("?raw", noise(100 << 10, 1));
    let path = format!("/rest/v0/vdis/{vdi}.raw");
    let answer = server.get(&path).expect(200);
    let line = line(&server, "GET", &path);
    assert_eq!((&line["status"], &line["bytes"]), (&json!(200), &json!(100 << 10)));
    assert_eq!((&line["user"], &line["from"]), (&json!("admin"), &json!("127.0.0.1")));
    assert_eq!((&line["end"], &line["protocol"]), (&json!("complete"), &json!("HTTP/1.1")));
    assert_eq!(line["task"], answer.head.need("Gantry-Task"));
    assert!(line["ms"].is_u64() && line["level"] == "INFO", "{line}");
    let upload = self::line(&server, "POST", &server.import_target("?raw"));
    assert_eq!((&upload["status"], upload["task"].is_string()), (&json!(201), true));
    let count = lines(&server).iter().filter(|line| line["path"] == json!(path)).count();
    assert_eq!(count, 1);
}

#[test]
fn an_answer_that_broke_off_says_so() {
    let server = Server::start();
    let vdi = server.import("?raw", noise(32 * MIB as usize, 1));
    let path = format!("/rest/v0/vdis/{vdi}.raw");
    let mut download = server.request("GET", &path).open();
    download.take_bytes(100_000);
    drop(download);
    let line = line(&server, "GET", &path);
    assert_eq!(line["end"], "broken off", "{line}");
    assert!(line["bytes"].as_u64().is_some_and(|bytes| (100_000..32 * MIB).contains(&bytes)), "{line}");
}

#[test]
fn secrets_are_in_no_line() {
    let server = Server::start();
    let token = server.token().to_owned();
    server.request("DELETE", &format!("/rest/v0/users/x/authentication_tokens/{token}")).send().expect(404);
    server.get(&format!("/rest/v0/srs?token=abc123&filter={token}&otp=123456")).expect(200);
    line(&server, "DELETE", "/rest/v0/users/x/authentication_tokens/***");
    line(&server, "GET", "/rest/v0/srs?token=***&filter=***&otp=***");
    assert!(!server.log().contains(&token));
}

#[test]
fn what_is_refused_without_a_look_at_a_route_has_its_line_too() {
    let server = Server::start();
    server.request("GET", "/rest/v0/srs").anonymous().send().expect(401);
    let line = line(&server, "GET", "/rest/v0/srs");
    let target = server.import_target("?raw&size=1000");
    let refused = server.request("POST", &target).header("Expect", "100-continue").begin(Some(1000)).answer();
    assert_eq!(refused.head.status, 422);
    drop(refused);
    assert_eq!(self::line(&server, "POST", &target)["status"], 422);
    let of_anybody = lines(&server).into_iter().find(|line| line["status"] == 401);
    assert!(of_anybody.is_some_and(|line| line.get("user").is_none_or(Value::is_null)), "{line}");
}

#[test]
fn behind_a_trusted_proxy_the_clients_address_counts_and_nobody_elses_word() {
    let server = Setup::default().config("[http]\ntrusted_proxies = [\"127.0.0.1\"]").start();
    let from = |query: &str, headers: &[(&str, &str)]| {
        let mut request = server.request("GET", &format!("/rest/v0/ping?{query}"));
        for (name, value) in headers {
            request = request.header(name, value);
        }
        request.send().expect(200);
        line(&server, "GET", &format!("/rest/v0/ping?{query}"))["from"].clone()
    };
    assert_eq!(from("a", &[("X-Forwarded-For", "127.0.0.9, 203.0.113.7")]), "203.0.113.7");
    assert_eq!(from("b", &[("Forwarded", "for=10.0.0.1, for=\"[2001:db8::7]:99\"")]), "2001:db8::7");
    let both = [("X-Forwarded-For", "203.0.113.7"), ("Forwarded", "for=198.51.100.1")];
    assert_eq!(from("c", &both), "127.0.0.1");
    let plain = Server::start();
    plain.request("GET", "/rest/v0/ping").header("X-Forwarded-For", "203.0.113.7").send().expect(200);
    assert_eq!(line(&plain, "GET", "/rest/v0/ping")["from"], "127.0.0.1");
}

#[test]
fn the_address_behind_a_proxy_is_the_one_whose_failed_logins_count() {
    let proxy =
        "[http]\ntrusted_proxies = [\"127.0.0.1\"]\n[auth]\nfailures_per_address = 2\nfailure_delay = \"0s\"";
    let server = Setup::default().config(proxy).start();
    let login = |from: &str, password: &str| {
        let request = server.request("GET", "/rest/v0/srs").basic("admin", password);
        request.header("X-Forwarded-For", from).send().head.status
    };
    // What a client claims in front of its own address does not give it another try.
    assert_eq!(login("192.0.2.1, 203.0.113.7", "wrong"), 401);
    assert_eq!(login("192.0.2.2, 203.0.113.7", "wrong"), 401);
    assert_eq!(login("192.0.2.3, 203.0.113.7", "wrong"), 429);
    assert_eq!(login("203.0.113.8", crate::support::server::PASSWORD), 200);
    let audit = server.json("/rest/v0/audit?fields=from&filter=action:login%20outcome:refused");
    assert!(audit.as_array().expect("a list").iter().all(|one| one["from"] == "203.0.113.7"), "{audit}");
}
