//! Jobs that do what they are told, seen from outside.

use super::*;

/// What an attempt is told to do.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Act {
    Succeed,
    Fail,
    FailInPassing,
    Panic,
    /// Does not return, and does not look at its stop.
    Hang,
    Leave,
    ComeBack,
    Checkpoint(u64),
    Write(u64),
}

/// An attempt at work, seen from outside.
pub(super) struct Attempt {
    pub(super) acts: mpsc::UnboundedSender<Act>,
    pub(super) pace: Pace,
    pub(super) number: u32,
    pub(super) epoch: u64,
    pub(super) found: Value,
}

/// All attempts at work, by job.
#[derive(Clone, Default)]
pub(super) struct Stage(Arc<Mutex<BTreeMap<Tag, Attempt>>>);

pub(super) struct Exit(Stage, Tag);

impl Drop for Exit {
    fn drop(&mut self) {
        self.0.lock().remove(&self.1);
    }
}

impl Stage {
    pub(super) fn lock(&self) -> MutexGuard<'_, BTreeMap<Tag, Attempt>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) async fn play(self, tag: Tag, ctx: JobContext) -> JobEnd {
        let (acts, mut told) = mpsc::unbounded_channel();
        let (number, epoch, found) = (ctx.attempt(), ctx.epoch(), ctx.found_checkpoint().clone());
        let attempt = Attempt { acts, pace: ctx.pace(), number, epoch, found };
        let other = self.lock().insert(tag.clone(), attempt);
        assert!(other.is_none(), "two attempts of {tag} at work at once");
        let _exit = Exit(self, tag);
        ctx.progress().set_total(100);
        loop {
            let act = tokio::select! {
                biased;
                act = told.recv() => act.unwrap(),
                () = ctx.stop().cancelled() => {
                    return JobEnd::Failure(JobFailure::new("E", "stopped", "stopped half-way"));
                }
            };
            match act {
                Act::Succeed => return JobEnd::Success(json!({ "done": true })),
                Act::Fail => return JobEnd::Failure(JobFailure::new("E", "bad", "it is bad")),
                Act::FailInPassing => {
                    return JobEnd::Failure(JobFailure::new("E", "passing", "it will pass").transient());
                }
                Act::Panic => panic!("the job was told to panic"),
                Act::Hang => std::future::pending().await,
                Act::Leave => ctx.set_detached(),
                Act::ComeBack => ctx.set_running(),
                Act::Checkpoint(at) => ctx.set_checkpoint(json!(at)),
                Act::Write(bytes) => ctx.progress().add_written(bytes),
            }
        }
    }

    pub(super) fn work(&self, tag: &str) -> Work {
        let (stage, tag) = (self.clone(), tag.to_owned());
        Work::often(move |ctx| stage.clone().play(tag.clone(), ctx))
    }
}

pub(super) const MORTAL: &str = "mortal";
pub(super) const BY_ITSELF: &str = "goes on by itself";
pub(super) const WITH_CLIENT: &str = "goes on with its client";

impl Resume for Stage {
    fn resume(&self, record: &JobRecord) -> Option<Resumption> {
        self.can_resume(&record.kind).then(|| Resumption {
            work: self.work(&record.spec.properties.name),
            retry: RETRY,
            timeout: None,
            waits_for_client: record.kind == WITH_CLIENT,
        })
    }

    fn can_resume(&self, kind: &str) -> bool {
        kind != MORTAL
    }
}
