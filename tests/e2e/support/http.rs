//! An HTTP/1.1 client that hides nothing: one request on one connection, every header as it came, and a body
//! whose framing is checked. A body that ends early is an error here, never a shorter body.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use serde_json::Value;

/// No answer within this time fails the test instead of hanging it.
const PATIENCE: Duration = Duration::from_secs(120);

/// A request that has not been sent yet.
#[derive(Clone)]
pub struct Request {
    address: SocketAddr,
    method: String,
    target: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

impl Request {
    /// A request without credentials.
    pub fn new(address: SocketAddr, method: &str, target: &str) -> Self {
        Self { address, method: method.into(), target: target.into(), headers: Vec::new(), body: Vec::new() }
    }

    /// Adds a header; a name may come several times.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    /// Takes every header of that name away.
    pub fn without(mut self, name: &str) -> Self {
        self.headers.retain(|(have, _)| !have.eq_ignore_ascii_case(name));
        self
    }

    /// Takes the session's cookie away.
    pub fn anonymous(self) -> Self {
        self.without("Cookie")
    }

    /// Uses a name and a password instead of the session's cookie.
    pub fn basic(self, name: &str, password: &str) -> Self {
        use base64::Engine as _;
        let pair = base64::engine::general_purpose::STANDARD.encode(format!("{name}:{password}"));
        self.anonymous().header("Authorization", &format!("Basic {pair}"))
    }

    /// Sends these bytes, with their length.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Sends this value as JSON.
    pub fn json(self, value: &Value) -> Self {
        self.header("Content-Type", "application/json").body(value.to_string())
    }

    /// Sends the request and reads the answer to its end.
    pub fn send(self) -> Response {
        let what = format!("{} {}", self.method, self.target);
        let mut download = self.open();
        let mut body = Vec::new();
        if let Err(error) = download.read_to_end(&mut body) {
            panic!("{what}: {} and then {} bytes of body: {error}", download.head.status, body.len());
        }
        Response { what, head: download.head, body }
    }

    /// As [`Request::send`], for a server that may die meanwhile.
    pub fn try_send(self) -> io::Result<Response> {
        let what = format!("{} {}", self.method, self.target);
        let mut download = self.try_open()?;
        let mut body = Vec::new();
        download.read_to_end(&mut body)?;
        Ok(Response { what, head: download.head, body })
    }

    /// Sends the request and reads the answer's head; the body is read from what is returned.
    pub fn open(self) -> Download {
        let method = self.method.clone();
        self.try_open().unwrap_or_else(|error| panic!("{method}: no answer: {error}"))
    }

    /// As [`Request::open`], for a server that may die meanwhile.
    pub fn try_open(self) -> io::Result<Download> {
        let length = (!self.body.is_empty() || !matches!(self.method.as_str(), "GET" | "HEAD"))
            .then_some(self.body.len() as u64);
        let body = self.body.clone();
        let mut upload = self.try_begin(length)?;
        // A server that refuses early may have closed its side already: then the answer tells.
        let _ = upload.stream.write_all(&body);
        upload.try_answer()
    }

    /// Sends the head only, announcing `length` bytes, or nothing about a length where there is none.
    pub fn begin(self, length: Option<u64>) -> Upload {
        self.try_begin(length).expect("the server accepts connections, and the head can be sent")
    }

    /// As [`Request::begin`], for a server that may die meanwhile.
    pub fn try_begin(self, length: Option<u64>) -> io::Result<Upload> {
        let mut head = format!("{} {} HTTP/1.1\r\nHost: {}\r\n", self.method, self.target, self.address);
        for (name, value) in &self.headers {
            head += &format!("{name}: {value}\r\n");
        }
        if let Some(length) = length {
            head += &format!("Content-Length: {length}\r\n");
        }
        head += "Connection: close\r\n\r\n";
        let stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let mut upload = Upload { method: self.method, stream };
        upload.stream.write_all(head.as_bytes())?;
        Ok(upload)
    }

    /// Sends the head of a chunked request; the chunks are written to what is returned.
    pub fn begin_chunked(self) -> Upload {
        self.header("Transfer-Encoding", "chunked").begin(None)
    }

