//! Requests that a client has named: what each was, and what was answered. A record is kept for a day from its
//! answer, and at most [`MAX_RECORDS`] and [`MAX_ANSWER_BYTES`] of one user.

use rusqlite::{Connection, OptionalExtension, Row, params};

use super::StateError;
use crate::ids::UserId;

/// How long a record is good, milliseconds.
pub const KEEP_MS: i64 = 24 * 60 * 60 * 1000;

/// The most records of one user. Answered ones go first, the oldest of them before the others.
pub const MAX_RECORDS: u32 = 10_000;

/// The most bytes of all answers of one user.
pub const MAX_ANSWER_BYTES: u64 = 16 << 20;

/// The SHA-256 of a request's parameters.
pub type Fingerprint = [u8; 32];

/// Which request is meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Name {
    /// Who sent it.
    pub user: UserId,
    /// Method and path.
    pub address: String,
    /// What the client calls it.
    pub key: String,
}

/// An answer as it is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The headers that matter to who reads it again.
    pub headers: Vec<(String, String)>,
    /// The body; `None` when it is not kept.
    pub body: Option<Vec<u8>>,
}

impl Answer {
    fn bytes(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        headers + self.body.as_ref().map_or(0, Vec::len)
    }
}

/// What is known of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record {
    /// Of its parameters.
    pub fingerprint: Fingerprint,
    /// The job that it made.
    pub task: Option<String>,
    /// `<collection>/<id>` of what it makes. Named before it is made: if it exists, the request was done.
    pub object: Option<String>,
    /// The answer; before it was given, the one that holds once the object exists.
    pub answer: Option<Answer>,
    /// Whether the answer was given.
    pub answered: bool,
}

const COLUMNS: &str = "fingerprint, task_id, object, status, headers, body, answered";

fn from_row(row: &Row<'_>, from: usize) -> Result<Record, StateError> {
    let headers = |text: String| {
        serde_json::from_str(&text).map_err(|_| StateError::corrupt("idempotency.headers", &text))
    };
    let status: Option<u16> = row.get(from + 3)?;
    let answer = match status {
        Some(status) => Some(Answer {
            status,
            headers: row.get::<_, Option<String>>(from + 4)?.map(headers).transpose()?.unwrap_or_default(),
            body: row.get(from + 5)?,
        }),
        None => None,
    };
    Ok(Record {
        fingerprint: row.get(from)?,
        task: row.get(from + 1)?,
        object: row.get(from + 2)?,
        answer,
        answered: row.get(from + 6)?,
    })
}

/// Looks a request up. `None`: it was not known, and is written down now. Clears away what is too old or too much.
///
/// # Errors
/// [`StateError`] if the database cannot be written.
pub fn begin(
    conn: &Connection,
    name: &Name,
    fingerprint: &Fingerprint,
    now_ms: i64,
) -> Result<Option<Record>, StateError> {
    conn.prepare_cached("DELETE FROM idempotency WHERE touched_ms <= ?1")?
        .execute([now_ms.saturating_sub(KEEP_MS)])?;
    let sql = format!("SELECT {COLUMNS} FROM idempotency WHERE user_id = ?1 AND address = ?2 AND key = ?3");
    let found = conn
        .prepare_cached(&sql)?
        .query_row(params![name.user.to_string(), name.address, name.key], |row| Ok(from_row(row, 0)))
        .optional()?;
    if let Some(record) = found {
        return record.map(Some);
    }
    bound(conn, name.user, MAX_RECORDS - 1, MAX_ANSWER_BYTES)?;
    conn.prepare_cached(
        "INSERT INTO idempotency (user_id, address, key, fingerprint, touched_ms) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?
    .execute(params![name.user.to_string(), name.address, name.key, fingerprint, now_ms])?;
    Ok(None)
}

/// Forgets what is more than that of one user.
fn bound(conn: &Connection, user: UserId, records: u32, answer_bytes: u64) -> Result<(), StateError> {
    conn.prepare_cached(
        "DELETE FROM idempotency WHERE rowid IN (
             SELECT id FROM (
                 SELECT rowid AS id, row_number() OVER ranks AS place, sum(answer_bytes) OVER ranks AS bytes
                 FROM idempotency WHERE user_id = ?1
                 WINDOW ranks AS (ORDER BY answered, touched_ms DESC, rowid DESC ROWS UNBOUNDED PRECEDING))
             WHERE place > ?2 OR bytes > ?3)",
    )?
    .execute(params![user.to_string(), records, i64::try_from(answer_bytes).unwrap_or(i64::MAX)])?;
    Ok(())
}

