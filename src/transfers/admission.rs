//! What transfers count with against limits, what they claim, and how a request waits for its turn.

use std::collections::BTreeMap;
use std::time::Duration;

use gantry_actors::{
    AdmissionLimits, BandwidthLimits, Claim, ClaimMode, EngineError, EngineHandle, Group, JobEnd, JobFailure,
    JobId, JobTicket, Pace,
};
use tokio::time::Instant;

use crate::config::Limits;
use crate::ids::{SrId, VdiId};

/// The class of groups that are one storage repository's jobs.
const SR: &str = "sr";
/// The class of groups that are one backend's jobs.
const BACKEND: &str = "backend";
/// When a client that had to wait too long should ask again, if nothing better is known.
const RETRY_AFTER: Duration = Duration::from_secs(30);

/// The limits of the configuration, as the engine has them.
pub fn admission_limits(limits: &Limits) -> AdmissionLimits {
    AdmissionLimits {
        concurrent: limits.concurrent,
        per_owner: limits.per_user,
        per_group: BTreeMap::from([(SR.to_owned(), limits.per_sr), (BACKEND.to_owned(), limits.per_backend)]),
    }
}

/// The rates of the configuration, as the engine has them.
pub fn bandwidth_limits(limits: &Limits) -> BandwidthLimits {
    BandwidthLimits {
        total: limits.bandwidth.bytes(),
        per_group: BTreeMap::from([(SR.to_owned(), limits.bandwidth_per_sr.bytes())]),
    }
}

/// What a job on an SR of the local store counts with.
pub fn groups_of(sr: SrId) -> Vec<Group> {
    groups_of_all(&[sr])
}

/// What a job on several SRs of the local store counts with.
pub fn groups_of_all(srs: &[SrId]) -> Vec<Group> {
    let group = |class: &str, name: String| Group { class: class.into(), name };
    let mut groups: Vec<_> = srs.iter().map(|sr| group(SR, sr.to_string())).collect();
    groups.push(group(BACKEND, "local".into()));
    groups
}

/// What a job claims that gives a VDI other content: the VDI for itself, its SR with others.
pub fn writer_claims(sr: SrId, vdi: VdiId) -> Vec<Claim> {
    vec![
        Claim { resource: format!("SR {sr}"), mode: ClaimMode::Shared },
        Claim { resource: format!("VDI {vdi}"), mode: ClaimMode::Exclusive },
    ]
}

/// What a job claims that adds a VDI to an SR.
pub fn maker_claims(sr: SrId) -> Vec<Claim> {
    vec![Claim { resource: format!("SR {sr}"), mode: ClaimMode::Shared }]
}

/// A job whose turn did not come while its client was ready to wait.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the transfer did not get its turn within {} s: {reason}{}", waited.as_secs_f64().round(), at(*place))]
pub struct NotAdmitted {
    /// Its task.
    pub task: JobId,
    /// Why it waited.
    pub reason: String,
    /// Its place in the queue; 1 is the next.
    pub place: Option<usize>,
    /// For how long it has waited.
    pub waited: Duration,
    /// When it makes sense to ask again.
    pub retry_after: Duration,
}

fn at(place: Option<usize>) -> String {
    place.map_or_else(String::new, |place| format!(", place {place} in the queue"))
}

/// Why a request gets no turn.
#[derive(Debug, thiserror::Error)]
pub enum TurnError {
    /// It has waited long enough.
    #[error(transparent)]
    NotAdmitted(#[from] NotAdmitted),
    /// Its job was aborted while it waited.
    #[error("the transfer was aborted before its turn came")]
    Aborted,
    /// The engine has ended it, or does not answer.
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Waits until a job has begun, for `patience` at most; a job that is not waited for any longer, for that or
/// because this future was dropped, leaves the queue.
///
/// # Errors
/// [`TurnError`]; the job does not run then.
pub async fn turn(
    engine: &EngineHandle,
    ticket: &mut JobTicket,
    patience: Duration,
) -> Result<(), TurnError> {
    let mut leave = Leaving { engine, task: Some(ticket.id()) };
    if let Ok(begun) = tokio::time::timeout(patience, ticket.begun()).await {
        leave.task = None;
        return if begun { Ok(()) } else { Err(ended(ticket.end().await)) };
    }
    leave.task = None;
    let refused = not_admitted(engine, ticket.id(), patience);
    match engine.withdraw(ticket.id(), out_of_patience(&refused)).await {
        Ok(()) => Err(refused.into()),
        // Its turn came just now.
        Err(EngineError::AtWork(_)) => Ok(()),
        Err(EngineError::NotRunning { .. } | EngineError::NotFound(_)) => Err(ended(ticket.end().await)),
        Err(error) => Err(error.into()),
    }
}

/// Waits until the bytes of a job that has begun may move, until `deadline` at most, which is the end of `patience`.
///
/// # Errors
/// [`TurnError`]; the job is left as it is.
pub async fn place(
    engine: &EngineHandle,
    task: JobId,
    pace: &Pace,
    patience: Duration,
    deadline: Instant,
) -> Result<(), TurnError> {
    match tokio::time::timeout_at(deadline, pace.opened()).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => Err(TurnError::Aborted),
        Err(_) => Err(not_admitted(engine, task, patience).into()),
    }
}

fn ended(end: JobEnd) -> TurnError {
    match end {
        JobEnd::Aborted | JobEnd::Failure(_) => TurnError::Aborted,
        JobEnd::Success(_) | JobEnd::Interrupted => EngineError::Draining.into(),
    }
}

/// The refusal of a request that has waited for a job for so long.
pub fn not_admitted(engine: &EngineHandle, task: JobId, waited: Duration) -> NotAdmitted {
    let view = engine.task(task);
    let reason = view.as_ref().and_then(|view| view.waiting_text());
    let estimate = view.as_ref().and_then(|view| view.begins_in_seconds).map(Duration::from_secs);
    NotAdmitted {
        task,
        reason: reason.unwrap_or_else(|| "it is about to begin".into()),
        place: view.and_then(|view| view.waiting).map(|waiting| waiting.place),
        waited,
        retry_after: estimate.unwrap_or(RETRY_AFTER).clamp(Duration::from_secs(1), Duration::from_secs(3600)),
    }
}

fn out_of_patience(refused: &NotAdmitted) -> JobFailure {
    JobFailure::new("QueueError", "queue_wait", refused.to_string())
}

/// Takes the job of a request that has gone away out of the queue.
struct Leaving<'a> {
    engine: &'a EngineHandle,
    task: Option<JobId>,
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        if let (Some(task), Ok(runtime)) = (self.task, tokio::runtime::Handle::try_current()) {
            let engine = self.engine.clone();
            runtime.spawn(async move {
                let failure =
                    JobFailure::new("QueueError", "client_gone", "the client left before its turn came");
                // One whose turn came in this moment finds out by itself that nobody is there.
                drop(engine.withdraw(task, failure).await);
            });
        }
    }
}
