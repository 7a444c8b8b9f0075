//! The grammar of ECMAScript's regular expressions without the `u` flag, with what its Annex B allows: a
//! backslash before any character, octal escapes, braces that are no quantifier.

use super::super::case;
use super::PatternFault;
use super::units::Units;

/// Deepest nesting of groups. Each becomes up to one level more for the engine, which takes 64.
pub const MAX_GROUP_DEPTH: usize = 50;

/// A part of an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Node {
    /// One of a set of code units.
    One(Units),
    /// A code unit.
    Unit(u16),
    /// `^`
    Start,
    /// `$`
    End,
    /// `\b`, `\B`
    Boundary {
        /// Whether it is `\B`.
        negated: bool,
    },
    /// `(…)`, with its number.
    Capture(usize, Box<Node>),
    /// `(?=…)` and its like.
    Look {
        /// Whether it looks at what comes before.
        behind: bool,
        /// Whether it must not match.
        negated: bool,
        /// What is looked for.
        node: Box<Node>,
    },
    /// `\1`
    Reference(usize),
    /// `*` and its like.
    Repeat {
        /// What is repeated.
        node: Box<Node>,
        /// How often at least.
        min: u32,
        /// How often at most.
        max: Option<u32>,
        /// Whether less is preferred.
        lazy: bool,
    },
    /// One after the other.
    Sequence(Vec<Node>),
    /// One of these.
    Choice(Vec<Node>),
}

impl Node {
    /// Whether it matches nothing but the empty text.
    fn is_empty(&self) -> bool {
        match self {
            Self::One(_) | Self::Unit(_) | Self::Reference(_) => false,
            Self::Start | Self::End | Self::Boundary { .. } | Self::Look { .. } => true,
            Self::Capture(_, node) | Self::Repeat { node, .. } => node.is_empty(),
            Self::Sequence(nodes) | Self::Choice(nodes) => nodes.iter().all(Self::is_empty),
        }
    }
}

/// Parses an expression. With `ignore_case` its units are canonical, and it has to be searched in such text.
///
/// # Errors
/// When it is none, or is nested too deeply.
pub fn parse(source: &str, ignore_case: bool) -> Result<Node, PatternFault> {
    let units: Vec<u16> = source.encode_utf16().collect();
    let (captures, names) = count_captures(&units)?;
    let mut parser = Parser { units: &units, at: 0, ignore_case, captures, names, opened: 0 };
    let node = parser.choice(0)?;
    match parser.peek() {
        None => Ok(node),
        Some(_) => Err(PatternFault::UnmatchedClose),
    }
}

const fn unit(c: char) -> u16 {
    c as u16
}

/// How many groups capture, and the names of those that have one, each with its number.
fn count_captures(units: &[u16]) -> Result<(usize, Vec<(String, usize)>), PatternFault> {
    let (mut count, mut names) = (0, Vec::new());
    let mut parser = Parser { units, at: 0, ignore_case: false, captures: 0, names: Vec::new(), opened: 0 };
    let mut in_class = false;
    while let Some(next) = parser.next() {
        match char::from_u32(next.into()) {
            Some('\\') => drop(parser.next()),
            Some('[') => in_class = true,
            Some(']') => in_class = false,
            Some('(') if !in_class => {
                if !parser.take("?") {
                    count += 1;
                } else if parser.take("<") && !parser.looks_at("=") && !parser.looks_at("!") {
                    count += 1;
                    let name = parser.name()?;
                    if names.iter().any(|(known, _)| *known == name) {
                        return Err(PatternFault::DuplicateName);
                    }
                    names.push((name, count));
                }
            }
            _ => {}
        }
    }
    Ok((count, names))
}

struct Parser<'a> {
    units: &'a [u16],
    /// The next unit.
    at: usize,
    ignore_case: bool,
    /// Groups of the whole expression that capture.
    captures: usize,
    /// Their names, with their numbers.
    names: Vec<(String, usize)>,
    /// Groups so far that capture.
    opened: usize,
}

