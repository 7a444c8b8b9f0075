//! The supervisor of jobs: a thin shell around [`Table`].
//!
//! It runs no job and waits for no disk: jobs are tasks on the jobs' runtime, journal calls too, and both
//! come back as small messages. When it dies, the root builds another one, which reads the journal back
//! and finds the jobs at work on the board.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, Message, WrapFuture};
use tokio::sync::oneshot;

use crate::board::Entry;
use crate::error::EngineError;
use crate::id::JobId;
use crate::journal::JournalError;
use crate::live::{JobTicket, Live, StopCause};
use crate::outcome::JobEnd;
use crate::record::{JobRecord, NewJob};
use crate::recovery;
use crate::root::DeathWatch;
use crate::runner::{self, Launch};
use crate::shared::{Backlog, Health, Shared, TaskChange};
use crate::table::{Effect, Ending, Limits, NotForgotten, Refusal, Table};

/// Beat of the housekeeping: refused writes again, retention.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

type Reply<T> = oneshot::Sender<Result<T, EngineError>>;

/// Take a job. The reply comes when it is at work.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Submit {
    pub(crate) new: NewJob,
    pub(crate) run: Launch,
    pub(crate) reply: Reply<JobTicket>,
}

/// Look at a job's cell.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Nudge(pub(crate) JobId);

/// Tell a job to stop.
#[derive(Message)]
#[rtype(result = "Result<(), EngineError>")]
pub(crate) struct Abort(pub(crate) JobId);

/// Forget an ended job, or all of them. The reply is how many.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Forget {
    pub(crate) id: Option<JobId>,
    pub(crate) reply: Reply<usize>,
}

/// Tell every job that the server stops. Handled after the submissions before it. Answers how many there
/// were.
#[derive(Message)]
#[rtype(result = "usize")]
pub(crate) struct StopAll;

/// Do the housekeeping now; also a way to know that the messages before have been handled.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Housekeep;

#[derive(Message)]
#[rtype(result = "()")]
struct Saved {
    id: JobId,
    result: Result<(), JournalError>,
}

#[derive(Message)]
#[rtype(result = "()")]
struct Erased {
    ids: Vec<JobId>,
    result: Result<(), JournalError>,
}

/// A submission on its way.
struct Arriving {
    live: Arc<Live>,
    run: Launch,
    reply: Reply<JobTicket>,
}

/// Somebody who waits until these are gone.
struct Forgetting {
    left: BTreeSet<JobId>,
    count: usize,
    reply: Reply<usize>,
}

pub(crate) struct Transfers {
    shared: Arc<Shared>,
    table: Table,
    arriving: HashMap<JobId, Arriving>,
    forgetting: Vec<Forgetting>,
    first: bool,
    _death: DeathWatch,
}

impl Transfers {
    /// Starts a supervisor in the present actix system. `first`: of this process.
    pub(crate) fn start_supervised(shared: &Arc<Shared>, first: bool, death: DeathWatch) {
        let transfers = Self {
            table: Table::new(Vec::new(), limits(shared), None),
            shared: Arc::clone(shared),
            arriving: HashMap::new(),
            forgetting: Vec::new(),
            first,
            _death: death,
        };
        transfers.start();
    }

    /// Takes over what was found. Messages have waited for this.
    fn take_over(&mut self, found: Vec<(Arc<JobRecord>, bool)>, ctx: &mut Context<Self>) {
        for (record, _) in &found {
            self.show(record);
            if record.state.is_ended() {
                self.settle(record.id);
            }
        }
        self.table = Table::new(found, limits(&self.shared), self.shared.config.node.clone());
        // What was said to the supervisor before, or to nobody.
        for live in self.shared.board.lives() {
            self.look(&live, ctx);
        }
        self.publish_backlog();
    }

    /// Finds out what a job has to say.
    fn look(&mut self, live: &Live, ctx: &mut Context<Self>) {
        live.take_nudge();
        let now_ms = self.shared.now_ms();
        let effects = match live.end() {
            Some(end) => {
                let ending = Ending {
                    end: end.clone(),
                    progress: live.progress.last(matches!(end, JobEnd::Success(_))),
                    abortion_requested_ms: live.abortion_requested_ms(),
                };
                self.table.ended(live.id, ending, now_ms)
            }
            None => self.table.presence(live.id, live.presence(), now_ms),
        };
        self.carry_out(effects, ctx);
    }

