//! The kinds of value that a configuration file holds: each reads the text that a person writes and
//! shows itself again in that form.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use serde::de::{self, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A text that is not the value that it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadValue {
    /// Not a duration.
    #[error("{text:?} is not a duration (a number and a unit, such as \"500ms\", \"10s\", \"24h\", \"7d\")")]
    Duration {
        /// The text that was found, shortened.
        text: String,
    },
    /// Not a size.
    #[error("{text:?} is not a size (bytes, or a number and a unit, such as \"64MiB\", \"1GiB\")")]
    Size {
        /// The text that was found, shortened.
        text: String,
    },
    /// Not an address or a network.
    #[error("{text:?} is not an address or a network (such as \"10.0.0.1\", \"10.0.0.0/8\", \"fd00::/8\")")]
    Network {
        /// The text that was found, shortened.
        text: String,
    },
}

/// So much of a foreign text as an error message shows.
fn excerpt(text: &str) -> String {
    text.chars().take(64).collect()
}

/// Units of time with their length in nanoseconds; the first five are those that a duration is shown in.
const TIME_UNITS: &[(&[&str], u64)] = &[
    (&["d", "day", "days"], 86_400_000_000_000),
    (&["h", "hr", "hrs", "hour", "hours"], 3_600_000_000_000),
    (&["m", "min", "mins", "minute", "minutes"], 60_000_000_000),
    (&["s", "sec", "secs", "second", "seconds"], 1_000_000_000),
    (&["ms", "msec", "msecs", "millisecond", "milliseconds"], 1_000_000),
    (&["w", "week", "weeks"], 604_800_000_000_000),
    // a year of 365.25 days, as JavaScript's `ms` counts it
    (&["y", "yr", "yrs", "year", "years"], 31_557_600_000_000_000),
];

/// Reads a duration as people write it: `"10s"`, `"500ms"`, `"1.5h"`, `"1 hour"`, `"2 weeks"`. The unit is
/// needed, in either letter case; zero may stand without one.
///
/// # Errors
/// [`BadValue::Duration`] for everything else, and for what is longer than some 500 years.
pub fn parse_duration(text: &str) -> Result<Duration, BadValue> {
    parse_with_unit(text).map(|(duration, _)| duration)
}

/// The duration, and the length of its unit in nanoseconds.
fn parse_with_unit(text: &str) -> Result<(Duration, u64), BadValue> {
    let bad = || BadValue::Duration { text: excerpt(text) };
    let trimmed = text.trim();
    let split = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
    let (number, unit) = trimmed.split_at_checked(split).ok_or_else(bad)?;
    let unit = unit.trim_start().to_ascii_lowercase();
    if unit.is_empty() && number == "0" {
        return Ok((Duration::ZERO, 1_000_000_000));
    }
    let nanos_per_unit =
        TIME_UNITS.iter().find(|(names, _)| names.contains(&unit.as_str())).ok_or_else(bad)?.1;
    let nanos = scaled(number, nanos_per_unit).ok_or_else(bad)?;
    Ok((Duration::from_nanos(nanos), nanos_per_unit))
}

/// `number` (decimal digits with at most one dot, at most nine digits after it) times `factor`, rounded down;
/// `None` if it is no such number or the product does not fit.
fn scaled(number: &str, factor: u64) -> Option<u64> {
    let (whole, fraction) = match number.split_once('.') {
        Some((whole, fraction)) if (1..=9).contains(&fraction.len()) => (whole, fraction),
        Some(_) => return None,
        None => (number, "0"),
    };
    if !whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let denominator = 10_u128.pow(u32::try_from(fraction.len()).ok()?);
    let part = u128::from(fraction.parse::<u64>().ok()?) * u128::from(factor) / denominator;
    whole.parse::<u64>().ok()?.checked_mul(factor)?.checked_add(u64::try_from(part).ok()?)
}

/// A span of time: `"10s"`, `"500ms"`, `"24h"`, `"7d"`. Shown in the unit that it was written in where that
/// divides it (300 s stay `"300s"`), else in the largest that does.
#[derive(Debug, Clone, Copy)]
pub struct Span {
    duration: Duration,
    /// Length in nanoseconds of the unit that it was written in.
    unit_nanos: u64,
}

impl Span {
    /// So many seconds.
    pub const fn from_secs(secs: u64) -> Self {
        Self { duration: Duration::from_secs(secs), unit_nanos: 1_000_000_000 }
    }

    /// So many hours.
    pub const fn from_hours(hours: u32) -> Self {
        Self { duration: Duration::from_secs(hours as u64 * 3_600), unit_nanos: 3_600_000_000_000 }
    }

    /// So many days.
    pub const fn from_days(days: u32) -> Self {
        Self { duration: Duration::from_secs(days as u64 * 86_400), unit_nanos: 86_400_000_000_000 }
    }

    /// The duration itself.
    pub const fn get(self) -> Duration {
        self.duration
    }
}

impl PartialEq for Span {
    /// The same length, however it was written.
    fn eq(&self, other: &Self) -> bool {
        self.duration == other.duration
    }
}

