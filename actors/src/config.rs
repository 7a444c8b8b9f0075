//! What the engine can be told.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::admission::AdmissionLimits;
use crate::bandwidth::BandwidthLimits;
use crate::restarts::RestartPolicy;

/// The engine's settings. [`EngineConfig::default`] is sound for a server.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// Threads on which jobs' futures run.
    pub workers: usize,
    /// Most jobs that have not ended at one moment; submissions beyond it are [`Busy`](crate::EngineError::Busy).
    pub max_unfinished: usize,
    /// Most submissions that are on their way into the journal at one moment; others wait their turn.
    pub max_submitting: usize,
    /// How many jobs may be at work at once; see also [`EngineHandle::set_limits`](crate::EngineHandle::set_limits).
    pub limits: AdmissionLimits,
    /// How fast they may be.
    pub bandwidth: BandwidthLimits,
    /// How long a job that was told to stop may take before it is cut off, and after that, before it is
    /// given up.
    pub grace: Duration,
    /// Ended jobs that are kept.
    pub keep: usize,
    /// How long ended jobs are kept.
    pub max_age: Duration,
    /// Beat of the progress sampler.
    pub sample_every: Duration,
    /// Time over which a rate is measured.
    pub rate_window: Duration,
    /// Time without a byte after which a job is marked as stalled.
    pub stall_after: Duration,
    /// Changes that a subscriber may lag behind before it is told that it missed some.
    pub change_backlog: usize,
    /// How often an actor that died is built again.
    pub restart: RestartPolicy,
    /// Where this is, for the records.
    pub node: Option<String>,
    /// The wall clock.
    pub clock: Clock,
}

impl Default for EngineConfig {
    fn default() -> Self {
        Self {
            workers: std::thread::available_parallelism().map_or(2, usize::from).max(2),
            max_unfinished: 4096,
            max_submitting: 64,
            limits: AdmissionLimits::default(),
            bandwidth: BandwidthLimits::default(),
            grace: Duration::from_millis(1500),
            keep: 1000,
            max_age: Duration::from_secs(30 * 24 * 3600),
            sample_every: Duration::from_secs(1),
            rate_window: Duration::from_secs(10),
            stall_after: Duration::from_secs(60),
            change_backlog: 1024,
            restart: RestartPolicy::default(),
            node: None,
            clock: Clock::system(),
        }
    }
}

/// A wall clock: Unix milliseconds. Durations are measured on tokio's clock instead, which does not step.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> u64 + Send + Sync>);

impl Clock {
    /// The machine's.
    pub fn system() -> Self {
        Self::from_fn(|| {
            let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
        })
    }

    /// Any other one.
    pub fn from_fn(now_ms: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(now_ms))
    }

    /// The time, in Unix milliseconds.
    pub fn now_ms(&self) -> u64 {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}