    fn carry_out(&mut self, effects: Vec<Effect>, ctx: &mut Context<Self>) {
        for effect in effects {
            match effect {
                Effect::Save(record) => {
                    let (id, transfers) = (record.id, ctx.address());
                    let saving = self.shared.journal_call("save a record", |journal| journal.save(record));
                    let report = async move { transfers.do_send(Saved { id, result: saving.await }) };
                    self.shared.writes.spawn_on(report, &self.shared.jobs);
                }
                Effect::Erase(ids) => {
                    let (copy, transfers) = (ids.clone(), ctx.address());
                    let erasing = self.shared.journal_call("forget records", |journal| journal.forget(copy));
                    let report = async move { transfers.do_send(Erased { ids, result: erasing.await }) };
                    self.shared.writes.spawn_on(report, &self.shared.jobs);
                }
                Effect::Show(record) => self.show(&record),
                Effect::Launch(id) => self.launch(id),
                Effect::Settle(id) => self.settle(id),
                Effect::Remove(ids) => {
                    for id in ids {
                        self.shared.board.remove(id);
                        self.shared.announce(TaskChange::Removed(id));
                    }
                }
            }
        }
        self.publish_backlog();
    }

    fn show(&self, record: &Arc<JobRecord>) {
        let arriving = self.arriving.get(&record.id).map(|arriving| Arc::clone(&arriving.live));
        let live = arriving.or_else(|| self.shared.board.get(record.id).and_then(|entry| entry.live));
        self.shared.board.put(Entry { record: Arc::clone(record), live });
        self.shared.announce(TaskChange::Updated(record.id));
    }

    fn launch(&mut self, id: JobId) {
        let Some(Arriving { live, run, reply }) = self.arriving.remove(&id) else { return };
        let Some(entry) = self.shared.board.get(id) else { return };
        let ticket = live.ticket();
        runner::launch(&self.shared, live, &entry.record, run, move || {
            // Whoever asked may have left; the job is at work all the same.
            let _ = reply.send(Ok(ticket));
        });
    }

    fn settle(&self, id: JobId) {
        let Some(Entry { record, live }) = self.shared.board.get(id) else { return };
        if let Some((live, end)) = live.zip(record.end()) {
            match &end {
                JobEnd::Failure(failure) => {
                    tracing::warn!(%id, kind = record.kind, code = failure.code, error = %failure, "job failed");
                }
                JobEnd::Success(_) | JobEnd::Aborted | JobEnd::Interrupted => {
                    tracing::info!(%id, kind = record.kind, end = record.state.as_str(), "job ended");
                }
            }
            live.settle(end);
        }
        self.shared.board.put(Entry { record, live: None });
    }

    fn publish_backlog(&self) {
        let now = Backlog { unfinished: self.table.unfinished(), unsaved: self.table.unsaved() };
        self.shared.backlog.send_if_modified(|backlog| std::mem::replace(backlog, now) != now);
    }
}

fn limits(shared: &Shared) -> Limits {
    let config = &shared.config;
    Limits { max_unfinished: config.max_unfinished, keep: config.keep, max_age: config.max_age }
}

impl Actor for Transfers {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // First the address, then the look at the jobs' cells: whoever finds no address is found by the look.
        self.shared.transfers.send_replace(Some(ctx.address()));
        let (shared, first) = (Arc::clone(&self.shared), self.first);
        let reading = async move { recovery::read_back(&shared, first).await };
        let taking_over = reading.into_actor(self).map(|read, this, ctx| match read {
            Ok((found, report)) => {
                this.take_over(found, ctx);
                let _ = this.shared.recovered.set(report);
                this.shared.health.send_replace(Health::Ready);
                ctx.run_interval(HOUSEKEEPING, |this, ctx| this.housekeep(ctx));
            }
            Err(error) => {
                tracing::error!(%error, "the jobs cannot be read back");
                ctx.stop();
            }
        });
        ctx.wait(taking_over);
    }
}

impl Transfers {
    fn housekeep(&mut self, ctx: &mut Context<Self>) {
        let effects = self.table.housekeep(self.shared.now_ms());
        self.carry_out(effects, ctx);
    }
}

impl Handler<Submit> for Transfers {
    type Result = ();

    fn handle(&mut self, Submit { new, run, reply }: Submit, ctx: &mut Self::Context) {
        if self.shared.is_draining() {
            let _ = reply.send(Err(EngineError::Draining));
            return;
        }
        match self.table.submit(new, self.shared.now_ms()) {
            Ok((id, effects)) => {
                self.arriving.insert(id, Arriving { live: Live::new(id), run, reply });
                self.carry_out(effects, ctx);
            }
            Err(Refusal::Busy { limit }) => {
                let _ = reply.send(Err(EngineError::Busy { limit }));
            }
        }
    }
}

