//! From submission to end.

use std::future::pending;
use std::time::Duration;

use futures_util::FutureExt;
use gantry_actors::{
    Durability, EngineError, JobContext, JobEnd, JobFailure, JobState, MemoryJournal, TaskChange, TaskStatus,
};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::support::{Scripted, engine, engine_with, job};

fn done(value: Value) -> impl FnOnce(JobContext) -> std::future::Ready<Result<Value, JobFailure>> + Send {
    move |_| std::future::ready(Ok(value))
}

#[actix::test]
async fn a_job_is_durable_then_at_work_then_answered() {
    let journal = Scripted::gated();
    let engine = engine(journal.clone());
    let log = journal.log.clone();
    let mut submission = Box::pin(engine.submit(job("a"), {
        let log = log.clone();
        move |_| async move {
            log.add("at work");
            pending::<JobEnd>().await
        }
    }));
    tokio::time::timeout(Duration::from_secs(60), &mut submission).await.expect_err("nothing is durable yet");
    assert!(
        log.lines().is_empty() && engine.tasks().is_empty(),
        "nothing is visible or at work before it is durable"
    );

    journal.let_through(1);
    let ticket = submission.await.unwrap();
    log.add("answered");
    assert_eq!(log.lines(), ["saved running", "at work", "answered"]);
    let view = engine.task(ticket.id()).unwrap();
    assert_eq!((view.state(), view.status()), (JobState::Running, TaskStatus::Pending));
}

#[actix::test]
async fn a_job_that_only_reads_runs_though_the_journal_refuses_it_and_is_written_later() {
    let journal = Scripted::open();
    journal.fail(true);
    let engine = engine(journal.clone());
    let mut new = job("export");
    new.durability = Durability::BestEffort;
    let mut ticket = engine.submit(new, done(json!({"id": "x"}))).await.unwrap();
    assert_eq!(ticket.end().await, JobEnd::Success(json!({"id": "x"})));
    assert_eq!(journal.state(ticket.id()), None);
    journal.fail(false);
    let report = engine.drain(Duration::ZERO).await;
    assert_eq!((journal.state(ticket.id()), report.unsaved), (Some("success"), 0));
}

#[actix::test]
async fn a_job_that_the_journal_refuses_does_not_run() {
    let journal = Scripted::open();
    journal.fail(true);
    let engine = engine(journal.clone());
    let (called, was_called) = oneshot::channel::<()>();
    let refused = engine.submit(job("a"), move |_| async move {
        called.send(()).ok();
        JobEnd::Aborted
    });
    let error = refused.await.unwrap_err();
    assert!(matches!(&error, EngineError::Journal(_)) && error.is_transient(), "{error}");
    assert!(was_called.await.is_err(), "the job's closure was dropped uncalled");
    assert!(engine.tasks().is_empty() && engine.unfinished() == 0);

    journal.fail(false);
    let mut ticket = engine.submit(job("b"), done(Value::Null)).await.unwrap();
    assert_eq!(ticket.end().await, JobEnd::Success(Value::Null), "the next one is taken");
}

#[actix::test]
async fn an_end_that_the_journal_refuses_is_told_and_written_later() {
    let journal = Scripted::open();
    let engine = engine(journal.clone());
    let (go, gone) = oneshot::channel::<()>();
    let run = move |_| async move {
        gone.await.ok();
        JobEnd::Success(json!({}))
    };
    let mut ticket = engine.submit(job("a"), run).await.unwrap();
    journal.fail(true);
    go.send(()).unwrap();
    assert_eq!(ticket.end().await, JobEnd::Success(json!({})));
    assert_eq!(journal.state(ticket.id()), Some("running"));
    journal.fail(false);
    let report = engine.drain(Duration::ZERO).await;
    assert_eq!((journal.state(ticket.id()), report.unsaved), (Some("success"), 0));
}

#[actix::test]
async fn a_panicking_jobs_text_is_in_its_record_and_the_others_go_on() {
    let journal = MemoryJournal::new();
    let engine = engine(journal.clone());
    let (go, gone) = oneshot::channel::<()>();
    let other = move |_| async move {
        gone.await.ok();
        JobEnd::Success(json!({"id": "other"}))
    };
    let mut other = engine.submit(job("other"), other).await.unwrap();
    let plain = |_| async move { if true { panic!("block {} is not there", 7) } else { JobEnd::Aborted } };
    let before_its_first_await = |_| -> std::future::Ready<JobEnd> { panic!("not even begun") };
    let in_a_thread = |ctx: JobContext| async move {
        ctx.blocking(|| {
            if true {
                panic!("in a thread")
            }
        })
        .await?;
        Ok::<_, JobFailure>(Value::Null)
    };
    let texts = ["block 7 is not there", "not even begun", "in a thread"];
    let tickets = [
        engine.submit(job("plain"), plain).await.unwrap(),
        engine.submit(job("early"), before_its_first_await).await.unwrap(),
        engine.submit(job("thread"), in_a_thread).await.unwrap(),
    ];
    for (mut ticket, text) in tickets.into_iter().zip(texts) {
        let JobEnd::Failure(failure) = ticket.end().await else { panic!("a panic is a failure") };
        assert_eq!((failure.code.as_str(), failure.message.as_str()), ("panic", text));
        let task = engine.task(ticket.id()).unwrap().to_json();
        assert_eq!(task["status"], "failure");
        assert_eq!(task["result"], json!({"name": "Panic", "message": text, "code": "panic"}));
        let record = journal.get(ticket.id()).unwrap();
        assert_eq!((record.state, record.reason.as_deref()), (JobState::Failure, Some("panic")));
    }
    go.send(()).unwrap();
    assert_eq!(other.end().await, JobEnd::Success(json!({"id": "other"})));
}

