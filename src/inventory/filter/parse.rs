//! From text to terms. The alternatives of the grammar are tried in its order, and what has been parsed is never
//! taken back; each begins with other characters, so one look ahead decides, and the time is linear.

use super::glob::Glob;
use super::number::{is_white_space, number};
use super::pattern::{Pattern, shortened};
use super::{FilterError, MAX_BYTES, MAX_DEPTH, MAX_PATTERNS};

/// A part of an expression.
#[derive(Debug)]
pub enum Term {
    /// A group: all have to match.
    All(Vec<Term>),
    /// `|(…)`: one has to match.
    Any(Vec<Term>),
    /// `!…`
    Not(Box<Term>),
    /// `>…` and its like.
    Compare(Comparison, f64),
    /// `name:…`
    Property(String, Box<Term>),
    /// `name?`
    Truthy(String),
    /// What is looked for in values at any depth.
    Leaf(Leaf),
}

/// What is looked for in values.
#[derive(Debug)]
pub enum Leaf {
    /// A word or a quoted text.
    Word {
        /// In lower case.
        lower: String,
    },
    /// A word that is a number.
    Number {
        /// As it is written, in lower case.
        lower: String,
        /// What it is.
        value: f64,
    },
    /// A word with stars.
    Glob(Glob),
    /// A regular expression.
    Pattern(Pattern),
}

/// How numbers are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Comparison {
    /// `<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `>`
    Greater,
    /// `>=`
    GreaterOrEqual,
}

/// Parses an expression: the terms that all have to match.
///
/// # Errors
/// As the text or its patterns are none, or beyond a limit.
pub fn parse(text: &str) -> Result<Vec<Term>, FilterError> {
    if text.len() > MAX_BYTES {
        return Err(FilterError::TooLong { bytes: text.len() });
    }
    // A regular expression has two slashes, so there are no more of them than that.
    let shares = (text.bytes().filter(|byte| *byte == b'/').count() / 2).clamp(1, MAX_PATTERNS);
    let mut parser = Parser { text, at: 0, patterns: 0, shares };
    parser.skip_white_space();
    let terms = parser.terms(0)?;
    if parser.at < text.len() {
        return Err(FilterError::Syntax { position: parser.position() });
    }
    Ok(terms)
}

/// A character that words may consist of.
fn is_raw(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '$') || is_cased(c)
}

/// A letter with two cases. Characters of two UTF-16 code units do not count.
fn is_cased(c: char) -> bool {
    c.len_utf16() == 1 && (c.to_uppercase().ne([c]) || c.to_lowercase().ne([c]))
}

struct Parser<'a> {
    text: &'a str,
    /// The next byte.
    at: usize,
    /// Regular expressions so far.
    patterns: usize,
    /// How many of them share the memory for compiled ones.
    shares: usize,
}

/// A term, or nothing where there is none; then nothing was taken.
type Parsed = Result<Option<Term>, FilterError>;

