//! A task as it is shown.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::admission::{WaitReason, Waiting};
use crate::board::{Board, Entry};
use crate::id::JobId;
use crate::lifecycle::{JobState, TaskStatus};
use crate::outcome::{JobEnd, JobFailure, reason};
use crate::progress::ProgressView;
use crate::record::{FinalProgress, JobRecord};
use crate::stages::Stage;

/// A job at one moment: its record, with live progress merged in.
#[derive(Debug, Clone)]
pub struct TaskView {
    /// The record.
    pub record: Arc<JobRecord>,
    /// How far it is.
    pub progress: ProgressView,
    /// When somebody asked for it to be stopped, Unix milliseconds.
    pub abortion_requested_ms: Option<u64>,
    /// Why it does not begin, and its place, while it is queued.
    pub waiting: Option<Waiting>,
    /// In how many seconds it may begin, as far as the jobs at work let one guess.
    pub begins_in_seconds: Option<u64>,
    /// The jobs that are parts of it, oldest first.
    pub children: Vec<TaskView>,
    /// Where it is itself, unless there is nothing of it in this process.
    presence: Option<JobState>,
}

impl TaskView {
    fn of(entry: &Entry, queue: &Queue<'_>) -> Self {
        let record = &entry.record;
        let outcome = record.outcome.as_ref().filter(|_| record.state.is_ended());
        let progress = match (&entry.live, outcome) {
            (_, Some(outcome)) => {
                let last = outcome.progress;
                let life_ms = record
                    .ended_ms
                    .zip(record.started_ms)
                    .map_or(0, |(end, start)| end.saturating_sub(start));
                let rate = u128::from(last.bytes_written) * 1000 / u128::from(life_ms.max(1));
                of_last(last, u64::try_from(rate).unwrap_or(u64::MAX))
            }
            (Some(live), None) => live.progress.view(),
            // It is left to the next server.
            (None, None) => of_last(record.spec.progress, 0),
        };
        let waiting = queue.waits.get(&record.id).filter(|_| record.state == JobState::Queued);
        Self {
            record: Arc::clone(record),
            progress,
            abortion_requested_ms: record.spec.control.abort_requested_ms,
            waiting: waiting.cloned(),
            begins_in_seconds: waiting.and_then(|waiting| queue.estimate(waiting)),
            children: Vec::new(),
            presence: entry.live.as_ref().map(|live| live.presence()),
        }
    }

    /// The tasks that have no parent here, oldest first, each with its parts.
    pub(crate) fn tree(entries: &[Entry], waits: &HashMap<JobId, Waiting>) -> Vec<Self> {
        let mut parts = parts_by_parent(entries, &Queue::new(entries, waits));
        let mut roots = parts.remove(&None).unwrap_or_default();
        roots.iter_mut().for_each(|root| root.adopt(&mut parts));
        roots
    }

    /// One task with its parts, whether or not it is itself a part.
    pub(crate) fn one(board: &Board, id: JobId) -> Option<Self> {
        let (family, waits) = (board.family(id), board.waits());
        // All others matter only to those who wait for them.
        let waiting = family.iter().any(|entry| waits.contains_key(&entry.record.id));
        let queue = Queue::new(if waiting { board.entries() } else { Vec::new() }.as_slice(), &waits);
        let mut view = Self::of(family.first()?, &queue);
        view.adopt(&mut parts_by_parent(&family, &queue));
        Some(view)
    }

    /// Takes its parts out of the heap, so that records that name each other as parents end here too.
    fn adopt(&mut self, parts: &mut BTreeMap<Option<JobId>, Vec<Self>>) {
        self.children = parts.remove(&Some(self.id())).unwrap_or_default();
        self.children.iter_mut().for_each(|child| child.adopt(parts));
    }

    /// The job's name.
    pub fn id(&self) -> JobId {
        self.record.id
    }

    /// The engine's own word for where it is.
    pub fn state(&self) -> JobState {
        self.record.state
    }

    /// The contract's word for it.
    pub fn status(&self) -> TaskStatus {
        self.record.state.status()
    }

    /// When its record or, as far as the sampler has seen, a counter last changed. Unix milliseconds.
    pub fn updated_ms(&self) -> u64 {
        let asked = self.abortion_requested_ms.unwrap_or(0);
        self.record.updated_ms.max(self.progress.moved_ms.unwrap_or(0)).max(asked)
    }

