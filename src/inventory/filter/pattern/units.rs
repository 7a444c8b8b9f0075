//! Sets of UTF-16 code units, and how a unit is written where patterns are searched.

use super::super::case;
use super::super::number::is_white_space;

/// A set of code units: ranges in order, both ends included, with gaps between them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Units {
    ranges: Vec<(u16, u16)>,
}

impl Units {
    /// The set of these ranges.
    pub fn of(mut ranges: Vec<(u16, u16)>) -> Self {
        ranges.sort_unstable();
        let mut merged: Vec<(u16, u16)> = Vec::with_capacity(ranges.len());
        for (first, last) in ranges {
            match merged.last_mut() {
                Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
                _ => merged.push((first, last)),
            }
        }
        Self { ranges: merged }
    }

    /// `\d`
    pub fn digits() -> Self {
        Self::of(vec![(b'0'.into(), b'9'.into())])
    }

    /// `\w`
    pub fn word() -> Self {
        let range = |first: u8, last: u8| (first.into(), last.into());
        Self::of(vec![range(b'0', b'9'), range(b'A', b'Z'), range(b'_', b'_'), range(b'a', b'z')])
    }

    /// `\s`
    pub fn white_space() -> Self {
        let is_space = |unit: &u16| char::from_u32((*unit).into()).is_some_and(is_white_space);
        // None lies between the ideographic space and the byte order mark.
        Self::of((0..=0x3000).chain([0xFEFF]).filter(is_space).map(|unit| (unit, unit)).collect())
    }

    /// What ends a line.
    pub fn line_ends() -> Self {
        Self::of(vec![(0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029)])
    }

    /// All others.
    pub fn complement(&self) -> Self {
        let mut ranges = Vec::with_capacity(self.ranges.len() + 1);
        let mut next = Some(0);
        for (first, last) in &self.ranges {
            if let Some(from) = next.filter(|from| from < first) {
                ranges.push((from, first - 1));
            }
            next = last.checked_add(1);
        }
        ranges.extend(next.map(|from| (from, u16::MAX)));
        Self { ranges }
    }

    /// Its ranges.
    pub fn ranges(&self) -> &[(u16, u16)] {
        &self.ranges
    }

    /// The set with the canonical forms of its members.
    pub fn with_canonical(self) -> Self {
        let mut ranges = self.ranges;
        for at in 0..ranges.len() {
            let Some(&(first, last)) = ranges.get(at) else { break };
            ranges.extend(case::canonical_within(first, last).map(|form| (form, form)));
        }
        Self::of(ranges)
    }

    /// Writes the set as a class of stand-ins.
    pub fn write(&self, out: &mut String) {
        out.push('[');
        if self.ranges.is_empty() {
            out.push_str(r"^\x{0}-\x{10FFFF}");
        }
        for (first, last) in &self.ranges {
            if *first < 0x80 {
                write_range(*first, (*last).min(0x7F), out);
            }
            if *last >= 0x80 {
                write_range((*first).max(0x80), *last, out);
            }
        }
        out.push(']');
    }
}

fn write_range(first: u16, last: u16, out: &mut String) {
    write_unit(first, out);
    if last > first {
        out.push('-');
        write_unit(last, out);
    }
}

/// Writes a unit's stand-in, in a class or outside of one.
pub fn write_unit(unit: u16, out: &mut String) {
    match stand_in(unit) {
        c if c.is_ascii_alphanumeric() => out.push(c),
        c => out.push_str(&format!(r"\x{{{:X}}}", u32::from(c))),
    }
}

/// The character that stands for a code unit where patterns are searched: itself in ASCII, beyond it one of the
/// last plane, which is for private use. So halves of pairs can be told apart, the search engine's Unicode word
/// boundaries are those of ASCII, and no character has a case.
pub fn stand_in(unit: u16) -> char {
    let beyond = || char::from_u32(0x0010_0000 + u32::from(unit)).unwrap_or(char::REPLACEMENT_CHARACTER);
    if unit < 0x80 { char::from(unit.to_le_bytes()[0]) } else { beyond() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_complement_is_everything_else() {
        for (ranges, expected) in [
            (vec![], vec![(0, 0xFFFF)]),
            (vec![(0, 0xFFFF)], vec![]),
            (vec![(5, 6), (0, 2), (3, 3)], vec![(4, 4), (7, 0xFFFF)]),
            (vec![(7, 0xFFFF)], vec![(0, 6)]),
        ] {
            assert_eq!(Units::of(ranges).complement().ranges(), expected);
        }
    }

    #[test]
    fn white_space_has_all_of_its_members() {
        let set = Units::white_space();
        for unit in 0..=u16::MAX {
            let is_space = char::from_u32(unit.into()).is_some_and(is_white_space);
            assert_eq!(set.ranges().iter().any(|(first, last)| (first..=last).contains(&&unit)), is_space);
        }
    }
}
