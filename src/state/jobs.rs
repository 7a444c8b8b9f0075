//! The journal: one record per job, whatever its kind. Kinds and states that this version does not know are
//! kept as they are; a job is over when it has an end, not when its state is one of a list.

use rusqlite::{Connection, OptionalExtension, Row};

use super::StateError;

/// A job as the journal holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobRecord {
    /// Base 36, sorts by time.
    pub id: String,
    /// What kind of job it is.
    pub kind: String,
    /// Version of the spec's shape.
    pub spec_version: u32,
    /// What is to be done, JSON.
    pub spec: String,
    /// The user for whom it runs.
    pub owner: Option<String>,
    /// The job that it is a part of.
    pub parent: Option<String>,
    /// What the client has called the request.
    pub idempotency_key: Option<String>,
    /// How often it has been begun.
    pub attempt: u32,
    /// Rises with each runner; an older runner cannot write any more.
    pub epoch: u32,
    /// Where it runs.
    pub node: Option<String>,
    /// What it holds, JSON array.
    pub claims: String,
    /// The engine's word for where it stands.
    pub state: String,
    /// A stable code, when it ended badly or waits.
    pub reason: Option<String>,
    /// Result or error, JSON, when it has ended.
    pub outcome: Option<String>,
    /// When it was made, Unix milliseconds.
    pub created_ms: i64,
    /// When it began to run.
    pub started_ms: Option<i64>,
    /// When the record was last written.
    pub updated_ms: i64,
    /// When it ended; `None` while it has not.
    pub ended_ms: Option<i64>,
}

const COLUMNS: &str = "id, kind, spec_version, spec, owner, parent, idempotency_key, attempt, epoch, node, \
     claims, state, reason, outcome, created_ms, started_ms, updated_ms, ended_ms";

fn from_row(row: &Row<'_>) -> rusqlite::Result<JobRecord> {
    Ok(JobRecord {
        id: row.get(0)?,
        kind: row.get(1)?,
        spec_version: row.get(2)?,
        spec: row.get(3)?,
        owner: row.get(4)?,
        parent: row.get(5)?,
        idempotency_key: row.get(6)?,
        attempt: row.get(7)?,
        epoch: row.get(8)?,
        node: row.get(9)?,
        claims: row.get(10)?,
        state: row.get(11)?,
        reason: row.get(12)?,
        outcome: row.get(13)?,
        created_ms: row.get(14)?,
        started_ms: row.get(15)?,
        updated_ms: row.get(16)?,
        ended_ms: row.get(17)?,
    })
}

/// Writes the whole record. `false`, and nothing written, when the journal has a later epoch of the job: the
/// caller is no longer its runner.
///
/// # Errors
/// [`StateError`] if the database cannot be written.
pub fn put(conn: &Connection, job: &JobRecord) -> Result<bool, StateError> {
    let sql = format!(
        "INSERT INTO jobs ({COLUMNS})
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18)
         ON CONFLICT (id) DO UPDATE SET kind = excluded.kind, spec_version = excluded.spec_version,
             spec = excluded.spec, owner = excluded.owner, parent = excluded.parent,
             idempotency_key = excluded.idempotency_key, attempt = excluded.attempt, epoch = excluded.epoch,
             node = excluded.node, claims = excluded.claims, state = excluded.state, reason = excluded.reason,
             outcome = excluded.outcome, created_ms = excluded.created_ms, started_ms = excluded.started_ms,
             updated_ms = excluded.updated_ms, ended_ms = excluded.ended_ms
         WHERE excluded.epoch >= jobs.epoch"
    );
    // destructured, so that a new field cannot be forgotten here
    let JobRecord {
        id,
        kind,
        spec_version,
        spec,
        owner,
        parent,
        idempotency_key,
        attempt,
        epoch,
        node,
        claims,
        state,
        reason,
        outcome,
        created_ms,
        started_ms,
        updated_ms,
        ended_ms,
    } = job;
    let written = conn.execute(
        &sql,
        rusqlite::params![
            id,
            kind,
            spec_version,
            spec,
            owner,
            parent,
            idempotency_key,
            attempt,
            epoch,
            node,
            claims,
            state,
            reason,
            outcome,
            created_ms,
            started_ms,
            updated_ms,
            ended_ms,
        ],
    )?;
    Ok(written > 0)
}

/// The job with that id.
///
/// # Errors
/// [`StateError`] if the database cannot be read.
pub fn get(conn: &Connection, id: &str) -> Result<Option<JobRecord>, StateError> {
    let sql = format!("SELECT {COLUMNS} FROM jobs WHERE id = ?1");
    Ok(conn.query_row(&sql, [id], from_row).optional()?)
}

