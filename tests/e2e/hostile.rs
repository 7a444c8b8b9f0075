//! What the outside may do to a server: nonsense on the wire, files that change behind its back, many at once.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use crate::support::MIB;
use crate::support::disk::noise;
use crate::support::server::Server;

const LEN: usize = 24 * MIB as usize;

/// Sends bytes as they are, and returns all that comes back until the other side closes.
fn exchange(server: &Server, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(server.address()).expect("it accepts connections");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("it can be set");
    let _ = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8_lossy(&answer).into_owned()
}

#[test]
fn nonsense_on_the_wire_harms_nobody() {
    let server = Server::start();
    let cookie = format!("Cookie: authenticationToken={}\r\n", server.token());
    let long = "x".repeat(1 << 20);
    let target = server.import_target("?raw");
    let cases = [
        noise(10_000, 1),
        b"\r\n\r\n\r\n".to_vec(),
        b"GET\r\n\r\n".to_vec(),
        b"GET / HTTP/9.9\r\n\r\n".to_vec(),
        format!("GET /rest/v0/vdis?{long} HTTP/1.1\r\nHost: x\r\n{cookie}Connection: close\r\n\r\n").into_bytes(),
        format!("GET /rest/v0/vdis HTTP/1.1\r\nHost: x\r\nX: {long}\r\n{cookie}Connection: close\r\n\r\n").into_bytes(),
        format!("POST {target} HTTP/1.1\r\nHost: x\r\n{cookie}Content-Length: -1\r\n\r\n").into_bytes(),
        format!("POST {target} HTTP/1.1\r\nHost: x\r\n{cookie}Content-Length: 512\r\nContent-Length: 513\r\n\r\n").into_bytes(),
        format!("POST {target} HTTP/1.1\r\nHost: x\r\n{cookie}Content-Length: 99999999999999999999\r\n\r\n").into_bytes(),
        format!("POST {target} HTTP/1.1\r\nHost: x\r\n{cookie}Transfer-Encoding: chunked\r\n\r\nfffffffffffffffffff\r\n").into_bytes(),
        format!("GET /rest/v0/vdis/%00%ff%zz HTTP/1.1\r\nHost: x\r\n{cookie}Connection: close\r\n\r\n").into_bytes(),
        format!("GET /rest/v0/vdis?limit=%ff%fe HTTP/1.1\r\nHost: x\r\n{cookie}Connection: close\r\n\r\n").into_bytes(),
        format!("GET /rest/v0/../../etc/passwd HTTP/1.1\r\nHost: x\r\n{cookie}Connection: close\r\n\r\n").into_bytes(),
        format!("GET /rest/v0/vdis/..%2f..%2fx.raw HTTP/1.1\r\nHost: x\r\n{cookie}Connection: close\r\n\r\n").into_bytes(),
    ];
    for case in cases {
        // The peer that sends half a request and no more is closed by a time limit, or by us.
        let answer = exchange(&server, &case);
        let head = answer.lines().next().unwrap_or_default();
        let shown = String::from_utf8_lossy(&case[..case.len().min(120)]).into_owned();
        assert!(head.is_empty() || head.starts_with("HTTP/1.1 4"), "{head:?} to {shown:?}");
    }
    server.get("/rest/v0/vdis").expect(200);
    server.assert_empty("nonsense");
}

#[test]
fn a_length_and_chunks_together_never_hide_a_second_request() {
    let server = Server::start();
    let cookie = format!("Cookie: authenticationToken={}\r\n", server.token());
    let target = server.import_target("?raw");
    let hidden = format!("GET /rest/v0/hidden HTTP/1.1\r\nHost: x\r\n{cookie}Connection: close\r\n\r\n");
    let request = format!(
        "POST {target} HTTP/1.1\r\nHost: x\r\n{cookie}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{hidden}"
    );
    let answer = exchange(&server, request.as_bytes());
    assert!(answer.starts_with("HTTP/1.1 4"), "{answer}");
    assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{answer}");
    server.assert_empty("an ambiguous request");
}

