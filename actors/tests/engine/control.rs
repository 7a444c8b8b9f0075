//! Abort, forget, retention, drain.

use std::future::pending;
use std::time::Duration;

use gantry_actors::{
    EngineError, JobContext, JobEnd, JobFailure, JobState, MemoryJournal, NewJob, TaskChange,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::{BEGIN_MS, Scripted, engine, engine_with, job};

#[actix::test]
async fn an_aborted_job_ends_as_soon_as_it_looks_and_shows_as_the_contract_says() {
    let journal = MemoryJournal::new();
    let engine = engine(journal.clone());
    let run = |ctx: JobContext| async move {
        ctx.stop().cancelled().await;
        Err::<Value, _>(JobFailure::new("StageError", "stopped", "stopped half-way"))
    };
    let mut ticket = engine.submit(job("a"), run).await.unwrap();
    engine.abort(ticket.id()).await.unwrap();
    assert_eq!(ticket.end().await, JobEnd::Aborted);
    let task = engine.task(ticket.id()).unwrap().to_json();
    assert_eq!((&task["status"], &task["properties"]["state"]), (&json!("failure"), &json!("aborted")));
    assert_eq!(
        task["result"],
        json!({"name": "Aborted", "message": "the task was aborted", "code": "aborted"})
    );
    assert!(task["abortionRequestedAt"].as_u64().unwrap() >= BEGIN_MS);
    assert_eq!(journal.get(ticket.id()).unwrap().reason.as_deref(), Some("aborted"));

    let again = engine.abort(ticket.id()).await.unwrap_err();
    assert!(matches!(again, EngineError::NotRunning { state: JobState::Aborted, .. }), "{again}");
}

#[actix::test]
async fn a_job_that_does_not_look_is_cut_off_after_the_grace() {
    let engine = engine(MemoryJournal::new());
    let mut ticket = engine.submit(job("a"), |_| pending::<JobEnd>()).await.unwrap();
    let begun = Instant::now();
    engine.abort(ticket.id()).await.unwrap();
    assert!(engine.task(ticket.id()).unwrap().to_json()["abortionRequestedAt"].is_u64());
    assert_eq!(ticket.end().await, JobEnd::Aborted);
    let taken = begun.elapsed();
    assert!((Duration::from_millis(1500)..Duration::from_millis(1600)).contains(&taken), "{taken:?}");
}

#[actix::test]
async fn what_is_not_there_cannot_be_aborted_or_forgotten() {
    let engine = engine(MemoryJournal::new());
    let id = "0mf2k3abc00abcde".parse().unwrap();
    assert!(matches!(engine.abort(id).await, Err(EngineError::NotFound(_))));
    assert!(matches!(engine.forget(id).await, Err(EngineError::NotFound(_))));
    assert!(engine.task(id).is_none() && engine.wait_end(id).await.is_none());
}

#[actix::test]
async fn ended_jobs_are_forgotten_on_demand_and_running_ones_are_not() {
    let journal = MemoryJournal::new();
    let engine = engine(journal.clone());
    let running = engine.submit(job("running"), |_| pending::<JobEnd>()).await.unwrap().id();
    let mut ended = Vec::new();
    for _ in 0..3 {
        let mut ticket = engine.submit(job("a"), |_| async { JobEnd::Success(Value::Null) }).await.unwrap();
        ticket.end().await;
        ended.push(ticket.id());
    }
    assert!(matches!(engine.forget(running).await, Err(EngineError::StillRunning(_))));
    let mut changes = engine.subscribe();
    engine.forget(ended[0]).await.unwrap();
    assert_eq!(changes.recv().await, Ok(TaskChange::Removed(ended[0])));
    assert!(engine.task(ended[0]).is_none() && journal.get(ended[0]).is_none());
    assert_eq!(engine.forget_ended().await.unwrap(), 2);
    assert_eq!(engine.forget_ended().await.unwrap(), 0);
    assert_eq!(journal.all().iter().map(|record| record.id).collect::<Vec<_>>(), [running]);
}

#[actix::test]
async fn a_record_that_the_journal_does_not_let_go_stays() {
    let journal = Scripted::open();
    let engine = engine(journal.clone());
    let mut ticket = engine.submit(job("a"), |_| async { JobEnd::Success(Value::Null) }).await.unwrap();
    ticket.end().await;
    journal.fail(true);
    assert!(matches!(engine.forget(ticket.id()).await, Err(EngineError::Journal(_))));
    assert!(engine.task(ticket.id()).is_some());
    journal.fail(false);
    engine.forget(ticket.id()).await.unwrap();
}

#[actix::test]
async fn ended_jobs_are_kept_by_number_and_by_age() {
    let journal = MemoryJournal::new();
    let engine = engine_with(journal.clone(), |config| {
        config.keep = 3;
        config.max_age = Duration::from_secs(3600);
    });
    let mut ids = Vec::new();
    for _ in 0..5 {
        let mut ticket = engine.submit(job("a"), |_| async { JobEnd::Success(Value::Null) }).await.unwrap();
        ticket.end().await;
        ids.push(ticket.id());
    }
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(engine.tasks().iter().map(|task| task.id()).collect::<Vec<_>>(), ids[2..]);
    assert_eq!(journal.all().len(), 3);
    tokio::time::sleep(Duration::from_secs(3600)).await;
    assert!(engine.tasks().is_empty() && journal.all().is_empty());
}

#[actix::test]
async fn a_drain_lets_short_jobs_end_stops_long_ones_and_flushes() {
    let journal = Scripted::open();
    let engine = engine(journal.clone());
    let sleeper = |seconds| {
        move |ctx: JobContext| async move {
            tokio::select! {
                () = ctx.stop().cancelled() => JobEnd::Failure(JobFailure::new("E", "cut", "cut")),
                () = tokio::time::sleep(Duration::from_secs(seconds)) => JobEnd::Success(Value::Null),
            }
        }
    };
    let short = engine.submit(job("short"), sleeper(5)).await.unwrap().id();
    let long = engine.submit(job("long"), sleeper(500)).await.unwrap().id();
    let begun = Instant::now();
    let draining = engine.drain(Duration::from_secs(30));
    let late = async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        engine.submit(job("late"), sleeper(1)).await
    };
    let (report, late) = tokio::join!(draining, late);
    assert!(matches!(late, Err(EngineError::Draining)), "a draining engine takes no job");
    assert_eq!((report.ended, report.stopped, report.left, report.unsaved), (1, 1, 0, 0));
    assert!(report.flushed.is_ok());
    assert_eq!(begun.elapsed().as_secs(), 30);
    assert_eq!((journal.state(short), journal.state(long)), (Some("success"), Some("interrupted")));
    assert_eq!(journal.inner.get(long).unwrap().reason.as_deref(), Some("server_stopped"));
    assert_eq!(journal.log.lines().last().map(String::as_str), Some("flushed"));
    assert_eq!(engine.task(long).unwrap().to_json()["status"], "interrupted");
}

