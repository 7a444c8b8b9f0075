//! The life of a server: starting, being alone, and stopping.

use std::process::{Output, Stdio};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::support::MIB;
use crate::support::disk::noise;
use crate::support::server::{Server, Setup, gantry, scratch};

/// Runs `serve` on a data directory until it ends by itself.
fn serve(data: &std::path::Path, listen: &str) -> Output {
    let mut command = gantry(["serve", "--listen", listen, "--data"]);
    command.arg(data).output().expect("the program runs")
}

#[track_caller]
fn failed(output: &Output, words: &[&str]) {
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{told}");
    assert!(output.stdout.is_empty(), "{output:?}");
    for word in words {
        assert!(told.contains(word), "{word:?} in {told}");
    }
}

#[test]
fn a_second_server_on_the_same_data_directory_is_told_of_the_lock() {
    let server = Server::start();
    let output = serve(server.data(), "127.0.0.1:0");
    failed(&output, &[&server.data().display().to_string()]);
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(told.contains("lock") || told.contains("in use"), "{told}");
    server.get("/rest/v0/vdis").expect(200);
}

#[test]
fn an_address_in_use_is_told() {
    let server = Server::start();
    let folder = scratch();
    let address = server.address().to_string();
    failed(&serve(&folder.path().join("data"), &address), &[&address]);
}

#[test]
fn a_data_directory_that_cannot_be_made_is_told() {
    let folder = scratch();
    let file = folder.path().join("file");
    std::fs::write(&file, "not a directory").expect("it can be written");
    failed(&serve(&file.join("data"), "127.0.0.1:0"), &["file"]);
}

#[test]
fn a_data_directory_of_a_newer_version_is_refused_and_stays_as_it_is() {
    let mut server = Server::start();
    assert!(server.terminate().success());
    let database = server.data().join("gantry.db");
    let connection = rusqlite::Connection::open(&database).expect("it is SQLite");
    let version: i64 =
        connection.pragma_query_value(None, "user_version", |row| row.get(0)).expect("a version");
    assert!(version > 0, "the database carries its version");
    let application: i64 =
        connection.pragma_query_value(None, "application_id", |row| row.get(0)).expect("an id");
    assert_ne!(application, 0, "the database says whose it is");
    connection.pragma_update(None, "user_version", version + 900).expect("it can be set");
    drop(connection);
    failed(&serve(server.data(), "127.0.0.1:0"), &[&version.to_string(), &(version + 900).to_string()]);
    let connection = rusqlite::Connection::open(&database).expect("it is SQLite");
    let now: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).expect("a version");
    assert_eq!(now, version + 900);
}

#[test]
fn several_addresses_are_told_line_by_line() {
    let folder = scratch();
    let mut command = gantry(["serve", "--listen", "127.0.0.1:0", "--listen", "127.0.0.2:0", "--data"]);
    let mut child = command
        .arg(folder.path().join("data"))
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("it runs");
    let mut out = std::io::BufReader::new(child.stdout.take().expect("it is piped"));
    let lines: Vec<String> = (0..2)
        .map(|_| {
            let mut line = String::new();
            std::io::BufRead::read_line(&mut out, &mut line).expect("it speaks");
            line
        })
        .collect();
    child.kill().expect("it can be killed");
    child.wait().expect("it ends");
    for (line, host) in lines.iter().zip(["127.0.0.1", "127.0.0.2"]) {
        let port = line.trim_end().strip_prefix(&format!("gantry listening on http://{host}:")).expect(line);
        assert_ne!(port.parse::<u16>().expect("a port"), 0, "{line}");
    }
}

#[test]
fn sigterm_and_sigint_drain_and_exit_with_0() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut server = Server::start();
        server.import("?raw", noise(4096, 1));
        server.signal(signal);
        assert_eq!(server.wait(Duration::from_secs(10)).code(), Some(0), "{signal:?}");
    }
}

