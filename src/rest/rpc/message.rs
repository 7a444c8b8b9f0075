//! JSON-RPC 2.0 as text: requests, batches, answers. Knows no method.

use serde_json::{Map, Value, json};

use super::error::RpcError;

/// Calls in one batch.
pub const MAX_BATCH: usize = 100;

/// Values in one message. A value takes some 100 bytes of memory and may be sent in two.
pub const MAX_VALUES: usize = 32 << 10;

/// Characters that are repeated of what is not known.
const MAX_SHOWN: usize = 100;

/// A call that was read.
#[derive(Debug, PartialEq)]
pub struct Call {
    /// Echoed in the answer as it came. `None`: nobody waits for an answer.
    pub id: Option<Value>,
    /// The method.
    pub method: String,
    /// The parameters, by name.
    pub params: Map<String, Value>,
}

/// A call that cannot be made, with the id to answer under.
#[derive(Debug)]
pub struct Unreadable {
    /// Null where none can be told.
    pub id: Value,
    /// Why not.
    pub error: RpcError,
}

impl Unreadable {
    fn anonymous(error: RpcError) -> Self {
        Self { id: Value::Null, error }
    }
}

/// A message.
#[derive(Debug)]
pub enum Message {
    /// One call, to be answered by itself.
    One(Result<Call, Unreadable>),
    /// Several, to be answered as an array.
    Batch(Vec<Result<Call, Unreadable>>),
}

impl Message {
    /// Reads a message. What cannot be read is part of the result: it has to be answered.
    pub fn read(text: &[u8]) -> Self {
        let refused = |error| Self::One(Err(Unreadable::anonymous(error)));
        if structure(text) > MAX_VALUES {
            return refused(RpcError::NoRequest(format!("a message with more than {MAX_VALUES} values")));
        }
        match serde_json::from_slice(text) {
            Err(error) => refused(RpcError::NoJson(error.to_string())),
            Ok(Value::Array(calls)) if calls.is_empty() => {
                refused(RpcError::NoRequest("an empty batch".into()))
            }
            Ok(Value::Array(calls)) if calls.len() > MAX_BATCH => {
                let found = calls.len();
                refused(RpcError::NoRequest(format!(
                    "a batch of {found} calls, at most {MAX_BATCH} are taken"
                )))
            }
            Ok(Value::Array(calls)) => Self::Batch(calls.into_iter().map(read_call).collect()),
            Ok(call) => Self::One(read_call(call)),
        }
    }
}

/// How many values a text may hold at most: one more than there are commas and opening brackets outside of strings.
fn structure(text: &[u8]) -> usize {
    let (mut count, mut in_string, mut escaped) = (1, false, false);
    for byte in text {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_string => escaped = true,
            b'"' => in_string = !in_string,
            b',' | b'[' | b'{' if !in_string => count += 1,
            _ => {}
        }
    }
    count
}

fn read_call(value: Value) -> Result<Call, Unreadable> {
    let refused =
        |id: &Value, what: &str| Unreadable { id: id.clone(), error: RpcError::NoRequest(what.into()) };
    let Value::Object(mut members) = value else {
        return Err(refused(&Value::Null, "a call has to be an object"));
    };
    let id = members.remove("id");
    if !matches!(id, None | Some(Value::Null | Value::Number(_) | Value::String(_))) {
        return Err(refused(&Value::Null, "id: a number or a string is needed"));
    }
    let shown = id.clone().unwrap_or_default();
    if members.get("jsonrpc").is_some_and(|version| version != "2.0") {
        return Err(refused(&shown, "jsonrpc: \"2.0\" is needed"));
    }
    let Some(Value::String(method)) = members.remove("method") else {
        return Err(refused(&shown, "method: a string is needed"));
    };
    let params = match members.remove("params") {
        None | Some(Value::Null) => Map::new(),
        Some(Value::Object(params)) => params,
        Some(Value::Array(list)) if list.is_empty() => Map::new(),
        Some(_) => {
            let error = RpcError::parameter("params", "an object with the parameters' names is needed");
            return Err(Unreadable { id: shown, error });
        }
    };
    Ok(Call { id, method, params })
}

