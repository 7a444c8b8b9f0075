//! The audit's table: a chain of records that grows at its end and is cut at its front.
//!
//! A record's text is JSON whose bytes are kept as they were hashed. The chain shows every change within it. That its
//! end was cut off, too, shows only as long as whoever did it has left the table `audit_ends` alone: who wants to be sure
//! keeps the last number and hash elsewhere.

use rusqlite::{Connection, OptionalExtension, Row, Transaction, params};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::StateError;

mod verify;

pub use verify::{Broken, Verified, verify_file};

/// The SHA-256 up to and with a record.
pub type Hash = [u8; 32];

/// Records that are cut off in one transaction.
pub const CUT_ROWS: u32 = 1000;

/// What is acted on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Object {
    /// Its type, as the contract names it; `token`, `user` and `task` beside.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its id; of a token the public one. What is about to be made may have none yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// What people call it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// What came of an action.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is about to be done; a later record names this one and says what came of it.
    Intended,
    /// Done; of what only begins, such as an export: begun.
    Success,
    /// It was not done.
    Refused,
    /// It was tried.
    Failure,
    /// Nobody saw its end: the client left.
    Unknown,
}

impl Outcome {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Intended => "intended",
            Self::Success => "success",
            Self::Refused => "refused",
            Self::Failure => "failure",
            Self::Unknown => "unknown",
        }
    }
}

/// One record, without its place in the chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The number of the record with the intent, in the one with the outcome.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub intent: Option<i64>,
    /// What was done: `vdi.delete`, `login`.
    pub action: String,
    /// What came of it.
    pub outcome: Outcome,
    /// The stable word of the error.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The user's id.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// The user's name; in a failed login the one that was tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user_name: Option<String>,
    /// The public id of the token.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// By which way it came: `rest`, `rpc`, `cli`.
    pub via: String,
    /// The client's address; on the command line the number of the system's user.
    pub from: String,
    /// What was acted on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<Object>,
    /// The task that does it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<String>,
}

/// A record as its bytes are hashed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Sealed {
    seq: i64,
    time: i64,
    #[serde(flatten)]
    entry: Entry,
}

/// A record with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// Its number.
    pub seq: i64,
    /// When it was written, Unix milliseconds.
    pub time_ms: i64,
    /// Its bytes.
    pub text: String,
    /// The hash up to and with it.
    pub hash: Hash,
}

impl Stored {
    /// The record as a JSON object, with its hash.
    ///
    /// # Errors
    /// [`StateError::Corrupt`] when it is none.
    pub fn json(&self) -> Result<serde_json::Value, StateError> {
        let corrupt = |_| StateError::corrupt("audit.record", &self.text);
        let mut value: serde_json::Value = serde_json::from_str(&self.text).map_err(corrupt)?;
        if let Some(members) = value.as_object_mut() {
            members.insert("id".into(), self.seq.to_string().into());
            members.insert("hash".into(), hex(&self.hash).into());
        }
        Ok(value)
    }
}

/// Bytes in hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // writing to a String cannot fail
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn chained(previous: &Hash, text: &str) -> Hash {
    Sha256::new().chain_update(previous).chain_update(text.as_bytes()).finalize().into()
}

fn end(conn: &Connection, name: &str) -> Result<(i64, Hash), StateError> {
    let mut query = conn.prepare_cached("SELECT seq, hash FROM audit_ends WHERE name = ?1")?;
    Ok(query.query_row([name], |row| Ok((row.get(0)?, row.get(1)?)))?)
}

