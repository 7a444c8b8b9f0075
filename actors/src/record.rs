//! What the journal keeps of a job.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::id::JobId;
use crate::lifecycle::JobState;
use crate::outcome::{JobEnd, JobFailure};
use crate::retry::RetryPolicy;

/// A job that is to be made.
#[derive(Debug, Clone, PartialEq)]
pub struct NewJob {
    /// What sort of job: the word by which a later start finds the code that understands `spec`.
    pub kind: String,
    /// Version of `spec`'s shape.
    pub spec_version: u32,
    /// All that is needed to run it again, in the kind's own shape.
    pub spec: Value,
    /// Id of the user on whose behalf it runs.
    pub owner: Option<String>,
    /// The job that it is a part of.
    pub parent: Option<JobId>,
    /// The client's name for the request, under which a repetition would be the same job.
    pub idempotency_key: Option<String>,
    /// What it takes hold of while it runs: it does not begin before it can.
    pub claims: Vec<Claim>,
    /// What people and programs are shown.
    pub properties: TaskProperties,
    /// When the journal has to have it.
    pub durability: Durability,
    /// What it counts with against limits.
    pub groups: Vec<Group>,
    /// How urgent it is; see [`Control::priority`].
    pub priority: i32,
    /// How fast it may be; see [`Control::bandwidth`].
    pub bandwidth: Option<u64>,
    /// Whether and when it is tried again.
    pub retry: RetryPolicy,
    /// Longest time at work, waits and pauses not counted; then it fails with code `timed_out`.
    pub timeout: Option<Duration>,
}

impl NewJob {
    /// A job of that kind, with version 1 of an empty spec.
    pub fn new(kind: impl Into<String>, properties: TaskProperties) -> Self {
        Self {
            kind: kind.into(),
            spec_version: 1,
            spec: Value::Null,
            owner: None,
            parent: None,
            idempotency_key: None,
            claims: Vec::new(),
            properties,
            durability: Durability::First,
            groups: Vec::new(),
            priority: 0,
            bandwidth: None,
            retry: RetryPolicy::NEVER,
            timeout: None,
        }
    }
}

/// Something whose jobs are limited together: a storage repository, a backend.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Group {
    /// What sort of thing, in the words in which limits are set (`sr`).
    pub class: String,
    /// Which one.
    pub name: String,
}

/// What is wished of a job while it exists. Stored with it.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Control {
    /// The larger, the sooner; a minute of waiting outweighs one step.
    #[serde(skip_serializing_if = "is_default")]
    pub priority: i32,
    /// Most bytes per second, when it has a limit of its own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bandwidth: Option<u64>,
    /// When somebody asked for its abort, Unix milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub abort_requested_ms: Option<u64>,
    /// What it counts with against limits.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<Group>,
    /// Why the attempt before failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<JobFailure>,
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// What becomes of a new job that the journal does not take. Either way the journal is asked before the job runs
/// and before anybody sees its id, so that no id that somebody has seen is forgotten by a crash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// It is refused: what changes something must not happen without a record.
    #[default]
    First,
    /// It runs all the same, and its record is written as soon as the journal takes it: what only reads.
    BestEffort,
}

/// Something that a job takes hold of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Its name, in the words of whoever makes the jobs (`vdi/<uuid>`).
    pub resource: String,
    /// Alone or with others.
    pub mode: ClaimMode,
}

/// How a claim goes together with other claims on the same thing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ClaimMode {
    /// Any number of these at once.
    Shared,
    /// With no other claim beside it.
    Exclusive,
}

/// What a task's `properties` show besides progress.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskProperties {
    /// A short text for people.
    pub name: String,
    /// The contract's task type (`xo:rest-api:action`, …).
    #[serde(rename = "type")]
    pub task_type: String,
    /// Id of the user who asked for it; the job's owner when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    /// Id of the object that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_id: Option<String>,
    /// Type of that object (`VDI`, …).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub object_type: Option<String>,
    /// The action's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub method: Option<String>,
    /// The action's parameters.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub params: Option<Value>,
    /// Any other member. Members that the engine fills itself (progress and the like) are overwritten.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// What is stored as a job's `spec`: the kind's own part, and what people are shown.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct JobSpec {
    /// What people and programs are shown.
    pub properties: TaskProperties,
    /// The kind's own part, in the shape that `kind` and `spec_version` name.
    pub job: Value,
    /// What is wished of it.
    #[serde(default, skip_serializing_if = "is_default")]
    pub control: Control,
    /// From where it can go on, in the kind's own shape; null when from nowhere but the beginning.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub checkpoint: Value,
    /// How far it had come when this was written.
    #[serde(default, skip_serializing_if = "is_default")]
    pub progress: FinalProgress,
}

