//! The supervisor's decisions: what happens to which job next. No actix, no clock, no IO.
//!
//! Inputs are what has happened (a submission, a write that came back, an end), with the time; answers are
//! [`Effect`]s for the actor to carry out, in order. For each job at most one write is under way; what
//! happens meanwhile waits in its cell, which holds one wish of each sort, so it does not grow.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::id::{JobId, JobIds};
use crate::lifecycle::{JobState, transition};
use crate::outcome::JobEnd;
use crate::record::{Durability, FinalProgress, JobRecord, NewJob};

/// Something for the actor to do.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Effect {
    /// Write this; report back by [`Table::saved`].
    Save(Arc<JobRecord>),
    /// Publish this and tell watchers.
    Show(Arc<JobRecord>),
    /// Start the job's task and answer its submission.
    Launch(JobId),
    /// The job has ended for everybody: tell its ticket, let its cell go.
    Settle(JobId),
    /// Remove these from the journal; report back by [`Table::erased`].
    Erase(Vec<JobId>),
    /// Removed from the journal: take these from the board too, and tell watchers.
    Remove(Vec<JobId>),
}

/// Why a submission is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refusal {
    Busy { limit: usize },
}

/// Why a record is not forgotten.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotForgotten {
    NotFound,
    StillRunning,
}

/// A job's end, and how far it came.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Ending {
    pub(crate) end: JobEnd,
    pub(crate) progress: FinalProgress,
    pub(crate) abortion_requested_ms: Option<u64>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) max_unfinished: usize,
    pub(crate) keep: usize,
    pub(crate) max_age: Duration,
}

#[derive(Debug)]
struct Cell {
    /// What everybody sees.
    record: Arc<JobRecord>,
    /// What is being written.
    saving: Option<Arc<JobRecord>>,
    /// The job is being removed from the journal.
    erasing: bool,
    /// It must not run before the write under way is done.
    held: bool,
    /// The journal refused the last write.
    unsaved: bool,
    presence: Option<JobState>,
    ending: Option<Ending>,
    forget: bool,
}

impl Cell {
    fn new(record: Arc<JobRecord>) -> Self {
        Self {
            record,
            saving: None,
            erasing: false,
            held: false,
            unsaved: false,
            presence: None,
            ending: None,
            forget: false,
        }
    }

    /// What the record will be when the write under way is done.
    fn latest(&self) -> &Arc<JobRecord> {
        self.saving.as_ref().unwrap_or(&self.record)
    }

    fn is_idle(&self) -> bool {
        self.saving.is_none() && !self.erasing
    }

    fn has_settled(&self) -> bool {
        self.record.state.is_ended()
    }
}

#[derive(Debug)]
pub(crate) struct Table {
    cells: BTreeMap<JobId, Cell>,
    ids: JobIds,
    limits: Limits,
    node: Option<String>,
}

impl Table {
    /// A table with the jobs of former runs and, after a rebuild, those at work. `unsaved` says of which
    /// the journal has an older version.
    pub(crate) fn new(found: Vec<(Arc<JobRecord>, bool)>, limits: Limits, node: Option<String>) -> Self {
        let newest = found.iter().map(|(record, _)| record.id).max();
        let cells = found
            .into_iter()
            .map(|(record, unsaved)| (record.id, Cell { unsaved, ..Cell::new(record) }))
            .collect();
        Self { cells, ids: JobIds::after(newest), limits, node }
    }

    pub(crate) fn unfinished(&self) -> usize {
        self.cells.values().filter(|cell| !cell.has_settled()).count()
    }

    pub(crate) fn unsaved(&self) -> usize {
        self.cells.values().filter(|cell| cell.unsaved).count()
    }

    pub(crate) fn record(&self, id: JobId) -> Option<&Arc<JobRecord>> {
        self.cells.get(&id).map(|cell| &cell.record)
    }

    /// A job is asked for. Nothing competes for a place yet, so it is admitted in the same decision, and
    /// one write says both.
    pub(crate) fn submit(&mut self, new: NewJob, now_ms: u64) -> Result<(JobId, Vec<Effect>), Refusal> {
        let limit = self.limits.max_unfinished;
        if self.unfinished() >= limit {
            return Err(Refusal::Busy { limit });
        }
        let durability = new.durability;
        let queued = JobRecord::new(self.ids.next(now_ms), new, self.node.clone(), now_ms);
        let id = queued.id;
        let running = match transition(queued.state, JobState::Running) {
            Ok(state) => Arc::new(JobRecord { state, started_ms: Some(now_ms), ..queued }),
            Err(_) => Arc::new(queued),
        };
        let mut cell = Cell::new(Arc::clone(&running));
        cell.saving = Some(Arc::clone(&running));
        let effects = match durability {
            Durability::First => {
                cell.held = true;
                vec![Effect::Save(running)]
            }
            Durability::Behind => {
                vec![Effect::Show(Arc::clone(&running)), Effect::Launch(id), Effect::Save(running)]
            }
        };
        self.cells.insert(id, cell);
        Ok((id, effects))
    }

