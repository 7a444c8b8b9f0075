//! How jobs end.

use std::any::Any;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::task::JoinError;

use crate::lifecycle::JobState;

/// How a job ended. What a job's future returns converts into it: a [`JobEnd`] itself, or a
/// `Result<Value, JobFailure>`.
#[derive(Debug, Clone, PartialEq)]
pub enum JobEnd {
    /// It did what was asked. The value is what the task's `result` shows: an object, or null for nothing.
    Success(Value),
    /// It could not.
    Failure(JobFailure),
    /// Somebody stopped it.
    Aborted,
    /// The server stopped, and it will not go on.
    Interrupted,
}

/// Why a job failed, in the shape of the contract's error object.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, thiserror::Error)]
#[error("{message}")]
pub struct JobFailure {
    /// The kind of error, in the way of a class name (`VhdError`).
    pub name: String,
    /// One sentence for people.
    pub message: String,
    /// A stable word for programs, in snake case.
    pub code: String,
    /// Numbers and names that belong to it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<Value>,
    /// Whether trying again later can help.
    #[serde(default)]
    pub transient: bool,
}

impl JobFailure {
    /// A failure that trying again does not mend.
    pub fn new(name: impl Into<String>, code: impl Into<String>, message: impl Into<String>) -> Self {
        Self { name: name.into(), message: message.into(), code: code.into(), data: None, transient: false }
    }

    /// The same, with numbers and names that belong to it.
    #[must_use]
    pub fn with_data(self, data: Value) -> Self {
        Self { data: Some(data), ..self }
    }

    /// The same, but trying again later can help.
    #[must_use]
    pub fn transient(self) -> Self {
        Self { transient: true, ..self }
    }

    /// What a panic becomes: code `panic`, with the panic's own text as the message. For a thread of the
    /// job's own, pass what its `join` returned.
    pub fn from_panic(payload: &(dyn Any + Send)) -> Self {
        let text = payload
            .downcast_ref::<&'static str>()
            .copied()
            .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
            .unwrap_or("a panic without a text");
        Self::new("Panic", "panic", text)
    }

    /// The contract's error object.
    pub fn to_json(&self) -> Value {
        let mut object = json!({ "name": self.name, "message": self.message, "code": self.code });
        if let (Some(members), Some(data)) = (object.as_object_mut(), &self.data) {
            members.insert("data".into(), data.clone());
        }
        object
    }
}

/// So that a job can put `?` behind a task whose result it awaits.
impl From<JoinError> for JobFailure {
    fn from(error: JoinError) -> Self {
        match error.try_into_panic() {
            Ok(payload) => Self::from_panic(payload.as_ref()),
            Err(_) => Self::new("Cancelled", "task_cancelled", "a part of the job was cancelled"),
        }
    }
}

impl JobEnd {
    /// The state that a job with this end is in.
    pub fn state(&self) -> JobState {
        match self {
            Self::Success(_) => JobState::Success,
            Self::Failure(_) => JobState::Failure,
            Self::Aborted => JobState::Aborted,
            Self::Interrupted => JobState::Interrupted,
        }
    }
}

impl From<Result<Value, JobFailure>> for JobEnd {
    fn from(result: Result<Value, JobFailure>) -> Self {
        match result {
            Ok(value) => Self::Success(value),
            Err(failure) => Self::Failure(failure),
        }
    }
}

/// Stable words in [`JobRecord::reason`](crate::JobRecord::reason) that the engine itself gives. A failure's
/// reason is its code.
pub mod reason {
    /// Ended by an abort.
    pub const ABORTED: &str = "aborted";
    /// Found unfinished at a start of the server.
    pub const SERVER_RESTARTED: &str = "server_restarted";
    /// Still at work when the time for draining was over.
    pub const SERVER_STOPPED: &str = "server_stopped";
    /// Accepted, but not yet at work, when its supervisor had to be rebuilt.
    pub const SUPERVISOR_RESTARTED: &str = "supervisor_restarted";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panics_text_is_found_whether_it_was_formatted_or_not() {
        let of = |run: fn()| JobFailure::from_panic(std::panic::catch_unwind(run).unwrap_err().as_ref());
        assert_eq!(of(|| panic!("plain")).message, "plain");
        assert_eq!(of(|| panic!("block {}", 7)).message, "block 7");
        let odd = of(|| std::panic::panic_any(7u8));
        assert_eq!((odd.code.as_str(), odd.message.as_str()), ("panic", "a panic without a text"));
    }

    #[test]
    fn a_failure_shows_as_the_contracts_error_object() {
        let failure = JobFailure::new("SpaceError", "no_space", "3 bytes are missing")
            .with_data(json!({ "missing": 3 }));
        let shown = json!({"name": "SpaceError", "message": "3 bytes are missing", "code": "no_space", "data": {"missing": 3}});
        assert_eq!(failure.to_json(), shown);
        assert_eq!(failure.clone().transient(), JobFailure { transient: true, ..failure });
    }
}