/// Adds a record. Returns its number.
///
/// # Errors
/// [`StateError`] if the database cannot be written.
pub fn append(transaction: &Transaction<'_>, entry: &Entry, time_ms: i64) -> Result<i64, StateError> {
    let (last, previous) = end(transaction, "head")?;
    let seq = last.saturating_add(1);
    let sealed = Sealed { seq, time: time_ms, entry: entry.clone() };
    let text =
        serde_json::to_string(&sealed).map_err(|_| StateError::corrupt("audit.record", &entry.action))?;
    let hash = chained(&previous, &text);
    transaction
        .prepare_cached(
            "INSERT INTO audit (seq, time_ms, task_id, record, hash) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute(params![seq, time_ms, entry.task, text, hash])?;
    transaction
        .prepare_cached("UPDATE audit_ends SET seq = ?1, hash = ?2 WHERE name = 'head'")?
        .execute(params![seq, hash])?;
    Ok(seq)
}

/// Adds a record unless there is one of the same action and task already.
///
/// # Errors
/// [`StateError`] if the database cannot be written.
pub fn append_once(transaction: &Transaction<'_>, entry: &Entry, time_ms: i64) -> Result<(), StateError> {
    if let Some(task) = &entry.task {
        let known: Option<i64> = transaction
            .prepare_cached("SELECT 1 FROM audit WHERE task_id = ?1 AND record ->> 'action' = ?2 LIMIT 1")?
            .query_row(params![task, entry.action], |row| row.get(0))
            .optional()?;
        if known.is_some() {
            return Ok(());
        }
    }
    append(transaction, entry, time_ms).map(drop)
}

fn from_row(row: &Row<'_>) -> rusqlite::Result<Stored> {
    Ok(Stored { seq: row.get(0)?, time_ms: row.get(1)?, text: row.get(2)?, hash: row.get(3)? })
}

/// The newest records before a number, the newest first.
///
/// # Errors
/// [`StateError`] if the database cannot be read.
pub fn page(conn: &Connection, before: i64, rows: u32) -> Result<Vec<Stored>, StateError> {
    let mut query = conn.prepare_cached(
        "SELECT seq, time_ms, record, hash FROM audit WHERE seq < ?1 ORDER BY seq DESC LIMIT ?2",
    )?;
    Ok(query.query_map(params![before, rows], from_row)?.collect::<Result<_, _>>()?)
}

/// A record by its number.
///
/// # Errors
/// [`StateError`] if the database cannot be read.
pub fn get(conn: &Connection, seq: i64) -> Result<Option<Stored>, StateError> {
    let mut query = conn.prepare_cached("SELECT seq, time_ms, record, hash FROM audit WHERE seq = ?1")?;
    Ok(query.query_row([seq], from_row).optional()?)
}

/// Cuts records off that were written before a time, from the front up to the first that was not, and at most
/// [`CUT_ROWS`]. The hash of the last of them is kept, so that the others can still be verified. Returns how many.
///
/// # Errors
/// [`StateError`] if the database cannot be written.
pub fn cut(transaction: &Transaction<'_>, before_ms: i64) -> Result<u32, StateError> {
    let mut query =
        transaction.prepare_cached("SELECT seq, time_ms, hash FROM audit ORDER BY seq LIMIT ?1")?;
    let mut rows = query.query([CUT_ROWS])?;
    let (mut last, mut count): (Option<(i64, Hash)>, u32) = (None, 0);
    while let Some(row) = rows.next()? {
        if row.get::<_, i64>(1)? >= before_ms {
            break;
        }
        last = Some((row.get(0)?, row.get(2)?));
        count = count.saturating_add(1);
    }
    let Some((seq, hash)) = last else { return Ok(0) };
    transaction
        .execute("UPDATE audit_ends SET seq = ?1, hash = ?2 WHERE name = 'anchor'", params![seq, hash])?;
    transaction.execute("DELETE FROM audit WHERE seq <= ?1", [seq])?;
    Ok(count)
}

/// A record's own number, time and task, read from its text; `None` where it is no record.
fn sealed_place(text: &str) -> Option<(i64, i64, Option<String>)> {
    let sealed: Sealed = serde_json::from_str(text).ok()?;
    Some((sealed.seq, sealed.time, sealed.entry.task))
}

#[cfg(test)]
mod tests;
