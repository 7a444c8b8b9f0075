//! The supervisor's decisions: what happens to which job next. No actix, no clock, no IO.
//!
//! Inputs are what has happened (a submission, a wish, a write that came back, an end), with the time; answers are
//! [`Effect`]s for the actor to carry out, in order. Each cell holds facts: what was wished, what the job said,
//! whether it has a place. What state they amount to is computed; when that differs from the record, the new
//! record is written, and only a written one takes effect. For each job at most one write is under way; facts that
//! come meanwhile are looked at when it is done, so nothing queues up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use crate::admission::{Admission, AdmissionLimits, Needs, Waiting};
use crate::id::{JobId, JobIds};
use crate::lifecycle::{JobState, transition};
use crate::outcome::{JobEnd, JobFailure};
use crate::record::{Control, Durability, FinalProgress, JobRecord, NewJob};

/// For how long an idempotency key names its job.
const KEY_LIFE: Duration = Duration::from_secs(24 * 3600);

/// One moment on both clocks.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Now {
    /// Unix milliseconds.
    pub(crate) ms: u64,
    /// Since the engine was made, on a clock that does not step.
    pub(crate) elapsed: Duration,
}

/// Something for the actor to do.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Effect {
    /// Write this; report back by [`Table::saved`].
    Save(Arc<JobRecord>),
    /// Publish this and tell watchers.
    Show(Arc<JobRecord>),
    /// The submission is durable: answer it.
    Answer(JobId),
    /// Start the job's task.
    Launch(JobId),
    /// The attempt is over and another one will come, not before then: forget its end.
    Rest(JobId, Duration),
    /// Let the job's bytes move, or hold them.
    Gate(JobId, bool),
    /// Tell the job to stop, because somebody asked for its abort.
    Stop(JobId),
    /// Change the job's own bandwidth.
    Throttle(JobId, Option<u64>),
    /// The job has ended for everybody: tell its ticket, let its cell go.
    Settle(JobId),
    /// The job goes on with the next server: tell its ticket, let its cell go.
    Suspend(JobId),
    /// Remove these from the journal; report back by [`Table::erased`].
    Erase(Vec<JobId>),
    /// Removed from the journal: take these from the board too, and tell watchers.
    Remove(Vec<JobId>),
}

/// What became of a submission.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Submitted {
    /// It is a job now.
    New(JobId, Vec<Effect>),
    /// It is the repetition of one.
    Same(JobId),
}

/// Why a submission is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    Busy {
        limit: usize,
    },
    /// Its key names another job.
    KeyReused {
        id: JobId,
    },
}

/// Why nothing was done to a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Unfit {
    NotFound,
    /// It has ended, and that would need one that has not.
    Ended(JobState),
    /// It has not ended, and that would need one that has.
    StillRunning,
    /// It is at work, and that would need one that waits.
    AtWork,
    /// It is left to the next server.
    Left,
}

/// The end of an attempt, and how far it came.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ending {
    pub(crate) end: JobEnd,
    pub(crate) progress: FinalProgress,
    /// From where the next attempt can go on.
    pub(crate) checkpoint: Option<Value>,
    pub(crate) next: Next,
}

/// What follows the end of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Next {
    /// Nothing: the job has ended.
    Nothing,
    /// Another attempt, so much later.
    Retry(Duration),
    /// The next server goes on.
    Suspend,
}

/// What is wished to be different. `None` leaves it as it is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Adjustment {
    /// The larger, the sooner.
    pub priority: Option<i32>,
    /// Most bytes per second; `Some(None)` takes the job's own limit away.
    pub bandwidth: Option<Option<u64>>,
}

#[derive(Debug, Clone)]
pub(crate) struct Limits {
    pub(crate) max_unfinished: usize,
    pub(crate) keep: usize,
    pub(crate) max_age: Duration,
    pub(crate) admission: AdmissionLimits,
}

