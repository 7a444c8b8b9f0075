//! What a job does: once, or as often as it takes; and who knows how to go on with the jobs of a former server.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::BoxFuture;

use crate::live::JobContext;
use crate::outcome::JobEnd;
use crate::record::JobRecord;
use crate::retry::RetryPolicy;

/// One attempt's work, ready to be started.
pub(crate) type Launch = Box<dyn FnOnce(JobContext) -> BoxFuture<'static, JobEnd> + Send>;

/// What a job does.
pub struct Work(Doing);

enum Doing {
    Once(Launch),
    Often(Arc<dyn Fn(JobContext) -> BoxFuture<'static, JobEnd> + Send + Sync>),
    Gone,
}

impl Work {
    /// Work that can be done once: it uses up what it was made with, as a request's body.
    pub fn once<Run, Fut>(run: Run) -> Self
    where
        Run: FnOnce(JobContext) -> Fut + Send + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: Into<JobEnd>,
    {
        Self(Doing::Once(Box::new(move |context| run(context).map(Into::into).boxed())))
    }

    /// Work that each attempt does from the start, or from the checkpoint that it finds.
    pub fn often<Run, Fut>(run: Run) -> Self
    where
        Run: Fn(JobContext) -> Fut + Send + Sync + 'static,
        Fut: Future + Send + 'static,
        Fut::Output: Into<JobEnd>,
    {
        Self(Doing::Often(Arc::new(move |context| run(context).map(Into::into).boxed())))
    }

    /// Nothing is left to do.
    pub(crate) fn gone() -> Self {
        Self(Doing::Gone)
    }

    /// Whether another attempt can be made of it.
    pub(crate) fn is_left(&self) -> bool {
        !matches!(self.0, Doing::Gone)
    }

    /// Takes the next attempt out.
    pub(crate) fn launch(&mut self) -> Option<Launch> {
        match std::mem::replace(&mut self.0, Doing::Gone) {
            Doing::Once(launch) => Some(launch),
            Doing::Often(run) => {
                self.0 = Doing::Often(Arc::clone(&run));
                Some(Box::new(move |context| run(context)))
            }
            Doing::Gone => None,
        }
    }
}

impl fmt::Debug for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.0 {
            Doing::Once(_) => "Work::once",
            Doing::Often(_) => "Work::often",
            Doing::Gone => "Work::gone",
        })
    }
}

/// How a job of a former server goes on with this one.
#[derive(Debug)]
pub struct Resumption {
    /// What it does.
    pub work: Work,
    /// Whether and when it is tried again.
    pub retry: RetryPolicy,
    /// Longest time at work.
    pub timeout: Option<Duration>,
    /// It waits for its client to come back: it is started at once, without a place and without what it claims,
    /// and is `recovering` until it calls [`JobContext::set_running`].
    pub waits_for_client: bool,
}

/// Knows how to go on with jobs of a former server.
pub trait Resume: Send + Sync + 'static {
    /// How this job goes on; `None` when it cannot, and is then interrupted. Must not block.
    fn resume(&self, record: &JobRecord) -> Option<Resumption>;
    /// Whether jobs of this kind can go on with the next server. Asked once for each new job.
    fn can_resume(&self, kind: &str) -> bool;
}

/// For jobs that do not survive their process.
#[derive(Debug, Clone, Copy, Default)]
pub struct NoResume;

impl Resume for NoResume {
    fn resume(&self, _: &JobRecord) -> Option<Resumption> {
        None
    }

    fn can_resume(&self, _: &str) -> bool {
        false
    }
}
