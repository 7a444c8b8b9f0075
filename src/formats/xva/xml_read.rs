//! Reads the text of an XML-RPC value. Types are those that xapi writes, and the ones that it takes besides (`int`,
//! `string`, `nil`); what stands untyped is text, with its white space.
//!
//! Nesting is kept on a list and not on the stack. The number of values is bounded, so that a text of many empty ones
//! takes no more memory than a text of long ones. Nothing is declared in the text and nothing beyond it is looked at.

use quick_xml::Reader;
use quick_xml::errors::{Error, IllFormedError, SyntaxError};
use quick_xml::events::{BytesRef, BytesStart, Event};

use super::error::{Quoted, Rule, XvaError};
use super::{Record, Value};

/// Elements that may be open at once. The documents of xapi have 15.
const MAX_DEPTH: usize = 64;

/// Values in a text. A VM of a hundred disks has some ten thousand.
const MAX_VALUES: u32 = 1 << 19;

/// Reads a text that is one value.
pub(super) fn read_value(bytes: &[u8]) -> Result<Value, XvaError> {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(error) => {
            let at = error.valid_up_to();
            let byte = bytes.get(at).copied().unwrap_or_default();
            return Err(fault(bytes, Rule::X1, at as u64, "UTF-8", format!("byte {byte:#04x}")));
        }
    };
    Parser::new(text).read()
}

/// An element that is open, with what was found in it.
enum Element {
    Value { text: String, inner: Option<Value> },
    Scalar { kind: Scalar, text: String },
    Struct(Record),
    Member { name: Option<String>, value: Option<Value> },
    Name(String),
    Array(Option<Vec<Value>>),
    Data(Vec<Value>),
}

#[derive(Clone, Copy)]
enum Scalar {
    Text,
    Int,
    Bool,
    Double,
    Date,
    Nil,
}

impl Element {
    /// The element of a name, if it may stand there; the words for what may.
    fn inside(parent: Option<&Self>, name: &str, read: bool) -> Result<Self, &'static str> {
        let value = || Self::Value { text: String::new(), inner: None };
        let scalar = |kind| Self::Scalar { kind, text: String::new() };
        Ok(match (parent, name) {
            (None, "value") if !read => value(),
            (None, _) if read => return Err("the end"),
            (None, _) => return Err("<value>"),
            (Some(Self::Value { inner: None, text }), _) if is_white(text) => match name {
                "string" => scalar(Scalar::Text),
                "i4" | "int" | "i8" => scalar(Scalar::Int),
                "boolean" => scalar(Scalar::Bool),
                "double" => scalar(Scalar::Double),
                "dateTime.iso8601" => scalar(Scalar::Date),
                "nil" => scalar(Scalar::Nil),
                "struct" => Self::Struct(Record::new()),
                "array" => Self::Array(None),
                _ => return Err("a type of XML-RPC"),
            },
            (Some(Self::Value { .. }), _) => return Err("</value>"),
            (Some(Self::Struct(_)), "member") => Self::Member { name: None, value: None },
            (Some(Self::Struct(_)), _) => return Err("<member>"),
            (Some(Self::Member { name: None, .. }), "name") => Self::Name(String::new()),
            (Some(Self::Member { value: None, .. }), "value") => value(),
            (Some(Self::Member { .. }), _) => return Err("one <name> and one <value>"),
            (Some(Self::Array(None)), "data") => Self::Data(Vec::new()),
            (Some(Self::Array(_)), _) => return Err("one <data>"),
            (Some(Self::Data(_)), "value") => value(),
            (Some(Self::Data(_)), _) => return Err("<value>"),
            (Some(Self::Scalar { .. } | Self::Name(_)), _) => return Err("text"),
        })
    }

    /// Where text that stands in the element goes; none where only white space may stand.
    fn text(&mut self) -> Option<&mut String> {
        match self {
            Self::Value { text, inner: None } | Self::Scalar { text, .. } | Self::Name(text) => Some(text),
            _ => None,
        }
    }
}