/// A job that is known when the table is made.
#[derive(Debug, Clone)]
pub(crate) struct Known {
    pub(crate) record: Arc<JobRecord>,
    /// The journal has an older version.
    pub(crate) unsaved: bool,
    /// What there is of it in this process, unless it has ended.
    pub(crate) here: Option<Here>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Here {
    /// The next server can go on with it.
    pub(crate) goes_on: bool,
    /// Its task has been started.
    pub(crate) begun: bool,
    /// That task has had a place, and with it what the job claims.
    pub(crate) holds: bool,
    /// Its gate is open.
    pub(crate) open: bool,
    /// Where it says that it is.
    pub(crate) presence: JobState,
    /// How far it has come.
    pub(crate) progress: FinalProgress,
    /// When its next attempt is due, if it waits for one.
    pub(crate) due: Duration,
}

#[derive(Debug)]
struct Cell {
    /// What everybody sees.
    record: Arc<JobRecord>,
    /// What is being written.
    saving: Option<Arc<JobRecord>>,
    /// The job is being removed from the journal.
    erasing: bool,
    /// Its submission has not been answered: the first write is under way. What becomes of it if that is refused.
    held: Option<Durability>,
    /// The journal refused the last write.
    unsaved: bool,
    /// An attempt's task has been started and has not ended.
    begun: bool,
    /// Whether the gate was opened.
    open: bool,
    /// The job has been told to stop.
    stopping: bool,
    /// The next server can go on with it.
    goes_on: bool,
    /// The next server goes on; there is nothing of it here any more.
    suspended: bool,
    // What was wished and said.
    paused: bool,
    presence: JobState,
    control: Option<Control>,
    checkpoint: Option<Value>,
    ending: Option<Ending>,
    /// When the next attempt is due, while that is being written.
    again_at: Option<Duration>,
    /// It does not begin before.
    due: Duration,
    /// How far it has come, as far as that is known here. Written with whatever else is.
    progress: FinalProgress,
    /// Number of the last write that was begun.
    writes: u64,
    forget: bool,
}

impl Cell {
    fn new(record: Arc<JobRecord>) -> Self {
        Self {
            paused: record.state == JobState::Paused,
            record,
            saving: None,
            erasing: false,
            held: None,
            unsaved: false,
            begun: false,
            open: false,
            stopping: false,
            goes_on: false,
            suspended: false,
            presence: JobState::Running,
            control: None,
            checkpoint: None,
            ending: None,
            again_at: None,
            due: Duration::ZERO,
            progress: FinalProgress::default(),
            writes: 0,
            forget: false,
        }
    }

    /// Begins a write. The caller has seen that none is under way.
    fn save(&mut self, record: Arc<JobRecord>) -> Effect {
        self.writes += 1;
        self.saving = Some(Arc::clone(&record));
        Effect::Save(record)
    }

    /// Ends it although no attempt of it is at work.
    fn end_at_rest(&mut self, end: JobEnd, next: Next) {
        let progress = self.progress;
        self.ending.get_or_insert(Ending { end, progress, checkpoint: None, next });
    }

    /// The same record, of which something will be different. Later than it, whatever the clock says: which of
    /// two versions of one epoch is the newer is told by that.
    fn successor(&self, now: Now) -> JobRecord {
        let updated_ms = now.ms.max(self.record.updated_ms.saturating_add(1));
        JobRecord { updated_ms, ..JobRecord::clone(&self.record) }
    }

    fn is_idle(&self) -> bool {
        self.saving.is_none() && !self.erasing
    }

    fn has_settled(&self) -> bool {
        self.record.state.is_ended()
    }

    /// Whether it is for this process to bring it to an end.
    fn is_unfinished(&self) -> bool {
        !self.has_settled() && !self.suspended
    }

    /// The control as it will be when everything wished is written.
    fn control(&mut self) -> &mut Control {
        let latest = self.saving.as_ref().unwrap_or(&self.record);
        self.control.get_or_insert_with(|| latest.spec.control.clone())
    }

    fn needs(&self) -> Needs {
        let control = self.control.as_ref().unwrap_or(&self.record.spec.control);
        Needs {
            owner: self.record.owner.clone(),
            priority: control.priority,
            claims: self.record.claims.as_slice().into(),
            groups: control.groups.as_slice().into(),
        }
    }

    /// Whether it should wait for a place, or have one.
    fn wants_place(&self) -> bool {
        let over = self.ending.is_some() || !self.is_unfinished() || self.ends();
        !over && !self.paused && self.presence == JobState::Running
    }

    /// Whether the write under way is an end, of the job or of an attempt.
    fn ends(&self) -> bool {
        self.saving.as_ref().is_some_and(|saving| saving.state.is_ended())
    }

    /// The state that the facts amount to.
    fn wanted(&self, has_place: bool) -> JobState {
        match self.presence {
            _ if self.paused => JobState::Paused,
            JobState::Running if has_place => JobState::Running,
            JobState::Running => JobState::Queued,
            presence => presence,
        }
    }

