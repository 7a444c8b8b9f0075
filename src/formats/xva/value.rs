//! Values of XML-RPC as they stand in an `ova.xml`, typed and kept as they came: what Gantry does not use is written
//! back as it was read.

use serde::{Deserialize, Serialize};

/// One XML-RPC value. Integers, enums and references are text: that is how xapi writes them and what every reader
/// takes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Value {
    /// Text: a string, an enum, a reference, an integer.
    #[serde(rename = "t")]
    Text(String),
    /// `<boolean>`, which readers do not take as text.
    #[serde(rename = "b")]
    Bool(bool),
    /// `<double>`, as it was written.
    #[serde(rename = "d")]
    Double(String),
    /// `<dateTime.iso8601>`, as it was written: `20260131T12:00:00Z`.
    #[serde(rename = "i")]
    Date(String),
    /// A set.
    #[serde(rename = "a")]
    Array(Vec<Value>),
    /// A map or a record.
    #[serde(rename = "s")]
    Struct(Record),
}

/// Named values, in the order in which they were written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Record(Vec<(String, Value)>);

impl Value {
    /// Text of anything that can be shown.
    pub fn text(text: impl ToString) -> Self {
        Self::Text(text.to_string())
    }

    /// The text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) | Self::Double(text) | Self::Date(text) => Some(text),
            _ => None,
        }
    }

    /// The whole number that its text is.
    pub fn as_i64(&self) -> Option<i64> {
        self.as_text()?.trim().parse().ok()
    }

    /// The boolean.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(is) => Some(*is),
            _ => None,
        }
    }

    /// The members of a set; none for anything else.
    pub fn items(&self) -> &[Value] {
        match self {
            Self::Array(items) => items,
            _ => &[],
        }
    }

    /// The members of a map or record.
    pub fn as_record(&self) -> Option<&Record> {
        match self {
            Self::Struct(record) => Some(record),
            _ => None,
        }
    }
}

impl Record {
    /// An empty one.
    pub fn new() -> Self {
        Self::default()
    }

    /// The member of a name; the last one, if it stands there several times.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().rev().find(|(member, _)| member == name).map(|(_, value)| value)
    }

    /// The text of a member; empty when it is not there or is no text.
    pub fn text(&self, name: &str) -> &str {
        self.get(name).and_then(Value::as_text).unwrap_or_default()
    }

    /// The number of a member.
    pub fn number(&self, name: &str) -> Option<i64> {
        self.get(name).and_then(Value::as_i64)
    }

    /// The boolean of a member; false when it is not there or is none.
    pub fn flag(&self, name: &str) -> bool {
        self.get(name).and_then(Value::as_bool).unwrap_or(false)
    }

    /// The members of a map; none when it is not there.
    pub fn map(&self, name: &str) -> impl Iterator<Item = (&str, &Value)> {
        self.get(name).and_then(Value::as_record).into_iter().flat_map(Record::iter)
    }

    /// Gives a member a value: in the place of the one that it had, else at the end.
    pub fn set(&mut self, name: &str, value: Value) {
        match self.0.iter_mut().rev().find(|(member, _)| member == name) {
            Some((_, old)) => *old = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    /// Gives a member a value unless it has one.
    pub fn set_default(&mut self, name: &str, value: Value) {
        if self.get(name).is_none() {
            self.0.push((name.to_owned(), value));
        }
    }

    /// Adds a member at the end, whatever is there.
    pub fn push(&mut self, name: String, value: Value) {
        self.0.push((name, value));
    }

    /// Removes a member.
    pub fn remove(&mut self, name: &str) {
        self.0.retain(|(member, _)| member != name);
    }

    /// All members, in their order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Value)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value))
    }

    /// All members, to be changed.
    pub fn iter_mut(&mut self) -> impl Iterator<Item = (&str, &mut Value)> {
        self.0.iter_mut().map(|(name, value)| (name.as_str(), value))
    }

    /// Number of members.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether it has none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl<N: Into<String>> FromIterator<(N, Value)> for Record {
    fn from_iter<I: IntoIterator<Item = (N, Value)>>(members: I) -> Self {
        Self(members.into_iter().map(|(name, value)| (name.into(), value)).collect())
    }
}

impl IntoIterator for Record {
    type Item = (String, Value);
    type IntoIter = std::vec::IntoIter<(String, Value)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_stored_of_a_record_is_read_back_as_it_was() {
        let inner: Record =
            [("b", Value::Bool(true)), ("d", Value::Double("1.50".into()))].into_iter().collect();
        let mut record: Record =
            [("z", Value::text(-7)), ("a", Value::Array(vec![Value::Struct(inner)]))].into_iter().collect();
        record.set("when", Value::Date("20260131T12:00:00Z".into()));
        let stored = serde_json::to_string(&record).unwrap();
        assert_eq!(serde_json::from_str::<Record>(&stored).unwrap(), record);
        assert_eq!(record.number("z"), Some(-7));
        assert_eq!(record.iter().map(|(name, _)| name).collect::<Vec<_>>(), ["z", "a", "when"]);
    }

    #[test]
    fn a_member_is_set_in_its_place() {
        let mut record: Record = [("a", Value::text(1)), ("b", Value::text(2))].into_iter().collect();
        record.set("a", Value::text(3));
        record.set_default("b", Value::text(4));
        record.set("c", Value::text(5));
        let members: Vec<_> = record.iter().map(|(name, value)| (name, value.as_i64().unwrap())).collect();
        assert_eq!(members, [("a", 3), ("b", 2), ("c", 5)]);
    }
}
