//! What is done to the engine, and what its answers say of the model.

use super::*;

impl Trial {
    /// Several operations at once, on different jobs, perhaps with a fault in the middle.
    pub(super) async fn some_ops(&mut self, engine: &EngineHandle, stage: &Stage) {
        let hangs = self.dice.one_in(5);
        let crashes = self.dice.one_in(5);
        let (ops, answers) = self.begin_ops(engine, stage, hangs).await;
        if crashes {
            self.tally.crashes += 1;
            // At any point of the writes under way.
            sleep(Duration::from_micros(100 * self.dice.roll(16) as u64)).await;
            self.trace.push("crash".into());
            engine.crash_transfers().await;
        }
        sleep(Duration::from_millis(30)).await;
        self.disk.hanging.send_replace(false);
        for (op, answer) in ops.into_iter().zip(answers) {
            let answer = answer.await.unwrap();
            self.learn(engine, op, answer, crashes);
        }
    }

    pub(super) async fn begin_ops(
        &mut self,
        engine: &EngineHandle,
        stage: &Stage,
        hangs: bool,
    ) -> (Vec<Op>, Vec<tokio::task::JoinHandle<Answer>>) {
        if hangs {
            self.trace.push("hang".into());
            self.disk.hanging.send_replace(true);
        }
        let (mut touched, mut ops, mut answers) = (BTreeSet::new(), Vec::new(), Vec::new());
        for _ in 0..=self.dice.roll(4) {
            let Some(op) = self.choose(stage, &mut touched) else { continue };
            self.trace.push(format!("{op:?}"));
            self.tally.ops += 1;
            answers.push(self.begin(engine, stage, &op));
            ops.push(op);
            if self.dice.one_in(2) {
                sleep(Duration::from_micros(50 * self.dice.roll(20) as u64)).await;
            }
        }
        (ops, answers)
    }

    pub(super) fn choose(&mut self, stage: &Stage, touched: &mut BTreeSet<Tag>) -> Option<Op> {
        let dice = self.dice.roll(20);
        if dice < 4 {
            self.made += 1;
            return Some(Op::Submit(format!("job {}", self.made)));
        }
        let fits = |job: &Job| match dice {
            4 | 5 => job.end.is_some(),
            6 => job.key.is_some(),
            _ => job.end.is_none(),
        };
        let free = |tag: &Tag, job: &Job| !touched.contains(tag) && fits(job);
        let candidates: Vec<&Tag> =
            self.jobs.iter().filter(|(tag, job)| free(tag, job)).map(|(tag, _)| tag).collect();
        if candidates.is_empty() {
            return None;
        }
        let tag = candidates[self.dice.roll(candidates.len())].clone();
        touched.insert(tag.clone());
        if dice == 6 {
            return self.repeat(&tag, touched);
        }
        let tells = stage.lock().contains_key(&tag) && !self.jobs[&tag].hanging;
        let away = self.jobs[&tag].presence != JobState::Running;
        let at = self.dice.roll(90) as u64;
        Some(match dice {
            4 => Op::Forget(tag),
            5 => Op::Abort(tag),
            7 | 8 => Op::Abort(tag),
            9..=11 => Op::Pause(tag, self.dice.one_in(2)),
            12 => Op::Adjust(tag, self.dice.roll(5) as i32 - 2),
            13 => Op::Withdraw(tag),
            _ if !tells => Op::Adjust(tag, 1),
            14 | 15 if away => Op::Tell(tag, Act::ComeBack),
            14 => Op::Tell(tag, Act::Leave),
            15 | 16 => Op::Tell(tag, Act::FailInPassing),
            17 => {
                let acts = [Act::Fail, Act::Panic, Act::Hang];
                Op::Tell(tag, acts[self.dice.roll(acts.len())])
            }
            18 if self.dice.one_in(2) => Op::Tell(tag, Act::Checkpoint(at)),
            18 => Op::Tell(tag, Act::Write(at)),
            _ => Op::Tell(tag, Act::Succeed),
        })
    }

    /// Those of a key are all touched by a repetition.
    pub(super) fn repeat(&mut self, tag: &str, touched: &mut BTreeSet<Tag>) -> Option<Op> {
        let key = self.jobs[tag].key.clone()?;
        let same: Vec<_> = self.jobs.iter().filter(|(_, job)| job.key.as_ref() == Some(&key)).collect();
        if same.iter().any(|(other, _)| *other != tag && touched.contains(*other)) {
            return None;
        }
        touched.extend(same.into_iter().map(|(other, _)| other.clone()));
        self.made += 1;
        let spec = if self.dice.one_in(4) { json!("another") } else { Value::Null };
        Some(Op::Repeat { key, tag: format!("repetition {}", self.made), spec })
    }

