//! What a supervisor that starts finds: the journal's records, and the jobs that are still at work.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use futures_util::stream::{self, StreamExt};

use crate::board::Entry;
use crate::id::JobId;
use crate::journal::JournalError;
use crate::lifecycle::JobState;
use crate::live::{Live, Making};
use crate::outcome::{JobEnd, reason};
use crate::record::JobRecord;
use crate::shared::{RecoverReport, Shared, TaskChange};
use crate::work::Resumption;

/// Writes that recovery has under way at once, so that a journal can put several into one commit.
const WRITES_AT_ONCE: usize = 32;

/// A record that was found.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) record: Arc<JobRecord>,
    /// The journal has it differently.
    pub(crate) unsaved: bool,
    /// What there is of the job in this process.
    pub(crate) live: Option<Arc<Live>>,
}

/// A record, and what has to be done with it.
#[derive(Debug)]
enum Verdict {
    /// The journal has it like this.
    Known(Arc<JobRecord>, Option<Arc<Live>>),
    /// The journal has it differently, or not at all.
    Newer(Arc<JobRecord>, Option<Arc<Live>>),
    /// Will not go on; the journal has to learn it.
    Over(Arc<JobRecord>),
    /// Goes on here; the journal has to learn it.
    GoesOn(Arc<JobRecord>, Arc<Live>),
}

/// Reads everything back.
///
/// `first` is the first supervisor of this process; a later one finds jobs at work.
pub(crate) async fn read_back(
    shared: &Shared,
    first: bool,
) -> Result<(Vec<Found>, RecoverReport), JournalError> {
    // What the supervisor before began to write is read back only once it is written.
    shared.writes.close();
    shared.writes.wait().await;
    shared.writes.reopen();

    let now_ms = shared.now_ms();
    let mut report = RecoverReport::default();
    if first {
        let max_age_ms = u64::try_from(shared.config.max_age.as_millis()).unwrap_or(u64::MAX);
        let (keep, ended_before) = (shared.config.keep, now_ms.saturating_sub(max_age_ms));
        report.dropped = shared.journal_call("drop old records", |j| j.retain(keep, ended_before)).await?;
    }
    let unfinished = shared.journal_call("load unfinished jobs", |j| j.load_unfinished()).await?;
    let keep = shared.config.keep;
    let ended = shared.journal_call("load ended jobs", |j| j.load_ended(keep)).await?;
    report.kept = ended.len();

    // What the supervisor before had the journal forget, and was not told of.
    let forgotten = shared.board.take_forgetting();
    let there: BTreeSet<JobId> = unfinished.iter().chain(&ended).map(|record| record.id).collect();
    for id in forgotten.difference(&there) {
        shared.board.remove(*id);
        shared.announce(TaskChange::Removed(*id));
    }

    let code = if first { reason::SERVER_RESTARTED } else { reason::SUPERVISOR_RESTARTED };
    let resume = |record: &JobRecord| if first { revive(shared, record) } else { None };
    let found = reconcile(unfinished.into_iter().chain(ended), shared.board.entries(), resume, code, now_ms);
    report.interrupted = found.iter().filter(|found| matches!(found, Verdict::Over(_))).count();
    report.resumed = found.iter().filter(|found| matches!(found, Verdict::GoesOn(..))).count();
    let records = stream::iter(found)
        .map(|found| async move {
            let (record, live) = match found {
                Verdict::Known(record, live) => return Found { record, unsaved: false, live },
                Verdict::Newer(record, live) => return Found { record, unsaved: true, live },
                Verdict::Over(record) => (record, None),
                Verdict::GoesOn(record, live) => (record, Some(live)),
            };
            let copy = Arc::clone(&record);
            let saved = shared.journal_call("save a record", |j| j.save(copy)).await;
            if let Err(error) = &saved {
                tracing::error!(id = %record.id, %error, "a job of the last run could not be journalled");
            }
            Found { record, unsaved: saved.is_err(), live }
        })
        .buffered(WRITES_AT_ONCE)
        .collect()
        .await;
    Ok((records, report))
}

