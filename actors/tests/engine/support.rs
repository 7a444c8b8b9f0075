//! An engine in the test's own actix system, on a paused clock, with a journal that can be told to fail
//! and to wait.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use gantry_actors::{
    Clock, EngineConfig, EngineHandle, JobId, JobRecord, Journal, JournalError, JournalFuture, MemoryJournal,
    NewJob, TaskProperties,
};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;
use tokio::time::Instant;

/// The wall clock's reading when a test begins.
pub const BEGIN_MS: u64 = 1_790_000_000_000;

/// Starts an engine here, and pauses the clock.
pub fn engine(journal: impl Journal) -> EngineHandle {
    engine_with(journal, |_| {})
}

pub fn engine_with(journal: impl Journal, change: impl FnOnce(&mut EngineConfig)) -> EngineHandle {
    tokio::time::pause();
    engine_after_another(journal, change)
}

/// Another engine in the same test, where the clock is paused already.
pub fn engine_after_another(journal: impl Journal, change: impl FnOnce(&mut EngineConfig)) -> EngineHandle {
    let begun = Instant::now();
    let clock = Clock::from_fn(move || BEGIN_MS + u64::try_from(begun.elapsed().as_millis()).unwrap());
    let mut config = EngineConfig { clock, ..EngineConfig::default() };
    change(&mut config);
    EngineHandle::start_here(config, Arc::new(journal), Handle::current())
}

pub fn job(name: &str) -> NewJob {
    NewJob::new("test", TaskProperties { name: name.into(), task_type: "test".into(), ..Default::default() })
}

/// What happened, in order.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<String>>>);

impl Log {
    pub fn add(&self, line: impl Into<String>) {
        self.0.lock().unwrap().push(line.into());
    }

    pub fn lines(&self) -> Vec<String> {
        self.0.lock().unwrap().clone()
    }
}

/// Logs what it is asked, fails when told to, and lets each write wait for a permit when it is gated.
#[derive(Clone)]
pub struct Scripted {
    pub inner: MemoryJournal,
    pub log: Log,
    pub failing: Arc<AtomicBool>,
    pub gate: Arc<Semaphore>,
}

impl Scripted {
    pub fn open() -> Self {
        Self::with_permits(Semaphore::MAX_PERMITS)
    }

    /// No write is done before `let_through`.
    pub fn gated() -> Self {
        Self::with_permits(0)
    }

    fn with_permits(permits: usize) -> Self {
        Self {
            inner: MemoryJournal::new(),
            log: Log::default(),
            failing: Arc::default(),
            gate: Arc::new(Semaphore::new(permits)),
        }
    }

    pub fn let_through(&self, writes: usize) {
        self.gate.add_permits(writes);
    }

    pub fn fail(&self, failing: bool) {
        self.failing.store(failing, Ordering::SeqCst);
    }

    pub fn state(&self, id: JobId) -> Option<&'static str> {
        self.inner.get(id).map(|record| record.state.as_str())
    }

    fn write<T: Send + 'static>(
        &self,
        line: String,
        write: impl FnOnce() -> JournalFuture<T> + Send + 'static,
    ) -> JournalFuture<T> {
        let this = self.clone();
        Box::pin(async move {
            this.gate.acquire().await.unwrap().forget();
            if this.failing.load(Ordering::SeqCst) {
                this.log.add(format!("refused {line}"));
                return Err(JournalError::new("write", "the disk is full"));
            }
            let done = write().await;
            this.log.add(line);
            done
        })
    }
}

impl Journal for Scripted {
    fn save(&self, record: Arc<JobRecord>) -> JournalFuture<()> {
        let inner = self.inner.clone();
        self.write(format!("saved {}", record.state), move || inner.save(record))
    }

    fn load_unfinished(&self) -> JournalFuture<Vec<JobRecord>> {
        self.inner.load_unfinished()
    }

    fn load_ended(&self, limit: usize) -> JournalFuture<Vec<JobRecord>> {
        self.inner.load_ended(limit)
    }

    fn forget(&self, ids: Vec<JobId>) -> JournalFuture<()> {
        let inner = self.inner.clone();
        self.write(format!("forgot {}", ids.len()), move || inner.forget(ids))
    }

    fn retain(&self, keep: usize, ended_before_ms: u64) -> JournalFuture<u64> {
        self.inner.retain(keep, ended_before_ms)
    }

    fn flush(&self) -> JournalFuture<()> {
        self.log.add("flushed");
        self.inner.flush()
    }
}
