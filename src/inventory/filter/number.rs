//! Numbers as ECMAScript reads them from text, and its white space.

/// White space as `\s` and `trim` know it.
pub fn is_white_space(c: char) -> bool {
    matches!(
        c,
        '\t' | '\n' | '\u{b}' | '\u{c}' | '\r' | ' ' | '\u{a0}' | '\u{1680}' | '\u{2000}'
            ..='\u{200a}' | '\u{2028}' | '\u{2029}' | '\u{202f}' | '\u{205f}' | '\u{3000}' | '\u{feff}'
    )
}

/// A text as `Number(text)` converts it: NaN for what is no number, 0 for nothing.
pub fn number(text: &str) -> f64 {
    let text = text.trim_matches(is_white_space);
    if text.is_empty() {
        return 0.0;
    }
    for (prefixes, bits) in [(["0x", "0X"], 4), (["0o", "0O"], 3), (["0b", "0B"], 1)] {
        if let Some(digits) = prefixes.iter().find_map(|prefix| text.strip_prefix(prefix)) {
            return binary(digits, bits).unwrap_or(f64::NAN);
        }
    }
    decimal(text).unwrap_or(f64::NAN)
}

fn decimal(text: &str) -> Option<f64> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    if unsigned == "Infinity" {
        return Some(if text.starts_with('-') { f64::NEG_INFINITY } else { f64::INFINITY });
    }
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, Some(exponent)),
        None => (unsigned, None),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.len() + fraction.len() == 0 || !is_digits(whole) || !is_digits(fraction) {
        return None;
    }
    if let Some(exponent) = exponent {
        let digits = exponent.strip_prefix(['+', '-']).unwrap_or(exponent);
        if digits.is_empty() || !is_digits(digits) {
            return None;
        }
    }
    text.parse().ok()
}

/// Digits of `bits` bits each, rounded to the nearest double.
fn binary(digits: &str, bits: u32) -> Option<f64> {
    if digits.is_empty() {
        return None;
    }
    let (mut value, mut shift) = (0u128, 0i32);
    for digit in digits.chars() {
        let digit = u128::from(digit.to_digit(1 << bits)?);
        if value >> 120 == 0 {
            value = value << bits | digit;
        } else {
            // Of the rest only the place counts, and whether any of it is set: it breaks ties.
            value |= u128::from(digit != 0);
            shift = shift.saturating_add(bits.cast_signed());
        }
    }
    Some(value as f64 * 2f64.powi(shift))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_the_numbers_that_ecmascript_sees_in_them() {
        for (text, expected) in [
            ("", 0.0),
            (" \u{feff}\n", 0.0),
            (" 2 ", 2.0),
            ("007", 7.0),
            ("+5", 5.0),
            (".5", 0.5),
            ("5.", 5.0),
            ("-1e3", -1000.0),
            ("1E-2", 0.01),
            ("0x2A", 42.0),
            ("0X2a", 42.0),
            ("0o17", 15.0),
            ("0b101", 5.0),
            ("Infinity", f64::INFINITY),
            ("-Infinity", f64::NEG_INFINITY),
            ("1e400", f64::INFINITY),
            ("9007199254740993", 9_007_199_254_740_992.0),
            ("0x20000000000001", 9_007_199_254_740_992.0),
            ("0x20000000000003", 9_007_199_254_740_996.0),
            ("0x80000000000004000000000000000000000001", 2f64.powi(151) + 2f64.powi(99)),
        ] {
            assert_eq!(number(text), expected, "{text:?}");
        }
        assert!(number("-0").is_sign_negative());
        for text in [
            "a", "-", "+", ".", "1_000", "1e", "e1", "1e+", "0x", "-0x10", "0xg", "inf", "nan", "NaN",
            "infinity", "1 2",
        ] {
            assert!(number(text).is_nan(), "{text:?}");
        }
    }
}