    /// The id of the object that it is about, if it is about one.
    pub fn object_id(&self) -> Option<&str> {
        let properties = &self.record.spec.properties;
        let named = properties.params.as_ref().and_then(|params| params.get("id")).and_then(Value::as_str);
        properties.object_id.as_deref().or(named)
    }

    /// The contract's `result`: what a success returned, or an error object. Always an object, or absent.
    pub fn result(&self) -> Option<Value> {
        match self.record.end()? {
            JobEnd::Success(Value::Null) => None,
            JobEnd::Success(value @ Value::Object(_)) => Some(value),
            JobEnd::Success(value) => Some(json!({ "value": value })),
            JobEnd::Failure(failure) => Some(failure.to_json()),
            JobEnd::Aborted => {
                Some(json!({ "name": "Aborted", "message": "the task was aborted", "code": reason::ABORTED }))
            }
            JobEnd::Interrupted => {
                let code = self.record.reason.as_deref().unwrap_or(reason::SERVER_RESTARTED);
                let message = match code {
                    reason::SERVER_RESTARTED => "the server was restarted while the task was at work",
                    reason::SERVER_STOPPED => "the server was stopped while the task was at work",
                    _ => "the task was interrupted and will not go on",
                };
                Some(json!({ "name": "Interrupted", "message": message, "code": code }))
            }
        }
    }

    /// Why the job moves no bytes although it has not ended, in a sentence.
    pub fn waiting_text(&self) -> Option<String> {
        match (self.record.state, &self.waiting) {
            (JobState::Paused, _) => Some("it is paused".into()),
            (JobState::Detached, _) => Some("its client has gone and may come back".into()),
            (JobState::Recovering, _) => Some(match self.presence {
                None => "the server stops; it goes on with the next one".into(),
                Some(JobState::Recovering) => {
                    "the server was restarted; it goes on when its client comes back".into()
                }
                Some(_) => "the server was restarted; it is about to go on".into(),
            }),
            (JobState::Queued, Some(waiting)) => Some(match &waiting.reason {
                WaitReason::Limit { scope, limit } if **scope == *"all" => {
                    format!("as many jobs run as may at once: {limit}")
                }
                WaitReason::Limit { scope, limit } if **scope == *"owner" => {
                    format!("as many jobs of this user run as may at once: {limit}")
                }
                WaitReason::Limit { scope, limit } => {
                    format!("as many jobs of this {scope} run as may at once: {limit}")
                }
                WaitReason::Claim { resource, holder } => format!("task {holder} has {resource}"),
                WaitReason::Retry { left } => {
                    format!("it failed and is tried again in {} s", left.as_millis().div_ceil(1000))
                }
                WaitReason::Turn => "it is about to begin".into(),
            }),
            (JobState::Queued, None) => Some("it waits for its turn".into()),
            _ => None,
        }
    }

    /// The contract's task record. Members without a value are left out; times are Unix milliseconds.
    pub fn to_json(&self) -> Value {
        let record = &self.record;
        let mut task = Map::new();
        task.insert("id".into(), record.id.to_string().into());
        task.insert("properties".into(), Value::Object(self.properties_json()));
        task.insert("start".into(), record.created_ms.into());
        task.insert("updatedAt".into(), self.updated_ms().into());
        task.insert("status".into(), self.status().as_str().into());
        put(&mut task, "end", record.ended_ms);
        put(&mut task, "abortionRequestedAt", self.abortion_requested_ms);
        put(&mut task, "result", self.result());
        if !self.children.is_empty() {
            task.insert("tasks".into(), self.children.iter().map(Self::to_json).collect());
        }
        Value::Object(task)
    }

