//! A thread of its own for one long piece of blocking work, such as writing an import.
//!
//! A thread that hangs in the kernel cannot be stopped. It can be given up: who waits for it is told so, and the
//! thread keeps what it owns until its storage answers, and lets go of it then. So that hanging can be told from
//! working and from waiting for food, the work keeps a [`Beat`].

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use super::io_pool::IoPoolError;

/// Runs `work` on a new thread called `name`. Feed it by a bounded channel; it ends when `work` returns.
///
/// # Errors
///
/// [`IoPoolError::Spawn`] when the system gives no thread.
pub fn spawn_worker<R: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> R + Send + 'static,
) -> Result<Worker<R>, IoPoolError> {
    let (done, result) = oneshot::channel();
    let run = move || {
        let outcome = catch_unwind(AssertUnwindSafe(work));
        // Nobody may be waiting any more; that is no reason to stop.
        let _ = done.send(outcome.map_err(|payload| IoPoolError::panicked(&*payload)));
    };
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .map_err(|source| IoPoolError::Spawn { source })?;
    Ok(Worker { result })
}

/// The result of a thread's work, as a future. A panic of the work is [`IoPoolError::Panicked`]. Dropping
/// it leaves the thread running to its end.
#[derive(Debug)]
pub struct Worker<R> {
    result: oneshot::Receiver<Result<R, IoPoolError>>,
}

impl<R> Future for Worker<R> {
    type Output = Result<R, IoPoolError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.result).poll(cx).map(|outcome| outcome.unwrap_or(Err(IoPoolError::Closed)))
    }
}

/// How often a watched thread is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How long a thread may stay in one operation after its job was told to stop.
const AFTER_STOP: Duration = Duration::from_secs(1);
/// Threads of one storage repository that may be given up at the same time; then no more are started.
const MOST_GIVEN_UP: usize = 64;

/// The threads of one storage repository that were given up and have not come back.
#[derive(Debug, Default)]
pub struct GivenUp {
    threads: AtomicUsize,
}

impl GivenUp {
    /// How many there are.
    pub fn count(&self) -> usize {
        self.threads.load(Ordering::Acquire)
    }
}

/// Since when a thread has been in its present operation. Written by the thread, read by who waits for it.
#[derive(Debug)]
pub struct Beat {
    zero: Instant,
    /// Milliseconds after `zero`, and one more; 0 while the thread waits for something that is not storage.
    since_ms: AtomicU64,
    /// Set by the first of two: who gives the thread up, and the thread when it is through.
    over: AtomicBool,
}

impl Beat {
    fn new() -> Self {
        Self { zero: Instant::now(), since_ms: AtomicU64::new(1), over: AtomicBool::new(false) }
    }

    /// The next operation begins.
    pub fn renew(&self) {
        self.since_ms.store(self.now_ms(), Ordering::Release);
    }

    /// Waits for something else than storage, for as long as it takes.
    pub fn waiting<R>(&self, wait: impl FnOnce() -> R) -> R {
        self.since_ms.store(0, Ordering::Release);
        let got = wait();
        self.renew();
        got
    }

    /// Whether nobody waits for the thread any more: what it does is in vain.
    pub fn is_given_up(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.zero.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
    }

    fn busy_for(&self) -> Duration {
        match self.since_ms.load(Ordering::Acquire) {
            0 => Duration::ZERO,
            since => Duration::from_millis(self.now_ms().saturating_sub(since)),
        }
    }

    /// True for the first who says it.
    fn end(&self) -> bool {
        !self.over.swap(true, Ordering::AcqRel)
    }
}

/// As [`spawn_worker`], for work on a storage repository, whose storage may hang.
///
/// # Errors
///
/// [`IoPoolError::Stuck`] at once when too many threads of that repository hang already, and
/// [`IoPoolError::Spawn`].
pub fn spawn_watched<R: Send + 'static>(
    name: &str,
    given_up: &Arc<GivenUp>,
    work: impl FnOnce(&Beat) -> R + Send + 'static,
) -> Result<Watched<R>, IoPoolError> {
    if given_up.count() >= MOST_GIVEN_UP {
        return Err(IoPoolError::Stuck);
    }
    let (beat, of_thread) = (Arc::new(Beat::new()), Arc::clone(given_up));
    let beats = Arc::clone(&beat);
    let (done, result) = oneshot::channel();
    let run = move || {
        let outcome = catch_unwind(AssertUnwindSafe(|| work(&beats)));
        // Said first: who has the result must not count the thread as given up.
        let awaited = beats.end();
        // Nobody may be waiting any more: then what the work made goes here, before the thread counts as back.
        drop(done.send(outcome.map_err(|payload| IoPoolError::panicked(&*payload))));
        if !awaited {
            of_thread.threads.fetch_sub(1, Ordering::AcqRel);
        }
    };
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(run)
        .map_err(|source| IoPoolError::Spawn { source })?;
    Ok(Watched { result, beat, given_up: Arc::clone(given_up) })
}

/// A thread whose storage may hang. Dropping it gives the thread up.
#[derive(Debug)]
pub struct Watched<R> {
    result: oneshot::Receiver<Result<R, IoPoolError>>,
    beat: Arc<Beat>,
    given_up: Arc<GivenUp>,
}