    /// The next record, when the facts amount to another one.
    fn next_record(&mut self, has_place: bool, now: Now) -> Option<JobRecord> {
        if let Some(ending) = self.ending.take() {
            return Some(self.record_of_ending(ending, now));
        }
        let wanted = self.wanted(has_place);
        let state = transition(self.record.state, wanted).ok();
        let control = self.control.take().filter(|control| *control != self.record.spec.control);
        let checkpoint =
            self.checkpoint.take().filter(|checkpoint| *checkpoint != self.record.spec.checkpoint);
        if state.is_none() && control.is_none() && checkpoint.is_none() {
            return None;
        }
        let mut record = self.successor(now);
        record.spec.progress = self.progress;
        if let Some(state) = state {
            record.state = state;
            if state == JobState::Running {
                record.started_ms.get_or_insert(now.ms);
            }
        }
        if let Some(control) = control {
            record.spec.control = control;
        }
        if let Some(checkpoint) = checkpoint {
            record.spec.checkpoint = checkpoint;
        }
        Some(record)
    }

    fn record_of_ending(&mut self, ending: Ending, now: Now) -> JobRecord {
        let mut record = self.successor(now);
        record.spec.progress = ending.progress;
        if let Some(control) = self.control.take() {
            record.spec.control = control;
        }
        if let Some(checkpoint) = ending.checkpoint.or(self.checkpoint.take()) {
            record.spec.checkpoint = checkpoint;
        }
        // Whoever asked for its abort was told that it stops.
        let stopped = record.spec.control.abort_requested_ms.is_some();
        match ending.next {
            next if stopped && (next != Next::Nothing || ending.end == JobEnd::Interrupted) => {
                JobRecord::clone(&record.ended(&JobEnd::Aborted, None, ending.progress, now.ms))
            }
            Next::Nothing => JobRecord::clone(&record.ended(&ending.end, None, ending.progress, now.ms)),
            Next::Retry(delay) => {
                self.again_at = Some(now.elapsed.saturating_add(delay));
                self.begun = false;
                // Where the attempt was says nothing of the next one.
                self.presence = JobState::Running;
                self.progress = ending.progress;
                if let JobEnd::Failure(failure) = ending.end {
                    record.spec.control.last_failure = Some(failure);
                }
                let (attempt, epoch) = (record.attempt + 1, record.epoch + 1);
                let state = if self.paused { JobState::Paused } else { JobState::Queued };
                JobRecord { state, attempt, epoch, ..record }
            }
            Next::Suspend => {
                self.suspended = true;
                self.begun = false;
                let state = match record.state {
                    kept @ (JobState::Paused | JobState::Queued) => kept,
                    _ => JobState::Recovering,
                };
                let mut attempt = record.attempt;
                if let JobEnd::Failure(failure) = ending.end {
                    // The next server is the next attempt.
                    record.spec.control.last_failure = Some(failure);
                    attempt += 1;
                }
                JobRecord { state, attempt, ..record }
            }
        }
    }
}

#[derive(Debug)]
pub(crate) struct Table {
    cells: BTreeMap<JobId, Cell>,
    ids: JobIds,
    limits: Limits,
    node: Option<String>,
    admission: Admission,
    /// Those that this process has to bring to an end, and those of which the journal has an older version: kept,
    /// because they are counted at every turn.
    unfinished: BTreeSet<JobId>,
    unsaved: BTreeSet<JobId>,
    /// No job begins any more.
    closed: bool,
}

impl Table {
    /// An empty table.
    pub(crate) fn empty(limits: Limits) -> Self {
        Self::new(Vec::new(), limits, None, false, Now::default()).0
    }

