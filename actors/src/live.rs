//! A job at work: the cell that its task, the engine and its watchers share.
//!
//! The cell belongs to the job's task and outlives the actor that supervises it. What the task has to say
//! (its client left, it has ended) is put here first and announced second, so that a supervisor that was
//! rebuilt meanwhile finds it by looking.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::id::JobId;
use crate::lifecycle::JobState;
use crate::outcome::{JobEnd, JobFailure};
use crate::progress::Progress;
use crate::shared::Shared;

/// Why a job was told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopCause {
    /// Somebody asked for its abort.
    Abort,
    /// The server stops.
    Drain,
}

#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) id: JobId,
    pub(crate) progress: Progress,
    pub(crate) stop: CancellationToken,
    cause: OnceLock<StopCause>,
    abortion_requested_ms: OnceLock<u64>,
    detached: AtomicBool,
    /// How the job's task ended; set once, by its runner.
    end: OnceLock<JobEnd>,
    /// Whether a nudge is on its way to the supervisor: at most one per job.
    nudged: AtomicBool,
    /// How the job ended, once that is in the journal.
    settled: watch::Sender<Option<JobEnd>>,
}

impl Live {
    pub(crate) fn new(id: JobId) -> Arc<Self> {
        Arc::new(Self {
            id,
            progress: Progress::new(),
            stop: CancellationToken::new(),
            cause: OnceLock::new(),
            abortion_requested_ms: OnceLock::new(),
            detached: AtomicBool::new(false),
            end: OnceLock::new(),
            nudged: AtomicBool::new(false),
            settled: watch::Sender::new(None),
        })
    }

    /// Asks the job to stop. The first cause is the one that counts.
    pub(crate) fn request_stop(&self, cause: StopCause, now_ms: u64) {
        if cause == StopCause::Abort {
            let _ = self.abortion_requested_ms.set(now_ms);
        }
        let _ = self.cause.set(cause);
        self.stop.cancel();
    }

    pub(crate) fn stop_cause(&self) -> Option<StopCause> {
        self.cause.get().copied()
    }

    pub(crate) fn abortion_requested_ms(&self) -> Option<u64> {
        self.abortion_requested_ms.get().copied()
    }

    /// Where the job says that it is while it runs.
    pub(crate) fn presence(&self) -> JobState {
        if self.detached.load(Ordering::Acquire) { JobState::Detached } else { JobState::Running }
    }

    pub(crate) fn set_end(&self, end: JobEnd) {
        let _ = self.end.set(end);
    }

    pub(crate) fn end(&self) -> Option<&JobEnd> {
        self.end.get()
    }

    /// Whether a nudge has to be sent: there is none on its way yet.
    pub(crate) fn begin_nudge(&self) -> bool {
        !self.nudged.swap(true, Ordering::AcqRel)
    }

    /// Called by the supervisor before it looks at the cell.
    pub(crate) fn take_nudge(&self) {
        self.nudged.store(false, Ordering::Release);
    }

    pub(crate) fn settle(&self, end: JobEnd) {
        self.settled.send_replace(Some(end));
    }

    pub(crate) fn ticket(&self) -> JobTicket {
        JobTicket { id: self.id, settled: self.settled.subscribe() }
    }
}

/// What a submission is answered with.
#[derive(Debug, Clone)]
pub struct JobTicket {
    id: JobId,
    settled: watch::Receiver<Option<JobEnd>>,
}

impl JobTicket {
    /// The job's name.
    pub fn id(&self) -> JobId {
        self.id
    }

    /// Waits until the job has ended and its end is in the journal (or the journal has refused it).
    /// Cancel safe. An engine that was stopped before that answers [`JobEnd::Interrupted`].
    pub async fn end(&mut self) -> JobEnd {
        match self.settled.wait_for(Option::is_some).await {
            Ok(end) => end.clone().unwrap_or(JobEnd::Interrupted),
            Err(_) => JobEnd::Interrupted,
        }
    }
}

/// What a job's future gets to work with. Clones are the same job's.
#[derive(Debug, Clone)]
pub struct JobContext {
    live: Arc<Live>,
    epoch: u64,
    shared: Arc<Shared>,
}

impl JobContext {
    pub(crate) fn new(live: Arc<Live>, epoch: u64, shared: Arc<Shared>) -> Self {
        Self { live, epoch, shared }
    }

    /// The job's name.
    pub fn id(&self) -> JobId {
        self.live.id
    }

    /// The runner's epoch: every checkpoint and commit of this runner is conditional on it.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Cancelled when the job is to stop. A job that has not returned a grace period later is cut off at its
    /// next await.
    pub fn stop(&self) -> &CancellationToken {
        &self.live.stop
    }

    /// The job's counters.
    pub fn progress(&self) -> &Progress {
        &self.live.progress
    }

    /// Says that the client has gone and may come back. Journalled soon, in the order of the calls; what is
    /// taken back before it was written is not written.
    pub fn set_detached(&self) {
        self.set_presence(true);
    }

    /// Says that a client is there again.
    pub fn set_running(&self) {
        self.set_presence(false);
    }

    fn set_presence(&self, detached: bool) {
        if self.live.detached.swap(detached, Ordering::AcqRel) != detached {
            self.shared.nudge(&self.live);
        }
    }

    /// Runs something that blocks on the engine's blocking threads.
    ///
    /// # Errors
    /// A panic in `work` becomes a [`JobFailure`] with code `panic` and the panic's text.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, JobFailure> {
        Ok(self.shared.jobs.spawn_blocking(work).await?)
    }
}