    /// The write under way for that job came back.
    pub(crate) fn saved(&mut self, id: JobId, done: bool, now_ms: u64) -> Vec<Effect> {
        let Some(cell) = self.cells.get_mut(&id) else { return Vec::new() };
        let Some(record) = cell.saving.take() else { return Vec::new() };
        if cell.held && !done {
            // Nothing has happened yet; the submission is refused.
            self.cells.remove(&id);
            return Vec::new();
        }
        let mut effects = Vec::new();
        let held = std::mem::take(&mut cell.held);
        let ends = record.state.is_ended() && !cell.record.state.is_ended();
        cell.unsaved = !done;
        if held || *cell.record != *record {
            effects.push(Effect::Show(Arc::clone(&record)));
        }
        cell.record = record;
        if held {
            effects.push(Effect::Launch(id));
        }
        if ends {
            effects.push(Effect::Settle(id));
        }
        effects.extend(self.go_on(id, now_ms));
        effects
    }

    /// The job says where it is while it runs.
    pub(crate) fn presence(&mut self, id: JobId, state: JobState, now_ms: u64) -> Vec<Effect> {
        if let Some(cell) = self.cells.get_mut(&id) {
            cell.presence = Some(state);
        }
        self.go_on(id, now_ms)
    }

    /// The job's task has ended. Told again, it makes no difference.
    pub(crate) fn ended(&mut self, id: JobId, ending: Ending, now_ms: u64) -> Vec<Effect> {
        if let Some(cell) = self.cells.get_mut(&id)
            && !cell.latest().state.is_ended()
        {
            cell.ending.get_or_insert(ending);
        }
        self.go_on(id, now_ms)
    }

