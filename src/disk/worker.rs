//! A thread of its own for one long piece of blocking work, such as writing an import.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::sync::oneshot;

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
