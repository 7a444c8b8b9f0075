//! `gantry check FILE`: what is in a disk image, and what is wrong with it.
//!
//! It reads files itself, with blocking reads: it takes no data directory and no server.

mod chain;
mod report;
mod source;
mod vhd;

#[cfg(test)]
mod tests;

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;

use self::report::{Problem, Report};
use self::source::{CheckError, Source};
use crate::formats::raw::RawError;
use crate::formats::vhd::{FOOTER_COOKIE, FOOTER_LEN};

/// Exit code for an image that is sound.
const SOUND: u8 = 0;
/// Exit code when the file or the output failed.
const FAILED: u8 = 1;
/// Exit code for an image that is damaged.
const DAMAGED: u8 = 4;

/// Arguments of `gantry check`.
#[derive(Debug, Args)]
#[command(after_help = "\
What a file is follows from its content (a VHD has a footer at its end and often a copy of it in front), then from
its name. The parents of a differencing VHD are looked up beside it.

Exit codes: 0 sound, 1 cannot be read, 2 wrong usage, 4 damaged.

Examples:
  gantry check disk.vhd
  gantry check --json disk.raw")]
pub struct CheckArgs {
    /// The image: a .vhd or .raw file
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

/// Checks an image, and prints the report on stdout. Returns the exit code: 0 sound, 1 cannot be read, 4 damaged.
pub fn run(args: &CheckArgs) -> u8 {
    check(args, &mut std::io::stdout().lock())
}

fn check(args: &CheckArgs, out: &mut dyn Write) -> u8 {
    let report = match examine(&args.file) {
        Ok(report) => report,
        Err(error) => {
            complain(&error);
            return FAILED;
        }
    };
    let verdict = if report.sound { SOUND } else { DAMAGED };
    let text = if args.json { report.json() } else { report.text() };
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => verdict,
        // Whoever reads the output has had enough; the verdict stands.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => verdict,
        Err(error) => {
            complain(&error);
            FAILED
        }
    }
}

fn complain(error: &dyn std::error::Error) {
    // If stderr is closed, the exit code has to do.
    drop(writeln!(std::io::stderr(), "gantry: {error}"));
}

/// What is in the file at `path`, and what is wrong with it.
fn examine(path: &Path) -> Result<Report, CheckError> {
    let source = Source::open(path)?;
    if begins_with_cookie(&source, 0)?
        || begins_with_cookie(&source, source.len.saturating_sub(FOOTER_LEN as u64))?
    {
        return vhd::examine(&source);
    }
    match path.extension().and_then(|extension| extension.to_str()).map(str::to_ascii_lowercase).as_deref() {
        Some("vhd") => vhd::examine(&source),
        Some("raw") => Ok(raw(&source)),
        _ => Err(CheckError::Unknown { file: path.display().to_string() }),
    }
}

fn begins_with_cookie(source: &Source, offset: u64) -> Result<bool, CheckError> {
    let mut cookie = [0; FOOTER_COOKIE.len()];
    if source.len.saturating_sub(offset) < cookie.len() as u64 {
        return Ok(false);
    }
    source.read(offset, &mut cookie)?;
    Ok(cookie == FOOTER_COOKIE)
}

/// A raw disk can only have a wrong size.
fn raw(source: &Source) -> Report {
    let mut report = Report::new(source, "raw");
    report.virtual_size = Some(source.len);
    let error = match source.len {
        0 => Some(RawError::Empty),
        len if len.is_multiple_of(512) => None,
        len => Some(RawError::Unaligned { offset: len / 512 * 512, found: len }),
    };
    if let Some(error) = error {
        report.problem(Problem {
            file: None,
            rule: None,
            code: error.code(),
            offset: error.offset(),
            message: error.to_string(),
        });
    }
    report
}