#[actix::test]
async fn a_drain_counts_a_submission_that_is_still_on_its_way() {
    let journal = Scripted::gated();
    let engine = engine(journal.clone());
    let submitting = {
        let engine = engine.clone();
        tokio::spawn(async move { engine.submit(job("a"), |_| async { JobEnd::Success(Value::Null) }).await })
    };
    tokio::time::sleep(Duration::from_secs(1)).await;
    let opening = async {
        tokio::time::sleep(Duration::from_secs(5)).await;
        journal.let_through(9);
    };
    let (report, ()) = tokio::join!(engine.drain(Duration::from_secs(30)), opening);
    assert_eq!((report.ended, report.stopped, report.left), (1, 0, 0));
    let id = submitting.await.unwrap().unwrap().id();
    assert_eq!(journal.state(id), Some("success"));
}

#[actix::test]
async fn a_thousand_jobs_are_aborted_within_the_grace() {
    let engine = engine(MemoryJournal::new());
    let mut tickets = Vec::new();
    for _ in 0..1000 {
        let new = NewJob { spec: json!({"some": "spec"}), ..job("a") };
        tickets.push(engine.submit(new, |_| pending::<JobEnd>()).await.unwrap());
    }
    let begun = Instant::now();
    for ticket in &tickets {
        engine.abort(ticket.id()).await.unwrap();
    }
    for ticket in &mut tickets {
        assert_eq!(ticket.end().await, JobEnd::Aborted);
    }
    assert!(begun.elapsed() < Duration::from_secs(5), "{:?}", begun.elapsed());
}

#[actix::test]
async fn a_journal_that_hangs_does_not_hang_a_drain() {
    let journal = Scripted::gated();
    let engine = engine(journal.clone());
    journal.let_through(1);
    let run = |ctx: JobContext| async move {
        ctx.stop().cancelled().await;
        JobEnd::Aborted
    };
    let id = engine.submit(job("a"), run).await.unwrap().id();
    let aborting = {
        let engine = engine.clone();
        tokio::spawn(async move { engine.abort(id).await })
    };
    let begun = Instant::now();
    let report = engine.drain(Duration::from_secs(10)).await;
    assert!(begun.elapsed() < Duration::from_secs(30), "{:?}", begun.elapsed());
    assert_eq!((report.left, report.stopped, aborting.is_finished()), (1, 1, false));
    journal.let_through(9);
    aborting.await.unwrap().unwrap();
    assert_eq!(engine.wait_end(id).await.unwrap().state(), JobState::Aborted);
    assert_eq!(journal.state(id), Some("aborted"));
}
