//! Words with `*`: a star is any run of characters of one line, case is that of the `i` flag, and a part of the
//! text is enough.

use super::case::canonical_text;

/// A word with stars.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Glob {
    /// What stands between the stars, in canonical case, without the empty ones.
    parts: Vec<String>,
}

impl Glob {
    /// The word as it is written.
    pub fn new(word: &str) -> Self {
        Self { parts: word.split('*').filter(|part| !part.is_empty()).map(canonical_text).collect() }
    }

    /// Whether a part of the text is what is meant.
    pub fn matches(&self, text: &str) -> bool {
        let text = canonical_text(text);
        let mut lines = text.split(['\n', '\r', '\u{2028}', '\u{2029}']);
        lines.any(|line| {
            let after = |rest: &str, part: &String| {
                rest.find(part.as_str()).and_then(|at| rest.get(at + part.len()..)).map(str::len)
            };
            // The first place of each part leaves most for the next ones, so no other need be tried.
            let left = self.parts.iter().try_fold(line.len(), |left, part| {
                line.get(line.len() - left..).and_then(|rest| after(rest, part))
            });
            left.is_some()
        })
    }
}
