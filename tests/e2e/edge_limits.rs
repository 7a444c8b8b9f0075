//! What a request may not exceed, and how a client is told.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use crate::support::server::{Server, Setup};

/// Sends bytes and reads until the server closes; what came back.
fn raw(server: &Server, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(server.address()).expect("it accepts connections");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("it can be set");
    // It may close while we still send.
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn a_head_that_is_too_long_is_refused_and_its_connection_closed() {
    let server = Server::start();
    let many: String = (0..200).map(|n| format!("X-{n}: 1\r\n")).collect();
    let answer = raw(&server, format!("GET /rest/v0/ping HTTP/1.1\r\nHost: x\r\n{many}\r\n").as_bytes());
    assert!(answer.starts_with("HTTP/1.1 400") || answer.starts_with("HTTP/1.1 431"), "{answer}");
    let long = "a".repeat(300 << 10);
    let answer =
        raw(&server, format!("GET /rest/v0/ping HTTP/1.1\r\nHost: x\r\nX-Long: {long}\r\n\r\n").as_bytes());
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    server.get("/rest/v0/ping").expect(200);
}

#[test]
fn a_query_that_is_too_long_is_414_and_says_how_long_it_may_be() {
    let server = Server::start();
    let target = |bytes: usize| format!("/rest/v0/srs?x={}", "a".repeat(bytes - 2));
    server.get(&target(60 << 10)).expect(200);
    let refusal = server.get(&target((60 << 10) + 1)).refused(414..=414);
    assert_eq!(refusal.code, "query_too_long");
    assert!(refusal.text.contains("61440"), "{}", refusal.text);
    // Longer addresses are the HTTP library's business.
    let answer = server.request("GET", &target(70 << 10)).try_send();
    assert!(answer.is_err() || answer.is_ok_and(|answer| (400..500).contains(&answer.head.status)));
    let upload =
        server.request("POST", &format!("{}&x={}", server.import_target("?raw"), "a".repeat(61 << 10)));
    let refused = upload.header("Expect", "100-continue").begin(Some(4096)).answer();
    assert_eq!(refused.head.status, 414);
}

#[test]
fn bodies_of_parameters_are_bounded_in_both_forms() {
    let server = Setup::default().config("[http]\nmax_json = \"2KiB\"").start();
    for (kind, body) in [
        ("application/json", format!("{{\"name_label\": \"{}\"}}", "a".repeat(3000))),
        ("application/x-www-form-urlencoded", format!("name_label={}", "a".repeat(3000))),
    ] {
        let request = server.request("POST", "/rest/v0/vdis").header("Content-Type", kind);
        let refusal = request.clone().body(body.clone()).send().refused(413..=413);
        assert_eq!(refusal.code, "body_too_long", "{kind}");
        assert_eq!(request.send_chunked(body.as_bytes(), 100).refused(413..=413).code, "body_too_long");
    }
}

#[test]
fn a_connection_on_which_nothing_is_asked_is_closed() {
    let server = Setup::default().config("[http]\nidle_timeout = \"1s\"\nhead_timeout = \"1s\"").start();
    let mut stream = TcpStream::connect(server.address()).expect("it accepts connections");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("it can be set");
    let begun = Instant::now();
    stream.write_all(b"GET /rest/v0/ping HTTP/1.1\r\nHost: x\r\n\r\n").expect("it takes it");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("it closes gently");
    assert!(answer.starts_with(b"HTTP/1.1 200"));
    assert!(begun.elapsed() >= Duration::from_millis(500), "{:?}", begun.elapsed());
}

#[test]
fn half_a_head_on_a_used_connection_does_not_hold_it() {
    let server = Setup::default().config("[http]\nidle_timeout = \"1s\"\nhead_timeout = \"1s\"").start();
    let mut stream = TcpStream::connect(server.address()).expect("it accepts connections");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("it can be set");
    stream.write_all(b"GET /rest/v0/ping HTTP/1.1\r\nHost: x\r\n\r\nGET /rest/v0/pi").expect("it takes it");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    assert!(answer.starts_with(b"HTTP/1.1 200"));
}
