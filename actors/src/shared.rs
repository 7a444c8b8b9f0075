//! What the engine's parts share, and what outlives any one of its actors.

use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use actix::Addr;
use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, broadcast, watch};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::admission::AdmissionLimits;
use crate::bandwidth::Bandwidth;
use crate::board::Board;
use crate::config::EngineConfig;
use crate::id::JobId;
use crate::journal::{Journal, JournalError, JournalFuture};
use crate::live::Live;
use crate::outcome::JobFailure;
use crate::transfers::{Nudge, Transfers};
use crate::work::Resume;

/// Something happened to a task; ask the engine for its present state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskChange {
    /// It is new, or its record or its progress changed.
    Updated(JobId),
    /// It is no longer known.
    Removed(JobId),
}

/// How the engine itself is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Reads its journal back.
    Starting,
    /// Takes and supervises jobs.
    Ready,
    /// A part of it died and is being rebuilt. Jobs run on.
    Restarting,
    /// A part of it died too often. Jobs run on, unsupervised; the process should end.
    Failed,
    /// Was stopped.
    Stopped,
}

/// What the start found in the journal.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RecoverReport {
    /// Ended jobs of former runs that are still shown.
    pub kept: usize,
    /// Unfinished jobs of a former run that are now interrupted.
    pub interrupted: usize,
    /// Unfinished jobs of a former run that go on.
    pub resumed: usize,
    /// Older ended jobs that retention removed.
    pub dropped: u64,
}

/// What is not done yet.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Backlog {
    /// Jobs that have not settled, submissions that are being journalled included.
    pub(crate) unfinished: usize,
    /// Records of which the journal has an older version only, because it refused the last one.
    pub(crate) unsaved: usize,
}

pub(crate) struct Shared {
    pub(crate) config: EngineConfig,
    pub(crate) journal: Arc<dyn Journal>,
    pub(crate) resume: Arc<dyn Resume>,
    /// The runtime on which jobs and journal calls run.
    pub(crate) jobs: Handle,
    pub(crate) board: Board,
    pub(crate) bandwidth: Bandwidth,
    /// The limits as they are now; a supervisor that is rebuilt begins with them.
    pub(crate) limits: watch::Sender<AdmissionLimits>,
    pub(crate) changes: broadcast::Sender<TaskChange>,
    pub(crate) health: watch::Sender<Health>,
    pub(crate) backlog: watch::Sender<Backlog>,
    /// The supervisor's address; none while there is none.
    pub(crate) transfers: watch::Sender<Option<Addr<Transfers>>>,
    pub(crate) recovered: OnceLock<RecoverReport>,
    pub(crate) submitting: Semaphore,
    /// Journal writes under way; a supervisor that is rebuilt waits for those of the one before.
    pub(crate) writes: TaskTracker,
    draining: AtomicBool,
    /// The time for draining is over: whatever is at work, or begins yet, is told to stop.
    stopping: AtomicBool,
    begun: Instant,
}

impl Shared {
    pub(crate) fn new(
        config: EngineConfig,
        journal: Arc<dyn Journal>,
        resume: Arc<dyn Resume>,
        jobs: Handle,
    ) -> Arc<Self> {
        Arc::new(Self {
            changes: broadcast::Sender::new(config.change_backlog.max(1)),
            submitting: Semaphore::new(config.max_submitting.clamp(1, Semaphore::MAX_PERMITS)),
            bandwidth: Bandwidth::new(config.bandwidth.clone()),
            limits: watch::Sender::new(config.limits.clone()),
            config,
            journal,
            resume,
            jobs,
            board: Board::default(),
            health: watch::Sender::new(Health::Starting),
            backlog: watch::Sender::new(Backlog::default()),
            transfers: watch::Sender::new(None),
            recovered: OnceLock::new(),
            writes: TaskTracker::new(),
            draining: AtomicBool::new(false),
            stopping: AtomicBool::new(false),
            begun: Instant::now(),
        })
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.config.clock.now_ms()
    }

    /// Time since the engine was made, on a clock that does not step.
    pub(crate) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::SeqCst)
    }

    pub(crate) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::SeqCst)
    }

    pub(crate) fn begin_stopping(&self) {
        self.stopping.store(true, Ordering::SeqCst);
    }

    pub(crate) fn begin_draining(&self) {
        self.draining.store(true, Ordering::SeqCst);
    }

    /// Tells watchers. Nobody watching is fine.
    pub(crate) fn announce(&self, change: TaskChange) {
        let _ = self.changes.send(change);
    }

    /// Makes the supervisor look at a job's cell. Without a supervisor the next one looks by itself.
    pub(crate) fn nudge(&self, live: &Live) {
        if live.begin_nudge()
            && let Some(transfers) = self.transfers.borrow().as_ref()
        {
            transfers.do_send(Nudge(live.id));
        }
    }

    /// Runs a journal call on the jobs' runtime; a panic in it is an error of that call.
    pub(crate) fn journal_call<T: Send + 'static>(
        &self,
        operation: &'static str,
        call: impl FnOnce(&dyn Journal) -> JournalFuture<T>,
    ) -> impl Future<Output = Result<T, JournalError>> + Send + 'static {
        let future = std::panic::catch_unwind(AssertUnwindSafe(|| call(self.journal.as_ref())));
        async move {
            let panicked = |payload: Box<dyn std::any::Any + Send>| {
                Err(JournalError::new(operation, JobFailure::from_panic(payload.as_ref())))
            };
            match future {
                Ok(future) => AssertUnwindSafe(future).catch_unwind().await.unwrap_or_else(panicked),
                Err(payload) => panicked(payload),
            }
        }
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("config", &self.config).finish_non_exhaustive()
    }
}
