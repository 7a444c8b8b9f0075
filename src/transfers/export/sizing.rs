//! The sizing pass: makes the frames of a compressed export that nobody has made yet, and throws them away. What is
//! recorded of them gives the export its length, so that a client that was cut off can go on.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use gantry_actors::JobFailure;
use tokio::time::Instant;

use crate::image::produce::ProduceCounters;

use super::super::frames::Recorded;
use super::super::recipe::RecipeError;
use super::super::stream::{self, SourceError};
use super::ExportDesk;
use super::ledger::Transfer;

/// The pass could not come to its end.
#[derive(Debug, thiserror::Error)]
pub(super) enum SizingError {
    #[error(transparent)]
    Recipe(#[from] RecipeError),
    #[error(transparent)]
    Source(#[from] SourceError),
}

impl From<SizingError> for JobFailure {
    fn from(error: SizingError) -> Self {
        let code = match &error {
            SizingError::Source(error) => error.code(),
            SizingError::Recipe(_) => "content_gone",
        };
        Self::new("ExportError", code, error.to_string())
    }
}

/// How far a pass is, for telling when it makes sense to ask again.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    pub(super) began: Instant,
    pub(super) first: u64,
}

impl Pace {
    /// How long the pass will take from now on, at the pace that it had so far.
    pub(super) fn left(self, recorded: &Recorded) -> Option<Duration> {
        let done = recorded.frames().saturating_sub(self.first);
        let left = recorded.windows().saturating_sub(recorded.frames());
        let each = self.began.elapsed().checked_div(u32::try_from(done).ok()?)?;
        Some(each.saturating_mul(u32::try_from(left).unwrap_or(u32::MAX)))
    }
}

impl ExportDesk {
    /// Makes all frames that are not recorded yet.
    pub(super) async fn size(
        &self,
        transfer: &Arc<Transfer>,
        recorded: &Arc<Recorded>,
    ) -> Result<(), SizingError> {
        let Some(recipe) = transfer.ledger().recipe.clone() else { return Ok(()) };
        let export = recipe.represent(&self.0.store).await?;
        let first = recorded.frames();
        transfer.set_sizing(Some(Pace { began: Instant::now(), first }));
        let means = self.means(transfer.stop.child_token(), Arc::new(ProduceCounters::default()));
        let _stop_reads = means.stop.clone().drop_guard();
        if let Some(mut frames) = stream::frames(&export, first..recorded.windows(), means) {
            while let Some(frame) = frames.next().await {
                let frame = frame.map_err(SourceError::from)?;
                recorded.record(frame.number, frame.entry).map_err(SourceError::from)?;
                recorded.write_down(false).await;
            }
        }
        if let Some(len) = recorded.len() {
            transfer.learn_len(len);
        }
        Ok(())
    }
}
