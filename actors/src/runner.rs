//! Runs one job's future to its end, whatever that is.

use std::sync::Arc;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::task::{JoinError, JoinHandle};
use tokio::time::timeout;
use tracing::Instrument;

use crate::live::{JobContext, Live, StopCause};
use crate::outcome::{JobEnd, JobFailure};
use crate::record::JobRecord;
use crate::shared::Shared;

/// A job's work, ready to be started.
pub(crate) type Launch = Box<dyn FnOnce(JobContext) -> BoxFuture<'static, JobEnd> + Send>;

/// Starts the job on the jobs' runtime. `answer` is called by the job's own task, so that whoever asked for
/// the job hears of it when it is at work. Its end is put into its cell and announced.
pub(crate) fn launch(
    shared: &Arc<Shared>,
    live: Arc<Live>,
    record: &JobRecord,
    run: Launch,
    answer: impl FnOnce() + Send + 'static,
) {
    let span = tracing::info_span!("job", id = %live.id, kind = record.kind);
    let context = JobContext::new(Arc::clone(&live), record.epoch, Arc::clone(shared));
    // Called inside the task: what `run` does before its first await may panic too.
    let work = async move {
        answer();
        run(context).await
    };
    let shared = Arc::clone(shared);
    let runtime = shared.jobs.clone();
    runtime.spawn(
        async move {
            let end = watch(&live, work, shared.config.grace).await;
            live.set_end(end);
            shared.nudge(&live);
        }
        .instrument(span),
    );
}

/// The job as a task of its own, so that a panic in it ends there.
async fn watch(live: &Live, work: impl Future<Output = JobEnd> + Send + 'static, grace: Duration) -> JobEnd {
    let mut task = tokio::spawn(work.in_current_span());
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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    #[test]
    fn what_a_task_returned_and_why_it_was_stopped_make_its_end() {
        let failure = || JobEnd::Failure(JobFailure::new("E", "bad_image", "no footer"));
        let panic = || JobEnd::Failure(JobFailure::new("Panic", "panic", "index out of bounds"));
        let success = || JobEnd::Success(Value::Null);
        let (abort, drain) = (Some(StopCause::Abort), Some(StopCause::Drain));
        let table = [
            (success(), None, success()),
            (success(), abort, success()),
            (failure(), None, failure()),
            (failure(), abort, JobEnd::Aborted),
            (failure(), drain, JobEnd::Interrupted),
            (panic(), abort, panic()),
            (JobEnd::Aborted, None, JobEnd::Aborted),
            (JobEnd::Aborted, drain, JobEnd::Interrupted),
            (JobEnd::Interrupted, abort, JobEnd::Aborted),
        ];
        for (returned, cause, end) in table {
            assert_eq!(end_of(Ok(returned.clone()), cause), end, "{returned:?}, {cause:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_that_ignores_its_stop_is_cut_off_after_the_grace() {
        let live = Live::new(crate::id::JobIds::after(None).next(1));
        live.request_stop(StopCause::Abort, 1);
        let begun = tokio::time::Instant::now();
        let end = watch(&live, std::future::pending(), Duration::from_secs(2)).await;
        assert_eq!((end, begun.elapsed()), (JobEnd::Aborted, Duration::from_secs(2)));
    }
}
