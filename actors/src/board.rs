//! The table of jobs as everybody sees it.
//!
//! Written by the `Transfers` actor alone, read from any thread. It outlives the actor: the one that is
//! built after it finds the jobs at work here.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use crate::admission::Waiting;
use crate::id::JobId;
use crate::live::Live;
use crate::record::JobRecord;

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) record: Arc<JobRecord>,
    /// There as long as the job has not settled.
    pub(crate) live: Option<Arc<Live>>,
}

#[derive(Debug, Default)]
pub(crate) struct Board {
    entries: RwLock<BTreeMap<JobId, Entry>>,
    waits: RwLock<Arc<HashMap<JobId, Waiting>>>,
}

impl Board {
    /// How the jobs that wait for a place stand.
    pub(crate) fn waits(&self) -> Arc<HashMap<JobId, Waiting>> {
        Arc::clone(&self.waits.read().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn set_waits(&self, waits: Vec<(JobId, Waiting)>) {
        *self.waits.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(waits.into_iter().collect());
    }

    pub(crate) fn get(&self, id: JobId) -> Option<Entry> {
        self.read().get(&id).cloned()
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.read().values().cloned().collect()
    }

    pub(crate) fn lives(&self) -> Vec<Arc<Live>> {
        self.read().values().filter_map(|entry| entry.live.clone()).collect()
    }

    pub(crate) fn put(&self, entry: Entry) {
        self.write().insert(entry.record.id, entry);
    }

    pub(crate) fn remove(&self, id: JobId) {
        self.write().remove(&id);
    }

    // No code runs under the lock that could leave the map half changed, so a poisoned one is whole.
    fn read(&self) -> RwLockReadGuard<'_, BTreeMap<JobId, Entry>> {
        self.entries.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, BTreeMap<JobId, Entry>> {
        self.entries.write().unwrap_or_else(PoisonError::into_inner)
    }
}
