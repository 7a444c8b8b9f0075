//! The engine's journal, in the state database.

use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;

use futures_util::FutureExt;
use gantry_actors::{JobId, JobRecord, Journal, JournalError, JournalFuture};
use serde::de::DeserializeOwned;

use crate::state::{Db, StateError, jobs};

/// Keeps job records in the state database.
pub struct SqliteJournal {
    db: Db,
}

impl SqliteJournal {
    /// A journal in this database.
    pub fn new(db: Db) -> Self {
        Self { db }
    }
}

impl Journal for SqliteJournal {
    fn save(&self, record: Arc<JobRecord>) -> JournalFuture<()> {
        let db = self.db.clone();
        async move {
            let row = row(&record).map_err(|error| JournalError::new("save a record", error))?;
            let id = row.id.clone();
            let written = db.transaction(move |tx| jobs::put(tx, &row)).await;
            match written {
                Ok(true) => Ok(()),
                Ok(false) => Err(JournalError::new("save a record", Fenced { id })),
                Err(error) => Err(JournalError::new("save a record", error)),
            }
        }
        .boxed()
    }

    fn load_unfinished(&self) -> JournalFuture<Vec<JobRecord>> {
        let db = self.db.clone();
        async move {
            let rows = db.call(|db| jobs::unfinished(db)).await;
            rows.map(records).map_err(|error| JournalError::new("read unfinished jobs", error))
        }
        .boxed()
    }

    fn load_ended(&self, limit: usize) -> JournalFuture<Vec<JobRecord>> {
        let db = self.db.clone();
        let limit = u32::try_from(limit).unwrap_or(u32::MAX);
        async move {
            let rows = db.call(move |db| jobs::ended(db, limit)).await;
            rows.map(records).map_err(|error| JournalError::new("read ended jobs", error))
        }
        .boxed()
    }

    fn forget(&self, ids: Vec<JobId>) -> JournalFuture<()> {
        let db = self.db.clone();
        async move {
            let forgotten = db.transaction(move |tx| {
                for id in &ids {
                    jobs::delete(tx, &id.to_string())?;
                }
                Ok(())
            });
            forgotten.await.map_err(|error| JournalError::new("forget jobs", error))
        }
        .boxed()
    }

    fn retain(&self, keep: usize, ended_before_ms: u64) -> JournalFuture<u64> {
        let db = self.db.clone();
        let keep = u32::try_from(keep).unwrap_or(u32::MAX);
        let since = i64::try_from(ended_before_ms).unwrap_or(i64::MAX);
        async move {
            let removed = db.transaction(move |tx| jobs::retain(tx, keep, since)).await;
            Ok(removed.map_err(|error| JournalError::new("clear old jobs away", error))? as u64)
        }
        .boxed()
    }

    fn flush(&self) -> JournalFuture<()> {
        let db = self.db.clone();
        // Calls are served in order, and each commit is on disk before its call returns.
        async move { db.call(|_| Ok(())).await.map_err(|error| JournalError::new("flush", error)) }.boxed()
    }
}

/// A later runner of the job has written its record.
#[derive(Debug, thiserror::Error)]
#[error("job {id} has a later runner")]
struct Fenced {
    id: String,
}

fn row(record: &JobRecord) -> Result<jobs::JobRecord, Box<dyn std::error::Error + Send + Sync>> {
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    Ok(jobs::JobRecord {
        id: record.id.to_string(),
        kind: record.kind.clone(),
        spec_version: record.spec_version,
        spec: serde_json::to_string(&record.spec)?,
        owner: record.owner.clone(),
        parent: record.parent.map(|id| id.to_string()),
        idempotency_key: record.idempotency_key.clone(),
        attempt: record.attempt,
        epoch: u32::try_from(record.epoch)?,
        node: record.node.clone(),
        claims: serde_json::to_string(&record.claims)?,
        state: record.state.as_str().to_owned(),
        reason: record.reason.clone(),
        outcome: record.outcome.as_ref().map(serde_json::to_string).transpose()?,
        created_ms: signed(record.created_ms),
        started_ms: record.started_ms.map(signed),
        updated_ms: signed(record.updated_ms),
        ended_ms: record.ended_ms.map(signed),
    })
}

/// A record that cannot be read must not keep the server from starting: it is told, and left where it is.
fn records(rows: Vec<jobs::JobRecord>) -> Vec<JobRecord> {
    let readable = |row: jobs::JobRecord| {
        let id = row.id.clone();
        record(row).inspect_err(|error| tracing::error!(%id, %error, "a job record cannot be read")).ok()
    };
    rows.into_iter().filter_map(readable).collect()
}

fn record(row: jobs::JobRecord) -> Result<JobRecord, StateError> {
    let unsigned = |number: i64| u64::try_from(number).unwrap_or(0);
    Ok(JobRecord {
        id: parsed(&row.id, "jobs.id")?,
        kind: row.kind,
        spec_version: row.spec_version,
        spec: json(&row.spec, "jobs.spec")?,
        owner: row.owner,
        parent: row.parent.map(|id| parsed(&id, "jobs.parent")).transpose()?,
        idempotency_key: row.idempotency_key,
        attempt: row.attempt,
        epoch: u64::from(row.epoch),
        node: row.node,
        claims: json(&row.claims, "jobs.claims")?,
        state: parsed(&row.state, "jobs.state")?,
        reason: row.reason,
        outcome: row.outcome.map(|text| json(&text, "jobs.outcome")).transpose()?,
        created_ms: unsigned(row.created_ms),
        started_ms: row.started_ms.map(unsigned),
        updated_ms: unsigned(row.updated_ms),
        ended_ms: row.ended_ms.map(unsigned),
    })
}

fn corrupt(what: &'static str, text: &str) -> StateError {
    StateError::Corrupt { what, found: text.chars().take(120).collect() }
}

fn parsed<T: FromStr>(text: &str, what: &'static str) -> Result<T, StateError>
where
    T::Err: Display,
{
    text.parse().map_err(|_| corrupt(what, text))
}

fn json<T: DeserializeOwned>(text: &str, what: &'static str) -> Result<T, StateError> {
    serde_json::from_str(text).map_err(|_| corrupt(what, text))
}
