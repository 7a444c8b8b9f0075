//! Threads for file operations that block, one pool per storage repository, so that storage which hangs
//! stops nobody but its own users.
//!
//! An operation that hangs in the kernel cannot be interrupted. It can be abandoned: its caller gets an
//! error, its thread is set aside and, up to a limit, replaced. Whatever the operation owns (a buffer and
//! its share of the memory budget) stays with it until it returns, for that memory is in use. When all threads
//! hang and the limit is reached, what waits and what comes is told so at once, until one of them returns.

use std::any::Any;
use std::collections::{HashMap, VecDeque};
use std::num::NonZeroUsize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use futures_util::future::Either;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::worker::panic_message;

/// Why an operation has no result.
#[derive(Debug, thiserror::Error)]
pub enum IoPoolError {
    /// The operation panicked; nothing else was harmed.
    #[error("operation panicked: {message}")]
    Panicked {
        /// What the panic said.
        message: String,
    },
    /// The operation did not return in time and was abandoned. It may still take effect.
    #[error("storage does not answer")]
    Stuck,
    /// The pool was shut down before the operation began.
    #[error("storage threads are shut down")]
    Closed,
    /// The system gives no thread.
    #[error("cannot start a thread")]
    Spawn {
        /// The system's answer.
        source: std::io::Error,
    },
}

impl IoPoolError {
    pub(super) fn panicked(payload: &(dyn Any + Send)) -> Self {
        Self::Panicked { message: panic_message(payload) }
    }
}

/// A fixed number of threads with a bounded queue. Dropping the pool lets what was accepted finish.
#[derive(Debug)]
pub struct IoPool {
    shared: Arc<Shared>,
    /// One permit per place in the queue; an operation holds its permit until a thread takes it up.
    places: Arc<Semaphore>,
}

#[derive(Debug)]
struct Shared {
    name: String,
    threads: usize,
    max_replacements: usize,
    state: Mutex<State>,
    work_or_close: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Queued>,
    running: HashMap<u64, Running>,
    next_operation: u64,
    closed: bool,
    /// Operations that were abandoned, whose thread was replaced, and that have not returned yet.
    replaced: usize,
    /// Operations that were abandoned, whose thread was not replaced, and that have not returned yet.
    lost: usize,
}

/// An operation that has its place in the queue.
struct Accepted<R> {
    result: oneshot::Receiver<Result<R, IoPoolError>>,
    abandoned: oneshot::Receiver<()>,
}

impl<R> Accepted<R> {
    async fn outcome(self) -> Result<R, IoPoolError> {
        let Self { mut result, mut abandoned } = self;
        tokio::select! {
            biased;
            outcome = &mut result => match outcome {
                Ok(outcome) => outcome,
                // It was dropped before it ran.
                Err(_) if abandoned.try_recv().is_ok() => Err(IoPoolError::Stuck),
                Err(_) => Err(IoPoolError::Closed),
            },
            // Fails, and leaves the other branch to wait for, when the operation has returned.
            Ok(()) = &mut abandoned => Err(IoPoolError::Stuck),
        }
    }
}

/// Runs the caller's operation, then tells the given function that the thread is free, then the caller
/// its result: who has the result finds the pool's counts already without it.
type Operation = Box<dyn FnOnce(&mut dyn FnMut()) + Send>;

struct Queued {
    operation: Operation,
    abandon: oneshot::Sender<()>,
    _place: OwnedSemaphorePermit,
}

impl Queued {
    /// Tells the caller that the storage hangs. The operation does not run.
    fn refuse(self) {
        // The caller may have gone. Told before the operation is dropped, which closes its other channel.
        let _ = self.abandon.send(());
        drop(self.operation);
    }
}

struct Running {
    since: Instant,
    /// Taken when the operation is abandoned.
    abandon: Option<oneshot::Sender<()>>,
    replaced: bool,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (queued, running) = (self.queue.len(), self.running.len());
        f.debug_struct("State").field("queued", &queued).field("running", &running).finish_non_exhaustive()
    }
}

