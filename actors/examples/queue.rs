//! Two servers, one after the other, on one journal: jobs that wait for a place, a pause, and jobs that go on
//! where the server before has left them. `cargo run -p gantry-actors --example queue`

use std::sync::Arc;
use std::time::Duration;

use gantry_actors::{
    AdmissionLimits, Engine, EngineConfig, EngineError, EngineHandle, JobContext, JobEnd, JobRecord,
    MemoryJournal, NewJob, Resume, Resumption, RetryPolicy, TaskProperties, Work,
};
use serde_json::{Value, json};

const KIND: &str = "count";
const PIECES: u64 = 12;
const PIECE_BYTES: u64 = 1 << 20;

/// Counts pieces, from where the attempt before has come to.
async fn count(ctx: JobContext) -> JobEnd {
    let (pace, progress) = (ctx.pace(), ctx.progress());
    let first = ctx.found_checkpoint().as_u64().unwrap_or(0);
    progress.set_total(PIECES * PIECE_BYTES);
    progress.raise_written_to(first * PIECE_BYTES);
    for piece in first..PIECES {
        // Held here while the job is paused or has no place, and as long as a limit on bytes wants.
        if pace.take(PIECE_BYTES).await.is_err() {
            return JobEnd::Aborted;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
        progress.add_written(PIECE_BYTES);
        ctx.set_checkpoint(json!(piece + 1));
    }
    JobEnd::Success(json!({ "from": first, "epoch": ctx.epoch() }))
}

/// How this program goes on with the jobs of a server before.
struct Counting;

impl Resume for Counting {
    fn resume(&self, record: &JobRecord) -> Option<Resumption> {
        let known = record.kind == KIND;
        known.then(|| Resumption {
            work: Work::often(count),
            retry: RetryPolicy::default(),
            timeout: None,
            waits_for_client: false,
        })
    }

    fn can_resume(&self, kind: &str) -> bool {
        kind == KIND
    }
}

fn start(journal: &MemoryJournal) -> Result<Engine, EngineError> {
    let config = EngineConfig {
        limits: AdmissionLimits { concurrent: 2, ..AdmissionLimits::default() },
        sample_every: Duration::from_millis(200),
        ..EngineConfig::default()
    };
    Engine::start_resuming(config, Arc::new(journal.clone()), Arc::new(Counting))
}

fn show(title: &str, engine: &EngineHandle) {
    println!("{title}");
    for task in engine.tasks() {
        let (name, state) = (&task.record.spec.properties.name, task.state());
        let why = task.waiting_text().unwrap_or_default();
        println!("  {name:8} {state:10} {:3} %  {why}", task.progress.percent);
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), EngineError> {
    let journal = MemoryJournal::new();
    let before = start(&journal)?;
    let engine = before.handle();
    let mut ids = Vec::new();
    for name in ["first", "second", "third"] {
        let shown = TaskProperties { name: name.into(), task_type: KIND.into(), ..Default::default() };
        let new = NewJob { retry: RetryPolicy::default(), ..NewJob::new(KIND, shown) };
        ids.push(engine.submit_work(new, Work::often(count)).await?.id());
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    show("two places, three jobs:", engine);
    if let Some(first) = ids.first() {
        engine.pause(*first).await?;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    show("the first one is paused, and the third has its place:", engine);
    engine.drain(Duration::ZERO).await;
    before.stop().await;

    let after = start(&journal)?;
    let engine = after.handle();
    let report = engine.recovered().await?;
    println!("another server goes on with {} jobs", report.resumed);
    show("the pause has outlived the restart:", engine);
    if let Some(first) = ids.first() {
        engine.resume(*first).await?;
    }
    for id in ids {
        let end = engine.wait_end(id).await;
        println!("  {}", end.and_then(|task| task.result()).unwrap_or(Value::Null));
    }
    show("all are done:", engine);
    after.stop().await;
    Ok(())
}
