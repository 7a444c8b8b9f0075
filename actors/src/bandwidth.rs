//! Token buckets: how many bytes a second may pass, in all, for a group, for a job.
//!
//! A bucket may be overdrawn by one taking, and whoever comes next waits until it is even again: so the rate
//! holds exactly in the long run, whatever the size of what is taken. What was not used is kept for
//! [`BURST`] only. Those who wait are served in the order of their coming.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

use crate::record::Group;

/// Time for which an unused rate is kept. Long enough to make up for a timer that is late.
const BURST: Duration = Duration::from_millis(100);
/// Part of a second that is taken in one go under a limit, so that what passes is a flow and no stutter.
const GOES_PER_SECOND: u64 = 20;
/// Least and most that is taken in one go, bytes.
const QUANTUM: (u64, u64) = (4 << 10, 1 << 20);

/// Rates in bytes per second. 0 is no limit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct BandwidthLimits {
    /// Of all jobs together.
    pub total: u64,
    /// Of the jobs of one group together, by the groups' class.
    pub per_group: BTreeMap<String, u64>,
}

#[derive(Debug)]
pub(crate) struct Bucket {
    /// Bytes per second; 0 is no limit. Written with the level's lock held.
    rate: AtomicU64,
    level: Mutex<Level>,
    changed: Notify,
    /// Held by whoever is next.
    turn: tokio::sync::Mutex<()>,
}

/// What is in a bucket, in billionths of a byte; below zero when it is overdrawn.
#[derive(Debug)]
struct Level {
    nanobytes: i128,
    at: Instant,
}

impl Level {
    fn fill(&mut self, rate: u64, now: Instant) {
        let passed = now.saturating_duration_since(self.at);
        self.at = now;
        let most = i128::from(rate).saturating_mul(nanos(BURST));
        let more = i128::from(rate).saturating_mul(nanos(passed));
        self.nanobytes = self.nanobytes.saturating_add(more).min(most);
    }
}

fn nanos(duration: Duration) -> i128 {
    i128::try_from(duration.as_nanos()).unwrap_or(i128::MAX)
}

impl Bucket {
    pub(crate) fn new(rate: u64) -> Arc<Self> {
        Arc::new(Self {
            rate: AtomicU64::new(rate),
            level: Mutex::new(Level { nanobytes: 0, at: Instant::now() }),
            changed: Notify::new(),
            turn: tokio::sync::Mutex::new(()),
        })
    }

    fn level(&self) -> MutexGuard<'_, Level> {
        // Two numbers that are written together; a panic between them is not possible.
        self.level.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn rate(&self) -> u64 {
        self.rate.load(Ordering::Acquire)
    }

    /// Changes the rate. Those who wait, wait by the new one at once.
    pub(crate) fn set_rate(&self, rate: u64) {
        let mut level = self.level();
        let before = self.rate.swap(rate, Ordering::AcqRel);
        if before == 0 {
            // Nothing was counted while there was no limit.
            *level = Level { nanobytes: 0, at: Instant::now() };
        } else {
            level.fill(before, Instant::now());
        }
        drop(level);
        self.changed.notify_waiters();
    }

    /// Takes so many bytes; waits before, if those before have taken more than their due. Cancel safe: nothing
    /// is taken before it returns.
    pub(crate) async fn take(&self, bytes: u64) {
        if self.rate() == 0 {
            return;
        }
        let _turn = self.turn.lock().await;
        loop {
            let changed = self.changed.notified();
            let wait = {
                let mut level = self.level();
                let rate = self.rate();
                if rate == 0 {
                    return;
                }
                level.fill(rate, Instant::now());
                if level.nanobytes >= 0 {
                    level.nanobytes =
                        level.nanobytes.saturating_sub(i128::from(bytes).saturating_mul(1_000_000_000));
                    return;
                }
                let nanos = level.nanobytes.unsigned_abs().div_ceil(u128::from(rate));
                Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
            };
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                () = changed => {}
            }
        }
    }
}

/// All buckets but those of single jobs.
#[derive(Debug)]
pub(crate) struct Bandwidth {
    total: Arc<Bucket>,
    groups: Mutex<Groups>,
}

#[derive(Debug, Default)]
struct Groups {
    rates: BTreeMap<String, u64>,
    buckets: HashMap<Group, Arc<Bucket>>,
}

impl Bandwidth {
    pub(crate) fn new(limits: BandwidthLimits) -> Self {
        let groups = Groups { rates: limits.per_group, buckets: HashMap::new() };
        Self { total: Bucket::new(limits.total), groups: Mutex::new(groups) }
    }

    pub(crate) fn set(&self, limits: BandwidthLimits) {
        self.total.set_rate(limits.total);
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        groups.rates = limits.per_group;
        let Groups { rates, buckets } = &*groups;
        for (group, bucket) in buckets {
            bucket.set_rate(rates.get(&group.class).copied().unwrap_or_default());
        }
    }

