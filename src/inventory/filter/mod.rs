//! The filter language of collections (`?filter=`): an expression is parsed once and asked about each object.
//!
//! The language is that of Xen Orchestra's complex-matcher 1.1, regular expressions in ECMAScript's dialect
//! included; `tests/corpus/filter/vectors.json` holds what the reference answers. Everything is bounded: the
//! length and depth of an expression, the size of its compiled patterns, and the work that one object may take.
//!
//! ```
//! use gantry::inventory::filter::Filter;
//! use serde_json::json;
//!
//! let filter: Filter = "type:VDI size:>1e9 !tags:/^old$/".parse().unwrap();
//! assert!(filter.matches(&json!({"type": "VDI", "size": 2e9, "tags": ["new"]})).unwrap());
//! ```

mod case;
mod evaluate;
mod glob;
mod item;
mod number;
mod parse;
mod pattern;
#[cfg(test)]
mod tests;

use std::str::FromStr;
use std::sync::Arc;

use serde_json::Value;

use self::evaluate::Work;
use self::item::Item;
use self::parse::Term;
pub use self::pattern::PatternFault;

/// Longest expression, bytes.
pub const MAX_BYTES: usize = 64 << 10;
/// Deepest nesting of groups, negations and properties.
pub const MAX_DEPTH: usize = 200;
/// Most regular expressions in one expression.
pub const MAX_PATTERNS: usize = 64;

/// A parsed expression. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// All of them have to match.
    terms: Arc<[Term]>,
}

impl Filter {
    /// Whether this is the blank expression, which matches everything.
    pub fn is_blank(&self) -> bool {
        self.terms.is_empty()
    }

    /// Whether an object matches.
    ///
    /// # Errors
    /// When the answer takes more work than one object is allowed. Whether it does depends on the object.
    pub fn matches(&self, object: &Value) -> Result<bool, EvaluateError> {
        evaluate::all(&self.terms, Item::of(object), &mut Work::of_one_object())
    }
}

impl FromStr for Filter {
    type Err = FilterError;

    fn from_str(text: &str) -> Result<Self, FilterError> {
        Ok(Self { terms: parse::parse(text)?.into() })
    }
}

/// Why an expression is none. The messages of the first two are the reference's own.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// A term that cannot be parsed.
    #[error("parse error: expected end of input at position {position}")]
    Syntax {
        /// Where the first top-level term begins that cannot be parsed, in UTF-16 code units.
        position: usize,
    },
    /// A comparison with a word.
    #[error("value must be a number")]
    NotANumber,
    /// A regular expression that is none, or that cannot be translated.
    #[error("Invalid regular expression: /{pattern}/: {fault}")]
    Pattern {
        /// What is between the slashes, or the beginning of it.
        pattern: String,
        /// What is wrong with it.
        fault: PatternFault,
    },
    /// More regular expressions than are compiled for one expression.
    #[error("the filter has more than {MAX_PATTERNS} regular expressions: join some of them by |")]
    TooManyPatterns,
    /// A long expression.
    #[error("the filter has {bytes} bytes: no more than {MAX_BYTES} are read")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// A deep expression.
    #[error("the filter is nested deeper than {MAX_DEPTH} levels at position {position}")]
    TooDeep {
        /// Where the deepest level begins, in UTF-16 code units.
        position: usize,
    },
}

/// Why it cannot be said whether an object matches.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EvaluateError {
    /// A regular expression that tries too many ways.
    #[error(
        "the regular expression /{pattern}/ takes more than {limit} steps on one text: write it without nested \
         repetition, look-around or back-references"
    )]
    Backtracking {
        /// What is between the slashes, or the beginning of it.
        pattern: String,
        /// The most steps that it may take.
        limit: usize,
    },
    /// A text that is too long for a regular expression whose time is not linear.
    #[error(
        "the regular expression /{pattern}/ looks around or refers back, and an object has a text of {bytes} bytes: \
         such expressions search no more than {limit}"
    )]
    LongText {
        /// What is between the slashes, or the beginning of it.
        pattern: String,
        /// The length of the text.
        bytes: usize,
        /// The longest that is searched, bytes.
        limit: usize,
    },
    /// An expression and an object that are both large.
    #[error("the filter takes more than {limit} steps on one object: make it shorter")]
    TooMuchWork {
        /// The most steps.
        limit: u64,
    },
}