/// The beginning of a text that a client has sent.
pub fn shortened(text: &str) -> String {
    text.chars().take(MAX_SHOWN).collect()
}

/// An answer with a result that is JSON already.
pub fn result(id: &Value, json: &str) -> String {
    format!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{json}}}")
}

/// An answer with an error.
pub fn failure(id: &Value, error: &RpcError) -> String {
    json!({ "jsonrpc": "2.0", "id": id, "error": error.shown() }).to_string()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn one(text: &str) -> Result<Call, Unreadable> {
        match Message::read(text.as_bytes()) {
            Message::One(call) => call,
            Message::Batch(_) => panic!("{text} is no batch"),
        }
    }

    fn refusal(text: &str) -> (String, i64) {
        let unreadable = one(text).unwrap_err();
        (unreadable.id.to_string(), unreadable.error.number())
    }

    #[test]
    fn an_id_is_echoed_digit_by_digit() {
        for id in
            ["-9007199254740991", "9007199254740991", "-9223372036854775808", "0", "\"a-b\"", "null", "\"\""]
        {
            let call = one(&format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"m"}}"#)).unwrap();
            let answer = result(&call.id.unwrap(), "true");
            assert_eq!(answer, format!(r#"{{"jsonrpc":"2.0","id":{id},"result":true}}"#));
        }
    }

    #[test]
    fn params_may_be_absent_and_a_call_without_an_id_waits_for_nothing() {
        assert!(one(r#"{"jsonrpc":"2.0","id":1,"method":"m"}"#).unwrap().params.is_empty());
        assert!(one(r#"{"id":1,"method":"m","params":[]}"#).unwrap().params.is_empty());
        assert_eq!(one(r#"{"jsonrpc":"2.0","method":"m"}"#).unwrap().id, None);
        assert_eq!(one(r#"{"id":1,"method":"m","params":{"a":1}}"#).unwrap().params["a"], 1);
    }

    #[test]
    fn what_is_no_request_is_told_under_the_id_that_can_be_read() {
        assert_eq!(refusal("{"), ("null".into(), -32700));
        assert_eq!(refusal(""), ("null".into(), -32700));
        assert_eq!(refusal("7"), ("null".into(), -32600));
        assert_eq!(refusal("[]"), ("null".into(), -32600));
        assert_eq!(refusal(r#"{"id":3}"#), ("3".into(), -32600));
        assert_eq!(refusal(r#"{"id":{},"method":"m"}"#), ("null".into(), -32600));
        assert_eq!(refusal(r#"{"id":"x","method":"m","jsonrpc":"1.0"}"#), ("\"x\"".into(), -32600));
        assert_eq!(refusal(r#"{"id":"x","method":"m","params":[1]}"#), ("\"x\"".into(), 10));
    }

    #[test]
    fn batches_and_values_are_bounded_and_commas_in_strings_are_none() {
        let call = r#"{"id":1,"method":"m"}"#;
        let batch = |count: usize| format!("[{}]", vec![call; count].join(","));
        assert!(
            matches!(Message::read(batch(MAX_BATCH).as_bytes()), Message::Batch(calls) if calls.len() == MAX_BATCH)
        );
        assert_eq!(refusal(&batch(MAX_BATCH + 1)), ("null".into(), -32600));
        assert_eq!(refusal(&format!("[{}1]", "1,".repeat(MAX_VALUES))).1, -32600);
        let text =
            format!(r#"{{"id":1,"method":"m","params":{{"a":"{}"}}}}"#, r#",[{\\\""#.repeat(MAX_VALUES));
        assert!(one(&text).is_ok());
        assert_eq!(refusal(&"[".repeat(1000)).1, -32700, "deep nesting is an error, not a crash");
    }

    proptest! {
        #[test]
        fn every_message_is_read_without_a_panic(text in "\\PC{0,80}") {
            let _ = Message::read(text.as_bytes());
        }

        #[test]
        fn every_number_of_64_bits_comes_back(id: i64) {
            let call = one(&format!(r#"{{"id":{id},"method":"m"}}"#)).unwrap();
            prop_assert_eq!(call.id.unwrap().to_string(), id.to_string());
        }
    }
}
