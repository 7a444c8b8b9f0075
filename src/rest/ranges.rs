//! Which bytes of a representation a request asks for: `Range` as RFC 9110 §14 defines it, with the choices
//! that it leaves to a server made once, here.

use std::ops::Range;

/// More ranges than that in one header, and the header is ignored: nobody needs them, and answering them
/// would cost more than asking for them.
const MAX_RANGES: usize = 16;
/// More pairs than that of ranges that overlap, and the header is ignored.
const MAX_OVERLAPS: usize = 2;
/// Ranges closer than that are sent as one.
const MERGE_GAP_BYTES: u64 = 80;

/// What to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selection {
    /// All of it: 200.
    Whole,
    /// These bytes (end exclusive, never empty): 206.
    Part(Range<u64>),
    /// Nothing of what is asked for exists: 416.
    Unsatisfiable,
}

/// Reads a `Range` header for a representation of `len` bytes. What is malformed, unknown or excessive is
/// ignored, which is what old proxies expect. Several parts that do not make one are answered as a whole:
/// multipart answers are not made.
pub fn select(header: &str, len: u64) -> Selection {
    let Some(specs) = parse(header) else { return Selection::Whole };
    if len == 0 {
        return Selection::Whole;
    }
    let mut ranges: Vec<Range<u64>> = specs.iter().filter_map(|spec| spec.resolve(len)).collect();
    if ranges.is_empty() {
        return Selection::Unsatisfiable;
    }
    if overlaps(&ranges) > MAX_OVERLAPS {
        return Selection::Whole;
    }
    ranges.sort_by_key(|range| range.start);
    let mut merged: Option<Range<u64>> = None;
    for range in ranges {
        match &mut merged {
            None => merged = Some(range),
            Some(one) if range.start <= one.end.saturating_add(MERGE_GAP_BYTES) => {
                one.end = one.end.max(range.end)
            }
            Some(_) => return Selection::Whole,
        }
    }
    merged.map_or(Selection::Unsatisfiable, Selection::Part)
}

/// Whether a header asks for bytes from above 0 on, so that an answer with other content would be glued to
/// what its sender has already.
pub fn continues(header: &str) -> bool {
    parse(header).is_some_and(|specs| {
        specs.iter().any(|spec| !matches!(spec, Spec::From { first: 0, .. } | Spec::Suffix(0)))
    })
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Spec {
    /// `first-last` (inclusive) or `first-`.
    From { first: u64, last: Option<u64> },
    /// `-count`.
    Suffix(u64),
}

impl Spec {
    fn resolve(self, len: u64) -> Option<Range<u64>> {
        let range = match self {
            Self::From { first, last } => first..last.map_or(len, |last| last.saturating_add(1).min(len)),
            Self::Suffix(count) => len.saturating_sub(count)..len,
        };
        (range.start < range.end).then_some(range)
    }
}

/// `None` for what is to be ignored.
fn parse(header: &str) -> Option<Vec<Spec>> {
    let (unit, list) = header.split_once('=')?;
    if !unit.trim_start().eq_ignore_ascii_case("bytes") {
        return None;
    }
    let mut specs = Vec::new();
    for text in list.split(',').map(|text| text.trim_matches([' ', '\t'])).filter(|text| !text.is_empty()) {
        if specs.len() == MAX_RANGES {
            return None;
        }
        let (first, last) = text.split_once('-')?;
        specs.push(match (first, last) {
            ("", count) => Spec::Suffix(number(count)?),
            (first, "") => Spec::From { first: number(first)?, last: None },
            (first, last) => {
                let (first, last) = (number(first)?, number(last)?);
                if last < first {
                    return None;
                }
                Spec::From { first, last: Some(last) }
            }
        });
    }
    (!specs.is_empty()).then_some(specs)
}

/// Decimal digits only; what passes 64 bits is larger than any length.
fn number(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(u64::MAX))
}

