//! Looking through an SR's directory again, as a job of the engine. It takes no place among the transfers: it moves no
//! disk's bytes.

use gantry_actors::{EngineError, EngineHandle, NewJob, TaskProperties};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::backends::local::{Broken, LocalStore, Scanned};
use crate::ids::SrId;

use super::store_job::{StoreJob, refusal};

/// The kind of these jobs. One that was cut by the end of its server is not done again: the next start looks itself.
pub const KIND: &str = "sr.scan";
/// Most files that a task names as broken.
const MOST_NAMED: usize = 100;

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
) -> Result<StoreJob, EngineError> {
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
        store.scan_sr(sr).await.map(result).map_err(|error| refusal("ScanError", error, tell))
    };
    Ok(StoreJob { ticket: engine.submit(job, work).await?, refused })
}

fn result(found: Scanned) -> Value {
    let name = |one: &Broken| json!({ "file": one.file, "reason": one.reason });
    let broken: Vec<Value> = found.broken.iter().take(MOST_NAMED).map(name).collect();
    json!({ "added": found.added.len(), "missing": found.missing.len(), "broken": broken })
}
