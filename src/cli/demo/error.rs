//! Why the demo did not come to its end.

use std::error::Error;
use std::io;
use std::path::PathBuf;

use reqwest::StatusCode;

/// What can go wrong, besides bytes that differ: those are in the report.
#[derive(Debug, thiserror::Error)]
pub enum DemoError {
    /// The demo's own server did not start.
    #[error("cannot start the server: {0}")]
    Start(#[source] Box<dyn Error + Send + Sync>),
    /// The demo's own files.
    #[error("cannot {action} {path}: {source}")]
    File {
        /// What was to be done (`write`).
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// A request got no whole answer.
    #[error("cannot {step}: {}", chain(.source))]
    Http {
        /// What the request was for.
        step: &'static str,
        /// Why not.
        #[source]
        source: reqwest::Error,
    },
    /// The server said no.
    #[error("cannot {step}: the server answered {status}: {answer}")]
    Refused {
        /// What the request was for.
        step: &'static str,
        /// The answer's status.
        status: StatusCode,
        /// The beginning of its body.
        answer: String,
    },
    /// The answer is not what the interface promises.
    #[error("cannot {step}: expected {expected}, found {found}")]
    Unexpected {
        /// What the request was for.
        step: &'static str,
        /// What the interface promises.
        expected: &'static str,
        /// What came.
        found: String,
    },
    /// A thread of the demo's own panicked or was cancelled.
    #[error("a thread of the demo failed: {0}")]
    Thread(#[from] tokio::task::JoinError),
    /// The signals could not be listened to.
    #[error("cannot listen to signals: {0}")]
    Signals(#[source] io::Error),
    /// The report could not be printed.
    #[error("cannot print the report: {0}")]
    Output(#[source] io::Error),
    /// Somebody pressed Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

/// An error with its causes: a library's outermost message seldom says what happened.
fn chain(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
