//! `gantry check FILE`: what is in a disk image or an archive of VMs, and what is wrong with it.
//!
//! It reads files itself, with blocking reads: it takes no data directory and no server.

mod archive;
mod archive_facts;
mod audit;
mod chain;
mod compressed;
mod report;
mod source;
mod stream;
mod vhd;

#[cfg(test)]
mod tests;

use std::io::Write;
use std::path::{Path, PathBuf};

use clap::Args;

use super::user::DataArgs;

use self::report::{Problem, Report};
use self::source::{CheckError, Source};
use crate::formats::frames::{SNIFF_BYTES, Sniffed, sniff};
use crate::formats::raw::RawError;
use crate::formats::vhd::{FOOTER_COOKIE, FOOTER_LEN};
use crate::formats::xva::looks_like_tar;

/// Exit code for an image that is sound.
const SOUND: u8 = 0;
/// Exit code when the file or the output failed.
const FAILED: u8 = 1;
/// Exit code for an image that is damaged.
const DAMAGED: u8 = 4;

/// Arguments of `gantry check`.
#[derive(Debug, Args)]
#[command(after_help = "\
What a file is follows from its content (a VHD has a footer at its end and often a copy of it
in front, an XVA begins with ova.xml, gzip and zstd have their marks), then from its name. What is
compressed is unpacked as it is read and stored nowhere; a differencing VHD must be decompressed
first, because its parents are looked up beside it.

Exit codes: 0 sound, 1 cannot be read, 2 wrong usage, 4 damaged.

Examples:
  gantry check disk.vhd
  gantry check vm.xva
  gantry check --audit --data /var/lib/gantry
  gantry check --json disk.raw.zst")]
pub struct CheckArgs {
    /// The image: a .vhd, .raw or .xva file, also in gzip or zstd
    #[arg(value_name = "FILE", required_unless_present = "audit", conflicts_with = "audit")]
    pub file: Option<PathBuf>,
    /// Check the audit of a data directory instead, whether a server works on it or not
    #[arg(long)]
    pub audit: bool,
    /// Where that data directory is
    #[command(flatten)]
    pub data: DataArgs,
    /// Print one JSON object instead of text
    #[arg(long)]
    pub json: bool,
}

/// Checks an image, and prints the report on stdout. Returns the exit code: 0 sound, 1 cannot be read, 4 damaged.
pub fn run(args: &CheckArgs) -> u8 {
    check(args, &mut std::io::stdout().lock())
}

fn check(args: &CheckArgs, out: &mut dyn Write) -> u8 {
    let (sound, text) = match &args.file {
        Some(file) => match examine(file) {
            Ok(report) => (report.sound, if args.json { report.json() } else { report.text() }),
            Err(error) => {
                complain(&error);
                return FAILED;
            }
        },
        None => match audit::examine(&args.data, args.json) {
            Ok(found) => found,
            Err(error) => {
                complain(&error);
                return error.exit_code();
            }
        },
    };
    let verdict = if sound { SOUND } else { DAMAGED };
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
    let mut first = [0; 512];
    let (first, _) = first.split_at_mut(usize::try_from(source.len).unwrap_or(usize::MAX).min(512));
    source.read(0, first)?;
    match compression(first) {
        Sniffed::Plain if is_archive(first) => return archive::examine(&source),
        Sniffed::Plain => {}
        sniffed => return compressed::examine(&source, sniffed),
    }
    match extension(path).as_deref() {
        Some("vhd") => vhd::examine(&source),
        Some("raw") => Ok(raw(&source)),
        Some("xva") => archive::examine(&source),
        _ => Err(CheckError::Unknown { file: path.display().to_string() }),
    }
}

/// How a file that begins like that is compressed. Deflate is all that gzip ever had: two bytes alone may begin a disk.
fn compression(first: &[u8]) -> Sniffed {
    match sniff(first.get(..SNIFF_BYTES).unwrap_or(first)) {
        Some(Sniffed::Gzip) if first.get(2).is_some_and(|&method| method != 8) => Sniffed::Plain,
        sniffed => sniffed.unwrap_or(Sniffed::Plain),
    }
}

/// Whether bytes begin with the tar header of an XVA.
fn is_archive(first: &[u8]) -> bool {
    first.starts_with(b"ova.xml\0") && looks_like_tar(first)
}

/// The end of a file's name, in lower case.
fn extension(path: &Path) -> Option<String> {
    path.extension().and_then(|extension| extension.to_str()).map(str::to_ascii_lowercase)
}

fn begins_with_cookie(source: &Source, offset: u64) -> Result<bool, CheckError> {
    let mut cookie = [0; FOOTER_COOKIE.len()];
    if source.len.saturating_sub(offset) < cookie.len() as u64 {
        return Ok(false);
    }
    source.read(offset, &mut cookie)?;
    Ok(cookie == FOOTER_COOKIE)
}

fn raw(source: &Source) -> Report {
    let mut report = Report::new(source, "raw");
    examine_raw(source.len, &mut report);
    report
}

/// A raw disk of so many bytes can only have a wrong size.
fn examine_raw(length: u64, report: &mut Report) {
    report.virtual_size = Some(length);
    let error = match length {
        0 => Some(RawError::Empty),
        len if len.is_multiple_of(512) => None,
        len => Some(RawError::Unaligned { offset: len / 512 * 512, found: len }),
    };
    if let Some(error) = error {
        report.problem(Problem {
            file: None,
            rule: None,
            code: error.code(),
            member: None,
            offset: error.offset(),
            file_offset: None,
            message: error.to_string(),
        });
    }
}