impl Handler<Saved> for Transfers {
    type Result = ();

    fn handle(&mut self, Saved { id, result }: Saved, ctx: &mut Self::Context) {
        let effects = self.table.saved(id, result.is_ok(), self.shared.now_ms());
        if let Err(error) = result {
            tracing::error!(%id, %error, "a job's record is not journalled");
            if self.table.record(id).is_none()
                && let Some(arriving) = self.arriving.remove(&id)
            {
                let _ = arriving.reply.send(Err(EngineError::Journal(error)));
            }
        }
        self.carry_out(effects, ctx);
    }
}

impl Handler<Nudge> for Transfers {
    type Result = ();

    fn handle(&mut self, Nudge(id): Nudge, ctx: &mut Self::Context) {
        if let Some(live) = self.shared.board.get(id).and_then(|entry| entry.live) {
            self.look(&live, ctx);
        }
    }
}

impl Handler<Abort> for Transfers {
    type Result = Result<(), EngineError>;

    fn handle(&mut self, Abort(id): Abort, _: &mut Self::Context) -> Self::Result {
        let entry = self.shared.board.get(id).ok_or(EngineError::NotFound(id))?;
        let ended = EngineError::NotRunning { id, state: entry.record.state };
        let live = entry.live.filter(|_| !entry.record.state.is_ended()).ok_or(ended)?;
        live.request_stop(StopCause::Abort, self.shared.now_ms());
        self.shared.announce(TaskChange::Updated(id));
        Ok(())
    }
}

impl Handler<Forget> for Transfers {
    type Result = ();

    fn handle(&mut self, Forget { id, reply }: Forget, ctx: &mut Self::Context) {
        let (ids, effects) = match id {
            None => self.table.forget_ended(),
            Some(id) => match self.table.forget(id, self.shared.now_ms()) {
                Ok(effects) => (vec![id], effects),
                Err(NotForgotten::NotFound) => {
                    let _ = reply.send(Err(EngineError::NotFound(id)));
                    return;
                }
                Err(NotForgotten::StillRunning) => {
                    let _ = reply.send(Err(EngineError::StillRunning(id)));
                    return;
                }
            },
        };
        if ids.is_empty() {
            let _ = reply.send(Ok(0));
            return;
        }
        self.forgetting.push(Forgetting { count: ids.len(), left: ids.into_iter().collect(), reply });
        self.carry_out(effects, ctx);
    }
}

impl Handler<Erased> for Transfers {
    type Result = ();

    fn handle(&mut self, Erased { ids, result }: Erased, ctx: &mut Self::Context) {
        let gone: BTreeSet<JobId> = ids.iter().copied().collect();
        let effects = self.table.erased(ids, result.is_ok());
        self.carry_out(effects, ctx);
        let waiting = std::mem::take(&mut self.forgetting);
        for mut forgetting in waiting {
            let before = forgetting.left.len();
            forgetting.left.retain(|id| !gone.contains(id));
            match &result {
                Err(error) if forgetting.left.len() < before => {
                    let _ = forgetting.reply.send(Err(EngineError::Journal(error.clone())));
                }
                Ok(()) if forgetting.left.is_empty() => {
                    let _ = forgetting.reply.send(Ok(forgetting.count));
                }
                Ok(()) | Err(_) => self.forgetting.push(forgetting),
            }
        }
    }
}

impl Handler<StopAll> for Transfers {
    type Result = usize;

    fn handle(&mut self, _: StopAll, _: &mut Self::Context) -> usize {
        let now_ms = self.shared.now_ms();
        let lives = self.shared.board.lives();
        lives.iter().for_each(|live| live.request_stop(StopCause::Drain, now_ms));
        // Jobs whose first write is under way find it when they are launched.
        self.arriving.values().for_each(|arriving| arriving.live.request_stop(StopCause::Drain, now_ms));
        lives.len() + self.arriving.len()
    }
}

impl Handler<Housekeep> for Transfers {
    type Result = ();

    fn handle(&mut self, _: Housekeep, ctx: &mut Self::Context) {
        self.housekeep(ctx);
    }
}

/// Dies of a panic, as a fault in the supervisor would make it.
#[cfg(test)]
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Crash;

#[cfg(test)]
impl Handler<Crash> for Transfers {
    type Result = ();

    fn handle(&mut self, _: Crash, _: &mut Self::Context) {
        panic!("the supervisor was told to crash");
    }
}
