//! Runs one job's future to its end, whatever that is.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::timeout;
use tracing::Instrument;

use crate::live::{JobContext, Live, StopCause};
use crate::outcome::{JobEnd, JobFailure};
use crate::shared::Shared;

/// A job's work, ready to be started.
pub(crate) type Launch = Box<dyn FnOnce(JobContext) -> BoxFuture<'static, JobEnd> + Send>;

/// Starts the job on the jobs' runtime. Its end is put into its cell and announced.
pub(crate) fn launch(shared: &Arc<Shared>, live: Arc<Live>, epoch: u64, kind: &str, run: Launch) {
    let span = tracing::info_span!("job", id = %live.id, kind);
    let context = JobContext::new(Arc::clone(&live), epoch, Arc::clone(shared));
    let shared = Arc::clone(shared);
    let runtime = shared.jobs.clone();
    runtime.spawn(
        async move {
            let end = watch(&live, context, run, shared.config.grace).await;
            live.set_end(end);
            shared.nudge(&live);
        }
        .instrument(span),
    );
}

/// The job as a task of its own, so that a panic in it ends there.
async fn watch(live: &Live, context: JobContext, run: Launch, grace: Duration) -> JobEnd {
    if let Some(cause) = live.stop_cause() {
        return stopped(cause);
    }
    // Called inside the task: what `run` does before its first await may panic too.
    let mut task = tokio::spawn(async move { run(context).await }.in_current_span());
    let joined = tokio::select! {
        biased;
        joined = &mut task => joined,
        () = live.stop.cancelled() => match wind_down(&mut task, grace).await {
            Some(joined) => joined,
            None => {
                tracing::warn!("the job does not stop and is given up");
                return live.stop_cause().map_or(JobEnd::Aborted, stopped);
            }
        },
    };
    end_of(joined, live.stop_cause())
}

/// Gives the task its grace, then cuts it off at its next await. `None`: it does not come to one, because
/// something in it blocks; it is left to itself.
async fn wind_down(task: &mut JoinHandle<JobEnd>, grace: Duration) -> Option<Result<JobEnd, JoinError>> {
    if let Ok(joined) = timeout(grace, &mut *task).await {
        return Some(joined);
    }
    task.abort();
    timeout(grace, task).await.ok()
}

/// What a finished task means. A job that was told to stop and then fails has stopped, but one that
/// succeeded nevertheless has succeeded, and a panic is a panic.
fn end_of(joined: Result<JobEnd, JoinError>, cause: Option<StopCause>) -> JobEnd {
    match (joined, cause) {
        (Ok(JobEnd::Failure(failure)), Some(cause)) if failure.code != "panic" => stopped(cause),
        (Ok(JobEnd::Aborted | JobEnd::Interrupted), Some(cause)) => stopped(cause),
        (Ok(end), _) => end,
        (Err(error), _) if error.is_panic() => JobEnd::Failure(JobFailure::from(error)),
        (Err(_), cause) => cause.map_or(JobEnd::Interrupted, stopped),
    }
}

fn stopped(cause: StopCause) -> JobEnd {
    match cause {
        StopCause::Abort => JobEnd::Aborted,
        StopCause::Drain => JobEnd::Interrupted,
    }
}
