//! `gantry demo`: the main job in one minute, on a server that it starts itself.
//!
//! It makes a sample disk, sends it in, takes it out as `.raw` and `.vhd`, sends the `.vhd` in again, cuts a
//! download and resumes it (`disks`); makes a VM of the disk, takes it out as a compressed XVA, cuts and resumes
//! that download too, and sends the XVA in as another VM (`machines`). It compares every byte. All over HTTP, with
//! the requests that a script would make.

mod client;
mod console;
mod course;
mod disks;
mod download;
mod error;
mod launch;
mod machines;
mod report;
mod sample_disk;
mod sample_files;
mod sink;
mod workspace;

#[cfg(test)]
mod tests;

use std::error::Error;
use std::future::Future;
use std::io::{self, Write};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use console::say;
use course::Course;
use report::Report;
use sample_disk::SampleSpec;
use workspace::Workspace;

pub use client::Service;
pub use error::DemoError;

/// How long the server may take to stop before the demo goes on without it.
const STOPPING: Duration = Duration::from_secs(15);

/// Arguments of `gantry demo`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  gantry demo
  gantry demo --data ./gantry-demo     # keeps the data directory and the files")]
pub struct DemoArgs {
    /// Work in this data directory and keep it [default: a temporary one, removed at the end]
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
}

/// Runs the demo. Returns the exit code: 0 when every byte was equal, 4 when one was not, 1 when it did not
/// come that far. Makes an actix system: not to be called from within one.
pub fn run(args: DemoArgs) -> u8 {
    match actix_rt::System::new().block_on(demonstrate(args.data)) {
        Ok(true) => 0,
        Ok(false) => 4,
        Err(error) => {
            say(&format!("gantry demo: {error}"));
            1
        }
    }
}

async fn demonstrate(data: Option<PathBuf>) -> Result<bool, DemoError> {
    // Before there is anything to clean up.
    let mut signals = Signals::listen()?;
    let kept = data.is_some();
    let start = async |data| launch::start(data, kept).await.map_err(|error| error.into());
    let report = perform(data, &SampleSpec::DEFAULT, start, async || signals.next().await).await?;
    print(&report)?;
    Ok(report.is_right())
}

/// Prints the report. A closed pipe is quiet, any other loss is an error.
fn print(report: &Report) -> Result<(), DemoError> {
    let mut stdout = io::stdout().lock();
    match write!(stdout, "{report}").and_then(|()| stdout.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(DemoError::Output(error)),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// The whole life of the workspace and the server. Both are gone when it returns, whatever happened. An
/// interruption during the server's start waits for its end; a second one does not wait for its stop.
///
/// `start` starts a server on the data directory, listening on the loopback, and answers how to reach it and a
/// future that stops it.
async fn perform<Stop: Future<Output = ()>>(
    data: Option<PathBuf>,
    spec: &SampleSpec,
    start: impl AsyncFnOnce(PathBuf) -> Result<(Service, Stop), Box<dyn Error + Send + Sync>>,
    mut interrupted: impl AsyncFnMut(),
) -> Result<Report, DemoError> {
    let workspace = tokio::task::spawn_blocking(move || Workspace::open(data)).await??;
    let (service, stop) = start(workspace.data().to_owned()).await.map_err(DemoError::Start)?;
    let done = tokio::select! {
        done = exercise(&service, &workspace, spec) => done,
        () = interrupted() => Err(DemoError::Interrupted),
    };
    tokio::select! {
        stopped = tokio::time::timeout(STOPPING, stop) => if stopped.is_err() {
            say("the server does not stop in time");
        },
        () = interrupted() => {}
    }
    tokio::task::spawn_blocking(move || drop(workspace)).await?;
    done
}

/// The signals that end the demo early.
struct Signals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl Signals {
    fn listen() -> Result<Self, DemoError> {
        let listen = |kind| signal(kind).map_err(DemoError::Signals);
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: listen(SignalKind::hangup())?,
        })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
            _ = self.hangup.recv() => {}
        }
    }
}

/// What the demo shows, part by part.
async fn exercise(service: &Service, workspace: &Workspace, spec: &SampleSpec) -> Result<Report, DemoError> {
    let mut course = Course::begin(service, workspace, *spec).await?;
    let disk = disks::round_trip(&mut course).await?;
    machines::round_trip(&mut course, &disk).await?;
    Ok(course.end())
}
