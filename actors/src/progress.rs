//! How far a job is: counters that its threads add to, and a meter that turns samples of them into a rate.
//!
//! The counters are atomics, so that a chunk costs one addition and no message; the engine's sampler reads
//! them on its own beat.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::record::FinalProgress;
use crate::stages::{Stage, StageClock, StageTimes};

/// The counters of one job. Clones count into the same place; any thread may hold one.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    bytes_read: AtomicU64,
    bytes_written: AtomicU64,
    bytes_zero: AtomicU64,
    total_bytes: OnceLock<u64>,
    /// What the total is thought to be until it is known; 0 = no idea.
    expected_bytes: AtomicU64,
    /// Highest percentage that was ever shown.
    percent: AtomicU8,
    bytes_per_second: AtomicU64,
    stalled: AtomicBool,
    /// When the sampler last saw a counter move, Unix milliseconds; 0 = not yet.
    moved_ms: AtomicU64,
    stages: Arc<StageTimes>,
}

/// What the counters say at one moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ProgressView {
    /// Read from the source, in bytes.
    pub bytes_read: u64,
    /// Given to the sink, in bytes: what a task shows as `bytes`.
    pub bytes_written: u64,
    /// Known to be zero, and therefore neither read nor written, in bytes.
    pub bytes_zero: u64,
    /// What `bytes_written` is to become, when that is known.
    pub total_bytes: Option<u64>,
    /// 0 to 100. Never falls; 100 only for a success.
    pub percent: u8,
    /// Of `bytes_written`: over the sampler's window while it runs, over its whole life once it has ended.
    pub bytes_per_second: u64,
    /// What is left at this rate, when both are known, or what is expected to be.
    pub eta_seconds: Option<u64>,
    /// Whether no byte has moved for the configured time.
    pub stalled: bool,
    /// When the sampler last saw a counter move, Unix milliseconds.
    pub moved_ms: Option<u64>,
    /// What the others waited for in the last sample: what limits the speed, or what a stalled job waits for.
    pub stage: Option<Stage>,
}

