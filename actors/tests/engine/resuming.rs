//! Jobs that outlive their server.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use gantry_actors::{
    AdmissionLimits, Clock, EngineConfig, EngineHandle, JobContext, JobEnd, JobFailure, JobId, JobRecord,
    JobState, Journal, MemoryJournal, NewJob, Resume, Resumption, RetryPolicy, Work,
};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use crate::support::{BEGIN_MS, engine, job};

/// What each attempt found, by the job's name.
type Found = Arc<Mutex<Vec<(String, u64, Value)>>>;

/// Copies pieces, one a second, from its checkpoint on.
#[derive(Clone, Default)]
struct Copies {
    found: Found,
}

impl Copies {
    fn work(&self, name: &str) -> Work {
        let (found, name) = (Arc::clone(&self.found), name.to_owned());
        Work::often(move |ctx: JobContext| {
            found.lock().unwrap().push((name.clone(), ctx.epoch(), ctx.found_checkpoint().clone()));
            async move {
                let pace = ctx.pace();
                for piece in ctx.found_checkpoint().as_u64().unwrap_or(0)..20 {
                    if pace.opened().await.is_err() {
                        return JobEnd::Aborted;
                    }
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    ctx.set_checkpoint(json!(piece + 1));
                }
                JobEnd::Success(json!({}))
            }
        })
    }
}

impl Resume for Copies {
    fn resume(&self, record: &JobRecord) -> Option<Resumption> {
        let work = match record.kind.as_str() {
            "copy" => self.work(&record.spec.properties.name),
            "upload" => Work::often(|ctx: JobContext| async move {
                tokio::time::sleep(Duration::from_secs(30)).await;
                ctx.set_running();
                match ctx.pace().opened().await {
                    Ok(()) => JobEnd::Success(json!({})),
                    Err(_) => JobEnd::Aborted,
                }
            }),
            _ => return None,
        };
        let waits_for_client = record.kind == "upload";
        Some(Resumption { work, retry: RetryPolicy::NEVER, timeout: None, waits_for_client })
    }

    fn can_resume(&self, kind: &str) -> bool {
        matches!(kind, "copy" | "upload")
    }
}

fn start(journal: &MemoryJournal, copies: &Copies, limits: AdmissionLimits) -> EngineHandle {
    let config = EngineConfig { clock: Clock::from_fn(|| BEGIN_MS), limits, ..EngineConfig::default() };
    EngineHandle::start_here_resuming(
        config,
        Arc::new(journal.clone()),
        Arc::new(copies.clone()),
        Handle::current(),
    )
}

fn named(kind: &str, name: &str) -> NewJob {
    NewJob { kind: kind.into(), ..job(name) }
}

/// What a server that is killed now leaves.
async fn killed(journal: &MemoryJournal) -> MemoryJournal {
    let copy = MemoryJournal::new();
    for record in journal.all() {
        copy.save(record).await.unwrap();
    }
    copy
}

async fn submit(engine: &EngineHandle, copies: &Copies, new: NewJob) -> JobId {
    let work = copies.work(&new.properties.name);
    engine.submit_work(new, work).await.unwrap().id()
}

fn state(engine: &EngineHandle, id: JobId) -> JobState {
    engine.task(id).unwrap().state()
}

#[actix::test]
async fn after_a_kill_a_job_goes_on_from_its_checkpoint_in_a_new_epoch() {
    tokio::time::pause();
    let (journal, copies) = (MemoryJournal::new(), Copies::default());
    let before = start(&journal, &copies, AdmissionLimits::default());
    let id = submit(&before, &copies, named("copy", "a")).await;
    tokio::time::sleep(Duration::from_millis(7500)).await;
    let journal = killed(&journal).await;
    let after = start(&journal, &copies, AdmissionLimits::default());
    let report = after.recovered().await.unwrap();
    assert_eq!((report.resumed, report.interrupted), (1, 0));
    let begun = tokio::time::Instant::now();
    let end = after.wait_end(id).await.unwrap();
    assert_eq!((end.state(), begun.elapsed().as_secs()), (JobState::Success, 13));
    assert_eq!(*copies.found.lock().unwrap(), [("a".into(), 1, Value::Null), ("a".into(), 2, json!(7))]);
}

#[actix::test]
async fn a_kind_that_nobody_knows_is_interrupted_and_one_that_waits_for_its_client_recovers() {
    tokio::time::pause();
    let (journal, copies) = (MemoryJournal::new(), Copies::default());
    let before = start(&journal, &copies, AdmissionLimits::default());
    let unknown = submit(&before, &copies, named("teleport", "a")).await;
    let upload = submit(&before, &copies, named("upload", "b")).await;
    let journal = killed(&journal).await;
    let limits = AdmissionLimits { concurrent: 1, ..AdmissionLimits::default() };
    let after = start(&journal, &copies, limits);
    after.recovered().await.unwrap();
    let other = submit(&after, &copies, named("copy", "c")).await;
    assert_eq!(state(&after, unknown), JobState::Interrupted);
    assert_eq!(after.task(unknown).unwrap().to_json()["result"]["code"], "server_restarted");
    let task = after.task(upload).unwrap().to_json();
    assert_eq!((&task["status"], &task["properties"]["state"]), (&json!("pending"), &json!("recovering")));
    let text = "the server was restarted; it goes on when its client comes back";
    assert_eq!(task["properties"]["waiting"], text);
    assert_eq!(state(&after, other), JobState::Running, "it takes nobody's place while it waits");
    after.abort(other).await.unwrap();
    assert_eq!(after.wait_end(upload).await.unwrap().state(), JobState::Success);
}

