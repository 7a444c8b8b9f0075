//! Snapshots as jobs of the engine. Content never changes, so a snapshot is a few rows of the database: it takes no
//! room, waits for no writer, and counts with no storage repository's transfers.

use std::time::Duration;

use gantry_actors::{
    EngineError, EngineHandle, JobEnd, JobFailure, JobId, JobTicket, NewJob, TaskProperties,
};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::backends::local::{LocalError, LocalStore};
use crate::disk::io_pool::IoPoolError;
use crate::ids::VdiId;

use super::admission::{self, TurnError};
use super::import::{ImportError, failure};

/// The kind of the jobs that take a snapshot of a VDI.
pub const KIND: &str = "vdi.snapshot";

/// What a job that takes a snapshot is told of.
#[derive(Debug, Clone)]
pub struct SnapshotOrder {
    /// The kind of the job, `vdi.snapshot` say.
    pub kind: &'static str,
    /// The type of the object, `VDI` say.
    pub object_type: &'static str,
    /// The object's id.
    pub object_id: String,
    /// Id of the user on whose behalf it is taken.
    pub owner: Option<String>,
    /// What is stored of the request.
    pub spec: Value,
}

impl SnapshotOrder {
    /// The order of a snapshot of a VDI, under an id that is new.
    pub fn of_vdi(vdi: VdiId, snapshot: VdiId, name_label: Option<&str>, owner: Option<String>) -> Self {
        Self {
            kind: KIND,
            object_type: "VDI",
            object_id: vdi.to_string(),
            owner,
            spec: json!({ "vdi": vdi, "snapshot": snapshot, "name_label": name_label }),
        }
    }
}

/// A snapshot that was not taken.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It could not be begun.
    #[error(transparent)]
    Turn(#[from] TurnError),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] LocalError),
}

impl From<EngineError> for SnapshotError {
    fn from(error: EngineError) -> Self {
        Self::Turn(error.into())
    }
}

/// A snapshot that is being taken. The job goes on without whoever holds this.
#[derive(Debug)]
pub struct RunningSnapshot {
    ticket: JobTicket,
    refused: oneshot::Receiver<LocalError>,
}

impl RunningSnapshot {
    /// The task under which it runs.
    pub fn task(&self) -> JobId {
        self.ticket.id()
    }

    /// Waits for its turn, for `patience` at most, and its end.
    ///
    /// # Errors
    /// [`SnapshotError`]; there is no snapshot then.
    pub async fn taken(mut self, engine: &EngineHandle, patience: Duration) -> Result<(), SnapshotError> {
        admission::turn(engine, &mut self.ticket, patience).await?;
        let end = self.ticket.end().await;
        // What was told is there before the job has ended.
        let refused = self.refused.try_recv().ok();
        match (end, refused) {
            (JobEnd::Success(_), _) => Ok(()),
            (_, Some(error)) => Err(error.into()),
            (JobEnd::Failure(failure), None) => {
                Err(LocalError::Pool(IoPoolError::Panicked { message: failure.message }).into())
            }
            (JobEnd::Aborted, None) => Err(TurnError::Aborted.into()),
            (JobEnd::Interrupted, None) => Err(EngineError::Draining.into()),
        }
    }
}

/// Makes a job of the engine of what takes a snapshot: `take` answers the snapshot's id, which is the task's result.
///
/// # Errors
/// When the engine takes no job.
pub async fn begin<Id: ToString + Send + 'static>(
    engine: &EngineHandle,
    order: SnapshotOrder,
    take: impl Future<Output = Result<Id, LocalError>> + Send + 'static,
) -> Result<RunningSnapshot, EngineError> {
    let SnapshotOrder { kind, object_type, object_id, owner, spec } = order;
    let properties = TaskProperties {
        name: format!("Snapshot of {object_type} {object_id}"),
        task_type: kind.into(),
        user_id: owner.clone(),
        object_id: Some(object_id),
        object_type: Some(object_type.into()),
        method: Some("POST".into()),
        ..TaskProperties::default()
    };
    let mut new = NewJob::new(kind, properties);
    new.owner = owner;
    new.spec = spec;
    let (tell, refused) = oneshot::channel();
    let ticket = engine
        .submit(new, move |_| async move {
            match take.await {
                Ok(id) => Ok(json!({ "id": id.to_string() })),
                Err(error) => {
                    let error = ImportError::Store(error);
                    let failed = JobFailure { name: "SnapshotError".into(), ..failure(&error) };
                    if let ImportError::Store(error) = error {
                        // Nobody may be waiting.
                        drop(tell.send(error));
                    }
                    Err(failed)
                }
            }
        })
        .await?;
    Ok(RunningSnapshot { ticket, refused })
}

/// Takes a snapshot of a VDI by a job of the engine.
///
/// # Errors
/// When the engine takes no job.
pub async fn begin_of_vdi(
    engine: &EngineHandle,
    store: &LocalStore,
    (vdi, snapshot): (VdiId, VdiId),
    name_label: Option<String>,
    owner: Option<String>,
) -> Result<RunningSnapshot, EngineError> {
    let order = SnapshotOrder::of_vdi(vdi, snapshot, name_label.as_deref(), owner);
    let store = store.clone();
    begin(engine, order, async move { store.snapshot_vdi_as(vdi, snapshot, name_label).await }).await
}
