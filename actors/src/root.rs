//! The root of the tree: starts the engine's actors and builds those that died again.
//!
//! An actor that panics is simply gone, and actix tells nobody. So each child holds a [`DeathWatch`], whose
//! other end the root awaits. Rebuilding is the root's own: with a delay, and with a limit past which the
//! failure goes up.

use std::sync::Arc;

use actix::{Actor, ActorFutureExt, AsyncContext, Context, WrapFuture};
use tokio::sync::oneshot;

use crate::live::StopCause;
use crate::outcome::JobEnd;
use crate::restarts::{Restarts, Verdict};
use crate::sampler::Sampler;
use crate::shared::{Health, Shared};
use crate::transfers::Transfers;

/// Held inside an actor: when it goes, whoever holds the other end knows.
#[derive(Debug)]
pub(crate) struct DeathWatch(#[expect(dead_code, reason = "its drop is its message")] oneshot::Sender<()>);

impl DeathWatch {
    pub(crate) fn new() -> (Self, oneshot::Receiver<()>) {
        let (sender, receiver) = oneshot::channel();
        (Self(sender), receiver)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Child {
    Transfers,
    Sampler,
}

pub(crate) struct Root {
    shared: Arc<Shared>,
    transfers: Restarts,
    sampler: Restarts,
    _death: DeathWatch,
}

impl Root {
    pub(crate) fn start_supervised(shared: &Arc<Shared>, death: DeathWatch) {
        let policy = shared.config.restart;
        let root = Self {
            shared: Arc::clone(shared),
            transfers: Restarts::new(policy),
            sampler: Restarts::new(policy),
            _death: death,
        };
        root.start();
    }

    fn start_child(&mut self, child: Child, ctx: &mut Context<Self>) {
        let (death, died) = DeathWatch::new();
        match child {
            // As long as nothing was read back, it is still this process's first.
            Child::Transfers => {
                Transfers::start_supervised(&self.shared, self.shared.recovered.get().is_none(), death);
            }
            Child::Sampler => Sampler::start_supervised(&self.shared, death),
        }
        ctx.spawn(died.into_actor(self).map(move |_, root, ctx| root.child_died(child, ctx)));
    }

    fn child_died(&mut self, child: Child, ctx: &mut Context<Self>) {
        let elapsed = self.shared.elapsed();
        let restarts = match child {
            Child::Transfers => &mut self.transfers,
            Child::Sampler => &mut self.sampler,
        };
        let verdict = restarts.died(elapsed);
        if child == Child::Transfers {
            self.shared.transfers.send_replace(None);
            self.shared.health.send_replace(Health::Restarting);
        }
        match verdict {
            Verdict::RestartAfter(delay) => {
                tracing::error!(?child, ?delay, "a part of the engine died and will be rebuilt");
                ctx.run_later(delay, move |root, ctx| root.start_child(child, ctx));
            }
            Verdict::GiveUp => {
                tracing::error!(?child, "a part of the engine died too often");
                give_up(&self.shared, Health::Failed);
            }
        }
    }
}

/// The end of the engine: nobody supervises any more, so the jobs are told to stop, and those who wait for
/// their ends are told that there is nothing to wait for.
pub(crate) fn give_up(shared: &Shared, health: Health) {
    shared.begin_draining();
    shared.transfers.send_replace(None);
    shared.health.send_replace(health);
    for live in shared.board.lives() {
        live.request_stop(StopCause::Drain);
        live.settle(JobEnd::Interrupted);
    }
}

impl Actor for Root {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.start_child(Child::Transfers, ctx);
        self.start_child(Child::Sampler, ctx);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use std::future::pending;
    use tokio::runtime::Handle;
    use tokio::sync::oneshot;

    use super::*;
    use crate::{
        EngineConfig, EngineError, EngineHandle, JobContext, JobState, MemoryJournal, NewJob, TaskProperties,
    };

    fn engine(journal: &MemoryJournal) -> EngineHandle {
        tokio::time::pause();
        EngineHandle::start_here(EngineConfig::default(), Arc::new(journal.clone()), Handle::current())
    }

    fn job() -> NewJob {
        NewJob::new("test", TaskProperties::default())
    }

    #[actix::test]
    async fn a_supervisor_that_died_is_rebuilt_and_the_ends_of_running_jobs_still_arrive() {
        let journal = MemoryJournal::new();
        let engine = engine(&journal);
        let (go, gone) = oneshot::channel::<()>();
        let finishing = move |ctx: JobContext| async move {
            gone.await.ok();
            ctx.set_detached();
            JobEnd::Success(json!({ "id": "x" }))
        };
        let mut during = engine.submit(job(), finishing).await.unwrap();
        let leaving = |ctx: JobContext| async move {
            tokio::task::yield_now().await;
            ctx.set_detached();
            pending::<JobEnd>().await
        };
        let mut after = engine.submit(job(), leaving).await.unwrap();
        engine.crash_transfers().await;
        // Ends while there is no supervisor.
        go.send(()).unwrap();
        assert_eq!(during.end().await, JobEnd::Success(json!({ "id": "x" })));
        assert_eq!(journal.get(during.id()).unwrap().state, JobState::Success);
        engine.wait_until(after.id(), |view| view.state() == JobState::Detached).await.unwrap();
        assert_eq!(engine.health(), Health::Ready);

        engine.abort(after.id()).await.unwrap();
        assert_eq!(after.end().await, JobEnd::Aborted, "a job from before answers to the new supervisor");
        let mut new = engine.submit(job(), |_| async { JobEnd::Success(Value::Null) }).await.unwrap();
        assert_eq!(new.end().await, JobEnd::Success(Value::Null));
        assert!(new.id() > after.id());
    }

    #[actix::test]
    async fn a_submission_during_the_rebuilding_waits_for_it() {
        let engine = engine(&MemoryJournal::new());
        engine.recovered().await.unwrap();
        engine.crash_transfers().await;
        let begun = tokio::time::Instant::now();
        let mut ticket = engine.submit(job(), |_| async { JobEnd::Success(Value::Null) }).await.unwrap();
        assert_eq!(ticket.end().await, JobEnd::Success(Value::Null));
        assert!(begun.elapsed() >= EngineConfig::default().restart.delay, "{:?}", begun.elapsed());
    }

    #[actix::test]
    async fn a_supervisor_that_dies_too_often_fails_the_engine_and_stops_the_jobs() {
        let engine = engine(&MemoryJournal::new());
        let (stopped, was_stopped) = oneshot::channel();
        let run = move |ctx: JobContext| async move {
            ctx.stop().cancelled().await;
            stopped.send(()).ok();
            JobEnd::Aborted
        };
        let mut ticket = engine.submit(job(), run).await.unwrap();
        for _ in 0..=EngineConfig::default().restart.limit {
            engine.crash_transfers().await;
        }
        assert_eq!(ticket.end().await, JobEnd::Interrupted);
        was_stopped.await.unwrap();
        assert_eq!(engine.health(), Health::Failed);
        let refused = engine.submit(job(), |_| async { JobEnd::Aborted }).await;
        assert!(matches!(refused, Err(EngineError::Draining)));
        assert!(matches!(engine.abort(ticket.id()).await, Err(EngineError::Stopped)));
    }

    #[actix::test]
    async fn a_job_that_was_submitted_to_a_dead_supervisor_does_not_run() {
        let engine = engine(&MemoryJournal::new());
        engine.recovered().await.unwrap();
        let transfers = engine.shared().transfers.borrow().clone().unwrap();
        engine.crash_transfers().await;
        let (reply, answer) = oneshot::channel();
        let work = crate::Work::once(|_| -> std::future::Ready<JobEnd> { unreachable!("it must not run") });
        transfers.do_send(crate::transfers::Submit { new: job(), work, reply });
        assert!(answer.await.is_err());
    }
}
