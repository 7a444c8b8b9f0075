//! A task as it is shown.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::{Map, Value, json};

use crate::board::Entry;
use crate::id::JobId;
use crate::lifecycle::{JobState, TaskStatus};
use crate::outcome::{JobEnd, reason};
use crate::progress::ProgressView;
use crate::record::JobRecord;

/// A job at one moment: its record, with live progress merged in.
#[derive(Debug, Clone)]
pub struct TaskView {
    /// The record.
    pub record: Arc<JobRecord>,
    /// How far it is.
    pub progress: ProgressView,
    /// When somebody asked for it to be stopped, Unix milliseconds.
    pub abortion_requested_ms: Option<u64>,
    /// The jobs that are parts of it, oldest first.
    pub children: Vec<TaskView>,
}

impl TaskView {
    fn of(entry: &Entry) -> Self {
        let record = &entry.record;
        let outcome = record.outcome.as_ref();
        let progress = match (&entry.live, outcome) {
            (_, Some(outcome)) => {
                let last = outcome.progress;
                let life_ms = record
                    .ended_ms
                    .zip(record.started_ms)
                    .map_or(0, |(end, start)| end.saturating_sub(start));
                let rate = u128::from(last.bytes_written) * 1000 / u128::from(life_ms.max(1));
                ProgressView {
                    bytes_read: last.bytes_read,
                    bytes_written: last.bytes_written,
                    bytes_zero: last.bytes_zero,
                    total_bytes: last.total_bytes,
                    percent: last.percent,
                    bytes_per_second: u64::try_from(rate).unwrap_or(u64::MAX),
                    ..ProgressView::default()
                }
            }
            (Some(live), None) => live.progress.view(),
            (None, None) => ProgressView::default(),
        };
        let asked = entry.live.as_ref().and_then(|live| live.abortion_requested_ms());
        Self {
            record: Arc::clone(record),
            progress,
            abortion_requested_ms: asked.or(outcome.and_then(|o| o.abortion_requested_ms)),
            children: Vec::new(),
        }
    }

    /// The tasks that have no parent here, oldest first, each with its parts.
    pub(crate) fn tree(entries: &[Entry]) -> Vec<Self> {
        let mut parts = parts_by_parent(entries);
        let mut roots = parts.remove(&None).unwrap_or_default();
        roots.iter_mut().for_each(|root| root.adopt(&mut parts));
        roots
    }

    /// One task with its parts, whether or not it is itself a part.
    pub(crate) fn one(entries: &[Entry], id: JobId) -> Option<Self> {
        let mut view = Self::of(entries.iter().find(|entry| entry.record.id == id)?);
        view.adopt(&mut parts_by_parent(entries));
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
        properties.insert("bytesPerSecond".into(), progress.bytes_per_second.into());
        properties.insert("state".into(), record.state.as_str().into());
        put(&mut properties, "totalBytes", progress.total_bytes);
        put(&mut properties, "etaSeconds", progress.eta_seconds);
        put(&mut properties, "startedAt", record.started_ms);
        put(&mut properties, "stalled", progress.stalled.then_some(true));
        properties
    }
}

fn put(members: &mut Map<String, Value>, name: &str, value: Option<impl Into<Value>>) {
    if let Some(value) = value {
        members.insert(name.into(), value.into());
    }
}

/// Views by the parent that is among them; under `None` those without one.
fn parts_by_parent(entries: &[Entry]) -> BTreeMap<Option<JobId>, Vec<TaskView>> {
    let known: std::collections::BTreeSet<JobId> = entries.iter().map(|entry| entry.record.id).collect();
    let mut parts: BTreeMap<Option<JobId>, Vec<TaskView>> = BTreeMap::new();
    for entry in entries {
        let parent = entry.record.parent.filter(|parent| known.contains(parent));
        parts.entry(parent).or_default().push(TaskView::of(entry));
    }
    parts
}