impl Scalar {
    /// The value of a text; what it should be, if it is not.
    fn value(self, text: String) -> Result<Value, (&'static str, String)> {
        let trimmed = text.trim();
        match self {
            Self::Text => Ok(Value::Text(text)),
            Self::Date => Ok(Value::Date(text)),
            Self::Int if trimmed.parse::<i64>().is_ok() => Ok(Value::Text(trimmed.to_owned())),
            Self::Int => Err(("an integer of 64 bits", text)),
            Self::Bool if trimmed == "0" => Ok(Value::Bool(false)),
            Self::Bool if trimmed == "1" => Ok(Value::Bool(true)),
            Self::Bool => Err(("0 or 1", text)),
            Self::Double if trimmed.parse::<f64>().is_ok() => Ok(Value::Double(text)),
            Self::Double => Err(("a number", text)),
            Self::Nil if trimmed.is_empty() => Ok(Value::Text(String::new())),
            Self::Nil => Err(("nothing", text)),
        }
    }
}

struct Parser<'a> {
    /// The text, with its byte order mark.
    text: &'a str,
    /// Bytes of that mark.
    mark: u64,
    reader: Reader<&'a [u8]>,
    open: Vec<Element>,
    values: u32,
    root: Option<Value>,
    /// Where the present event begins.
    at: u64,
}

impl<'a> Parser<'a> {
    fn new(text: &'a str) -> Self {
        let body = text.strip_prefix('\u{FEFF}').unwrap_or(text);
        let mark = (text.len() - body.len()) as u64;
        Self { text, mark, reader: Reader::from_str(body), open: Vec::new(), values: 0, root: None, at: mark }
    }

    fn read(mut self) -> Result<Value, XvaError> {
        loop {
            self.at = self.mark + self.reader.buffer_position();
            let event = self.reader.read_event().map_err(|error| self.malformed(error))?;
            match event {
                Event::Start(start) => self.start(&start)?,
                Event::Empty(start) => {
                    self.start(&start)?;
                    self.end()?;
                }
                Event::End(_) => self.end()?,
                Event::Text(text) => self.add(&text.xml10_content())?,
                Event::CData(text) => self.add(&text.xml10_content())?,
                Event::GeneralRef(reference) => {
                    let character = self.resolve(&reference)?;
                    self.add(character.encode_utf8(&mut [0; 4]))?;
                }
                Event::Comment(_) | Event::PI(_) => {}
                Event::DocType(_) => return Err(self.doctype()),
                Event::Decl(declaration) => {
                    if self.at != self.mark {
                        return Err(self.wrong(
                            Rule::X1,
                            "an XML declaration only at the start",
                            "a later one",
                        ));
                    }
                    let encoding = declaration.encoding().and_then(Result::ok).unwrap_or("UTF-8".into());
                    let known =
                        ["utf-8", "utf8", "us-ascii"].iter().any(|name| name.eq_ignore_ascii_case(&encoding));
                    if !known {
                        return Err(self.wrong(Rule::X1, "the encoding UTF-8", Quoted::new(&*encoding)));
                    }
                }
                Event::Eof => break,
            }
        }
        match (self.open.is_empty(), self.root.take()) {
            (true, Some(root)) => Ok(root),
            (true, None) => Err(self.wrong(Rule::X2, "<value>", "the end of the text")),
            (false, _) => Err(self.wrong(Rule::X1, "the end of each element", "the end of the text")),
        }
    }

    fn start(&mut self, start: &BytesStart<'_>) -> Result<(), XvaError> {
        if self.open.len() >= MAX_DEPTH {
            let expected = format!("at most {MAX_DEPTH} elements inside of each other");
            return Err(self.wrong(Rule::X1, expected, "one more"));
        }
        let name = start.name();
        if !is_white(start.attributes_raw()) {
            let found = format!("attributes of {}", Quoted::new(name.as_ref()));
            return Err(self.wrong(Rule::X2, "an element without attributes", found));
        }
        let element =
            Element::inside(self.open.last(), name.as_ref(), self.root.is_some()).map_err(|expected| {
                self.wrong(Rule::X2, expected, format!("the element {}", Quoted::new(name.as_ref())))
            })?;
        if matches!(element, Element::Value { .. }) {
            self.values += 1;
            if self.values > MAX_VALUES {
                return Err(self.wrong(Rule::X1, format!("at most {MAX_VALUES} values"), "one more"));
            }
        }
        self.open.push(element);
        Ok(())
    }

