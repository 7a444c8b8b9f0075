//! Whether a term matches what it is applied to.

use super::EvaluateError;
use super::item::{Item, searched};
use super::parse::{Comparison, Leaf, Term};

/// Work that one object may take: about as many bytes looked at.
const WORK_OF_ONE_OBJECT: u64 = 256 << 20;

/// The work that is left.
#[derive(Debug)]
pub struct Work {
    left: u64,
}

impl Work {
    /// All that one object may take.
    pub fn of_one_object() -> Self {
        Self { left: WORK_OF_ONE_OBJECT }
    }

    fn spend(&mut self, steps: usize) -> Result<(), EvaluateError> {
        let left = self.left.checked_sub(steps as u64);
        self.left = left.ok_or(EvaluateError::TooMuchWork { limit: WORK_OF_ONE_OBJECT })?;
        Ok(())
    }
}

/// Whether all terms match.
pub fn all(terms: &[Term], item: Item<'_>, work: &mut Work) -> Result<bool, EvaluateError> {
    for term in terms {
        if !matches(term, item, work)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn any(terms: &[Term], item: Item<'_>, work: &mut Work) -> Result<bool, EvaluateError> {
    for term in terms {
        if matches(term, item, work)? {
            return Ok(true);
        }
    }
    Ok(false)
}

fn matches(term: &Term, item: Item<'_>, work: &mut Work) -> Result<bool, EvaluateError> {
    work.spend(1)?;
    match term {
        Term::All(terms) => all(terms, item, work),
        Term::Any(terms) => any(terms, item, work),
        Term::Not(term) => Ok(!matches(term, item, work)?),
        Term::Compare(comparison, number) => {
            let value = item.coerced();
            Ok(match comparison {
                Comparison::Less => value < *number,
                Comparison::LessOrEqual => value <= *number,
                Comparison::Greater => value > *number,
                Comparison::GreaterOrEqual => value >= *number,
            })
        }
        // Nothing has no members, and not even a negation is true of them.
        Term::Property(..) if matches!(item, Item::Missing | Item::Null) => Ok(false),
        Term::Property(name, term) => matches(term, item.member(name), work),
        Term::Truthy(name) => Ok(item.member(name).is_truthy()),
        Term::Leaf(leaf) => found(leaf, item, work),
    }
}

/// Whether a leaf matches a value or any value in it.
fn found(leaf: &Leaf, item: Item<'_>, work: &mut Work) -> Result<bool, EvaluateError> {
    work.spend(1)?;
    match item {
        Item::Missing | Item::Null | Item::Bool(_) => Ok(false),
        Item::Number(value) => Ok(matches!(leaf, Leaf::Number { value: wanted, .. } if *wanted == value)),
        Item::Text(text) => {
            work.spend(text.len())?;
            match leaf {
                Leaf::Word { lower } | Leaf::Number { lower, .. } => {
                    Ok(text.to_lowercase().contains(lower.as_str()))
                }
                Leaf::Glob(glob) => Ok(glob.matches(text)),
                Leaf::Pattern(pattern) => pattern.is_match(text),
            }
        }
        Item::Array(list) => {
            for value in list {
                if found(leaf, Item::of(value), work)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        Item::Object(members) => {
            for value in searched(members) {
                if found(leaf, Item::of(value), work)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
    }
}
