//! What was asked for of an export and what was sent, by all who read it.

use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use gantry_actors::{JobContext, JobEnd, JobFailure, JobId, Pace, Progress};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use super::super::frames::Recorded;
use super::super::intervals::Intervals;
use super::super::recipe::Recipe;
use super::{Spec, sizing};

/// Most stretches that are written down.
const CHECKPOINT_STRETCHES: usize = 256;

/// A transfer: one representation on its way to one user.
pub(super) struct Transfer {
    pub(super) job: JobId,
    pub(super) spec: Spec,
    pub(super) stop: CancellationToken,
    pub(super) pace: Pace,
    pub(super) changed: Notify,
    /// Of a compressed one.
    pub(super) recorded: Option<Arc<Recorded>>,
    progress: Progress,
    len: OnceLock<u64>,
    /// The latest sizing pass.
    sizing: Mutex<Option<sizing::Pace>>,
    ledger: Mutex<Ledger>,
}

#[derive(Default)]
pub(super) struct Ledger {
    pub(super) asked: Intervals,
    pub(super) sent: Intervals,
    pub(super) readers: usize,
    /// Begun by a former server, and no byte has been sent since.
    pub(super) orphan: bool,
    /// Several have read at once.
    pub(super) parallel: bool,
    pub(super) ended: bool,
    pub(super) released: bool,
    pub(super) failure: Option<JobFailure>,
    pub(super) recipe: Option<Arc<Recipe>>,
}

/// What is kept so that the next server can go on.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Checkpoint {
    /// Stretches of the representation that were sent.
    pub(super) sent: Vec<(u64, u64)>,
}

/// How a transfer stands.
pub(super) enum Standing {
    /// Somebody reads.
    Read,
    /// Nobody reads, and all that was asked for was sent.
    Idle,
    /// Nobody reads, and something that was asked for was not sent.
    Left,
    /// Nobody reads, and nobody has since the server was restarted.
    Orphaned,
    /// It is over.
    Ended(Result<Value, JobFailure>),
}

impl Transfer {
    pub(super) fn new(
        context: &JobContext,
        spec: Spec,
        recorded: Option<Arc<Recorded>>,
        ledger: Ledger,
    ) -> Arc<Self> {
        let transfer = Self {
            job: context.id(),
            stop: context.stop().clone(),
            pace: context.pace(),
            changed: Notify::new(),
            recorded,
            progress: context.progress().clone(),
            len: OnceLock::new(),
            sizing: Mutex::new(None),
            ledger: Mutex::new(ledger),
            spec,
        };
        if let Some(len) = transfer.spec.len.or_else(|| transfer.recorded.as_ref()?.len()) {
            transfer.learn_len(len);
        }
        Arc::new(transfer)
    }

    pub(super) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        // Every change is made in one go, so a panic elsewhere leaves it whole.
        self.ledger.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The length of the representation, once it is known.
    pub(super) fn len(&self) -> Option<u64> {
        self.len.get().copied()
    }

    /// The length has become known: what was asked for beyond it was never there.
    pub(super) fn learn_len(&self, len: u64) {
        if self.len.set(len).is_ok() {
            self.progress.set_total(len);
            self.ledger().asked.cut_off(len);
        }
    }

    pub(super) fn set_sizing(&self, pace: Option<sizing::Pace>) {
        *self.sizing.lock().unwrap_or_else(PoisonError::into_inner) = pace;
    }

    /// When its length will be known, as far as that can be told.
    pub(super) fn sized_in(&self) -> Option<Duration> {
        let pace = *self.sizing.lock().unwrap_or_else(PoisonError::into_inner);
        pace?.left(self.recorded.as_ref()?)
    }

    /// Adds a reader, unless it is too late.
    pub(super) fn enter(self: &Arc<Self>, range: Range<u64>) -> Option<Reader> {
        let mut ledger = self.ledger();
        if ledger.ended {
            return None;
        }
        // Who goes on from here has what comes before: of what was sent last, nobody could tell that it arrived.
        let gap = ledger.sent.gap_before(range.start);
        if ledger.readers == 0 && (ledger.orphan || ledger.asked.contains(gap.clone())) {
            ledger.sent.add(gap);
        }
        ledger.readers += 1;
        ledger.parallel |= ledger.readers > 1;
        ledger.asked.add(range.start..self.len().map_or(range.end, |len| range.end.min(len)));
        drop(ledger);
        self.changed.notify_one();
        Some(Reader { transfer: Arc::clone(self) })
    }

