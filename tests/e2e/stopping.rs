//! How a server stops: new work is refused, what runs may end, what is long goes on with the next server.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::json;

use crate::support::MIB;
use crate::support::disk::noise;
use crate::support::server::{Server, Setup};
use crate::support::wait;

const SIGNALS: [Signal; 2] = [Signal::TERM, Signal::INT];
const LEN: usize = 24 * MIB as usize;

/// A connection from before the stop, on which one request after the other can be sent.
struct Kept(BufReader<TcpStream>);

impl Kept {
    fn open(server: &Server) -> Self {
        let stream = TcpStream::connect(server.address()).expect("it accepts connections");
        stream.set_read_timeout(Some(Duration::from_secs(20))).expect("it can be set");
        let mut kept = Self(BufReader::new(stream));
        assert_eq!(kept.status("GET", "/health/ready", server.token()), Some(200));
        kept
    }

    /// The status of an answer, or nothing when the connection is closed.
    fn status(&mut self, method: &str, target: &str, token: &str) -> Option<u16> {
        let cookie = format!("Cookie: authenticationToken={token}\r\n");
        let head = format!("{method} {target} HTTP/1.1\r\nHost: x\r\n{cookie}Content-Length: 0\r\n\r\n");
        self.0.get_mut().write_all(head.as_bytes()).ok()?;
        let (mut status, mut length) = (None, 0);
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).ok().filter(|read| *read > 0)?;
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(rest) = line.strip_prefix("http/1.1 ") {
                status = rest.get(..3).and_then(|digits| digits.parse().ok());
            }
            if let Some(rest) = line.strip_prefix("content-length: ") {
                length = rest.parse().expect("a number");
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).ok()?;
        status
    }
}

#[test]
fn a_server_with_nothing_to_do_stops_at_once() {
    for signal in SIGNALS {
        let mut server = Server::start();
        server.import("?raw", noise(4096, 1));
        let _idle = Kept::open(&server);
        let asked = Instant::now();
        server.signal(signal);
        assert_eq!(server.wait(Duration::from_secs(10)).code(), Some(0), "{signal:?}");
        assert!(asked.elapsed() < Duration::from_secs(1), "{signal:?}: {:?}", asked.elapsed());
    }
}

#[test]
fn a_server_that_drains_is_not_ready_refuses_new_work_and_lets_a_download_end() {
    for signal in SIGNALS {
        let mut server = Server::start();
        let content = noise(2 * LEN, 1);
        let vdi = server.import("?raw", content.clone());
        let mut download = server.request("GET", &format!("/rest/v0/vdis/{vdi}.raw")).open();
        let task = download.head.need("Gantry-Task").to_owned();
        let mut bytes = download.take_bytes(1000);
        let mut kept: Vec<_> = (0..2).map(|_| Kept::open(&server)).collect();
        server.signal(signal);
        wait::until(Duration::from_secs(5), || match TcpStream::connect(server.address()) {
            Err(_) => Ok(()),
            Ok(_) => Err("it still accepts connections".to_owned()),
        });
        // Connections that were there before learn it too, unless they are closed.
        let ready = kept[0].status("GET", "/health/ready", server.token());
        assert!(matches!(ready, None | Some(503)), "{signal:?}: ready is {ready:?}");
        let import = kept[1].status("POST", &server.import_target("?raw"), server.token());
        assert!(matches!(import, None | Some(503)), "{signal:?}: an import is {import:?}");
        bytes.extend(download.rest().expect("it goes on to its end"));
        assert!(bytes == content);
        assert_eq!(server.wait(Duration::from_secs(20)).code(), Some(0), "{signal:?}");
        server.start_again();
        assert_eq!(server.task(&task)["status"], "success", "{signal:?}");
    }
}

