//! The chores of the store, done by a thread of their own: removing content whose last reader has left, and
//! writing the names of an SR's disks into its directory.

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::time::{Duration, Instant};

use crate::ids::{ContentId, SrId};

/// Chores that may wait. More are dropped: the next start finds and does what they would have done.
const WAITING: usize = 4096;
/// Names that change in quick succession are written once.
const GATHER: Duration = Duration::from_millis(200);

/// Something to be done soon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Chore {
    /// Remove the file and the row of a content that nothing refers to and nobody reads.
    Remove(ContentId),
    /// Write the names of an SR's disks into its directory.
    WriteNames(SrId),
}

/// Where chores are left.
#[derive(Debug, Clone)]
pub struct Caretaker {
    chores: SyncSender<Chore>,
}

impl Caretaker {
    /// A caretaker, and the chores that it is asked for.
    pub fn new() -> (Self, Receiver<Chore>) {
        let (chores, list) = sync_channel(WAITING);
        (Self { chores }, list)
    }

    /// Leaves a chore. Never waits.
    pub fn ask(&self, chore: Chore) {
        match self.chores.try_send(chore) {
            Ok(()) => {}
            Err(TrySendError::Full(chore)) => {
                tracing::warn!(?chore, "too many chores wait; this one is left to the next start");
            }
            // The server is stopping; the next start does it.
            Err(TrySendError::Disconnected(_)) => {}
        }
    }
}

/// Does chores until nobody is left who could ask for one. `done` is told a chore once, however often it was
/// asked for in quick succession.
pub fn attend(list: &Receiver<Chore>, mut done: impl FnMut(Chore)) {
    while let Ok(first) = list.recv() {
        let mut chores = BTreeSet::from([first]);
        let until = Instant::now() + GATHER;
        let ended = loop {
            match list.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(chore) => {
                    chores.insert(chore);
                }
                Err(error) => break error,
            }
        };
        chores.into_iter().for_each(&mut done);
        if ended == RecvTimeoutError::Disconnected {
            return;
        }
    }
}