    /// Sends `body` in chunks of at most `piece` bytes and reads the answer to its end.
    pub fn send_chunked(self, body: &[u8], piece: usize) -> Response {
        let what = format!("{} {} (chunked)", self.method, self.target);
        let mut upload = self.begin_chunked();
        let sent = body.chunks(piece).try_for_each(|chunk| upload.chunk(chunk));
        let _ = sent.and_then(|()| upload.last_chunk());
        let mut download = upload.answer();
        let mut body = Vec::new();
        download.read_to_end(&mut body).unwrap_or_else(|error| panic!("{what}: answer cut: {error}"));
        Response { what, head: download.head, body }
    }
}

/// A request whose head is out and whose body the test writes itself.
pub struct Upload {
    method: String,
    pub stream: TcpStream,
}

impl Upload {
    /// Writes plain bytes of a body with a length.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes)
    }

    /// Writes one chunk of a chunked body.
    pub fn chunk(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(format!("{:x}\r\n", bytes.len()).as_bytes())?;
        self.stream.write_all(bytes)?;
        self.stream.write_all(b"\r\n")
    }

    /// Ends a chunked body as it should end.
    pub fn last_chunk(&mut self) -> io::Result<()> {
        self.stream.write_all(b"0\r\n\r\n")
    }

    /// Says that nothing more will be sent, and leaves the other direction open for the answer.
    pub fn close_sending(&self) {
        let _ = self.stream.shutdown(std::net::Shutdown::Write);
    }

    /// Reads the answer's head, past any `100 Continue`.
    pub fn answer(self) -> Download {
        let method = self.method.clone();
        self.try_answer().unwrap_or_else(|error| panic!("{method}: no answer: {error}"))
    }

    /// As [`Upload::answer`], for a server that may close without one.
    pub fn try_answer(self) -> io::Result<Download> {
        let mut stream = BufReader::new(self.stream);
        loop {
            let head = read_head(&mut stream)?;
            if head.status == 100 {
                continue;
            }
            let framing = Framing::of(&self.method, &head);
            return Ok(Download { head, framing, stream });
        }
    }
}

/// Status and headers of an answer.
#[derive(Clone, Debug)]
pub struct Head {
    pub status: u16,
    pub headers: Vec<(String, String)>,
}

impl Head {
    /// The value of a header that comes once.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(have, _)| have.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The value of a header that has to be there.
    pub fn need(&self, name: &str) -> &str {
        self.header(name).unwrap_or_else(|| panic!("no header {name} in {self:#?}"))
    }

    /// What `Content-Length` says.
    pub fn length(&self) -> u64 {
        self.need("Content-Length").parse().expect("Content-Length is a number")
    }
}

fn line(stream: &mut impl BufRead) -> io::Result<String> {
    let mut bytes = Vec::new();
    stream.read_until(b'\n', &mut bytes)?;
    if bytes.is_empty() {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    while bytes.last().is_some_and(|byte| matches!(byte, b'\r' | b'\n')) {
        bytes.pop();
    }
    String::from_utf8(bytes)
        .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, "a header that is no text"))
}

fn read_head(stream: &mut impl BufRead) -> io::Result<Head> {
    let first = line(stream)?;
    let status = first
        .strip_prefix("HTTP/1.1 ")
        .and_then(|rest| rest.get(..3))
        .and_then(|digits| digits.parse().ok())
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("status line {first:?}")))?;
    let mut headers = Vec::new();
    loop {
        let text = line(stream)?;
        if text.is_empty() {
            return Ok(Head { status, headers });
        }
        let (name, value) = text
            .split_once(':')
            .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, format!("header {text:?}")))?;
        headers.push((name.to_owned(), value.trim().to_owned()));
    }
}

/// How much of a body is still to come.
enum Framing {
    Empty,
    Length(u64),
    /// Bytes left in the current chunk.
    Chunk(u64),
    ChunkStart,
    UntilClose,
}

impl Framing {
    fn of(method: &str, head: &Head) -> Self {
        if method == "HEAD" || matches!(head.status, 204 | 304) {
            return Self::Empty;
        }
        if head.header("Transfer-Encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked")) {
            return Self::ChunkStart;
        }
        match head.header("Content-Length") {
            Some(length) => Self::Length(length.parse().expect("Content-Length is a number")),
            None => Self::UntilClose,
        }
    }
}

