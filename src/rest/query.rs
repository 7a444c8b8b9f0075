//! Parameters of a request: the query, and the members of a body.

use actix_web::dev::Payload;
use actix_web::http::header::HeaderMap;
use actix_web::{FromRequest, HttpRequest, web};
use futures_util::StreamExt;
use futures_util::future::LocalBoxFuture;
use serde_json::map::Entry;
use serde_json::{Map, Value};

use super::App;
use super::error::{ApiError, Invalid};

/// The query of a request. Parameters that nobody asks for are ignored.
#[derive(Debug, Default)]
pub struct Query {
    pairs: Vec<(String, String)>,
}

impl Query {
    /// Reads a query string.
    ///
    /// # Errors
    /// When it is not percent-encoded UTF-8.
    pub fn parse(text: &str) -> Result<Self, ApiError> {
        let pairs =
            web::Query::<Vec<(String, String)>>::from_query(text).map_err(|error| ApiError::BadRequest {
                code: "malformed_query",
                message: format!("the query cannot be read: {error}"),
            })?;
        Ok(Self { pairs: pairs.into_inner() })
    }

    /// Reads the query of a request.
    ///
    /// # Errors
    /// As [`Self::parse`].
    pub fn of(request: &HttpRequest) -> Result<Self, ApiError> {
        Self::parse(request.query_string())
    }

    /// All parameters, in an order that does not depend on theirs.
    pub fn sorted(mut self) -> Vec<(String, String)> {
        self.pairs.sort();
        self.pairs
    }

    /// The value of a parameter; 422 when it is given more than once.
    ///
    /// # Errors
    /// [`ApiError::Invalid`].
    pub fn text(&self, name: &str) -> Result<Option<&str>, ApiError> {
        let mut values = self.pairs.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str());
        let first = values.next();
        if values.next().is_some() {
            let all: Vec<Value> = self
                .pairs
                .iter()
                .filter(|(key, _)| key == name)
                .map(|(_, value)| Value::from(value.as_str()))
                .collect();
            return Err(ApiError::invalid(name, "invalid string value", Some(Value::from(all))));
        }
        Ok(first)
    }

    /// A flag: present without a value, `true` or `1` is true; `false` or `0` is false.
    ///
    /// # Errors
    /// [`ApiError::Invalid`] for any other value.
    pub fn flag(&self, name: &str) -> Result<bool, ApiError> {
        match self.text(name)? {
            None => Ok(false),
            Some("" | "1") => Ok(true),
            Some("0") => Ok(false),
            Some(text) if text.eq_ignore_ascii_case("true") => Ok(true),
            Some(text) if text.eq_ignore_ascii_case("false") => Ok(false),
            Some(text) => Err(ApiError::invalid(name, "invalid boolean value", Some(text.into()))),
        }
    }

    /// A whole number that is not negative.
    ///
    /// # Errors
    /// [`ApiError::Invalid`] for anything else.
    pub fn number(&self, name: &str) -> Result<Option<u64>, ApiError> {
        let Some(text) = self.text(name)? else { return Ok(None) };
        let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse() {
            Ok(number) if digits => Ok(Some(number)),
            _ => Err(ApiError::invalid(
                name,
                "invalid number: a whole number from 0 on is needed",
                Some(text.into()),
            )),
        }
    }
}

/// The members of a request's body, given as JSON or as a form.
#[derive(Debug, Default)]
pub struct Params {
    members: Map<String, Value>,
    /// Forms know only text: a list of one is that text.
    from_form: bool,
}

impl Params {
    /// Members that came in another way than in a body.
    pub fn of(members: Map<String, Value>) -> Self {
        Self { members, from_form: false }
    }

    /// Takes a member that is null for one that is not there.
    pub fn forget_nulls(&mut self) {
        self.members.retain(|_, value| !value.is_null());
    }

    /// Takes a text out.
    ///
    /// # Errors
    /// [`ApiError::Invalid`] when it is another type.
    pub fn text(&mut self, name: &str) -> Result<Option<String>, ApiError> {
        match self.members.remove(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(other) => Err(ApiError::invalid(body(name), "invalid string value", Some(other))),
        }
    }

    /// Takes a text out that must be there.
    ///
    /// # Errors
    /// [`ApiError::Invalid`] when it is not.
    pub fn required_text(&mut self, name: &str) -> Result<String, ApiError> {
        self.text(name)?.ok_or_else(|| required(name))
    }