#[test]
fn a_second_signal_of_any_kind_stops_at_once_and_the_download_goes_on_later() {
    for (first, second) in
        [(Signal::TERM, Signal::TERM), (Signal::INT, Signal::TERM), (Signal::TERM, Signal::INT)]
    {
        let mut server = Server::start();
        let content = noise(LEN, 1);
        let vdi = server.import("?raw", content.clone());
        let target = format!("/rest/v0/vdis/{vdi}.raw");
        let mut download = server.request("GET", &target).open();
        let (etag, task) =
            (download.head.need("ETag").to_owned(), download.head.need("Gantry-Task").to_owned());
        let mut bytes = download.take_bytes(1000);
        server.signal(first);
        wait::until(Duration::from_secs(5), || match TcpStream::connect(server.address()) {
            Err(_) => Ok(()),
            Ok(_) => Err("it still accepts connections".to_owned()),
        });
        let asked = Instant::now();
        server.signal(second);
        server.wait(Duration::from_secs(2));
        assert!(asked.elapsed() < Duration::from_secs(1), "{first:?}, {second:?}: {:?}", asked.elapsed());
        server.start_again();
        server.task_in(&task, &["recovering"]);
        let rest = server.request("GET", &target).header("Range", "bytes=1000-").header("If-Range", &etag);
        bytes.extend(rest.send().expect(206).body);
        assert!(bytes == content);
        assert_eq!(server.task_ended(&task)["status"], "success");
    }
}

const GROWN: u64 = 7 * MIB;

/// Begins to grow a disk at a rate at which it takes seconds, and returns disk and task.
fn growing(server: &Server, content: &[u8]) -> (String, String) {
    let vdi = server.import("?raw", content);
    let body = json!({ "size": GROWN }).to_string();
    let request = server.request("PATCH", &format!("/rest/v0/vdis/{vdi}"));
    let request = request.header("Content-Type", "application/json");
    let mut asked = request.begin(Some(body.len() as u64));
    asked.write(body.as_bytes()).expect("it takes it");
    let growth = server.wait_for_task(|task| {
        task["properties"]["type"] == "vdi.grow" && task["properties"]["state"] == "running"
    });
    // Its answer is not waited for: the growth does not depend on who asked for it.
    (vdi, growth["id"].as_str().expect("an id").to_owned())
}

#[track_caller]
fn assert_grown(server: &Server, vdi: &str, content: &[u8]) {
    let grown = server.export_bytes(vdi, "raw");
    assert_eq!(grown.len() as u64, GROWN);
    assert!(grown.starts_with(content) && grown[content.len()..].iter().all(|byte| *byte == 0));
    assert_eq!(server.disk_files().len(), 1, "{:?}", server.disk_files());
}

const SLOWLY: &str = "[transfers]\ndrain = \"0s\"\n[limits]\nbandwidth = 4000000";

#[test]
fn a_growth_in_the_middle_of_which_the_server_stops_goes_on_with_the_next_one() {
    for killed in [false, true] {
        let mut server = Setup::default().config(SLOWLY).start();
        let content = noise(LEN / 4, 1);
        let (vdi, task) = growing(&server, &content);
        if killed {
            server.kill();
        } else {
            assert_eq!(server.terminate().code(), Some(0));
        }
        server.start_again();
        let ended = server.task_ended(&task);
        assert_eq!(ended["status"], "success", "killed: {killed}: {ended}");
        assert_grown(&server, &vdi, &content);
    }
}

#[test]
fn a_growth_that_was_paused_is_still_paused_after_kill_9_and_goes_on_when_it_is_told_to() {
    let mut server = Setup::default().config(SLOWLY).start();
    let content = noise(LEN / 4, 1);
    let (vdi, task) = growing(&server, &content);
    server.act(&task, "pause");
    server.task_in(&task, &["paused"]);
    server.kill();
    server.start_again();
    assert_eq!(server.task(&task)["properties"]["state"], "paused");
    assert_eq!(server.export_bytes(&vdi, "raw").len(), content.len(), "it rests");
    server.act(&task, "resume");
    assert_eq!(server.task_ended(&task)["status"], "success");
    assert_grown(&server, &vdi, &content);
}