/// An answer whose body is read as it comes.
pub struct Download {
    pub head: Head,
    framing: Framing,
    stream: BufReader<TcpStream>,
}

impl Download {
    /// The socket, to set its buffers or time limits.
    pub fn socket(&self) -> &TcpStream {
        self.stream.get_ref()
    }

    /// Reads exactly `length` bytes.
    pub fn take_bytes(&mut self, length: u64) -> Vec<u8> {
        let mut bytes = vec![0; length as usize];
        self.read_exact(&mut bytes).expect("the body goes on");
        bytes
    }

    /// Reads to the end.
    pub fn rest(mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes)?;
        Ok(bytes)
    }
}

impl Read for Download {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if matches!(self.framing, Framing::ChunkStart) {
            let size = line(&mut self.stream)?;
            let size = u64::from_str_radix(size.split(';').next().unwrap_or(&size).trim(), 16)
                .map_err(|_| io::Error::new(io::ErrorKind::InvalidData, format!("chunk size {size:?}")))?;
            if size == 0 {
                line(&mut self.stream)?;
                self.framing = Framing::Empty;
            } else {
                self.framing = Framing::Chunk(size);
            }
        }
        let most = match self.framing {
            Framing::Empty => return Ok(0),
            Framing::Length(0) => return Ok(0),
            Framing::Length(left) | Framing::Chunk(left) => left.min(buffer.len() as u64) as usize,
            Framing::UntilClose | Framing::ChunkStart => buffer.len(),
        };
        let got = self.stream.read(&mut buffer[..most])?;
        match &mut self.framing {
            Framing::Length(_) | Framing::Chunk(_) if got == 0 => {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the body ended early"));
            }
            Framing::Length(left) => *left -= got as u64,
            Framing::Chunk(left) => {
                *left -= got as u64;
                if *left == 0 {
                    line(&mut self.stream)?;
                    self.framing = Framing::ChunkStart;
                }
            }
            Framing::Empty | Framing::ChunkStart | Framing::UntilClose => {}
        }
        Ok(got)
    }
}

/// A whole answer.
#[derive(Debug)]
pub struct Response {
    what: String,
    pub head: Head,
    pub body: Vec<u8>,
}

impl Response {
    /// Insists on a status and shows the answer where it is another.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(self.head.status, status, "{}: {}", self.what, self.text());
        self
    }

    /// Insists on an error in the contract's shape (`error`, and beside it a stable `code`), and returns it.
    #[track_caller]
    pub fn refused(&self, statuses: std::ops::RangeInclusive<u16>) -> Refusal {
        let status = self.head.status;
        assert!(statuses.contains(&status), "{}: {status} not in {statuses:?}: {}", self.what, self.text());
        let body = self.json();
        let code =
            body["code"].as_str().unwrap_or_else(|| panic!("{}: no code in {body}", self.what)).to_owned();
        let snake = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        assert!(!code.is_empty() && code.chars().all(snake), "{}: code {code:?}", self.what);
        let error = body["error"].clone();
        let fine = error.as_str().is_some_and(|text| !text.is_empty())
            || error.as_object().is_some_and(|o| !o.is_empty());
        assert!(fine, "{}: no error in {body}", self.what);
        Refusal {
            status,
            code,
            text: error.as_str().map_or_else(|| error.to_string(), str::to_owned),
            error,
            body,
        }
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        let kind = self.head.header("Content-Type").unwrap_or_default();
        assert!(
            kind.starts_with("application/json"),
            "{}: Content-Type {kind:?}: {}",
            self.what,
            self.text()
        );
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("{}: {e}: {}", self.what, self.text()))
    }

    /// The body as text, for messages.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body[..self.body.len().min(4096)]).into_owned()
    }
}

/// An error as the contract shapes it.
#[derive(Debug)]
pub struct Refusal {
    pub status: u16,
    pub code: String,
    pub error: Value,
    /// The message, or the JSON of a message keyed by parameter.
    pub text: String,
    pub body: Value,
}
