//! Names of jobs: sixteen base-36 digits that sort by creation time.
//!
//! Nine digits of Unix milliseconds (enough until the year 5188), three that count the ids made within
//! one millisecond, four random ones, so that two processes whose clocks disagree do not meet. Only
//! `[0-9a-z]`: scripts find a task in an address by exactly these characters.

use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Digits of an id's text.
const DIGITS: usize = 16;
/// Ids that one millisecond holds: three base-36 digits.
const SEQUENCE_SPAN: u128 = 36 * 36 * 36;
/// Values of the random part: four base-36 digits.
const RANDOM_SPAN: u128 = 36 * 36 * 36 * 36;
/// First millisecond that nine base-36 digits cannot hold.
const TIME_SPAN: u64 = 36u64.pow(9);

/// The name of a job. Ordered by creation, as a number and as a text alike.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId(u128);

/// A text that is not the name of a job.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a task id: expected 16 characters of 0-9 and a-z")]
pub struct BadJobId;

impl JobId {
    pub(crate) const LEAST: Self = Self(0);
    pub(crate) const GREATEST: Self = Self(u128::MAX);

    /// When the job was made, in Unix milliseconds.
    pub fn created_ms(self) -> u64 {
        u64::try_from(self.0 / (SEQUENCE_SPAN * RANDOM_SPAN)).unwrap_or(u64::MAX)
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut digits = ['0'; DIGITS];
        let mut rest = self.0;
        for digit in digits.iter_mut().rev() {
            let value = u32::try_from(rest % 36).unwrap_or_default();
            *digit = char::from_digit(value, 36).unwrap_or('0');
            rest /= 36;
        }
        f.pad(&digits.iter().collect::<String>())
    }
}

impl fmt::Debug for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "JobId({self})")
    }
}

impl FromStr for JobId {
    type Err = BadJobId;

    fn from_str(text: &str) -> Result<Self, BadJobId> {
        let plain =
            text.len() == DIGITS && text.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase());
        if !plain {
            return Err(BadJobId);
        }
        u128::from_str_radix(text, 36).map(Self).map_err(|_| BadJobId)
    }
}

impl Serialize for JobId {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for JobId {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Makes ids, each greater than the one before, whatever the clock does.
#[derive(Debug)]
pub(crate) struct JobIds {
    /// Milliseconds and count within them of the last id, as one number.
    last: Option<u128>,
    random: RandomState,
    made: u64,
}

impl JobIds {
    /// Goes on after the newest id that is already in use.
    pub(crate) fn after(newest: Option<JobId>) -> Self {
        Self { last: newest.map(|id| id.0 / RANDOM_SPAN), random: RandomState::new(), made: 0 }
    }

    /// The id of a job that is made at `now_ms`. A clock that stepped back, or more than 46 656 ids in one
    /// millisecond, borrow from the milliseconds to come.
    pub(crate) fn next(&mut self, now_ms: u64) -> JobId {
        let floor = u128::from(now_ms.min(TIME_SPAN - 1)) * SEQUENCE_SPAN;
        let slot = self.last.map_or(floor, |last| floor.max(last + 1));
        self.last = Some(slot);
        self.made = self.made.wrapping_add(1);
        let mut hasher = self.random.build_hasher();
        hasher.write_u64(self.made);
        JobId(slot * RANDOM_SPAN + u128::from(hasher.finish()) % RANDOM_SPAN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_790_000_000_000;

    #[test]
    fn ids_of_one_millisecond_differ_and_keep_their_order_as_text() {
        let mut ids = JobIds::after(None);
        let texts: Vec<String> = (0..100_000).map(|_| ids.next(NOW_MS).to_string()).collect();
        assert!(texts.windows(2).all(|pair| pair[0] < pair[1]));
    }

    #[test]
    fn an_id_has_sixteen_lower_case_base_36_digits_and_reads_back() {
        let id = JobIds::after(None).next(NOW_MS);
        let text = id.to_string();
        assert_eq!(text.len(), 16);
        assert!(text.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase()), "{text}");
        assert_eq!(text.parse(), Ok(id));
        assert_eq!(id.created_ms(), NOW_MS);
        assert_eq!(serde_json::from_str::<JobId>(&serde_json::to_string(&id).unwrap()).unwrap(), id);
    }

    #[test]
    fn a_clock_that_steps_back_or_a_restart_never_makes_an_older_id() {
        let mut ids = JobIds::after(None);
        let first = ids.next(NOW_MS);
        let second = ids.next(NOW_MS - 60_000);
        let third = JobIds::after(Some(second)).next(NOW_MS - 120_000);
        assert!(first < second && second < third);
    }

    #[test]
    fn two_processes_at_the_same_moment_make_different_ids() {
        let made: std::collections::BTreeSet<_> = (0..8).map(|_| JobIds::after(None).next(NOW_MS)).collect();
        assert_eq!(made.len(), 8);
    }

    #[test]
    fn what_is_not_an_id_is_refused() {
        for text in ["", "0", "000000000000000G", "+00000000000000a", "0123456789abcdefg", "0123456789abcde-"]
        {
            assert_eq!(text.parse::<JobId>(), Err(BadJobId), "{text}");
        }
    }
}
