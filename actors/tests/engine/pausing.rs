//! Jobs that rest by somebody's wish.

use std::future::pending;
use std::time::Duration;

use gantry_actors::{
    AdmissionLimits, Claim, ClaimMode, EngineError, EngineHandle, JobContext, JobEnd, JobState,
    MemoryJournal, NewJob, Stopped,
};
use serde_json::json;

use crate::support::{Scripted, engine, engine_with, job};

/// Writes ten bytes a second, as far as it may.
async fn trickle(ctx: JobContext) -> JobEnd {
    let pace = ctx.pace();
    loop {
        if pace.take(10).await == Err(Stopped) {
            return JobEnd::Aborted;
        }
        ctx.progress().add_written(10);
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

fn written(engine: &EngineHandle, id: gantry_actors::JobId) -> u64 {
    engine.task(id).unwrap().progress.bytes_written
}

#[actix::test]
async fn a_paused_job_moves_no_byte_and_is_not_stalled_and_goes_on_where_it_was() {
    let journal = Scripted::open();
    let engine = engine(journal.clone());
    let id = engine.submit(job("a"), trickle).await.unwrap().id();
    tokio::time::sleep(Duration::from_millis(4500)).await;
    engine.pause(id).await.unwrap();
    assert_eq!(journal.state(id), Some("paused"), "answered when it is durable");
    let before = written(&engine, id);
    tokio::time::sleep(Duration::from_secs(300)).await;
    assert_eq!((before, written(&engine, id)), (50, 50));
    let task = engine.task(id).unwrap().to_json();
    assert_eq!((&task["status"], &task["properties"]["state"]), (&json!("pending"), &json!("paused")));
    assert_eq!(task["properties"].get("stalled"), None);
    engine.pause(id).await.unwrap();
    engine.resume(id).await.unwrap();
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert_eq!(written(&engine, id), 70);
    engine.resume(id).await.unwrap();
}

#[actix::test]
async fn a_thread_of_a_paused_job_is_held_and_let_go_by_an_abort() {
    let engine = engine(MemoryJournal::new());
    let run = |ctx: JobContext| async move {
        let pace = ctx.pace();
        pace.opened().await.ok();
        let worker = pace.clone();
        ctx.stop().cancelled().await;
        assert_eq!(ctx.blocking(move || worker.take_blocking(1)).await.unwrap(), Err(Stopped));
        JobEnd::Aborted
    };
    let mut ticket = engine.submit(job("a"), run).await.unwrap();
    engine.pause(ticket.id()).await.unwrap();
    engine.abort(ticket.id()).await.unwrap();
    assert_eq!(ticket.end().await, JobEnd::Aborted);
    assert!(matches!(engine.pause(ticket.id()).await, Err(EngineError::NotRunning { .. })));
}

#[actix::test]
async fn a_paused_job_gives_its_place_away_and_waits_for_one_when_it_is_resumed() {
    let engine = engine_with(MemoryJournal::new(), |config| {
        config.limits = AdmissionLimits { concurrent: 1, ..AdmissionLimits::default() };
    });
    let first = engine.submit(job("a"), trickle).await.unwrap();
    let mut second = engine.submit(job("b"), trickle).await.unwrap();
    engine.pause(first.id()).await.unwrap();
    assert!(second.begun().await);
    let before = written(&engine, first.id());
    engine.resume(first.id()).await.unwrap();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(engine.task(first.id()).unwrap().state(), JobState::Queued);
    assert_eq!(written(&engine, first.id()), before, "the second has its place");
    engine.abort(second.id()).await.unwrap();
    assert_eq!(second.end().await, JobEnd::Aborted);
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert!(written(&engine, first.id()) > before);
}

#[actix::test]
async fn a_paused_job_keeps_what_it_has_claimed_and_one_that_has_not_begun_claims_nothing() {
    let engine = engine(MemoryJournal::new());
    let new = || NewJob {
        claims: vec![Claim { resource: "vdi/x".into(), mode: ClaimMode::Exclusive }],
        ..job("a")
    };
    let mut first = engine.submit(new(), trickle).await.unwrap();
    engine.pause(first.id()).await.unwrap();
    let second = engine.submit(new(), trickle).await.unwrap();
    let mut third = engine.submit(new(), trickle).await.unwrap();
    engine.pause(second.id()).await.unwrap();
    assert_eq!(engine.task(third.id()).unwrap().state(), JobState::Queued);
    engine.abort(first.id()).await.unwrap();
    first.end().await;
    assert!(third.begun().await, "the second is paused and was never at work");
}

#[actix::test]
async fn a_pause_that_comes_while_a_write_is_under_way_is_answered_by_the_next_write() {
    let journal = Scripted::gated();
    let engine = engine(journal.clone());
    let submitting = {
        let engine = engine.clone();
        tokio::spawn(async move { engine.submit(job("a"), trickle).await.unwrap().id() })
    };
    tokio::time::sleep(Duration::from_secs(1)).await;
    journal.let_through(1);
    let id = submitting.await.unwrap();
    let order = |paused| {
        let engine = engine.clone();
        tokio::spawn(async move { if paused { engine.pause(id).await } else { engine.resume(id).await } })
    };
    let pausing = order(true);
    tokio::time::sleep(Duration::from_secs(1)).await;
    let resuming = order(false);
    tokio::time::sleep(Duration::from_secs(1)).await;
    journal.let_through(1);
    pausing.await.unwrap().unwrap();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!resuming.is_finished(), "it is not durable yet");
    journal.let_through(1);
    resuming.await.unwrap().unwrap();
    assert_eq!(journal.log.lines(), ["saved running", "saved paused", "saved running"]);
}

#[actix::test]
async fn orders_are_answered_although_the_job_has_always_more_to_be_written() {
    let journal = Scripted::gated();
    let engine = engine(journal.clone());
    journal.let_through(1);
    let busy = |ctx: JobContext| async move {
        for n in 0_u64.. {
            ctx.set_checkpoint(json!(n));
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        JobEnd::Aborted
    };
    let id = engine.submit(job("a"), busy).await.unwrap().id();
    let slow = {
        let journal = journal.clone();
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(Duration::from_secs(1)).await;
                journal.let_through(1);
            }
        })
    };
    let begun = tokio::time::Instant::now();
    engine.pause(id).await.unwrap();
    assert!(begun.elapsed() <= Duration::from_secs(3), "{:?}", begun.elapsed());
    slow.abort();
}

#[actix::test]
async fn a_pause_that_the_journal_refuses_holds_and_says_that_it_would_not_survive() {
    let journal = Scripted::open();
    let engine = engine(journal.clone());
    let id = engine.submit(job("a"), |_| pending::<JobEnd>()).await.unwrap().id();
    journal.fail(true);
    assert!(matches!(engine.pause(id).await, Err(EngineError::Journal(_))));
    assert_eq!(engine.task(id).unwrap().state(), JobState::Paused);
    journal.fail(false);
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(journal.state(id), Some("paused"));
}
