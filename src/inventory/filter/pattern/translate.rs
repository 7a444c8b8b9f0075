//! From ECMAScript's meaning to a pattern of the search engine's.
//!
//! What differs are back-references. In ECMAScript one to a group that took no part matches the empty text, and a
//! round of a repetition forgets what the groups in it captured; the engine fails for the former and remembers
//! the latter. Where it follows from the place of the reference what has been captured, that is written; where
//! it does not, the expression is refused.

use std::collections::{BTreeMap, BTreeSet};

use super::PatternFault;
use super::syntax::Node;
use super::units::{Units, write_unit};

/// The largest product of nested repetitions that are counted.
const MAX_COUNT: u32 = 100_000;

/// A pattern for the search engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Translated {
    /// Its text.
    pub pattern: String,
    /// Whether it looks at what it does not take.
    pub looks_around: bool,
    /// Whether it refers to what a group captured.
    pub refers_back: bool,
}

/// Translates an expression.
///
/// # Errors
/// What the engine cannot do, or would do otherwise.
pub fn translate(node: &Node) -> Result<Translated, PatternFault> {
    let mut places = Places::default();
    places.collect(node, &mut Vec::new());
    let references = places.resolve()?;
    let captured: BTreeSet<usize> = references
        .iter()
        .filter_map(|meaning| match meaning {
            Meaning::Empty => None,
            Meaning::Captured(number) | Meaning::CapturedOrEmpty(number) => Some(*number),
        })
        .collect();
    let numbers = captured.into_iter().zip(1..).collect();
    let mut writer = Writer {
        out: String::new(),
        looks_around: false,
        refers_back: false,
        behind: false,
        numbers,
        references: references.into_iter(),
        counted: 1,
    };
    writer.node(node)?;
    Ok(Translated { pattern: writer.out, looks_around: writer.looks_around, refers_back: writer.refers_back })
}

/// A step from the root of an expression to a node in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Into that one of a sequence.
    Sequence(usize),
    /// Into that one of a choice.
    Choice(usize),
    /// Into what is repeated.
    Repeat {
        /// Whether no round is enough.
        optional: bool,
        /// Whether a second round is possible.
        again: bool,
    },
    /// Into what is looked for.
    Look { behind: bool, negated: bool },
    /// Into a group.
    Capture,
}

/// Where groups and references are.
#[derive(Debug, Default)]
struct Places {
    captures: BTreeMap<usize, Vec<Step>>,
    references: Vec<(usize, Vec<Step>)>,
}

/// What a reference means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// The group never took part when the reference is reached.
    Empty,
    /// The group took part.
    Captured(usize),
    /// The group took part, or the reference is empty.
    CapturedOrEmpty(usize),
}

impl Places {
    fn collect(&mut self, node: &Node, path: &mut Vec<Step>) {
        let (step, inner) = match node {
            Node::One(_) | Node::Unit(_) | Node::Start | Node::End | Node::Boundary { .. } => return,
            Node::Reference(number) => {
                self.references.push((*number, path.clone()));
                return;
            }
            Node::Sequence(nodes) | Node::Choice(nodes) => {
                let is_choice = matches!(node, Node::Choice(_));
                for (at, inner) in nodes.iter().enumerate() {
                    path.push(if is_choice { Step::Choice(at) } else { Step::Sequence(at) });
                    self.collect(inner, path);
                    path.pop();
                }
                return;
            }
            Node::Capture(number, inner) => {
                self.captures.insert(*number, path.clone());
                (Step::Capture, inner)
            }
            Node::Look { behind, negated, node } => (Step::Look { behind: *behind, negated: *negated }, node),
            Node::Repeat { node, min, max, .. } => {
                (Step::Repeat { optional: *min == 0, again: *max != Some(1) }, node)
            }
        };
        path.push(step);
        self.collect(inner, path);
        path.pop();
    }

    /// What each reference means, in their order.
    fn resolve(&self) -> Result<Vec<Meaning>, PatternFault> {
        self.references.iter().map(|(number, path)| self.meaning(*number, path)).collect()
    }

    fn meaning(&self, number: usize, reference: &[Step]) -> Result<Meaning, PatternFault> {
        // A group that was dropped because it can never take part.
        let Some(capture) = self.captures.get(&number) else { return Ok(Meaning::Empty) };
        let looks_behind =
            |path: &[Step]| path.iter().any(|step| matches!(step, Step::Look { behind: true, .. }));
        if looks_behind(reference) || looks_behind(capture) {
            return Err(PatternFault::ReferenceBehind);
        }
        let common = capture.iter().zip(reference).take_while(|(one, other)| one == other).count();
        let (shared, below) = capture.split_at_checked(common).unwrap_or((capture, &[]));
        let comes_after = match (below.first(), reference.get(common)) {
            (Some(Step::Sequence(group)), Some(Step::Sequence(reference))) => group < reference,
            // Another alternative, or inside of the group itself: each round of what surrounds both forgets it.
            _ => false,
        };
        if !comes_after || below.iter().any(|step| matches!(step, Step::Look { negated: true, .. })) {
            return Ok(Meaning::Empty);
        }
        let is_optional = |path: &[Step]| {
            path.iter().any(|step| matches!(step, Step::Choice(_) | Step::Repeat { optional: true, .. }))
        };
        let repeats =
            |path: &[Step]| path.iter().any(|step| matches!(step, Step::Repeat { again: true, .. }));
        for (at, step) in below.iter().enumerate() {
            let (above, inside) = below.split_at_checked(at + 1).unwrap_or((below, &[]));
            let forgets = matches!(step, Step::Repeat { again: true, .. }) && is_optional(inside);
            // A round that is empty is taken back, with what it captured by looking ahead.
            let takes_back = matches!(step, Step::Look { .. }) && (repeats(above) || is_optional(above));
            if forgets || takes_back {
                return Err(PatternFault::ForgottenReference);
            }
        }
        match (is_optional(below), repeats(shared)) {
            (true, true) => Err(PatternFault::ForgottenReference),
            (true, false) => Ok(Meaning::CapturedOrEmpty(number)),
            (false, _) => Ok(Meaning::Captured(number)),
        }
    }
}

