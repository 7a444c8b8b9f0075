//! The real `curl`, as people use it.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use super::http::Head;
use super::server::Server;
use super::tools::program;

/// A `curl` command line. Quiet, without a configuration file, and with a time limit so that it cannot hang.
pub struct Curl {
    command: Command,
    files: tempfile::TempDir,
}

/// What one `curl` did.
#[derive(Debug)]
pub struct Done {
    /// curl's exit code; 0 says that the whole answer came.
    pub exit: i32,
    /// Status of the last answer, 0 when there was none.
    pub status: u16,
    /// "1.1" or "2".
    pub http: String,
    /// Bytes of body that curl sent.
    pub uploaded: u64,
    /// The last answer's head.
    pub head: Head,
    pub body: Vec<u8>,
    pub stderr: String,
}

impl Done {
    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }
}

impl Curl {
    /// A command without credentials.
    pub fn anonymous() -> Self {
        let mut command = Command::new(program("curl", "curl"));
        command.args(["-q", "-sS", "-k", "--max-time", "240"]);
        Self { command, files: super::server::scratch() }
    }

    /// A command with the server's session in a cookie.
    pub fn new(server: &Server) -> Self {
        Self::anonymous().args(["-b", &format!("authenticationToken={}", server.token())])
    }

    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.command.arg(argument);
        self
    }

    pub fn args<I: IntoIterator<Item = S>, S: AsRef<OsStr>>(mut self, arguments: I) -> Self {
        self.command.args(arguments);
        self
    }

    /// `-T file -X POST`: an upload as XO's documentation prints it.
    pub fn post_file(self, file: &Path) -> Self {
        self.arg("-T").arg(file).args(["-X", "POST"])
    }

    /// Reads the body from this file's bytes through a pipe, so that curl knows no length.
    pub fn stdin(mut self, file: &Path) -> Self {
        self.command.stdin(std::fs::File::open(file).expect("the file to send is there"));
        self
    }

    fn body_file(&self) -> PathBuf {
        self.files.path().join("body")
    }

    /// Runs it, with the body in memory unless `-o` was given.
    pub fn run(mut self, url: &str) -> Done {
        let heads = self.files.path().join("heads");
        let body = self.body_file();
        self.command.arg("-D").arg(&heads);
        if !self.command.get_args().any(|argument| argument == "-o") {
            self.command.arg("-o").arg(&body);
        }
        self.command.args(["-w", "%{http_code} %{http_version} %{size_upload}"]).arg(url);
        let output = self.command.output().expect("curl runs");
        let told = String::from_utf8_lossy(&output.stdout).into_owned();
        let mut told = told.split(' ');
        let mut next = || told.next().unwrap_or_default().to_owned();
        let heads = std::fs::read_to_string(heads).unwrap_or_default();
        Done {
            exit: output.status.code().unwrap_or(-1),
            status: next().parse().unwrap_or(0),
            http: next(),
            uploaded: next().parse().unwrap_or(0),
            head: last_head(&heads),
            body: std::fs::read(body).unwrap_or_default(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The command line so far, for who reads the output as it comes.
    pub fn into_command(self) -> Command {
        self.command
    }

    /// Starts it with the body thrown away; the caller waits for it or kills it.
    pub fn spawn(mut self, url: &str) -> Child {
        self.command.arg("-o").arg("/dev/null").arg(url).stdout(Stdio::null()).stderr(Stdio::null());
        self.command.spawn().expect("curl runs")
    }
}

/// The last answer's head in what `-D` wrote: there is one for each `100`, redirect and answer.
fn last_head(heads: &str) -> Head {
    let mut last = Head { status: 0, headers: Vec::new() };
    for line in heads.lines() {
        if line.starts_with("HTTP/") {
            let status = line.split(' ').nth(1).and_then(|text| text.parse().ok()).unwrap_or(0);
            last = Head { status, headers: Vec::new() };
        } else if let Some((name, value)) = line.split_once(':') {
            last.headers.push((name.to_owned(), value.trim().to_owned()));
        }
    }
    last
}