#[test]
fn draining_lets_a_running_transfer_end() {
    let mut server = Server::start();
    let content = noise(48 * MIB as usize, 1);
    let vdi = server.import("?raw", content.clone());
    let mut download = server.request("GET", &format!("/rest/v0/vdis/{vdi}.raw")).open();
    let mut bytes = download.take_bytes(1000);
    let mut upload = server.request("POST", &server.import_target("?raw")).begin(Some(content.len() as u64));
    upload.write(&content[..content.len() / 2]).expect("it takes the first half");
    server.signal(Signal::TERM);
    // New connections find nobody.
    crate::support::wait::until(Duration::from_secs(10), || {
        match std::net::TcpStream::connect(server.address()) {
            Err(_) => Ok(()),
            Ok(_) => Err("it still accepts connections".to_owned()),
        }
    });
    upload.write(&content[content.len() / 2..]).expect("it takes the second half");
    let answer = upload.answer();
    assert_eq!(answer.head.status, 201, "{:?}", answer.head);
    drop(answer);
    bytes.extend(download.rest().expect("it goes on to its end"));
    assert!(bytes == content);
    assert_eq!(server.wait(Duration::from_secs(20)).code(), Some(0));
    server.start_again();
    assert_eq!(server.vdis().len(), 2);
}

#[test]
fn draining_ends_after_its_time() {
    let mut server = Setup::default().config("[transfers]\ndrain = \"2s\"").start();
    let vdi = server.import("?raw", noise(48 * MIB as usize, 1));
    let mut download = server.request("GET", &format!("/rest/v0/vdis/{vdi}.raw")).open();
    download.take_bytes(1000);
    let mut upload = server.request("POST", &server.import_target("?raw")).begin(Some(48 * MIB));
    upload.write(&noise(MIB as usize, 2)).expect("it takes it");
    let asked = Instant::now();
    server.signal(Signal::TERM);
    assert_eq!(server.wait(Duration::from_secs(15)).code(), Some(0));
    assert!(asked.elapsed() > Duration::from_secs(1), "it gave them their time: {:?}", asked.elapsed());
    drop((download, upload));
    server.start_again();
    assert_eq!(server.vdis(), [vdi]);
    assert_eq!(server.disk_files().len(), 1, "{:?}", server.disk_files());
}

#[test]
fn a_second_signal_stops_at_once() {
    let mut server = Server::start();
    let vdi = server.import("?raw", noise(48 * MIB as usize, 1));
    let mut download = server.request("GET", &format!("/rest/v0/vdis/{vdi}.raw")).open();
    download.take_bytes(1000);
    server.signal(Signal::TERM);
    crate::support::wait::until(Duration::from_secs(10), || {
        match std::net::TcpStream::connect(server.address()) {
            Err(_) => Ok(()),
            Ok(_) => Err("it still accepts connections".to_owned()),
        }
    });
    server.signal(Signal::TERM);
    server.wait(Duration::from_secs(3));
}

#[test]
fn a_half_sent_head_does_not_hold_a_connection_for_ever() {
    use std::io::{Read, Write};
    let server = Setup::default().config("[http]\nhead_timeout = \"2s\"").start();
    let mut stream = std::net::TcpStream::connect(server.address()).expect("it accepts connections");
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("it can be set");
    stream.write_all(b"GET /rest/v0/vdis HTTP/1.1\r\nHost: x\r\nCook").expect("it takes it");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("it is closed");
    let text = String::from_utf8_lossy(&answer).into_owned();
    assert!(text.is_empty() || text.starts_with("HTTP/1.1 408"), "{text}");
}

#[test]
fn a_connection_is_used_again() {
    let server = Server::start();
    let curl = server.curl().args(["-o", "/dev/null", "-v"]).arg(server.url("/rest/v0/srs"));
    let done = curl.args(["-o", "/dev/null"]).run(&server.url("/rest/v0/vdis"));
    assert_eq!(done.exit, 0, "{done:?}");
    assert!(done.stderr.contains("Re-using existing connection"), "{}", done.stderr);
}

#[test]
fn health_and_ping_need_no_credentials() {
    let server = Server::start();
    for target in ["/health/live", "/health/ready"] {
        server.request("GET", target).anonymous().send().expect(200);
    }
    let pong = server.request("GET", "/rest/v0/ping").anonymous().send().expect(200).json();
    assert_eq!(pong["result"], "pong");
    assert!(pong["timestamp"].as_u64().is_some_and(|ms| ms > 1_600_000_000_000), "{pong}");
}