    /// The job that a key names.
    pub(super) fn named_by(&self, key: &str) -> Option<&Job> {
        let those = self.jobs.values().filter(|job| job.key.as_deref() == Some(key));
        those.filter(|job| matches!(job.end, None | Some(JobEnd::Success(_)))).max_by_key(|job| job.id)
    }

    pub(super) fn new_job(&mut self, tag: &str) -> NewJob {
        let kinds = [MORTAL, BY_ITSELF, WITH_CLIENT];
        let kind = kinds[self.dice.roll(kinds.len())];
        let properties = TaskProperties { name: tag.into(), task_type: "test".into(), ..Default::default() };
        let mut new = NewJob { retry: RETRY, ..NewJob::new(kind, properties) };
        new.owner = [None, Some("a".to_owned()), Some("b".to_owned())][self.dice.roll(3)].clone();
        new.priority = self.dice.roll(3) as i32 - 1;
        if self.dice.one_in(3) {
            new.durability = Durability::BestEffort;
        }
        if self.dice.one_in(2) {
            new.groups = vec![Group { class: "sr".into(), name: format!("sr {}", self.dice.roll(2)) }];
        }
        for resource in ["vdi/x", "vdi/y"] {
            if self.dice.one_in(3) {
                let mode = if self.dice.one_in(2) { ClaimMode::Shared } else { ClaimMode::Exclusive };
                new.claims.push(Claim { resource: resource.into(), mode });
            }
        }
        if self.dice.one_in(2) {
            new.idempotency_key = Some(tag.into());
        }
        new
    }

    pub(super) fn begin(
        &mut self,
        engine: &EngineHandle,
        stage: &Stage,
        op: &Op,
    ) -> tokio::task::JoinHandle<Answer> {
        let engine = engine.clone();
        let submit = |engine: EngineHandle, new: NewJob, work: Work| {
            tokio::spawn(async move { Answer::Ticket(engine.submit_work(new, work).await) })
        };
        match op.clone() {
            Op::Submit(tag) => submit(engine, self.new_job(&tag), stage.work(&tag)),
            Op::Repeat { key, tag, spec } => {
                let first = self.jobs.values().find(|job| job.key.as_ref() == Some(&key)).unwrap();
                let properties = TaskProperties { name: tag.clone(), ..Default::default() };
                let new = NewJob {
                    owner: first.owner.clone(),
                    idempotency_key: Some(key),
                    retry: RETRY,
                    spec,
                    ..NewJob::new(first.kind.clone(), properties)
                };
                submit(engine, new, stage.work(&tag))
            }
            Op::Tell(tag, act) => {
                stage.lock()[&tag].acts.send(act).unwrap();
                tokio::spawn(std::future::ready(Answer::Told))
            }
            other => {
                let (Op::Abort(tag)
                | Op::Pause(tag, _)
                | Op::Adjust(tag, _)
                | Op::Withdraw(tag)
                | Op::Forget(tag)) = &other
                else {
                    unreachable!("the others are above")
                };
                let id = self.jobs[tag].id;
                tokio::spawn(async move {
                    Answer::Done(match other {
                        Op::Pause(_, true) => engine.pause(id).await,
                        Op::Pause(_, false) => engine.resume(id).await,
                        Op::Adjust(_, priority) => {
                            let to = Adjustment { priority: Some(priority), ..Adjustment::default() };
                            engine.adjust(id, to).await
                        }
                        Op::Withdraw(_) => {
                            engine.withdraw(id, JobFailure::new("E", "withdrawn", "withdrawn")).await
                        }
                        Op::Forget(_) => engine.forget(id).await,
                        _ => engine.abort(id).await,
                    })
                })
            }
        }
    }