#[actix::test]
async fn a_task_shows_the_contracts_record_with_live_progress() {
    let engine = engine(MemoryJournal::new());
    let mut new = job("export of x");
    new.owner = Some("user-1".into());
    new.properties.object_id = Some("vdi-1".into());
    new.properties.object_type = Some("VDI".into());
    new.properties.params = Some(json!({"format": "vhd"}));
    let (go, gone) = oneshot::channel::<()>();
    let run = move |ctx: JobContext| async move {
        ctx.progress().set_total(1000);
        ctx.progress().add_written(400);
        gone.await.ok();
        ctx.progress().add_written(600);
        Ok::<_, JobFailure>(json!({"id": "vdi-1"}))
    };
    let mut ticket = engine.submit(new, run).await.unwrap();
    let begun_ms = engine.task(ticket.id()).unwrap().record.created_ms;
    tokio::time::sleep(Duration::from_millis(3500)).await;
    let task = engine.task(ticket.id()).unwrap().to_json();
    let updated = task["updatedAt"].as_u64().unwrap();
    assert!((begun_ms..=begun_ms + 2000).contains(&updated), "{updated}");
    let rate = task["properties"]["bytesPerSecond"].as_u64().unwrap();
    assert!((100..=200).contains(&rate), "400 bytes in three to four seconds, found {rate}");
    let shown = json!({
        "id": ticket.id().to_string(),
        "properties": {
            "name": "export of x", "type": "test", "userId": "user-1", "objectId": "vdi-1", "objectType": "VDI",
            "params": {"format": "vhd"}, "progress": 40, "bytes": 400, "totalBytes": 1000, "bytesPerSecond": rate,
            "etaSeconds": 600u64.div_ceil(rate), "state": "running", "startedAt": begun_ms,
        },
        "start": begun_ms, "updatedAt": updated, "status": "pending",
    });
    assert_eq!(task, shown);

    go.send(()).unwrap();
    ticket.end().await;
    let task = engine.task(ticket.id()).unwrap().to_json();
    assert_eq!(task["status"], "success");
    assert_eq!(task["result"], json!({"id": "vdi-1"}));
    let life_ms = task["end"].as_u64().unwrap() - begun_ms;
    assert!((3500..3510).contains(&life_ms), "{life_ms}");
    let properties = &task["properties"];
    assert_eq!((&properties["progress"], &properties["bytes"]), (&json!(100), &json!(1000)));
    assert_eq!(properties["bytesPerSecond"], 1000 * 1000 / life_ms);
    assert_eq!(properties.get("etaSeconds"), None);
}

#[actix::test]
async fn a_failure_shows_name_message_code_and_data() {
    let engine = engine(MemoryJournal::new());
    let failure =
        JobFailure::new("SpaceError", "no_space", "7 bytes are missing").with_data(json!({"missing": 7}));
    let mut ticket = engine.submit(job("a"), move |_| async move { Err::<Value, _>(failure) }).await.unwrap();
    ticket.end().await;
    let view = engine.task(ticket.id()).unwrap();
    let shown = json!({"name": "SpaceError", "message": "7 bytes are missing", "code": "no_space", "data": {"missing": 7}});
    assert_eq!((view.result(), view.record.reason.as_deref()), (Some(shown), Some("no_space")));
}

#[actix::test]
async fn a_job_without_a_byte_for_a_minute_shows_as_stalled() {
    let engine = engine(MemoryJournal::new());
    let run = |ctx: JobContext| async move {
        ctx.progress().add_read(1);
        tokio::time::sleep(Duration::from_secs(100)).await;
        ctx.progress().add_read(1);
        pending::<JobEnd>().await
    };
    let id = engine.submit(job("slow"), run).await.unwrap().id();
    tokio::time::sleep(Duration::from_secs(59)).await;
    assert_eq!(engine.task(id).unwrap().to_json()["properties"].get("stalled"), None);
    let stalled = engine.wait_until(id, |view| view.progress.stalled).await.unwrap();
    assert_eq!(stalled.to_json()["properties"]["stalled"], true);
    let moving = engine.wait_until(id, |view| !view.progress.stalled).await.unwrap();
    assert_eq!(moving.progress.bytes_read, 2);
}

