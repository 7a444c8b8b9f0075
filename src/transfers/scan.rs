//! Looking through an SR's directory again, as a job of the engine. It takes no place among the transfers: it moves no
//! disk's bytes.

use std::time::Duration;

use gantry_actors::{
    EngineError, EngineHandle, JobEnd, JobFailure, JobId, JobTicket, NewJob, TaskProperties,
};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::backends::local::{Broken, LocalError, LocalStore, Scanned};
use crate::disk::io_pool::IoPoolError;
use crate::ids::SrId;

use super::admission::{self, TurnError};
use super::import::{ImportError, failure};

/// The kind of these jobs. One that was cut by the end of its server is not done again: the next start looks itself.
pub const KIND: &str = "sr.scan";
/// Most files that a task names as broken.
const MOST_NAMED: usize = 100;

/// A scan that was not done.
#[derive(Debug, thiserror::Error)]
pub enum ScanError {
    /// It could not be begun.
    #[error(transparent)]
    Turn(#[from] TurnError),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] LocalError),
}

/// A scan on its way. The job goes on without whoever holds this.
#[derive(Debug)]
pub struct RunningScan {
    ticket: JobTicket,
    refused: oneshot::Receiver<LocalError>,
}

impl RunningScan {
    /// Its task.
    pub fn task(&self) -> JobId {
        self.ticket.id()
    }

    /// Waits for its turn, for `patience` at most, and its end.
    ///
    /// # Errors
    /// [`ScanError`].
    pub async fn ended(mut self, engine: &EngineHandle, patience: Duration) -> Result<(), ScanError> {
        admission::turn(engine, &mut self.ticket, patience).await?;
        let end = self.ticket.end().await;
        // What was told is there before the job has ended.
        match (end, self.refused.try_recv().ok()) {
            (JobEnd::Success(_), _) => Ok(()),
            (_, Some(error)) => Err(error.into()),
            (JobEnd::Failure(failure), None) => {
                Err(LocalError::Pool(IoPoolError::Panicked { message: failure.message }).into())
            }
            (JobEnd::Aborted, None) => Err(TurnError::Aborted.into()),
            (JobEnd::Interrupted, None) => Err(TurnError::from(EngineError::Draining).into()),
        }
    }
}

/// Begins to look through an SR. The job's result says how many disks were `added`, how many are `missing`, and which
/// files are `broken`.
///
/// # Errors
/// When the engine takes no job.
pub async fn submit(
    engine: &EngineHandle,
    store: &LocalStore,
    sr: SrId,
    owner: &str,
) -> Result<RunningScan, EngineError> {
    let properties = TaskProperties {
        name: format!("Scan of SR {sr}"),
        task_type: KIND.into(),
        user_id: Some(owner.into()),
        object_id: Some(sr.to_string()),
        object_type: Some("SR".into()),
        method: Some("POST".into()),
        ..TaskProperties::default()
    };
    let mut job = NewJob::new(KIND, properties);
    job.owner = Some(owner.into());
    job.spec = json!({ "sr": sr });
    let (store, (tell, refused)) = (store.clone(), oneshot::channel());
    let work = move |_| async move {
        store.scan_sr(sr).await.map(result).map_err(|error| {
            let error = ImportError::Store(error);
            let failed = JobFailure { name: "ScanError".into(), ..failure(&error) };
            if let ImportError::Store(error) = error {
                // Nobody may be waiting.
                drop(tell.send(error));
            }
            failed
        })
    };
    Ok(RunningScan { ticket: engine.submit(job, work).await?, refused })
}

fn result(found: Scanned) -> Value {
    let name = |one: &Broken| json!({ "file": one.file, "reason": one.reason });
    let broken: Vec<Value> = found.broken.iter().take(MOST_NAMED).map(name).collect();
    json!({ "added": found.added.len(), "missing": found.missing.len(), "broken": broken })
}
