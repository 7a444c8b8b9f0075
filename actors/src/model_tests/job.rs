//! The model: what must be true of one job.

use super::*;

/// What must be true of a job.
pub(super) struct Job {
    pub(super) id: JobId,
    pub(super) kind: String,
    pub(super) owner: Option<String>,
    pub(super) key: Option<String>,
    pub(super) spec: Value,
    pub(super) claims: Vec<Claim>,
    pub(super) groups: Vec<Group>,
    pub(super) paused: bool,
    pub(super) presence: JobState,
    pub(super) end: Option<JobEnd>,
    pub(super) attempt: u32,
    pub(super) epoch: u64,
    pub(super) priority: i32,
    pub(super) checkpoint: Value,
    /// When its last attempt failed in passing, in this server's life.
    pub(super) failed_at: Option<Instant>,
    pub(super) hanging: bool,
    /// An attempt was at work when it was last looked at, and with a place since that began.
    pub(super) at_work: bool,
    pub(super) held: bool,
    pub(super) percent: u8,
    /// An answer did not come, so what was asked for may have happened or not.
    pub(super) unsure: bool,
    pub(super) ticket: Option<JobTicket>,
}

impl Job {
    pub(super) fn of(record: &JobRecord) -> Self {
        Self {
            id: record.id,
            kind: record.kind.clone(),
            owner: record.owner.clone(),
            key: record.idempotency_key.clone(),
            spec: record.spec.job.clone(),
            claims: record.claims.clone(),
            groups: record.spec.control.groups.clone(),
            paused: record.state == JobState::Paused,
            presence: JobState::Running,
            end: record.end(),
            attempt: record.attempt,
            epoch: record.epoch,
            priority: record.spec.control.priority,
            checkpoint: record.spec.checkpoint.clone(),
            failed_at: None,
            hanging: false,
            at_work: false,
            held: false,
            percent: record.spec.progress.percent,
            unsure: false,
            ticket: None,
        }
    }

    pub(super) fn is_compatible(&self, other: &Self) -> bool {
        self.claims.iter().all(|mine| {
            let same = other.claims.iter().filter(|theirs| theirs.resource == mine.resource);
            same.map(|theirs| (mine.mode, theirs.mode))
                .all(|modes| modes == (ClaimMode::Shared, ClaimMode::Shared))
        })
    }

    pub(super) fn failed(&mut self, code: &str) {
        self.end = Some(JobEnd::Failure(JobFailure::new("E", code, "")));
    }

    pub(super) fn told(&mut self, act: Act) {
        match act {
            Act::Succeed => self.end = Some(JobEnd::Success(json!({ "done": true }))),
            Act::Fail => self.failed("bad"),
            Act::Panic => self.failed("panic"),
            Act::FailInPassing if self.attempt < RETRY.attempts => {
                self.attempt += 1;
                self.epoch += 1;
                self.presence = JobState::Running;
                self.at_work = false;
                self.held = false;
                self.failed_at = Some(Instant::now());
            }
            Act::FailInPassing => self.failed("passing"),
            Act::Hang => self.hanging = true,
            Act::Leave => self.presence = JobState::Detached,
            Act::ComeBack => self.presence = JobState::Running,
            Act::Checkpoint(at) => self.checkpoint = json!(at),
            Act::Write(_) => {}
        }
    }
}

/// Ends are the same but for texts.
pub(super) fn same_end(one: Option<&JobEnd>, other: Option<&JobEnd>) -> bool {
    match (one, other) {
        (Some(JobEnd::Failure(one)), Some(JobEnd::Failure(other))) => one.code == other.code,
        (one, other) => one == other,
    }
}
