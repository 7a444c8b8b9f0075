//! Uploads that are refused before their body: the client reads the refusal, whatever it sends and however.

use std::path::PathBuf;
use std::process::Command;

use crate::support::MIB;
use crate::support::curl::{Curl, Done};
use crate::support::disk::noise;
use crate::support::server::{Server, Setup};
use crate::support::tools::program;

/// An upload that cannot succeed, whatever its body would be.
struct Wrong {
    what: &'static str,
    credentials: bool,
    target: String,
    method: &'static str,
    status: u16,
}

fn all(server: &Server) -> Vec<Wrong> {
    let wrong =
        |what, target: String, status| Wrong { what, credentials: true, target, method: "POST", status };
    let none = "00000000-0000-4000-8000-000000000000";
    let mut all = vec![
        wrong("an unknown SR", format!("/rest/v0/srs/{none}/vdis?raw"), 404),
        wrong("an SR's id that is none", "/rest/v0/srs/nonsense/vdis?raw".into(), 404),
        wrong("a parameter that is wrong", server.import_target("?raw=perhaps"), 422),
        wrong("a size that is no number", server.import_target("?raw&size=much"), 422),
        wrong("a size that is not in sectors", server.import_target("?raw&size=1000"), 422),
        wrong("an unknown route", "/rest/v0/nothing/here".into(), 404),
    ];
    all.push(Wrong { credentials: false, ..wrong("wrong credentials", server.import_target("?raw"), 401) });
    all.push(Wrong { method: "PUT", ..wrong("an unknown disk", format!("/rest/v0/vdis/{none}.raw"), 404) });
    all
}

/// A file large enough that the sockets' buffers cannot swallow it.
fn large_file(server: &Server) -> PathBuf {
    let file = server.path("large");
    std::fs::File::create(&file).and_then(|file| file.set_len(512 * MIB)).expect("it can be made");
    file
}

fn curl(server: &Server, wrong: &Wrong) -> Curl {
    let curl = if wrong.credentials { server.curl() } else { Curl::anonymous().args(["-b", "token=wrong"]) };
    curl.args(["-X", wrong.method])
}

#[track_caller]
fn readable(done: &Done, wrong: &Wrong, way: &str) {
    let what = wrong.what;
    assert_eq!(done.status, wrong.status, "{what}, {way}: {done:?}");
    let body = done.json();
    assert!(body["code"].is_string() && !body["error"].is_null(), "{what}, {way}: {body}");
    assert!(done.uploaded < 512 * MIB, "{what}, {way}: all of it was sent");
}

#[test]
fn with_expect_a_wrong_upload_is_refused_without_its_body() {
    let server = Server::start();
    for wrong in all(&server) {
        for chunked in [false, true] {
            let mut request = server.request(wrong.method, &wrong.target).header("Expect", "100-continue");
            if !wrong.credentials {
                request = request.anonymous().header("Cookie", "token=wrong");
            }
            let upload = if chunked { request.begin_chunked() } else { request.begin(Some(512 * MIB)) };
            // Not a byte of the body is sent: the answer must not wait for it, nor be preceded by a 100.
            let mut stream = upload.stream;
            let mut first = [0; 12];
            std::io::Read::read_exact(&mut stream, &mut first).expect("it answers");
            let first = String::from_utf8_lossy(&first).into_owned();
            assert_eq!(first, format!("HTTP/1.1 {}", wrong.status), "{}, chunked {chunked}", wrong.what);
        }
        let file = large_file(&server);
        let done = curl(&server, &wrong).arg("-T").arg(&file).run(&server.url(&wrong.target));
        readable(&done, &wrong, "curl with Expect");
        assert_eq!((done.exit, done.uploaded), (0, 0), "{}: {done:?}", wrong.what);
    }
    server.assert_empty("refused uploads");
}

#[test]
fn what_the_head_tells_about_the_length_is_checked_before_the_body() {
    let server = Server::start();
    let expect = |query: &str, length: u64| {
        let request = server.request("POST", &server.import_target(query)).header("Expect", "100-continue");
        let answer = request.begin(Some(length)).answer();
        (answer.head.status, answer.rest().expect("the whole answer"))
    };
    assert_eq!(expect("?raw", 1000).0, 422, "not in sectors");
    assert_eq!(expect("?raw&size=512", 1024).0, 422, "more than the size");
    let (status, body) = expect("?raw", 1 << 60);
    assert_eq!(status, 507, "no such room: {}", String::from_utf8_lossy(&body));
    let body: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
    assert!(body["code"].is_string(), "{body}");
    server.assert_empty("refused uploads");
}

