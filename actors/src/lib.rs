//! A supervision tree and job engine: long-running jobs with progress, cancellation and a journal, generic
//! over what the jobs do.
//!
//! A job is a future, run on the engine's own runtime. It is written to a [`Journal`] before it runs, is
//! visible as a [`TaskView`] while it does, and ends as a [`JobEnd`], whatever happens to it: a panic is
//! that job's failure and nobody else's. [`Engine`] starts everything; [`EngineHandle`] is what the rest
//! of a program works with. `README.md` shows it in thirty lines.
//!
//! The actors (a root, the supervisor of jobs, the progress sampler) decide and never work; bytes pass no
//! mailbox. An actor that dies is rebuilt, and the jobs do not notice.

mod admission;
mod bandwidth;
mod board;
mod config;
mod engine;
mod error;
mod handle;
mod id;
mod journal;
mod lifecycle;
mod live;
mod outcome;
mod pace;
mod progress;
mod record;
mod recovery;
mod restarts;
mod retry;
mod root;
mod runner;
mod sampler;
mod shared;
mod stages;
mod table;
mod transfers;
mod view;
mod work;

#[cfg(test)]
mod model_tests;

pub use admission::{AdmissionLimits, WaitReason, Waiting};
pub use bandwidth::BandwidthLimits;
pub use config::{Clock, EngineConfig};
pub use engine::Engine;
pub use error::EngineError;
pub use handle::{DrainReport, EngineHandle};
pub use id::{BadJobId, JobId};
pub use journal::{Journal, JournalError, JournalFuture, MemoryJournal};
pub use lifecycle::{BadJobState, IllegalTransition, JobState, TaskStatus, transition};
pub use live::{JobContext, JobTicket};
pub use outcome::{JobEnd, JobFailure, reason};
pub use pace::{Pace, Stopped};
pub use progress::{Progress, ProgressView};
pub use record::{
    Claim, ClaimMode, Control, Durability, FinalProgress, Group, JobRecord, JobSpec, NewJob, Outcome,
    TaskProperties,
};
pub use restarts::RestartPolicy;
pub use retry::RetryPolicy;
pub use shared::{Health, RecoverReport, TaskChange};
pub use stages::{Stage, StageClock};
pub use table::Adjustment;
pub use tokio_util::sync::CancellationToken;
pub use view::TaskView;
pub use work::{NoResume, Resume, Resumption, Work};

/// The example in `README.md`, compiled.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
