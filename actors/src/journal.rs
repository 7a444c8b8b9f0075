//! Where job records survive.

use std::collections::BTreeMap;
use std::error::Error;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures_util::future::BoxFuture;

use crate::id::JobId;
use crate::record::JobRecord;

/// What a journal answers, later.
pub type JournalFuture<T> = BoxFuture<'static, Result<T, JournalError>>;

/// Keeps job records across restarts.
///
/// The engine writes a record whole, and never has two writes for the same job under way, so an
/// implementation is free to write records of different jobs in any order and several in one commit. No
/// method may block its caller: IO belongs to the implementation's own thread. What a future that was
/// dropped half-way has done is the implementation's to choose.
pub trait Journal: Send + Sync + 'static {
    /// Writes the record in place of an older one of the same id. Resolves when it is durable.
    fn save(&self, record: Arc<JobRecord>) -> JournalFuture<()>;
    /// Every record whose state is not an end.
    fn load_unfinished(&self) -> JournalFuture<Vec<JobRecord>>;
    /// The `limit` records that ended last, of those whose state is an end.
    fn load_ended(&self, limit: usize) -> JournalFuture<Vec<JobRecord>>;
    /// Removes these records. An id that is not there is no error.
    fn forget(&self, ids: Vec<JobId>) -> JournalFuture<()>;
    /// Removes ended records but the `keep` that ended last, and of these the ones that ended before
    /// `ended_before_ms`. Answers how many it removed.
    fn retain(&self, keep: usize, ended_before_ms: u64) -> JournalFuture<u64>;
    /// Resolves when everything that was written before is durable.
    fn flush(&self) -> JournalFuture<()>;
}

/// The journal could not do its work.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the job journal cannot {operation}: {source}")]
pub struct JournalError {
    /// What it was to do (`save a record`).
    pub operation: &'static str,
    /// Why it could not.
    #[source]
    pub source: Arc<dyn Error + Send + Sync>,
}

impl JournalError {
    /// An error of the implementation, with what it was about to do.
    pub fn new(operation: &'static str, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { operation, source: Arc::from(source.into()) }
    }
}

/// A journal in memory: for tests, and for programs whose jobs need not survive.
#[derive(Debug, Clone, Default)]
pub struct MemoryJournal {
    records: Arc<Mutex<BTreeMap<JobId, Arc<JobRecord>>>>,
}

impl MemoryJournal {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// The record of that job, as it was last saved.
    pub fn get(&self, id: JobId) -> Option<Arc<JobRecord>> {
        self.lock().get(&id).cloned()
    }

    /// All records, oldest first.
    pub fn all(&self) -> Vec<Arc<JobRecord>> {
        self.lock().values().cloned().collect()
    }

    fn ended_last_first(&self) -> Vec<Arc<JobRecord>> {
        let mut ended: Vec<_> =
            self.lock().values().filter(|record| record.state.is_ended()).cloned().collect();
        ended.sort_by_key(|record| std::cmp::Reverse((record.ended_ms, record.id)));
        ended
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<JobId, Arc<JobRecord>>> {
        self.records.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ready<T: Send + 'static>(value: T) -> JournalFuture<T> {
        Box::pin(std::future::ready(Ok(value)))
    }
}

impl Journal for MemoryJournal {
    fn save(&self, record: Arc<JobRecord>) -> JournalFuture<()> {
        self.lock().insert(record.id, record);
        Self::ready(())
    }

    fn load_unfinished(&self) -> JournalFuture<Vec<JobRecord>> {
        let found =
            self.lock().values().filter(|r| !r.state.is_ended()).map(|r| JobRecord::clone(r)).collect();
        Self::ready(found)
    }

    fn load_ended(&self, limit: usize) -> JournalFuture<Vec<JobRecord>> {
        let ended = self.ended_last_first();
        Self::ready(ended.iter().take(limit).map(|record| JobRecord::clone(record)).collect())
    }

    fn forget(&self, ids: Vec<JobId>) -> JournalFuture<()> {
        let mut records = self.lock();
        for id in ids {
            records.remove(&id);
        }
        drop(records);
        Self::ready(())
    }

    fn retain(&self, keep: usize, ended_before_ms: u64) -> JournalFuture<u64> {
        let old: Vec<JobId> = self
            .ended_last_first()
            .iter()
            .enumerate()
            .filter(|(place, record)| {
                *place >= keep || record.ended_ms.is_some_and(|ended| ended < ended_before_ms)
            })
            .map(|(_, record)| record.id)
            .collect();
        let mut records = self.lock();
        for id in &old {
            records.remove(id);
        }
        drop(records);
        Self::ready(old.len() as u64)
    }

    fn flush(&self) -> JournalFuture<()> {
        Self::ready(())
    }
}
