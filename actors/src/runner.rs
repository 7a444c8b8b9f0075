//! Runs one job's future to its end, whatever that is.

use std::sync::Arc;
use std::time::Duration;

use tokio::task::{JoinError, JoinHandle};
use tokio::time::timeout;
use tracing::Instrument;

use crate::live::{JobContext, Live, StopCause};
use crate::outcome::{JobEnd, JobFailure};
use crate::record::JobRecord;
use crate::shared::Shared;
use crate::work::Launch;

/// Starts an attempt on the jobs' runtime. Its end is put into the job's cell and announced.
pub(crate) fn launch(shared: &Arc<Shared>, live: Arc<Live>, record: &JobRecord, run: Launch) {
    let span = tracing::info_span!("job", id = %live.id, kind = record.kind);
    let context = JobContext::new(Arc::clone(&live), record, Arc::clone(shared));
    // Called inside the task: what `run` does before its first await may panic too.
    let work = async move { run(context).await };
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
    let overdue = tokio::select! {
        biased;
        joined = &mut task => return end_of(joined, live.stop_cause()),
        () = live.stop.cancelled() => false,
        () = time_at_work(live) => true,
    };
    if overdue {
        // The job's own way to stop, as for an abort; what it says then is not what counts.
        live.stop.cancel();
    }
    let joined = wind_down(&mut task, grace).await;
    if joined.is_none() {
        tracing::warn!("the job does not stop and is given up");
    }
    match joined {
        // It was through in the end, or fell: that is told rather.
        Some(Ok(end @ JobEnd::Success(_))) => end,
        Some(Err(error)) if error.is_panic() => JobEnd::Failure(error.into()),
        _ if overdue => JobEnd::Failure(timed_out(live.timeout.unwrap_or_default())),
        Some(joined) => end_of(joined, live.stop_cause()),
        None => live.stop_cause().map_or(JobEnd::Aborted, stopped),
    }
}

fn timed_out(limit: Duration) -> JobFailure {
    JobFailure::new(
        "Timeout",
        "timed_out",
        format!("the job was not done after {} s at work", limit.as_secs_f64()),
    )
}

/// Resolves when the job has been at work for as long as it may; what it was held up for does not count.
async fn time_at_work(live: &Live) {
    let Some(limit) = live.timeout else { return std::future::pending().await };
    let mut gate = live.gate();
    let mut left = limit;
    loop {
        if gate.wait_for(|open| *open).await.is_err() {
            return std::future::pending().await;
        }
        let begun = tokio::time::Instant::now();
        if timeout(left, gate.wait_for(|open| !*open)).await.is_err() {
            return;
        }
        left = left.saturating_sub(begun.elapsed());
    }
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
    use crate::bandwidth::{Bandwidth, BandwidthLimits};
    use crate::lifecycle::JobState;
    use crate::live::Making;
    use crate::retry::RetryPolicy;
    use crate::work::Work;
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

    fn live(timeout: Option<Duration>) -> Arc<Live> {
        let making = Making {
            work: Work::gone(),
            retry: RetryPolicy::NEVER,
            timeout,
            throttle: Bandwidth::new(BandwidthLimits::default()).throttle(&[], None),
            resumable: false,
            presence: JobState::Running,
        };
        Live::new(crate::id::JobIds::after(None).next(1), making)
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_that_takes_too_long_is_stopped_and_what_it_was_held_up_for_does_not_count() {
        let live = live(Some(Duration::from_secs(10)));
        let begun = tokio::time::Instant::now();
        let stop = live.stop.clone();
        let work = async move {
            stop.cancelled().await;
            JobEnd::Failure(JobFailure::new("E", "stopped", "stopped"))
        };
        let holding = async {
            for (open, seconds) in [(true, 4), (false, 100), (true, 0)] {
                live.set_gate(open);
                tokio::time::sleep(Duration::from_secs(seconds)).await;
            }
        };
        let (end, ()) = tokio::join!(watch(&live, work, Duration::from_secs(2)), holding);
        assert_eq!(begun.elapsed().as_secs(), 110);
        let JobEnd::Failure(failure) = end else { panic!("{end:?}") };
        assert_eq!(
            (failure.code.as_str(), failure.message.as_str()),
            ("timed_out", "the job was not done after 10 s at work")
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_job_that_ignores_its_stop_is_cut_off_after_the_grace() {
        let live = live(None);
        live.request_stop(StopCause::Abort);
        let begun = tokio::time::Instant::now();
        let end = watch(&live, std::future::pending(), Duration::from_secs(2)).await;
        assert_eq!((end, begun.elapsed()), (JobEnd::Aborted, Duration::from_secs(2)));
    }
}
