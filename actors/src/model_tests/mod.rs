//! The whole engine against a model that fits on a page: what each job was told, and what must be true of it.
//!
//! A seed makes a life: batches of operations on random jobs, while the journal refuses or hangs, while the
//! supervisor crashes, and with servers that are drained or killed and followed by others on the same journal. After
//! each batch, when the engine has come to rest, every job is compared with the model. Which of those who wait gets
//! a place is the engine's choice; that it is a lawful one is checked.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix::System;
use futures_util::FutureExt;
use serde_json::{Value, json};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use crate::{
    Adjustment, AdmissionLimits, Claim, ClaimMode, Clock, Durability, EngineConfig, EngineError,
    EngineHandle, Group, JobContext, JobEnd, JobFailure, JobId, JobRecord, JobState, JobTicket, Journal,
    JournalError, JournalFuture, MemoryJournal, NewJob, Pace, RestartPolicy, Resume, Resumption, RetryPolicy,
    TaskProperties, WaitReason, Work,
};

mod disk;
mod job;
mod look;
mod ops;
mod stage;

use disk::Disk;
use job::{Job, same_end};
use stage::{Act, BY_ITSELF, MORTAL, Stage, WITH_CLIENT};

const BATCHES: usize = 120;
const MOST_UNFINISHED: usize = 24;
const GRACE: Duration = Duration::from_millis(20);
/// Longer than anything that comes to rest by itself takes.
const REST: Duration = Duration::from_millis(250);
/// Longer than the engine's housekeeping lets a refused write wait.
const CATCHING_UP: Duration = Duration::from_millis(1300);
const RETRY: RetryPolicy =
    RetryPolicy { attempts: 3, base: Duration::from_millis(800), most: Duration::from_millis(1200) };

type Tag = String;

/// Numbers that look random and are the same each time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % sides
    }

    fn one_in(&mut self, sides: usize) -> bool {
        self.roll(sides) == 0
    }
}
/// What was asked of the engine.
#[derive(Debug, Clone)]
enum Op {
    Submit(Tag),
    /// A submission under another one's idempotency key: with its spec, or with another.
    Repeat {
        key: String,
        tag: Tag,
        spec: Value,
    },
    Abort(Tag),
    Pause(Tag, bool),
    Adjust(Tag, i32),
    Withdraw(Tag),
    Forget(Tag),
    Tell(Tag, Act),
}

enum Answer {
    Ticket(Result<JobTicket, EngineError>),
    Done(Result<(), EngineError>),
    Told,
}

/// How a server's life ended.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Death {
    Killed,
    Drained,
}

#[derive(Default)]
struct Tally {
    ops: usize,
    crashes: usize,
    kills: usize,
    drains: usize,
    retries: usize,
    ends: HashMap<JobState, usize>,
}

struct Trial {
    seed: u64,
    dice: Dice,
    disk: Disk,
    jobs: BTreeMap<Tag, Job>,
    limits: AdmissionLimits,
    batch: usize,
    made: usize,
    base_ms: u64,
    /// Those with a place at the last rest.
    active: BTreeSet<Tag>,
    /// Everything that is shown is durable.
    quiet: bool,
    trace: Vec<String>,
    tally: Tally,
}