impl Parser<'_> {
    fn peek(&self) -> Option<u16> {
        self.units.get(self.at).copied()
    }

    fn next(&mut self) -> Option<u16> {
        let next = self.peek()?;
        self.at += 1;
        Some(next)
    }

    fn looks_at(&self, token: &str) -> bool {
        let rest = self.units.get(self.at..).unwrap_or_default();
        token.encode_utf16().enumerate().all(|(at, unit)| rest.get(at) == Some(&unit))
    }

    fn take(&mut self, token: &str) -> bool {
        let found = self.looks_at(token);
        if found {
            self.at += token.len();
        }
        found
    }

    fn unit(&self, unit: u16) -> Node {
        Node::Unit(if self.ignore_case { case::canonical(unit) } else { unit })
    }

    fn folded(&self, units: Units) -> Units {
        if self.ignore_case { units.with_canonical() } else { units }
    }

    fn choice(&mut self, depth: usize) -> Result<Node, PatternFault> {
        let mut choices = vec![self.sequence(depth)?];
        while self.take("|") {
            choices.push(self.sequence(depth)?);
        }
        Ok(match <[Node; 1]>::try_from(choices) {
            Ok([only]) => only,
            Err(choices) => Node::Choice(choices),
        })
    }

    fn sequence(&mut self, depth: usize) -> Result<Node, PatternFault> {
        let mut nodes = Vec::new();
        while self.peek().is_some_and(|next| next != unit('|') && next != unit(')')) {
            nodes.push(self.piece(depth)?);
        }
        Ok(Node::Sequence(nodes))
    }

    /// An atom or an assertion, with its quantifier.
    fn piece(&mut self, depth: usize) -> Result<Node, PatternFault> {
        let node = self.atom(depth)?;
        // A brace that begins no quantifier is a character.
        let Some((min, max)) = self.quantifier() else { return Ok(node) };
        let repeatable = !matches!(
            node,
            Node::Start | Node::End | Node::Boundary { .. } | Node::Look { behind: true, .. }
        );
        if !repeatable {
            return Err(PatternFault::NothingToRepeat);
        }
        if max.is_some_and(|max| max < min) {
            return Err(PatternFault::QuantifierOrder);
        }
        let lazy = self.take("?");
        Ok(match (node.is_empty(), min) {
            // A round beyond those that must be is not taken when it is empty, and its captures with it.
            (true, 0) => Node::Sequence(Vec::new()),
            (true, _) => node,
            (false, _) => Node::Repeat { node: Box::new(node), min, max, lazy },
        })
    }

    /// How often at least and at most.
    fn quantifier(&mut self) -> Option<(u32, Option<u32>)> {
        let begin = self.at;
        let found = match self.next().and_then(|next| char::from_u32(next.into())) {
            Some('*') => Some((0, None)),
            Some('+') => Some((1, None)),
            Some('?') => Some((0, Some(1))),
            Some('{') => self.braces(),
            _ => None,
        };
        if found.is_none() {
            self.at = begin;
        }
        found
    }

    fn braces(&mut self) -> Option<(u32, Option<u32>)> {
        let min = self.decimal()?;
        let max = match self.take(",") {
            true if self.looks_at("}") => None,
            true => Some(self.decimal()?),
            false => Some(min),
        };
        self.take("}").then_some((min, max))
    }

    /// Decimal digits, at least one; beyond what fits they are the largest number.
    fn decimal(&mut self) -> Option<u32> {
        let mut value: Option<u32> = None;
        while let Some(digit) = self.digit(10) {
            value = Some(value.unwrap_or(0).saturating_mul(10).saturating_add(digit));
        }
        value
    }

    fn digit(&mut self, radix: u32) -> Option<u32> {
        let digit = char::from_u32(self.peek()?.into())?.to_digit(radix)?;
        self.at += 1;
        Some(digit)
    }

    fn atom(&mut self, depth: usize) -> Result<Node, PatternFault> {
        let begin = self.at;
        let Some(next) = self.next() else { return Ok(Node::Sequence(Vec::new())) };
        Ok(match char::from_u32(next.into()) {
            Some('^') => Node::Start,
            Some('$') => Node::End,
            Some('.') => Node::One(Units::line_ends().complement()),
            Some('(') => self.group(depth)?,
            Some('[') => Node::One(self.class()?),
            Some('\\') => self.escape()?,
            Some('*' | '+' | '?') => return Err(PatternFault::NothingToRepeat),
            Some('{') => {
                self.at = begin;
                if self.quantifier().is_some() {
                    return Err(PatternFault::NothingToRepeat);
                }
                self.at = begin + 1;
                Node::Unit(next)
            }
            _ => self.unit(next),
        })
    }

    fn group(&mut self, depth: usize) -> Result<Node, PatternFault> {
        if depth >= MAX_GROUP_DEPTH {
            return Err(PatternFault::TooDeep);
        }
        let look = |behind, negated| Some((behind, negated));
        let mut number = None;
        let looks = if self.take("?=") {
            look(false, false)
        } else if self.take("?!") {
            look(false, true)
        } else if self.take("?<=") {
            look(true, false)
        } else if self.take("?<!") {
            look(true, true)
        } else {
            if self.take("?:") {
                // It only groups.
            } else if self.take("?<") {
                self.name()?;
                self.opened += 1;
                number = Some(self.opened);
            } else if self.looks_at("?") {
                return Err(PatternFault::InvalidGroup);
            } else {
                self.opened += 1;
                number = Some(self.opened);
            }
            None
        };
        let node = Box::new(self.choice(depth + 1)?);
        if !self.take(")") {
            return Err(PatternFault::UnterminatedGroup);
        }
        Ok(match (looks, number) {
            (Some((behind, negated)), _) => Node::Look { behind, negated, node },
            (None, Some(number)) => Node::Capture(number, node),
            (None, None) => *node,
        })
    }

    /// A group's name and the bracket after it.
    fn name(&mut self) -> Result<String, PatternFault> {
        let rest = self.units.get(self.at..).unwrap_or_default();
        let len = rest.iter().position(|next| *next == unit('>')).ok_or(PatternFault::InvalidName)?;
        let name = rest.get(..len).and_then(|name| String::from_utf16(name).ok());
        let begins = |c: char| c.is_alphabetic() || matches!(c, '_' | '$');
        let name = name.filter(|name| {
            name.starts_with(begins) && name.chars().all(|c| begins(c) || c.is_alphanumeric())
        });
        self.at += len + 1;
        name.ok_or(PatternFault::InvalidName)
    }

    /// What follows a backslash outside of a class.
    fn escape(&mut self) -> Result<Node, PatternFault> {
        let begin = self.at;
        match self.peek().and_then(|next| char::from_u32(next.into())) {
            None if self.peek().is_none() => return Err(PatternFault::LastBackslash),
            Some('b' | 'B') => {
                let negated = self.next() == Some(unit('B'));
                return Ok(Node::Boundary { negated });
            }
            Some('1'..='9') => {
                let number = self.decimal().and_then(|number| usize::try_from(number).ok());
                if let Some(number) = number.filter(|number| *number <= self.captures) {
                    return Ok(Node::Reference(number));
                }
                self.at = begin;
            }
            Some('k') if !self.names.is_empty() => {
                self.at += 1;
                let name = if self.take("<") { self.name().ok() } else { None };
                let number = name.and_then(|name| self.names.iter().find(|(known, _)| *known == name));
                return number
                    .map(|(_, number)| Node::Reference(*number))
                    .ok_or(PatternFault::InvalidReference);
            }
            _ => {}
        }
        match self.class_escape() {
            Some(units) => Ok(Node::One(self.folded(units))),
            None => {
                let escaped = self.character_escape(false).unwrap_or(unit('\\'));
                Ok(self.unit(escaped))
            }
        }
    }

    /// `\d` and its like.
    fn class_escape(&mut self) -> Option<Units> {
        let set = match char::from_u32(self.peek()?.into())? {
            'd' => Units::digits(),
            'D' => Units::digits().complement(),
            'w' => Units::word(),
            'W' => Units::word().complement(),
            's' => Units::white_space(),
            'S' => Units::white_space().complement(),
            _ => return None,
        };
        self.at += 1;
        Some(set)
    }

    /// The code unit that an escape means. Nothing, and nothing taken, where the backslash is one itself.
    fn character_escape(&mut self, in_class: bool) -> Option<u16> {
        let begin = self.at;
        let next = self.next()?;
        let hex = |parser: &mut Self, digits: u32| {
            let begin = parser.at;
            let value = (0..digits).try_fold(0, |value, _| Some(value * 16 + parser.digit(16)?));
            if value.is_none() {
                parser.at = begin;
            }
            value.and_then(|value| u16::try_from(value).ok())
        };
        Some(match char::from_u32(next.into()) {
            Some('t') => 0x09,
            Some('n') => 0x0A,
            Some('v') => 0x0B,
            Some('f') => 0x0C,
            Some('r') => 0x0D,
            Some('b') if in_class => 0x08,
            Some('c') => match self.peek().and_then(|next| char::from_u32(next.into())) {
                Some(c) if c.is_ascii_alphabetic() || (in_class && (c.is_ascii_digit() || c == '_')) => {
                    self.next()? % 32
                }
                _ => {
                    self.at = begin;
                    return None;
                }
            },
            Some('x') => hex(self, 2).unwrap_or(next),
            Some('u') => hex(self, 4).unwrap_or(next),
            Some('0'..='7') => {
                self.at = begin;
                self.octal()
            }
            _ => next,
        })
    }

    /// Up to three octal digits that fit into a byte.
    fn octal(&mut self) -> u16 {
        let mut value = 0;
        for _ in 0..3 {
            let begin = self.at;
            match self.digit(8) {
                Some(digit) if value * 8 + digit <= 0o377 => value = value * 8 + digit,
                _ => {
                    self.at = begin;
                    break;
                }
            }
        }
        u16::try_from(value).unwrap_or_default()
    }

    /// A class, after its opening bracket.
    fn class(&mut self) -> Result<Units, PatternFault> {
        let negated = self.take("^");
        let mut ranges = Vec::new();
        loop {
            if self.take("]") {
                let units = Units::of(ranges);
                let units = self.folded(units);
                return Ok(if negated { units.complement() } else { units });
            }
            let first = self.class_atom()?;
            // A hyphen at the end is a character, and so is one beside a set.
            let ranged =
                self.looks_at("-") && self.units.get(self.at + 1).is_some_and(|next| *next != unit(']'));
            if !ranged {
                ranges.extend_from_slice(first.ranges());
                continue;
            }
            self.at += 1;
            let last = self.class_atom()?;
            match (first.single(), last.single()) {
                (Some(first), Some(last)) if first <= last => ranges.push((first, last)),
                (Some(_), Some(_)) => return Err(PatternFault::ClassOrder),
                _ => {
                    ranges.extend_from_slice(first.ranges());
                    ranges.extend_from_slice(last.ranges());
                    ranges.push((unit('-'), unit('-')));
                }
            }
        }
    }

    fn class_atom(&mut self) -> Result<Member, PatternFault> {
        let next = self.next().ok_or(PatternFault::UnterminatedClass)?;
        if next != unit('\\') {
            return Ok(Member::Unit([(next, next)]));
        }
        if self.peek().is_none() {
            return Err(PatternFault::LastBackslash);
        }
        Ok(match self.class_escape() {
            Some(units) => Member::Set(units),
            None => {
                let one = self.character_escape(true).unwrap_or(unit('\\'));
                Member::Unit([(one, one)])
            }
        })
    }
}

/// A member of a class.
enum Member {
    Unit([(u16, u16); 1]),
    Set(Units),
}

impl Member {
    fn single(&self) -> Option<u16> {
        match self {
            Self::Unit([(unit, _)]) => Some(*unit),
            Self::Set(_) => None,
        }
    }

    fn ranges(&self) -> &[(u16, u16)] {
        match self {
            Self::Unit(range) => range,
            Self::Set(units) => units.ranges(),
        }
    }
}