#[actix::test]
async fn a_pause_and_an_abort_outlive_the_server() {
    tokio::time::pause();
    let (journal, copies) = (MemoryJournal::new(), Copies::default());
    let before = start(&journal, &copies, AdmissionLimits::default());
    let paused = submit(&before, &copies, named("copy", "paused")).await;
    before.pause(paused).await.unwrap();
    let hung = before.submit(named("copy", "hung"), |_| std::future::pending::<JobEnd>()).await.unwrap().id();
    before.abort(hung).await.unwrap();
    assert_eq!(state(&before, hung), JobState::Running, "it has been told, and has not stopped");
    let journal = killed(&journal).await;
    let after = start(&journal, &copies, AdmissionLimits::default());
    after.recovered().await.unwrap();
    assert_eq!((state(&after, paused), state(&after, hung)), (JobState::Paused, JobState::Aborted));
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(state(&after, paused), JobState::Paused);
    assert_eq!(copies.found.lock().unwrap().len(), 1, "it has not begun again");
    after.resume(paused).await.unwrap();
    assert_eq!(after.wait_end(paused).await.unwrap().state(), JobState::Success);
}

#[actix::test]
async fn a_drain_leaves_to_the_next_server_what_that_can_go_on_with_and_ends_the_rest() {
    tokio::time::pause();
    let (journal, copies) = (MemoryJournal::new(), Copies::default());
    let limits = AdmissionLimits { concurrent: 2, ..AdmissionLimits::default() };
    let before = start(&journal, &copies, limits.clone());
    let at_work = submit(&before, &copies, named("copy", "at work")).await;
    let mut mortal = before
        .submit(named("other", "mortal"), |ctx: JobContext| async move {
            ctx.stop().cancelled().await;
            JobEnd::Failure(JobFailure::new("E", "cut", "cut"))
        })
        .await
        .unwrap();
    let queued = submit(&before, &copies, named("copy", "queued")).await;
    let mut queued_mortal =
        before.submit(named("other", "queued mortal"), |_| std::future::pending::<JobEnd>()).await.unwrap();
    let report = before.drain(Duration::from_secs(3)).await;
    assert_eq!((report.left, report.unsaved), (0, 0), "{report:?}");
    assert_eq!((mortal.end().await, queued_mortal.end().await), (JobEnd::Interrupted, JobEnd::Interrupted));
    let left = |id| journal.get(id).unwrap().state;
    assert_eq!((left(at_work), left(queued)), (JobState::Recovering, JobState::Queued));
    assert_eq!((left(mortal.id()), left(queued_mortal.id())), (JobState::Interrupted, JobState::Interrupted));
    let late = before.pause(queued).await;
    assert!(matches!(late, Err(gantry_actors::EngineError::Draining)), "{late:?}");
    before.abort(queued).await.unwrap();
    assert_eq!(left(queued), JobState::Aborted, "an abort that is answered holds for the next server too");
    let after = start(&journal, &copies, limits);
    assert_eq!(after.recovered().await.unwrap().resumed, 1);
    assert_eq!(after.wait_end(at_work).await.unwrap().state(), JobState::Success);
}

#[actix::test]
async fn a_job_that_fails_in_passing_during_a_drain_is_the_next_servers() {
    tokio::time::pause();
    let (journal, copies) = (MemoryJournal::new(), Copies::default());
    let before = start(&journal, &copies, AdmissionLimits::default());
    let new = NewJob { retry: RetryPolicy::default(), ..named("copy", "a") };
    let work = Work::often(|_| async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        Err::<Value, _>(JobFailure::new("E", "lost", "the connection was lost").transient())
    });
    let id = before.submit_work(new, work).await.unwrap().id();
    let report = before.drain(Duration::from_secs(10)).await;
    assert_eq!((report.left, report.stopped), (0, 0), "{report:?}");
    let record = journal.get(id).unwrap();
    assert_eq!((record.state, record.attempt), (JobState::Recovering, 2));
    let after = start(&journal, &copies, AdmissionLimits::default());
    after.recovered().await.unwrap();
    assert_eq!(after.wait_end(id).await.unwrap().state(), JobState::Success);
}

#[actix::test]
async fn without_anybody_who_knows_how_to_go_on_nothing_does() {
    let (journal, copies) = (MemoryJournal::new(), Copies::default());
    let before = engine(journal.clone());
    let id = submit(&before, &copies, named("copy", "a")).await;
    before.drain(Duration::ZERO).await;
    assert_eq!(journal.get(id).unwrap().state, JobState::Interrupted);
}
