//! A journal that can be told to refuse and to hang, and that knows what must never be written.

use super::*;

/// A journal that refuses, hangs and is slow, and that knows what must never be written.
#[derive(Clone, Default)]
pub(super) struct Disk {
    pub(super) inner: MemoryJournal,
    pub(super) refusing: Arc<AtomicBool>,
    pub(super) hanging: Arc<watch::Sender<bool>>,
    pub(super) under_way: Arc<Mutex<BTreeSet<JobId>>>,
    pub(super) writes: Arc<AtomicUsize>,
}

/// One write for a job at a time; a write that is dropped is none any more.
pub(super) struct UnderWay(Disk, JobId);

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.1);
    }
}

impl Disk {
    pub(super) async fn pass(&self) -> Result<(), JournalError> {
        let nth = self.writes.fetch_add(1, Ordering::SeqCst);
        self.hanging.subscribe().wait_for(|hanging| !hanging).await.unwrap();
        sleep(Duration::from_micros(300 * (nth as u64 % 4))).await;
        if self.refusing.load(Ordering::SeqCst) {
            return Err(JournalError::new("write", "the disk is full"));
        }
        Ok(())
    }
}

impl Journal for Disk {
    fn save(&self, record: Arc<JobRecord>) -> JournalFuture<()> {
        let id = record.id;
        assert!(self.under_way.lock().unwrap().insert(id), "two writes for {id} at once");
        let (disk, under_way) = (self.clone(), UnderWay(self.clone(), id));
        async move {
            let _under_way = under_way;
            disk.pass().await?;
            if let Some(before) = disk.inner.get(id) {
                assert!(before.epoch <= record.epoch && before.attempt <= record.attempt, "{id} goes back");
                assert!(!before.state.is_ended() || before.end() == record.end(), "{id} ends twice");
            }
            disk.inner.save(record).await?;
            // Done, and not told for a moment.
            sleep(Duration::from_micros(200)).await;
            Ok(())
        }
        .boxed()
    }

    fn load_unfinished(&self) -> JournalFuture<Vec<JobRecord>> {
        self.inner.load_unfinished()
    }

    fn load_ended(&self, limit: usize) -> JournalFuture<Vec<JobRecord>> {
        self.inner.load_ended(limit)
    }

    fn forget(&self, ids: Vec<JobId>) -> JournalFuture<()> {
        let disk = self.clone();
        async move {
            disk.pass().await?;
            disk.inner.forget(ids).await
        }
        .boxed()
    }

    fn retain(&self, keep: usize, ended_before_ms: u64) -> JournalFuture<u64> {
        self.inner.retain(keep, ended_before_ms)
    }

    fn flush(&self) -> JournalFuture<()> {
        self.inner.flush()
    }
}