/// Begins a request anew that is known, and of which nothing was done.
///
/// # Errors
/// [`StateError`] if the database cannot be written.
pub fn begin_again(conn: &Connection, name: &Name, now_ms: i64) -> Result<(), StateError> {
    conn.execute(
        "UPDATE idempotency SET task_id = NULL, object = NULL, answered = 0, status = NULL, headers = NULL,
             body = NULL, answer_bytes = 0, touched_ms = ?4
         WHERE user_id = ?1 AND address = ?2 AND key = ?3",
        params![name.user.to_string(), name.address, name.key, now_ms],
    )?;
    Ok(())
}

/// Notes the job of a request.
///
/// # Errors
/// [`StateError`] if the database cannot be written.
pub fn note_task(conn: &Connection, name: &Name, task: &str) -> Result<(), StateError> {
    conn.execute(
        "UPDATE idempotency SET task_id = ?4 WHERE user_id = ?1 AND address = ?2 AND key = ?3",
        params![name.user.to_string(), name.address, name.key, task],
    )?;
    Ok(())
}

/// Notes what a request is about to make, and the answer that holds once it exists.
///
/// # Errors
/// [`StateError`] if the database cannot be written.
pub fn note_object(
    conn: &Connection,
    name: &Name,
    task: Option<&str>,
    object: &str,
    answer: &Answer,
) -> Result<(), StateError> {
    conn.execute(
        "UPDATE idempotency SET task_id = ?4, object = ?5, status = ?6, headers = ?7, body = ?8, answer_bytes = ?9
         WHERE user_id = ?1 AND address = ?2 AND key = ?3",
        params![
            name.user.to_string(),
            name.address,
            name.key,
            task,
            object,
            answer.status,
            headers_text(answer),
            answer.body,
            size(answer),
        ],
    )?;
    Ok(())
}

/// Keeps the answer of a request, also of one that took so long that it was cleared away.
///
/// # Errors
/// [`StateError`] if the database cannot be written.
pub fn answer(
    conn: &Connection,
    name: &Name,
    fingerprint: &Fingerprint,
    answer: &Answer,
    now_ms: i64,
) -> Result<(), StateError> {
    conn.prepare_cached(
        "INSERT INTO idempotency (user_id, address, key, fingerprint, answered, status, headers, body,
             answer_bytes, touched_ms)
         VALUES (?1, ?2, ?3, ?4, 1, ?5, ?6, ?7, ?8, ?9)
         ON CONFLICT (user_id, address, key) DO UPDATE SET fingerprint = excluded.fingerprint, answered = 1,
             status = excluded.status, headers = excluded.headers, body = excluded.body,
             answer_bytes = excluded.answer_bytes, touched_ms = excluded.touched_ms",
    )?
    .execute(params![
        name.user.to_string(),
        name.address,
        name.key,
        fingerprint,
        answer.status,
        headers_text(answer),
        answer.body,
        size(answer),
        now_ms,
    ])?;
    Ok(())
}

/// The requests that were not answered although they have made a job or were about to make something, and are
/// not too old.
///
/// # Errors
/// [`StateError`] if the database cannot be read.
pub fn unanswered(conn: &Connection, now_ms: i64) -> Result<Vec<(Name, Record)>, StateError> {
    let sql = format!(
        "SELECT user_id, address, key, {COLUMNS} FROM idempotency
         WHERE answered = 0 AND (task_id IS NOT NULL OR object IS NOT NULL) AND touched_ms > ?1"
    );
    let mut query = conn.prepare(&sql)?;
    let mut rows = query.query([now_ms.saturating_sub(KEEP_MS)])?;
    let mut list = Vec::new();
    while let Some(row) = rows.next()? {
        let user: String = row.get(0)?;
        let name = Name {
            user: user.parse().map_err(|_| StateError::corrupt("idempotency.user_id", &user))?,
            address: row.get(1)?,
            key: row.get(2)?,
        };
        list.push((name, from_row(row, 3)?));
    }
    Ok(list)
}

fn headers_text(answer: &Answer) -> String {
    serde_json::json!(answer.headers).to_string()
}

fn size(answer: &Answer) -> i64 {
    i64::try_from(answer.bytes()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests;