    /// Takes a whole number out that is not negative.
    ///
    /// # Errors
    /// [`ApiError::Invalid`] when it is something else.
    pub fn number(&mut self, name: &str) -> Result<Option<u64>, ApiError> {
        let Some(value) = self.members.remove(name) else { return Ok(None) };
        let number = match &value {
            Value::Number(number) => number.as_u64(),
            // Forms know only text, and one client sends every value of a JSON body as such.
            Value::String(text) if text.bytes().all(|byte| byte.is_ascii_digit()) => text.parse().ok(),
            _ => None,
        };
        match number {
            Some(number) => Ok(Some(number)),
            None => Err(ApiError::invalid(
                body(name),
                "invalid number: a whole number from 0 on is needed",
                Some(value),
            )),
        }
    }

    /// Takes a boolean out.
    ///
    /// # Errors
    /// [`ApiError::Invalid`] when it is something else.
    pub fn flag(&mut self, name: &str) -> Result<Option<bool>, ApiError> {
        match self.members.remove(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            // As in a query: some clients send `True`.
            Some(Value::String(text)) if text == "1" || text.eq_ignore_ascii_case("true") => Ok(Some(true)),
            Some(Value::String(text)) if text == "0" || text.eq_ignore_ascii_case("false") => Ok(Some(false)),
            Some(other) => Err(ApiError::invalid(body(name), "invalid boolean value", Some(other))),
        }
    }

    /// Takes a list of texts out.
    ///
    /// # Errors
    /// [`ApiError::Invalid`] when it is something else.
    pub fn texts(&mut self, name: &str) -> Result<Option<Vec<String>>, ApiError> {
        let Some(value) = self.members.remove(name) else { return Ok(None) };
        let list = match &value {
            Value::Array(list) => list.iter().map(|item| item.as_str().map(str::to_owned)).collect(),
            Value::String(text) if self.from_form => Some(vec![text.clone()]),
            _ => None,
        };
        list.map(Some).ok_or_else(|| ApiError::invalid(body(name), "invalid array of strings", Some(value)))
    }

    /// Takes any value out.
    pub fn any(&mut self, name: &str) -> Option<Value> {
        self.members.remove(name)
    }

    /// Refuses what nobody has taken.
    ///
    /// # Errors
    /// [`ApiError::Invalid`] naming every member that is left.
    pub fn nothing_else(&self) -> Result<(), ApiError> {
        if self.members.is_empty() {
            return Ok(());
        }
        let list = self.members.iter().map(|(name, value)| Invalid {
            name: body(name),
            message: format!("\"{name}\" is an excess property and therefore is not allowed"),
            value: Some(value.clone()),
        });
        Err(ApiError::Invalid(list.collect()))
    }
}

/// A member that must be there.
pub fn required(name: &str) -> ApiError {
    ApiError::invalid(body(name), format!("'{name}' is required"), None)
}

fn body(name: &str) -> String {
    format!("body.{name}")
}

impl FromRequest for Params {
    type Error = ApiError;
    type Future = LocalBoxFuture<'static, Result<Self, ApiError>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let kind = media_type(request.headers());
        let limit =
            request.app_data::<web::Data<App>>().map_or(1 << 20, |app| app.config.http.max_json.bytes());
        let mut stream = payload.take();
        Box::pin(async move { read(&kind, &read_body(&mut stream, limit).await?) })
    }
}

