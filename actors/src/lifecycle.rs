//! What a job can be, and what it can become. No actix, no clock, no IO.
//!
//! ```text
//!            ┌──── retry, no place left, after a restart ────────┐
//!            v                                                   │
//!  submit → Queued ──→ Running ⇄ Detached (client gone)          │
//!            ⇅ ⇅         ⇅          ⇅ ⇅                          │
//!            │ └───────→ Paused ⇄ Recovering (server stopped) ───┤
//!            └───────→ Detached (gone while it waits) ───────────┘
//!
//!            all five above → Success, Failure, Aborted, Interrupted
//! ```
//!
//! The last four are ends: nothing follows them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The engine's own word for where a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum JobState {
    /// Accepted and durable; waits for its turn.
    Queued,
    /// At work.
    Running,
    /// At work or waiting with its content pinned, while its client is gone and may come back.
    Detached,
    /// Stopped by somebody's wish; goes on by somebody's wish.
    Paused,
    /// The server stopped; goes on from its checkpoint.
    Recovering,
    /// Will not go on: the server stopped, and there was nothing to go on from.
    Interrupted,
    /// Did what was asked.
    Success,
    /// Ended with an error.
    Failure,
    /// Ended by somebody's wish.
    Aborted,
}

/// The four words that a task's `status` has in the contract.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TaskStatus {
    /// Not ended.
    Pending,
    /// Ended well.
    Success,
    /// Ended badly, or by an abort.
    Failure,
    /// The server restarted meanwhile.
    Interrupted,
}

/// A step that the lifecycle does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a job that is {from} cannot become {to}")]
pub struct IllegalTransition {
    /// Where the job is.
    pub from: JobState,
    /// Where it was to go.
    pub to: JobState,
}

/// A text that names no state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "not a job state: expected one of queued, running, detached, paused, recovering, interrupted, success, failure, aborted"
)]
pub struct BadJobState;

impl JobState {
    /// Every state, in the order in which a job may meet them.
    pub const ALL: [Self; 9] = [
        Self::Queued,
        Self::Running,
        Self::Detached,
        Self::Paused,
        Self::Recovering,
        Self::Interrupted,
        Self::Success,
        Self::Failure,
        Self::Aborted,
    ];

    /// Whether nothing can follow.
    pub fn is_ended(self) -> bool {
        matches!(self, Self::Interrupted | Self::Success | Self::Failure | Self::Aborted)
    }

    /// The word as it is stored and shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Running => "running",
            Self::Detached => "detached",
            Self::Paused => "paused",
            Self::Recovering => "recovering",
            Self::Interrupted => "interrupted",
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Aborted => "aborted",
        }
    }

    /// How it shows in the contract's four statuses.
    pub fn status(self) -> TaskStatus {
        match self {
            Self::Queued | Self::Running | Self::Detached | Self::Paused | Self::Recovering => {
                TaskStatus::Pending
            }
            Self::Success => TaskStatus::Success,
            Self::Failure | Self::Aborted => TaskStatus::Failure,
            Self::Interrupted => TaskStatus::Interrupted,
        }
    }
}

impl TaskStatus {
    /// The word as it is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Interrupted => "interrupted",
        }
    }
}

impl fmt::Display for JobState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for TaskStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for JobState {
    type Err = BadJobState;

    fn from_str(text: &str) -> Result<Self, BadJobState> {
        Self::ALL.into_iter().find(|state| state.as_str() == text).ok_or(BadJobState)
    }
}

/// The state after a step from `from` to `to`.
///
/// # Errors
/// [`IllegalTransition`] when the lifecycle has no such step; staying where one is, is none.
pub fn transition(from: JobState, to: JobState) -> Result<JobState, IllegalTransition> {
    use JobState::{Detached, Paused, Queued, Recovering, Running};
    // A job that is held up may still end well: what was on its way may have been all.
    let allowed = match from {
        ended if ended.is_ended() => false,
        _ if to.is_ended() => true,
        Queued => matches!(to, Running | Detached | Paused | Recovering),
        Running => matches!(to, Queued | Detached | Paused | Recovering),
        Detached => matches!(to, Queued | Running | Paused | Recovering),
        Paused => matches!(to, Queued | Running | Detached | Recovering),
        Recovering => matches!(to, Queued | Running | Detached | Paused),
        JobState::Interrupted | JobState::Success | JobState::Failure | JobState::Aborted => false,
    };
    if allowed { Ok(to) } else { Err(IllegalTransition { from, to }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One row a state, one column a target in the order of `JobState::ALL`; `x` where a step exists.
    const TABLE: [(JobState, &str); 9] = [
        //                          Q R D P C I S F A
        (JobState::Queued, "        . x x x x x x x x"),
        (JobState::Running, "       x . x x x x x x x"),
        (JobState::Detached, "      x x . x x x x x x"),
        (JobState::Paused, "        x x x . x x x x x"),
        (JobState::Recovering, "    x x x x . x x x x"),
        (JobState::Interrupted, "   . . . . . . . . ."),
        (JobState::Success, "       . . . . . . . . ."),
        (JobState::Failure, "       . . . . . . . . ."),
        (JobState::Aborted, "       . . . . . . . . ."),
    ];

    #[test]
    fn the_lifecycle_is_exactly_this_table() {
        for (from, row) in TABLE {
            for (to, mark) in JobState::ALL.into_iter().zip(row.split_whitespace()) {
                let expected = if mark == "x" { Ok(to) } else { Err(IllegalTransition { from, to }) };
                assert_eq!(transition(from, to), expected, "{from} to {to}");
            }
        }
    }

    #[test]
    fn nothing_follows_an_end_and_every_other_state_can_end() {
        for from in JobState::ALL {
            let leads_on = JobState::ALL.into_iter().any(|to| transition(from, to).is_ok());
            assert_eq!(leads_on, !from.is_ended());
            assert_eq!(transition(from, JobState::Aborted).is_ok(), !from.is_ended());
        }
    }

    #[test]
    fn states_show_as_the_contracts_four_statuses() {
        let shown: Vec<_> = JobState::ALL.into_iter().map(|s| s.status().as_str()).collect();
        let pending = ["pending"; 5];
        assert_eq!(shown, [&pending[..], &["interrupted", "success", "failure", "failure"]].concat());
    }

    #[test]
    fn a_states_word_reads_back_and_an_unknown_word_is_an_error() {
        for state in JobState::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
            assert_eq!(serde_json::to_value(state).unwrap(), state.as_str());
        }
        assert_eq!("Running".parse::<JobState>(), Err(BadJobState));
    }

    #[test]
    fn an_illegal_step_names_both_ends() {
        let error = transition(JobState::Success, JobState::Running).unwrap_err();
        assert_eq!(error.to_string(), "a job that is success cannot become running");
    }
}
