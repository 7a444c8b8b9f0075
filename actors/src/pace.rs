//! When a job's next bytes may move: not while it is paused or waits for its place, and not faster than the
//! limits on its way.

use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::bandwidth::Throttle;

/// The job was told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the job was told to stop")]
pub struct Stopped;

/// A job's gate and its limits. Clones are the same job's; any thread may hold one.
#[derive(Debug, Clone)]
pub struct Pace {
    gate: watch::Receiver<bool>,
    throttle: Throttle,
    stop: CancellationToken,
    runtime: Handle,
}

impl Pace {
    pub(crate) fn new(
        gate: watch::Receiver<bool>,
        throttle: Throttle,
        stop: CancellationToken,
        runtime: Handle,
    ) -> Self {
        Self { gate, throttle, stop, runtime }
    }

    /// Whether bytes may move at present: the job has its place and is not paused.
    pub fn is_open(&self) -> bool {
        *self.gate.borrow()
    }

    /// Waits until the job has its place and is not paused. Cancel safe.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn opened(&self) -> Result<(), Stopped> {
        let mut gate = self.gate.clone();
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Stopped),
            // A gate without its engine stays as it is; the jobs are told to stop then.
            open = gate.wait_for(|open| *open) => open.map(|_| ()).map_err(|_| Stopped),
        }
    }

    /// Waits until the job is paused or has lost its place. Cancel safe.
    pub async fn closed(&self) {
        let mut gate = self.gate.clone();
        if gate.wait_for(|open| !*open).await.is_err() {
            // Without its engine it stays as it is.
            std::future::pending::<()>().await;
        }
    }

    /// How many bytes to take in one go at most; `None` while nothing limits.
    pub fn quantum(&self) -> Option<u64> {
        self.throttle.quantum()
    }

    /// Waits until so many bytes may move. Cancel safe.
    ///
    /// # Errors
    /// [`Stopped`].
    pub async fn take(&self, bytes: u64) -> Result<(), Stopped> {
        self.opened().await?;
        if self.throttle.quantum().is_none() {
            return Ok(());
        }
        tokio::select! {
            biased;
            () = self.stop.cancelled() => return Err(Stopped),
            () = self.throttle.take(bytes) => {}
        }
        // It may have been paused meanwhile.
        self.opened().await
    }

    /// As [`Self::take`], for a thread of the job's own. Must not be called on an executor's thread.
    ///
    /// # Errors
    /// [`Stopped`].
    pub fn take_blocking(&self, bytes: u64) -> Result<(), Stopped> {
        if self.stop.is_cancelled() {
            return Err(Stopped);
        }
        if self.is_open() && self.throttle.quantum().is_none() {
            return Ok(());
        }
        self.runtime.block_on(self.take(bytes))
    }
}
