//! What a term is applied to: a JSON value, a part of one that is none itself, or nothing.

use serde_json::{Map, Value};

use super::number::number;

/// The largest number of members that an object can claim to have: 2^53 - 1.
const MAX_LENGTH: f64 = 9_007_199_254_740_991.0;

/// What a term is applied to.
#[derive(Debug, Clone, Copy)]
pub enum Item<'a> {
    /// A member that is not there.
    Missing,
    /// JSON's null.
    Null,
    /// A boolean.
    Bool(bool),
    /// A number, as a double.
    Number(f64),
    /// A string, or one code unit of it.
    Text(&'a str),
    /// An array.
    Array(&'a [Value]),
    /// An object.
    Object(&'a Map<String, Value>),
}

impl<'a> Item<'a> {
    /// A JSON value.
    pub fn of(value: &'a Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(flag) => Self::Bool(*flag),
            Value::Number(number) => Self::Number(number.as_f64().unwrap_or(f64::NAN)),
            Value::String(text) => Self::Text(text),
            Value::Array(list) => Self::Array(list),
            Value::Object(members) => Self::Object(members),
        }
    }

    /// The member of that name: an index or `length` where it is a string or an array.
    pub fn member(self, name: &str) -> Self {
        match self {
            Self::Missing | Self::Null | Self::Bool(_) | Self::Number(_) => Self::Missing,
            Self::Text(text) if name == "length" => Self::Number(text.encode_utf16().count() as f64),
            Self::Text(text) => {
                index(name).and_then(|index| unit(text, index)).map_or(Self::Missing, Self::Text)
            }
            Self::Array(list) if name == "length" => Self::Number(list.len() as f64),
            Self::Array(list) => {
                index(name).and_then(|index| list.get(index)).map_or(Self::Missing, Self::of)
            }
            Self::Object(members) => members.get(name).map_or(Self::Missing, Self::of),
        }
    }

    /// Whether ECMAScript takes it for true.
    pub fn is_truthy(self) -> bool {
        match self {
            Self::Missing | Self::Null => false,
            Self::Bool(flag) => flag,
            Self::Number(number) => number != 0.0 && !number.is_nan(),
            Self::Text(text) => !text.is_empty(),
            Self::Array(_) | Self::Object(_) => true,
        }
    }

    /// As a number, NaN where it is none.
    pub fn coerced(self) -> f64 {
        match self {
            Self::Missing | Self::Object(_) => f64::NAN,
            Self::Null => 0.0,
            Self::Bool(flag) => f64::from(u8::from(flag)),
            Self::Number(number) => number,
            Self::Text(text) => number(text),
            Self::Array(list) => coerced_array(list),
        }
    }
}

/// An array's elements joined with commas, as a number: with a comma in it, it is none.
fn coerced_array(mut list: &[Value]) -> f64 {
    loop {
        match list {
            [] | [Value::Null] => return 0.0,
            [Value::Array(inner)] => list = inner,
            // As text these are `true` and `false`.
            [Value::Bool(_)] => return f64::NAN,
            [one] => return Item::of(one).coerced(),
            _ => return f64::NAN,
        }
    }
}

/// A name that is an index: decimal, as short as it can be.
fn index(name: &str) -> Option<usize> {
    let is_index = name == "0" || (name.starts_with(|c: char| c.is_ascii_digit()) && !name.starts_with('0'));
    // Digits followed by something else do not parse.
    if is_index { name.parse().ok() } else { None }
}

/// The UTF-16 code unit at an index. Half of a pair cannot be told in UTF-8: it is the replacement character.
fn unit(text: &str, index: usize) -> Option<&str> {
    let mut units = 0;
    for (at, c) in text.char_indices() {
        if units + c.len_utf16() > index {
            return if c.len_utf16() == 1 { text.get(at..at + c.len_utf8()) } else { Some("\u{fffd}") };
        }
        units += c.len_utf16();
    }
    None
}

/// The values in an object that a word searches: all, but where a member `length` makes the object look like an
/// array, those with an index below it.
pub fn searched(members: &Map<String, Value>) -> impl Iterator<Item = &Value> {
    let length = members.get("length").and_then(Value::as_f64);
    let length = length.filter(|length| (0.0..=MAX_LENGTH).contains(length) && length.fract() == 0.0);
    members
        .iter()
        .filter(move |(name, _)| {
            length.is_none_or(|length| index(name).is_some_and(|index| (index as f64) < length))
        })
        .map(|(_, value)| value)
}
