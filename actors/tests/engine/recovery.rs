//! What a start makes of what it finds.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use gantry_actors::{
    EngineError, Health, JobEnd, JobId, JobRecord, JobState, Journal, JournalError, JournalFuture,
    MemoryJournal, RecoverReport,
};
use serde_json::{Value, json};

use crate::support::{BEGIN_MS, Scripted, engine, engine_after_another, job};

/// A journal as a server leaves it that was killed with one job at work, one detached and one ended.
async fn left_by_a_killed_server() -> (MemoryJournal, [JobId; 3]) {
    let journal = MemoryJournal::new();
    let engine = engine(journal.clone());
    let mut unknown = job("of a newer version");
    unknown.kind = "teleport".into();
    unknown.spec = json!({"to": "the moon"});
    let running = engine.submit(unknown, |_| pending::<JobEnd>()).await.unwrap().id();
    let detached = engine
        .submit(job("detached"), |ctx| async move {
            ctx.set_detached();
            pending::<JobEnd>().await
        })
        .await
        .unwrap()
        .id();
    engine.wait_until(detached, |view| view.state() == JobState::Detached).await.unwrap();
    let mut ended =
        engine.submit(job("ended"), |_| async { JobEnd::Success(json!({"id": "x"})) }).await.unwrap();
    ended.end().await;
    let copy = MemoryJournal::new();
    for record in journal.all() {
        copy.save(record).await.unwrap();
    }
    (copy, [running, detached, ended.id()])
}

#[actix::test]
async fn unfinished_jobs_of_a_former_run_are_interrupted_and_journalled_as_that() {
    let (journal, [running, detached, ended]) = left_by_a_killed_server().await;
    let engine = engine_after_another(journal.clone(), |_| {});
    let report = engine.recovered().await.unwrap();
    assert_eq!(report, RecoverReport { kept: 1, interrupted: 2, resumed: 0, dropped: 0 });
    assert_eq!(engine.health(), Health::Ready);
    for id in [running, detached] {
        let record = journal.get(id).unwrap();
        assert_eq!(
            (record.state, record.reason.as_deref()),
            (JobState::Interrupted, Some("server_restarted"))
        );
        assert!(record.ended_ms.is_some());
        let task = engine.task(id).unwrap().to_json();
        assert_eq!(
            (&task["status"], &task["result"]["code"]),
            (&json!("interrupted"), &json!("server_restarted"))
        );
        assert!(task["end"].is_u64());
    }
    assert_eq!(engine.task(ended).unwrap().result(), Some(json!({"id": "x"})));
    assert_eq!(engine.unfinished(), 0);
}

#[actix::test]
async fn a_record_of_an_unknown_kind_keeps_all_that_is_in_it() {
    let (journal, [running, ..]) = left_by_a_killed_server().await;
    let before = journal.get(running).unwrap();
    engine_after_another(journal.clone(), |_| {}).recovered().await.unwrap();
    let after = journal.get(running).unwrap();
    let same = JobRecord {
        state: after.state,
        reason: after.reason.clone(),
        outcome: after.outcome.clone(),
        updated_ms: after.updated_ms,
        ended_ms: after.ended_ms,
        ..JobRecord::clone(&before)
    };
    assert_eq!(*after, same);
}

#[actix::test]
async fn ids_go_on_after_those_of_the_former_run_even_when_the_clock_stepped_back() {
    let (journal, [.., newest]) = left_by_a_killed_server().await;
    let engine = engine_after_another(journal, |config| {
        config.clock = gantry_actors::Clock::from_fn(|| BEGIN_MS - 60_000)
    });
    let id = engine.submit(job("a"), |_| pending::<JobEnd>()).await.unwrap().id();
    assert!(id > newest);
}

#[actix::test]
async fn a_submission_before_the_journal_is_read_back_waits_for_it() {
    let (former, [running, ..]) = left_by_a_killed_server().await;
    let journal = Scripted { inner: former, ..Scripted::gated() };
    let engine = engine_after_another(journal.clone(), |_| {});
    let submitting = {
        let engine = engine.clone();
        tokio::spawn(async move { engine.submit(job("a"), |_| async { JobEnd::Success(Value::Null) }).await })
    };
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!((engine.health(), journal.state(running)), (Health::Starting, Some("running")));
    journal.let_through(9);
    submitting.await.unwrap().unwrap();
    let lines = journal.log.lines();
    assert_eq!(lines[..3], ["saved interrupted", "saved interrupted", "saved running"]);
}

#[actix::test]
async fn old_records_go_at_the_start() {
    let (journal, _) = left_by_a_killed_server().await;
    let engine = engine_after_another(journal.clone(), |config| config.keep = 0);
    assert_eq!(engine.recovered().await.unwrap().dropped, 1);
}

/// Cannot be read.
struct Broken;

impl Journal for Broken {
    fn save(&self, _: Arc<JobRecord>) -> JournalFuture<()> {
        broken()
    }
    fn load_unfinished(&self) -> JournalFuture<Vec<JobRecord>> {
        broken()
    }
    fn load_ended(&self, _: usize) -> JournalFuture<Vec<JobRecord>> {
        broken()
    }
    fn forget(&self, _: Vec<JobId>) -> JournalFuture<()> {
        broken()
    }
    fn retain(&self, _: usize, _: u64) -> JournalFuture<u64> {
        broken()
    }
    fn flush(&self) -> JournalFuture<()> {
        broken()
    }
}

fn broken<T: Send + 'static>() -> JournalFuture<T> {
    Box::pin(async { Err(JournalError::new("read", "not a database")) })
}

#[actix::test]
async fn a_journal_that_cannot_be_read_ends_in_a_failed_engine_and_not_in_an_empty_one() {
    let engine = engine(Broken);
    assert!(matches!(engine.recovered().await, Err(EngineError::Stopped)));
    assert_eq!(engine.health(), Health::Failed);
    assert!(matches!(engine.abort("0mf2k3abc00abcde".parse().unwrap()).await, Err(EngineError::Stopped)));
    assert!(engine.submit(job("a"), |_| pending::<JobEnd>()).await.is_err());
}
