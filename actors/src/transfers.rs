//! The supervisor of jobs: a thin shell around [`Table`].
//!
//! It runs no job and waits for no disk: jobs are tasks on the jobs' runtime, journal calls too, and both
//! come back as small messages. When it dies, the root builds another one, which reads the journal back
//! and finds the jobs at work on the board.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use actix::{
    Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, Message, SpawnHandle, WrapFuture,
};
use tokio::sync::oneshot;

use crate::board::Entry;
use crate::error::EngineError;
use crate::id::JobId;
use crate::journal::JournalError;
use crate::lifecycle::JobState;
use crate::live::{JobTicket, Live, Making, StopCause};
use crate::outcome::{JobEnd, JobFailure};
use crate::record::{JobRecord, NewJob};
use crate::recovery::{self, Found};
use crate::retry;
use crate::root::DeathWatch;
use crate::runner;
use crate::shared::{Backlog, Health, Shared, TaskChange};
use crate::table::{
    Adjustment, Effect, Ending, Here, Known, Limits, Next, Now, Refusal, Submitted, Table, Unfit,
};
use crate::work::Work;

/// Beat of the housekeeping: refused writes again, retention.
const HOUSEKEEPING: Duration = Duration::from_secs(1);

/// Share of the pause between two looks at the queue that each job in it adds.
const LOOKING: Duration = Duration::from_micros(25);
/// A queue that is looked at after each change.
const FEW: u32 = 64;

type Reply<T> = oneshot::Sender<Result<T, EngineError>>;

/// Take a job. The reply comes when it is durable.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Submit {
    pub(crate) new: NewJob,
    pub(crate) work: Work,
    pub(crate) reply: Reply<JobTicket>,
}

/// Look at a job's cell.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Nudge(pub(crate) JobId);

/// Do something to a job that has not ended. The reply comes when that is durable.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Order {
    pub(crate) id: JobId,
    pub(crate) wish: Wish,
    pub(crate) reply: Reply<()>,
}

#[derive(Debug)]
pub(crate) enum Wish {
    Abort,
    Pause(bool),
    Adjust(Adjustment),
    Withdraw(JobFailure),
}

/// Begin no job any more, and stop those that rest. Handled after the submissions before it.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Close;

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
    /// Whoever asked for it, and those who repeated that meanwhile.
    replies: Vec<Reply<JobTicket>>,
}

/// Somebody who waits until what he ordered is durable.
struct Ordered {
    /// Number of the write that says it, if the job needs that many.
    write: u64,
    reply: Reply<()>,
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
    /// Those who wait until what they ordered is durable.
    ordering: HashMap<JobId, Vec<Ordered>>,
    first: bool,
    /// The timer for the next attempt, and when it goes off.
    alarm: Option<(Duration, SpawnHandle)>,
    /// When how those who wait stand was last published.
    looked: Option<Duration>,
    /// The timer for the next time.
    looking: Option<SpawnHandle>,
    _death: DeathWatch,
}

impl Transfers {
    /// Starts a supervisor in the present actix system. `first`: of this process.
    pub(crate) fn start_supervised(shared: &Arc<Shared>, first: bool, death: DeathWatch) {
        let transfers = Self {
            table: Table::empty(limits(shared)),
            shared: Arc::clone(shared),
            arriving: HashMap::new(),
            forgetting: Vec::new(),
            ordering: HashMap::new(),
            first,
            alarm: None,
            looked: None,
            looking: None,
            _death: death,
        };
        transfers.start();
    }

    fn now(&self) -> Now {
        Now { ms: self.shared.now_ms(), elapsed: self.shared.elapsed() }
    }

    /// Takes over what was found. Messages have waited for this.
    fn take_over(&mut self, found: Vec<Found>, ctx: &mut Context<Self>) {
        let mut known = Vec::with_capacity(found.len());
        for Found { record, unsaved, live } in found {
            let here = live.as_ref().map(|live| self.find(live, &record));
            if live.is_some() {
                self.shared.board.put(Entry { record: Arc::clone(&record), live });
            }
            self.show(&record);
            if record.state.is_ended() {
                self.settle(record.id);
            }
            known.push(Known { record, unsaved, here });
        }
        let node = self.shared.config.node.clone();
        let closed = self.shared.is_draining();
        let (table, effects) = Table::new(known, limits(&self.shared), node, closed, self.now());
        self.table = table;
        self.carry_out(effects, ctx);
        if self.shared.is_draining() {
            self.close(ctx);
        }
        if self.shared.is_stopping() {
            self.shared.board.lives().iter().for_each(|live| live.request_stop(StopCause::Drain));
        }
        // What was said to the supervisor before, or to nobody.
        for live in self.shared.board.lives() {
            self.look(&live, ctx);
        }
        self.publish_backlog();
    }

