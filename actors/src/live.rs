//! A job at work: the cell that its task, the engine and its watchers share.
//!
//! The cell belongs to the job's task and outlives the actor that supervises it. What the task has to say
//! (its client left, it has ended) is put here first and announced second, so that a supervisor that was
//! rebuilt meanwhile finds it by looking.

use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::bandwidth::Throttle;
use crate::id::JobId;
use crate::lifecycle::JobState;
use crate::outcome::{JobEnd, JobFailure};
use crate::pace::Pace;
use crate::progress::Progress;
use crate::record::JobRecord;
use crate::retry::RetryPolicy;
use crate::shared::Shared;
use crate::work::{Launch, Work};

/// Why a job was told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum StopCause {
    /// Somebody asked for its abort.
    Abort,
    /// The server stops.
    Drain,
}

/// What a job is made of, besides its record.
#[derive(Debug)]
pub(crate) struct Making {
    pub(crate) work: Work,
    pub(crate) retry: RetryPolicy,
    pub(crate) timeout: Option<Duration>,
    pub(crate) throttle: Throttle,
    /// The next server can go on with it.
    pub(crate) resumable: bool,
    pub(crate) presence: JobState,
}

#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) id: JobId,
    pub(crate) progress: Progress,
    pub(crate) stop: CancellationToken,
    pub(crate) throttle: Throttle,
    pub(crate) retry: RetryPolicy,
    pub(crate) timeout: Option<Duration>,
    pub(crate) resumable: bool,
    cause: OnceLock<StopCause>,
    work: Mutex<Work>,
    /// 0 running, 1 detached, 2 recovering.
    presence: AtomicU8,
    checkpoint: Mutex<Option<Value>>,
    /// Whether an attempt's task was started and its end has not been dealt with.
    begun: AtomicBool,
    /// Epoch of the last attempt.
    epoch: AtomicU64,
    /// Whether the attempt has had a place.
    held: AtomicBool,
    /// When the next attempt is due, after one has failed.
    due: Mutex<Duration>,
    /// How the attempt's task ended.
    end: Mutex<Option<JobEnd>>,
    /// Whether a nudge is on its way to the supervisor: at most one per job.
    nudged: AtomicBool,
    gate: watch::Sender<bool>,
    launched: watch::Sender<bool>,
    /// How the job ended, once that is in the journal.
    settled: watch::Sender<Option<JobEnd>>,
}

/// What is locked here is replaced as a whole, so a panic elsewhere leaves it sound.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Live {
    pub(crate) fn new(id: JobId, making: Making) -> Arc<Self> {
        let live = Self {
            id,
            progress: Progress::new(),
            stop: CancellationToken::new(),
            throttle: making.throttle,
            retry: making.retry,
            timeout: making.timeout,
            resumable: making.resumable,
            cause: OnceLock::new(),
            work: Mutex::new(making.work),
            presence: AtomicU8::new(0),
            checkpoint: Mutex::new(None),
            begun: AtomicBool::new(false),
            epoch: AtomicU64::new(0),
            held: AtomicBool::new(false),
            due: Mutex::new(Duration::ZERO),
            end: Mutex::new(None),
            nudged: AtomicBool::new(false),
            gate: watch::Sender::new(false),
            launched: watch::Sender::new(false),
            settled: watch::Sender::new(None),
        };
        live.swap_presence(making.presence);
        Arc::new(live)
    }

    /// Asks the job to stop. The first cause is the one that counts.
    pub(crate) fn request_stop(&self, cause: StopCause) {
        let _ = self.cause.set(cause);
        self.stop.cancel();
    }

    pub(crate) fn stop_cause(&self) -> Option<StopCause> {
        self.cause.get().copied()
    }

    /// Where the job says that it is while it runs.
    pub(crate) fn presence(&self) -> JobState {
        match self.presence.load(Ordering::Acquire) {
            1 => JobState::Detached,
            2 => JobState::Recovering,
            _ => JobState::Running,
        }
    }

    /// Answers whether that is news.
    fn swap_presence(&self, presence: JobState) -> bool {
        let number = match presence {
            JobState::Detached => 1,
            JobState::Recovering => 2,
            _ => 0,
        };
        self.presence.swap(number, Ordering::AcqRel) != number
    }

    /// What the next attempt has to do; `None` when there can be no other.
    pub(crate) fn begin_attempt(&self, epoch: u64) -> Option<Launch> {
        let launch = lock(&self.work).launch()?;
        self.epoch.store(epoch, Ordering::Release);
        self.begun.store(true, Ordering::Release);
        self.launched.send_replace(true);
        Some(launch)
    }

    pub(crate) fn has_begun(&self) -> bool {
        self.begun.load(Ordering::Acquire)
    }

    /// Epoch of the last attempt that was begun here.
    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::Acquire)
    }

    /// Whether there is work for another attempt.
    pub(crate) fn can_begin(&self) -> bool {
        lock(&self.work).is_left()
    }

    /// Whether the present attempt has had a place, and with it what the job claims.
    pub(crate) fn holds(&self) -> bool {
        self.held.load(Ordering::Acquire)
    }

    /// When the next attempt is due, as far as one was put off.
    pub(crate) fn due(&self) -> Duration {
        *lock(&self.due)
    }

    /// The attempt is over and another one will come, not before `due` on the engine's clock.
    pub(crate) fn rest(&self, due: Duration) {
        *lock(&self.end) = None;
        *lock(&self.due) = due;
        self.held.store(false, Ordering::Release);
        self.begun.store(false, Ordering::Release);
        self.swap_presence(JobState::Running);
        self.progress.restart();
    }

    pub(crate) fn set_end(&self, end: JobEnd) {
        lock(&self.end).get_or_insert(end);
    }

    pub(crate) fn end(&self) -> Option<JobEnd> {
        lock(&self.end).clone()
    }

    /// From where the job has last said that it could go on. It stays here, for a supervisor that has to be told
    /// again.
    pub(crate) fn checkpoint(&self) -> Option<Value> {
        lock(&self.checkpoint).clone()
    }

    pub(crate) fn set_gate(&self, open: bool) {
        if open {
            self.held.store(true, Ordering::Release);
        }
        self.gate.send_if_modified(|now| std::mem::replace(now, open) != open);
    }

    pub(crate) fn is_open(&self) -> bool {
        *self.gate.borrow()
    }

    pub(crate) fn gate(&self) -> watch::Receiver<bool> {
        self.gate.subscribe()
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
        // A job that never began has held its work until now.
        *lock(&self.work) = Work::gone();
        self.settled.send_replace(Some(end));
    }

    pub(crate) fn ticket(&self) -> JobTicket {
        JobTicket { id: self.id, settled: self.settled.subscribe(), launched: self.launched.subscribe() }
    }
}