/// What is stored of an end.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Outcome {
    /// What a success returned; null for nothing.
    #[serde(default, skip_serializing_if = "Value::is_null")]
    pub value: Value,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failure: Option<JobFailure>,
    /// How far it came.
    pub progress: FinalProgress,
    /// When somebody asked for it to be stopped, Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub abortion_requested_ms: Option<u64>,
}

/// The counters of a job at its end, in bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinalProgress {
    /// Read from the source.
    pub bytes_read: u64,
    /// Given to the sink.
    pub bytes_written: u64,
    /// Known to be zero, and therefore neither read nor written.
    pub bytes_zero: u64,
    /// What `bytes_written` was to become, when that was known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_bytes: Option<u64>,
    /// 0 to 100.
    pub percent: u8,
}

/// A job as the journal keeps it. Times are Unix milliseconds.
#[derive(Debug, Clone, PartialEq)]
pub struct JobRecord {
    /// Its name.
    pub id: JobId,
    /// What sort of job. Kinds that this version does not know are kept.
    pub kind: String,
    /// Version of the shape of `spec.job`.
    pub spec_version: u32,
    /// What it is to do, and what people are shown.
    pub spec: JobSpec,
    /// Id of the user on whose behalf it runs.
    pub owner: Option<String>,
    /// The job that it is a part of.
    pub parent: Option<JobId>,
    /// The client's name for the request.
    pub idempotency_key: Option<String>,
    /// How often it has been begun.
    pub attempt: u32,
    /// Grows with every runner that takes the job on; what a runner of an older epoch commits must be refused.
    pub epoch: u64,
    /// Where it runs.
    pub node: Option<String>,
    /// What it takes hold of.
    pub claims: Vec<Claim>,
    /// Where it is.
    pub state: JobState,
    /// A stable code: why it ended badly, or why it waits.
    pub reason: Option<String>,
    /// How it ended, once it has.
    pub outcome: Option<Outcome>,
    /// When it was made.
    pub created_ms: u64,
    /// When it first began to run.
    pub started_ms: Option<u64>,
    /// When anything here last changed.
    pub updated_ms: u64,
    /// When it ended.
    pub ended_ms: Option<u64>,
}

impl JobRecord {
    /// The record of a job that has just been asked for.
    pub(crate) fn new(id: JobId, new: NewJob, node: Option<String>, now_ms: u64) -> Self {
        Self {
            id,
            kind: new.kind,
            spec_version: new.spec_version,
            spec: JobSpec {
                properties: new.properties,
                job: new.spec,
                control: Control {
                    priority: new.priority,
                    bandwidth: new.bandwidth,
                    groups: new.groups,
                    ..Control::default()
                },
                checkpoint: Value::Null,
                progress: FinalProgress::default(),
            },
            owner: new.owner,
            parent: new.parent,
            idempotency_key: new.idempotency_key,
            attempt: 1,
            epoch: 1,
            node,
            claims: new.claims,
            state: JobState::Queued,
            reason: None,
            outcome: None,
            created_ms: now_ms,
            started_ms: None,
            updated_ms: now_ms,
            ended_ms: None,
        }
    }

    /// The end that is recorded here, when there is one.
    pub fn end(&self) -> Option<JobEnd> {
        let outcome = self.outcome.as_ref();
        match self.state {
            JobState::Success => Some(JobEnd::Success(outcome.map(|o| o.value.clone()).unwrap_or_default())),
            JobState::Failure => {
                Some(JobEnd::Failure(outcome.and_then(|o| o.failure.clone()).unwrap_or_else(|| {
                    JobFailure::new(
                        "Error",
                        self.reason.as_deref().unwrap_or("unknown"),
                        "the reason was not recorded",
                    )
                })))
            }
            JobState::Aborted => Some(JobEnd::Aborted),
            JobState::Interrupted => Some(JobEnd::Interrupted),
            JobState::Queued
            | JobState::Running
            | JobState::Detached
            | JobState::Paused
            | JobState::Recovering => None,
        }
    }