/// All jobs that have not ended, oldest first: what a start has to take up again.
///
/// # Errors
/// [`StateError`] if the database cannot be read.
pub fn unfinished(conn: &Connection) -> Result<Vec<JobRecord>, StateError> {
    let sql = format!("SELECT {COLUMNS} FROM jobs WHERE ended_ms IS NULL ORDER BY id");
    let mut query = conn.prepare(&sql)?;
    let rows = query.query_map([], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The `limit` jobs that ended last, the last one first.
///
/// # Errors
/// [`StateError`] if the database cannot be read.
pub fn ended(conn: &Connection, limit: u32) -> Result<Vec<JobRecord>, StateError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM jobs WHERE ended_ms IS NOT NULL ORDER BY ended_ms DESC, id DESC LIMIT ?1"
    );
    let mut query = conn.prepare(&sql)?;
    let rows = query.query_map([limit], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// The newest job that the owner has made with that idempotency key at or after a time.
///
/// # Errors
/// [`StateError`] if the database cannot be read.
pub fn by_idempotency_key(
    conn: &Connection,
    owner: &str,
    key: &str,
    since_ms: i64,
) -> Result<Option<JobRecord>, StateError> {
    let sql = format!(
        "SELECT {COLUMNS} FROM jobs
         WHERE owner = ?1 AND idempotency_key = ?2 AND created_ms >= ?3 ORDER BY id DESC LIMIT 1"
    );
    Ok(conn.query_row(&sql, (owner, key, since_ms), from_row).optional()?)
}

/// Forgets a job. Whether there was one.
///
/// # Errors
/// [`StateError`] if the database cannot be written.
pub fn delete(conn: &Connection, id: &str) -> Result<bool, StateError> {
    Ok(conn.execute("DELETE FROM jobs WHERE id = ?1", [id])? > 0)
}

/// Forgets ended jobs: all that ended before a time, and all but the `keep` that ended last. Returns how many.
///
/// # Errors
/// [`StateError`] if the database cannot be written.
pub fn retain(conn: &Connection, keep: u32, ended_since_ms: i64) -> Result<usize, StateError> {
    Ok(conn.execute(
        "DELETE FROM jobs WHERE ended_ms IS NOT NULL AND (ended_ms < ?1 OR id NOT IN (
             SELECT id FROM jobs WHERE ended_ms IS NOT NULL ORDER BY ended_ms DESC, id DESC LIMIT ?2))",
        (ended_since_ms, keep),
    )?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::db::memory;

    fn job(id: &str) -> JobRecord {
        JobRecord {
            id: id.to_owned(),
            kind: "something of a later version".to_owned(),
            spec_version: 9,
            spec: "{ \"z\": 1, \"a\": [1,2] }".to_owned(),
            owner: Some("bob".to_owned()),
            parent: None,
            idempotency_key: None,
            attempt: 1,
            epoch: 1,
            node: Some("here".to_owned()),
            claims: "[]".to_owned(),
            state: "dreaming".to_owned(),
            reason: None,
            outcome: None,
            created_ms: 1,
            started_ms: Some(2),
            updated_ms: 3,
            ended_ms: None,
        }
    }

    fn ended_at(id: &str, ended_ms: i64) -> JobRecord {
        JobRecord { ended_ms: Some(ended_ms), outcome: Some("{}".to_owned()), ..job(id) }
    }

    fn ids(jobs: &[JobRecord]) -> Vec<&str> {
        jobs.iter().map(|job| job.id.as_str()).collect()
    }

    #[test]
    fn a_record_of_an_unknown_kind_and_state_is_kept_as_it_is() {
        let conn = memory();
        let record = job("a1");
        assert!(put(&conn, &record).unwrap());
        assert_eq!(get(&conn, "a1").unwrap(), Some(record.clone()));
        assert_eq!(unfinished(&conn).unwrap(), [record]);
        assert_eq!(get(&conn, "a2").unwrap(), None);
    }

    #[test]
    fn a_runner_of_an_older_epoch_can_no_longer_write() {
        let conn = memory();
        let old = job("a1");
        put(&conn, &old).unwrap();
        let new = JobRecord { epoch: 2, attempt: 2, state: "running".to_owned(), ..old.clone() };
        assert!(put(&conn, &new).unwrap());
        assert!(!put(&conn, &JobRecord { state: "success".to_owned(), ..old }).unwrap());
        assert_eq!(get(&conn, "a1").unwrap(), Some(new.clone()));
        let end = JobRecord { ended_ms: Some(9), ..new };
        assert!(put(&conn, &end).unwrap());
        assert_eq!(unfinished(&conn).unwrap(), []);
    }

    #[test]
    fn what_ended_last_comes_first_and_what_has_not_ended_takes_no_place() {
        let conn = memory();
        for (id, end) in [("a1", 50), ("a3", 20), ("a2", 30)] {
            put(&conn, &ended_at(id, end)).unwrap();
        }
        for id in ["a5", "a4"] {
            put(&conn, &job(id)).unwrap();
        }
        assert_eq!(ids(&ended(&conn, 2).unwrap()), ["a1", "a2"]);
        assert_eq!(ids(&unfinished(&conn).unwrap()), ["a4", "a5"]);
    }

    #[test]
    fn a_request_is_found_by_its_owners_key_while_it_is_young() {
        let conn = memory();
        let keyed =
            |id: &str, created_ms| JobRecord { idempotency_key: Some("k".to_owned()), created_ms, ..job(id) };
        put(&conn, &keyed("a1", 10)).unwrap();
        put(&conn, &keyed("a2", 20)).unwrap();
        let found = |owner, since| by_idempotency_key(&conn, owner, "k", since).unwrap().map(|job| job.id);
        assert_eq!(found("bob", 0).as_deref(), Some("a2"));
        assert_eq!(found("bob", 21), None);
        assert_eq!(found("eve", 0), None);
    }

    #[test]
    fn retention_goes_by_count_and_age_and_never_takes_what_still_runs() {
        let conn = memory();
        put(&conn, &job("a0")).unwrap();
        for (id, end) in [("a1", 50), ("a2", 20), ("a3", 30), ("a4", 10)] {
            put(&conn, &ended_at(id, end)).unwrap();
        }
        assert_eq!(retain(&conn, 10, 15).unwrap(), 1);
        assert_eq!(ids(&ended(&conn, 10).unwrap()), ["a1", "a3", "a2"]);
        assert_eq!(retain(&conn, 2, 0).unwrap(), 1);
        assert_eq!(ids(&ended(&conn, 10).unwrap()), ["a1", "a3"]);
        assert_eq!(retain(&conn, 0, 0).unwrap(), 2);
        assert!(delete(&conn, "a0").unwrap() && !delete(&conn, "a0").unwrap());
    }
}