    fn properties_json(&self) -> Map<String, Value> {
        let record = &self.record;
        let shown = serde_json::to_value(&record.spec.properties);
        let mut properties = match shown {
            Ok(Value::Object(members)) => members,
            Ok(_) | Err(_) => Map::new(),
        };
        if !properties.contains_key("userId") {
            put(&mut properties, "userId", record.owner.clone());
        }
        let progress = &self.progress;
        properties.insert("progress".into(), progress.percent.into());
        properties.insert("bytes".into(), progress.bytes_written.into());
        // One that is held up has the rate of its last seconds in its window yet.
        let held_up = !record.state.is_ended() && record.state != JobState::Running;
        let rate = if held_up { 0 } else { progress.bytes_per_second };
        properties.insert("bytesPerSecond".into(), rate.into());
        properties.insert("state".into(), record.state.as_str().into());
        put(&mut properties, "totalBytes", progress.total_bytes);
        put(&mut properties, "etaSeconds", progress.eta_seconds.filter(|_| !held_up));
        put(&mut properties, "startedAt", record.started_ms);
        put(&mut properties, "stalled", progress.stalled.then_some(true));
        let control = &record.spec.control;
        put(&mut properties, "priority", Some(control.priority).filter(|priority| *priority != 0));
        put(&mut properties, "bandwidth", control.bandwidth);
        if !record.state.is_ended() {
            put(&mut properties, "attempt", Some(record.attempt).filter(|attempt| *attempt > 1));
            put(&mut properties, "lastFailure", control.last_failure.as_ref().map(JobFailure::to_json));
        }
        if record.state == JobState::Running {
            put(&mut properties, "stage", progress.stage.map(Stage::as_str));
        }
        put(&mut properties, "waiting", self.waiting_text());
        put(&mut properties, "place", self.waiting.as_ref().map(|waiting| waiting.place));
        put(&mut properties, "beginsInSeconds", self.begins_in_seconds);
        properties
    }
}

/// Counters that do not move any more.
fn of_last(last: FinalProgress, bytes_per_second: u64) -> ProgressView {
    ProgressView {
        bytes_read: last.bytes_read,
        bytes_written: last.bytes_written,
        bytes_zero: last.bytes_zero,
        total_bytes: last.total_bytes,
        percent: last.percent,
        bytes_per_second,
        ..ProgressView::default()
    }
}

fn put(members: &mut Map<String, Value>, name: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        members.insert(name.into(), value.into());
    }
}

/// Views by the parent that is among them; under `None` those without one.
fn parts_by_parent(entries: &[Entry], queue: &Queue<'_>) -> BTreeMap<Option<JobId>, Vec<TaskView>> {
    let known: std::collections::BTreeSet<JobId> = entries.iter().map(|entry| entry.record.id).collect();
    let mut parts: BTreeMap<Option<JobId>, Vec<TaskView>> = BTreeMap::new();
    for entry in entries {
        let parent = entry.record.parent.filter(|parent| known.contains(parent));
        parts.entry(parent).or_default().push(TaskView::of(entry, queue));
    }
    parts
}

/// Those who wait, and how long those at work will take.
struct Queue<'a> {
    waits: &'a HashMap<JobId, Waiting>,
    /// Seconds that jobs at work have left, as far as they are known, the least first.
    ends: Vec<u64>,
    by_job: HashMap<JobId, u64>,
}

impl<'a> Queue<'a> {
    fn new(entries: &[Entry], waits: &'a HashMap<JobId, Waiting>) -> Self {
        let mut by_job = HashMap::new();
        if !waits.is_empty() {
            for Entry { record, live } in
                entries.iter().filter(|entry| entry.record.state == JobState::Running)
            {
                if let Some(left) = live.as_ref().and_then(|live| live.progress.view().eta_seconds) {
                    by_job.insert(record.id, left);
                }
            }
        }
        let mut ends: Vec<u64> = by_job.values().copied().collect();
        ends.sort_unstable();
        Self { waits, ends, by_job }
    }

    /// A guess: places become free in the order in which the jobs at work end, round after round.
    fn estimate(&self, waiting: &Waiting) -> Option<u64> {
        match &waiting.reason {
            WaitReason::Retry { left } => Some(left.as_secs()),
            WaitReason::Claim { holder, .. } => self.by_job.get(holder).copied(),
            WaitReason::Limit { .. } => {
                let before = waiting.place.saturating_sub(1);
                let round = u64::try_from(before.checked_div(self.ends.len())?).ok()?;
                let end = self.ends.get(before.checked_rem(self.ends.len())?)?;
                Some(end.saturating_add(round.saturating_mul(*self.ends.last()?)))
            }
            WaitReason::Turn => Some(0),
        }
    }
}
