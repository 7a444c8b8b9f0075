//! Conditional requests for one representation, in the order of RFC 9110 §13.2.2.

use actix_web::http::header::HeaderMap;

/// What the conditions of a request leave to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Go on, and honour `Range` when there is one.
    Proceed,
    /// Go on as if there were no `Range`.
    ProceedWhole,
    /// 304.
    NotModified,
    /// 412.
    Failed,
}

/// Weighs the conditions of a request against the strong entity tag of what it would get. Representations
/// have no modification date here, so conditions on dates are not evaluated, and a date in `If-Range` never
/// matches.
pub fn evaluate(headers: &HeaderMap, etag: &str, get: bool) -> Verdict {
    if let Some(tags) = joined(headers, "if-match")
        && !matches(&tags, etag, Comparison::Strong)
    {
        return Verdict::Failed;
    }
    if let Some(tags) = joined(headers, "if-none-match")
        && matches(&tags, etag, Comparison::Weak)
    {
        return Verdict::NotModified;
    }
    match headers.get("if-range") {
        Some(tag) if get && headers.contains_key("range") => {
            let same = tag.to_str().is_ok_and(|tag| tag.trim() == etag);
            if same { Verdict::Proceed } else { Verdict::ProceedWhole }
        }
        _ => Verdict::Proceed,
    }
}

/// Whether the request says which bytes it means to continue, so that it cannot be given others.
pub fn names_its_content(headers: &HeaderMap) -> bool {
    headers.contains_key("if-range") || headers.contains_key("if-match")
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Comparison {
    Strong,
    Weak,
}

fn joined(headers: &HeaderMap, name: &str) -> Option<String> {
    let mut values = headers.get_all(name).peekable();
    values.peek()?;
    Some(values.filter_map(|value| value.to_str().ok()).collect::<Vec<_>>().join(","))
}

fn matches(list: &str, etag: &str, comparison: Comparison) -> bool {
    if list.trim() == "*" {
        return true;
    }
    // Our own tags hold no comma, so a cut at commas cannot make a false match.
    list.split(',').map(str::trim).any(|tag| match comparison {
        Comparison::Strong => tag == etag,
        Comparison::Weak => tag.strip_prefix("W/").unwrap_or(tag) == etag,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_web::http::header::{HeaderName, HeaderValue};

    const TAG: &str = "\"abc\"";

    fn verdict(pairs: &[(&str, &str)], get: bool) -> Verdict {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(HeaderName::try_from(*name).unwrap(), HeaderValue::try_from(*value).unwrap());
        }
        evaluate(&headers, TAG, get)
    }

    #[test]
    fn if_match_compares_strongly() {
        assert_eq!(verdict(&[("if-match", TAG)], true), Verdict::Proceed);
        assert_eq!(verdict(&[("if-match", "*")], true), Verdict::Proceed);
        assert_eq!(verdict(&[("if-match", "\"x\", \"abc\"")], true), Verdict::Proceed);
        assert_eq!(verdict(&[("if-match", "W/\"abc\"")], true), Verdict::Failed);
        assert_eq!(verdict(&[("if-match", "\"x\"")], true), Verdict::Failed);
    }

    #[test]
    fn if_none_match_compares_weakly_and_comes_after_if_match() {
        assert_eq!(verdict(&[("if-none-match", "W/\"abc\"")], true), Verdict::NotModified);
        assert_eq!(verdict(&[("if-none-match", "*")], true), Verdict::NotModified);
        assert_eq!(verdict(&[("if-none-match", "\"x\"")], true), Verdict::Proceed);
        assert_eq!(verdict(&[("if-none-match", TAG), ("if-match", "\"x\"")], true), Verdict::Failed);
        assert_eq!(verdict(&[("if-none-match", TAG), ("if-match", TAG)], true), Verdict::NotModified);
    }

    #[test]
    fn if_range_decides_whether_a_range_counts() {
        let with = |value| verdict(&[("range", "bytes=1-"), ("if-range", value)], true);
        assert_eq!(with(TAG), Verdict::Proceed);
        assert_eq!(with("\"x\""), Verdict::ProceedWhole);
        assert_eq!(with("W/\"abc\""), Verdict::ProceedWhole);
        assert_eq!(with("Tue, 24 Nov 2026 10:00:00 GMT"), Verdict::ProceedWhole);
        assert_eq!(with("nonsense"), Verdict::ProceedWhole);
        assert_eq!(verdict(&[("if-range", "\"x\"")], true), Verdict::Proceed);
        assert_eq!(verdict(&[("range", "bytes=1-"), ("if-range", "\"x\"")], false), Verdict::Proceed);
    }
}