    /// A table with the jobs of former runs, those that go on, and, after a rebuild, those at work. `closed`: no
    /// job begins.
    pub(crate) fn new(
        known: Vec<Known>,
        limits: Limits,
        node: Option<String>,
        closed: bool,
        now: Now,
    ) -> (Self, Vec<Effect>) {
        let newest = known.iter().map(|known| known.record.id).max();
        let admission = Admission::new(limits.admission.clone());
        let mut table = Self {
            cells: BTreeMap::new(),
            ids: JobIds::after(newest),
            limits,
            node,
            admission,
            unfinished: BTreeSet::new(),
            unsaved: BTreeSet::new(),
            closed,
        };
        let mut here = Vec::new();
        for Known { record, unsaved, here: found } in known {
            let id = record.id;
            let mut cell = Cell { unsaved, ..Cell::new(record) };
            if let Some(found) = found.filter(|_| !cell.has_settled()) {
                cell.goes_on = found.goes_on;
                cell.begun = found.begun;
                cell.open = found.open;
                cell.presence = found.presence;
                cell.progress = found.progress;
                cell.due = found.due;
                if cell.record.state == JobState::Running {
                    table.admission.occupy(id, cell.needs());
                } else if found.begun && found.holds {
                    table.admission.occupy_parked(id, cell.needs());
                }
                here.push(id);
            } else if !cell.has_settled() {
                cell.suspended = true;
            }
            table.cells.insert(id, cell);
            table.count(id);
        }
        let mut effects: Vec<Effect> = here.iter().flat_map(|id| table.settle_in(*id, now)).collect();
        effects.extend(table.admit(now));
        for id in here {
            effects.extend(table.go_on(id, now));
        }
        (table, effects)
    }

    pub(crate) fn unfinished(&self) -> usize {
        self.unfinished.len()
    }

    pub(crate) fn unsaved(&self) -> usize {
        self.unsaved.len()
    }

    /// Counts a job as what it is now.
    fn count(&mut self, id: JobId) {
        let cell = self.cells.get(&id);
        for (set, counts) in [
            (&mut self.unfinished, cell.is_some_and(Cell::is_unfinished)),
            (&mut self.unsaved, cell.is_some_and(|cell| cell.unsaved)),
        ] {
            if counts {
                set.insert(id)
            } else {
                set.remove(&id)
            };
        }
    }

    /// Number of the write under way for a job.
    pub(crate) fn write_under_way(&self, id: JobId) -> Option<u64> {
        self.cells.get(&id).filter(|cell| cell.saving.is_some()).map(|cell| cell.writes)
    }

    pub(crate) fn record(&self, id: JobId) -> Option<&Arc<JobRecord>> {
        self.cells.get(&id).map(|cell| &cell.record)
    }

    /// How many jobs wait for a place.
    pub(crate) fn waiting(&self) -> usize {
        self.admission.waiting()
    }

    /// How each job that waits stands.
    pub(crate) fn waits(&self, now: Now) -> Vec<(JobId, Waiting)> {
        self.admission.waits(now.elapsed)
    }

    /// When something is due by time alone.
    pub(crate) fn next_due(&self, now: Now) -> Option<Duration> {
        self.admission.next_due(now.elapsed)
    }

    /// A job is asked for. If it need not wait, it is admitted in the same decision, and one write says both.
    /// `goes_on`: the next server can go on with it.
    pub(crate) fn submit(&mut self, new: NewJob, goes_on: bool, now: Now) -> Result<Submitted, Refusal> {
        if let Some(same) = self.named_by_key(&new, now) {
            return same.map(Submitted::Same);
        }
        let limit = self.limits.max_unfinished;
        if self.unfinished() >= limit {
            return Err(Refusal::Busy { limit });
        }
        let durability = new.durability;
        let mut record = JobRecord::new(self.ids.next(now.ms), new, self.node.clone(), now.ms);
        let id = record.id;
        let mut cell = Cell { goes_on, ..Cell::new(Arc::new(record.clone())) };
        self.admission.offer(id, cell.needs(), now.elapsed, Duration::ZERO);
        // Others that wait may be let in by the same look; their turn is no different for it.
        let admitted = if self.closed { Vec::new() } else { self.admission.admit(now.elapsed) };
        if admitted.contains(&id) {
            record.state = JobState::Running;
            record.started_ms = Some(now.ms);
        }
        let record = Arc::new(record);
        cell.record = Arc::clone(&record);
        let save = cell.save(record);
        cell.held = Some(durability);
        let mut effects = vec![save];
        self.cells.insert(id, cell);
        self.count(id);
        for other in admitted.into_iter().filter(|other| *other != id) {
            effects.extend(self.go_on(other, now));
        }
        Ok(Submitted::New(id, effects))
    }

