//! The members of a tar stream: their names with the extension headers put to use, and their bytes.

use bytes::Bytes;

use super::super::error::{Quoted, Rule, XvaError};
use super::super::tar_read::{Header, Kind, PaxRecords, RECORD, is_zero};
use crate::formats::input::Input;

/// Longest body of an extension header that is read, in bytes.
const MAX_EXTENSION: u64 = 64 << 10;

/// Extension headers that may come in a row.
const MAX_EXTENSIONS: u32 = 16;

/// What comes next in a tar stream.
#[derive(Debug)]
pub(super) enum Token {
    /// A member begins.
    Member(Member),
    /// Bytes of the member; never empty.
    Body(Bytes),
    /// The member has been read, with its padding. Comes also when it is empty.
    BodyEnd,
    /// A zero record, which says that no member follows.
    End,
}

/// A member of which the header has been read.
#[derive(Debug, Clone)]
pub(super) struct Member {
    pub(super) name: Vec<u8>,
    /// Where its header begins.
    pub(super) offset: u64,
    /// Its bytes.
    pub(super) size: u64,
}

impl Member {
    /// A fault of the member, at its header.
    pub(super) fn wrong(
        &self,
        rule: Rule,
        field: &'static str,
        expected: impl ToString,
        found: impl ToString,
    ) -> XvaError {
        self.wrong_at(self.offset, rule, field, expected, found)
    }

    /// A fault of the member, at that byte of the stream.
    pub(super) fn wrong_at(
        &self,
        offset: u64,
        rule: Rule,
        field: &'static str,
        expected: impl ToString,
        found: impl ToString,
    ) -> XvaError {
        let [expected, found] = [expected.to_string(), found.to_string()];
        XvaError::Member { rule, field, member: Quoted::new(&self.name), offset, expected, found }
    }
}

/// Reads a tar stream. Keeps a header, the body of an extension header, and the name that it gave.
#[derive(Debug, Default)]
pub(super) struct Members {
    state: State,
    /// Whether a member has begun: the first may have no extension header.
    begun: bool,
    /// The names of the last header, for messages.
    last: Option<Member>,
    /// What extension headers said of the next member.
    name: Option<Vec<u8>>,
    size: Option<u64>,
    /// How many of them came in a row.
    extensions: u32,
}

#[derive(Debug)]
enum State {
    /// A header, as far as it has come.
    Header(Vec<u8>),
    /// The body of a member, with what is left of it and of the padding behind it.
    Body { left: u64, padding: u64 },
    /// The body of an extension header.
    Extension { kind: Kind, text: Vec<u8>, left: u64, padding: u64 },
}

impl Default for State {
    fn default() -> Self {
        Self::Header(Vec::new())
    }
}

impl Members {
    /// What comes next; `None` when more input is needed.
    pub(super) fn next(&mut self, input: &mut Input) -> Result<Option<Token>, XvaError> {
        loop {
            match &mut self.state {
                State::Header(record) => {
                    if !input.fill(record, RECORD) {
                        return Ok(None);
                    }
                    let record = std::mem::take(record);
                    if let Some(token) = self.header(&record, input.position() - RECORD as u64)? {
                        return Ok(Some(token));
                    }
                }
                State::Body { left, padding } => {
                    let body = input.take(*left);
                    *left -= body.len() as u64;
                    if !body.is_empty() {
                        return Ok(Some(Token::Body(body)));
                    }
                    *padding -= input.take(if *left == 0 { *padding } else { 0 }).len() as u64;
                    if *left > 0 || *padding > 0 {
                        return Ok(None);
                    }
                    self.state = State::default();
                    return Ok(Some(Token::BodyEnd));
                }
                State::Extension { kind, text, left, padding } => {
                    let body = input.take(*left);
                    *left -= body.len() as u64;
                    text.extend_from_slice(&body);
                    *padding -= input.take(if *left == 0 { *padding } else { 0 }).len() as u64;
                    if *left > 0 || *padding > 0 {
                        return Ok(None);
                    }
                    let (kind, text) = (*kind, std::mem::take(text));
                    self.state = State::default();
                    self.extend(kind, text)?;
                }
            }
        }
    }