#[test]
fn one_connection_takes_requests_of_every_kind_one_after_the_other() {
    let server = Server::start();
    let content = noise(100_352, 1);
    let vdi = server.import("?raw", content.clone());
    let mut stream = TcpStream::connect(server.address()).expect("it accepts connections");
    stream.set_read_timeout(Some(Duration::from_secs(30))).expect("it can be set");
    let mut ask = |method: &str, target: &str, headers: &str, body: &[u8]| -> (u16, Vec<u8>) {
        let length =
            if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
        let head = format!(
            "{method} {target} HTTP/1.1\r\nHost: x\r\nCookie: authenticationToken={}\r\n{headers}{length}\r\n",
            server.token()
        );
        stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(body)).expect("it takes it");
        let mut answer = Vec::new();
        while !answer.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).expect("it answers");
            answer.push(byte[0]);
        }
        let head = String::from_utf8(answer).expect("text");
        let status = head[9..12].parse().expect("a status");
        let length = head
            .lines()
            .find_map(|line| line.to_ascii_lowercase().strip_prefix("content-length: ")?.parse().ok());
        let mut body = vec![0; if method == "HEAD" { 0 } else { length.unwrap_or(0) }];
        stream.read_exact(&mut body).expect("it answers");
        (status, body)
    };
    let raw = format!("/rest/v0/vdis/{vdi}.raw");
    let object = format!("/rest/v0/vdis/{vdi}");
    let other = format!("/rest/v0/vdis/{}.raw", server.import("?raw", content.clone()));
    for _ in 0..3 {
        assert_eq!(ask("HEAD", &raw, "", b"").0, 200);
        assert_eq!(ask("GET", &raw, "Range: bytes=0-9\r\n", b""), (206, content[..10].to_vec()));
        assert_eq!(ask("GET", &raw, "Range: bytes=999999-\r\n", b"").0, 416);
        let patch = br#"{"name_label": "x"}"#;
        assert_eq!(ask("PATCH", &object, "Content-Type: application/json\r\n", patch).0, 204);
        assert_eq!(ask("GET", &raw, "", b""), (200, content.clone()));
        assert_eq!(ask("GET", &object, "", b"").0, 200);
        assert_eq!(ask("PUT", &other, "", &content).0, 204);
        assert_eq!(ask("GET", "/rest/v0/nothing", "", b"").0, 404);
    }
}

#[test]
fn an_old_client_that_speaks_http_1_0_gets_a_body_with_a_length() {
    let server = Server::start();
    let content = noise(100_352, 1);
    let vdi = server.import("?raw", content.clone());
    let done = server.curl().arg("--http1.0").run(&server.url(&format!("/rest/v0/vdis/{vdi}.raw")));
    assert_eq!((done.exit, done.status), (0, 200), "{:?}", done.head);
    assert!(done.head.header("Transfer-Encoding").is_none(), "{:?}", done.head);
    assert!(done.body == content);
    // What has no known length cannot be sent to it: chunks are not in its language.
    let done = server.curl().arg("--http1.0").run(&server.url("/rest/v0/vdis"));
    assert!(done.exit == 0 && matches!(done.status, 200 | 505), "{done:?}");
    assert!(done.head.header("Transfer-Encoding").is_none(), "{:?}", done.head);
    done.json();
}