    /// The job that a submission's idempotency key names already: one that did not end badly, of the same owner,
    /// and not too old.
    fn named_by_key(&self, new: &NewJob, now: Now) -> Option<Result<JobId, Refusal>> {
        let key = new.idempotency_key.as_ref()?;
        let life_ms = u64::try_from(KEY_LIFE.as_millis()).unwrap_or(u64::MAX);
        let same = self.cells.values().rev().find(|cell| {
            let record = &cell.record;
            let ended_badly =
                matches!(record.state, JobState::Failure | JobState::Aborted | JobState::Interrupted);
            record.idempotency_key.as_ref() == Some(key)
                && record.owner == new.owner
                && !ended_badly
                && now.ms.saturating_sub(record.created_ms) < life_ms
        })?;
        let record = &same.record;
        let matches = record.kind == new.kind && record.spec.job == new.spec;
        Some(if matches { Ok(record.id) } else { Err(Refusal::KeyReused { id: record.id }) })
    }

    /// The write under way for that job came back.
    pub(crate) fn saved(&mut self, id: JobId, done: bool, now: Now) -> Vec<Effect> {
        let Some(cell) = self.cells.get_mut(&id) else { return Vec::new() };
        let Some(record) = cell.saving.take() else { return Vec::new() };
        if cell.held == Some(Durability::First) && !done {
            // Nothing has happened yet; the submission is refused.
            self.cells.remove(&id);
            self.count(id);
            self.admission.leave(id);
            return self.admit(now);
        }
        let mut effects = Vec::new();
        let held = cell.held.take().is_some();
        let ends = record.state.is_ended() && !cell.record.state.is_ended();
        cell.unsaved = !done;
        if held || *cell.record != *record {
            effects.push(Effect::Show(Arc::clone(&record)));
        }
        let before = std::mem::replace(&mut cell.record, Arc::clone(&record));
        if held {
            effects.push(Effect::Answer(id));
        }
        if before.spec.control.bandwidth != record.spec.control.bandwidth {
            effects.push(Effect::Throttle(id, record.spec.control.bandwidth));
        }
        if ends {
            cell.begun = false;
            effects.push(Effect::Settle(id));
        }
        if cell.suspended {
            effects.push(Effect::Suspend(id));
        }
        self.count(id);
        let priority = record.spec.control.priority;
        if before.spec.control.priority != priority {
            self.admission.set_priority(id, priority);
        }
        effects.extend(self.settle_in(id, now));
        effects.extend(self.admit(now));
        effects.extend(self.go_on(id, now));
        effects
    }

    /// Brings gate and place of a job into agreement with its record and with what is wished.
    fn settle_in(&mut self, id: JobId, now: Now) -> Vec<Effect> {
        let Some(cell) = self.cells.get_mut(&id) else { return Vec::new() };
        let mut effects = Vec::new();
        let state = cell.record.state;
        let open = state == JobState::Running;
        if cell.open != open {
            cell.open = open;
            effects.push(Effect::Gate(id, open));
        }
        if cell.begun && !cell.stopping && cell.record.spec.control.abort_requested_ms.is_some() {
            cell.stopping = true;
            effects.push(Effect::Stop(id));
        }
        match state {
            _ if cell.suspended || state.is_ended() => self.admission.leave(id),
            JobState::Paused if !cell.begun => self.admission.leave(id),
            JobState::Paused | JobState::Detached | JobState::Recovering => self.admission.park(id),
            _ => {}
        }
        if let Some(due) = cell.again_at.take() {
            // The attempt is over: what it had claimed is free until the next.
            self.admission.leave(id);
            cell.due = due;
            effects.push(Effect::Rest(id, due));
        }
        if cell.wants_place() {
            self.admission.offer(id, cell.needs(), now.elapsed, cell.due);
        }
        effects
    }

    /// After a fact has changed.
    fn reconsider(&mut self, id: JobId, now: Now) -> Vec<Effect> {
        let idle = self.cells.get(&id).is_some_and(Cell::is_idle);
        let mut effects = if idle { self.settle_in(id, now) } else { Vec::new() };
        effects.extend(self.admit(now));
        effects.extend(self.go_on(id, now));
        effects
    }

    /// Gives places to those who may have one.
    fn admit(&mut self, now: Now) -> Vec<Effect> {
        let mut effects = Vec::new();
        if !self.closed {
            for id in self.admission.admit(now.elapsed) {
                effects.extend(self.go_on(id, now));
            }
        }
        effects
    }

    /// Time has passed: jobs that try again may be due.
    pub(crate) fn wake(&mut self, now: Now) -> Vec<Effect> {
        self.admit(now)
    }