/// The cell of a job of a former run that goes on.
fn revive(shared: &Shared, record: &JobRecord) -> Option<Arc<Live>> {
    let Resumption { work, retry, timeout, waits_for_client } = shared.resume.resume(record)?;
    let control = &record.spec.control;
    let making = Making {
        work,
        retry,
        timeout,
        throttle: shared.bandwidth.throttle(&control.groups, control.bandwidth),
        resumable: true,
        presence: if waits_for_client { JobState::Recovering } else { JobState::Running },
    };
    let live = Live::new(record.id, making);
    live.progress.goes_on_from(record.spec.progress.percent);
    Some(live)
}

/// Puts together what the journal and the board know of each job. `code` is the reason for those that
/// nobody works on and that do not go on.
fn reconcile(
    journal: impl Iterator<Item = JobRecord>,
    board: Vec<Entry>,
    resume: impl Fn(&JobRecord) -> Option<Arc<Live>>,
    code: &str,
    now_ms: u64,
) -> Vec<Verdict> {
    let mut board: BTreeMap<JobId, Entry> = board.into_iter().map(|entry| (entry.record.id, entry)).collect();
    let mut found: Vec<Verdict> = journal
        .map(|record| match board.remove(&record.id) {
            Some(entry) if entry.record.state.is_ended() && !record.state.is_ended() => {
                Verdict::Newer(entry.record, None)
            }
            // The journal has refused what was shown, or what it took has not been shown.
            Some(Entry { record: shown, live: Some(live) }) if !record.state.is_ended() => {
                if (shown.epoch, shown.updated_ms) > (record.epoch, record.updated_ms) {
                    Verdict::Newer(shown, Some(live))
                } else {
                    Verdict::Known(Arc::new(record), Some(live))
                }
            }
            // It was left to the next server.
            Some(Entry { record: shown, live: None }) if !record.state.is_ended() => {
                if (shown.epoch, shown.updated_ms) > (record.epoch, record.updated_ms) {
                    Verdict::Newer(shown, None)
                } else {
                    Verdict::Known(Arc::new(record), None)
                }
            }
            // Its end is written; its ticket has to be told.
            Some(entry) if record.state.is_ended() => Verdict::Known(Arc::new(record), entry.live),
            _ if record.state.is_ended() => Verdict::Known(Arc::new(record), None),
            _ => abandoned(record, &resume, code, now_ms),
        })
        .collect();
    found.extend(board.into_values().map(|entry| Verdict::Newer(entry.record, entry.live)));
    found
}