impl Eq for Span {}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.duration.as_nanos();
        if nanos == 0 {
            return f.write_str("0s");
        }
        let shown = TIME_UNITS.iter().take(5);
        let written = shown.clone().filter(|(_, length)| *length == self.unit_nanos);
        match written.chain(shown).find(|(_, length)| nanos.is_multiple_of(u128::from(*length))) {
            Some((names, length)) => {
                write!(f, "{}{}", nanos / u128::from(*length), names.first().copied().unwrap_or_default())
            }
            // six digits after the dot are nanoseconds
            None => write!(f, "{}.{:06}ms", nanos / 1_000_000, nanos % 1_000_000),
        }
    }
}

impl FromStr for Span {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        let (duration, unit_nanos) = parse_with_unit(text)?;
        Ok(Self { duration, unit_nanos })
    }
}

/// Units of size with their length in bytes, the largest first; the first four are those that a size is shown in.
const SIZE_UNITS: &[(&str, u64)] = &[
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];

/// A number of bytes (or of bytes per second): an integer, or `"64MiB"`, `"1GiB"`, `"10MB"`. Shown in the
/// largest binary unit that divides it, else as an integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(pub u64);

impl Size {
    /// So many mebibytes.
    pub const fn mib(count: u64) -> Self {
        Self(count << 20)
    }

    /// The number of bytes.
    pub const fn bytes(self) -> u64 {
        self.0
    }

    /// The unit in which it is shown, if any divides it.
    fn unit(self) -> Option<&'static (&'static str, u64)> {
        SIZE_UNITS.iter().take(4).find(|(_, length)| self.0 != 0 && self.0.is_multiple_of(*length))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.unit() {
            Some((name, length)) => write!(f, "{}{name}", self.0 / length),
            None => write!(f, "{}", self.0),
        }
    }
}

impl FromStr for Size {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        let bad = || BadValue::Size { text: excerpt(text) };
        let trimmed = text.trim();
        let split = trimmed.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(trimmed.len());
        let (number, unit) = trimmed.split_at_checked(split).ok_or_else(bad)?;
        let unit = unit.trim_start();
        if unit.is_empty() {
            return number.parse().map(Self).map_err(|_| bad());
        }
        let (_, length) =
            SIZE_UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).ok_or_else(bad)?;
        scaled(number, *length).map(Self).ok_or_else(bad)
    }
}

/// One address, or all addresses that begin with the same bits: `"10.0.0.1"`, `"10.0.0.0/8"`, `"fd00::/8"`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    base: IpAddr,
    prefix_bits: u8,
}

/// The address as a number in the upper bits of 128, and how many bits it has.
fn address_bits(address: IpAddr) -> (u128, u8) {
    match address {
        IpAddr::V4(v4) => (u128::from(u32::from(v4)) << 96, 32),
        IpAddr::V6(v6) => (u128::from(v6), 128),
    }
}

impl Network {
    /// Whether the address lies in it. An IPv4 address in IPv6 clothes counts as the IPv4 address.
    pub fn contains(&self, address: IpAddr) -> bool {
        let (base, base_width) = address_bits(self.base);
        let (found, width) = address_bits(address.to_canonical());
        let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix_bits)).unwrap_or(0);
        width == base_width && (base ^ found) & mask == 0
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.prefix_bits == address_bits(self.base).1 {
            write!(f, "{}", self.base)
        } else {
            write!(f, "{}/{}", self.base, self.prefix_bits)
        }
    }
}

impl FromStr for Network {
    type Err = BadValue;

    fn from_str(text: &str) -> Result<Self, BadValue> {
        let bad = || BadValue::Network { text: excerpt(text) };
        let (base, prefix) = match text.split_once('/') {
            Some((base, prefix)) => (base, Some(prefix)),
            None => (text, None),
        };
        let base: IpAddr = base.parse().map_err(|_| bad())?;
        let width = address_bits(base).1;
        let prefix_bits = match prefix {
            Some(prefix) => prefix.parse::<u8>().ok().filter(|bits| *bits <= width).ok_or_else(bad)?,
            None => width,
        };
        Ok(Self { base, prefix_bits })
    }
}

/// What a secret looks like wherever the configuration is shown.
const MASK: &str = "********";

/// A text that is never shown: printing or serialising it gives asterisks.
///
/// Reading the asterisks back gives a secret that nobody knows, so that a printed configuration can be loaded and
/// what the secret guards stays shut.
#[derive(Clone)]
pub struct Secret {
    text: String,
    masked: bool,
}

impl Secret {
    /// A secret from its text.
    ///
    /// # Errors
    /// Only for the mask, when the system gives no random bytes.
    pub fn new(text: &str) -> Result<Self, getrandom::Error> {
        if text != MASK {
            return Ok(Self { text: text.to_owned(), masked: false });
        }
        let (high, low) = (getrandom::u64()?, getrandom::u64()?);
        Ok(Self { text: format!("{high:016x}{low:016x}"), masked: true })
    }

    /// The text itself, for a comparison and nothing else.
    pub fn reveal(&self) -> &str {
        &self.text
    }

