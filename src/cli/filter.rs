//! `gantry filter --objects FILE EXPR`: the filter language on a file of objects, without a server.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, ErrorKind, Read, Write};
use std::path::PathBuf;

use clap::Args;
use serde_json::Value;

use super::complain;
use crate::inventory::filter::{EvaluateError, Filter, FilterError};

/// Longest line, bytes: it is held in memory together with its value.
const MAX_LINE: u64 = 64 << 20;

/// Arguments of `gantry filter`.
#[derive(Debug, Args)]
#[command(after_help = "\
The expression is that of ?filter= in the REST API: words that some value has to contain, `name:word` for one
member, `>n` and its like, `|(a b)` for or, `!a` for not, /regular expressions/, \"quoted text\", `name?` for what is
set. Lines that match are printed as they are; lines of white space are passed over.

Exit codes: 0 done, whether or not anything matched, 1 the file cannot be read, 2 wrong usage or a bad expression.

Examples:
  curl -sb $T \"$S/vdis?fields=*&ndjson\" > vdis
  gantry filter --objects vdis 'size:>1e9 !name_label:/^test/i'
  gantry filter --objects vdis -- -5")]
pub struct FilterArgs {
    /// The objects: one JSON value on each line
    #[arg(long, value_name = "FILE")]
    pub objects: PathBuf,
    /// The expression; after `--` where it begins with a hyphen
    #[arg(value_name = "EXPR")]
    pub expression: String,
}

/// Why the lines could not all be looked at.
#[derive(Debug, thiserror::Error)]
enum LinesError {
    #[error("the filter is no expression: {0}")]
    Expression(#[from] FilterError),
    #[error("line {line} of {file}: {source}")]
    Evaluate { file: String, line: u64, source: EvaluateError },
    #[error("cannot read {file}: {source}")]
    Read { file: String, source: io::Error },
    #[error("line {line} of {file} is no JSON value: {source}")]
    Json { file: String, line: u64, source: serde_json::Error },
    #[error("line {line} of {file} is longer than {MAX_LINE} bytes, the most that is read")]
    LongLine { file: String, line: u64 },
    #[error("cannot write to stdout: {0}")]
    Write(io::Error),
}

impl LinesError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Expression(_) | Self::Evaluate { .. } => 2,
            Self::Read { .. } | Self::Json { .. } | Self::LongLine { .. } | Self::Write(_) => 1,
        }
    }
}

/// Prints the lines that match. Returns the exit code.
pub fn run(args: &FilterArgs) -> u8 {
    let mut out = BufWriter::new(io::stdout().lock());
    let ended = lines(args, &mut out);
    // What was found before a failure is found nevertheless.
    match ended.and(out.flush().map_err(LinesError::Write)) {
        Ok(()) => 0,
        // Whoever reads the output has had enough.
        Err(LinesError::Write(error)) if error.kind() == ErrorKind::BrokenPipe => 0,
        Err(error) => {
            complain(&error);
            error.exit_code()
        }
    }
}

fn lines(args: &FilterArgs, out: &mut dyn Write) -> Result<(), LinesError> {
    let filter: Filter = args.expression.parse()?;
    let file = || args.objects.display().to_string();
    let unreadable = |source| LinesError::Read { file: file(), source };
    let mut input = BufReader::new(File::open(&args.objects).map_err(unreadable)?);
    let mut text = Vec::new();
    for line in 1.. {
        text.clear();
        let mut limited = input.by_ref().take(MAX_LINE + 1);
        if limited.read_until(b'\n', &mut text).map_err(unreadable)? == 0 {
            break;
        }
        if text.len() as u64 > MAX_LINE {
            return Err(LinesError::LongLine { file: file(), line });
        }
        if text.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        let object: Value = serde_json::from_slice(&text).map_err(|source| LinesError::Json {
            file: file(),
            line,
            source,
        })?;
        if filter.matches(&object).map_err(|source| LinesError::Evaluate { file: file(), line, source })? {
            if text.last() != Some(&b'\n') {
                text.push(b'\n');
            }
            out.write_all(&text).map_err(LinesError::Write)?;
        }
    }
    Ok(())
}
