//! Why the engine did not do what it was asked.

use crate::id::JobId;
use crate::journal::JournalError;
use crate::lifecycle::JobState;

/// What a call to the engine can answer instead of a result. Variants differ in what the caller can do.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The server is stopping; ask another one, or this one after its restart.
    #[error("the engine is draining and takes no new jobs")]
    Draining,
    /// As many jobs as the configuration allows have not ended yet; try again later.
    #[error("{limit} jobs have not ended yet, which is the limit")]
    Busy {
        /// The limit.
        limit: usize,
    },
    /// The engine is being rebuilt after a fault of its own; try again in a moment. Whether a submission got
    /// through is unknown, but if it is not at work by then, it never will be.
    #[error("the engine is recovering from a fault")]
    Unavailable,
    /// The engine has ended or has given up; nothing will come from it any more.
    #[error("the engine has stopped")]
    Stopped,
    /// There is no such job, or no longer.
    #[error("there is no task {0}")]
    NotFound(JobId),
    /// The job has ended, so there is nothing to stop.
    #[error("task {id} has ended: {state}")]
    NotRunning {
        /// The job.
        id: JobId,
        /// How it ended.
        state: JobState,
    },
    /// The job is at work, so it cannot be withdrawn from the queue.
    #[error("task {0} is at work")]
    AtWork(JobId),
    /// The idempotency key was used for another job.
    #[error("the idempotency key was used for another job: task {id}")]
    KeyReused {
        /// That job.
        id: JobId,
    },
    /// The job has not ended, so it cannot be forgotten.
    #[error("task {0} has not ended")]
    StillRunning(JobId),
    /// The journal did not do its part. A submission that gets this did not and will not run.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The engine's thread or its runtime could not be started.
    #[error("cannot start the engine's threads")]
    Threads(#[source] std::io::Error),
}

impl EngineError {
    /// Whether the same call may succeed later in this process.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Busy { .. } | Self::Unavailable | Self::Journal(_) => true,
            Self::Draining
            | Self::Stopped
            | Self::NotFound(_)
            | Self::NotRunning { .. }
            | Self::AtWork(_)
            | Self::KeyReused { .. }
            | Self::StillRunning(_)
            | Self::Threads(_) => false,
        }
    }
}
