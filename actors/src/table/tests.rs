use std::collections::{BTreeSet, HashMap, VecDeque};

use super::*;
use crate::record::{Claim, ClaimMode, TaskProperties};

fn limits(concurrent: u32) -> Limits {
    Limits {
        max_unfinished: 20,
        keep: 5,
        max_age: Duration::from_secs(60),
        admission: AdmissionLimits { concurrent, ..AdmissionLimits::default() },
    }
}

fn at(ms: u64) -> Now {
    Now { ms, elapsed: Duration::from_millis(ms) }
}

fn table() -> Table {
    Table::empty(limits(0))
}

fn job(durability: Durability) -> NewJob {
    NewJob { durability, ..NewJob::new("test", TaskProperties::default()) }
}

fn take(table: &mut Table, new: NewJob, now: Now) -> (JobId, Vec<Effect>) {
    match table.submit(new, false, now) {
        Ok(Submitted::New(id, effects)) => (id, effects),
        other => panic!("{other:?}"),
    }
}

/// A job that is at work.
fn begun(table: &mut Table) -> JobId {
    let (id, _) = take(table, job(Durability::First), at(1));
    assert_eq!(names(&table.saved(id, true, at(1))), ["show running", "answer", "gate open", "launch"]);
    id
}

fn here(begun: bool, holds: bool, presence: JobState) -> Here {
    let (progress, due) = (FinalProgress::default(), Duration::ZERO);
    Here { goes_on: false, begun, holds, open: false, presence, progress, due }
}

fn ended_with(end: JobEnd, next: Next) -> Ending {
    Ending { end, progress: FinalProgress::default(), checkpoint: None, next }
}

fn ending(end: JobEnd) -> Ending {
    ended_with(end, Next::Nothing)
}

fn success() -> Ending {
    ending(JobEnd::Success(Value::Null))
}

fn failing(next: Next) -> Ending {
    let failure = JobFailure::new("E", "lost", "the connection was lost").transient();
    ended_with(JobEnd::Failure(failure), next)
}

fn names(effects: &[Effect]) -> Vec<String> {
    effects
        .iter()
        .map(|effect| match effect {
            Effect::Save(record) => format!("save {}", record.state),
            Effect::Show(record) => format!("show {}", record.state),
            Effect::Answer(_) => "answer".into(),
            Effect::Launch(_) => "launch".into(),
            Effect::Rest(..) => "rest".into(),
            Effect::Gate(_, open) => format!("gate {}", if *open { "open" } else { "shut" }),
            Effect::Stop(_) => "stop".into(),
            Effect::Throttle(_, rate) => format!("throttle {rate:?}"),
            Effect::Settle(_) => "settle".into(),
            Effect::Suspend(_) => "suspend".into(),
            Effect::Erase(ids) => format!("erase {}", ids.len()),
            Effect::Remove(ids) => format!("remove {}", ids.len()),
        })
        .collect()
}

#[test]
fn nothing_is_shown_or_launched_before_it_is_saved() {
    let mut table = table();
    let (id, effects) = take(&mut table, job(Durability::First), at(1));
    assert_eq!(names(&effects), ["save running"]);
    assert_eq!(names(&table.saved(id, true, at(2))), ["show running", "answer", "gate open", "launch"]);
    assert_eq!(names(&table.ended(id, success(), at(3))), ["save success"]);
    assert_eq!(names(&table.saved(id, true, at(4))), ["show success", "settle", "gate shut"]);
}

#[test]
fn what_only_reads_is_not_kept_from_it_by_a_journal_that_refuses() {
    let mut table = table();
    let (id, effects) = take(&mut table, job(Durability::BestEffort), at(1));
    assert_eq!(names(&effects), ["save running"], "nobody sees an id that a crash would forget");
    assert_eq!(names(&table.saved(id, false, at(2))), ["show running", "answer", "gate open", "launch"]);
    assert_eq!(table.unsaved(), 1);
    assert_eq!(names(&table.housekeep(at(3))), ["save running"]);
}