fn overlaps(ranges: &[Range<u64>]) -> usize {
    let overlapping = |(at, one): (usize, &Range<u64>)| {
        ranges.iter().skip(at + 1).filter(|other| one.start < other.end && other.start < one.end).count()
    };
    ranges.iter().enumerate().map(overlapping).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const LENGTHS: [u64; 5] = [1, 2, 4096, (1 << 32) + 1, 1 << 41];

    #[test]
    fn malformed_headers_and_unknown_units_are_ignored() {
        for header in [
            "items=0-5",
            "bytes=abc",
            "bytes=5-2",
            "bytes=--1",
            "bytes=1-2-3",
            "bytes=",
            "bytes",
            "bytes=0x1-",
            "bytes =0-",
            "",
        ] {
            assert_eq!(select(header, 4096), Selection::Whole, "{header}");
        }
    }

    #[test]
    fn single_ranges_are_clipped_to_the_length() {
        for len in LENGTHS {
            assert_eq!(select("bytes=0-", len), Selection::Part(0..len));
            assert_eq!(select("BYTES= 0-", len), Selection::Part(0..len));
            assert_eq!(select("bytes=0-0", len), Selection::Part(0..1));
            assert_eq!(select("bytes=0-99999999999999999999999", len), Selection::Part(0..len));
            assert_eq!(select("bytes=-1", len), Selection::Part(len - 1..len));
            assert_eq!(select("bytes=-99999999999999999999999", len), Selection::Part(0..len));
        }
    }

    #[test]
    fn ranges_beyond_the_end_cannot_be_satisfied() {
        for len in LENGTHS {
            for header in
                [format!("bytes={len}-"), "bytes=99999999999999999999999-".into(), "bytes=-0".into()]
            {
                assert_eq!(select(&header, len), Selection::Unsatisfiable, "{header} of {len}");
            }
        }
    }

    #[test]
    fn an_empty_representation_is_always_whole() {
        for header in ["bytes=0-", "bytes=-1", "bytes=-0", "bytes=5-9"] {
            assert_eq!(select(header, 0), Selection::Whole);
        }
    }

    #[test]
    fn ranges_that_touch_or_nearly_touch_are_one() {
        assert_eq!(select("bytes=0-9,10-19", 4096), Selection::Part(0..20));
        assert_eq!(select("bytes=10-19 , ,\t0-9", 4096), Selection::Part(0..20));
        assert_eq!(select("bytes=0-9,89-99", 4096), Selection::Part(0..100));
        assert_eq!(select("bytes=0-9,1000-1009", 4096), Selection::Whole);
        assert_eq!(select("bytes=0-9,9000-", 4096), Selection::Part(0..10));
        assert_eq!(select("bytes=9000-,8000-", 4096), Selection::Unsatisfiable);
    }

    #[test]
    fn floods_of_ranges_are_ignored() {
        let many: Vec<String> = (0..17).map(|n| format!("{n}-{n}")).collect();
        assert_eq!(select(&format!("bytes={}", many.join(",")), 4096), Selection::Whole);
        assert_eq!(select("bytes=0-,0-,0-", 4096), Selection::Whole);
    }

    #[test]
    fn only_ranges_from_above_zero_continue_a_download() {
        for (header, expected) in [
            ("bytes=0-", false),
            ("bytes=0-99", false),
            ("bytes=1-", true),
            ("bytes=-5", true),
            ("bytes=0-0,5-", true),
            ("bytes=x", false),
        ] {
            assert_eq!(continues(header), expected, "{header}");
        }
    }

    proptest! {
        #[test]
        fn whatever_is_selected_lies_within_the_representation(text in "bytes=[-0-9, ]{0,40}", len in 0_u64..10_000) {
            match select(&text, len) {
                Selection::Part(range) => prop_assert!(range.start < range.end && range.end <= len),
                Selection::Whole | Selection::Unsatisfiable => {}
            }
        }
    }
}