#[actix::test]
async fn a_client_that_leaves_and_comes_back_shows_in_order() {
    let journal = Scripted::open();
    let engine = engine(journal.clone());
    let (send, mut steps) = tokio::sync::mpsc::channel::<bool>(1);
    let run = |ctx: JobContext| async move {
        while let Some(detached) = steps.recv().await {
            if detached { ctx.set_detached() } else { ctx.set_running() }
        }
        JobEnd::Success(Value::Null)
    };
    let id = engine.submit(job("a"), run).await.unwrap().id();
    send.send(true).await.unwrap();
    let away = engine.wait_until(id, |view| view.state() == JobState::Detached).await.unwrap();
    assert_eq!((away.status(), journal.state(id)), (TaskStatus::Pending, Some("detached")));
    send.send(false).await.unwrap();
    engine.wait_until(id, |view| view.state() == JobState::Running).await.unwrap();
    drop(send);
    engine.wait_end(id).await.unwrap();
    assert_eq!(journal.log.lines(), ["saved running", "saved detached", "saved running", "saved success"]);
}

#[actix::test]
async fn watchers_hear_of_changes_and_one_that_lags_is_told() {
    let engine = engine_with(MemoryJournal::new(), |config| config.change_backlog = 2);
    let mut watcher = engine.subscribe();
    let first = engine.submit(job("a"), done(Value::Null)).await.unwrap().id();
    engine.wait_end(first).await.unwrap();
    assert_eq!(watcher.recv().await, Ok(TaskChange::Updated(first)));
    for _ in 0..4 {
        let id = engine.submit(job("b"), done(Value::Null)).await.unwrap().id();
        engine.wait_end(id).await.unwrap();
    }
    assert!(matches!(watcher.recv().await, Err(tokio::sync::broadcast::error::RecvError::Lagged(_))));
}

#[actix::test]
async fn parts_of_a_job_show_inside_it() {
    let engine = engine(MemoryJournal::new());
    let whole = engine.submit(job("backup"), |_| pending::<JobEnd>()).await.unwrap().id();
    let mut part = job("disk");
    part.parent = Some(whole);
    let part = engine.submit(part, |_| pending::<JobEnd>()).await.unwrap().id();
    let tasks = engine.tasks();
    assert_eq!(tasks.iter().map(|task| task.id()).collect::<Vec<_>>(), [whole]);
    assert_eq!(tasks[0].to_json()["tasks"][0]["id"], part.to_string());
    assert_eq!(engine.task(part).unwrap().id(), part);
}

#[actix::test]
async fn a_submission_beyond_the_limit_is_refused_with_the_limit() {
    let engine = engine_with(MemoryJournal::new(), |config| config.max_unfinished = 2);
    let mut tickets = Vec::new();
    for _ in 0..2 {
        tickets.push(engine.submit(job("a"), |_| pending::<JobEnd>()).await.unwrap());
    }
    let refused = engine.submit(job("b"), |_| pending::<JobEnd>()).await.unwrap_err();
    assert!(matches!(refused, EngineError::Busy { limit: 2 }), "{refused}");
    engine.abort(tickets[0].id()).await.unwrap();
    tickets[0].end().await;
    assert!(engine.submit(job("c"), |_| pending::<JobEnd>()).await.is_ok());
}

#[actix::test]
async fn only_so_many_submissions_are_on_their_way_at_once() {
    let journal = Scripted::gated();
    let engine = engine_with(journal.clone(), |config| config.max_submitting = 3);
    let submissions: Vec<_> = (0..10)
        .map(|_| {
            let engine = engine.clone();
            tokio::spawn(
                async move { engine.submit(job("a"), |_| pending::<JobEnd>()).await.map(|t| t.id()) },
            )
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(engine.unfinished(), 3, "the rest has not reached the supervisor's mailbox");
    journal.let_through(10);
    for submission in submissions {
        submission.await.unwrap().unwrap();
    }
    assert_eq!(engine.tasks().len(), 10);
}

#[actix::test]
async fn an_unanswered_wait_is_pending_and_an_ended_job_answers_at_once() {
    let engine = engine(MemoryJournal::new());
    let ticket = engine.submit(job("a"), |_| pending::<JobEnd>()).await.unwrap();
    assert!(engine.wait_end(ticket.id()).now_or_never().is_none());
    engine.abort(ticket.id()).await.unwrap();
    assert_eq!(engine.wait_end(ticket.id()).await.unwrap().state(), JobState::Aborted);
    assert_eq!(engine.wait_change(ticket.id()).await.unwrap().state(), JobState::Aborted);
}
