//! `gantry demo`: the main job in one minute, on a server that it starts itself.
//!
//! It makes a sample disk, sends it in, takes it out as `.raw` and `.vhd`, sends the `.vhd` in again, cuts a
//! download and resumes it, and compares every byte. All over HTTP, with the requests that a script would
//! make.

mod client;
mod console;
mod error;
mod launch;
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
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::ids::DiskFormat;
use client::{Client, Part};
use console::{Meter, say};
use report::{Finding, Report, Step};
use sample_disk::{SampleSpec, make_sample};
use sink::{Received, Target, check_file};
use workspace::Workspace;

pub use client::Service;
pub use error::DemoError;

/// How long the server may take to stop before the demo goes on without it.
const STOPPING: Duration = Duration::from_secs(15);
/// Where the download is cut, in hundredths.
const CUT_AT: u64 = 40;

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

/// What the demo shows, step by step.
async fn exercise(service: &Service, workspace: &Workspace, spec: &SampleSpec) -> Result<Report, DemoError> {
    let client = Client::new(service)?;
    let files = workspace.files();
    let (sample_path, vhd_path, cut_path) =
        (files.join("sample.raw"), files.join("export.vhd"), files.join("resumed.raw"));

    say("making a sample disk ...");
    let (path, spec) = (sample_path.clone(), *spec);
    let made = tokio::task::spawn_blocking(move || {
        let sample = make_sample(&path, &spec).map_err(|source| DemoError::File {
            action: "write",
            path: path.clone(),
            source,
        })?;
        Ok::<_, DemoError>((sample, check_file(&path, None)?))
    });
    let (sample, source) = made.await??;
    let mut report = Report {
        virtual_bytes: spec.virtual_bytes,
        sample,
        sha256: source.sha256.clone(),
        steps: Vec::new(),
        kept: workspace.kept(),
    };
    let comparing = || Target { reference: Some(sample_path.clone()), file: None };
    let sr = client.local_sr().await?;

    let meter = Meter::begin("importing the sample as .raw", None);
    let disk = client.import(&sr, DiskFormat::Raw, "gantry-demo", &sample_path, &meter).await?;
    report.add("import the sample as .raw", &meter, Finding::Made { vdi: disk.clone() });

    let meter = Meter::begin("exporting it as .raw", None);
    let raw = client.export(&disk, DiskFormat::Raw, Part::Whole, comparing(), &meter).await?;
    report.add("export it as .raw", &meter, compared(raw.received, &source));

    let meter = Meter::begin("exporting it as .vhd", None);
    let to_file = Target { file: Some((vhd_path.clone(), 0)), reference: None };
    let vhd = client.export(&disk, DiskFormat::Vhd, Part::Whole, to_file, &meter).await?;
    report.add("export it as .vhd", &meter, Finding::File { sha256: vhd.received.sha256 });

    let meter = Meter::begin("importing the .vhd as another disk", None);
    let copy = client.import(&sr, DiskFormat::Vhd, "gantry-demo-copy", &vhd_path, &meter).await?;
    report.add("import the .vhd as another disk", &meter, Finding::Made { vdi: copy.clone() });

    let meter = Meter::begin("exporting that one as .raw", None);
    let raw = client.export(&copy, DiskFormat::Raw, Part::Whole, comparing(), &meter).await?;
    report.add("export that one as .raw", &meter, compared(raw.received, &source));

    let meter = Meter::begin("downloading, to be cut", None);
    let first = Target { file: Some((cut_path.clone(), 0)), reference: None };
    let part = client.export(&disk, DiskFormat::Raw, Part::First { percent: CUT_AT }, first, &meter).await?;
    let from = part.received.bytes;
    report.add(format!("download .raw, cut at {CUT_AT} %"), &meter, Finding::Cut { at: from });

    let meter = Meter::begin("resuming the download", None).going_on_after(from);
    let rest = Target { file: Some((cut_path.clone(), from)), reference: None };
    let rest =
        client.export(&disk, DiskFormat::Raw, Part::Rest { from, etag: &part.etag }, rest, &meter).await?;
    let took = meter.end();
    let finding = compared(check_both(&cut_path, &sample_path).await?, &source);
    report.steps.push(Step { what: "resume it with Range and If-Range".into(), took, finding });
    if rest.whole != part.whole {
        return Err(DemoError::Unexpected {
            step: "resume the download",
            expected: "the same total as before the cut",
            found: format!("{} bytes after {}", rest.whole, part.whole),
        });
    }
    Ok(report)
}

async fn check_both(path: &Path, reference: &Path) -> Result<Received, DemoError> {
    let (path, reference) = (path.to_owned(), reference.to_owned());
    tokio::task::spawn_blocking(move || check_file(&path, Some(&reference))).await?
}

/// Whether what came is the source: byte for byte, and by its digest.
fn compared(received: Received, source: &Received) -> Finding {
    let Received { bytes, sha256, differs_at } = received;
    match differs_at {
        None if sha256 == source.sha256 => Finding::Equal { sha256 },
        at => Finding::Differs { at: at.unwrap_or(0), bytes, sha256 },
    }
}

impl Report {
    fn add(&mut self, what: impl Into<String>, meter: &Meter, finding: Finding) {
        self.steps.push(Step { what: what.into(), took: meter.end(), finding });
    }
}
