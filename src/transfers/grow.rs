//! Growing a disk. Content is never changed in place, so a larger disk is new content with the old bytes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use gantry_actors::{
    EngineError, EngineHandle, JobContext, JobEnd, JobRecord, NewJob, Pace, Progress, Resumption,
    RetryPolicy, Stage, TaskProperties, Work,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio_util::sync::CancellationToken;

use crate::backends::local::{Destination, LocalStore, OpenContent, Staging};
use crate::disk::DiskReader;
use crate::disk::io_pool::IoPoolError;
use crate::disk::retry::RetryingReader;
use crate::disk::worker::{Beat, spawn_watched};
use crate::disk::writer::Written;
use crate::ids::VdiId;

use super::admission::{self, TurnError};
use super::import::{ImportError, failure, open_writer};

/// How much is copied in one go.
const COPY_BYTES: u64 = 1 << 20;

/// The kind of these jobs.
pub const KIND: &str = "vdi.grow";

/// What is stored of a growth.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
struct Spec {
    vdi: VdiId,
    size: u64,
}

/// A growth that did not happen. The disk is as it was.
#[derive(Debug, thiserror::Error)]
pub enum GrowError {
    /// It could not be begun.
    #[error(transparent)]
    Turn(#[from] TurnError),
    /// It failed.
    #[error(transparent)]
    Failed(#[from] ImportError),
}

impl From<EngineError> for GrowError {
    fn from(error: EngineError) -> Self {
        Self::Turn(error.into())
    }
}

/// Gives a VDI more room, as a job of the engine, and waits for its turn, for `patience` at most, and its end.
///
/// # Errors
/// [`GrowError`].
pub async fn grow(
    engine: &EngineHandle,
    store: &LocalStore,
    vdi: VdiId,
    size: u64,
    owner: Option<String>,
    patience: Duration,
) -> Result<(), GrowError> {
    let sr = store.pin_vdi(vdi).await.map_err(ImportError::from)?.0.sr;
    let properties = TaskProperties {
        name: format!("Growth of VDI {vdi} to {size} bytes"),
        task_type: KIND.into(),
        user_id: owner.clone(),
        object_id: Some(vdi.to_string()),
        object_type: Some("VDI".into()),
        method: Some("PATCH".into()),
        ..TaskProperties::default()
    };
    let mut new = NewJob::new(KIND, properties);
    new.owner = owner;
    new.spec = json!(Spec { vdi, size });
    new.groups = admission::groups_of(sr);
    new.claims = admission::writer_claims(sr, vdi);
    new.retry = RetryPolicy::default();
    let outcome = Arc::default();
    let mut ticket = engine.submit_work(new, work(store, Spec { vdi, size }, Arc::clone(&outcome))).await?;
    admission::turn(engine, &mut ticket, patience).await?;
    let end = ticket.end().await;
    let told = outcome.lock().unwrap_or_else(PoisonError::into_inner).take();
    match (end, told) {
        (JobEnd::Success(_), _) => Ok(()),
        (_, Some(error)) => Err(error.into()),
        (JobEnd::Failure(failure), None) => {
            Err(ImportError::Worker(IoPoolError::Panicked { message: failure.message }).into())
        }
        (JobEnd::Aborted, None) => Err(ImportError::Aborted.into()),
        (JobEnd::Interrupted, None) => Err(EngineError::Draining.into()),
    }
}

/// Why the last attempt failed.
type Outcome = Arc<Mutex<Option<ImportError>>>;

fn work(store: &LocalStore, spec: Spec, outcome: Outcome) -> Work {
    let store = store.clone();
    Work::often(move |context: JobContext| {
        let (store, outcome) = (store.clone(), Arc::clone(&outcome));
        async move {
            match run(&store, spec, &context).await {
                Ok(()) => Ok(json!({ "id": spec.vdi.to_string() })),
                Err(error) => {
                    let failure = failure(&error);
                    *outcome.lock().unwrap_or_else(PoisonError::into_inner) = Some(error);
                    Err(failure)
                }
            }
        }
    })
}

/// How a growth of a former server goes on: from the beginning.
pub fn resume(store: &LocalStore, record: &JobRecord) -> Option<Resumption> {
    let spec = serde_json::from_value(record.spec.job.clone()).ok()?;
    let work = work(store, spec, Arc::default());
    Some(Resumption { work, retry: RetryPolicy::default(), timeout: None, waits_for_client: false })
}

async fn run(store: &LocalStore, Spec { vdi, size }: Spec, context: &JobContext) -> Result<(), ImportError> {
    let claim = store.claim(vdi)?;
    store.require_replaceable(vdi).await?;
    let (row, _, pin) = store.pin_vdi(vdi).await?;
    // Done by the attempt before, which could not say so any more, or by somebody else meanwhile.
    if row.virtual_size >= size {
        return Ok(());
    }
    let sr = store.writable_sr(row.sr)?;
    let content = store.open_content(&pin).await?;
    let staging = store.stage(&sr);
    let (progress, pace, stop) = (context.progress().clone(), context.pace(), context.stop().clone());
    let copy = Copy { store: store.clone(), progress, pace, stop };
    let thread = spawn_watched("grow", &sr.given_up, move |beat| copy.run(beat, &content, staging, size))?;
    let (staging, written) = thread.outcome(store.stuck_after(), context.stop()).await??;
    let destination = Destination::Replace { vdi, expected: row.content, claim };
    let job = Some(context.id().to_string());
    store.commit(staging, written, destination, job).await?;
    Ok(())
}

struct Copy {
    store: LocalStore,
    progress: Progress,
    pace: Pace,
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
            Err(error) => Err(error.of_sr(&self.store, staging.sr(), 0)),
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
        let mut clock = self.progress.stage_clock(Stage::Source);
        let mut buffer = vec![0; usize::try_from(COPY_BYTES).unwrap_or(1 << 20)];
        for extent in content.map.extents().filter(|extent| extent.data) {
            let end = extent.start.saturating_add(extent.length);
            let mut at = extent.start;
            while at < end {
                let len = COPY_BYTES.min(end - at).min(self.pace.quantum().unwrap_or(COPY_BYTES));
                clock.enter(Stage::Limit);
                let paced = beat.waiting(|| self.pace.take_blocking(len));
                if paced.is_err() || beat.is_given_up() {
                    return Err(ImportError::Aborted);
                }
                let Some(part) = buffer.get_mut(..usize::try_from(len).unwrap_or(0)) else { break };
                clock.enter(Stage::Source);
                source.read_at(at, part)?;
                beat.renew();
                clock.enter(Stage::Sink);
                writer.write(at, part)?;
                self.progress.add_read(len);
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