impl Trial {
    fn new(seed: u64) -> Self {
        Self {
            seed,
            dice: Dice(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            disk: Disk::default(),
            jobs: BTreeMap::new(),
            limits: AdmissionLimits::default(),
            batch: 0,
            made: 0,
            base_ms: 1_790_000_000_000,
            active: BTreeSet::new(),
            quiet: true,
            trace: Vec::new(),
            tally: Tally::default(),
        }
    }

    /// One server after the other, each with an actix system of its own.
    fn run(&mut self) {
        crate::retry::tests::foresee(self.seed);
        while self.batch < BATCHES {
            let stage = Stage::default();
            let begun = System::new().block_on(async {
                tokio::time::pause();
                let begun = Instant::now();
                self.live(&stage, begun).await;
                begun.elapsed()
            });
            // The system is gone, with everything that ran in it.
            assert!(stage.lock().is_empty() && self.disk.under_way.lock().unwrap().is_empty());
            self.base_ms += u64::try_from(begun.as_millis()).unwrap() + 50;
            for job in self.jobs.values_mut() {
                if let Some(mut ticket) = job.ticket.take() {
                    assert!(
                        ticket.end().now_or_never().is_some(),
                        "a server that is gone leaves nobody waiting"
                    );
                }
            }
        }
    }

    fn start(&mut self, stage: &Stage, begun: Instant) -> EngineHandle {
        let base_ms = self.base_ms;
        let config = EngineConfig {
            clock: Clock::from_fn(move || base_ms + u64::try_from(begun.elapsed().as_millis()).unwrap()),
            max_unfinished: MOST_UNFINISHED,
            limits: self.limits.clone(),
            grace: GRACE,
            keep: 100_000,
            restart: RestartPolicy {
                delay: Duration::from_millis(5),
                limit: 100,
                within: Duration::from_millis(50),
            },
            ..EngineConfig::default()
        };
        let (disk, resume) = (Arc::new(self.disk.clone()), Arc::new(stage.clone()));
        EngineHandle::start_here_resuming(config, disk, resume, Handle::current())
    }

    async fn live(&mut self, stage: &Stage, begun: Instant) {
        self.disk.hanging.send_replace(false);
        self.disk.refusing.store(false, Ordering::SeqCst);
        self.take_up();
        let engine = self.start(stage, begun);
        engine.recovered().await.unwrap();
        sleep(REST).await;
        self.quiet = true;
        self.compare(&engine, stage, true).await;
        while self.batch < BATCHES {
            self.batch += 1;
            match self.dice.roll(24) {
                0 => return self.die(&engine, stage, Death::Killed).await,
                1 if self.dice.one_in(2) => return self.die(&engine, stage, Death::Drained).await,
                2 => {
                    let refuse = self.dice.one_in(2);
                    self.disk.refusing.store(refuse, Ordering::SeqCst);
                    self.trace.push(format!("refuse {refuse}"));
                    if !refuse {
                        sleep(CATCHING_UP).await;
                    }
                    self.quiet = !refuse;
                }
                3 => {
                    let mut one_of = |sizes: &[u32]| sizes[self.dice.roll(sizes.len())];
                    let (concurrent, per_owner, per_sr) =
                        (one_of(&[0, 1, 3, 8]), one_of(&[0, 0, 1, 3]), one_of(&[0, 0, 1, 2]));
                    let per_group = BTreeMap::from([("sr".to_owned(), per_sr)]);
                    self.limits = AdmissionLimits { concurrent, per_owner, per_group };
                    self.trace.push(format!("limits {:?}", self.limits));
                    engine.set_limits(self.limits.clone());
                }
                4 => {
                    let a_while = Duration::from_millis(self.dice.roll(1500) as u64);
                    sleep(a_while).await;
                }
                _ => {
                    self.some_ops(&engine, stage).await;
                }
            }
            sleep(REST).await;
            self.compare(&engine, stage, false).await;
        }
    }

    fn fail(&self, tag: &str, what: &str) -> ! {
        let last = self.trace.len().saturating_sub(60);
        panic!("seed {}, batch {}: {tag} {what}\n{}", self.seed, self.batch, self.trace[last..].join("\n"))
    }

    /// The server ends in the middle of some operations.
    async fn die(&mut self, engine: &EngineHandle, stage: &Stage, death: Death) {
        self.trace.push(format!("{death:?}"));
        let (ops, answers) = self.begin_ops(engine, stage, false).await;
        match death {
            Death::Killed => {
                self.tally.kills += 1;
                sleep(Duration::from_micros(100 * self.dice.roll(16) as u64)).await;
            }
            Death::Drained => {
                self.tally.drains += 1;
                let crashes = self.dice.one_in(3);
                let deadline = Duration::from_millis(100);
                let crashing = async {
                    if crashes {
                        sleep(Duration::from_micros(100 * self.dice.roll(1200) as u64)).await;
                        self.trace.push("crash in the drain".into());
                        engine.crash_transfers().await;
                    }
                };
                let (report, ()) = tokio::join!(engine.drain(deadline), crashing);
                if self.quiet && !crashes {
                    if (report.left, report.unsaved) != (0, 0) || !stage.lock().is_empty() {
                        let tasks = engine.tasks();
                        let left = tasks.iter().filter(|task| !task.state().is_ended());
                        let left: Vec<_> =
                            left.map(|task| (&task.record.spec.properties.name, task.state())).collect();
                        self.fail("a drain", &format!("left {left:?}: {report:?}"));
                    }
                } else if crashes {
                    sleep(REST).await;
                }
            }
        }
        for (op, answer) in ops.into_iter().zip(answers) {
            // What was answered before the end holds after it, and what was not may have happened or not.
            let answer = answer.now_or_never().map(|answer| answer.unwrap());
            self.learn_at_the_end(engine, op, answer);
        }
        if death == Death::Drained && self.quiet {
            for (tag, job) in &self.jobs {
                let record = engine.task(job.id).unwrap().record;
                if record.kind == MORTAL && !record.state.is_ended() {
                    self.fail(tag, "was left although nobody can go on with it");
                }
                let asked = job.end.is_some() || job.unsure;
                if record.reason.as_deref() == Some("supervisor_restarted") && !asked {
                    self.fail(tag, "was interrupted by a supervisor that was rebuilt");
                }
                if record.kind != MORTAL && record.state == JobState::Interrupted && !asked {
                    self.fail(tag, "was interrupted although the next server can go on with it");
                }
            }
        }
    }

    /// What the next server will make of what the one before has left in the journal.
    fn take_up(&mut self) {
        let before = std::mem::take(&mut self.jobs);
        let (mut lost, mut kept) = (before.len(), BTreeMap::new());
        for record in self.disk.inner.all() {
            let known = before.iter().find(|(_, job)| job.id == record.id);
            let name = record.spec.properties.name.clone();
            let tag = known.map_or(name, |(tag, _)| tag.clone());
            let mut job = Job::of(&record);
            if let Some((tag, known)) = known {
                lost -= 1;
                if self.quiet && !known.unsure {
                    self.compare_left(tag, known, &record);
                }
            }
            if job.end.is_none() {
                if record.spec.control.abort_requested_ms.is_some() {
                    job.end = Some(JobEnd::Aborted);
                } else if job.kind == MORTAL {
                    job.end = Some(JobEnd::Interrupted);
                } else {
                    job.epoch += 1;
                    if job.kind == WITH_CLIENT {
                        job.presence = JobState::Recovering;
                    }
                }
            }
            if let Some(state) = record.end().map(|end| end.state()) {
                *self.tally.ends.entry(state).or_default() += 1;
            }
            kept.insert(tag, job);
        }
        let may_be_lost = before.values().filter(|job| job.unsure).count();
        assert!(!self.quiet || lost <= may_be_lost, "seed {}: {lost} jobs are lost", self.seed);
        self.jobs = kept;
        self.active.clear();
    }
}

fn try_seeds(seeds: std::ops::Range<u64>) -> Tally {
    let mut all = Tally::default();
    for seed in seeds {
        let mut trial = Trial::new(seed);
        let outcome = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| trial.run()));
        if let Err(payload) = outcome {
            eprintln!("seed {seed} failed in batch {}", trial.batch);
            std::panic::resume_unwind(payload);
        }
        all.ops += trial.tally.ops;
        all.crashes += trial.tally.crashes;
        all.kills += trial.tally.kills;
        all.drains += trial.tally.drains;
        all.retries += trial.tally.retries;
        for (state, count) in trial.tally.ends {
            *all.ends.entry(state).or_default() += count;
        }
    }
    all
}

#[test]
fn the_engine_does_what_the_model_says_whatever_is_done_to_it() {
    let seeds = match std::env::var("GANTRY_MODEL_SEED").ok().and_then(|seed| seed.parse().ok()) {
        Some(seed) => seed..seed + 1,
        None => 0..32,
    };
    let only = seeds.end - seeds.start == 1;
    let tally = try_seeds(seeds);
    let Tally { ops, crashes, kills, drains, retries, ends } = &tally;
    eprintln!(
        "{ops} operations, {crashes} crashes, {kills} kills, {drains} drains, {retries} retries, {ends:?}"
    );
    assert!(only || *ops > 3000 && *crashes > 50 && *kills > 20 && *drains > 10 && *retries > 100);
}
