//! Limits, claims, turns, and what a job that waits is told of its waiting.

use std::collections::BTreeMap;
use std::future::pending;
use std::time::Duration;

use gantry_actors::{
    Adjustment, AdmissionLimits, Claim, ClaimMode, EngineError, EngineHandle, Group, JobContext, JobEnd,
    JobFailure, JobId, JobState, JobTicket, MemoryJournal, NewJob, WaitReason,
};
use serde_json::{Value, json};

use crate::support::{Scripted, engine, engine_after_another, engine_with, job};

fn limits(concurrent: u32, per_owner: u32, per_sr: u32) -> AdmissionLimits {
    AdmissionLimits { concurrent, per_owner, per_group: BTreeMap::from([("sr".into(), per_sr)]) }
}

fn limited(limits: AdmissionLimits) -> EngineHandle {
    engine_with(MemoryJournal::new(), |config| config.limits = limits)
}

fn of(owner: &str, sr: &str) -> NewJob {
    let groups = vec![Group { class: "sr".into(), name: sr.into() }];
    NewJob { owner: Some(owner.into()), groups, ..job("a") }
}

fn claiming(resource: &str, mode: ClaimMode) -> NewJob {
    NewJob { claims: vec![Claim { resource: resource.into(), mode }], ..job("a") }
}

/// Ends when it is told to stop.
async fn until_stopped(ctx: JobContext) -> JobEnd {
    ctx.stop().cancelled().await;
    JobEnd::Aborted
}

async fn submit(engine: &EngineHandle, new: NewJob) -> JobTicket {
    engine.submit(new, until_stopped).await.unwrap()
}

async fn end(engine: &EngineHandle, ticket: &mut JobTicket) {
    engine.abort(ticket.id()).await.unwrap();
    assert_eq!(ticket.end().await, JobEnd::Aborted);
}

fn state(engine: &EngineHandle, ticket: &JobTicket) -> JobState {
    engine.task(ticket.id()).unwrap().state()
}

fn waiting(engine: &EngineHandle, id: JobId) -> Value {
    let task = engine.task(id).unwrap().to_json();
    let shown = |name: &str| task.pointer(&format!("/properties/{name}")).cloned();
    json!([shown("waiting"), shown("place")])
}

#[actix::test]
async fn each_sort_of_limit_makes_jobs_wait_and_says_so() {
    tokio::time::pause();
    for (limits, text) in [
        (limits(1, 0, 0), "as many jobs run as may at once: 1"),
        (limits(0, 1, 0), "as many jobs of this user run as may at once: 1"),
        (limits(0, 0, 1), "as many jobs of this sr run as may at once: 1"),
    ] {
        let engine = engine_after_another(MemoryJournal::new(), |config| config.limits = limits);
        let mut first = submit(&engine, of("a", "x")).await;
        let mut second = submit(&engine, of("a", "x")).await;
        let third = submit(&engine, of("a", "x")).await;
        assert_eq!(state(&engine, &second), JobState::Queued);
        assert_eq!(engine.task(second.id()).unwrap().to_json()["status"], "pending");
        assert_eq!(waiting(&engine, second.id()), json!([text, 1]));
        assert_eq!(waiting(&engine, third.id()), json!([text, 2]));
        end(&engine, &mut first).await;
        assert!(second.begun().await);
        assert_eq!(waiting(&engine, second.id()), json!([null, null]), "one at work waits for nothing");
        assert_eq!(waiting(&engine, third.id()), json!([text, 1]));
    }
}

#[actix::test]
async fn whom_a_limit_does_not_concern_it_does_not_hold_up() {
    let engine = limited(limits(0, 2, 1));
    let _first = submit(&engine, of("a", "x")).await;
    let same_sr = submit(&engine, of("a", "x")).await;
    let other_sr = submit(&engine, of("a", "y")).await;
    let third_of_a = submit(&engine, of("a", "z")).await;
    let of_b = submit(&engine, of("b", "z")).await;
    let states: Vec<_> =
        [&same_sr, &other_sr, &third_of_a, &of_b].iter().map(|ticket| state(&engine, ticket)).collect();
    assert_eq!(states, [JobState::Queued, JobState::Running, JobState::Queued, JobState::Running]);
}

#[actix::test]
async fn limits_that_are_raised_let_more_begin_and_lowered_ones_stop_nobody() {
    let engine = limited(limits(1, 0, 0));
    let mut tickets = Vec::new();
    for _ in 0..4 {
        tickets.push(submit(&engine, job("a")).await);
    }
    engine.set_limits(limits(3, 0, 0));
    assert!(tickets[2].begun().await);
    assert_eq!(state(&engine, &tickets[3]), JobState::Queued);
    engine.set_limits(limits(1, 0, 0));
    end(&engine, &mut tickets[0]).await;
    tokio::time::sleep(Duration::from_secs(5)).await;
    let states: Vec<_> = tickets[1..].iter().map(|ticket| state(&engine, ticket)).collect();
    assert_eq!(states, [JobState::Running, JobState::Running, JobState::Queued]);
    engine.set_limits(AdmissionLimits::default());
    assert!(tickets[3].begun().await);
}