    /// Other limits from now on. Jobs that are at work stay so.
    pub(crate) fn set_limits(&mut self, limits: AdmissionLimits, now: Now) -> Vec<Effect> {
        self.admission.set_limits(limits);
        self.admit(now)
    }

    /// How far a job has come: for whatever is written of it next.
    pub(crate) fn note_progress(&mut self, id: JobId, progress: FinalProgress) {
        if let Some(cell) = self.cells.get_mut(&id) {
            cell.progress = progress;
        }
    }

    /// The job says where it is while it runs, and from where it could go on.
    pub(crate) fn says(
        &mut self,
        id: JobId,
        presence: JobState,
        checkpoint: Option<Value>,
        now: Now,
    ) -> Vec<Effect> {
        let Some(cell) = self.cells.get_mut(&id) else { return Vec::new() };
        cell.presence = presence;
        if checkpoint.is_some() {
            cell.checkpoint = checkpoint;
        }
        self.reconsider(id, now)
    }

    /// The job's task has ended. Told again, it makes no difference.
    pub(crate) fn ended(&mut self, id: JobId, ending: Ending, now: Now) -> Vec<Effect> {
        if let Some(cell) = self.cells.get_mut(&id)
            && cell.begun
            && !cell.ends()
        {
            cell.ending.get_or_insert(ending);
        }
        self.go_on(id, now)
    }

    /// Somebody wants a job stopped. One that is not at work ends at once.
    pub(crate) fn abort(&mut self, id: JobId, now: Now) -> Result<Vec<Effect>, Unfit> {
        let cell = self.unended(id)?;
        cell.control().abort_requested_ms.get_or_insert(now.ms);
        if !cell.begun && !cell.ends() {
            // One that was left to the next server does not go on there.
            cell.suspended = false;
            cell.end_at_rest(JobEnd::Aborted, Next::Nothing);
        }
        self.count(id);
        Ok(self.go_on(id, now))
    }

    /// Whoever asked for a job does not wait for it any longer.
    pub(crate) fn withdraw(
        &mut self,
        id: JobId,
        failure: JobFailure,
        now: Now,
    ) -> Result<Vec<Effect>, Unfit> {
        let cell = self.present(id)?;
        if cell.begun {
            return Err(Unfit::AtWork);
        }
        cell.end_at_rest(JobEnd::Failure(failure), Next::Nothing);
        Ok(self.go_on(id, now))
    }

    /// Somebody wants a job to rest, or to go on.
    pub(crate) fn pause(&mut self, id: JobId, paused: bool, now: Now) -> Result<Vec<Effect>, Unfit> {
        let cell = self.present(id)?;
        cell.paused = paused;
        Ok(self.reconsider(id, now))
    }

    /// Somebody wishes a job to be different.
    pub(crate) fn adjust(&mut self, id: JobId, to: Adjustment, now: Now) -> Result<Vec<Effect>, Unfit> {
        let cell = self.present(id)?;
        let control = cell.control();
        control.priority = to.priority.unwrap_or(control.priority);
        control.bandwidth = to.bandwidth.unwrap_or(control.bandwidth);
        Ok(self.go_on(id, now))
    }

    fn unended(&mut self, id: JobId) -> Result<&mut Cell, Unfit> {
        let cell = self.cells.get_mut(&id).ok_or(Unfit::NotFound)?;
        let latest = cell.saving.as_ref().unwrap_or(&cell.record).state;
        if latest.is_ended() || cell.has_settled() { Err(Unfit::Ended(latest)) } else { Ok(cell) }
    }

    /// One that has not ended and is not left to the next server.
    fn present(&mut self, id: JobId) -> Result<&mut Cell, Unfit> {
        let cell = self.unended(id)?;
        if cell.suspended { Err(Unfit::Left) } else { Ok(cell) }
    }

    /// The server stops: no job begins any more. Those that wait go on with the next server, where it can, or end.
    /// Answers also which jobs are at work and rest: there is no point in waiting for them.
    pub(crate) fn close(&mut self, now: Now) -> (Vec<JobId>, Vec<Effect>) {
        self.closed = true;
        let (mut resting, mut effects) = (Vec::new(), Vec::new());
        for id in self.unfinished.clone() {
            match self.cells.get(&id) {
                Some(cell) if cell.begun && cell.record.state == JobState::Running => {}
                Some(cell) if cell.begun => resting.push(id),
                _ => effects.extend(self.go_on(id, now)),
            }
        }
        (resting, effects)
    }