impl Shared {
    /// No code panics while it holds the lock, and if one did, the counts would still be sound.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl IoPool {
    /// Starts `threads` threads called `name`, with room for `queue` operations that wait for one. At most
    /// `replacements` further threads stand in for stuck ones at any time.
    ///
    /// # Errors
    ///
    /// [`IoPoolError::Spawn`] when the system gives no threads.
    pub fn new(
        name: &str,
        threads: NonZeroUsize,
        queue: NonZeroUsize,
        replacements: usize,
    ) -> Result<Self, IoPoolError> {
        let shared = Arc::new(Shared {
            name: name.to_owned(),
            threads: threads.get(),
            max_replacements: replacements,
            state: Mutex::default(),
            work_or_close: Condvar::new(),
        });
        let places = Arc::new(Semaphore::new(queue.get().min(Semaphore::MAX_PERMITS)));
        // Made first, so that the threads end with it when one of them cannot be started.
        let pool = Self { shared, places };
        for _ in 0..threads.get() {
            spawn_thread(&pool.shared)?;
        }
        Ok(pool)
    }

    /// Runs `operation` on one of the threads, waiting first for a place in the queue and then for its
    /// result. When this future is dropped before the operation got a place, it does not run; later, it
    /// runs to its end and its result is thrown away.
    ///
    /// # Errors
    ///
    /// [`IoPoolError::Panicked`] when the operation panics, [`IoPoolError::Stuck`] when it was abandoned,
    /// [`IoPoolError::Closed`] when the pool was shut down before.
    pub async fn run<R: Send + 'static>(
        &self,
        operation: impl FnOnce() -> R + Send + 'static,
    ) -> Result<R, IoPoolError> {
        let place = Arc::clone(&self.places).acquire_owned().await.map_err(|_| IoPoolError::Closed)?;
        self.enqueue(operation, place).outcome().await
    }

    /// As [`Self::run`], but the operation is in the queue when this returns, if there is a place: it goes on
    /// whether or not anybody looks at the future.
    pub fn start<R: Send + 'static>(
        self: &Arc<Self>,
        operation: impl FnOnce() -> R + Send + 'static,
    ) -> impl Future<Output = Result<R, IoPoolError>> + Send + 'static {
        match Arc::clone(&self.places).try_acquire_owned() {
            Ok(place) => Either::Left(self.enqueue(operation, place).outcome()),
            Err(_) => {
                let pool = Arc::clone(self);
                Either::Right(async move { pool.run(operation).await })
            }
        }
    }

    fn enqueue<R: Send + 'static>(
        &self,
        operation: impl FnOnce() -> R + Send + 'static,
        place: OwnedSemaphorePermit,
    ) -> Accepted<R> {
        let (done, result) = oneshot::channel();
        let (abandon, abandoned) = oneshot::channel();
        let operation: Operation = Box::new(move |returned| {
            let outcome = catch_unwind(AssertUnwindSafe(operation));
            returned();
            // Nobody may be waiting any more.
            let _ = done.send(outcome.map_err(|payload| IoPoolError::panicked(&*payload)));
        });
        let queued = Queued { operation, abandon, _place: place };
        let mut state = self.shared.lock();
        if state.lost >= self.shared.threads {
            // There is no thread that could take it up. Dropped without the lock: it may own anything.
            drop(state);
            queued.refuse();
        } else {
            state.queue.push_back(queued);
            drop(state);
            self.shared.work_or_close.notify_one();
        }
        Accepted { result, abandoned }
    }

    /// Number of operations that run now, stuck and abandoned ones included.
    pub fn in_flight(&self) -> usize {
        self.shared.lock().running.len()
    }

    /// Number of operations that wait for a thread.
    pub fn queued(&self) -> usize {
        self.shared.lock().queue.len()
    }

    /// Number of operations, abandoned ones included, that have been running for `longer_than` or longer.
    pub fn stuck(&self, longer_than: Duration) -> usize {
        let state = self.shared.lock();
        state.running.values().filter(|running| running.since.elapsed() >= longer_than).count()
    }

    /// Gives up on operations that have been running for `longer_than` or longer: their callers get
    /// [`IoPoolError::Stuck`], and their threads are replaced as far as the limit allows; a thread whose
    /// operation returns after all ends, and makes room for another replacement. Returns how many
    /// operations were given up by this call.
    /// When no thread is left, those that wait are given up as well.
    pub fn abandon_stuck(&self, longer_than: Duration) -> usize {
        let mut guard = self.shared.lock();
        let state = &mut *guard;
        let mut given_up = 0;
        for running in state.running.values_mut() {
            if running.since.elapsed() < longer_than {
                continue;
            }
            if let Some(abandon) = running.abandon.take() {
                // The caller may have gone.
                let _ = abandon.send(());
                given_up += 1;
                state.lost += 1;
            }
            // Also those that an earlier call found when the limit was reached.
            let room = state.replaced < self.shared.max_replacements;
            if !running.replaced && room && spawn_thread(&self.shared).is_ok() {
                running.replaced = true;
                state.replaced += 1;
                state.lost -= 1;
            }
        }
        if state.lost >= self.shared.threads {
            let waiting = std::mem::take(&mut state.queue);
            given_up += waiting.len();
            drop(guard);
            waiting.into_iter().for_each(Queued::refuse);
        }
        given_up
    }
}