#[test]
fn a_submission_that_is_not_durable_is_no_job_and_holds_nobody_up() {
    let mut table = Table::empty(limits(1));
    let (first, _) = take(&mut table, job(Durability::First), at(1));
    let (second, effects) = take(&mut table, job(Durability::First), at(1));
    assert_eq!(names(&effects), ["save queued"]);
    assert_eq!(names(&table.saved(second, true, at(2))), ["show queued", "answer"]);
    assert_eq!(names(&table.saved(first, false, at(3))), ["save running"], "the second's turn");
    assert_eq!(table.unfinished(), 1);
}

#[test]
fn what_happens_during_a_write_waits_and_an_end_overtakes_a_presence() {
    let mut table = table();
    let id = begun(&mut table);
    assert_eq!(names(&table.says(id, JobState::Detached, None, at(2))), ["save detached"]);
    assert!(table.says(id, JobState::Running, None, at(3)).is_empty());
    assert!(table.ended(id, success(), at(4)).is_empty());
    assert!(table.ended(id, ending(JobEnd::Aborted), at(5)).is_empty(), "the first end counts");
    assert_eq!(names(&table.saved(id, true, at(6))), ["show detached", "gate shut", "save success"]);
    assert!(table.says(id, JobState::Running, None, at(7)).is_empty());
    assert_eq!(names(&table.saved(id, true, at(8))), ["show success", "settle"]);
    assert!(table.ended(id, ending(JobEnd::Aborted), at(9)).is_empty(), "nothing follows an end");
}

#[test]
fn a_job_without_a_place_waits_and_begins_when_another_ends() {
    let mut table = Table::empty(limits(1));
    let first = begun(&mut table);
    let (second, effects) = take(&mut table, job(Durability::BestEffort), at(2));
    assert_eq!(names(&effects), ["save queued"]);
    assert_eq!(names(&table.saved(second, true, at(2))), ["show queued", "answer"]);
    assert_eq!(table.waits(at(3)).len(), 1);
    table.ended(first, success(), at(4));
    let effects = table.saved(first, true, at(5));
    assert_eq!(names(&effects), ["show success", "settle", "gate shut", "save running"]);
    assert_eq!(names(&table.saved(second, true, at(6))), ["show running", "gate open", "launch"]);
    assert_eq!(table.record(second).unwrap().started_ms, Some(5));
}

#[test]
fn a_pause_shuts_the_gate_when_it_is_durable_and_gives_the_place_away() {
    let mut table = Table::empty(limits(1));
    let first = begun(&mut table);
    let (second, _) = take(&mut table, job(Durability::First), at(2));
    table.saved(second, true, at(2));
    assert_eq!(names(&table.pause(first, true, at(3)).unwrap()), ["save paused"]);
    assert_eq!(names(&table.saved(first, true, at(4))), ["show paused", "gate shut", "save running"]);
    table.saved(second, true, at(5));
    assert_eq!(names(&table.pause(first, false, at(6)).unwrap()), ["save queued"], "the place is taken");
    table.saved(first, true, at(6));
    table.ended(second, success(), at(7));
    table.saved(second, true, at(8));
    assert_eq!(names(&table.saved(first, true, at(9))), ["show running", "gate open"], "no second launch");
}

#[test]
fn a_job_that_is_paused_before_its_turn_does_not_begin() {
    let mut table = table();
    let (id, _) = take(&mut table, job(Durability::First), at(1));
    assert!(table.pause(id, true, at(1)).unwrap().is_empty());
    let effects = table.saved(id, true, at(2));
    assert_eq!(names(&effects), ["show running", "answer", "gate open", "save paused"]);
    assert_eq!(names(&table.saved(id, true, at(3))), ["show paused", "gate shut"]);
    assert_eq!(names(&table.pause(id, false, at(4)).unwrap()), ["save running"]);
    assert_eq!(names(&table.saved(id, true, at(5))), ["show running", "gate open", "launch"]);
    assert_eq!(table.pause(JobIds::after(None).next(9), true, at(6)), Err(Unfit::NotFound));
}

