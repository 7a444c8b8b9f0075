//! What must hold for any filter expression and any object, shared by the fuzz target and the library's tests.

use super::gantry::inventory::filter::{Filter, FilterError};
use serde_json::Value;

/// An expression, a line feed, an object in JSON; what is no JSON is a text. An expression is read or refused at a
/// place inside of it, and read again it says the same of the object, as its double negation does.
pub fn filter(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let (expression, object) = text.split_once('\n').unwrap_or((&text, ""));
    let object: Value = serde_json::from_str(object).unwrap_or_else(|_| object.into());
    match expression.parse::<Filter>() {
        Ok(filter) => {
            let found = filter.matches(&object);
            assert_eq!(found, expression.parse::<Filter>().expect("it was read before").matches(&object));
            // A group has at least one term, and what is open at its end would take its end in.
            if let Ok(negated) = format!("!!({expression})").parse::<Filter>()
                && !expression.contains(['"', '/'])
            {
                assert_eq!(found, negated.matches(&object));
            }
        }
        Err(FilterError::Syntax { position } | FilterError::TooDeep { position }) => {
            assert!(position < expression.encode_utf16().count(), "behind the end");
        }
        Err(_) => {}
    }
}
