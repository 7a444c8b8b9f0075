//! Where requests for one representation meet: the transfer that they join, or the queue in which they wait for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use gantry_actors::JobId;
use tokio::sync::OnceCell;

use crate::ids::UserId;

use super::super::admission::NotAdmitted;
use super::super::recipe::ExportObject;
use super::Spec;
use super::ledger::Transfer;

/// Whose transfer of what: the user, what was asked for, and the entity tag. A snapshot has the tag of its disk until that
/// gets other content.
pub(super) type Key = (UserId, ExportObject, String);

fn key_of(spec: &Spec) -> Key {
    (spec.user, spec.object, spec.etag.clone())
}

/// A transfer, or the place where one will be once its job has had its turn.
#[derive(Default)]
pub(super) struct Slot {
    pub(super) transfer: OnceCell<Arc<Transfer>>,
    queued: Mutex<Queued>,
}

/// What those who wait for a transfer together know of its job.
#[derive(Default)]
pub(super) struct Queued {
    pub(super) job: Option<JobId>,
    /// How the last wait for a turn ended, if without one.
    pub(super) refused: Option<NotAdmitted>,
}

impl Slot {
    pub(super) fn of(transfer: &Arc<Transfer>) -> Arc<Self> {
        let transfer = OnceCell::new_with(Some(Arc::clone(transfer)));
        Arc::new(Self { transfer, queued: Mutex::default() })
    }

    pub(super) fn queued(&self) -> MutexGuard<'_, Queued> {
        self.queued.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether it has a transfer to join, or somebody who waits for one.
    fn is_alive(self: &Arc<Self>) -> bool {
        match self.transfer.get() {
            Some(transfer) => !transfer.ledger().ended,
            None => Arc::strong_count(self) > 1,
        }
    }
}

/// All slots there are.
#[derive(Default)]
pub(super) struct Slots(Mutex<HashMap<Key, Vec<Arc<Slot>>>>);

impl Slots {
    fn all(&self) -> MutexGuard<'_, HashMap<Key, Vec<Arc<Slot>>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The slot to join: that of a transfer which nobody reads; for a part, else the latest; else a new one.
    pub(super) fn choose<'a>(&'a self, key: &'a Key, is_part: bool) -> Hold<'a> {
        let mut all = self.all();
        let slots = all.entry(key.clone()).or_default();
        slots.retain(Slot::is_alive);
        let unread =
            |slot: &&Arc<Slot>| slot.transfer.get().is_some_and(|transfer| transfer.ledger().readers == 0);
        let found = slots.iter().find(unread).or_else(|| slots.last().filter(|_| is_part));
        let slot = found.cloned().unwrap_or_else(|| {
            let slot = Arc::<Slot>::default();
            slots.push(Arc::clone(&slot));
            slot
        });
        drop(all);
        Hold { slots: self, key, slot: Some(slot) }
    }

    /// Adds a slot whose transfer is there already.
    pub(super) fn add(&self, transfer: &Arc<Transfer>) {
        let key = key_of(&transfer.spec);
        self.all().entry(key).or_default().push(Slot::of(transfer));
    }

    /// Takes a transfer that has ended out.
    pub(super) fn forget(&self, transfer: &Arc<Transfer>) {
        let key = key_of(&transfer.spec);
        let mut all = self.all();
        if let Some(slots) = all.get_mut(&key) {
            slots.retain(|slot| !slot.transfer.get().is_some_and(|other| Arc::ptr_eq(other, transfer)));
            if slots.is_empty() {
                all.remove(&key);
            }
        }
    }

    /// The transfers for which something holds.
    pub(super) fn transfers(&self, holds: impl Fn(&Transfer) -> bool) -> Vec<Arc<Transfer>> {
        let all = self.all();
        let transfers = all.values().flatten().filter_map(|slot| slot.transfer.get());
        transfers.filter(|transfer| holds(transfer)).map(Arc::clone).collect()
    }
}

/// One request's hold on a slot. Who lets go of one that nobody else needs clears it away.
pub(super) struct Hold<'a> {
    slots: &'a Slots,
    key: &'a Key,
    slot: Option<Arc<Slot>>,
}

impl Hold<'_> {
    /// The slot.
    pub(super) fn slot(&self) -> Arc<Slot> {
        self.slot.clone().unwrap_or_default()
    }
}

impl Drop for Hold<'_> {
    fn drop(&mut self) {
        self.slot = None;
        let mut all = self.slots.all();
        if let Some(slots) = all.get_mut(self.key) {
            slots.retain(Slot::is_alive);
            if slots.is_empty() {
                all.remove(self.key);
            }
        }
    }
}