#[test]
fn without_expect_and_with_a_length_the_refusal_can_be_read() {
    let server = Server::start();
    let file = large_file(&server);
    for wrong in all(&server) {
        let done =
            curl(&server, &wrong).args(["-H", "Expect:", "-T"]).arg(&file).run(&server.url(&wrong.target));
        readable(&done, &wrong, "with a length");
    }
    server.assert_empty("refused uploads");
}

#[test]
fn without_expect_and_in_chunks_the_refusal_can_be_read() {
    let server = Server::start();
    let file = large_file(&server);
    for wrong in all(&server) {
        let curl = curl(&server, &wrong).stdin(&file).args(["-H", "Expect:", "-T", "-"]);
        readable(&curl.run(&server.url(&wrong.target)), &wrong, "in chunks");
    }
    server.assert_empty("refused uploads");
}

#[test]
fn a_refused_chunked_upload_is_not_drained_without_limit() {
    let server = Server::start();
    let mut upload = server.request("POST", "/rest/v0/srs/nonsense/vdis?raw").begin_chunked();
    upload.stream.set_write_timeout(Some(std::time::Duration::from_secs(20))).expect("it can be set");
    // It goes on sending for ever: at some time the server must have had enough.
    let piece = noise(65_536, 1);
    let sent = (0..u64::MAX).find(|_| upload.chunk(&piece).is_err());
    let sent = sent.expect("an end") * 65_536;
    assert!(sent < 16 * 1024 * MIB, "{sent} bytes were taken from a refused upload");
}

#[test]
fn over_http_2_the_refusal_can_be_read() {
    let server = Setup::default().tls().start();
    let file = large_file(&server);
    for wrong in all(&server) {
        let done = curl(&server, &wrong).args(["--http2", "-T"]).arg(&file).run(&server.url(&wrong.target));
        assert_eq!(done.http, "2", "{done:?}");
        readable(&done, &wrong, "HTTP/2");
        let curl = curl(&server, &wrong).args(["--http1.1", "-H", "Expect:", "-T"]).arg(&file);
        readable(&curl.run(&server.url(&wrong.target)), &wrong, "HTTP/1.1 over TLS");
    }
}

#[test]
fn over_http_2_a_disk_goes_in_and_comes_out() {
    let server = Setup::default().tls().start();
    let content = noise(24 * MIB as usize, 1);
    let file = server.path("disk.raw");
    std::fs::write(&file, &content).expect("it can be written");
    for version in ["--http2", "--http1.1"] {
        let done =
            server.curl().arg(version).post_file(&file).run(&server.url(&server.import_target("?raw")));
        assert_eq!((done.exit, done.status), (0, 201), "{done:?}");
        let id = done.json()["id"].as_str().expect("an id").to_owned();
        let target = format!("/rest/v0/vdis/{id}.raw");
        let done = server.curl().arg(version).run(&server.url(&target));
        assert_eq!((done.exit, done.status), (0, 200), "{:?}", done.head);
        assert_eq!(done.head.length(), content.len() as u64);
        assert!(done.body == content, "{version}");
        let done = server.curl().args([version, "-r", "1000000-1999999"]).run(&server.url(&target));
        assert_eq!((done.exit, done.status), (0, 206), "{:?}", done.head);
        assert!(done.body == content[1_000_000..2_000_000], "{version}");
        let done = server.curl().args([version, "-I"]).run(&server.url(&target));
        assert_eq!((done.exit, done.status, done.head.length()), (0, 200, content.len() as u64));
        let done =
            server.curl().args([version, "-X", "DELETE"]).run(&server.url(&format!("/rest/v0/vdis/{id}")));
        assert_eq!((done.exit, done.status), (0, 204), "{done:?}");
    }
}

#[test]
fn nghttp_sees_the_refusal_before_the_stream_ends() {
    let server = Setup::default().tls().start();
    let file = large_file(&server);
    let url = server.url(&server.import_target("?raw=perhaps"));
    let mut command = Command::new(program("nghttp", "nghttp2-client"));
    command.args(["-v", "-y", "-t", "60", "-d"]).arg(&file);
    command
        .args(["-H", ":method: POST", "-H", &format!("cookie: authenticationToken={}", server.token())])
        .arg(&url);
    let output = command.output().expect("nghttp runs");
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(told.contains(":status: 422"), "{told}\n{}", String::from_utf8_lossy(&output.stderr));
}
