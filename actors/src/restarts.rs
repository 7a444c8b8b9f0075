//! How often a child that died is built again. No actix in it.

use std::collections::VecDeque;
use std::time::Duration;

/// A limit on restarts: at most `limit` within `within`, each after `delay`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RestartPolicy {
    /// Time between a death and the rebuilding; doubled with each further death within `within`.
    pub delay: Duration,
    /// Restarts within `within` beyond which the failure goes up.
    pub limit: usize,
    /// The time over which restarts are counted.
    pub within: Duration,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self { delay: Duration::from_millis(100), limit: 5, within: Duration::from_secs(60) }
    }
}

/// What to do about a death.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    RestartAfter(Duration),
    GiveUp,
}

/// The deaths of one child.
#[derive(Debug)]
pub(crate) struct Restarts {
    policy: RestartPolicy,
    /// When it died, on a clock that does not step; at most `limit` of them.
    deaths: VecDeque<Duration>,
}

impl Restarts {
    pub(crate) fn new(policy: RestartPolicy) -> Self {
        Self { policy, deaths: VecDeque::new() }
    }

    pub(crate) fn died(&mut self, elapsed: Duration) -> Verdict {
        let begin = elapsed.saturating_sub(self.policy.within);
        while self.deaths.front().is_some_and(|at| *at < begin) {
            self.deaths.pop_front();
        }
        if self.deaths.len() >= self.policy.limit {
            return Verdict::GiveUp;
        }
        let doublings = u32::try_from(self.deaths.len()).unwrap_or(u32::MAX).min(16);
        self.deaths.push_back(elapsed);
        Verdict::RestartAfter(self.policy.delay.saturating_mul(1 << doublings))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_is_rebuilt_after_a_growing_delay_until_it_has_died_too_often() {
        let ms = Duration::from_millis;
        let mut restarts = Restarts::new(RestartPolicy { delay: ms(100), limit: 3, within: ms(60_000) });
        let verdicts: Vec<_> = (0..4).map(|n| restarts.died(ms(n))).collect();
        let after = |n| Verdict::RestartAfter(ms(n));
        assert_eq!(verdicts, [after(100), after(200), after(400), Verdict::GiveUp]);
        assert_eq!(restarts.died(ms(60_001)), after(400), "the first death is forgotten after the window");
        assert_eq!(restarts.died(ms(200_000)), after(100));
    }
}
