//! How everybody else talks to the engine.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use actix::Addr;
use tokio::runtime::Handle;
use tokio::sync::{broadcast, oneshot, watch};
use tokio::time::timeout;

use crate::admission::AdmissionLimits;
use crate::bandwidth::BandwidthLimits;
use crate::config::EngineConfig;
use crate::error::EngineError;
use crate::id::JobId;
use crate::journal::{Journal, JournalError};
use crate::live::{JobContext, JobTicket};
use crate::outcome::{JobEnd, JobFailure};
use crate::record::NewJob;
use crate::root::{DeathWatch, Root};
use crate::shared::{Backlog, Health, RecoverReport, Shared, TaskChange};
use crate::table::Adjustment;
use crate::transfers::{Close, Forget, Housekeep, Order, StopAll, Submit, Transfers, Wish};
use crate::view::TaskView;
use crate::work::{NoResume, Resume, Work};

/// How long a call waits for a supervisor that is being rebuilt.
const REBUILDING: Duration = Duration::from_secs(5);
/// How long the end of a drain waits for the journal.
const FLUSHING: Duration = Duration::from_secs(5);

/// The engine as its users hold it. Clones are the same engine; any thread may hold one.
#[derive(Debug, Clone)]
pub struct EngineHandle {
    shared: Arc<Shared>,
}

/// What a drain left.
#[derive(Debug)]
pub struct DrainReport {
    /// Jobs that ended by themselves within the deadline.
    pub ended: usize,
    /// Jobs that were told to stop at the deadline.
    pub stopped: usize,
    /// Jobs that are still at work.
    pub left: usize,
    /// Records of which the journal has an older version only.
    pub unsaved: usize,
    /// Whether the journal is flushed.
    pub flushed: Result<(), JournalError>,
}

impl EngineHandle {
    /// Starts the tree in the present actix system, with jobs on `jobs`: for programs that have a system of
    /// their own, and for tests on a paused clock. Programs start an [`Engine`](crate::Engine) instead.
    /// It ends with the system. Panics outside one, as actix does.
    pub fn start_here(config: EngineConfig, journal: Arc<dyn Journal>, jobs: Handle) -> Self {
        Self::start_here_resuming(config, journal, Arc::new(NoResume), jobs)
    }

    /// The same, with somebody who knows how to go on with the jobs of the server before.
    pub fn start_here_resuming(
        config: EngineConfig,
        journal: Arc<dyn Journal>,
        resume: Arc<dyn Resume>,
        jobs: Handle,
    ) -> Self {
        Self::start_watched(config, journal, resume, jobs).0
    }

