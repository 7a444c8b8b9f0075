//! Snapshots of VMs as jobs of the engine. They move no bytes; as jobs they can be waited for and found again.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gantry_actors::{
    EngineError, EngineHandle, JobEnd, JobFailure, JobId, JobTicket, NewJob, TaskProperties,
};
use serde_json::json;
use tokio::sync::oneshot;

use crate::backends::local::{LocalError, LocalStore};
use crate::disk::io_pool::IoPoolError;
use crate::ids::VmId;

use super::admission::{self, TurnError};
use super::import::{ImportError, failure};

/// The kind of these jobs. One that was cut by the end of its server has been done or not; the next server does not
/// do it again.
pub const KIND: &str = "vm.snapshot";

/// A snapshot that is to be taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewSnapshot {
    /// Of which VM.
    pub vm: VmId,
    /// The id of the snapshot.
    pub id: VmId,
    /// Its name.
    pub name_label: String,
}

/// A snapshot that was not taken.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// It could not be begun.
    #[error(transparent)]
    Turn(#[from] TurnError),
    /// The store refused it.
    #[error(transparent)]
    Store(#[from] LocalError),
}

/// A snapshot whose job is in the journal, and waits until it is let go; dropped before, it is not taken.
#[derive(Debug)]
pub struct Submitted {
    ticket: JobTicket,
    go: oneshot::Sender<()>,
    outcome: Outcome,
}

/// A snapshot on its way.
#[derive(Debug)]
pub struct Begun {
    ticket: JobTicket,
    outcome: Outcome,
}

/// Why it was not taken.
type Outcome = Arc<Mutex<Option<LocalError>>>;

/// Makes the job of a snapshot.
///
/// # Errors
/// When the engine does not take it.
pub async fn submit(
    engine: &EngineHandle,
    store: &LocalStore,
    new: NewSnapshot,
    owner: String,
) -> Result<Submitted, EngineError> {
    let properties = TaskProperties {
        name: format!("Snapshot of VM {}", new.vm),
        task_type: KIND.into(),
        user_id: Some(owner.clone()),
        object_id: Some(new.vm.to_string()),
        object_type: Some("VM".into()),
        method: Some("POST".into()),
        ..TaskProperties::default()
    };
    let mut job = NewJob::new(KIND, properties);
    job.owner = Some(owner);
    job.spec = json!({ "vm": new.vm, "snapshot": new.id, "name_label": new.name_label });
    let (go, gate) = oneshot::channel::<()>();
    let (store, outcome) = (store.clone(), Outcome::default());
    let told = Arc::clone(&outcome);
    let ticket = engine
        .submit(job, move |_| async move {
            if gate.await.is_err() {
                let message = "the request for the snapshot ended before it had begun";
                return Err(JobFailure::new("SnapshotError", "client_gone", message));
            }
            let taken = store.snapshot_vm(new.vm, new.id, new.name_label).await;
            taken.map(|()| json!({ "id": new.id })).map_err(|error| {
                let error = ImportError::Store(error);
                let failed = JobFailure { name: "SnapshotError".into(), ..failure(&error) };
                if let ImportError::Store(error) = error {
                    *told.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                }
                failed
            })
        })
        .await?;
    Ok(Submitted { ticket, go, outcome })
}

impl Submitted {
    /// Its task.
    pub fn task(&self) -> JobId {
        self.ticket.id()
    }

    /// Lets it begin when its turn comes.
    pub fn go(self) -> Begun {
        // An error says that the job has ended already.
        let _ = self.go.send(());
        Begun { ticket: self.ticket, outcome: self.outcome }
    }
}

impl Begun {
    /// Waits for its turn, for `patience` at most, and its end.
    ///
    /// # Errors
    /// [`SnapshotError`]; there is no snapshot then.
    pub async fn taken(mut self, engine: &EngineHandle, patience: Duration) -> Result<(), SnapshotError> {
        admission::turn(engine, &mut self.ticket, patience).await?;
        let end = self.ticket.end().await;
        let told = self.outcome.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (end, told) {
            (JobEnd::Success(_), _) => Ok(()),
            (_, Some(error)) => Err(error.into()),
            (JobEnd::Failure(failure), None) => {
                Err(LocalError::from(IoPoolError::Panicked { message: failure.message }).into())
            }
            (JobEnd::Aborted, None) => Err(TurnError::Aborted.into()),
            (JobEnd::Interrupted, None) => Err(TurnError::from(EngineError::Draining).into()),
        }
    }
}