    /// Brings a cell into agreement with its record, as far as the supervisor before has not come to it.
    fn find(&self, live: &Live, record: &JobRecord) -> Here {
        live.throttle.set_own(record.spec.control.bandwidth);
        if live.has_begun() && live.epoch() < record.epoch {
            // Its failure is dealt with: told again, it would be the next attempt's.
            let delay = live.retry.delay_after(record.attempt.saturating_sub(1), retry::chance());
            live.rest(self.shared.elapsed().saturating_add(delay.unwrap_or_default()));
        }
        Here {
            goes_on: live.resumable,
            begun: live.has_begun(),
            holds: live.holds(),
            open: live.is_open(),
            presence: live.presence(),
            progress: live.progress.last(false),
            due: live.due(),
        }
    }

    /// Finds out what a job has to say.
    fn look(&mut self, live: &Live, ctx: &mut Context<Self>) {
        live.take_nudge();
        let now = self.now();
        let checkpoint = live.checkpoint();
        let effects = match live.end() {
            Some(end) => {
                let progress = live.progress.last(matches!(end, JobEnd::Success(_)));
                let next = self.next_of(live, &end);
                self.table.ended(live.id, Ending { end, progress, checkpoint, next }, now)
            }
            None => {
                self.table.note_progress(live.id, live.progress.last(false));
                self.table.says(live.id, live.presence(), checkpoint, now)
            }
        };
        self.carry_out(effects, ctx);
    }

    /// What follows the end of an attempt.
    fn next_of(&self, live: &Live, end: &JobEnd) -> Next {
        let attempt = self.table.record(live.id).map_or(u32::MAX, |record| record.attempt);
        let draining = self.shared.is_draining();
        match end {
            JobEnd::Interrupted if live.resumable && draining => Next::Suspend,
            JobEnd::Failure(failure) if failure.transient && live.stop_cause().is_none() => {
                match live.retry.delay_after(attempt, retry::chance()) {
                    Some(_) if draining && live.resumable => Next::Suspend,
                    Some(delay) if !draining && live.can_begin() => Next::Retry(delay),
                    _ => Next::Nothing,
                }
            }
            _ => Next::Nothing,
        }
    }

    fn live(&self, id: JobId) -> Option<Arc<Live>> {
        let arriving = self.arriving.get(&id).map(|arriving| Arc::clone(&arriving.live));
        arriving.or_else(|| self.shared.board.get(id).and_then(|entry| entry.live))
    }