struct Writer {
    out: String,
    looks_around: bool,
    refers_back: bool,
    /// Whether it is inside of something that looks behind.
    behind: bool,
    /// The groups that have to capture, each with its number in the pattern.
    numbers: BTreeMap<usize, u32>,
    references: std::vec::IntoIter<Meaning>,
    /// The product of the counts around.
    counted: u32,
}

impl Writer {
    fn node(&mut self, node: &Node) -> Result<(), PatternFault> {
        match node {
            Node::One(units) => units.write(&mut self.out),
            Node::Unit(unit) => write_unit(*unit, &mut self.out),
            Node::Start => self.out.push_str(r"\A"),
            Node::End => self.out.push_str(r"\z"),
            Node::Boundary { negated } => self.boundary(*negated),
            Node::Capture(number, node) => {
                let open = if self.numbers.contains_key(number) { "(" } else { "(?:" };
                self.group(open, node)?;
            }
            Node::Look { behind, negated, node } => {
                self.looks_around = true;
                let outer = self.behind;
                self.behind |= *behind;
                let open = match (behind, negated) {
                    (false, false) => "(?=",
                    (false, true) => "(?!",
                    (true, false) => "(?<=",
                    (true, true) => "(?<!",
                };
                self.group(open, node)?;
                self.behind = outer;
            }
            Node::Reference(_) => self.reference(),
            Node::Sequence(nodes) => {
                for node in nodes {
                    match node {
                        Node::Choice(_) => self.group("(?:", node)?,
                        node => self.node(node)?,
                    }
                }
            }
            Node::Choice(nodes) => {
                for (at, node) in nodes.iter().enumerate() {
                    if at > 0 {
                        self.out.push('|');
                    }
                    self.node(node)?;
                }
            }
            Node::Repeat { node, min, max, lazy } => self.repeat(node, *min, *max, *lazy)?,
        }
        Ok(())
    }

    fn group(&mut self, open: &str, node: &Node) -> Result<(), PatternFault> {
        self.out.push_str(open);
        self.node(node)?;
        self.out.push(')');
        Ok(())
    }

    fn repeat(&mut self, node: &Node, min: u32, max: Option<u32>, lazy: bool) -> Result<(), PatternFault> {
        let outer = self.counted;
        self.counted = outer.saturating_mul(max.unwrap_or(min).max(1));
        if self.counted > MAX_COUNT {
            return Err(PatternFault::TooLarge);
        }
        let begin = self.out.len();
        match node {
            Node::One(_) | Node::Unit(_) | Node::Capture(..) | Node::Look { .. } => self.node(node)?,
            node => self.group("(?:", node)?,
        }
        self.counted = outer;
        if self.out.get(begin..) == Some("(?:)") {
            self.out.truncate(begin);
            return Ok(());
        }
        match (min, max) {
            (0, None) => self.out.push('*'),
            (1, None) => self.out.push('+'),
            (0, Some(1)) => self.out.push('?'),
            (min, None) => self.out.push_str(&format!("{{{min},}}")),
            (min, Some(max)) => self.out.push_str(&format!("{{{min},{max}}}")),
        }
        if lazy {
            self.out.push('?');
        }
        Ok(())
    }

    /// A boundary of words of ASCII: the stand-ins of all other characters belong to no word.
    fn boundary(&mut self, negated: bool) {
        if !self.behind {
            self.out.push_str(if negated { r"\B" } else { r"\b" });
            return;
        }
        // Looking behind, the engine's own boundary gives up on text that is not ASCII.
        self.looks_around = true;
        let mut word = String::new();
        Units::word().write(&mut word);
        let (first, second) = if negated { ("=", "!") } else { ("!", "=") };
        self.out.push_str(&format!("(?:(?<={word})(?{first}{word})|(?<!{word})(?{second}{word}))"));
    }

    fn reference(&mut self) {
        let number = |number| self.numbers.get(&number).copied().unwrap_or_default();
        let written = match self.references.next() {
            None | Some(Meaning::Empty) => return,
            Some(Meaning::Captured(group)) => format!(r"(?:\{})", number(group)),
            Some(Meaning::CapturedOrEmpty(group)) => format!(r"(?({0})\{0}|)", number(group)),
        };
        self.refers_back = true;
        self.out.push_str(&written);
    }
}