    pub(crate) fn start_watched(
        config: EngineConfig,
        journal: Arc<dyn Journal>,
        resume: Arc<dyn Resume>,
        jobs: Handle,
    ) -> (Self, oneshot::Receiver<()>) {
        let shared = Shared::new(config, journal, resume, jobs);
        let (death, died) = DeathWatch::new();
        Root::start_supervised(&shared, death);
        (Self { shared }, died)
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    /// Waits until the engine has read its journal back: unfinished jobs of a former run are interrupted
    /// then, and journalled as that. Submissions made before wait for it by themselves.
    ///
    /// # Errors
    /// [`EngineError::Stopped`] when the journal could not be read back, time after time.
    pub async fn recovered(&self) -> Result<RecoverReport, EngineError> {
        let mut health = self.shared.health.subscribe();
        let over = |health: &Health| matches!(health, Health::Failed | Health::Stopped);
        loop {
            if let Some(report) = self.shared.recovered.get() {
                return Ok(*report);
            }
            if over(&health.borrow_and_update()) || health.changed().await.is_err() {
                return Err(EngineError::Stopped);
            }
        }
    }

    /// Makes a job whose work can be done once. See [`submit_work`](Self::submit_work).
    ///
    /// What `run` returns is a [`JobEnd`](crate::JobEnd) or converts into one. It runs on the engine's own threads
    /// and must not block them; [`JobContext::blocking`] is for what does.
    ///
    /// # Errors
    /// As [`submit_work`](Self::submit_work).
    pub async fn submit<Run, Fut>(&self, new: NewJob, run: Run) -> Result<JobTicket, EngineError>
    where
        Run: FnOnce(JobContext) -> Fut + Send + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: Into<JobEnd>,
    {
        self.submit_work(new, Work::once(run)).await
    }

    /// Makes a job: durable first (see [`Durability`](crate::Durability)), then answered; it begins when it has a
    /// place ([`JobTicket::begun`]). The job does not depend on whoever asked for it: dropping this future once it
    /// was polled may leave a job.
    ///
    /// When the idempotency key names a job of the same owner that is not older than a day and did not end badly,
    /// the answer is that job's ticket, and the work is dropped.
    ///
    /// # Errors
    /// [`EngineError::Draining`], [`Busy`](EngineError::Busy), [`Unavailable`](EngineError::Unavailable),
    /// [`Stopped`](EngineError::Stopped), [`Journal`](EngineError::Journal),
    /// [`KeyReused`](EngineError::KeyReused). The work is not begun then.
    pub async fn submit_work(&self, new: NewJob, work: Work) -> Result<JobTicket, EngineError> {
        if self.shared.is_draining() {
            return Err(EngineError::Draining);
        }
        let Ok(_permit) = self.shared.submitting.acquire().await else { return Err(EngineError::Stopped) };
        let transfers = self.transfers().await?;
        let (reply, answer) = oneshot::channel();
        transfers.do_send(Submit { new, work, reply });
        answer.await.unwrap_or_else(|_| Err(self.gone()))
    }

    /// A job with its parts, as it is now.
    pub fn task(&self, id: JobId) -> Option<TaskView> {
        TaskView::one(&self.shared.board, id)
    }

    /// All jobs that are no other job's part, oldest first, each with its parts.
    pub fn tasks(&self) -> Vec<TaskView> {
        let board = &self.shared.board;
        TaskView::tree(&board.entries(), &board.waits())
    }

    /// Changes from now on. Bounded: a subscriber that lags behind is told how many it missed, and should
    /// look at [`tasks`](Self::tasks) again. Progress counts as a change once per sample.
    pub fn subscribe(&self) -> broadcast::Receiver<TaskChange> {
        self.shared.changes.subscribe()
    }

    /// Waits until `until` holds for the job, and answers it as it is then. `None` once there is no such
    /// job. Cancel safe.
    pub async fn wait_until(&self, id: JobId, until: impl Fn(&TaskView) -> bool) -> Option<TaskView> {
        let mut changes = self.subscribe();
        loop {
            let view = self.task(id)?;
            if until(&view) {
                return Some(view);
            }
            loop {
                match changes.recv().await {
                    Ok(TaskChange::Updated(changed) | TaskChange::Removed(changed)) if changed != id => {}
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => break,
                    Err(broadcast::error::RecvError::Closed) => return Some(view),
                }
            }
        }
    }

    /// Waits until the job has ended. `None` once there is no such job. Cancel safe.
    pub async fn wait_end(&self, id: JobId) -> Option<TaskView> {
        self.wait_until(id, |view| view.state().is_ended()).await
    }

    /// Waits for the job's next change, its end included; an ended job is answered at once. `None` once
    /// there is no such job. Cancel safe.
    pub async fn wait_change(&self, id: JobId) -> Option<TaskView> {
        let before = self.task(id)?.to_json();
        self.wait_until(id, |view| view.state().is_ended() || view.to_json() != before).await
    }

    /// Tells a job to stop. Answered when that is in the journal; the job ends within twice the configured grace,
    /// one that has not begun at once.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`NotRunning`](EngineError::NotRunning),
    /// [`Unavailable`](EngineError::Unavailable), [`Stopped`](EngineError::Stopped);
    /// [`Journal`](EngineError::Journal) when it takes effect, but would not survive a crash.
    pub async fn abort(&self, id: JobId) -> Result<(), EngineError> {
        self.order(id, Wish::Abort).await
    }

    /// Lets a job rest: one that waits does not begin, one at work moves no more bytes and gives its place in the
    /// limits away, but keeps what it has claimed. Outlives a restart of the server, for jobs that do.
    ///
    /// # Errors
    /// As [`abort`](Self::abort).
    pub async fn pause(&self, id: JobId) -> Result<(), EngineError> {
        self.order(id, Wish::Pause(true)).await
    }

    /// Lets a job that rests go on, as soon as it has a place.
    ///
    /// # Errors
    /// As [`abort`](Self::abort).
    pub async fn resume(&self, id: JobId) -> Result<(), EngineError> {
        self.order(id, Wish::Pause(false)).await
    }

    /// Changes a job's priority or bandwidth.
    ///
    /// # Errors
    /// As [`abort`](Self::abort).
    pub async fn adjust(&self, id: JobId, to: Adjustment) -> Result<(), EngineError> {
        self.order(id, Wish::Adjust(to)).await
    }

    /// Takes a job that has not begun out of the queue: it ends with this failure.
    ///
    /// # Errors
    /// As [`abort`](Self::abort), and [`AtWork`](EngineError::AtWork) for one whose turn has come.
    pub async fn withdraw(&self, id: JobId, failure: JobFailure) -> Result<(), EngineError> {
        self.order(id, Wish::Withdraw(failure)).await
    }

    async fn order(&self, id: JobId, wish: Wish) -> Result<(), EngineError> {
        let (reply, answer) = oneshot::channel();
        self.transfers().await?.do_send(Order { id, wish, reply });
        answer.await.unwrap_or_else(|_| Err(self.gone()))
    }

    /// Other limits from now on. Jobs that are at work stay so; of those that wait, more may begin.
    pub fn set_limits(&self, limits: AdmissionLimits) {
        self.shared.limits.send_replace(limits);
        if let Some(transfers) = self.shared.transfers.borrow().as_ref() {
            transfers.do_send(Housekeep);
        }
    }

    /// Other rates from now on, for jobs at work too.
    pub fn set_bandwidth(&self, limits: BandwidthLimits) {
        self.shared.bandwidth.set(limits);
    }

    /// Removes the record of an ended job, from the journal too.
    ///
    /// # Errors
    /// [`EngineError::NotFound`], [`StillRunning`](EngineError::StillRunning),
    /// [`Journal`](EngineError::Journal), [`Unavailable`](EngineError::Unavailable),
    /// [`Stopped`](EngineError::Stopped).
    pub async fn forget(&self, id: JobId) -> Result<(), EngineError> {
        self.send_forget(Some(id)).await.map(|_| ())
    }

    /// Removes the records of all ended jobs. Answers how many.
    ///
    /// # Errors
    /// [`EngineError::Journal`], [`Unavailable`](EngineError::Unavailable),
    /// [`Stopped`](EngineError::Stopped).
    pub async fn forget_ended(&self) -> Result<usize, EngineError> {
        self.send_forget(None).await
    }

    async fn send_forget(&self, id: Option<JobId>) -> Result<usize, EngineError> {
        let (reply, answer) = oneshot::channel();
        self.transfers().await?.do_send(Forget { id, reply });
        answer.await.unwrap_or_else(|_| Err(self.gone()))
    }

    /// How the engine is.
    pub fn health(&self) -> Health {
        *self.shared.health.borrow()
    }

    /// How the engine is, from now on. After [`Health::Failed`] the process should end.
    pub fn watch_health(&self) -> watch::Receiver<Health> {
        self.shared.health.subscribe()
    }

    /// Number of jobs that have not ended.
    pub fn unfinished(&self) -> usize {
        self.shared.backlog.borrow().unfinished
    }

    /// Takes no more jobs and begins none, lets those at work end until the deadline, tells the rest to stop (they
    /// end as interrupted, with the reason `server_stopped`, or are left to the next server where that knows how to
    /// go on), and flushes the journal. Takes at most the deadline,
    /// twice the grace and ten seconds.
    pub async fn drain(&self, deadline: Duration) -> DrainReport {
        self.shared.begin_draining();
        // Behind it, every submission that was under way is counted.
        if let Ok(transfers) = self.transfers().await {
            let _ = transfers.send(Close).await;
        }
        let mut backlog = self.shared.backlog.subscribe();
        let before = backlog.borrow().unfinished;
        let done = |backlog: &Backlog| backlog.unfinished == 0;
        let mut stopped = 0;
        if timeout(deadline, backlog.wait_for(done)).await.is_err() {
            // A supervisor that dies with the message in its mailbox is rebuilt, and finds it here.
            self.shared.begin_stopping();
            if let Ok(transfers) = self.transfers().await {
                stopped = transfers.send(StopAll).await.unwrap_or_default();
            }
            let patience = self.shared.config.grace.saturating_mul(2).saturating_add(Duration::from_secs(1));
            let _ = timeout(patience, backlog.wait_for(done)).await;
        }
        if backlog.borrow().unsaved > 0 {
            self.housekeep().await;
            let _ = timeout(Duration::from_secs(1), backlog.wait_for(|backlog| backlog.unsaved == 0)).await;
        }
        let flushing = self.shared.journal_call("flush", |journal| journal.flush());
        let late = || Err(JournalError::new("flush", std::io::Error::from(std::io::ErrorKind::TimedOut)));
        let flushed = timeout(FLUSHING, flushing).await.unwrap_or_else(|_| late());
        let Backlog { unfinished, unsaved } = *backlog.borrow();
        DrainReport { ended: before.saturating_sub(stopped), stopped, left: unfinished, unsaved, flushed }
    }

    async fn housekeep(&self) {
        if let Ok(transfers) = self.transfers().await {
            // One that dies meanwhile does the same when it is rebuilt.
            let _ = transfers.send(Housekeep).await;
        }
    }

    async fn transfers(&self) -> Result<Addr<Transfers>, EngineError> {
        if matches!(self.health(), Health::Failed | Health::Stopped) {
            return Err(EngineError::Stopped);
        }
        let mut address = self.shared.transfers.subscribe();
        let found = timeout(REBUILDING, address.wait_for(Option::is_some)).await;
        let address = found.ok().and_then(|found| found.ok().and_then(|address| address.clone()));
        address.ok_or_else(|| self.gone())
    }

    /// Why a message was not answered.
    fn gone(&self) -> EngineError {
        match self.health() {
            Health::Failed | Health::Stopped => EngineError::Stopped,
            Health::Starting | Health::Ready | Health::Restarting => EngineError::Unavailable,
        }
    }

    #[cfg(test)]
    pub(crate) async fn crash_transfers(&self) {
        let transfers = self.transfers().await.unwrap();
        assert!(transfers.send(crate::transfers::Crash).await.is_err());
    }
}