/// The type of a body, without its parameters and in lower case.
pub fn media_type(headers: &HeaderMap) -> String {
    let kind = headers.get("content-type").and_then(|value| value.to_str().ok()).unwrap_or_default();
    kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// Reads a body of parameters to its end.
///
/// # Errors
/// 413 when it is longer than `limit` bytes, 400 when it breaks off.
pub async fn read_body(stream: &mut Payload, limit: u64) -> Result<Vec<u8>, ApiError> {
    let mut bytes = Vec::new();
    while let Some(piece) = stream.next().await {
        let piece = piece.map_err(|error| ApiError::MalformedBody(error.to_string()))?;
        if bytes.len() as u64 + piece.len() as u64 > limit {
            return Err(ApiError::BodyTooLong { limit });
        }
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes)
}

/// The parameters in a body, whose members have an order of their own. `None` for a type that holds none.
///
/// # Errors
/// 400 and 422 for what is not what its type says.
pub fn parameters(kind: &str, bytes: &[u8]) -> Result<Option<Value>, ApiError> {
    let Params { members, .. } = match kind {
        "application/json" | "application/x-www-form-urlencoded" => read(kind, bytes)?,
        _ => return Ok(None),
    };
    Ok(Some(Value::Object(members)))
}

fn read(kind: &str, bytes: &[u8]) -> Result<Params, ApiError> {
    if bytes.is_empty() {
        return Ok(Params::default());
    }
    match kind {
        "application/json" => {
            let value: Value = serde_json::from_slice(bytes)
                .map_err(|error| ApiError::MalformedBody(format!("the body is not valid JSON: {error}")))?;
            match value {
                Value::Object(members) => Ok(Params { members, from_form: false }),
                other => Err(ApiError::invalid("body", "invalid object", Some(other))),
            }
        }
        "application/x-www-form-urlencoded" => {
            let text = std::str::from_utf8(bytes)
                .map_err(|error| ApiError::MalformedBody(format!("the form is not valid UTF-8: {error}")))?;
            let pairs = web::Query::<Vec<(String, String)>>::from_query(text)
                .map_err(|error| ApiError::MalformedBody(format!("the form cannot be read: {error}")))?;
            let mut members = Map::new();
            for (name, text) in pairs.into_inner() {
                match members.entry(name) {
                    Entry::Vacant(place) => drop(place.insert(text.into())),
                    // A name that comes again makes a list.
                    Entry::Occupied(mut place) => match place.get_mut() {
                        Value::Array(list) => list.push(text.into()),
                        one => *one = Value::from(vec![one.take(), text.into()]),
                    },
                }
            }
            Ok(Params { members, from_form: true })
        }
        _ => Ok(Params::default()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_read_in_the_spellings_of_all_eras() {
        let query = Query::parse("a&b=&c=true&d=1&e=TRUE&f=false&g=0&h=yes").unwrap();
        for name in ["a", "b", "c", "d", "e"] {
            assert!(query.flag(name).unwrap(), "{name}");
        }
        for name in ["f", "g", "missing"] {
            assert!(!query.flag(name).unwrap(), "{name}");
        }
        assert!(query.flag("h").is_err());
    }

    #[test]
    fn numbers_are_whole_and_not_negative() {
        let query = Query::parse("a=0&b=12&c=-1&d=1.5&e=&f=x&g=%2B1").unwrap();
        assert_eq!(query.number("a").unwrap(), Some(0));
        assert_eq!(query.number("b").unwrap(), Some(12));
        assert_eq!(query.number("missing").unwrap(), None);
        for name in ["c", "d", "e", "f", "g"] {
            assert!(query.number(name).is_err(), "{name}");
        }
    }

    #[test]
    fn a_parameter_that_is_given_twice_is_refused() {
        assert!(Query::parse("a=1&a=2").unwrap().text("a").is_err());
    }

    #[test]
    fn a_form_is_as_good_as_json_and_other_types_count_as_empty() {
        let mut json = read("application/json", br#"{"size": 5, "name": "x"}"#).unwrap();
        let mut form = read("application/x-www-form-urlencoded", b"size=5&name=x").unwrap();
        for params in [&mut json, &mut form] {
            assert_eq!(params.number("size").unwrap(), Some(5));
            assert_eq!(params.text("name").unwrap().as_deref(), Some("x"));
            assert!(params.nothing_else().is_ok());
        }
        assert!(read("text/plain", b"size=5").unwrap().nothing_else().is_ok());
        assert!(read("application/json", b"{").is_err());
        assert!(read("application/json", b"[]").is_err());
        assert!(read("application/json", b"null").is_err());
    }

    #[test]
    fn a_form_has_lists_of_one_and_of_many_and_booleans_as_it_is_used_to() {
        let form = |text: &str| read("application/x-www-form-urlencoded", text.as_bytes()).unwrap();
        assert_eq!(form("tags=a").texts("tags").unwrap().unwrap(), ["a"]);
        assert_eq!(form("tags=a&x=y&tags=b&tags=a").texts("tags").unwrap().unwrap(), ["a", "b", "a"]);
        assert!(form("name=a&name=b").text("name").is_err());
        for (text, flag) in [("True", true), ("1", true), ("FALSE", false), ("0", false)] {
            assert_eq!(form(&format!("a={text}")).flag("a").unwrap(), Some(flag), "{text}");
        }
        assert!(form("a=yes").flag("a").is_err());
    }

    #[test]
    fn members_that_nobody_takes_are_refused_by_name() {
        let params = read("application/json", br#"{"colour": "red"}"#).unwrap();
        assert!(params.nothing_else().unwrap_err().to_string().contains("excess property"));
    }
}
