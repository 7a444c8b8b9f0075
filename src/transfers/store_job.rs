//! Jobs that are one call of the store, and whoever waits for their end: he is told the store's own error, of which a
//! task's record has only the text.

use std::time::Duration;

use gantry_actors::{EngineError, EngineHandle, JobEnd, JobFailure, JobId, JobTicket};
use tokio::sync::oneshot;

use crate::backends::local::LocalError;
use crate::disk::io_pool::IoPoolError;

use super::admission::{self, TurnError};
use super::import::{ImportError, failure};

/// A job that did not do its work.
#[derive(Debug, thiserror::Error)]
pub enum StoreJobError {
    /// It could not be begun.
    #[error(transparent)]
    Turn(#[from] TurnError),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] LocalError),
}

/// A job on its way. It goes on without whoever holds this.
#[derive(Debug)]
pub struct StoreJob {
    pub(super) ticket: JobTicket,
    pub(super) refused: oneshot::Receiver<LocalError>,
}

impl StoreJob {
    /// Its task.
    pub fn task(&self) -> JobId {
        self.ticket.id()
    }

    /// Waits for its turn, for `patience` at most, and its end.
    ///
    /// # Errors
    /// [`StoreJobError`]; then nothing was done.
    pub async fn ended(mut self, engine: &EngineHandle, patience: Duration) -> Result<(), StoreJobError> {
        admission::turn(engine, &mut self.ticket, patience).await?;
        let end = self.ticket.end().await;
        // What was told is there before the job has ended.
        match (end, self.refused.try_recv().ok()) {
            (JobEnd::Success(_), _) => Ok(()),
            (_, Some(error)) => Err(error.into()),
            (JobEnd::Failure(failure), None) => {
                Err(LocalError::Pool(IoPoolError::Panicked { message: failure.message }).into())
            }
            (JobEnd::Aborted, None) => Err(TurnError::Aborted.into()),
            (JobEnd::Interrupted, None) => Err(TurnError::from(EngineError::Draining).into()),
        }
    }
}

/// The failure of a job whose work the store refused; whoever waits is told the error itself.
pub(super) fn refusal(name: &str, error: LocalError, tell: oneshot::Sender<LocalError>) -> JobFailure {
    let error = ImportError::Store(error);
    let failed = JobFailure { name: name.into(), ..failure(&error) };
    if let ImportError::Store(error) = error {
        // Nobody may be waiting.
        drop(tell.send(error));
    }
    failed
}