    fn close(&mut self, ctx: &mut Context<Self>) {
        let now = self.now();
        let (resting, effects) = self.table.close(now);
        for id in resting {
            if let Some(live) = self.shared.board.get(id).and_then(|entry| entry.live) {
                live.request_stop(StopCause::Drain);
            }
        }
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
                    self.shared.board.forget(&ids);
                    let (copy, transfers) = (ids.clone(), ctx.address());
                    let erasing = self.shared.journal_call("forget records", |journal| journal.forget(copy));
                    let report = async move { transfers.do_send(Erased { ids, result: erasing.await }) };
                    self.shared.writes.spawn_on(report, &self.shared.jobs);
                }
                Effect::Show(record) => self.show(&record),
                Effect::Answer(id) => {
                    if let Some(Arriving { live, replies }) = self.arriving.remove(&id) {
                        for reply in replies {
                            // Whoever asked may have left; it is a job all the same.
                            let _ = reply.send(Ok(live.ticket()));
                        }
                    }
                }
                Effect::Launch(id) => self.launch(id),
                Effect::Rest(id, due) => self.with_live(id, |live| live.rest(due)),
                Effect::Gate(id, open) => self.with_live(id, |live| live.set_gate(open)),
                Effect::Stop(id) => self.with_live(id, |live| live.request_stop(StopCause::Abort)),
                Effect::Throttle(id, rate) => self.with_live(id, |live| live.throttle.set_own(rate)),
                Effect::Settle(id) | Effect::Suspend(id) => self.settle(id),
                Effect::Remove(ids) => {
                    for id in ids {
                        self.shared.board.remove(id);
                        self.shared.announce(TaskChange::Removed(id));
                    }
                }
            }
        }
        self.publish_backlog();
        self.publish_waits(ctx);
        self.set_alarm(ctx);
    }

    /// Answers those whose orders were in the write that came back, or need none any more.
    fn answer_orders(&mut self, id: JobId, written: u64, error: Option<&JournalError>) {
        let Some(waiting) = self.ordering.remove(&id) else { return };
        let idle = self.table.write_under_way(id).is_none();
        let (done, left): (Vec<_>, Vec<_>) =
            waiting.into_iter().partition(|ordered| idle || ordered.write <= written);
        for Ordered { reply, .. } in done {
            let _ = reply.send(error.map_or(Ok(()), |error| Err(EngineError::Journal(error.clone()))));
        }
        if !left.is_empty() {
            self.ordering.insert(id, left);
        }
    }

    /// Wakes the table when the next attempt of a job is due.
    fn set_alarm(&mut self, ctx: &mut Context<Self>) {
        let now = self.now();
        let Some(due) = self.table.next_due(now) else { return };
        if let Some((alarm, timer)) = self.alarm {
            if alarm <= due {
                return;
            }
            ctx.cancel_future(timer);
        }
        let timer = ctx.run_later(due.saturating_sub(now.elapsed), |this, ctx| {
            this.alarm = None;
            let effects = this.table.wake(this.now());
            this.carry_out(effects, ctx);
        });
        self.alarm = Some((due, timer));
    }

    fn with_live(&self, id: JobId, act: impl FnOnce(&Live)) {
        if let Some(live) = self.shared.board.get(id).and_then(|entry| entry.live) {
            act(&live);
        }
    }

    fn show(&self, record: &Arc<JobRecord>) {
        let live = self.live(record.id);
        self.shared.board.put(Entry { record: Arc::clone(record), live });
        self.shared.announce(TaskChange::Updated(record.id));
    }

    fn launch(&self, id: JobId) {
        let Some(Entry { record, live: Some(live) }) = self.shared.board.get(id) else { return };
        match live.begin_attempt(record.epoch) {
            Some(run) => {
                if self.shared.is_stopping() {
                    live.request_stop(StopCause::Drain);
                }
                runner::launch(&self.shared, live, &record, run);
            }
            None => {
                live.set_end(JobEnd::Failure(JobFailure::new(
                    "EngineError",
                    "nothing_to_do",
                    "the job's work was used up by an attempt before",
                )));
                self.shared.nudge(&live);
            }
        }
    }

    /// Tells the ticket and lets the cell go.
    fn settle(&self, id: JobId) {
        let Some(Entry { record, live }) = self.shared.board.get(id) else { return };
        if let Some(live) = live {
            let end = record.end().unwrap_or(JobEnd::Interrupted);
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

    /// Publishes how those who wait stand: at once while they are few, and else so seldom that looking through
    /// them takes a small share of the time.
    fn publish_waits(&mut self, ctx: &mut Context<Self>) {
        if self.looking.is_some() {
            return;
        }
        let now = self.now();
        let length = u32::try_from(self.table.waiting()).unwrap_or(u32::MAX);
        let due = self.looked.map_or(Duration::ZERO, |looked| looked + LOOKING.saturating_mul(length));
        if due <= now.elapsed || length <= FEW {
            self.looked = Some(now.elapsed);
            let waits = self.table.waits(now);
            if !waits.is_empty() || !self.shared.board.waits().is_empty() {
                self.shared.board.set_waits(waits);
            }
        } else {
            self.looking = Some(ctx.run_later(due - now.elapsed, |this, ctx| {
                this.looking = None;
                this.publish_waits(ctx);
            }));
        }
    }
}

fn limits(shared: &Shared) -> Limits {
    let config = &shared.config;
    Limits {
        max_unfinished: config.max_unfinished,
        keep: config.keep,
        max_age: config.max_age,
        admission: shared.limits.borrow().clone(),
    }
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
        let now = self.now();
        let limits = self.shared.limits.borrow().clone();
        let mut effects = self.table.set_limits(limits, now);
        effects.extend(self.table.housekeep(now));
        self.carry_out(effects, ctx);
    }
}

impl Handler<Submit> for Transfers {
    type Result = ();

