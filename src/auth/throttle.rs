//! What failed logins cost. Per name: after a failure every password is refused for a while. Per address: after
//! many failures within a minute. Tokens are never slowed. The tables are bounded, whoever fills them.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use crate::config;

/// Failures of one address are counted over this time.
const ADDRESS_WINDOW: Duration = Duration::from_secs(60);

/// Names, and addresses, that are remembered at once. One that is forgotten early may try again early.
const MAX_ENTRIES: usize = 8192;

/// A name without its length: nobody fills memory with long ones.
type NameKey = [u8; 32];

/// The failures of the last minute.
#[derive(Debug)]
pub(super) struct Throttle {
    delay: Duration,
    failures_per_address: usize,
    /// Until when passwords for that name are refused.
    names: HashMap<NameKey, Instant>,
    /// When the last failures of that address were, oldest first, never more than count.
    addresses: HashMap<IpAddr, VecDeque<Instant>>,
}

impl Throttle {
    pub(super) fn new(config: &config::Auth) -> Self {
        Self {
            delay: config.failure_delay.get(),
            failures_per_address: usize::try_from(config.failures_per_address).unwrap_or(usize::MAX),
            names: HashMap::new(),
            addresses: HashMap::new(),
        }
    }

    /// How long this name, or this address, has to wait before a password of theirs is looked at; `None`: not at
    /// all.
    pub(super) fn wait(&self, name: &str, address: IpAddr, now: Instant) -> Option<Duration> {
        let left = |until: Instant| until.checked_duration_since(now).filter(|left| !left.is_zero());
        let by_name = self.names.get(&name_key(name)).and_then(|until| left(*until));
        let by_address = self
            .addresses
            .get(&address_key(address))
            .filter(|failures| self.failures_per_address > 0 && failures.len() >= self.failures_per_address)
            .and_then(|failures| failures.front())
            .and_then(|oldest| left(*oldest + ADDRESS_WINDOW));
        by_name.max(by_address)
    }

    /// A password was wrong, or the name unknown.
    pub(super) fn failed(&mut self, name: &str, address: IpAddr, now: Instant) {
        make_room(&mut self.names, now, |until| *until);
        self.names.insert(name_key(name), now + self.delay);
        if self.failures_per_address == 0 {
            return;
        }
        let end = |failures: &VecDeque<Instant>| failures.back().map_or(now, |last| *last + ADDRESS_WINDOW);
        make_room(&mut self.addresses, now, end);
        let failures = self.addresses.entry(address_key(address)).or_default();
        failures.push_back(now);
        while failures.len() > self.failures_per_address {
            failures.pop_front();
        }
    }
}

/// Makes place for one more: first what has ended anyway goes, then what ends next.
fn make_room<K: Hash + Eq + Copy, V>(table: &mut HashMap<K, V>, now: Instant, end: impl Fn(&V) -> Instant) {
    if table.len() < MAX_ENTRIES {
        return;
    }
    table.retain(|_, value| end(value) > now);
    if table.len() >= MAX_ENTRIES {
        let next = table.iter().min_by_key(|(_, value)| end(value)).map(|(key, _)| *key);
        next.map(|key| table.remove(&key));
    }
}

fn name_key(name: &str) -> NameKey {
    Sha256::digest(name.as_bytes()).into()
}

/// One customer of an IPv6 network has 2^64 addresses: they count as one.
fn address_key(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => IpAddr::V6(Ipv6Addr::from(u128::from(v6) >> 64 << 64)),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOME: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));

    fn other(index: u32) -> IpAddr {
        IpAddr::V4(std::net::Ipv4Addr::from(0x0a00_0000 + index))
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn two_seconds_after_a_failure_every_password_for_that_name_is_refused() {
        let (mut throttle, start) = (Throttle::new(&config::Auth::default()), Instant::now());
        assert_eq!(throttle.wait("bob", HOME, start), None);
        throttle.failed("bob", HOME, start);
        assert_eq!(throttle.wait("bob", other(1), start), Some(secs(2)));
        assert_eq!(throttle.wait("bob", HOME, start + secs(1)), Some(secs(1)));
        assert_eq!(throttle.wait("bob", HOME, start + secs(2)), None);
        assert_eq!(throttle.wait("alice", HOME, start), None);
    }

    #[test]
    fn an_address_is_refused_only_after_twenty_failures_in_a_minute() {
        let (mut throttle, start) = (Throttle::new(&config::Auth::default()), Instant::now());
        for n in 0..19 {
            throttle.failed(&format!("user{n}"), HOME, start + secs(n));
        }
        assert_eq!(throttle.wait("alice", HOME, start + secs(20)), None);
        throttle.failed("user19", HOME, start + secs(20));
        assert_eq!(throttle.wait("alice", HOME, start + secs(20)), Some(secs(40)));
        assert_eq!(throttle.wait("alice", other(1), start + secs(20)), None);
        assert_eq!(throttle.wait("alice", HOME, start + secs(60)), None);
        // the window slides: one more is the twentieth again
        throttle.failed("user20", HOME, start + secs(60));
        assert_eq!(throttle.wait("alice", HOME, start + secs(60)), Some(secs(1)));
    }

    #[test]
    fn an_ipv6_network_counts_as_one_address() {
        let auth = config::Auth { failures_per_address: 1, ..config::Auth::default() };
        let (mut throttle, start) = (Throttle::new(&auth), Instant::now());
        throttle.failed("bob", "2001:db8::1".parse().unwrap(), start);
        assert!(throttle.wait("alice", "2001:db8::2".parse().unwrap(), start).is_some());
        assert!(throttle.wait("alice", "2001:db8:0:1::2".parse().unwrap(), start).is_none());
    }

    #[test]
    fn zero_failures_per_address_is_no_limit() {
        let auth = config::Auth { failures_per_address: 0, ..config::Auth::default() };
        let (mut throttle, start) = (Throttle::new(&auth), Instant::now());
        for n in 0..100 {
            throttle.failed(&format!("user{n}"), HOME, start);
        }
        assert_eq!(throttle.wait("alice", HOME, start), None);
    }

    #[test]
    fn the_tables_stay_bounded_and_forget_the_oldest_first() {
        let (mut throttle, start) = (Throttle::new(&config::Auth::default()), Instant::now());
        let many = u32::try_from(MAX_ENTRIES).unwrap() + 50;
        for n in 0..many {
            throttle.failed(&format!("user{n}"), other(n), start + Duration::from_micros(u64::from(n)));
        }
        assert_eq!((throttle.names.len(), throttle.addresses.len()), (MAX_ENTRIES, MAX_ENTRIES));
        let last = format!("user{}", many - 1);
        assert!(throttle.wait(&last, HOME, start + secs(1)).is_some());
        assert!(throttle.wait("user0", HOME, start + secs(1)).is_none());
    }
}