    /// The same job, ended. `reason` overrides the code that the end itself gives.
    pub(crate) fn ended(
        &self,
        end: &JobEnd,
        reason: Option<&str>,
        progress: FinalProgress,
        now_ms: u64,
    ) -> Arc<Self> {
        let (value, failure) = match end {
            JobEnd::Success(value) => (value.clone(), None),
            JobEnd::Failure(failure) => (Value::Null, Some(failure.clone())),
            JobEnd::Aborted | JobEnd::Interrupted => (Value::Null, None),
        };
        let code = reason.or(match end {
            JobEnd::Success(_) => None,
            JobEnd::Failure(failure) => Some(failure.code.as_str()),
            JobEnd::Aborted => Some(crate::outcome::reason::ABORTED),
            JobEnd::Interrupted => Some(crate::outcome::reason::SERVER_STOPPED),
        });
        let abortion_requested_ms = self.spec.control.abort_requested_ms;
        Arc::new(Self {
            state: end.state(),
            reason: code.map(str::to_owned),
            outcome: Some(Outcome { value, failure, progress, abortion_requested_ms }),
            updated_ms: now_ms,
            ended_ms: Some(now_ms),
            ..self.clone()
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::JobIds;
    use serde_json::json;

    #[test]
    fn the_stored_parts_of_a_record_read_back_as_they_were() {
        let properties = TaskProperties {
            name: "export".into(),
            task_type: "gantry:export".into(),
            object_id: Some("x".into()),
            other: json!({"format": "vhd"}).as_object().unwrap().clone(),
            ..Default::default()
        };
        let shown = json!({"name": "export", "type": "gantry:export", "objectId": "x", "format": "vhd"});
        assert_eq!(serde_json::to_value(&properties).unwrap(), shown);
        let mut spec = JobSpec {
            properties,
            job: json!({"any": [1, null]}),
            control: Control::default(),
            checkpoint: Value::Null,
            progress: FinalProgress::default(),
        };
        let stored = serde_json::to_value(&spec).unwrap();
        assert_eq!(
            stored,
            json!({"properties": shown, "job": {"any": [1, null]}}),
            "as the first release wrote it"
        );
        assert_eq!(serde_json::from_value::<JobSpec>(stored).unwrap(), spec);
        spec.control = Control {
            priority: -3,
            bandwidth: Some(5),
            abort_requested_ms: Some(9),
            groups: vec![Group { class: "sr".into(), name: "x".into() }],
            last_failure: Some(JobFailure::new("E", "lost", "the connection was lost")),
        };
        spec.checkpoint = json!({"at": 7});
        spec.progress = FinalProgress { bytes_written: 7, percent: 3, ..FinalProgress::default() };
        assert_eq!(serde_json::from_value::<JobSpec>(serde_json::to_value(&spec).unwrap()).unwrap(), spec);
        let failure =
            JobFailure::new("E", "bad_image", "no footer").with_data(json!({"offset": 7})).transient();
        let outcome = Outcome { failure: Some(failure), ..Default::default() };
        assert_eq!(
            serde_json::from_value::<Outcome>(serde_json::to_value(&outcome).unwrap()).unwrap(),
            outcome
        );
    }

    #[test]
    fn an_ended_record_gives_its_end_back_and_an_unfinished_one_gives_none() {
        let record =
            JobRecord::new(JobIds::after(None).next(5), NewJob::new("k", TaskProperties::default()), None, 5);
        assert_eq!(record.end(), None);
        let failure = JobFailure::new("E", "bad_image", "no footer");
        for end in [
            JobEnd::Success(json!({"id": "x"})),
            JobEnd::Failure(failure),
            JobEnd::Aborted,
            JobEnd::Interrupted,
        ] {
            let ended = record.ended(&end, None, FinalProgress::default(), 9);
            assert_eq!(ended.end(), Some(end));
            assert_eq!((ended.ended_ms, ended.updated_ms, ended.created_ms), (Some(9), 9, 5));
        }
    }
}