    fn handle(&mut self, Submit { new, work, reply }: Submit, ctx: &mut Self::Context) {
        if self.shared.is_draining() {
            let _ = reply.send(Err(EngineError::Draining));
            return;
        }
        let making = Making {
            work,
            retry: new.retry,
            timeout: new.timeout,
            throttle: self.shared.bandwidth.throttle(&new.groups, new.bandwidth),
            resumable: self.shared.resume.can_resume(&new.kind),
            presence: JobState::Running,
        };
        match self.table.submit(new, making.resumable, self.now()) {
            Ok(Submitted::New(id, effects)) => {
                self.arriving.insert(id, Arriving { live: Live::new(id, making), replies: vec![reply] });
                self.carry_out(effects, ctx);
            }
            Ok(Submitted::Same(id)) => {
                if let Some(arriving) = self.arriving.get_mut(&id) {
                    // It is answered as the first one is.
                    arriving.replies.retain(|reply| !reply.is_closed());
                    arriving.replies.push(reply);
                    return;
                }
                let entry = self.shared.board.get(id);
                let ticket = entry.and_then(|entry| match entry.live {
                    Some(live) => Some(live.ticket()),
                    None => Some(JobTicket::of_ended(id, entry.record.end()?)),
                });
                // One that is left to the next server has nothing here to wait for.
                let _ = reply.send(ticket.ok_or(EngineError::Unavailable));
            }
            Err(Refusal::Busy { limit }) => {
                let _ = reply.send(Err(EngineError::Busy { limit }));
            }
            Err(Refusal::KeyReused { id }) => {
                let _ = reply.send(Err(EngineError::KeyReused { id }));
            }
        }
    }
}

impl Handler<Saved> for Transfers {
    type Result = ();

    fn handle(&mut self, Saved { id, result }: Saved, ctx: &mut Self::Context) {
        let written = self.table.write_under_way(id).unwrap_or_default();
        let effects = self.table.saved(id, result.is_ok(), self.now());
        let error = result.err();
        if let Some(error) = &error {
            tracing::error!(%id, %error, "a job's record is not journalled");
            if self.table.record(id).is_none()
                && let Some(arriving) = self.arriving.remove(&id)
            {
                for reply in arriving.replies {
                    let _ = reply.send(Err(EngineError::Journal(error.clone())));
                }
            }
        }
        self.carry_out(effects, ctx);
        self.answer_orders(id, written, error.as_ref());
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

impl Handler<Order> for Transfers {
    type Result = ();

    fn handle(&mut self, Order { id, wish, reply }: Order, ctx: &mut Self::Context) {
        let now = self.now();
        if let Some(live) = self.live(id) {
            self.table.note_progress(id, live.progress.last(false));
        }
        let before = self.table.write_under_way(id);
        let done = match wish {
            Wish::Abort => self.table.abort(id, now),
            Wish::Pause(paused) => self.table.pause(id, paused, now),
            Wish::Adjust(to) => self.table.adjust(id, to, now),
            Wish::Withdraw(failure) => self.table.withdraw(id, failure, now),
        };
        match done {
            Err(unfit) => {
                let _ = reply.send(Err(refusal(id, unfit)));
            }
            Ok(effects) => {
                match self.table.write_under_way(id) {
                    // Nothing of it has to be written.
                    None => drop(reply.send(Ok(()))),
                    Some(write) => {
                        // The one that was under way before does not say it.
                        let write = if before == Some(write) { write + 1 } else { write };
                        self.ordering.entry(id).or_default().push(Ordered { write, reply });
                    }
                }
                self.carry_out(effects, ctx);
            }
        }
    }
}

fn refusal(id: JobId, unfit: Unfit) -> EngineError {
    match unfit {
        Unfit::NotFound => EngineError::NotFound(id),
        Unfit::Ended(state) => EngineError::NotRunning { id, state },
        Unfit::StillRunning => EngineError::StillRunning(id),
        Unfit::AtWork => EngineError::AtWork(id),
        Unfit::Left => EngineError::Draining,
    }
}

impl Handler<Close> for Transfers {
    type Result = ();

    fn handle(&mut self, _: Close, ctx: &mut Self::Context) {
        self.close(ctx);
    }
}

impl Handler<Forget> for Transfers {
    type Result = ();

    fn handle(&mut self, Forget { id, reply }: Forget, ctx: &mut Self::Context) {
        let (ids, effects) = match id {
            None => self.table.forget_ended(),
            Some(id) => match self.table.forget(id, self.now()) {
                Ok(effects) => (vec![id], effects),
                Err(unfit) => {
                    let _ = reply.send(Err(refusal(id, unfit)));
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
        self.shared.board.forgotten(&ids);
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
        let lives = self.shared.board.lives();
        lives.iter().for_each(|live| live.request_stop(StopCause::Drain));
        // Jobs whose first write is under way find it when they are launched.
        self.arriving.values().for_each(|arriving| arriving.live.request_stop(StopCause::Drain));
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
