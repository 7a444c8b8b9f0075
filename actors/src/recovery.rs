//! What a supervisor that starts finds: the journal's records, and the jobs that are still at work.

use std::collections::BTreeMap;
use std::sync::Arc;

use futures_util::stream::{self, StreamExt};

use crate::board::Entry;
use crate::id::JobId;
use crate::journal::JournalError;
use crate::outcome::{JobEnd, reason};
use crate::record::{FinalProgress, JobRecord};
use crate::shared::{RecoverReport, Shared};

/// Writes that recovery has under way at once, so that a journal can put several into one commit.
const WRITES_AT_ONCE: usize = 32;

/// A record that was found, and what has to be done with it.
#[derive(Debug, Clone, PartialEq)]
enum Found {
    /// The journal has it like this.
    Known(Arc<JobRecord>),
    /// The journal has it differently, or not at all.
    Newer(Arc<JobRecord>),
    /// Will not go on; the journal has to learn it.
    Interrupted(Arc<JobRecord>),
}

/// Reads everything back. Answers the records, and of each whether the journal lacks it as it is.
///
/// `first` is the first supervisor of this process; a later one finds jobs at work.
pub(crate) async fn read_back(
    shared: &Shared,
    first: bool,
) -> Result<(Vec<(Arc<JobRecord>, bool)>, RecoverReport), JournalError> {
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

    let code = if first { reason::SERVER_RESTARTED } else { reason::SUPERVISOR_RESTARTED };
    let found = reconcile(unfinished.into_iter().chain(ended), shared.board.entries(), code, now_ms);
    report.interrupted = found.iter().filter(|found| matches!(found, Found::Interrupted(_))).count();
    let records = stream::iter(found)
        .map(|found| async move {
            match found {
                Found::Known(record) => (record, false),
                Found::Newer(record) => (record, true),
                Found::Interrupted(record) => {
                    let copy = Arc::clone(&record);
                    let saved = shared.journal_call("save a record", |j| j.save(copy)).await;
                    if let Err(error) = &saved {
                        tracing::error!(id = %record.id, %error, "an interrupted job could not be journalled");
                    }
                    (record, saved.is_err())
                }
            }
        })
        .buffered(WRITES_AT_ONCE)
        .collect()
        .await;
    Ok((records, report))
}

/// Puts together what the journal and the board know of each job. `code` is the reason for those that
/// nobody works on.
fn reconcile(
    journal: impl Iterator<Item = JobRecord>,
    board: Vec<Entry>,
    code: &str,
    now_ms: u64,
) -> Vec<Found> {
    let mut board: BTreeMap<JobId, Entry> = board.into_iter().map(|entry| (entry.record.id, entry)).collect();
    let mut found: Vec<Found> = journal
        .map(|record| match board.remove(&record.id) {
            Some(entry) if entry.record.state.is_ended() && !record.state.is_ended() => {
                Found::Newer(entry.record)
            }
            Some(entry) if entry.live.is_some() || record.state.is_ended() => Found::Known(Arc::new(record)),
            Some(_) | None if record.state.is_ended() => Found::Known(Arc::new(record)),
            Some(_) | None => {
                let progress =
                    record.outcome.as_ref().map_or(FinalProgress::default(), |outcome| outcome.progress);
                Found::Interrupted(record.ended(&JobEnd::Interrupted, Some(code), progress, None, now_ms))
            }
        })
        .collect();
    found.extend(board.into_values().map(|entry| Found::Newer(entry.record)));
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::JobIds;
    use crate::lifecycle::JobState;
    use crate::live::Live;
    use crate::record::{NewJob, TaskProperties};

    fn record(ids: &mut JobIds, state: JobState) -> JobRecord {
        let new = NewJob::new("a kind that nobody knows", TaskProperties::default());
        JobRecord { state, ..JobRecord::new(ids.next(1), new, None, 1) }
    }

    #[test]
    fn a_job_that_nobody_works_on_is_interrupted_and_one_at_work_is_not() {
        let mut ids = JobIds::after(None);
        let (lost, at_work) = (record(&mut ids, JobState::Running), record(&mut ids, JobState::Detached));
        let older = JobRecord { state: JobState::Running, ..at_work.clone() };
        let board = vec![Entry { live: Some(Live::new(older.id)), record: Arc::new(older) }];
        let found =
            reconcile([lost.clone(), at_work.clone()].into_iter(), board, reason::SERVER_RESTARTED, 50);
        let ended =
            lost.ended(&JobEnd::Interrupted, Some("server_restarted"), FinalProgress::default(), None, 50);
        assert_eq!(found, [Found::Interrupted(ended), Found::Known(Arc::new(at_work))]);
    }

    #[test]
    fn an_end_that_the_journal_refused_is_not_lost_with_the_supervisor() {
        let mut ids = JobIds::after(None);
        let running = record(&mut ids, JobState::Running);
        let ended = running.ended(&JobEnd::Aborted, None, FinalProgress::default(), None, 9);
        let never_written = record(&mut ids, JobState::Running);
        let board = vec![
            Entry { record: Arc::clone(&ended), live: None },
            Entry { live: Some(Live::new(never_written.id)), record: Arc::new(never_written.clone()) },
        ];
        let found = reconcile([running].into_iter(), board, reason::SUPERVISOR_RESTARTED, 50);
        assert_eq!(found, [Found::Newer(ended), Found::Newer(Arc::new(never_written))]);
    }
}
