//! Which stage of a transfer the others wait for.
//!
//! Whoever moves bytes says what it waits for or works at; the clock adds the time up, and the sampler takes the
//! stage that took most of the time since it last looked.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use tokio::time::Instant;

/// A part of a transfer that can be the slowest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
    /// Where the bytes come from.
    Source,
    /// What is done to them on the way.
    Compute,
    /// Where they go.
    Sink,
    /// A bandwidth limit.
    Limit,
}

impl Stage {
    const ALL: [Self; 4] = [Self::Source, Self::Compute, Self::Sink, Self::Limit];

    /// The word as it is shown.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Source => "source",
            Self::Compute => "compute",
            Self::Sink => "sink",
            Self::Limit => "limit",
        }
    }

    fn index(self) -> usize {
        match self {
            Self::Source => 0,
            Self::Compute => 1,
            Self::Sink => 2,
            Self::Limit => 3,
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The times of all who move a job's bytes, by stage.
#[derive(Debug, Default)]
pub(crate) struct StageTimes {
    stages: [Spent; 4],
    /// The stage that the last sample found, plus one; 0 before the first.
    shown: AtomicUsize,
}

#[derive(Debug, Default)]
struct Spent {
    /// Closed spells in this stage, nanoseconds.
    nanos: AtomicU64,
    /// How many are in it now.
    inside: AtomicUsize,
}

impl StageTimes {
    fn spent(&self, stage: Stage) -> &Spent {
        // Four stages, four places.
        let [source, compute, sink, limit] = &self.stages;
        match stage {
            Stage::Source => source,
            Stage::Compute => compute,
            Stage::Sink => sink,
            Stage::Limit => limit,
        }
    }

    /// The stage that the last sample found.
    pub(crate) fn shown(&self) -> Option<Stage> {
        let shown = self.shown.load(Ordering::Relaxed).checked_sub(1)?;
        Stage::ALL.get(shown).copied()
    }

    /// Finds the stage that took most of the time since `before`, which is brought up to date. When no spell was
    /// closed since, it is the one in which most are.
    pub(crate) fn sample(&self, before: &mut [u64; 4]) {
        let mut most = (0, 0, None);
        for (stage, before) in Stage::ALL.into_iter().zip(before) {
            let spent = self.spent(stage);
            let nanos = spent.nanos.load(Ordering::Relaxed);
            let spell = (nanos.saturating_sub(*before), spent.inside.load(Ordering::Relaxed));
            *before = nanos;
            if spell > (most.0, most.1) {
                most = (spell.0, spell.1, Some(stage));
            }
        }
        if let Some(stage) = most.2 {
            self.shown.store(stage.index() + 1, Ordering::Relaxed);
        }
    }
}

/// One mover's clock. It begins in a stage and is told of every change; dropping it ends its last spell.
#[derive(Debug)]
pub struct StageClock {
    times: Arc<StageTimes>,
    stage: Stage,
    since: Instant,
}

impl StageClock {
    pub(crate) fn begin(times: Arc<StageTimes>, stage: Stage) -> Self {
        times.spent(stage).inside.fetch_add(1, Ordering::Relaxed);
        Self { times, stage, since: Instant::now() }
    }

    /// From now on it is this stage that is waited for.
    pub fn enter(&mut self, stage: Stage) {
        if stage == self.stage {
            return;
        }
        self.leave();
        self.times.spent(stage).inside.fetch_add(1, Ordering::Relaxed);
        self.stage = stage;
    }

    fn leave(&mut self) {
        let now = Instant::now();
        let nanos = u64::try_from(now.saturating_duration_since(self.since).as_nanos()).unwrap_or(u64::MAX);
        let spent = self.times.spent(self.stage);
        spent.nanos.fetch_add(nanos, Ordering::Relaxed);
        spent.inside.fetch_sub(1, Ordering::Relaxed);
        self.since = now;
    }
}

impl Drop for StageClock {
    fn drop(&mut self) {
        self.leave();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn the_stage_that_took_most_of_the_time_is_the_one_that_limits() {
        let times = Arc::new(StageTimes::default());
        let mut before = [0; 4];
        times.sample(&mut before);
        assert_eq!(times.shown(), None);
        let mut clock = StageClock::begin(Arc::clone(&times), Stage::Source);
        for (stage, millis) in [(Stage::Compute, 10), (Stage::Sink, 500), (Stage::Source, 300)] {
            tokio::time::sleep(Duration::from_millis(millis)).await;
            clock.enter(stage);
        }
        times.sample(&mut before);
        assert_eq!(times.shown(), Some(Stage::Compute));
        tokio::time::sleep(Duration::from_secs(9)).await;
        clock.enter(Stage::Limit);
        times.sample(&mut before);
        assert_eq!(times.shown(), Some(Stage::Source));
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_has_not_ended_counts_when_nothing_else_happened() {
        let times = Arc::new(StageTimes::default());
        let mut before = [0; 4];
        let mut clocks: Vec<_> =
            (0..3).map(|_| StageClock::begin(Arc::clone(&times), Stage::Source)).collect();
        clocks[0].enter(Stage::Sink);
        clocks[1].enter(Stage::Sink);
        times.sample(&mut before);
        assert_eq!(times.shown(), Some(Stage::Sink));
        drop(clocks);
        times.sample(&mut before);
        assert_eq!(times.shown(), Some(Stage::Sink), "the last one stays shown");
    }
}