    /// Somebody wants a record gone. It goes when the write under way, if there is one, is done.
    pub(crate) fn forget(&mut self, id: JobId, now: Now) -> Result<Vec<Effect>, Unfit> {
        let cell = self.cells.get_mut(&id).filter(|cell| cell.held.is_none()).ok_or(Unfit::NotFound)?;
        if !cell.has_settled() {
            return Err(Unfit::StillRunning);
        }
        cell.forget = true;
        Ok(self.go_on(id, now))
    }

    /// Somebody wants all ended records gone. Answers which those are.
    pub(crate) fn forget_ended(&mut self) -> (Vec<JobId>, Vec<Effect>) {
        let (mut ended, mut now) = (Vec::new(), Vec::new());
        for cell in self.cells.values_mut().filter(|cell| cell.has_settled()) {
            ended.push(cell.record.id);
            cell.forget = true;
            if cell.is_idle() {
                cell.erasing = true;
                now.push(cell.record.id);
            }
        }
        let effects = if now.is_empty() { Vec::new() } else { vec![Effect::Erase(now)] };
        (ended, effects)
    }

    /// The journal has removed these, or could not.
    pub(crate) fn erased(&mut self, ids: Vec<JobId>, done: bool) -> Vec<Effect> {
        for id in &ids {
            if let Some(cell) = self.cells.get_mut(id) {
                cell.erasing = false;
                cell.forget = false;
            }
            if done {
                self.cells.remove(id);
                self.count(*id);
            }
        }
        if done { vec![Effect::Remove(ids)] } else { Vec::new() }
    }

    /// From time to time: writes again what the journal refused, and lets go of what is too old.
    pub(crate) fn housekeep(&mut self, now: Now) -> Vec<Effect> {
        let mut effects = Vec::new();
        for id in &self.unsaved {
            if let Some(cell) = self.cells.get_mut(id).filter(|cell| cell.is_idle()) {
                let again = Arc::clone(&cell.record);
                effects.push(cell.save(again));
            }
        }
        let max_age_ms = u64::try_from(self.limits.max_age.as_millis()).unwrap_or(u64::MAX);
        let ended_before = now.ms.saturating_sub(max_age_ms);
        let settled = self.cells.values().filter(|cell| cell.has_settled());
        let mut ended: Vec<_> = settled.map(|cell| (cell.record.ended_ms, cell.record.id)).collect();
        // What ended first goes first: a job that took long is not forgotten in the moment of its end.
        ended.sort_unstable();
        let surplus = ended.len().saturating_sub(self.limits.keep);
        let mut old = Vec::new();
        for (place, (ended_ms, id)) in ended.into_iter().enumerate() {
            let aged = ended_ms.is_some_and(|ended| ended < ended_before);
            if (place < surplus || aged)
                && let Some(cell) = self.cells.get_mut(&id)
                && cell.is_idle()
                && !cell.unsaved
            {
                cell.erasing = true;
                old.push(id);
            }
        }
        if !old.is_empty() {
            effects.push(Effect::Erase(old));
        }
        effects.extend(self.admit(now));
        effects
    }

    /// Begins what is next for a job, if no write is under way: a write, its task, its removal.
    fn go_on(&mut self, id: JobId, now: Now) -> Vec<Effect> {
        let Some(cell) = self.cells.get_mut(&id).filter(|cell| cell.is_idle()) else { return Vec::new() };
        if cell.has_settled() {
            if !cell.forget {
                return Vec::new();
            }
            cell.erasing = true;
            return vec![Effect::Erase(vec![id])];
        }
        if cell.suspended {
            return Vec::new();
        }
        let has_place = self.admission.is_active(id);
        if self.closed && !cell.begun && (!has_place || cell.paused) {
            let next = if cell.goes_on { Next::Suspend } else { Next::Nothing };
            cell.end_at_rest(JobEnd::Interrupted, next);
        }
        if let Some(record) = cell.next_record(has_place, now) {
            let save = cell.save(Arc::new(record));
            self.count(id);
            return vec![save];
        }
        // It agrees with its record. One that waits for somebody is there for him even without a place.
        let parked = cell.presence != JobState::Running && cell.record.state != JobState::Queued;
        if !cell.begun && (parked || cell.record.state == JobState::Running) {
            cell.begun = true;
            return vec![Effect::Launch(id)];
        }
        Vec::new()
    }
}

#[cfg(test)]
mod tests;
