//! Growing a disk. Content is never changed in place, so a larger disk is new content with the old bytes.

use std::sync::Arc;

use gantry_actors::{EngineHandle, JobContext, NewJob, Progress, TaskProperties};
use serde_json::json;
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::backends::local::{Committed, Destination, LocalStore, OpenContent, Staging};
use crate::disk::DiskReader;
use crate::disk::retry::RetryingReader;
use crate::disk::worker::{Beat, spawn_watched};
use crate::disk::writer::Written;
use crate::ids::VdiId;

use super::import::{BeginError, ImportError, failure, open_writer};

/// How much is copied in one go.
const COPY_BYTES: u64 = 1 << 20;

/// A growth that did not happen. The disk is as it was.
#[derive(Debug, thiserror::Error)]
pub enum GrowError {
    /// It could not be begun.
    #[error(transparent)]
    Begin(#[from] BeginError),
    /// It failed.
    #[error(transparent)]
    Failed(#[from] ImportError),
}

/// Gives a VDI more room, as a job of the engine, and waits for its end.
///
/// # Errors
/// [`GrowError`].
pub async fn grow(
    engine: &EngineHandle,
    store: &LocalStore,
    vdi: VdiId,
    size: u64,
    owner: Option<String>,
) -> Result<Committed, GrowError> {
    let properties = TaskProperties {
        name: format!("Growth of VDI {vdi} to {size} bytes"),
        task_type: "vdi.grow".into(),
        user_id: owner.clone(),
        object_id: Some(vdi.to_string()),
        object_type: Some("VDI".into()),
        method: Some("PATCH".into()),
        ..TaskProperties::default()
    };
    let mut new = NewJob::new("vdi.grow", properties);
    new.owner = owner;
    new.spec = json!({ "vdi": vdi, "size": size });
    let (tell, outcome) = oneshot::channel();
    let store = store.clone();
    let mut ticket = engine
        .submit(new, move |context: JobContext| async move {
            let ended = run(&store, vdi, size, &context).await;
            let told = match &ended {
                Ok(_) => Ok(json!({ "id": vdi.to_string() })),
                Err(error) => Err(failure(error)),
            };
            drop(tell.send(ended));
            told
        })
        .await
        .map_err(BeginError::from)?;
    ticket.end().await;
    Ok(outcome.await.map_err(|_| ImportError::Aborted)??)
}

async fn run(
    store: &LocalStore,
    vdi: VdiId,
    size: u64,
    context: &JobContext,
) -> Result<Committed, ImportError> {
    let claim = store.claim(vdi)?;
    store.require_replaceable(vdi).await?;
    let (row, _, pin) = store.pin_vdi(vdi).await?;
    let sr = store.writable_sr(row.sr)?;
    let content = store.open_content(&pin).await?;
    let staging = store.stage(&sr);
    let copy =
        Copy { store: store.clone(), progress: context.progress().clone(), stop: context.stop().clone() };
    let thread = spawn_watched("grow", &sr.given_up, move |beat| copy.run(beat, &content, staging, size))?;
    let (staging, written) = thread.outcome(store.stuck_after(), context.stop()).await??;
    let destination = Destination::Replace { vdi, expected: row.content, claim };
    let job = Some(context.id().to_string());
    Ok(store.commit(staging, written, destination, job).await?)
}

struct Copy {
    store: LocalStore,
    progress: Progress,
    stop: CancellationToken,
}

impl Copy {
    fn run(
        self,
        beat: &Beat,
        content: &Arc<OpenContent>,
        staging: Staging,
        size: u64,
    ) -> Result<(Staging, Written), ImportError> {
        match self.copy(beat, content, &staging, size) {
            Ok(written) => Ok((staging, written)),
            Err(error) => Err(error.of_sr(&self.store, staging.sr())),
        }
    }

    fn copy(
        &self,
        beat: &Beat,
        content: &OpenContent,
        staging: &Staging,
        size: u64,
    ) -> Result<Written, ImportError> {
        let total = content.map.data_bytes();
        self.progress.set_total(total);
        let source = RetryingReader::new(Arc::clone(&content.reader), self.stop.clone());
        let mut room = self.store.reserve(staging.sr(), total)?;
        let mut writer = open_writer(staging, Some(size))?;
        let mut buffer = vec![0; usize::try_from(COPY_BYTES).unwrap_or(1 << 20)];
        for extent in content.map.extents().filter(|extent| extent.data) {
            let end = extent.start.saturating_add(extent.length);
            let mut at = extent.start;
            while at < end {
                beat.renew();
                if self.stop.is_cancelled() || beat.is_given_up() {
                    return Err(ImportError::Aborted);
                }
                let len = COPY_BYTES.min(end - at);
                let Some(part) = buffer.get_mut(..usize::try_from(len).unwrap_or(0)) else { break };
                source.read_at(at, part)?;
                writer.write(at, part)?;
                room.wrote(len);
                room.check()?;
                self.progress.add_written(len);
                at += len;
            }
        }
        beat.renew();
        Ok(writer.finish(size)?)
    }
}