/// What becomes of a job that nobody works on.
fn abandoned(
    record: JobRecord,
    resume: impl Fn(&JobRecord) -> Option<Arc<Live>>,
    code: &str,
    now_ms: u64,
) -> Verdict {
    // Whoever asked for its abort has been told that it is stopped.
    if record.spec.control.abort_requested_ms.is_some() {
        return Verdict::Over(record.ended(&JobEnd::Aborted, None, record.spec.progress, now_ms));
    }
    let Some(live) = resume(&record) else {
        return Verdict::Over(record.ended(&JobEnd::Interrupted, Some(code), record.spec.progress, now_ms));
    };
    let waits = live.presence() == JobState::Recovering;
    let state = match record.state {
        JobState::Paused => JobState::Paused,
        _ if waits => JobState::Recovering,
        JobState::Queued => JobState::Queued,
        _ => JobState::Recovering,
    };
    let epoch = record.epoch + 1;
    Verdict::GoesOn(Arc::new(JobRecord { state, epoch, updated_ms: now_ms, ..record }), live)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bandwidth::{Bandwidth, BandwidthLimits};
    use crate::id::JobIds;
    use crate::record::{FinalProgress, NewJob, TaskProperties};
    use crate::retry::RetryPolicy;
    use crate::work::Work;

    fn record(ids: &mut JobIds, state: JobState) -> JobRecord {
        let new = NewJob::new("a kind that nobody knows", TaskProperties::default());
        JobRecord { state, ..JobRecord::new(ids.next(1), new, None, 1) }
    }

    fn live(id: JobId, presence: JobState) -> Arc<Live> {
        let making = Making {
            work: Work::gone(),
            retry: RetryPolicy::NEVER,
            timeout: None,
            throttle: Bandwidth::new(BandwidthLimits::default()).throttle(&[], None),
            resumable: false,
            presence,
        };
        Live::new(id, making)
    }

    fn nobody(_: &JobRecord) -> Option<Arc<Live>> {
        None
    }

    fn names(found: &[Verdict]) -> Vec<String> {
        found
            .iter()
            .map(|verdict| match verdict {
                Verdict::Known(record, live) => format!("known {} {}", record.state, live.is_some()),
                Verdict::Newer(record, live) => format!("newer {} {}", record.state, live.is_some()),
                Verdict::Over(record) => {
                    format!("over {} {}", record.state, record.reason.as_deref().unwrap_or("-"))
                }
                Verdict::GoesOn(record, _) => format!("goes on {} in epoch {}", record.state, record.epoch),
            })
            .collect()
    }

    #[test]
    fn a_job_that_nobody_works_on_is_interrupted_and_one_at_work_is_not() {
        let mut ids = JobIds::after(None);
        let (lost, at_work) = (record(&mut ids, JobState::Running), record(&mut ids, JobState::Detached));
        let older = JobRecord { state: JobState::Running, ..at_work.clone() };
        let board = vec![Entry { live: Some(live(older.id, JobState::Running)), record: Arc::new(older) }];
        let found = reconcile([lost, at_work].into_iter(), board, nobody, reason::SERVER_RESTARTED, 50);
        assert_eq!(names(&found), ["over interrupted server_restarted", "known detached true"]);
    }

    #[test]
    fn an_end_that_the_journal_refused_is_not_lost_with_the_supervisor() {
        let mut ids = JobIds::after(None);
        let running = record(&mut ids, JobState::Running);
        let ended = running.ended(&JobEnd::Aborted, None, FinalProgress::default(), 9);
        let never_written = record(&mut ids, JobState::Running);
        let board = vec![
            Entry { record: Arc::clone(&ended), live: None },
            Entry {
                live: Some(live(never_written.id, JobState::Running)),
                record: Arc::new(never_written.clone()),
            },
        ];
        let found = reconcile([running].into_iter(), board, nobody, reason::SUPERVISOR_RESTARTED, 50);
        assert_eq!(names(&found), ["newer aborted false", "newer running true"]);
    }

    #[test]
    fn jobs_that_can_go_on_do_so_in_a_new_epoch_and_a_pause_or_an_abort_outlives_the_server() {
        let mut ids = JobIds::after(None);
        let mut of = |state| record(&mut ids, state);
        let mut stopped = of(JobState::Running);
        stopped.spec.control.abort_requested_ms = Some(3);
        let records = [
            of(JobState::Queued),
            of(JobState::Running),
            of(JobState::Detached),
            of(JobState::Paused),
            of(JobState::Recovering),
            stopped,
        ];
        let by_itself = |record: &JobRecord| Some(live(record.id, JobState::Running));
        let found = reconcile(records.clone().into_iter(), Vec::new(), by_itself, "x", 50);
        assert_eq!(
            names(&found),
            [
                "goes on queued in epoch 2",
                "goes on recovering in epoch 2",
                "goes on recovering in epoch 2",
                "goes on paused in epoch 2",
                "goes on recovering in epoch 2",
                "over aborted aborted",
            ]
        );
        let with_client = |record: &JobRecord| Some(live(record.id, JobState::Recovering));
        let found = reconcile(records.into_iter(), Vec::new(), with_client, "x", 50);
        assert_eq!(names(&found)[0], "goes on recovering in epoch 2");
    }
}