impl<R> Watched<R> {
    /// Waits for the result, but not for storage that hangs.
    ///
    /// # Errors
    ///
    /// [`IoPoolError::Stuck`] when one operation takes `stuck_after`, or a second after `stop` was cancelled;
    /// [`IoPoolError::Panicked`] when the work panics.
    pub async fn outcome(
        mut self,
        stuck_after: Duration,
        stop: &CancellationToken,
    ) -> Result<R, IoPoolError> {
        let mut told = None;
        loop {
            tokio::select! {
                biased;
                outcome = &mut self.result => return outcome.unwrap_or(Err(IoPoolError::Closed)),
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
            if stop.is_cancelled() {
                told.get_or_insert_with(Instant::now);
            }
            let busy = self.beat.busy_for();
            let stopping = told.is_some_and(|told| told.elapsed() >= AFTER_STOP && busy >= AFTER_STOP);
            if busy >= stuck_after || stopping {
                tracing::error!(?busy, "storage does not answer: a thread is given up until it does");
                return Err(IoPoolError::Stuck);
            }
        }
    }
}

impl<R> Drop for Watched<R> {
    fn drop(&mut self) {
        // Counted first, so that the thread finds itself counted.
        self.given_up.threads.fetch_add(1, Ordering::AcqRel);
        if !self.beat.end() {
            self.given_up.threads.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// What a panic said, as far as it is text.
pub(super) fn panic_message(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no message".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::mpsc;

    #[tokio::test]
    async fn a_worker_is_fed_by_a_bounded_channel_and_gives_its_result() {
        let (feed, mut food) = mpsc::channel::<u64>(2);
        let worker = spawn_worker("eater", move || {
            let mut sum = 0;
            while let Some(bite) = food.blocking_recv() {
                sum += bite;
            }
            (sum, std::thread::current().name().map(str::to_owned))
        });
        let worker = worker.unwrap();
        for bite in 0..100 {
            feed.send(bite).await.unwrap();
        }
        drop(feed);
        assert_eq!(worker.await.unwrap(), (4950, Some("eater".to_owned())));
    }

    /// Storage that hangs until it is let go.
    struct Hangs {
        began: oneshot::Receiver<()>,
        release: std::sync::mpsc::Sender<()>,
        removed: oneshot::Receiver<bool>,
        thread: Watched<Staged>,
        given_up: Arc<GivenUp>,
    }

    /// What the thread owns. Says where it goes that it does.
    #[derive(Debug)]
    struct Staged(Option<oneshot::Sender<bool>>);

    impl Drop for Staged {
        fn drop(&mut self) {
            let in_thread = std::thread::current().name() == Some("hangs");
            let _ = self.0.take().unwrap().send(in_thread);
        }
    }

    fn hangs() -> Hangs {
        let (tell, began) = oneshot::channel();
        let (release, wait) = std::sync::mpsc::channel();
        let (remove, removed) = oneshot::channel();
        let given_up = Arc::new(GivenUp::default());
        let thread = spawn_watched("hangs", &given_up, move |beat| {
            let staged = Staged(Some(remove));
            beat.renew();
            let _ = tell.send(());
            let _ = wait.recv();
            staged
        });
        Hangs { began, release, removed, thread: thread.unwrap(), given_up }
    }

    #[tokio::test]
    async fn a_thread_that_hangs_is_given_up_and_clears_away_when_its_storage_answers() {
        let Hangs { began, release, removed, thread, given_up } = hangs();
        began.await.unwrap();
        let found = thread.outcome(Duration::from_millis(300), &CancellationToken::new()).await;
        assert!(matches!(found, Err(IoPoolError::Stuck)), "{found:?}");
        assert_eq!(given_up.count(), 1);
        release.send(()).unwrap();
        assert!(removed.await.unwrap(), "it is the thread that removes what it made");
        while given_up.count() > 0 {
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_thread_that_hangs_does_not_hold_up_an_abort() {
        let Hangs { began, release, thread, given_up, .. } = hangs();
        began.await.unwrap();
        let stop = CancellationToken::new();
        stop.cancel();
        let told = Instant::now();
        let found = thread.outcome(Duration::from_secs(3600), &stop).await;
        assert!(matches!(found, Err(IoPoolError::Stuck)), "{found:?}");
        assert!(told.elapsed() < Duration::from_secs(2), "{:?}", told.elapsed());
        assert_eq!(given_up.count(), 1);
        drop(release);
    }

    #[tokio::test]
    async fn a_thread_that_waits_for_food_or_works_on_is_not_given_up() {
        let given_up = Arc::new(GivenUp::default());
        let (feed, mut food) = mpsc::channel::<u64>(2);
        let thread = spawn_watched("eater", &given_up, move |beat| {
            let mut sum = 0;
            while let Some(bite) = beat.waiting(|| food.blocking_recv()) {
                sum += bite;
            }
            sum
        });
        let stop = CancellationToken::new();
        let mut outcome = Box::pin(thread.unwrap().outcome(Duration::from_millis(300), &stop));
        // Longer than a hanging one would have: what passes here is the time without food.
        let hungry = tokio::time::timeout(Duration::from_millis(900), &mut outcome).await;
        assert!(hungry.is_err(), "{hungry:?}");
        feed.send(5).await.unwrap();
        drop(feed);
        assert_eq!(outcome.await.unwrap(), 5);
        assert_eq!(given_up.count(), 0);
    }

    #[tokio::test]
    async fn when_too_many_hang_no_more_are_begun() {
        let given_up = Arc::new(GivenUp { threads: AtomicUsize::new(MOST_GIVEN_UP) });
        let found = spawn_watched("more", &given_up, |_| ());
        assert!(matches!(found, Err(IoPoolError::Stuck)), "{found:?}");
    }

    #[tokio::test]
    async fn a_panic_is_an_error_with_its_message() {
        let worker = spawn_worker("faller", || -> u8 { panic!("disk {} fell", 7) }).unwrap();
        let found = worker.await;
        assert!(
            matches!(&found, Err(IoPoolError::Panicked { message }) if message == "disk 7 fell"),
            "{found:?}"
        );
    }
}