#[test]
fn an_abort_is_durable_before_the_job_is_told_and_ends_a_waiting_one_at_once() {
    let mut table = Table::empty(limits(1));
    let first = begun(&mut table);
    let (second, _) = take(&mut table, job(Durability::First), at(2));
    table.saved(second, true, at(2));
    assert_eq!(names(&table.abort(first, at(3)).unwrap()), ["save running"]);
    assert_eq!(names(&table.saved(first, true, at(4))), ["show running", "stop"]);
    assert!(table.abort(first, at(5)).unwrap().is_empty(), "asked twice, told once");
    assert_eq!(names(&table.abort(second, at(6)).unwrap()), ["save aborted"]);
    assert_eq!(names(&table.saved(second, true, at(7))), ["show aborted", "settle"]);
    assert_eq!(table.record(second).unwrap().spec.control.abort_requested_ms, Some(6));
    assert_eq!(table.abort(second, at(8)), Err(Unfit::Ended(JobState::Aborted)));
    assert_eq!(table.withdraw(first, JobFailure::new("E", "x", "y"), at(8)), Err(Unfit::AtWork));
}

#[test]
fn a_passing_failure_is_tried_again_after_a_wait_and_in_a_new_epoch() {
    let mut table = Table::empty(limits(1));
    let mut new = job(Durability::First);
    new.claims = vec![Claim { resource: "vdi/x".into(), mode: ClaimMode::Exclusive }];
    let (first, _) = take(&mut table, new.clone(), at(1));
    table.saved(first, true, at(1));
    let (second, _) = take(&mut table, new, at(2));
    table.saved(second, true, at(2));
    let again = Next::Retry(Duration::from_secs(2));
    assert_eq!(names(&table.ended(first, failing(again), at(3))), ["save queued"]);
    assert!(table.ended(first, failing(again), at(3)).is_empty(), "told twice, it is one failure");
    let effects = table.saved(first, true, at(4));
    assert_eq!(names(&effects), ["show queued", "gate shut", "rest", "save running"], "its claim is free");
    let record = table.record(first).unwrap();
    assert_eq!((record.attempt, record.epoch), (2, 2));
    assert_eq!(record.spec.control.last_failure.as_ref().unwrap().code, "lost");
    table.saved(second, true, at(5));
    table.ended(second, success(), at(6));
    assert!(!names(&table.saved(second, true, at(7))).contains(&"save running".into()));
    assert_eq!(table.next_due(at(7)), Some(Duration::from_millis(2003)));
    assert!(table.wake(at(2002)).is_empty());
    assert_eq!(names(&table.wake(at(2003))), ["save running"]);
    assert_eq!(names(&table.saved(first, true, at(2004))), ["show running", "gate open", "launch"]);
}

#[test]
fn whoever_has_left_gives_his_place_away_and_waits_for_one_when_he_comes_back() {
    let mut table = Table::empty(limits(1));
    let first = begun(&mut table);
    let (second, _) = take(&mut table, job(Durability::First), at(2));
    table.saved(second, true, at(2));
    table.says(first, JobState::Detached, None, at(3));
    assert_eq!(names(&table.saved(first, true, at(3))), ["show detached", "gate shut", "save running"]);
    table.saved(second, true, at(4));
    assert_eq!(names(&table.says(first, JobState::Running, None, at(5))), ["save queued"]);
    table.saved(first, true, at(5));
    table.abort(second, at(6)).unwrap();
    table.saved(second, true, at(6));
    table.ended(second, ending(JobEnd::Aborted), at(7));
    assert_eq!(names(&table.saved(second, true, at(7))).last().unwrap(), "save running");
    assert_eq!(names(&table.saved(first, true, at(8))), ["show running", "gate open"]);
}

#[test]
fn wishes_are_durable_before_they_take_effect() {
    let mut table = table();
    let id = begun(&mut table);
    let to = Adjustment { priority: Some(3), bandwidth: Some(Some(1000)) };
    assert_eq!(names(&table.adjust(id, to, at(2)).unwrap()), ["save running"]);
    assert_eq!(names(&table.saved(id, true, at(3))), ["show running", "throttle Some(1000)"]);
    let to = Adjustment { bandwidth: Some(None), ..Adjustment::default() };
    table.adjust(id, to, at(4)).unwrap();
    assert_eq!(names(&table.saved(id, true, at(5))), ["show running", "throttle None"]);
    assert_eq!(table.record(id).unwrap().spec.control.priority, 3);
}