impl Progress {
    /// Counters at zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// Counts bytes that came from the source.
    pub fn add_read(&self, bytes: u64) {
        self.0.bytes_read.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes that went to the sink.
    pub fn add_written(&self, bytes: u64) {
        self.0.bytes_written.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Sets the bytes that went to the sink, unless more are counted already: for a job that knows a union
    /// of ranges instead of a stream.
    pub fn raise_written_to(&self, bytes: u64) {
        self.0.bytes_written.fetch_max(bytes, Ordering::Relaxed);
    }

    /// Counts bytes that were known to be zero and skipped.
    pub fn add_zero(&self, bytes: u64) {
        self.0.bytes_zero.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Says how many bytes will be written in all. Only the first call counts; answers whether this was it.
    pub fn set_total(&self, bytes: u64) -> bool {
        self.0.total_bytes.set(bytes).is_ok()
    }

    /// Says how many bytes will be written in all by the look of it, for the percentage and the time left until the
    /// total is known. May be called again and again.
    pub fn expect_total(&self, bytes: u64) {
        self.0.expected_bytes.store(bytes, Ordering::Relaxed);
    }

    /// A clock for somebody who moves bytes of this job, and who begins by waiting for, or working at, `stage`.
    pub fn stage_clock(&self, stage: Stage) -> StageClock {
        StageClock::begin(Arc::clone(&self.0.stages), stage)
    }

    /// Another attempt begins from the start. The percentage stays where it is until it is reached again.
    pub(crate) fn restart(&self) {
        for counter in [&self.0.bytes_read, &self.0.bytes_written, &self.0.bytes_zero] {
            counter.store(0, Ordering::Relaxed);
        }
    }

    /// The percentage that a server before has shown.
    pub(crate) fn goes_on_from(&self, percent: u8) {
        self.0.percent.fetch_max(percent.min(99), Ordering::Relaxed);
    }

    /// Bytes that went to the sink.
    pub fn written(&self) -> u64 {
        self.0.bytes_written.load(Ordering::Relaxed)
    }

    /// What the counters say now.
    pub fn view(&self) -> ProgressView {
        let c = &self.0;
        let bytes_written = c.bytes_written.load(Ordering::Relaxed);
        let total_bytes = c.total_bytes.get().copied();
        let expected = Some(c.expected_bytes.load(Ordering::Relaxed)).filter(|bytes| *bytes > 0);
        let expected = total_bytes.or(expected);
        let share = expected.map_or(0, |total| percent_of(bytes_written, total));
        let percent = c.percent.fetch_max(share, Ordering::Relaxed).max(share);
        let bytes_per_second = c.bytes_per_second.load(Ordering::Relaxed);
        let left = expected.map(|total| total.saturating_sub(bytes_written));
        ProgressView {
            bytes_read: c.bytes_read.load(Ordering::Relaxed),
            bytes_written,
            bytes_zero: c.bytes_zero.load(Ordering::Relaxed),
            total_bytes,
            percent,
            bytes_per_second,
            eta_seconds: left.filter(|_| bytes_per_second > 0).map(|left| left.div_ceil(bytes_per_second)),
            stalled: c.stalled.load(Ordering::Relaxed),
            moved_ms: Some(c.moved_ms.load(Ordering::Relaxed)).filter(|ms| *ms > 0),
            stage: c.stages.shown(),
        }
    }

    /// The counters as they are kept after the end.
    pub(crate) fn last(&self, success: bool) -> FinalProgress {
        let view = self.view();
        FinalProgress {
            bytes_read: view.bytes_read,
            bytes_written: view.bytes_written,
            bytes_zero: view.bytes_zero,
            total_bytes: view.total_bytes,
            percent: if success { 100 } else { view.percent },
        }
    }

    /// Takes one sample into the meter and shows what it says. Answers whether anything moved.
    pub(crate) fn sample(&self, meter: &mut Meter, held_up: bool, elapsed: Duration, now_ms: u64) -> bool {
        let c = &self.0;
        let written = c.bytes_written.load(Ordering::Relaxed);
        let touched = written
            .wrapping_add(c.bytes_read.load(Ordering::Relaxed))
            .wrapping_add(c.bytes_zero.load(Ordering::Relaxed));
        c.stages.sample(&mut meter.stages);
        if held_up {
            meter.moved_at = elapsed;
        }
        let reading = meter.sample(elapsed, written, touched);
        c.bytes_per_second.store(reading.bytes_per_second, Ordering::Relaxed);
        let news = c.stalled.swap(reading.stalled, Ordering::Relaxed) != reading.stalled;
        if reading.moved {
            c.moved_ms.store(now_ms, Ordering::Relaxed);
        }
        reading.moved || news
    }
}

/// The share in whole percent, at most 99: the hundredth is the end's.
fn percent_of(done: u64, total: u64) -> u8 {
    let share = u128::from(done) * 100 / u128::from(total.max(1));
    u8::try_from(share).map_or(99, |share| share.min(99))
}

/// Turns samples into a rate over a window, and notices when nothing moves.
#[derive(Debug)]
pub(crate) struct Meter {
    window: Duration,
    stall_after: Duration,
    /// Times and bytes written, oldest first; the oldest is the last one outside the window.
    samples: VecDeque<(Duration, u64)>,
    touched: u64,
    moved_at: Duration,
    /// Time spent in each stage at the last sample.
    stages: [u64; 4],
}

/// What a meter says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Reading {
    pub(crate) bytes_per_second: u64,
    pub(crate) moved: bool,
    pub(crate) stalled: bool,
}

impl Meter {
    /// Most samples kept, however short the sampler's beat is against the window.
    const MAX_SAMPLES: usize = 64;

    /// A meter for a job whose counters are at zero at `elapsed`, on any clock that does not step.
    pub(crate) fn new(window: Duration, stall_after: Duration, elapsed: Duration) -> Self {
        Self {
            window,
            stall_after,
            samples: VecDeque::from([(elapsed, 0)]),
            touched: 0,
            moved_at: elapsed,
            stages: [0; 4],
        }
    }

    pub(crate) fn sample(&mut self, elapsed: Duration, written: u64, touched: u64) -> Reading {
        let moved = touched != self.touched;
        if moved {
            self.touched = touched;
            self.moved_at = elapsed;
        }
        if self.samples.back().is_some_and(|(_, before)| written < *before) {
            // Another attempt has begun; what the one before wrote is no part of its rate.
            self.samples.clear();
            self.samples.push_back((elapsed, written));
        }
        self.samples.push_back((elapsed, written));
        let begin = elapsed.saturating_sub(self.window);
        while self.samples.len() > 2
            && (self.samples.len() > Self::MAX_SAMPLES
                || self.samples.get(1).is_some_and(|(at, _)| *at <= begin))
        {
            self.samples.pop_front();
        }
        let (since, before) = self.samples.front().copied().unwrap_or((elapsed, written));
        let nanos = elapsed.saturating_sub(since).as_nanos();
        let rate = u128::from(written.saturating_sub(before)) * 1_000_000_000 / nanos.max(1);
        Reading {
            bytes_per_second: if nanos == 0 { 0 } else { u64::try_from(rate).unwrap_or(u64::MAX) },
            moved,
            stalled: elapsed.saturating_sub(self.moved_at) >= self.stall_after,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }

    fn meter() -> Meter {
        Meter::new(seconds(10), seconds(60), Duration::ZERO)
    }

    #[test]
    fn the_rate_is_that_of_the_last_ten_seconds() {
        let mut meter = meter();
        for second in 1..=20 {
            assert_eq!(meter.sample(seconds(second), second * 100, second).bytes_per_second, 100);
        }
        let faster: Vec<u64> = (1..=10)
            .map(|n| meter.sample(seconds(20 + n), 2000 + n * 300, 20 + n).bytes_per_second)
            .collect();
        assert_eq!(faster, [120, 140, 160, 180, 200, 220, 240, 260, 280, 300]);
    }

    #[test]
    fn a_job_that_moves_no_byte_for_a_minute_is_stalled_until_one_moves() {
        let mut meter = meter();
        assert!(!meter.sample(seconds(1), 5, 5).stalled);
        assert!(!meter.sample(seconds(60), 5, 5).stalled);
        assert_eq!(
            meter.sample(seconds(61), 5, 5),
            Reading { bytes_per_second: 0, moved: false, stalled: true }
        );
        assert_eq!(
            meter.sample(seconds(62), 5, 6),
            Reading { bytes_per_second: 0, moved: true, stalled: false }
        );
    }

    #[test]
    fn a_meter_keeps_a_bounded_number_of_samples() {
        let mut meter = meter();
        for n in 0..10_000 {
            meter.sample(Duration::from_millis(n), n, n);
        }
        assert!(meter.samples.len() <= Meter::MAX_SAMPLES);
    }

    #[test]
    fn until_the_total_is_known_the_expected_one_gives_the_percentage() {
        let progress = Progress::new();
        progress.add_written(50);
        assert_eq!(progress.view().percent, 0);
        progress.expect_total(100);
        assert_eq!((progress.view().percent, progress.view().total_bytes), (50, None));
        progress.expect_total(1000);
        assert_eq!(progress.view().percent, 50, "it never falls");
        progress.set_total(80);
        progress.expect_total(1);
        assert_eq!((progress.view().percent, progress.view().total_bytes), (62, Some(80)));
    }

    #[test]
    fn the_percentage_never_falls_and_keeps_the_hundredth_for_the_end() {
        let progress = Progress::new();
        assert_eq!(progress.view().percent, 0);
        assert!(progress.set_total(1000));
        progress.add_written(509);
        assert_eq!(progress.view().percent, 50);
        assert!(!progress.set_total(100_000), "the total is set once");
        progress.add_written(10_000);
        assert_eq!(progress.view().percent, 99);
        assert_eq!((progress.last(true).percent, progress.last(false).percent), (100, 99));
        progress.raise_written_to(3);
        assert_eq!(progress.written(), 10_509);
    }

    #[test]
    fn the_time_left_follows_from_the_rate_and_is_unknown_without_one() {
        let progress = Progress::new();
        let mut meter = meter();
        progress.set_total(1000);
        assert_eq!(progress.view().eta_seconds, None);
        progress.add_written(100);
        assert!(progress.sample(&mut meter, false, seconds(1), 77));
        let view = progress.view();
        assert_eq!((view.bytes_per_second, view.eta_seconds, view.moved_ms), (100, Some(9), Some(77)));
    }

    #[test]
    fn counters_of_any_size_do_not_overflow() {
        let progress = Progress::new();
        progress.set_total(u64::MAX);
        progress.add_written(u64::MAX);
        let mut meter = meter();
        progress.sample(&mut meter, false, Duration::from_nanos(1), 1);
        assert_eq!(progress.view().percent, 99);
    }
}
