//! Regular expressions of ECMAScript's dialect, without the `u` flag: parsed here (`syntax`), translated
//! (`translate`) and searched by fancy-regex, which hands what is regular to an engine of linear time and counts
//! steps in the rest.
//!
//! ECMAScript sees UTF-16 code units. Texts and patterns are both written with one character for each
//! (`units::stand_in`), so halves of pairs, `.` and classes mean what they mean there.

mod syntax;
mod translate;
mod units;

use std::borrow::Cow;

use fancy_regex::{CompileError, Error, Regex, RegexBuilder, RuntimeError};

use super::EvaluateError;
use super::case;

/// Memory for the compiled patterns of one expression, bytes; each has a share of it.
const MAX_COMPILED: usize = 8 << 20;
/// The largest share.
const MAX_SHARE: usize = 4 << 20;
/// Steps back that a pattern may take on one text.
const BACKTRACK_LIMIT: usize = 200_000;
/// Longest text that is searched with a pattern whose time is not linear, bytes.
const MAX_TEXT: usize = 32 << 10;

/// Longest part of a pattern that messages quote, characters.
const MAX_QUOTED: usize = 100;

/// A compiled regular expression.
#[derive(Debug)]
pub struct Pattern {
    /// What is between the slashes, for messages.
    source: String,
    ignore_case: bool,
    /// Whether the time is linear in the length of the text.
    is_linear: bool,
    regex: Regex,
}

/// What is wrong with a regular expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatternFault {
    /// `\` and nothing after it.
    #[error("\\ at end of pattern")]
    LastBackslash,
    /// `(a`
    #[error("Unterminated group")]
    UnterminatedGroup,
    /// `a)`
    #[error("Unmatched ')'")]
    UnmatchedClose,
    /// `(?a)`
    #[error("Invalid group")]
    InvalidGroup,
    /// `(?<1>a)`
    #[error("Invalid capture group name")]
    InvalidName,
    /// `(?<a>)(?<a>)`
    #[error("Duplicate capture group name")]
    DuplicateName,
    /// `(?<a>)\k<b>`
    #[error("Invalid named reference")]
    InvalidReference,
    /// `[a`
    #[error("Unterminated character class")]
    UnterminatedClass,
    /// `[b-a]`
    #[error("Range out of order in character class")]
    ClassOrder,
    /// `*a`
    #[error("Nothing to repeat")]
    NothingToRepeat,
    /// `a{2,1}`
    #[error("numbers out of order in {{}} quantifier")]
    QuantifierOrder,
    /// Groups in groups.
    #[error("groups are nested deeper than {} levels, which cannot be translated", syntax::MAX_GROUP_DEPTH)]
    TooDeep,
    /// `(?<=(a)\1)`
    #[error("a back-reference and a look-behind depend on each other, which cannot be translated")]
    ReferenceBehind,
    /// `(?:(a)|b)*\1`
    #[error(
        "a back-reference to a group that not every round of a repetition captures cannot be translated: move the \
         reference into the repetition or the group out of it"
    )]
    ForgottenReference,
    /// What takes too much memory.
    #[error("it is too large when it is compiled: use smaller counts or fewer regular expressions")]
    TooLarge,
    /// What the search engine says.
    #[error("it cannot be translated: {0}")]
    Engine(String),
}

impl Pattern {
    /// Compiles what is between the slashes, with one of `shares` parts of the memory for compiled patterns.
    ///
    /// # Errors
    /// When it is no regular expression, or one that cannot be translated or is too large.
    pub fn new(source: &str, ignore_case: bool, shares: usize) -> Result<Self, PatternFault> {
        let translated = translate::translate(&syntax::parse(source, ignore_case)?)?;
        let share = (MAX_COMPILED / shares.max(1)).min(MAX_SHARE);
        let regex = RegexBuilder::new(&translated.pattern)
            .backtrack_limit(BACKTRACK_LIMIT)
            .delegate_size_limit(share)
            .delegate_dfa_size_limit(share)
            .max_prog_size(share / 64)
            // fancy-regex 0.20.2 takes `(a+)+` for `(a+)`, which captures something else.
            .optimize(!translated.refers_back)
            .build()
            .map_err(|error| fault(&error))?;
        let is_linear = !translated.looks_around && !translated.refers_back;
        Ok(Self { source: shortened(source), ignore_case, is_linear, regex })
    }

    /// Whether a part of the text matches.
    ///
    /// # Errors
    /// When the search takes too many steps, or may take them on so long a text.
    pub fn is_match(&self, text: &str) -> Result<bool, EvaluateError> {
        if !self.is_linear && text.len() > MAX_TEXT {
            let pattern = self.source.clone();
            return Err(EvaluateError::LongText { pattern, bytes: text.len(), limit: MAX_TEXT });
        }
        self.regex
            .is_match(&*self.haystack(text))
            .map_err(|_| EvaluateError::Backtracking { pattern: self.source.clone(), limit: BACKTRACK_LIMIT })
    }

    /// The text as it is searched: a character for each code unit, in canonical case where case does not matter.
    fn haystack<'a>(&self, text: &'a str) -> Cow<'a, str> {
        match (text.is_ascii(), self.ignore_case) {
            (true, false) => text.into(),
            (true, true) => text.to_ascii_uppercase().into(),
            (false, false) => text.encode_utf16().map(units::stand_in).collect(),
            (false, true) => text.encode_utf16().map(case::canonical).map(units::stand_in).collect(),
        }
    }
}

/// A pattern as messages quote it.
pub fn shortened(source: &str) -> String {
    match source.char_indices().nth(MAX_QUOTED) {
        Some((end, _)) => format!("{}…", source.get(..end).unwrap_or_default()),
        None => source.to_owned(),
    }
}

fn fault(error: &Error) -> PatternFault {
    match error {
        Error::CompileError(inner) => match &**inner {
            CompileError::InnerError(inner) if inner.size_limit().is_some() => PatternFault::TooLarge,
            CompileError::PatternTooComplex => PatternFault::TooLarge,
            other => PatternFault::Engine(other.to_string()),
        },
        Error::RuntimeError(RuntimeError::StackOverflow | RuntimeError::BacktrackLimitExceeded) => {
            PatternFault::TooLarge
        }
        other => PatternFault::Engine(other.to_string()),
    }
}