#[test]
fn a_key_names_one_job_of_its_owner_until_that_ends_badly_or_is_a_day_old() {
    let mut table = table();
    let new = |owner: &str, spec: u32| NewJob {
        owner: Some(owner.into()),
        idempotency_key: Some("k".into()),
        spec: spec.into(),
        ..job(Durability::First)
    };
    let (id, _) = take(&mut table, new("a", 1), at(1));
    assert_eq!(
        table.submit(new("a", 1), false, at(2)),
        Ok(Submitted::Same(id)),
        "also while it is being written"
    );
    assert_eq!(table.submit(new("a", 2), false, at(2)), Err(Refusal::KeyReused { id }));
    assert_ne!(take(&mut table, new("b", 1), at(2)).0, id);
    table.saved(id, true, at(3));
    table.ended(id, success(), at(4));
    table.saved(id, true, at(5));
    assert_eq!(table.submit(new("a", 1), false, at(6)), Ok(Submitted::Same(id)));
    let (later, _) = take(&mut table, new("a", 1), at(24 * 3600 * 1000 + 1));
    table.saved(later, true, at(7));
    table.ended(later, ending(JobEnd::Aborted), at(8));
    table.saved(later, true, at(9));
    assert_ne!(take(&mut table, new("a", 1), at(24 * 3600 * 1000 + 2)).0, later);
}

#[test]
fn when_the_server_stops_jobs_that_wait_are_left_to_the_next_one_or_end() {
    let mut table = Table::empty(limits(2));
    let (running, resting) = (begun(&mut table), begun(&mut table));
    let mut queued = Vec::new();
    for goes_on in [true, false] {
        match table.submit(job(Durability::First), goes_on, at(2)) {
            Ok(Submitted::New(id, _)) => queued.push(id),
            other => panic!("{other:?}"),
        }
    }
    queued.iter().for_each(|id| drop(table.saved(*id, true, at(2))));
    table.says(resting, JobState::Detached, None, at(3));
    let (told, effects) = table.close(at(4));
    // The detached one is being written, and its place is not free yet.
    assert_eq!((told.len(), names(&effects)), (0, vec!["save queued".to_owned(), "save interrupted".into()]));
    assert_eq!(names(&table.saved(queued[0], true, at(5))), ["show queued", "suspend"]);
    assert_eq!(names(&table.saved(queued[1], true, at(5))), ["show interrupted", "settle"]);
    assert_eq!(names(&table.saved(resting, true, at(6))), ["show detached", "gate shut"]);
    assert_eq!(table.close(at(6)), (vec![resting], vec![]));
    let suspend = ended_with(JobEnd::Interrupted, Next::Suspend);
    assert_eq!(names(&table.ended(running, suspend, at(7))), ["save recovering"]);
    assert_eq!(names(&table.saved(running, true, at(8))), ["show recovering", "suspend", "gate shut"]);
    assert_eq!(table.unfinished(), 1);
}

#[test]
fn a_table_that_is_rebuilt_finds_what_was_and_launches_what_was_not() {
    let mut ids = JobIds::after(None);
    let mut known = |state, at_work: Option<(bool, JobState)>| Known {
        record: Arc::new(JobRecord { state, ..JobRecord::new(ids.next(1), job(Durability::First), None, 1) }),
        unsaved: false,
        here: at_work.map(|(begun, presence)| here(begun, begun, presence)),
    };
    let all = vec![
        known(JobState::Success, None),
        known(JobState::Running, Some((true, JobState::Running))),
        known(JobState::Running, Some((false, JobState::Running))),
        known(JobState::Queued, Some((false, JobState::Running))),
        known(JobState::Recovering, Some((false, JobState::Recovering))),
        known(JobState::Paused, Some((false, JobState::Recovering))),
        known(JobState::Paused, Some((true, JobState::Running))),
    ];
    let (table, effects) = Table::new(all, limits(2), None, false, at(5));
    let expected = ["gate open", "gate open", "launch", "launch", "launch"];
    assert_eq!(names(&effects), expected, "running, not launched; recovering and paused for their clients");
    assert_eq!((table.unfinished(), table.waits(at(5)).len()), (6, 1));
}