impl Drop for IoPool {
    fn drop(&mut self) {
        self.shared.lock().closed = true;
        self.shared.work_or_close.notify_all();
    }
}

fn spawn_thread(shared: &Arc<Shared>) -> Result<(), IoPoolError> {
    let shared_by_thread = Arc::clone(shared);
    std::thread::Builder::new()
        .name(shared.name.clone())
        .spawn(move || work_until_closed(&shared_by_thread))
        .map(drop)
        .map_err(|source| IoPoolError::Spawn { source })
}

fn work_until_closed(shared: &Shared) {
    while let Some((number, operation)) = next_operation(shared) {
        let mut replaced = false;
        operation(&mut || replaced = returned(shared, number));
        if replaced {
            return;
        }
    }
}

/// Notes that an operation has returned. Tells whether another thread does this one's work by now.
fn returned(shared: &Shared, number: u64) -> bool {
    let mut state = shared.lock();
    let Some(running) = state.running.remove(&number) else { return false };
    if running.replaced {
        state.replaced -= 1;
    } else if running.abandon.is_none() {
        state.lost -= 1;
    }
    running.replaced
}

/// Waits for an operation and notes it as running. `None`: the pool is closed and all work done.
fn next_operation(shared: &Shared) -> Option<(u64, Operation)> {
    let mut state = shared.lock();
    let queued = loop {
        if let Some(queued) = state.queue.pop_front() {
            break queued;
        }
        if state.closed {
            return None;
        }
        state = shared.work_or_close.wait(state).unwrap_or_else(PoisonError::into_inner);
    };
    let number = state.next_operation;
    state.next_operation += 1;
    let running = Running { since: Instant::now(), abandon: Some(queued.abandon), replaced: false };
    state.running.insert(number, running);
    Some((number, queued.operation))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc;
    use tokio::sync::Notify;

    fn pool(threads: usize, queue: usize, replacements: usize) -> IoPool {
        let count = |n| NonZeroUsize::new(n).unwrap();
        IoPool::new("pool-test", count(threads), count(queue), replacements).unwrap()
    }

    /// An operation that tells when it began and then hangs until it is let go.
    fn hanging() -> (impl FnOnce() + Send + 'static, Arc<Notify>, mpsc::Sender<()>) {
        let (release, wait) = mpsc::channel::<()>();
        let began = Arc::new(Notify::new());
        let tell = Arc::clone(&began);
        let operation = move || {
            tell.notify_one();
            let _ = wait.recv();
        };
        (operation, began, release)
    }

    #[tokio::test]
    async fn results_come_back_and_threads_carry_the_name() {
        let pool = pool(2, 4, 0);
        let name = pool.run(|| std::thread::current().name().map(str::to_owned)).await.unwrap();
        assert_eq!(name.as_deref(), Some("pool-test"));
        assert_eq!(pool.in_flight(), 0);
    }

    #[tokio::test]
    async fn a_panic_is_its_callers_error_and_the_thread_lives_on() {
        let pool = pool(1, 1, 0);
        let found = pool.run(|| -> u8 { panic!("bad block") }).await;
        assert!(
            matches!(&found, Err(IoPoolError::Panicked { message }) if message == "bad block"),
            "{found:?}"
        );
        assert_eq!(pool.run(|| 5).await.unwrap(), 5);
    }

    #[tokio::test]
    async fn the_queue_is_bounded_and_a_dropped_caller_lets_its_operation_finish() {
        let pool = Arc::new(pool(1, 1, 0));
        let (operation, began, release) = hanging();
        let first = tokio::spawn({
            let pool = Arc::clone(&pool);
            async move { pool.run(operation).await }
        });
        began.notified().await;
        // The thread is busy and one place is free: the second waits in the queue, the third for a place.
        let (ran, has_run) = mpsc::channel();
        let ran_too = ran.clone();
        let mut second = Box::pin(pool.run(move || ran.send("second")));
        let mut third = Box::pin(pool.run(move || ran_too.send("third")));
        assert!(futures_util::poll!(&mut second).is_pending());
        assert!(futures_util::poll!(&mut third).is_pending());
        assert_eq!((pool.in_flight(), pool.queued()), (1, 1));
        drop((second, third));
        release.send(()).unwrap();
        first.await.unwrap().unwrap();
        assert_eq!(pool.run(|| 1).await.unwrap(), 1);
        assert_eq!(has_run.try_iter().collect::<Vec<_>>(), ["second"]);
    }

    #[tokio::test]
    async fn a_stuck_operation_is_abandoned_and_its_thread_replaced_up_to_the_limit() {
        let pool = Arc::new(pool(1, 4, 1));
        let hang = || {
            let (operation, began, release) = hanging();
            let pool = Arc::clone(&pool);
            let caller = tokio::spawn(async move { pool.run(operation).await });
            (caller, began, release)
        };
        let (first, began, first_release) = hang();
        began.notified().await;
        assert_eq!(pool.stuck(Duration::ZERO), 1);
        assert_eq!(pool.stuck(Duration::from_secs(3600)), 0);
        assert_eq!(pool.abandon_stuck(Duration::from_secs(3600)), 0);
        assert_eq!(pool.abandon_stuck(Duration::ZERO), 1);
        assert!(matches!(first.await.unwrap(), Err(IoPoolError::Stuck)));
        assert_eq!(pool.run(|| 2).await.unwrap(), 2);

        // The replacement hangs as well: its caller is freed, but no third thread is started…
        let (second, began, second_release) = hang();
        began.notified().await;
        assert_eq!(pool.abandon_stuck(Duration::ZERO), 1);
        assert!(matches!(second.await.unwrap(), Err(IoPoolError::Stuck)));
        assert_eq!(pool.abandon_stuck(Duration::ZERO), 0);
        assert_eq!(pool.in_flight(), 2);
        let refused = pool.run(|| 3).await;
        assert!(matches!(refused, Err(IoPoolError::Stuck)), "nobody could take it up: {refused:?}");
        // …until one of the two returns: the second was not replaced, so its thread goes on.
        second_release.send(()).unwrap();
        while pool.in_flight() > 1 {
            tokio::task::yield_now().await;
        }
        assert_eq!(pool.run(|| 3).await.unwrap(), 3);
        drop(first_release);
    }

    #[tokio::test]
    async fn what_waits_for_threads_that_all_hang_is_told_so_when_they_are_abandoned() {
        let pool = Arc::new(pool(1, 4, 0));
        let (operation, began, release) = hanging();
        let first = pool.start(operation);
        began.notified().await;
        let second = pool.start(|| 2);
        assert_eq!(pool.abandon_stuck(Duration::ZERO), 2);
        assert!(matches!(first.await, Err(IoPoolError::Stuck)));
        assert!(matches!(second.await, Err(IoPoolError::Stuck)));
        assert_eq!(pool.queued(), 0);
        drop(release);
    }

    #[tokio::test]
    async fn dropping_the_pool_finishes_what_was_accepted() {
        let pool = Arc::new(pool(1, 4, 0));
        let (operation, began, release) = hanging();
        let (ran, has_run) = oneshot::channel();
        let mut first = Box::pin({
            let pool = Arc::clone(&pool);
            async move { pool.run(operation).await }
        });
        assert!(futures_util::poll!(&mut first).is_pending());
        began.notified().await;
        let mut second = Box::pin({
            let pool = Arc::clone(&pool);
            async move { pool.run(move || ran.send(())).await }
        });
        assert!(futures_util::poll!(&mut second).is_pending());
        drop((first, second, pool));
        release.send(()).unwrap();
        has_run.await.unwrap();
    }
}