    pub(super) fn checkpoint(&self) -> Checkpoint {
        Checkpoint { sent: self.ledger().sent.stretches(CHECKPOINT_STRETCHES) }
    }

    pub(super) fn close(&self, ledger: &mut Ledger) {
        ledger.ended = true;
        ledger.recipe = None;
    }

    pub(super) fn standing(&self) -> Standing {
        let mut ledger = self.ledger();
        if let Some(failure) = ledger.failure.take() {
            self.close(&mut ledger);
            return Standing::Ended(Err(failure));
        }
        let whole = self.len().is_some_and(|len| ledger.sent.contains(0..len));
        if whole && ledger.readers == 0 && !ledger.parallel {
            self.close(&mut ledger);
            return Standing::Ended(Ok(json!({})));
        }
        match (ledger.readers, ledger.sent.covers(&ledger.asked)) {
            (0, _) if ledger.released => {
                self.close(&mut ledger);
                Standing::Ended(Err(deleted(&self.spec)))
            }
            (0, _) if ledger.orphan => Standing::Orphaned,
            (0, true) => Standing::Idle,
            (0, false) => Standing::Left,
            _ => Standing::Read,
        }
    }

    /// Ends the transfer because the server stops.
    pub(super) fn give_up_for(&self, otherwise: JobEnd) -> JobEnd {
        let mut ledger = self.ledger();
        self.close(&mut ledger);
        if ledger.all_sent() { JobEnd::Success(json!({})) } else { otherwise }
    }

    /// Ends the transfer if nobody has come back.
    pub(super) fn give_up(&self) -> Option<Result<Value, JobFailure>> {
        let mut ledger = self.ledger();
        if ledger.readers > 0 {
            return None;
        }
        self.close(&mut ledger);
        if ledger.all_sent() {
            return Some(Ok(json!({})));
        }
        let of = self.len().map_or_else(String::new, |len| format!(" of {len}"));
        let message =
            format!("the client left after {}{of} bytes and did not come back", ledger.sent.total());
        Some(Err(JobFailure::new("ExportError", "client_gone", message)))
    }
}

/// The failure of a transfer whose object was deleted.
pub(super) fn deleted(spec: &Spec) -> JobFailure {
    let kind = spec.object.kind();
    let message = format!("the {kind} was deleted before the download was taken up again");
    JobFailure::new("ExportError", format!("{}_deleted", kind.to_ascii_lowercase()), message)
}

impl Ledger {
    fn all_sent(&self) -> bool {
        !self.orphan && self.sent.covers(&self.asked)
    }
}

/// One request's part in a transfer. Tell it what was sent; dropping it leaves the transfer.
pub struct Reader {
    pub(super) transfer: Arc<Transfer>,
}

impl Reader {
    /// The task.
    pub fn task(&self) -> JobId {
        self.transfer.job
    }

    /// Is cancelled when the transfer is aborted.
    pub fn stop(&self) -> &CancellationToken {
        &self.transfer.stop
    }

    /// When bytes may be sent.
    pub fn pace(&self) -> &Pace {
        &self.transfer.pace
    }

    /// The transfer's counters.
    pub fn progress(&self) -> &Progress {
        &self.transfer.progress
    }

    /// These bytes of the representation have left for the client.
    pub fn sent(&self, range: Range<u64>) {
        let mut ledger = self.transfer.ledger();
        ledger.orphan = false;
        ledger.sent.add(range);
        let total = ledger.sent.total();
        drop(ledger);
        self.transfer.progress.raise_written_to(total);
        // The whole: the job ends now, not when the last connection is torn down.
        if self.transfer.len().is_some_and(|len| total >= len) {
            self.transfer.changed.notify_one();
        }
    }

    /// The representation has ended, and is so long.
    pub fn ended_at(&self, len: u64) {
        self.transfer.learn_len(len);
        self.transfer.changed.notify_one();
    }

    /// The source failed: so does the transfer.
    pub fn failed(&self, failure: JobFailure) {
        self.transfer.ledger().failure.get_or_insert(failure);
        self.transfer.changed.notify_one();
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut ledger = self.transfer.ledger();
        ledger.readers = ledger.readers.saturating_sub(1);
        drop(ledger);
        self.transfer.changed.notify_one();
    }
}
