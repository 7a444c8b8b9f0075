//! The engine compared with the model.

use super::stage::Attempt;
use super::*;

/// Whether a limit counts a job.
type Counts = Box<dyn Fn(&Job) -> bool>;

impl Trial {
    /// Every job, when the engine has come to rest. `fresh`: a server has just begun.
    pub(super) async fn compare(&mut self, engine: &EngineHandle, stage: &Stage, fresh: bool) {
        // A next attempt may be due just now.
        while !self.disk.under_way.lock().unwrap().is_empty() {
            sleep(Duration::from_millis(2)).await;
        }
        self.trace.push(format!("-- {}", self.batch));
        let mut jobs = std::mem::take(&mut self.jobs);
        // Forgotten, without an answer.
        jobs.retain(|_, job| !job.unsure || job.end.is_none() || engine.task(job.id).is_some());
        let at_work = stage.lock();
        for (tag, job) in &mut jobs {
            self.compare_one(engine, tag, job, at_work.get(tag), fresh);
        }
        for (tag, attempt) in at_work.iter() {
            assert!(jobs.contains_key(tag), "seed {}: {tag} runs and is unknown", self.seed);
            let _ = attempt;
        }
        drop(at_work);
        let unfinished = jobs.values().filter(|job| job.end.is_none()).count();
        assert_eq!(engine.unfinished(), unfinished, "seed {}, batch {}", self.seed, self.batch);
        assert!(unfinished <= MOST_UNFINISHED);
        self.compare_places(engine, &jobs);
        self.jobs = jobs;
    }

    pub(super) fn compare_one(
        &mut self,
        engine: &EngineHandle,
        tag: &str,
        job: &mut Job,
        attempt: Option<&Attempt>,
        fresh: bool,
    ) {
        let Some(view) = engine.task(job.id) else { self.fail(tag, "is lost") };
        let record = &view.record;
        if std::mem::take(&mut job.unsure) {
            job.paused = if record.state.is_ended() { job.paused } else { record.state == JobState::Paused };
            job.end = record.end();
            job.priority = record.spec.control.priority;
        }
        let shown = format!("is {} in attempt {}: {:?}", record.state, record.attempt, record.end());
        if !same_end(job.end.as_ref(), record.end().as_ref()) {
            self.fail(tag, &format!("{shown}, and should have ended with {:?}", job.end));
        }
        let told = job.ticket.as_mut().and_then(|ticket| ticket.end().now_or_never());
        if job.ticket.is_some() && !same_end(told.as_ref(), job.end.as_ref()) {
            self.fail(tag, &format!("{shown}, and its ticket was told {told:?}"));
        }
        if self.quiet && self.disk.inner.get(job.id).as_ref() != Some(record) {
            self.fail(tag, &format!("{shown}, and the journal has {:?}", self.disk.inner.get(job.id)));
        }
        let same = (record.attempt, record.spec.control.priority, &record.spec.checkpoint)
            == (job.attempt, job.priority, &job.checkpoint);
        if !same || record.epoch < job.epoch {
            let should = (job.attempt, job.epoch, job.priority, &job.checkpoint);
            self.fail(tag, &format!("{shown}, should be {should:?}, is {record:?}"));
        }
        if view.progress.percent < job.percent {
            self.fail(tag, &format!("{shown}, and fell from {} %", job.percent));
        }
        job.percent = view.progress.percent;
        job.epoch = record.epoch;
        let held = view.state() == JobState::Running;
        match attempt {
            Some(_) if job.end.is_some() => self.fail(tag, &format!("{shown}, and still at work")),
            None if job.end.is_some() => {
                job.at_work = false;
                return;
            }
            None if job.at_work || held => self.fail(tag, &format!("{shown}, and nothing is at work")),
            None => {}
            Some(attempt) => {
                if (attempt.number, attempt.epoch) != (record.attempt, record.epoch) {
                    self.fail(tag, &format!("{shown}, and {} is at work", attempt.number));
                }
                if attempt.pace.is_open() != held {
                    self.fail(tag, &format!("{shown}, and its gate is {}", attempt.pace.is_open()));
                }
                if fresh && attempt.found != job.checkpoint {
                    self.fail(tag, &format!("{shown}, and found {}", attempt.found));
                }
                if let Some(failed_at) = job.failed_at.filter(|_| !job.at_work) {
                    let first = job.attempt == 2;
                    let least = if first { RETRY.base / 2 } else { RETRY.most / 2 };
                    if failed_at.elapsed() < least {
                        self.fail(tag, &format!("{shown} after {:?} only", failed_at.elapsed()));
                    }
                }
                job.at_work = true;
            }
        }
        job.held |= held;
        let lawful = match view.state() {
            _ if job.paused => view.state() == JobState::Paused,
            JobState::Queued | JobState::Running => job.presence == JobState::Running,
            other => job.presence == other,
        };
        if !lawful {
            self.fail(tag, &format!("{shown}, paused: {}, presence: {}", job.paused, job.presence));
        }
    }