#[test]
fn a_record_is_forgotten_after_the_write_under_way() {
    let mut table = table();
    let (id, _) = take(&mut table, job(Durability::First), at(1));
    assert_eq!(table.forget(id, at(1)), Err(Unfit::NotFound), "it is not there yet");
    table.saved(id, true, at(1));
    assert_eq!(table.forget(id, at(1)), Err(Unfit::StillRunning));
    table.ended(id, ending(JobEnd::Aborted), at(2));
    assert_eq!(names(&table.saved(id, false, at(3))), ["show aborted", "settle", "gate shut"]);
    assert_eq!(table.unsaved(), 1);
    assert_eq!(names(&table.housekeep(at(4))), ["save aborted"]);
    assert_eq!(table.forget(id, at(5)), Ok(vec![]));
    assert_eq!(names(&table.saved(id, true, at(6))), ["erase 1"]);
    assert_eq!(names(&table.erased(vec![id], true)), ["remove 1"]);
    assert_eq!(table.forget(id, at(7)), Err(Unfit::NotFound));
}

/// Numbers that look random and are the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % sides
    }

    fn pick<'a, T>(&mut self, from: impl IntoIterator<Item = &'a T>) -> Option<&'a T> {
        let all: Vec<_> = from.into_iter().collect();
        if all.is_empty() { None } else { Some(all[self.roll(all.len())]) }
    }
}

/// What the world outside sees of a table: writes that it was told to do, tasks that run, gates, ends told.
#[derive(Default)]
struct World {
    saving: BTreeSet<JobId>,
    erasing: VecDeque<Vec<JobId>>,
    durable: BTreeMap<JobId, Arc<JobRecord>>,
    written: BTreeMap<JobId, Arc<JobRecord>>,
    shown: BTreeMap<JobId, Arc<JobRecord>>,
    /// Tasks that run, by what they say.
    at_work: BTreeMap<JobId, JobState>,
    over: BTreeSet<JobId>,
    told_to_stop: BTreeSet<JobId>,
    open: BTreeSet<JobId>,
    /// Jobs whose attempt has had its gate open.
    held: BTreeSet<JobId>,
    settled: BTreeSet<JobId>,
    launches: HashMap<JobId, u32>,
    answered: BTreeSet<JobId>,
}

/// Jobs of which at most so many move bytes at once.
const PLACES: usize = 3;