impl<'a> Parser<'a> {
    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn take(&mut self, token: &str) -> bool {
        let found = self.rest().starts_with(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn take_while(&mut self, belongs: impl Fn(char) -> bool) -> &'a str {
        let rest = self.rest();
        let len = rest.find(|c| !belongs(c)).unwrap_or(rest.len());
        self.at += len;
        rest.get(..len).unwrap_or_default()
    }

    fn skip_white_space(&mut self) {
        self.take_while(is_white_space);
    }

    fn position(&self) -> usize {
        self.text.get(..self.at).unwrap_or_default().encode_utf16().count()
    }

    /// Terms up to what is none, and the white space after each.
    fn terms(&mut self, depth: usize) -> Result<Vec<Term>, FilterError> {
        let mut terms = Vec::new();
        while let Some(term) = self.term(depth)? {
            terms.push(term);
            self.skip_white_space();
        }
        Ok(terms)
    }

    fn term(&mut self, depth: usize) -> Parsed {
        if depth > MAX_DEPTH {
            return Err(FilterError::TooDeep { position: self.position() });
        }
        let begin = self.at;
        let parsed = match self.peek() {
            Some('(') => self.list(depth)?.map(Term::All),
            Some('|') => {
                self.take("|");
                self.skip_white_space();
                self.list(depth)?.map(Term::Any)
            }
            Some('!') => {
                self.take("!");
                self.skip_white_space();
                self.term(depth + 1)?.map(|term| Term::Not(Box::new(term)))
            }
            Some('<' | '>') => self.comparison()?,
            Some('"') => self.quoted_or_member(depth)?,
            Some('/') => self.pattern()?,
            Some(c) if c == '*' || is_raw(c) => Some(self.word_or_member(depth)?),
            _ => None,
        };
        if parsed.is_none() {
            self.at = begin;
        }
        Ok(parsed)
    }

    /// At least one term between parentheses.
    fn list(&mut self, depth: usize) -> Result<Option<Vec<Term>>, FilterError> {
        if !self.take("(") {
            return Ok(None);
        }
        self.skip_white_space();
        let terms = self.terms(depth + 1)?;
        Ok((!terms.is_empty() && self.take(")")).then_some(terms))
    }

    fn comparison(&mut self) -> Parsed {
        let greater = self.take(">") || !self.take("<");
        let comparison = match (greater, self.take("=")) {
            (true, true) => Comparison::GreaterOrEqual,
            (true, false) => Comparison::Greater,
            (false, true) => Comparison::LessOrEqual,
            (false, false) => Comparison::Less,
        };
        match self.take_while(is_raw) {
            "" => Ok(None),
            raw => match number(raw) {
                value if value.is_nan() => Err(FilterError::NotANumber),
                value => Ok(Some(Term::Compare(comparison, value))),
            },
        }
    }

    fn word_or_member(&mut self, depth: usize) -> Result<Term, FilterError> {
        let begin = self.at;
        let name = self.take_while(is_raw);
        if !name.is_empty()
            && let Some(term) = self.member(name, depth)?
        {
            return Ok(term);
        }
        self.at = begin;
        let word = self.take_while(|c| c == '*' || is_raw(c));
        Ok(Term::Leaf(if word.contains('*') {
            Leaf::Glob(Glob::new(word))
        } else {
            let lower = word.to_lowercase();
            match number(word) {
                value if value.is_nan() => Leaf::Word { lower },
                value => Leaf::Number { lower, value },
            }
        }))
    }

    fn quoted_or_member(&mut self, depth: usize) -> Parsed {
        let Some(text) = self.quoted() else { return Ok(None) };
        let end = self.at;
        if let Some(term) = self.member(&text, depth)? {
            return Ok(Some(term));
        }
        self.at = end;
        Ok(Some(Term::Leaf(Leaf::Word { lower: text.to_lowercase() })))
    }

    /// What follows a name that is one: `:` with a term, or `?`.
    fn member(&mut self, name: &str, depth: usize) -> Parsed {
        if self.take("?") {
            return Ok(Some(Term::Truthy(name.to_owned())));
        }
        self.skip_white_space();
        if !self.take(":") {
            return Ok(None);
        }
        self.skip_white_space();
        let term = self.term(depth + 1)?;
        Ok(term.map(|term| Term::Property(name.to_owned(), Box::new(term))))
    }

    /// A quoted text; the closing quote may be missing, but not what a backslash makes literal.
    fn quoted(&mut self) -> Option<String> {
        let mut text = String::new();
        let mut rest = self.rest().char_indices().skip(1);
        while let Some((at, c)) = rest.next() {
            match c {
                '"' => {
                    self.at += at + 1;
                    return Some(text);
                }
                '\\' => text.push(rest.next()?.1),
                c => text.push(c),
            }
        }
        self.at = self.text.len();
        Some(text)
    }

    /// A regular expression. It ends at the first slash without a backslash just before it, or with a slash that
    /// ends the whole filter: where that one has a backslash, it belongs to the expression too.
    fn pattern(&mut self) -> Parsed {
        let Some(body) = self.rest().strip_prefix('/') else { return Ok(None) };
        let bytes = body.as_bytes();
        let closes = |at: usize| at == 0 || bytes.get(at - 1) != Some(&b'\\');
        let (source, len) = match body.match_indices('/').find(|(at, _)| closes(*at)) {
            Some((at, _)) => (body.get(..at).unwrap_or_default(), at + 1),
            None if body.ends_with('/') => (body, body.len()),
            None => return Ok(None),
        };
        self.at += 1 + len;
        let ignore_case = self.take("i");
        self.patterns += 1;
        if self.patterns > MAX_PATTERNS {
            return Err(FilterError::TooManyPatterns);
        }
        let pattern = Pattern::new(source, ignore_case, self.shares)
            .map_err(|fault| FilterError::Pattern { pattern: shortened(source), fault })?;
        Ok(Some(Term::Leaf(Leaf::Pattern(pattern))))
    }
}