/// What a submission is answered with.
#[derive(Debug, Clone)]
pub struct JobTicket {
    id: JobId,
    settled: watch::Receiver<Option<JobEnd>>,
    launched: watch::Receiver<bool>,
}

impl JobTicket {
    /// The ticket of a job that has ended already.
    pub(crate) fn of_ended(id: JobId, end: JobEnd) -> Self {
        Self {
            id,
            settled: watch::Sender::new(Some(end)).subscribe(),
            launched: watch::Sender::new(true).subscribe(),
        }
    }

    /// The job's name.
    pub fn id(&self) -> JobId {
        self.id
    }

    /// Waits until the job's turn has come. `false` when it has ended without. Cancel safe.
    pub async fn begun(&mut self) -> bool {
        let Self { settled, launched, .. } = self;
        let over = launched.clone();
        tokio::select! {
            biased;
            launched = launched.wait_for(|launched| *launched) => launched.is_ok(),
            _ = settled.wait_for(Option::is_some) => *over.borrow(),
        }
    }

    /// Waits until the job has ended and its end is in the journal (or the journal has refused it).
    /// Cancel safe. An engine that was stopped before that answers [`JobEnd::Interrupted`], as does one that
    /// leaves the job to the next server.
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
    attempt: u32,
    checkpoint: Arc<Value>,
    shared: Arc<Shared>,
}

impl JobContext {
    pub(crate) fn new(live: Arc<Live>, record: &JobRecord, shared: Arc<Shared>) -> Self {
        let checkpoint = Arc::new(record.spec.checkpoint.clone());
        Self { live, epoch: record.epoch, attempt: record.attempt, checkpoint, shared }
    }

    /// The job's name.
    pub fn id(&self) -> JobId {
        self.live.id
    }

    /// The runner's epoch: every checkpoint and commit of this runner is conditional on it.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// Which attempt this is; 1 is the first.
    pub fn attempt(&self) -> u32 {
        self.attempt
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

    /// When the job's bytes may move. Whoever moves any asks it before.
    pub fn pace(&self) -> Pace {
        let live = &self.live;
        Pace::new(live.gate(), live.throttle.clone(), live.stop.clone(), self.shared.jobs.clone())
    }

    /// From where the runner before has said that the job could go on; null when from nowhere.
    pub fn found_checkpoint(&self) -> &Value {
        &self.checkpoint
    }

    /// Says from where the job could go on. Journalled soon; of several the last.
    pub fn set_checkpoint(&self, checkpoint: Value) {
        *lock(&self.live.checkpoint) = Some(checkpoint);
        self.shared.nudge(&self.live);
    }

    /// Says that the client has gone and may come back. Journalled soon, in the order of the calls; what is
    /// taken back before it was written is not written. The job gives its place in the limits away.
    pub fn set_detached(&self) {
        self.set_presence(JobState::Detached);
    }

    /// Says that it waits as it did when the server before had stopped: a client that came back has left before its
    /// bytes moved.
    pub fn set_recovering(&self) {
        self.set_presence(JobState::Recovering);
    }

    /// Says that a client is there again. Its bytes move when the job has a place again: see
    /// [`Pace::opened`].
    pub fn set_running(&self) {
        self.set_presence(JobState::Running);
    }

    /// Where the job has said that it is.
    pub fn presence(&self) -> JobState {
        self.live.presence()
    }

    fn set_presence(&self, presence: JobState) {
        if self.live.swap_presence(presence) {
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