impl World {
    fn carry_out(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Save(record) => {
                    assert!(self.saving.insert(record.id), "one write at a time for each job");
                    self.written.insert(record.id, record);
                }
                Effect::Show(record) => {
                    if let Some(before) = self.shown.insert(record.id, Arc::clone(&record)) {
                        let same = before.state == record.state;
                        assert!(same || transition(before.state, record.state).is_ok());
                        assert!(before.epoch <= record.epoch);
                    }
                }
                Effect::Answer(id) => assert!(self.answered.insert(id), "answered once"),
                Effect::Launch(id) => {
                    assert!(self.at_work.insert(id, JobState::Running).is_none(), "one task at a time");
                    *self.launches.entry(id).or_default() += 1;
                    assert_eq!(self.launches[&id], self.shown[&id].attempt, "one launch for each attempt");
                }
                Effect::Rest(id, _) => {
                    assert!(self.over.remove(&id) && self.at_work.remove(&id).is_some());
                    self.held.remove(&id);
                }
                Effect::Gate(id, true) => {
                    assert!(self.open.insert(id));
                    self.held.insert(id);
                }
                Effect::Gate(id, false) => assert!(self.open.remove(&id)),
                Effect::Stop(id) => {
                    assert!(self.told_to_stop.insert(id), "told once");
                    assert!(self.shown[&id].spec.control.abort_requested_ms.is_some());
                }
                Effect::Settle(id) => {
                    assert!(self.settled.insert(id), "one end each");
                    assert!(self.shown[&id].state.is_ended());
                    self.at_work.remove(&id);
                    self.over.remove(&id);
                }
                Effect::Throttle(..) | Effect::Suspend(_) => {}
                Effect::Erase(ids) => self.erasing.push_back(ids),
                Effect::Remove(ids) => ids.iter().for_each(|id| {
                    assert!(self.settled.contains(id) && self.shown.remove(id).is_some());
                }),
            }
        }
        let moving = self.open.iter().filter(|id| self.at_work.contains_key(id) && !self.over.contains(id));
        assert!(moving.count() <= PLACES, "more jobs move bytes than have places");
    }

    fn running(&self) -> Vec<JobId> {
        self.at_work.keys().filter(|id| !self.over.contains(id)).copied().collect()
    }

    /// The table is lost and built again from what is durable and what runs.
    fn rebuild(&mut self, now: Now) -> Table {
        for id in std::mem::take(&mut self.saving) {
            self.durable.insert(id, Arc::clone(&self.written[&id]));
        }
        self.erasing.clear();
        let shown = std::mem::take(&mut self.shown);
        let known = |record: &Arc<JobRecord>| {
            let id = record.id;
            let begun = self.at_work.contains_key(&id);
            let presence = *self.at_work.get(&id).unwrap_or(&JobState::Running);
            let here =
                Here { open: self.open.contains(&id), ..here(begun, self.held.contains(&id), presence) };
            let unfinished = !record.state.is_ended();
            let unsaved = self.durable.get(&id) != Some(record);
            Known { record: Arc::clone(record), unsaved, here: unfinished.then_some(here) }
        };
        // What was shown and could not be written is known all the same.
        let mut records = self.durable.clone();
        for (id, record) in shown {
            let known = records.entry(id).or_insert_with(|| Arc::clone(&record));
            if record.state.is_ended() || (record.epoch, record.updated_ms) > (known.epoch, known.updated_ms)
            {
                *known = record;
            }
        }
        let known: Vec<_> = records.values().map(known).collect();
        self.shown = records;
        for (id, record) in &self.shown {
            if record.state.is_ended() {
                self.settled.insert(*id);
                self.at_work.remove(id);
                self.over.remove(id);
            }
        }
        // What has ended has no gate any more.
        let shown = &self.shown;
        self.open.retain(|id| !shown[id].state.is_ended());
        self.told_to_stop.retain(|id| !self.at_work.contains_key(id));
        let limits = limits(u32::try_from(PLACES).unwrap());
        let (table, effects) = Table::new(known, limits, None, false, now);
        self.carry_out(effects);
        table
    }
}