    /// The buckets that a job of these groups takes from, its own first.
    pub(crate) fn throttle(&self, groups: &[Group], own_rate: Option<u64>) -> Throttle {
        let mut state = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let Groups { rates, buckets } = &mut *state;
        // Nobody but this map has a bucket of a group without jobs.
        buckets.retain(|_, bucket| Arc::strong_count(bucket) > 1);
        let own = Bucket::new(own_rate.unwrap_or_default());
        let mut list = vec![Arc::clone(&own)];
        list.extend(groups.iter().map(|group| {
            let rate = || Bucket::new(rates.get(&group.class).copied().unwrap_or_default());
            Arc::clone(buckets.entry(group.clone()).or_insert_with(rate))
        }));
        list.push(Arc::clone(&self.total));
        Throttle { buckets: list.into(), own }
    }
}

/// What holds one job back.
#[derive(Debug, Clone)]
pub(crate) struct Throttle {
    buckets: Arc<[Arc<Bucket>]>,
    own: Arc<Bucket>,
}

impl Throttle {
    pub(crate) fn set_own(&self, rate: Option<u64>) {
        self.own.set_rate(rate.unwrap_or_default());
    }

    /// Takes so many bytes from each bucket.
    pub(crate) async fn take(&self, bytes: u64) {
        for bucket in self.buckets.iter() {
            bucket.take(bytes).await;
        }
    }

    /// How many bytes to take in one go; `None` when nothing limits.
    pub(crate) fn quantum(&self) -> Option<u64> {
        let least = self.buckets.iter().map(|bucket| bucket.rate()).filter(|rate| *rate > 0).min()?;
        Some((least / GOES_PER_SECOND).clamp(QUANTUM.0, QUANTUM.1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limits(total: u64, per_sr: u64) -> BandwidthLimits {
        BandwidthLimits { total, per_group: BTreeMap::from([("sr".into(), per_sr)]) }
    }

    fn sr(name: &str) -> Group {
        Group { class: "sr".into(), name: name.into() }
    }

    /// How long it takes to pass so many bytes in goes.
    async fn pass(throttle: &Throttle, bytes: u64) -> Duration {
        let begun = Instant::now();
        let mut left = bytes;
        while left > 0 {
            let go = throttle.quantum().unwrap_or(1 << 20).min(left);
            throttle.take(go).await;
            left -= go;
        }
        begun.elapsed()
    }

    fn assert_near(found: Duration, seconds: f64) {
        let ratio = found.as_secs_f64() / seconds;
        assert!((0.97..1.03).contains(&ratio), "{found:?} instead of {seconds} s");
    }

    #[tokio::test(start_paused = true)]
    async fn each_sort_of_limit_holds_its_rate_and_the_least_one_counts() {
        for (total, per_sr, own, expected) in [
            (1_000_000, 0, None, 10.0),
            (0, 2_000_000, None, 5.0),
            (9_000_000, 8_000_000, Some(500_000), 20.0),
        ] {
            let bandwidth = Bandwidth::new(limits(total, per_sr));
            assert_near(pass(&bandwidth.throttle(&[sr("a")], own), 10_000_000).await, expected);
        }
        assert_eq!(
            pass(&Bandwidth::new(limits(0, 0)).throttle(&[sr("a")], None), 1 << 40).await,
            Duration::ZERO
        );
    }

    #[tokio::test(start_paused = true)]
    async fn jobs_share_what_is_common_and_groups_do_not_touch_each_other() {
        let bandwidth = Bandwidth::new(limits(0, 1_000_000));
        let (one, two) = (bandwidth.throttle(&[sr("a")], None), bandwidth.throttle(&[sr("a")], None));
        let other = bandwidth.throttle(&[sr("b")], None);
        let (a, b, c) = tokio::join!(pass(&one, 5_000_000), pass(&two, 5_000_000), pass(&other, 10_000_000));
        assert_near(a.max(b), 10.0);
        assert!(a.abs_diff(b) < Duration::from_millis(200), "{a:?} {b:?}: they take turns");
        assert_near(c, 10.0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_changed_rate_counts_at_once_for_those_who_wait() {
        let bandwidth = Bandwidth::new(BandwidthLimits::default());
        let throttle = bandwidth.throttle(&[], Some(1));
        throttle.take(1 << 20).await;
        let waiting = throttle.take(1);
        tokio::pin!(waiting);
        assert!(tokio::time::timeout(Duration::from_secs(100), &mut waiting).await.is_err());
        let begun = Instant::now();
        throttle.set_own(None);
        waiting.await;
        assert_eq!(begun.elapsed(), Duration::ZERO);
        throttle.set_own(Some(100_000));
        assert_near(pass(&throttle, 1_000_000).await, 10.0);
        bandwidth.set(limits(50_000, 0));
        assert_near(pass(&throttle, 500_000).await, 10.0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_not_used_is_kept_for_a_moment_only() {
        let throttle = Bandwidth::new(BandwidthLimits::default()).throttle(&[], Some(1_000_000));
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_near(pass(&throttle, 10_000_000).await, 9.9);
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_rate_is_taken_in_small_goes_and_a_fast_one_in_large_ones() {
        let quantum = |rate| Bandwidth::new(BandwidthLimits::default()).throttle(&[], rate).quantum();
        assert_eq!(quantum(None), None);
        assert_eq!(quantum(Some(1)), Some(4 << 10));
        assert_eq!(quantum(Some(2_000_000)), Some(100_000));
        assert_eq!(quantum(Some(u64::MAX)), Some(1 << 20));
    }
}
