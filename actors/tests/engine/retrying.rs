//! Jobs that fail in passing, and jobs that take too long.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use gantry_actors::{JobContext, JobEnd, JobFailure, JobState, MemoryJournal, NewJob, RetryPolicy, Work};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::{engine, job};

/// Attempts as they began: when, with which number, epoch and checkpoint.
type Seen = Arc<Mutex<Vec<(Duration, u32, u64, Value)>>>;

fn lost() -> JobFailure {
    JobFailure::new("NetError", "lost", "the connection was lost").transient()
}

fn patient(attempts: u32) -> NewJob {
    let retry = RetryPolicy { attempts, base: Duration::from_secs(2), most: Duration::from_secs(6) };
    NewJob { retry, ..job("a") }
}

/// Fails in passing until its attempt `good`.
fn failing_until(good: u32, seen: &Seen) -> Work {
    let (begun, seen) = (Instant::now(), Arc::clone(seen));
    Work::often(move |ctx: JobContext| {
        let about = (begun.elapsed(), ctx.attempt(), ctx.epoch(), ctx.found_checkpoint().clone());
        seen.lock().unwrap().push(about);
        async move {
            ctx.progress().set_total(100);
            let done = 40 / u64::from(ctx.attempt());
            ctx.progress().add_written(done);
            ctx.set_checkpoint(json!({ "at": done }));
            tokio::time::sleep(Duration::from_secs(1)).await;
            if ctx.attempt() < good { Err(lost()) } else { Ok(json!({})) }
        }
    })
}

#[actix::test]
async fn a_passing_failure_is_tried_again_after_growing_waits_in_new_epochs_from_its_checkpoint() {
    let engine = engine(MemoryJournal::new());
    let seen = Seen::default();
    let mut ticket = engine.submit_work(patient(4), failing_until(4, &seen)).await.unwrap();
    assert_eq!(ticket.end().await, JobEnd::Success(json!({})));
    let seen = seen.lock().unwrap().clone();
    assert_eq!(seen.iter().map(|one| (one.1, one.2)).collect::<Vec<_>>(), [(1, 1), (2, 2), (3, 3), (4, 4)]);
    let found: Vec<_> = seen.iter().map(|one| one.3["at"].clone()).collect();
    assert_eq!(found, [Value::Null, json!(40), json!(20), json!(13)]);
    let waits = seen.windows(2).map(|pair| pair[1].0 - pair[0].0 - Duration::from_secs(1));
    for (wait, most) in waits.zip([2000, 4000, 6000].map(Duration::from_millis)) {
        let bounds = most / 2..=most + Duration::from_millis(10);
        assert!(bounds.contains(&wait), "{wait:?} is not within {bounds:?}");
    }
    let record = engine.task(ticket.id()).unwrap().record;
    assert_eq!((record.attempt, record.epoch, record.started_ms), (4, 4, Some(record.created_ms)));
}

#[actix::test]
async fn between_two_attempts_a_task_shows_why_it_waits_and_how_far_it_has_come() {
    let engine = engine(MemoryJournal::new());
    let mut ticket = engine.submit_work(patient(3), failing_until(9, &Seen::default())).await.unwrap();
    let id = ticket.id();
    assert_eq!(engine.task(id).unwrap().progress.percent, 40);
    let between =
        engine.wait_until(id, |view| view.state() == JobState::Queued).await.unwrap().to_json()["properties"]
            .clone();
    assert_eq!((&between["attempt"], &between["progress"]), (&json!(2), &json!(40)));
    let failure = json!({"name": "NetError", "message": "the connection was lost", "code": "lost"});
    assert_eq!(between["lastFailure"], failure);
    let text = between["waiting"].as_str().unwrap();
    assert!(text.starts_with("it failed and is tried again in "), "{text}");
    engine.wait_until(id, |view| view.state() == JobState::Running).await.unwrap();
    let again = engine.task(id).unwrap();
    assert_eq!((again.progress.bytes_written, again.progress.percent), (20, 40), "it never falls");
    assert_eq!(ticket.end().await, JobEnd::Failure(lost()), "the third attempt was the last");
    let task = engine.task(id).unwrap().to_json();
    assert_eq!((&task["result"], &task["properties"]["progress"]), (&failure, &json!(40)));
    assert_eq!(task["properties"].get("lastFailure"), None, "its result says it");
}

