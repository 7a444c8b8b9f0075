//! How often and when a job that failed for a passing reason is tried again.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// Tries again after `base`, then after twice that, and so on up to `most`; each time is cut by chance to between
/// half of it and all, so that jobs that failed together do not come back together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Attempts in all, the first included. 1 is no retry.
    pub attempts: u32,
    /// Before the second attempt.
    pub base: Duration,
    /// Before any attempt at most.
    pub most: Duration,
}

impl RetryPolicy {
    /// One attempt: for what cannot be done twice, as a plain request body cannot be read twice.
    pub const NEVER: Self = Self { attempts: 1, base: Duration::ZERO, most: Duration::ZERO };

    /// The wait after attempt `attempt` (1 is the first) has failed; `None` when that was the last.
    pub(crate) fn delay_after(&self, attempt: u32, chance: u64) -> Option<Duration> {
        if attempt >= self.attempts {
            return None;
        }
        let doublings = attempt.saturating_sub(1).min(31);
        let whole = self.base.saturating_mul(1 << doublings).min(self.most);
        let half = whole / 2;
        let nanos = u64::try_from(half.as_nanos()).unwrap_or(u64::MAX);
        Some(half + Duration::from_nanos(chance.checked_rem(nanos.saturating_add(1)).unwrap_or_default()))
    }
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { attempts: 5, base: Duration::from_secs(1), most: Duration::from_secs(60) }
    }
}

/// A number that nobody can foresee; it need not be good.
pub(crate) fn chance() -> u64 {
    #[cfg(test)]
    if let Some(foreseen) = tests::FORESEEN.get() {
        tests::foresee(foreseen);
        return foreseen;
    }
    RandomState::new().build_hasher().finish()
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    thread_local! {
        pub(super) static FORESEEN: std::cell::Cell<Option<u64>> = const { std::cell::Cell::new(None) };
    }

    /// From now on chance is the same each time, on this thread.
    pub(crate) fn foresee(seed: u64) {
        let next = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        FORESEEN.set(Some(next));
    }

    #[test]
    fn waits_double_up_to_a_limit_and_end() {
        let policy = RetryPolicy { attempts: 5, base: Duration::from_secs(1), most: Duration::from_secs(3) };
        let longest: Vec<_> = (1..=5).map(|n| policy.delay_after(n, 500_000_000)).collect();
        let millis = |n| Some(Duration::from_millis(n));
        assert_eq!(longest[..2], [millis(1000), millis(1500)]);
        assert_eq!((longest[2], longest[4]), (millis(2000), None));
        assert_eq!(RetryPolicy::NEVER.delay_after(1, 0), None);
    }

    #[test]
    fn chance_moves_a_wait_between_half_of_it_and_all() {
        let policy = RetryPolicy::default();
        for n in 0..1000 {
            let wait = policy.delay_after(3, chance().wrapping_add(n)).unwrap();
            assert!((Duration::from_secs(2)..=Duration::from_secs(4)).contains(&wait), "{wait:?}");
        }
    }
}