#[test]
fn whatever_happens_in_whatever_order_each_attempt_runs_once_and_each_job_ends_once() {
    let mut launched = 0;
    for seed in 0..40 {
        let mut dice = Dice(seed);
        let mut world = World::default();
        let mut table = Table::empty(limits(u32::try_from(PLACES).unwrap()));
        // In the last rounds nothing new happens and nothing fails.
        for ms in 1..2400u64 {
            let (now, settling) = (at(ms * 10), ms > 1800);
            let unfinished: Vec<_> =
                world.shown.values().filter(|record| !record.state.is_ended()).map(|r| r.id).collect();
            let effects = match if settling { 4 + dice.roll(5) } else { dice.roll(16) } {
                0 | 1 => {
                    let durability =
                        if dice.roll(3) == 0 { Durability::BestEffort } else { Durability::First };
                    let mut new = job(durability);
                    if dice.roll(3) == 0 {
                        let resource = format!("vdi/{}", dice.roll(3));
                        new.claims = vec![Claim { resource, mode: ClaimMode::Exclusive }];
                    }
                    match table.submit(new, false, now) {
                        Ok(Submitted::New(_, effects)) => effects,
                        Ok(Submitted::Same(_)) => panic!("no job has a key"),
                        Err(Refusal::Busy { limit }) => {
                            assert_eq!(table.unfinished(), limit);
                            Vec::new()
                        }
                        Err(refusal) => panic!("{refusal:?}"),
                    }
                }
                2 | 3 => match dice.pick(&world.running()).copied() {
                    Some(id) => {
                        let state = if dice.roll(2) == 0 { JobState::Detached } else { JobState::Running };
                        world.at_work.insert(id, state);
                        table.says(id, state, None, now)
                    }
                    None => Vec::new(),
                },
                4 => match dice.pick(&world.running()).copied() {
                    Some(id) => {
                        world.over.insert(id);
                        let ending = match dice.roll(if settling { 1 } else { 4 }) {
                            0 | 1 => success(),
                            // Those that were told to stop do not fail in passing.
                            2 if !world.told_to_stop.contains(&id) => {
                                failing(Next::Retry(Duration::from_millis(500)))
                            }
                            _ => ending(JobEnd::Failure(JobFailure::new("E", "bad", "bad"))),
                        };
                        table.ended(id, ending, now)
                    }
                    None => Vec::new(),
                },
                5..=7 => match dice.pick(&world.saving).copied() {
                    Some(id) => {
                        let done = settling || dice.roll(5) > 0;
                        world.saving.remove(&id);
                        if done {
                            world.durable.insert(id, Arc::clone(&world.written[&id]));
                        }
                        table.saved(id, done, now)
                    }
                    None => table.housekeep(now),
                },
                8 => match world.erasing.pop_front() {
                    Some(ids) => {
                        let done = settling || dice.roll(5) > 0;
                        if done {
                            world.durable.retain(|id, _| !ids.contains(id));
                        }
                        table.erased(ids, done)
                    }
                    // Everybody comes back, nobody rests, nobody is late.
                    None if settling => {
                        let mut effects = table.wake(now);
                        for id in unfinished {
                            world.at_work.entry(id).and_modify(|state| *state = JobState::Running);
                            effects.extend(table.says(id, JobState::Running, None, now));
                            effects.extend(table.pause(id, false, now).unwrap_or_default());
                        }
                        effects
                    }
                    None => table.wake(now),
                },
                9 | 10 => {
                    let paused = dice.roll(2) == 0;
                    dice.pick(&unfinished)
                        .and_then(|id| table.pause(*id, paused, now).ok())
                        .unwrap_or_default()
                }
                11 => dice.pick(&unfinished).and_then(|id| table.abort(*id, now).ok()).unwrap_or_default(),
                12 => {
                    let to = Adjustment { priority: Some(ms as i32 % 5), ..Adjustment::default() };
                    dice.pick(&unfinished).and_then(|id| table.adjust(*id, to, now).ok()).unwrap_or_default()
                }
                13 => dice
                    .pick(&unfinished)
                    .and_then(|id| table.withdraw(*id, JobFailure::new("E", "late", "late"), now).ok())
                    .unwrap_or_default(),
                14 => {
                    let known: Vec<_> = world.shown.keys().copied().collect();
                    dice.pick(&known).and_then(|id| table.forget(*id, now).ok()).unwrap_or_default()
                }
                _ if dice.roll(20) == 0 => {
                    // Ends that were not dealt with are told again.
                    table = world.rebuild(now);
                    let over: Vec<_> = world.over.iter().copied().collect();
                    over.into_iter().flat_map(|id| table.ended(id, success(), now)).collect()
                }
                _ => Vec::new(),
            };
            world.carry_out(effects);
            assert!(table.unfinished() <= 20);
        }
        let left = world.shown.values().filter(|record| !record.state.is_ended());
        let left: Vec<_> = left.map(|record| (record.state, record.id)).collect();
        assert_eq!((left, table.unsaved(), world.saving.len()), (vec![], 0, 0), "seed {seed}");
        assert!(world.at_work.is_empty() && world.open.is_empty(), "seed {seed}");
        launched += world.launches.len();
        assert!(world.shown.len() <= 6);
        assert!(world.shown.values().eq(world.durable.values()), "what is shown is what is durable");
    }
    assert!(launched > 1000, "the dice made {launched} jobs begin");
}
