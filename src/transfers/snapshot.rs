//! Snapshots as jobs of the engine. Content never changes, so a snapshot is a few rows of the database: it takes no
//! room, waits for no writer, and counts with no storage repository's transfers.

use gantry_actors::{EngineError, EngineHandle, JobFailure, JobId, JobTicket, NewJob, TaskProperties};
use serde_json::json;
use tokio::sync::oneshot;

use crate::backends::local::{LocalError, LocalStore};
use crate::ids::{VdiId, VmId};

use super::store_job::{StoreJob, refusal};

/// The kind of the jobs that take a snapshot of a VDI. One that was cut by the end of its server has been done or not; the
/// next server does not do it again.
pub const KIND: &str = "vdi.snapshot";
/// As [`KIND`], of a VM.
pub const VM_KIND: &str = "vm.snapshot";

/// A snapshot that is to be taken, under an id that is new.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NewSnapshot {
    /// Of a disk; its name is the disk's unless given.
    Vdi {
        /// Of which.
        vdi: VdiId,
        /// The id of the snapshot.
        id: VdiId,
        /// Its name.
        name_label: Option<String>,
    },
    /// Of a VM, with its disks.
    Vm {
        /// Of which.
        vm: VmId,
        /// The id of the snapshot.
        id: VmId,
        /// Its name.
        name_label: String,
    },
}

impl NewSnapshot {
    fn job(&self, owner: &str) -> NewJob {
        let (kind, object_type, object_id, spec) = match self {
            Self::Vdi { vdi, id, name_label } => {
                let spec = json!({ "vdi": vdi, "snapshot": id, "name_label": name_label });
                (KIND, "VDI", vdi.to_string(), spec)
            }
            Self::Vm { vm, id, name_label } => {
                let spec = json!({ "vm": vm, "snapshot": id, "name_label": name_label });
                (VM_KIND, "VM", vm.to_string(), spec)
            }
        };
        let properties = TaskProperties {
            name: format!("Snapshot of {object_type} {object_id}"),
            task_type: kind.into(),
            user_id: Some(owner.into()),
            object_id: Some(object_id),
            object_type: Some(object_type.into()),
            method: Some("POST".into()),
            ..TaskProperties::default()
        };
        let mut job = NewJob::new(kind, properties);
        job.owner = Some(owner.into());
        job.spec = spec;
        job
    }

    async fn take(self, store: &LocalStore) -> Result<String, LocalError> {
        match self {
            Self::Vdi { vdi, id, name_label } => {
                store.snapshot_vdi_as(vdi, id, name_label).await.map(|id| id.to_string())
            }
            Self::Vm { vm, id, name_label } => {
                store.snapshot_vm(vm, id, name_label).await.map(|()| id.to_string())
            }
        }
    }
}

/// A snapshot whose job is in the journal, and waits until it is let go; dropped before, it is not taken.
#[derive(Debug)]
pub struct Submitted {
    ticket: JobTicket,
    go: oneshot::Sender<()>,
    refused: oneshot::Receiver<LocalError>,
}

impl Submitted {
    /// Its task.
    pub fn task(&self) -> JobId {
        self.ticket.id()
    }

    /// Lets it begin when its turn comes.
    pub fn go(self) -> StoreJob {
        // An error says that the job has ended already.
        let _ = self.go.send(());
        StoreJob { ticket: self.ticket, refused: self.refused }
    }
}

/// Makes the job of a snapshot.
///
/// # Errors
/// When the engine takes no job.
pub async fn submit(
    engine: &EngineHandle,
    store: &LocalStore,
    new: NewSnapshot,
    owner: &str,
) -> Result<Submitted, EngineError> {
    let (go, gate) = oneshot::channel::<()>();
    let (tell, refused) = oneshot::channel();
    let (job, store) = (new.job(owner), store.clone());
    let work = move |_| async move {
        if gate.await.is_err() {
            let message = "the request for the snapshot ended before it had begun";
            return Err(JobFailure::new("SnapshotError", "client_gone", message));
        }
        let taken = new.take(&store).await.map(|id| json!({ "id": id }));
        taken.map_err(|error| refusal("SnapshotError", error, tell))
    };
    let ticket = engine.submit(job, work).await?;
    Ok(Submitted { ticket, go, refused })
}