    /// Whether it was read from asterisks, so that nobody can know it.
    pub fn was_masked(&self) -> bool {
        self.masked
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

impl Serialize for Secret {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(MASK)
    }
}

impl<'de> Deserialize<'de> for Secret {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        Self::new(&text).map_err(de::Error::custom)
    }
}

macro_rules! as_text {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    };
}

as_text!(Span);
as_text!(Network);

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        // TOML's integers are signed: what is larger than they are goes as text, which is read as well
        match (self.unit(), i64::try_from(self.0)) {
            (None, Ok(bytes)) => serializer.serialize_i64(bytes),
            _ => serializer.collect_str(self),
        }
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SizeVisitor;

        impl Visitor<'_> for SizeVisitor {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of bytes, or a text such as \"64MiB\"")
            }

            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<Size, E> {
                Ok(Size(bytes))
            }

            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Size, E> {
                u64::try_from(bytes)
                    .map(Size)
                    .map_err(|_| E::invalid_value(de::Unexpected::Signed(bytes), &self))
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                text.parse().map_err(E::custom)
            }
        }

        deserializer.deserialize_any(SizeVisitor)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_are_read_as_people_write_them() {
        for (text, millis) in [
            ("500ms", 500),
            ("10s", 10_000),
            ("24h", 86_400_000),
            ("7d", 604_800_000),
            ("1 hour", 3_600_000),
            ("2 weeks", 1_209_600_000),
            ("1.5h", 5_400_000),
            ("30 D", 2_592_000_000),
            ("0", 0),
            ("0.5 years", 15_778_800_000),
        ] {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in
            ["", "10", "s", "-1s", "1.s", "1..5s", "1e3s", "10 parsecs", "99999999999999d", "１s", "1.5.5h"]
        {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_read_as_people_write_them() {
        for (text, bytes) in [
            ("64MiB", 64 << 20),
            ("1GiB", 1 << 30),
            ("1 gib", 1 << 30),
            ("10MB", 10_000_000),
            ("1.5KiB", 1536),
            ("4096", 4096),
            ("0", 0),
        ] {
            assert_eq!(text.parse(), Ok(Size(bytes)), "{text}");
        }
        for text in ["", "MiB", "-1", "1.5", "1 parsec", "16777216TiB"] {
            assert!(text.parse::<Size>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_network_holds_the_addresses_that_share_its_prefix() {
        let net: Network = "10.0.0.0/8".parse().unwrap();
        assert!(net.contains("10.200.3.4".parse().unwrap()));
        assert!(net.contains("::ffff:10.1.1.1".parse().unwrap()));
        assert!(!net.contains("11.0.0.1".parse().unwrap()));
        let all: Network = "::/0".parse().unwrap();
        assert!(all.contains("fe80::1".parse().unwrap()));
        assert!(!all.contains("10.0.0.1".parse().unwrap()));
        let one: Network = "127.0.0.1".parse().unwrap();
        assert!(one.contains("127.0.0.1".parse().unwrap()) && !one.contains("127.0.0.2".parse().unwrap()));
        assert_eq!(one.to_string(), "127.0.0.1");
        assert!("10.0.0.0/33".parse::<Network>().is_err());
        assert!("example.org".parse::<Network>().is_err());
    }

    #[test]
    fn a_secret_is_never_shown_and_its_mask_reads_as_one_that_nobody_knows() {
        let secret = Secret::new("hunter2").unwrap();
        assert_eq!(format!("{secret:?}"), MASK);
        assert_eq!(secret.reveal(), "hunter2");
        assert!(!secret.was_masked());
        let masked = Secret::new(MASK).unwrap();
        assert!(masked.was_masked());
        assert_ne!(masked.reveal(), MASK);
        assert_ne!(masked.reveal(), Secret::new(MASK).unwrap().reveal());
    }

    proptest! {
        #[test]
        fn a_shown_duration_reads_back_the_same(nanos in 0..=u64::MAX / 2) {
            let span: Span = format!("{}.{:06}ms", nanos / 1_000_000, nanos % 1_000_000).parse().unwrap();
            prop_assert_eq!(span.get(), Duration::from_nanos(nanos));
            prop_assert_eq!(span.to_string().parse(), Ok(span));
        }

        #[test]
        fn a_duration_is_shown_in_the_unit_that_it_was_written_in(count in 1..10_000_u64, unit in 0..5_usize) {
            let written = format!("{count}{}", TIME_UNITS[unit].0[0]);
            prop_assert_eq!(written.parse::<Span>().unwrap().to_string(), written);
        }

        #[test]
        fn a_shown_size_reads_back_the_same(bytes in any::<u64>(), shift in 0..50_u32) {
            let size = Size(bytes >> shift << shift);
            prop_assert_eq!(size.to_string().parse(), Ok(size));
        }

        #[test]
        fn no_text_makes_the_parsers_panic(text in "\\PC{0,24}") {
            let _ = (text.parse::<Span>(), text.parse::<Size>(), text.parse::<Network>());
        }
    }
}