#[test]
fn a_file_cut_short_behind_the_servers_back_is_an_error_and_never_zeros() {
    let server = Server::start();
    let length = 96 * MIB as usize;
    let vdi = server.import("?raw", noise(length, 1));
    let file = server.sr_folder().join(format!("{vdi}.raw"));
    let file = std::fs::File::options().write(true).open(&file).expect("it can be opened");
    let open = |format: &str| server.request("GET", &format!("/rest/v0/vdis/{vdi}.{format}")).open();
    let mut running = ["raw", "vhd"].map(open);
    for download in &mut running {
        download.take_bytes(1000);
    }
    file.set_len(length as u64 / 2).expect("it can be cut");
    for download in running {
        download.rest().expect_err("a body that ends as if it were whole");
    }
    for download in ["raw", "vhd"].map(open) {
        if download.head.status == 200 {
            download.rest().expect_err("a body that ends as if it were whole");
        } else {
            assert!(download.head.status >= 400, "{:?}", download.head);
        }
    }
}

#[test]
fn a_file_that_is_gone_spoils_no_start_and_no_other_disk() {
    let mut server = Server::start();
    let gone = server.import("?raw", noise(65_536, 1));
    let there = server.import("?raw", noise(65_536, 2));
    server.kill();
    std::fs::remove_file(server.sr_folder().join(format!("{gone}.raw"))).expect("it can be removed");
    server.start_again();
    server.get(&format!("/rest/v0/vdis/{gone}.raw")).refused(400..=599);
    assert!(server.export_bytes(&there, "raw") == noise(65_536, 2));
    assert_eq!(server.json(&format!("/rest/v0/vdis/{gone}"))["missing"], true);
    server.request("DELETE", &format!("/rest/v0/vdis/{gone}")).send().expect(204);
    assert_eq!(server.vdis(), [there]);
}

#[test]
fn a_stranger_in_place_of_a_disks_file_is_not_taken_for_it() {
    let mut server = Server::start();
    let vdi = server.import("?raw", noise(65_536, 1));
    server.kill();
    let file = server.sr_folder().join(format!("{vdi}.raw"));
    std::fs::remove_file(&file).expect("it can be removed");
    std::os::unix::fs::symlink("/etc/passwd", &file).expect("it can be made");
    server.start_again();
    let response = server.get(&format!("/rest/v0/vdis/{vdi}.raw"));
    assert_ne!(response.head.status, 200, "{}", response.text());
}

#[test]
fn a_hundred_and_twenty_eight_exports_of_one_disk_run_at_once() {
    let server = Server::start();
    let content = noise(LEN, 3);
    let vdi = server.import("?raw", content.clone());
    let target = format!("/rest/v0/vdis/{vdi}.raw");
    let mut readers: Vec<_> = (0..128)
        .map(|_| {
            let mut reader = server.request("GET", &target).open();
            assert_eq!(reader.head.status, 200);
            assert!(reader.take_bytes(1000) == content[..1000]);
            reader
        })
        .collect();
    let memory = server.memory("VmRSS");
    // Two chunks are granted to each, whatever the others hold.
    assert!(memory < (512 + 2 * 128) * MIB, "the budget and what is granted: {} MiB", memory / MIB);
    // Each goes on to its end, the last first.
    while let Some(reader) = readers.pop() {
        let rest = reader.rest().expect("it goes on to its end");
        assert!(rest == content[1000..]);
    }
}

#[test]
fn odd_names_come_back_as_they_went_in() {
    let server = Server::start();
    for name in [
        "Größe 中文 🚚",
        "a/b\\c",
        "\"quoted\" & <tagged>",
        "line\nbreak\ttab",
        " spaces ",
        "null",
        &"x".repeat(1000),
    ] {
        let query: String = name.bytes().map(|byte| format!("%{byte:02X}")).collect();
        let vdi = server.import(&format!("?raw&name_label={query}"), noise(512, 1));
        assert_eq!(server.json(&format!("/rest/v0/vdis/{vdi}"))["name_label"], name);
        let listed = server.get("/rest/v0/vdis?fields=name_label&ndjson").expect(200).body;
        let lines = String::from_utf8(listed).expect("text");
        let value = |line: &str| serde_json::from_str::<serde_json::Value>(line).expect("a line is a value");
        assert!(lines.lines().any(|line| value(line)["name_label"] == name), "{lines}");
    }
}