    /// Whether those who have places may have them, and those who wait have to.
    pub(super) fn compare_places(&mut self, engine: &EngineHandle, jobs: &BTreeMap<Tag, Job>) {
        let views: BTreeMap<&Tag, _> =
            jobs.iter().map(|(tag, job)| (tag, engine.task(job.id).unwrap())).collect();
        let in_state = |state| {
            let those = views.iter().filter(move |(_, view)| view.state() == state);
            those.map(|(tag, _)| (*tag).clone()).collect::<BTreeSet<Tag>>()
        };
        let (active, queued) = (in_state(JobState::Running), in_state(JobState::Queued));
        let before = std::mem::replace(&mut self.active, active.clone());
        let limits = self.limits.clone();
        // Each limit with those whom it counts.
        let mut scopes: Vec<(u32, Counts)> = vec![(limits.concurrent, Box::new(|_| true))];
        for owner in ["a", "b"] {
            scopes.push((limits.per_owner, Box::new(move |job| job.owner.as_deref() == Some(owner))));
        }
        for name in ["sr 0", "sr 1"] {
            let limit = limits.per_group.get("sr").copied().unwrap_or_default();
            scopes.push((limit, Box::new(move |job| job.groups.iter().any(|group| group.name == name))));
        }
        scopes.retain(|(limit, _)| *limit > 0);
        for (limit, counts) in &scopes {
            let these: BTreeSet<&Tag> = active.iter().filter(|tag| counts(&jobs[*tag])).collect();
            let new = these.iter().find(|tag| !before.contains(**tag));
            if let (Some(new), true) = (new, these.len() > *limit as usize) {
                self.fail(new, &format!("is one of {} that are at work under {limits:?}", these.len()));
            }
        }
        let holders: Vec<_> =
            jobs.iter().filter(|(_, job)| job.at_work && job.held && job.end.is_none()).collect();
        for (place, (tag, one)) in holders.iter().enumerate() {
            if let Some((other, _)) =
                holders.iter().skip(place + 1).find(|(_, other)| !one.is_compatible(other))
            {
                self.fail(tag, &format!("has claimed what {other} has claimed"));
            }
        }
        for tag in &queued {
            let job = &jobs[tag];
            let waits = views[tag].waiting.as_ref().map(|waiting| &waiting.reason);
            if let Some(WaitReason::Retry { .. }) = waits {
                if job.failed_at.is_none_or(|at| at.elapsed() > RETRY.most) {
                    self.fail(tag, "waits too long for its next attempt");
                }
                continue;
            }
            let limited = scopes.iter().any(|(limit, counts)| {
                counts(job) && active.iter().filter(|other| counts(&jobs[*other])).count() >= *limit as usize
            });
            let claimed = jobs.iter().any(|(other, theirs)| {
                let there = theirs.at_work || queued.contains(other);
                other != tag && theirs.end.is_none() && there && !job.is_compatible(theirs)
            });
            if !limited && !claimed {
                self.fail(tag, &format!("waits for nothing: {waits:?} under {limits:?}"));
            }
        }
    }

    /// What was durable at the last rest, and has not been touched since, is there.
    pub(super) fn compare_left(&self, tag: &str, known: &Job, record: &JobRecord) {
        let wrong = |what: &str| self.fail(tag, &format!("{what} after the server's end: {record:?}"));
        let aborted = record.spec.control.abort_requested_ms.is_some();
        match &known.end {
            Some(JobEnd::Aborted) if !aborted => wrong("is not aborted"),
            Some(JobEnd::Aborted) => {}
            Some(end) if !same_end(Some(end), record.end().as_ref()) => wrong("has another end"),
            None if matches!(record.end(), Some(JobEnd::Success(_) | JobEnd::Failure(_))) => {
                wrong("has ended")
            }
            _ => {}
        }
        if known.end.is_none()
            && !record.state.is_ended()
            && known.paused != (record.state == JobState::Paused)
        {
            wrong("is not as paused as it was");
        }
        if (known.attempt, &known.checkpoint) != (record.attempt, &record.spec.checkpoint) {
            wrong("has another attempt or checkpoint");
        }
    }
}
