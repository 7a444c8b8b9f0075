//! Answers without an end, read line by line by the real `curl -N`.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::curl::Curl;
use super::http::Head;
use super::server::Server;

/// What has to come comes within this time.
const PATIENCE: Duration = Duration::from_secs(20);
/// What must not come has this long to do so.
const QUIET: Duration = Duration::from_millis(700);

/// A `curl -N` that runs. It is ended with this.
pub struct Stream {
    child: Child,
    lines: Receiver<String>,
    /// The answer's head, which came before any event.
    pub head: Head,
}

impl Stream {
    /// Asks for something with the server's session and waits for the head.
    pub fn open(server: &Server, target: &str) -> Self {
        Self::open_with(Curl::new(server), &server.url(target))
    }

    /// As [`Stream::open`], with other credentials or arguments.
    pub fn open_with(curl: Curl, url: &str) -> Self {
        let mut command = curl.args(["-N", "-v"]).into_command();
        command.arg(url).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("curl runs");
        let lines = lines_of(child.stdout.take().expect("its output is piped"));
        // What curl shows of the head goes through no buffer of its own, unlike with `-i` and `-D`.
        let shown = lines_of(child.stderr.take().expect("its messages are piped"));
        let mut stream = Self { child, lines, head: Head { status: 0, headers: Vec::new() } };
        loop {
            let line = shown.recv_timeout(PATIENCE).expect("the head comes at once");
            let Some(line) = line.strip_prefix("< ").or_else(|| line.strip_prefix('<')) else { continue };
            if line.starts_with("HTTP/") {
                stream.head.status = line.split(' ').nth(1).and_then(|text| text.parse().ok()).unwrap_or(0);
            } else if let Some((name, value)) = line.split_once(':') {
                stream.head.headers.push((name.to_owned(), value.trim().to_owned()));
            } else {
                break;
            }
        }
        stream
    }

    /// The next line; `None` at the end of the answer.
    pub fn line(&mut self) -> Option<String> {
        match self.lines.recv_timeout(PATIENCE) {
            Ok(line) => Some(line),
            Err(RecvTimeoutError::Disconnected) => None,
            Err(RecvTimeoutError::Timeout) => panic!("nothing came within {PATIENCE:?}"),
        }
    }

    /// The next line of JSON.
    pub fn json_line(&mut self) -> Value {
        let line = self.line().expect("the stream goes on");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error} in {line:?}"))
    }

    /// The next event: its name and its data.
    pub fn event(&mut self) -> (String, Value) {
        let mut next = || self.line().expect("the stream goes on");
        let (name, data, blank) = (next(), next(), next());
        assert_eq!(blank, "", "an event is two lines and a blank one");
        let name = name.strip_prefix("event: ").unwrap_or_else(|| panic!("no event: {name}"));
        let data = data.strip_prefix("data: ").unwrap_or_else(|| panic!("no data: {data}"));
        (name.to_owned(), serde_json::from_str(data).expect("data is JSON"))
    }

    /// The next event of that name and subscription for which `is` holds; others are passed over.
    pub fn event_where(&mut self, name: &str, kind: &str, is: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let (event, data) = self.event();
            if event == name && data["$subscription"] == kind && is(&data) {
                return data;
            }
        }
        panic!("no such {name} of a {kind} came within {PATIENCE:?}");
    }

    /// Insists that nothing comes for a while.
    #[track_caller]
    pub fn quiet(&mut self) {
        match self.lines.recv_timeout(QUIET) {
            Ok(line) => panic!("{line:?} came"),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => panic!("the stream has ended"),
        }
    }

    /// Waits until the answer is over, passing over what still comes, and returns curl's exit code: 0 when it
    /// ended as it should.
    pub fn exit(mut self) -> i32 {
        while self.line().is_some() {}
        self.child.wait().expect("it can be waited for").code().unwrap_or(-1)
    }
}

/// Reads lines on a thread of its own, to the end, so that curl never waits for whoever reads them.
fn lines_of(source: impl Read + Send + 'static) -> Receiver<String> {
    let (told, lines) = channel();
    std::thread::spawn(move || {
        for line in BufReader::new(source).lines().map_while(Result::ok) {
            let _ = told.send(line.trim_end_matches('\r').to_owned());
        }
    });
    lines
}

impl Drop for Stream {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// `GET /events`, and the id with which it began.
pub fn events(server: &Server) -> (Stream, String) {
    begun(Stream::open(server, "/rest/v0/events"))
}

/// The id of a stream of events that has just been opened.
pub fn begun(mut stream: Stream) -> (Stream, String) {
    assert_eq!(stream.head.status, 200, "{:?}", stream.head);
    let (name, data) = stream.event();
    assert_eq!(name, "init");
    let id = data["id"].as_str().expect("an id").to_owned();
    (stream, id)
}

/// Subscribes a stream.
#[track_caller]
pub fn subscribe(server: &Server, stream: &str, body: Value) {
    let target = format!("/rest/v0/events/{stream}/subscriptions");
    let answer = server.request("POST", &target).json(&body).send().expect(201);
    assert_eq!(answer.json(), serde_json::json!({ "id": body["collection"] }));
}