    fn end(&mut self) -> Result<(), XvaError> {
        let value = match (self.open.pop(), self.open.last_mut()) {
            (Some(Element::Name(text)), Some(Element::Member { name, .. })) => {
                *name = Some(text);
                return Ok(());
            }
            (Some(Element::Data(items)), Some(Element::Array(data))) => {
                *data = Some(items);
                return Ok(());
            }
            (
                Some(Element::Member { name: Some(name), value: Some(value) }),
                Some(Element::Struct(record)),
            ) => {
                record.push(name, value);
                return Ok(());
            }
            (Some(Element::Value { text, inner }), _) => inner.unwrap_or(Value::Text(text)),
            (Some(Element::Struct(record)), _) => Value::Struct(record),
            (Some(Element::Array(Some(items))), _) => Value::Array(items),
            (Some(Element::Scalar { kind, text }), _) => kind
                .value(text)
                .map_err(|(expected, found)| self.wrong(Rule::X2, expected, Quoted::new(found)))?,
            (Some(Element::Array(None)), _) => {
                return Err(self.wrong(Rule::X2, "<data>", "an <array> without"));
            }
            (Some(Element::Member { .. }), _) => {
                return Err(self.wrong(Rule::X2, "<name> and <value>", "a <member> without"));
            }
            _ => return Err(self.wrong(Rule::X1, "the end of the element that is open", "another end")),
        };
        match self.open.last_mut() {
            Some(Element::Value { inner, .. }) => *inner = Some(value),
            Some(Element::Member { value: slot, .. }) => *slot = Some(value),
            Some(Element::Data(items)) => items.push(value),
            _ => self.root = Some(value),
        }
        Ok(())
    }

    /// Adds text to the element that is open.
    fn add(&mut self, text: &str) -> Result<(), XvaError> {
        if let Some(character) = text.chars().find(|&character| !is_allowed(character)) {
            return Err(self.wrong(Rule::X1, "a character of XML", format!("{:?}", character)));
        }
        match self.open.last_mut().and_then(Element::text) {
            Some(place) => place.push_str(text),
            None if is_white(text) => {}
            None => return Err(self.wrong(Rule::X2, "an element", Quoted::new(text))),
        }
        Ok(())
    }

    /// The character that a reference stands for.
    fn resolve(&self, reference: &BytesRef<'_>) -> Result<char, XvaError> {
        let known = match &**reference {
            "lt" => Some('<'),
            "gt" => Some('>'),
            "amp" => Some('&'),
            "quot" => Some('"'),
            "apos" => Some('\''),
            _ => reference.resolve_char_ref().ok().flatten(),
        };
        known.ok_or_else(|| {
            let expected = "a character's number or one of the five names lt, gt, amp, quot, apos";
            self.wrong(Rule::X1, expected, format!("the reference {}", Quoted::new(&**reference)))
        })
    }

    fn malformed(&self, error: Error) -> XvaError {
        let at = self.mark + self.reader.error_position();
        let rest = usize::try_from(at).ok().and_then(|at| self.text.get(at..)).unwrap_or_default();
        if matches!(error, Error::Syntax(SyntaxError::UnclosedDoctype)) || rest.starts_with("<!ENTITY") {
            return self.doctype();
        }
        let (expected, found) = match &error {
            Error::IllFormed(IllFormedError::MismatchedEndTag { expected, found }) => (
                format!("the end of {}", Quoted::new(expected)),
                format!("the end of {}", Quoted::new(found)),
            ),
            Error::IllFormed(IllFormedError::UnmatchedEndTag(found)) => {
                ("an element".into(), format!("the end of {}", Quoted::new(found)))
            }
            error => ("well-formed XML".into(), Quoted::new(error.to_string()).to_string()),
        };
        fault(self.text.as_bytes(), Rule::X1, at, expected, found)
    }

    fn doctype(&self) -> XvaError {
        self.wrong(Rule::X0, "no document type and no entities", "their declaration")
    }

    /// A fault at the present event.
    fn wrong(&self, rule: Rule, expected: impl ToString, found: impl ToString) -> XvaError {
        fault(self.text.as_bytes(), rule, self.at, expected, found)
    }
}

fn fault(text: &[u8], rule: Rule, at: u64, expected: impl ToString, found: impl ToString) -> XvaError {
    let before = usize::try_from(at).ok().and_then(|at| text.get(..at)).unwrap_or(text);
    let line = before.iter().filter(|&&byte| byte == b'\n').count() as u64 + 1;
    XvaError::Xml { rule, line, offset: at, expected: expected.to_string(), found: found.to_string() }
}

/// XML's white space.
fn is_white(text: &str) -> bool {
    text.bytes().all(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n'))
}

/// Whether XML 1.0 lets a character be written, in whatever way.
fn is_allowed(character: char) -> bool {
    matches!(character, '\t' | '\n' | '\r' | ' '..) && !matches!(character, '\u{FFFE}' | '\u{FFFF}')
}

#[cfg(test)]
mod tests;