#[actix::test]
async fn what_is_no_passing_failure_is_not_tried_again() {
    let engine = engine(MemoryJournal::new());
    for run in [
        (|| JobEnd::Failure(JobFailure::new("VhdError", "bad_image", "no footer"))) as fn() -> JobEnd,
        || panic!("it fell"),
    ] {
        let work = Work::often(move |_| async move { run() });
        let mut ticket = engine.submit_work(patient(5), work).await.unwrap();
        assert!(matches!(ticket.end().await, JobEnd::Failure(_)));
        assert_eq!(engine.task(ticket.id()).unwrap().record.attempt, 1);
    }
}

#[actix::test]
async fn work_that_can_be_done_once_fails_with_its_own_failure_whatever_the_policy_says() {
    let engine = engine(MemoryJournal::new());
    let mut ticket = engine.submit(patient(5), |_| async { Err::<Value, _>(lost()) }).await.unwrap();
    assert_eq!(ticket.end().await, JobEnd::Failure(lost()));
}

#[actix::test]
async fn an_abort_while_the_next_attempt_waits_ends_the_job_at_once_and_keeps_its_progress() {
    let engine = engine(MemoryJournal::new());
    let seen = Seen::default();
    let mut ticket = engine.submit_work(patient(5), failing_until(9, &seen)).await.unwrap();
    engine.wait_until(ticket.id(), |view| view.state() == JobState::Queued).await.unwrap();
    engine.abort(ticket.id()).await.unwrap();
    assert_eq!(ticket.end().await, JobEnd::Aborted);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(seen.lock().unwrap().len(), 1);
    assert_eq!(engine.task(ticket.id()).unwrap().progress.percent, 40);
}

#[actix::test]
async fn a_job_that_is_paused_between_attempts_begins_the_next_when_it_is_resumed_and_due() {
    let engine = engine(MemoryJournal::new());
    let seen = Seen::default();
    let mut ticket = engine.submit_work(patient(2), failing_until(2, &seen)).await.unwrap();
    engine.wait_until(ticket.id(), |view| view.state() == JobState::Queued).await.unwrap();
    engine.pause(ticket.id()).await.unwrap();
    engine.resume(ticket.id()).await.unwrap();
    tokio::time::sleep(Duration::from_millis(900)).await;
    assert_eq!(seen.lock().unwrap().len(), 1, "a pause does not shorten the wait");
    engine.pause(ticket.id()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(seen.lock().unwrap().len(), 1);
    engine.resume(ticket.id()).await.unwrap();
    assert_eq!(ticket.end().await, JobEnd::Success(json!({})));
}

#[actix::test]
async fn a_job_that_fails_while_its_client_is_away_is_tried_again_all_the_same() {
    let engine = engine(MemoryJournal::new());
    let work = Work::often(|ctx: JobContext| async move {
        if ctx.attempt() > 1 {
            return Ok(json!({}));
        }
        ctx.set_detached();
        tokio::time::sleep(Duration::from_secs(5)).await;
        Err(lost())
    });
    let mut ticket = engine.submit_work(patient(2), work).await.unwrap();
    engine.wait_until(ticket.id(), |view| view.state() == JobState::Detached).await.unwrap();
    assert_eq!(ticket.end().await, JobEnd::Success(json!({})));
}

#[actix::test]
async fn a_job_that_is_too_long_at_work_fails_as_timed_out_and_its_waits_do_not_count() {
    let engine = engine(MemoryJournal::new());
    let new = NewJob { timeout: Some(Duration::from_secs(10)), ..patient(5) };
    let work = Work::often(|ctx: JobContext| async move {
        ctx.stop().cancelled().await;
        JobEnd::Aborted
    });
    let begun = Instant::now();
    let mut ticket = engine.submit_work(new, work).await.unwrap();
    tokio::time::sleep(Duration::from_secs(6)).await;
    engine.pause(ticket.id()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(100)).await;
    engine.resume(ticket.id()).await.unwrap();
    let JobEnd::Failure(failure) = ticket.end().await else { panic!("a timeout is a failure") };
    assert_eq!(failure.code, "timed_out");
    assert_eq!(begun.elapsed().as_secs(), 110);
    assert_eq!(engine.task(ticket.id()).unwrap().record.attempt, 1, "it is not tried again");
}