    /// Reads a header; `None` when it is one of an extension.
    fn header(&mut self, record: &[u8], offset: u64) -> Result<Option<Token>, XvaError> {
        let Some(record) = record.first_chunk::<RECORD>() else { return Ok(None) };
        if is_zero(record) {
            return match self.last.as_ref().filter(|_| self.extensions > 0) {
                Some(member) => Err(member.wrong_at(offset, Rule::T5, "next member", "a header", "the end")),
                None => Ok(Some(Token::End)),
            };
        }
        let Header { name, size, kind } = Header::parse(record, offset)?;
        let mut member = Member { name, offset, size };
        let padding = |size: u64| size.wrapping_neg() % RECORD as u64;
        match kind {
            Kind::Other(flag) => {
                let found = format!("the type {}", Quoted::new([flag]));
                return Err(member.wrong_at(offset + 156, Rule::T4, "kind", "a regular file", found));
            }
            Kind::Regular => {
                member.name = self.name.take().unwrap_or(member.name);
                member.size = self.size.take().unwrap_or(member.size);
                self.extensions = 0;
                self.begun = true;
                self.last = Some(member.clone());
                self.state = State::Body { left: member.size, padding: padding(member.size) };
                return Ok(Some(Token::Member(member)));
            }
            _ if !self.begun => {
                return Err(member.wrong(Rule::O1, "header", "a plain one: the first", "an extension's"));
            }
            _ if size > MAX_EXTENSION => {
                let expected = format!("at most {MAX_EXTENSION} bytes");
                return Err(member.wrong(Rule::T5, "size", expected, size));
            }
            _ => {}
        }
        self.extensions += 1;
        if self.extensions > MAX_EXTENSIONS {
            let expected = format!("at most {MAX_EXTENSIONS} extension headers in a row");
            return Err(member.wrong(Rule::T5, "header", expected, "one more"));
        }
        self.last = Some(member);
        self.state = State::Extension { kind, text: Vec::new(), left: size, padding: padding(size) };
        Ok(None)
    }

    /// Puts the body of an extension header to use.
    fn extend(&mut self, kind: Kind, mut text: Vec<u8>) -> Result<(), XvaError> {
        match kind {
            Kind::LongName => {
                let end = text.iter().position(|&byte| byte == 0).unwrap_or(text.len());
                text.truncate(end);
                self.name = Some(text);
            }
            Kind::Pax => {
                let Some(records) = PaxRecords::parse(&text) else {
                    let member = self.last.clone().unwrap_or(Member { name: Vec::new(), offset: 0, size: 0 });
                    let expected = "lines of a length, a key and a value";
                    return Err(member.wrong(Rule::T5, "text", expected, Quoted::new(text)));
                };
                self.name = records.path.or(self.name.take());
                self.size = records.size.or(self.size);
            }
            _ => {}
        }
        Ok(())
    }

    /// Whether the stream may end here: behind a member, or within zeros.
    pub(super) fn is_between(&self) -> bool {
        self.extensions == 0 && matches!(&self.state, State::Header(record) if is_zero(record))
    }

    /// Why the stream may not end at byte `end`.
    pub(super) fn truncated(&self, end: u64) -> XvaError {
        let (place, expected) = match (&self.state, &self.last) {
            (State::Header(record), _) if !record.is_empty() => {
                ("a header".into(), format!("{} bytes more", RECORD - record.len()))
            }
            (State::Header(_), Some(last)) => {
                (format!("what {} announces", Quoted::new(&last.name)), "a member".into())
            }
            (State::Header(_), None) => ("nothing".into(), "a tar stream".into()),
            (State::Body { left, padding } | State::Extension { left, padding, .. }, last) => {
                let name = last.as_ref().map(|last| Quoted::new(&last.name).to_string()).unwrap_or_default();
                (name, format!("{} bytes more", left.saturating_add(*padding)))
            }
        };
        XvaError::Truncated { rule: Rule::T1, place, offset: end, expected }
    }
}
