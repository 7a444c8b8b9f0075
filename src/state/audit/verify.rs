//! Whether the chain is whole.

use std::path::Path;

use rusqlite::{Connection, OpenFlags};

use super::{Hash, chained, end, hex, sealed_place};
use crate::state::{StateError, migrations};

/// The first version of the database that has an audit.
const FIRST_VERSION: i64 = 3;

/// What the look through an audit has found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verified {
    /// The last record that was cut off: nothing is known of those up to it. 0 when there was none.
    pub anchor: i64,
    /// Records that are there and sound.
    pub records: i64,
    /// The last sound record, or the anchor.
    pub last: i64,
    /// Its hash.
    pub hash: Hash,
    /// Where the chain breaks first.
    pub broken: Option<Broken>,
}

/// Where a chain breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Broken {
    /// A number is left out.
    #[error("record {expected} is missing: the next one is {found}")]
    Missing {
        /// The number that had to come.
        expected: i64,
        /// The number that came.
        found: i64,
    },
    /// The bytes are not those that were hashed, or the hash is not theirs.
    #[error("record {seq} does not fit its hash: it is {found}, and {expected} is recorded")]
    Hash {
        /// The record.
        seq: i64,
        /// The hash of its bytes, in hexadecimal digits.
        found: String,
        /// What is recorded.
        expected: String,
    },
    /// A value beside the record is not the one in it.
    #[error("record {seq} says something else than the columns beside it, or is none")]
    Columns {
        /// The record.
        seq: i64,
    },
    /// Records are missing at the end.
    #[error("the last record is {found}, and {expected} was written last")]
    End {
        /// The last record's number when it was written.
        expected: i64,
        /// The last that is there.
        found: i64,
    },
}

impl Broken {
    /// The stable word for it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Missing { .. } => "record_missing",
            Self::Hash { .. } => "hash_mismatch",
            Self::Columns { .. } => "columns_mismatch",
            Self::End { .. } => "end_missing",
        }
    }

    /// The first record that is not sound.
    pub fn seq(&self) -> i64 {
        match self {
            Self::Missing { expected, .. } => *expected,
            Self::Hash { seq, .. } | Self::Columns { seq } => *seq,
            Self::End { found, .. } => found.saturating_add(1),
        }
    }
}

/// Looks through the audit in a database file, whether a server works on it or not. Blocks.
///
/// # Errors
/// [`StateError`] when it cannot be read, or is of a version that has no audit.
pub fn verify_file(path: &Path) -> Result<Verified, StateError> {
    let mut conn = Connection::open_with_flags(
        path,
        OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX,
    )?;
    conn.busy_timeout(std::time::Duration::from_secs(10))?;
    let found = migrations::check(&conn, path, migrations::SCHEMA_VERSION)?;
    if found < FIRST_VERSION {
        return Err(StateError::corrupt("version without an audit", &found.to_string()));
    }
    // One transaction, so that what a server adds meanwhile is not half seen.
    let transaction = conn.transaction()?;
    verify(&transaction)
}

/// Looks through the audit.
///
/// # Errors
/// [`StateError`] when it cannot be read.
pub fn verify(conn: &Connection) -> Result<Verified, StateError> {
    let (anchor, hash) = end(conn, "anchor")?;
    let head = end(conn, "head")?;
    let mut verified = Verified { anchor, records: 0, last: anchor, hash, broken: None };
    let mut query = conn.prepare("SELECT seq, time_ms, task_id, record, hash FROM audit ORDER BY seq")?;
    let mut rows = query.query([])?;
    while let Some(row) = rows.next()? {
        let (seq, time_ms, task): (i64, i64, Option<String>) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let (text, recorded): (String, Vec<u8>) = (row.get(3)?, row.get(4)?);
        let (expected, found) = (verified.last.saturating_add(1), chained(&verified.hash, &text));
        let broken = if seq != expected {
            Broken::Missing { expected, found: seq }
        } else if found.as_slice() != recorded {
            Broken::Hash { seq, found: hex(&found), expected: hex(&recorded) }
        } else if sealed_place(&text) != Some((seq, time_ms, task)) {
            Broken::Columns { seq }
        } else {
            (verified.last, verified.hash) = (seq, found);
            verified.records = verified.records.saturating_add(1);
            continue;
        };
        verified.broken = Some(broken);
        return Ok(verified);
    }
    if head != (verified.last, verified.hash) {
        verified.broken = Some(Broken::End { expected: head.0, found: verified.last });
    }
    Ok(verified)
}