    /// What an answer says of a job. `faulty`: the supervisor crashed meanwhile, so there may be none.
    pub(super) fn learn(&mut self, engine: &EngineHandle, op: Op, answer: Answer, faulty: bool) {
        match (op, answer) {
            (Op::Repeat { key, spec, .. }, Answer::Ticket(answer)) if self.named_by(&key).is_some() => {
                let named = self.named_by(&key).map(|job| (job.id, job.spec == spec));
                let found = match answer {
                    Ok(ticket) => Some((ticket.id(), true)),
                    Err(EngineError::KeyReused { id }) => Some((id, false)),
                    Err(EngineError::Unavailable) if faulty => return,
                    Err(error) => self.fail(&key, &format!("is used again and refused: {error}")),
                };
                assert_eq!(found, named, "seed {}: {key}", self.seed);
            }
            (Op::Submit(tag) | Op::Repeat { tag, .. }, Answer::Ticket(answer)) => match answer {
                Ok(ticket) => {
                    let view = engine.task(ticket.id()).unwrap_or_else(|| self.fail(&tag, "is not shown"));
                    // What has happened to it since is for the next look.
                    let mut job = Job { ticket: Some(ticket), ..Job::of(&view.record) };
                    job.end = None;
                    self.jobs.insert(tag, job);
                }
                Err(EngineError::Busy { limit }) => {
                    let unfinished = self.jobs.values().filter(|job| job.end.is_none()).count();
                    assert!(unfinished + 5 > limit, "seed {}: {unfinished} are not too many", self.seed);
                }
                Err(EngineError::Journal(_)) => assert!(!self.quiet, "seed {}: refused", self.seed),
                Err(EngineError::Unavailable) if faulty => self.find_lost(engine, &tag),
                Err(error) => self.fail(&tag, &format!("is refused: {error}")),
            },
            (Op::Tell(tag, act), Answer::Told) => {
                if act == Act::FailInPassing {
                    self.tally.retries += 1;
                }
                self.jobs.get_mut(&tag).unwrap().told(act);
            }
            (op, Answer::Done(answer)) => self.learn_order(op, answer, faulty),
            _ => unreachable!("each sort of operation has its sort of answer"),
        }
    }

    pub(super) fn learn_order(&mut self, op: Op, answer: Result<(), EngineError>, faulty: bool) {
        let (Op::Abort(tag) | Op::Pause(tag, _) | Op::Adjust(tag, _) | Op::Withdraw(tag) | Op::Forget(tag)) =
            &op
        else {
            unreachable!("those are answered otherwise")
        };
        let (quiet, seed) = (self.quiet, self.seed);
        let job = self.jobs.get_mut(tag).unwrap();
        match answer {
            Err(EngineError::Unavailable) if faulty => {
                job.unsure = true;
                return;
            }
            Err(EngineError::NotRunning { .. }) => {
                assert!(job.end.is_some(), "seed {seed}: {tag} has not ended: {op:?}");
                return;
            }
            Err(EngineError::StillRunning(_)) => panic!("seed {seed}: {tag} has ended: {op:?}"),
            Err(EngineError::AtWork(_)) => {
                // The next look sees that it is.
                assert!(matches!(op, Op::Withdraw(_)));
                job.at_work = true;
                return;
            }
            Err(EngineError::Journal(_)) => {
                assert!(!quiet, "seed {seed}: {op:?} is refused");
                if matches!(op, Op::Forget(_)) {
                    return;
                }
            }
            Ok(()) => {}
            Err(error) => panic!("seed {seed}: {op:?}: {error}"),
        }
        assert!(job.end.is_none() || matches!(op, Op::Forget(_)), "seed {seed}: {tag} has ended: {op:?}");
        match op {
            Op::Abort(_) => job.end = Some(JobEnd::Aborted),
            Op::Withdraw(_) => job.failed("withdrawn"),
            Op::Pause(_, paused) => job.paused = paused,
            Op::Adjust(_, priority) => job.priority = priority,
            Op::Forget(tag) => drop(self.jobs.remove(&tag)),
            _ => {}
        }
    }

    /// A submission without an answer: if it is a job, it is one from now on.
    pub(super) fn find_lost(&mut self, engine: &EngineHandle, tag: &str) {
        let lost = engine.tasks().into_iter().find(|view| view.record.spec.properties.name == tag);
        if let Some(view) = lost {
            self.jobs.insert(tag.into(), Job { unsure: true, ..Job::of(&view.record) });
        }
    }

    pub(super) fn learn_at_the_end(&mut self, engine: &EngineHandle, op: Op, answer: Option<Answer>) {
        match (&op, answer) {
            (Op::Submit(_) | Op::Repeat { .. }, Some(Answer::Ticket(Ok(ticket)))) => {
                let Some(view) = engine.task(ticket.id()) else { return };
                let tag = view.record.spec.properties.name.clone();
                self.jobs.entry(tag).or_insert(Job { unsure: true, ..Job::of(&view.record) });
            }
            (Op::Abort(tag), Some(Answer::Done(Ok(())))) => {
                let job = self.jobs.get_mut(tag).unwrap();
                job.end = Some(JobEnd::Aborted);
            }
            (Op::Forget(tag), Some(Answer::Done(Ok(())))) => drop(self.jobs.remove(tag)),
            (
                Op::Abort(tag)
                | Op::Pause(tag, _)
                | Op::Adjust(tag, _)
                | Op::Withdraw(tag)
                | Op::Forget(tag)
                | Op::Tell(tag, _),
                _,
            ) => {
                if let Some(job) = self.jobs.get_mut(tag) {
                    job.unsure = true;
                }
            }
            _ => {}
        }
    }
}
