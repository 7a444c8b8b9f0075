//! The engine on its own threads, in real time.

use std::sync::Arc;
use std::time::Duration;

use gantry_actors::{
    Engine, EngineConfig, EngineError, Health, JobContext, JobEnd, JobFailure, MemoryJournal,
};
use serde_json::{Value, json};

use crate::support::job;

fn start(journal: MemoryJournal) -> Engine {
    Engine::start(EngineConfig { workers: 2, ..EngineConfig::default() }, Arc::new(journal)).unwrap()
}

#[tokio::test]
async fn jobs_run_on_the_engines_threads_and_not_on_those_of_whoever_asked() {
    let engine = start(MemoryJournal::new());
    let here = std::thread::current().id();
    let run = move |ctx: JobContext| async move {
        let elsewhere = std::thread::current().id() != here;
        let blocking = ctx.blocking(move || std::thread::current().id() != here).await?;
        Ok::<_, JobFailure>(json!({"ok": elsewhere && blocking}))
    };
    let mut ticket = engine.handle().submit(job("a"), run).await.unwrap();
    assert_eq!(ticket.end().await, JobEnd::Success(json!({"ok": true})));
    assert!(engine.handle().drain(Duration::from_secs(5)).await.flushed.is_ok());
    engine.stop().await;
}

#[tokio::test]
async fn a_job_that_blocks_its_thread_is_given_up_when_it_is_aborted() {
    let journal = MemoryJournal::new();
    let config = EngineConfig { workers: 2, grace: Duration::from_millis(50), ..EngineConfig::default() };
    let engine = Engine::start(config, Arc::new(journal)).unwrap();
    let (release, released) = std::sync::mpsc::channel::<()>();
    let run = move |_| async move {
        // What a job must not do: storage that hangs looks like this.
        let _ = released.recv();
        JobEnd::Success(Value::Null)
    };
    let mut ticket = engine.handle().submit(job("stuck"), run).await.unwrap();
    engine.handle().abort(ticket.id()).await.unwrap();
    assert_eq!(ticket.end().await, JobEnd::Aborted);
    let mut other =
        engine.handle().submit(job("other"), |_| async { JobEnd::Success(Value::Null) }).await.unwrap();
    assert_eq!(other.end().await, JobEnd::Success(Value::Null));
    drop(release);
    engine.stop().await;
}

#[tokio::test]
async fn an_engine_that_is_stopped_tells_those_who_wait() {
    let engine = start(MemoryJournal::new());
    let handle = engine.handle().clone();
    let mut ticket = handle.submit(job("a"), |_| std::future::pending::<JobEnd>()).await.unwrap();
    engine.stop().await;
    assert_eq!(ticket.end().await, JobEnd::Interrupted);
    assert_eq!(handle.health(), Health::Stopped);
    assert!(matches!(handle.abort(ticket.id()).await, Err(EngineError::Stopped)));
}