#[actix::test]
async fn an_owner_of_many_jobs_does_not_keep_another_one_waiting() {
    let engine = limited(limits(1, 0, 0));
    let mut many = Vec::new();
    for _ in 0..5 {
        many.push(submit(&engine, of("many", "x")).await);
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut few = submit(&engine, of("few", "x")).await;
    assert!(many[0].begun().await);
    end(&engine, &mut many[0]).await;
    assert!(few.begun().await, "he came last, and is the next when the other has had his turn");
    assert_eq!(waiting(&engine, many[1].id())[1], 1);
}

#[actix::test]
async fn the_more_urgent_job_begins_first_and_its_priority_can_be_changed_while_it_waits() {
    let engine = limited(limits(1, 0, 0));
    let mut first = submit(&engine, job("a")).await;
    let plain = submit(&engine, job("a")).await;
    let mut urgent = submit(&engine, NewJob { priority: 2, ..job("a") }).await;
    assert_eq!(engine.task(urgent.id()).unwrap().to_json()["properties"]["priority"], 2);
    assert_eq!(engine.task(plain.id()).unwrap().waiting.unwrap().place, 2);
    let to = Adjustment { priority: Some(5), ..Adjustment::default() };
    engine.adjust(plain.id(), to).await.unwrap();
    assert_eq!(engine.task(plain.id()).unwrap().waiting.unwrap().place, 1);
    let to = Adjustment { priority: Some(0), ..Adjustment::default() };
    engine.adjust(plain.id(), to).await.unwrap();
    end(&engine, &mut first).await;
    assert!(urgent.begun().await);
    assert_eq!(state(&engine, &plain), JobState::Queued);
}

#[actix::test]
async fn a_job_waits_for_what_another_one_has_claimed_and_says_for_whom() {
    let engine = engine(MemoryJournal::new());
    let mut reader = submit(&engine, claiming("vdi/x", ClaimMode::Shared)).await;
    let other_reader = submit(&engine, claiming("vdi/x", ClaimMode::Shared)).await;
    assert_eq!(state(&engine, &other_reader), JobState::Running);
    let mut writer = submit(&engine, claiming("vdi/x", ClaimMode::Exclusive)).await;
    let text = format!("task {} has vdi/x", reader.id());
    assert_eq!(waiting(&engine, writer.id()), json!([text, 1]));
    let mut late = submit(&engine, claiming("vdi/x", ClaimMode::Shared)).await;
    assert_eq!(waiting(&engine, late.id())[0], format!("task {} has vdi/x", writer.id()));
    for mut ticket in [reader.clone(), other_reader] {
        end(&engine, &mut ticket).await;
    }
    assert!(writer.begun().await);
    assert_eq!(state(&engine, &late), JobState::Queued);
    end(&engine, &mut writer).await;
    assert!(late.begun().await);
    assert!(reader.begun().await, "it had begun, also when it has ended");
}

#[actix::test]
async fn a_job_whose_work_is_cut_short_leaves_its_claims_behind_however_it_ends() {
    let engine = engine(MemoryJournal::new());
    let new = || claiming("vdi/x", ClaimMode::Exclusive);
    let mut next = engine
        .submit(new(), |_| async move { if true { panic!("it fell") } else { JobEnd::Aborted } })
        .await
        .unwrap();
    assert!(matches!(next.end().await, JobEnd::Failure(failure) if failure.code == "panic"));
    let mut hung = engine.submit(new(), |_| pending::<JobEnd>()).await.unwrap();
    assert!(hung.begun().await);
    let mut after = submit(&engine, new()).await;
    assert_eq!(state(&engine, &after), JobState::Queued);
    end(&engine, &mut hung).await;
    assert!(after.begun().await);
}

#[actix::test]
async fn a_guess_of_when_a_job_begins_comes_from_those_at_work() {
    let engine = limited(limits(1, 0, 0));
    let run = |ctx: JobContext| async move {
        ctx.progress().set_total(1000);
        loop {
            tokio::time::sleep(Duration::from_secs(1)).await;
            ctx.progress().add_written(10);
        }
        #[expect(unreachable_code, reason = "says what it would return")]
        JobEnd::Aborted
    };
    engine.submit(job("at work"), run).await.unwrap();
    let next = submit(&engine, job("next")).await;
    assert_eq!(engine.task(next.id()).unwrap().begins_in_seconds, None, "nobody knows yet");
    tokio::time::sleep(Duration::from_millis(20_500)).await;
    let guess = engine.task(next.id()).unwrap().to_json()["properties"]["beginsInSeconds"].as_u64().unwrap();
    assert!((75..=90).contains(&guess), "some 800 bytes are left at 10 a second, {guess}");
}

#[actix::test]
async fn a_queued_job_can_be_withdrawn_and_one_at_work_cannot() {
    let journal = Scripted::open();
    let engine = engine_with(journal.clone(), |config| config.limits = limits(1, 0, 0));
    let first = submit(&engine, job("a")).await;
    let mut second = submit(&engine, job("a")).await;
    let late = || JobFailure::new("QueueError", "queue_wait", "it has waited for 30 s");
    assert!(matches!(engine.withdraw(first.id(), late()).await, Err(EngineError::AtWork(_))));
    engine.withdraw(second.id(), late()).await.unwrap();
    assert!(!second.begun().await, "its turn never came");
    assert_eq!(second.end().await, JobEnd::Failure(late()));
    assert_eq!(journal.state(second.id()), Some("failure"));
    let again = engine.withdraw(second.id(), late()).await;
    assert!(matches!(again, Err(EngineError::NotRunning { state: JobState::Failure, .. })), "{again:?}");
    assert_eq!(engine.unfinished(), 1);
}

#[actix::test]
async fn a_queued_job_that_is_aborted_ends_at_once_and_never_runs() {
    let engine = limited(limits(1, 0, 0));
    let mut first = submit(&engine, job("a")).await;
    let run = |_| -> std::future::Ready<JobEnd> { unreachable!("it must not run") };
    let mut second = engine.submit(job("a"), run).await.unwrap();
    let begun = tokio::time::Instant::now();
    end(&engine, &mut second).await;
    assert_eq!(begun.elapsed(), Duration::ZERO);
    assert!(!second.begun().await);
    end(&engine, &mut first).await;
}

#[actix::test]
async fn an_idempotency_key_names_one_job_of_its_owner() {
    let engine = engine(MemoryJournal::new());
    let keyed = |owner: &str, spec: u32| NewJob {
        owner: Some(owner.into()),
        idempotency_key: Some("k".into()),
        spec: spec.into(),
        ..job("a")
    };
    let mut first = submit(&engine, keyed("a", 1)).await;
    let unused = |_| -> std::future::Ready<JobEnd> { unreachable!("it is the first one's repetition") };
    assert_eq!(engine.submit(keyed("a", 1), unused).await.unwrap().id(), first.id());
    let other = engine.submit(keyed("a", 2), unused).await;
    assert!(matches!(other, Err(EngineError::KeyReused { id }) if id == first.id()));
    let of_b = submit(&engine, keyed("b", 1)).await;
    assert_ne!(of_b.id(), first.id());
    end(&engine, &mut first).await;
    let mut second = engine.submit(keyed("a", 1), |_| async { JobEnd::Success(json!({})) }).await.unwrap();
    assert_ne!(second.id(), first.id(), "one that ended badly may be tried again");
    second.end().await;
    let mut same = engine.submit(keyed("a", 1), unused).await.unwrap();
    assert_eq!((same.id(), same.end().await), (second.id(), JobEnd::Success(json!({}))));
}

#[actix::test]
async fn repetitions_that_come_before_the_first_is_durable_are_answered_with_it() {
    let journal = Scripted::gated();
    let engine = engine(journal.clone());
    let asking = |engine: EngineHandle| async move {
        let new = NewJob { idempotency_key: Some("k".into()), ..job("a") };
        engine.submit(new, until_stopped).await.map(|ticket| ticket.id())
    };
    let all: Vec<_> = (0..3).map(|_| tokio::spawn(asking(engine.clone()))).collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    journal.let_through(1);
    let mut ids = Vec::new();
    for one in all {
        ids.push(one.await.unwrap().unwrap());
    }
    assert_eq!(ids, [ids[0]; 3]);
    assert_eq!(journal.log.lines(), ["saved running"]);
}

#[actix::test]
async fn a_retry_and_a_turn_are_reasons_to_wait_too() {
    let engine = limited(limits(1, 0, 0));
    let first = submit(&engine, job("a")).await;
    engine.pause(first.id()).await.unwrap();
    assert_eq!(waiting(&engine, first.id()), json!(["it is paused", null]));
    let second = submit(&engine, job("a")).await;
    engine.resume(first.id()).await.unwrap();
    let view = engine.task(first.id()).unwrap();
    assert!(matches!(view.waiting.unwrap().reason, WaitReason::Limit { limit: 1, .. }));
    assert_eq!(state(&engine, &second), JobState::Running);
}