    /// Somebody wants a record gone. It goes when the write under way, if there is one, is done.
    pub(crate) fn forget(&mut self, id: JobId, now_ms: u64) -> Result<Vec<Effect>, NotForgotten> {
        let cell = self.cells.get_mut(&id).filter(|cell| !cell.held).ok_or(NotForgotten::NotFound)?;
        if !cell.has_settled() {
            return Err(NotForgotten::StillRunning);
        }
        cell.forget = true;
        Ok(self.go_on(id, now_ms))
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
            }
        }
        if done { vec![Effect::Remove(ids)] } else { Vec::new() }
    }

    /// From time to time: writes again what the journal refused, and lets go of what is too old.
    pub(crate) fn housekeep(&mut self, now_ms: u64) -> Vec<Effect> {
        let mut effects = Vec::new();
        for cell in self.cells.values_mut().filter(|cell| cell.unsaved && cell.is_idle()) {
            cell.saving = Some(Arc::clone(&cell.record));
            effects.push(Effect::Save(Arc::clone(&cell.record)));
        }
        let max_age_ms = u64::try_from(self.limits.max_age.as_millis()).unwrap_or(u64::MAX);
        let ended_before = now_ms.saturating_sub(max_age_ms);
        let mut old = Vec::new();
        let ended = self.cells.values_mut().rev().filter(|cell| cell.has_settled());
        for (place, cell) in ended.enumerate() {
            let aged = cell.record.ended_ms.is_some_and(|ended| ended < ended_before);
            if (place >= self.limits.keep || aged) && cell.is_idle() && !cell.unsaved {
                cell.erasing = true;
                old.push(cell.record.id);
            }
        }
        if !old.is_empty() {
            effects.push(Effect::Erase(old));
        }
        effects
    }

    /// Begins the next write for a job, if it has one to do and none under way.
    fn go_on(&mut self, id: JobId, now_ms: u64) -> Vec<Effect> {
        let Some(cell) = self.cells.get_mut(&id).filter(|cell| cell.is_idle()) else { return Vec::new() };
        let state = cell.record.state;
        let presence = cell.presence.take();
        if let Some(ending) = cell.ending.take()
            && transition(state, ending.end.state()).is_ok()
        {
            let Ending { end, progress, abortion_requested_ms } = ending;
            let record = cell.record.ended(&end, None, progress, abortion_requested_ms, now_ms);
            cell.saving = Some(Arc::clone(&record));
            return vec![Effect::Save(record)];
        }
        if let Some(state) = presence.and_then(|wanted| transition(state, wanted).ok()) {
            let record = Arc::new(JobRecord { state, updated_ms: now_ms, ..JobRecord::clone(&cell.record) });
            cell.saving = Some(Arc::clone(&record));
            return vec![Effect::Save(record)];
        }
        if cell.forget && cell.has_settled() {
            cell.erasing = true;
            return vec![Effect::Erase(vec![id])];
        }
        Vec::new()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, VecDeque};

    use serde_json::Value;

    use super::*;
    use crate::record::TaskProperties;

    const LIMITS: Limits = Limits { max_unfinished: 20, keep: 5, max_age: Duration::from_secs(60) };

    fn table() -> Table {
        Table::new(Vec::new(), LIMITS, None)
    }

    fn job(durability: Durability) -> NewJob {
        NewJob { durability, ..NewJob::new("test", TaskProperties::default()) }
    }

    fn ending(end: JobEnd) -> Ending {
        Ending { end, progress: FinalProgress::default(), abortion_requested_ms: None }
    }

    fn names(effects: &[Effect]) -> Vec<String> {
        effects
            .iter()
            .map(|effect| match effect {
                Effect::Save(record) => format!("save {}", record.state),
                Effect::Show(record) => format!("show {}", record.state),
                Effect::Launch(_) => "launch".into(),
                Effect::Settle(_) => "settle".into(),
                Effect::Erase(ids) => format!("erase {}", ids.len()),
                Effect::Remove(ids) => format!("remove {}", ids.len()),
            })
            .collect()
    }

    #[test]
    fn nothing_is_shown_or_launched_before_it_is_saved() {
        let mut table = table();
        let (id, effects) = table.submit(job(Durability::First), 1).unwrap();
        assert_eq!(names(&effects), ["save running"]);
        assert_eq!(names(&table.saved(id, true, 2)), ["show running", "launch"]);
        assert_eq!(names(&table.ended(id, ending(JobEnd::Aborted), 3)), ["save aborted"]);
        assert_eq!(names(&table.saved(id, true, 4)), ["show aborted", "settle"]);
    }

    #[test]
    fn what_happens_during_a_write_waits_and_an_end_overtakes_a_presence() {
        let mut table = table();
        let (id, _) = table.submit(job(Durability::First), 1).unwrap();
        table.saved(id, true, 1);
        assert_eq!(names(&table.presence(id, JobState::Detached, 2)), ["save detached"]);
        assert!(table.presence(id, JobState::Running, 3).is_empty());
        assert!(table.ended(id, ending(JobEnd::Success(Value::Null)), 4).is_empty());
        assert!(table.ended(id, ending(JobEnd::Aborted), 5).is_empty(), "the first end counts");
        assert_eq!(names(&table.saved(id, true, 6)), ["show detached", "save success"]);
        assert!(table.presence(id, JobState::Running, 7).is_empty());
        assert_eq!(names(&table.saved(id, true, 8)), ["show success", "settle"]);
        assert!(table.ended(id, ending(JobEnd::Aborted), 9).is_empty(), "nothing follows an end");
    }

    #[test]
    fn a_record_is_forgotten_after_the_write_under_way() {
        let mut table = table();
        let (id, _) = table.submit(job(Durability::First), 1).unwrap();
        assert_eq!(table.forget(id, 1), Err(NotForgotten::NotFound), "it is not there yet");
        table.saved(id, true, 1);
        assert_eq!(table.forget(id, 1), Err(NotForgotten::StillRunning));
        table.ended(id, ending(JobEnd::Aborted), 2);
        assert_eq!(names(&table.saved(id, false, 3)), ["show aborted", "settle"]);
        assert_eq!(table.unsaved(), 1);
        assert_eq!(names(&table.housekeep(4)), ["save aborted"]);
        assert_eq!(table.forget(id, 5), Ok(vec![]));
        assert_eq!(names(&table.saved(id, true, 6)), ["erase 1"]);
        assert_eq!(names(&table.erased(vec![id], true)), ["remove 1"]);
        assert_eq!(table.forget(id, 7), Err(NotForgotten::NotFound));
    }

    /// Numbers that look random and are the same each time.
    struct Dice(u64);

    impl Dice {
        fn roll(&mut self, sides: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            usize::try_from(self.0 >> 33).unwrap() % sides
        }
    }

    /// What the world outside sees of a table: writes that it was told to do, jobs at work, ends told.
    #[derive(Default)]
    struct World {
        saving: BTreeSet<JobId>,
        erasing: VecDeque<Vec<JobId>>,
        durable: BTreeMap<JobId, JobState>,
        written: BTreeMap<JobId, Arc<JobRecord>>,
        shown: BTreeMap<JobId, JobState>,
        at_work: BTreeSet<JobId>,
        over: BTreeSet<JobId>,
        settled: BTreeSet<JobId>,
    }

    impl World {
        fn carry_out(&mut self, effects: Vec<Effect>) {
            for effect in effects {
                match effect {
                    Effect::Save(record) => {
                        assert!(self.saving.insert(record.id), "one write at a time for each job");
                        self.written.insert(record.id, record);
                    }
                    Effect::Show(record) => {
                        if let Some(before) = self.shown.insert(record.id, record.state) {
                            assert_eq!(transition(before, record.state), Ok(record.state));
                        }
                    }
                    Effect::Launch(id) => assert!(self.at_work.insert(id) && self.shown.contains_key(&id)),
                    Effect::Settle(id) => {
                        assert!(self.over.contains(&id) && self.settled.insert(id), "one end each");
                        assert!(self.shown[&id].is_ended());
                    }
                    Effect::Erase(ids) => self.erasing.push_back(ids),
                    Effect::Remove(ids) => ids.iter().for_each(|id| {
                        assert!(self.settled.contains(id) && self.shown.remove(id).is_some());
                    }),
                }
            }
        }
    }

    #[test]
    fn whatever_happens_in_whatever_order_each_job_runs_once_and_ends_once() {
        for seed in 0..50 {
            let (mut dice, mut table, mut world) = (Dice(seed), table(), World::default());
            let pick = |dice: &mut Dice, ids: &BTreeSet<JobId>| {
                (!ids.is_empty()).then(|| *ids.iter().nth(dice.roll(ids.len())).unwrap())
            };
            // In the last rounds nothing new happens and nothing fails.
            for now_ms in 1..1200u64 {
                let settling = now_ms > 1000;
                let running: BTreeSet<_> = world.at_work.difference(&world.over).copied().collect();
                let effects = match if settling { 3 + dice.roll(4) } else { dice.roll(9) } {
                    0 | 1 => {
                        let durability =
                            if dice.roll(3) == 0 { Durability::Behind } else { Durability::First };
                        table.submit(job(durability), now_ms).map(|(_, effects)| effects).unwrap_or_default()
                    }
                    2 => {
                        let state = if dice.roll(2) == 0 { JobState::Detached } else { JobState::Running };
                        pick(&mut dice, &running)
                            .map(|id| table.presence(id, state, now_ms))
                            .unwrap_or_default()
                    }
                    3 => match pick(&mut dice, &running) {
                        Some(id) => {
                            world.over.insert(id);
                            table.ended(id, ending(JobEnd::Success(Value::Null)), now_ms)
                        }
                        None => Vec::new(),
                    },
                    4 | 5 | 7 => match pick(&mut dice, &world.saving) {
                        Some(id) => {
                            let done = settling || dice.roll(5) > 0;
                            world.saving.remove(&id);
                            if done {
                                world.durable.insert(id, world.written[&id].state);
                            }
                            table.saved(id, done, now_ms)
                        }
                        None => table.housekeep(now_ms),
                    },
                    6 => match world.erasing.pop_front() {
                        Some(ids) => {
                            let done = settling || dice.roll(5) > 0;
                            if done {
                                world.durable.retain(|id, _| !ids.contains(id));
                            }
                            table.erased(ids, done)
                        }
                        None => table.housekeep(now_ms),
                    },
                    _ => {
                        let known: BTreeSet<_> = world.shown.keys().copied().collect();
                        pick(&mut dice, &known)
                            .and_then(|id| table.forget(id, now_ms).ok())
                            .unwrap_or_default()
                    }
                };
                world.carry_out(effects);
                assert!(table.unfinished() <= LIMITS.max_unfinished);
            }
            assert_eq!((table.unfinished(), table.unsaved(), world.saving.len()), (0, 0, 0), "seed {seed}");
            assert_eq!(world.settled, world.at_work);
            assert!(world.at_work.len() > 50, "the dice made {} jobs", world.at_work.len());
            let shown: Vec<_> = world.shown.iter().collect();
            assert!(shown.len() <= LIMITS.keep + 1 && shown.iter().all(|(_, state)| state.is_ended()));
            assert_eq!(shown, world.durable.iter().collect::<Vec<_>>(), "what is shown is what is durable");
        }
    }
}
