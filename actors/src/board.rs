//! The table of jobs as everybody sees it.
//!
//! Written by the `Transfers` actor alone, read from any thread. It outlives the actor: the one that is
//! built after it finds the jobs at work here.

use std::collections::{BTreeMap, BTreeSet, HashMap};
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
struct Jobs {
    entries: BTreeMap<JobId, Entry>,
    /// A job as a part, behind the job that it is a part of.
    parts: BTreeSet<(JobId, JobId)>,
    /// Jobs that the journal was told to forget, and has not answered.
    forgetting: BTreeSet<JobId>,
}

#[derive(Debug, Default)]
pub(crate) struct Board {
    jobs: RwLock<Jobs>,
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
        self.read().entries.get(&id).cloned()
    }

    /// A job, and its parts, and theirs. The job is the first.
    pub(crate) fn family(&self, id: JobId) -> Vec<Entry> {
        let jobs = self.read();
        let (mut found, mut seen, mut left) = (Vec::new(), BTreeSet::new(), vec![id]);
        // Records that name each other as parents end here too.
        while let Some(next) = left.pop() {
            if let Some(entry) = jobs.entries.get(&next).filter(|_| seen.insert(next)) {
                found.push(entry.clone());
                left.extend(
                    jobs.parts.range((next, JobId::LEAST)..=(next, JobId::GREATEST)).map(|(_, part)| *part),
                );
            }
        }
        found
    }

    pub(crate) fn entries(&self) -> Vec<Entry> {
        self.read().entries.values().cloned().collect()
    }

    pub(crate) fn lives(&self) -> Vec<Arc<Live>> {
        self.read().entries.values().filter_map(|entry| entry.live.clone()).collect()
    }

    pub(crate) fn put(&self, entry: Entry) {
        let (id, mut jobs) = (entry.record.id, self.write());
        if let Some(parent) = entry.record.parent {
            jobs.parts.insert((parent, id));
        }
        jobs.entries.insert(id, entry);
    }

    /// The journal is told to forget these.
    pub(crate) fn forget(&self, ids: &[JobId]) {
        self.write().forgetting.extend(ids);
    }

    /// The journal has answered.
    pub(crate) fn forgotten(&self, ids: &[JobId]) {
        let mut jobs = self.write();
        jobs.forgetting.retain(|id| !ids.contains(id));
    }

    /// Those of which nobody has heard the answer.
    pub(crate) fn take_forgetting(&self) -> BTreeSet<JobId> {
        std::mem::take(&mut self.write().forgetting)
    }

    pub(crate) fn remove(&self, id: JobId) {
        let mut jobs = self.write();
        if let Some(parent) = jobs.entries.remove(&id).and_then(|entry| entry.record.parent) {
            jobs.parts.remove(&(parent, id));
        }
    }

    // No code runs under the lock that could leave the maps half changed, so poisoned ones are whole.
    fn read(&self) -> RwLockReadGuard<'_, Jobs> {
        self.jobs.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Jobs> {
        self.jobs.write().unwrap_or_else(PoisonError::into_inner)
    }
}
