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
    let now_ms = shared.now_ms();
    for live in shared.board.lives() {
        live.request_stop(StopCause::Drain, now_ms);
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
