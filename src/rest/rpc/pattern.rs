//! Filters that are objects: what an object must have, member by member.

use serde_json::Value;

use super::error::RpcError;

/// Bytes of a pattern as JSON. Matching costs at most its size times the object's.
const MAX_BYTES: usize = 16 << 10;

/// An object of members that others must have. Objects in it are patterns themselves, each element of a list must be
/// matched by one of the other's.
#[derive(Debug, Clone)]
pub struct Pattern(Value);

impl Pattern {
    /// Takes the parameter of that name as a pattern.
    ///
    /// # Errors
    /// When it is too long.
    pub fn of(name: &str, value: Value) -> Result<Self, RpcError> {
        let found = value.to_string().len();
        if found > MAX_BYTES {
            return Err(RpcError::parameter(name, format!("{found} bytes of at most {MAX_BYTES}")));
        }
        Ok(Self(value))
    }

    /// Whether an object has all of it.
    pub fn matches(&self, object: &Value) -> bool {
        has(object, &self.0)
    }
}

// No deeper than JSON is read, which is bounded.
fn has(value: &Value, wanted: &Value) -> bool {
    match (value, wanted) {
        (Value::Object(value), Value::Object(wanted)) => {
            wanted.iter().all(|(name, wanted)| value.get(name).is_some_and(|value| has(value, wanted)))
        }
        (Value::Array(list), Value::Array(wanted)) => {
            wanted.iter().all(|wanted| list.iter().any(|value| has(value, wanted)))
        }
        (Value::Number(value), Value::Number(wanted)) => value == wanted || value.as_f64() == wanted.as_f64(),
        _ => value == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn members_must_be_equal_and_more_may_be_there() {
        let vm =
            json!({"type": "VM", "CPUs": {"number": 2, "max": 4}, "tags": ["a", "b"], "name_label": "x"});
        let matches = |pattern: Value| Pattern::of("filter", pattern).unwrap().matches(&vm);
        for pattern in [
            json!({}),
            json!({"type": "VM"}),
            json!({"CPUs": {"number": 2}}),
            json!({"CPUs": {"number": 2.0}}),
            json!({"tags": ["b"]}),
            json!({"tags": []}),
        ] {
            assert!(matches(pattern.clone()), "{pattern}");
        }
        for pattern in [
            json!({"type": "vm"}),
            json!({"type": "VM", "name_label": "y"}),
            json!({"CPUs": {"number": "2"}}),
            json!({"CPUs": 2}),
            json!({"tags": ["c"]}),
            json!({"missing": null}),
        ] {
            assert!(!matches(pattern.clone()), "{pattern}");
        }
    }

    #[test]
    fn a_pattern_that_is_too_long_is_refused() {
        assert!(Pattern::of("filter", json!({"a": "x".repeat(MAX_BYTES)})).is_err());
    }
}
