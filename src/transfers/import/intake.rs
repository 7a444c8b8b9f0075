//! What every importing thread does: takes the pieces of the upload, and sees that its SR has room.

use std::sync::Arc;

use bytes::Bytes;
use gantry_actors::{Progress, Stage, StageClock};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::backends::local::{LocalStore, Reservation, Sr};
use crate::disk::worker::Beat;
use crate::image::budget::Room;

use super::super::digest::Checker;
use super::ImportError;
use super::feed::Feed;

/// How many written bytes pass between two looks at the free space.
const SPACE_CHECK_BYTES: u64 = 4 << 20;

/// The end of the channel at which the bytes arrive.
pub(super) struct Intake {
    pub(super) pieces: mpsc::Receiver<Feed>,
    pub(super) progress: Progress,
    pub(super) stop: CancellationToken,
    pub(super) checker: Checker,
    pub(super) received: u64,
}

impl Intake {
    /// The next piece with its part of the memory budget; `None` at the end.
    ///
    /// # Errors
    /// When there is none because the upload broke off, fell silent or was aborted.
    pub(super) fn next(&mut self, beat: &Beat) -> Result<Option<(Bytes, Room)>, ImportError> {
        // What is waited for here, the source or a limit, is known and counted where the pieces come from.
        let next = beat.waiting(|| self.pieces.blocking_recv());
        match next {
            _ if self.is_over(beat) => Err(ImportError::Aborted),
            None => Err(ImportError::BrokenOff { received: self.received }),
            Some(Feed::End) => Ok(None),
            Some(Feed::Silent(silence)) => Err(ImportError::Silent { received: self.received, silence }),
            Some(Feed::Piece(piece, room)) => {
                let len = piece.len() as u64;
                self.received = self.received.saturating_add(len);
                self.checker.update(&piece);
                self.progress.add_read(len);
                self.progress.add_written(len);
                Ok(Some((piece, room)))
            }
        }
    }

    /// Whether nobody wants the import any more.
    pub(super) fn is_over(&self, beat: &Beat) -> bool {
        self.stop.is_cancelled() || beat.is_given_up()
    }

    /// Counts the time from now on for a stage.
    pub(super) fn clock(&self, stage: Stage) -> StageClock {
        self.progress.stage_clock(stage)
    }

    /// Refuses an upload whose bytes are not those that were declared.
    pub(super) fn check_digest(&mut self) -> Result<(), ImportError> {
        match std::mem::replace(&mut self.checker, Checker::new(Vec::new())).mismatch() {
            None => Ok(()),
            Some((algorithm, expected, found)) => {
                let algorithm = algorithm.name();
                Err(ImportError::WrongDigest { algorithm, bytes: self.received, expected, found })
            }
        }
    }
}

/// How it is known what an import takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Need {
    /// By its length: at most so many bytes are still to come. 0 when there is no telling.
    Announced(u64),
    /// By the image's tables, which say it better.
    Tables,
}

/// The room of an import on its SR.
pub(super) struct Space {
    store: LocalStore,
    sr: Arc<Sr>,
    room: Option<Reservation>,
    need: Need,
    /// What had been written when the free space was last looked at.
    checked: u64,
}

impl Space {
    /// For an import of which at most `announced` bytes may have to be stored, if that is known.
    pub(super) fn new(store: &LocalStore, sr: &Arc<Sr>, announced: Option<u64>) -> Self {
        let need = Need::Announced(announced.unwrap_or(0));
        Self { store: store.clone(), sr: Arc::clone(sr), room: None, need, checked: 0 }
    }

    /// These bytes of the upload are no longer to come.
    pub(super) fn came(&mut self, bytes: u64) {
        if let Need::Announced(left) = &mut self.need {
            *left = left.saturating_sub(bytes);
            self.room.iter_mut().for_each(|room| room.wrote(bytes));
        }
    }

    /// Reserves room: what is still to come at first, and what the tables ask for as soon as they have come. Who says
    /// neither respects what others have reserved, and has nothing of his own.
    pub(super) fn reserve(&mut self, allocated: Option<u64>) -> Result<(), ImportError> {
        let bytes = match (self.need, allocated) {
            (Need::Announced(_), Some(allocated)) => {
                self.need = Need::Tables;
                self.room = None;
                allocated
            }
            (Need::Announced(left), None) if self.room.is_none() => left,
            _ => return Ok(()),
        };
        self.room = Some(self.store.reserve(&self.sr, bytes)?);
        Ok(())
    }

    /// So many bytes have been written in all: now and then looks whether there is room for more.
    pub(super) fn wrote(&mut self, written: u64) -> Result<(), ImportError> {
        let more = written.saturating_sub(self.checked);
        let Some(room) = self.room.as_mut().filter(|_| more >= SPACE_CHECK_BYTES) else { return Ok(()) };
        self.checked = written;
        if self.need == Need::Tables {
            room.wrote(more);
        }
        Ok(room.check()?)
    }

    /// Looks whether what was written has eaten into what is kept in reserve.
    pub(super) fn check(&self) -> Result<(), ImportError> {
        Ok(self.room.iter().try_for_each(Reservation::check)?)
    }

    /// What a failure is to the user, with the numbers of this moment.
    pub(super) fn explain(&self, error: ImportError) -> ImportError {
        let missing = self.room.as_ref().map_or(0, Reservation::left);
        error.of_sr(&self.store, &self.sr, missing)
    }
}
