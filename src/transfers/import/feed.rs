//! How the bytes of an upload reach the thread that takes them in.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use gantry_actors::{EngineError, EngineHandle, JobContext, JobTicket, Pace, Stage, StageClock};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::disk::io_pool::IoPoolError;
use crate::image::budget::{Budget, Room, Share};

use super::super::admission::{self, TurnError};
use super::{ImportError, Imported};

pub(super) enum Feed {
    /// With its part of the memory budget.
    Piece(Bytes, Room),
    Silent(Duration),
    End,
}

/// An import that runs.
pub struct RunningImport {
    feed: mpsc::Sender<Feed>,
    ticket: JobTicket,
    outcome: oneshot::Receiver<Result<Imported, ImportError>>,
    context: JobContext,
    pace: Pace,
    share: Share,
    ended: CancellationToken,
}

/// The import takes no more: it has ended already, and [`RunningImport::outcome`] says how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended;

impl RunningImport {
    /// The task under which it runs.
    pub fn task(&self) -> gantry_actors::JobId {
        self.ticket.id()
    }

    /// Is cancelled when the import is aborted.
    pub fn stop(&self) -> &CancellationToken {
        self.context.stop()
    }

    /// To be held while the next bytes are waited for.
    pub fn waits_for_source(&self) -> StageClock {
        self.context.progress().stage_clock(Stage::Source)
    }

    /// Resolves when so much time has passed in one go in which the import was neither paused nor without its place:
    /// whoever is held up is not silent.
    pub async fn silence(&self, limit: Duration) {
        loop {
            if self.pace.opened().await.is_err() {
                // Being told to stop is no silence.
                return std::future::pending().await;
            }
            if tokio::time::timeout(limit, self.pace.closed()).await.is_err() {
                return;
            }
        }
    }

    /// Hands over the next bytes; waits while the import is behind, paused or held to a rate.
    ///
    /// # Errors
    /// [`Ended`] when there is nobody to take them.
    pub async fn piece(&self, mut bytes: Bytes) -> Result<(), Ended> {
        while !bytes.is_empty() {
            let most = self.pace.quantum().and_then(|quantum| usize::try_from(quantum).ok());
            let part = bytes.split_to(most.unwrap_or(bytes.len()).min(bytes.len()));
            let limited = most.map(|_| self.context.progress().stage_clock(Stage::Limit));
            tokio::select! {
                paced = self.pace.take(part.len() as u64) => paced.map_err(|_| Ended)?,
                () = self.ended.cancelled() => return Err(Ended),
            }
            drop(limited);
            let room = self.share.room(part.len() as u64).await;
            self.send(Feed::Piece(part, room)).await?;
        }
        Ok(())
    }

    /// Resolves when the import has ended, whether or not all bytes were handed over.
    pub async fn ended(&self) {
        self.ended.cancelled().await;
    }

    async fn send(&self, feed: Feed) -> Result<(), Ended> {
        tokio::select! {
            sent = self.feed.send(feed) => sent.map_err(|_| Ended),
            // Its thread may hang in its storage with a full channel.
            () = self.ended.cancelled() => Err(Ended),
        }
    }

    /// Says that all bytes were handed over. Without it, the upload counts as broken off.
    ///
    /// # Errors
    /// [`Ended`] when there is nobody to be told.
    pub async fn end(&self) -> Result<(), Ended> {
        self.send(Feed::End).await
    }

    /// Says that no byte has come for too long: the import ends.
    pub async fn silent(&self, silence: Duration) {
        // An import that has ended already says why itself.
        let _ended = self.send(Feed::Silent(silence)).await;
    }

    /// Waits for the end, which is in the task's record by then.
    ///
    /// # Errors
    /// Why the import did not happen.
    pub async fn outcome(self) -> Result<Imported, ImportError> {
        let Self { feed, mut ticket, outcome, .. } = self;
        drop(feed);
        let end = ticket.end().await;
        match outcome.await {
            Ok(outcome) => outcome,
            // The job was ended from outside before it could say anything.
            Err(_) => match end {
                gantry_actors::JobEnd::Failure(failure) => {
                    Err(ImportError::Worker(IoPoolError::Panicked { message: failure.message }))
                }
                _ => Err(ImportError::Aborted),
            },
        }
    }
}

/// An import whose turn has not come.
pub struct QueuedImport {
    pub(super) feed: mpsc::Sender<Feed>,
    pub(super) ticket: JobTicket,
    pub(super) outcome: oneshot::Receiver<Result<Imported, ImportError>>,
    pub(super) handed: oneshot::Receiver<JobContext>,
    pub(super) ended: CancellationToken,
}

impl QueuedImport {
    /// The task under which it will run.
    pub fn task(&self) -> gantry_actors::JobId {
        self.ticket.id()
    }

    /// Waits for its turn, for `patience` at most.
    ///
    /// # Errors
    /// [`TurnError`]; the import does not happen then.
    pub async fn turn(
        self,
        engine: &EngineHandle,
        budget: &Arc<Budget>,
        patience: Duration,
    ) -> Result<RunningImport, TurnError> {
        let Self { feed, mut ticket, outcome, handed, ended } = self;
        admission::turn(engine, &mut ticket, patience).await?;
        // Without a context it is the repetition of an import that has begun before.
        let context = handed.await.map_err(|_| EngineError::KeyReused { id: ticket.id() })?;
        let pace = context.pace();
        Ok(RunningImport { feed, ticket, outcome, context, pace, share: budget.register(), ended })
    }
}
