//! The header `Idempotency-Key`: 1 to 255 visible ASCII characters, bare or as a quoted string. The quotes are
//! syntax, as in structured fields: `abc` and `"abc"` are the same key.

use actix_web::http::header::HeaderMap;

use crate::rest::error::ApiError;

/// The header's name.
const NAME: &str = "Idempotency-Key";

/// The most characters of a key.
const MAX_CHARS: usize = 255;

/// What a client calls a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Key(String);

impl Key {
    /// The key of a request, if it has one.
    ///
    /// # Errors
    /// 422 naming the header.
    pub fn of(headers: &HeaderMap) -> Result<Option<Self>, ApiError> {
        let mut values = headers.get_all("idempotency-key");
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(invalid("it is there more than once"));
        }
        let text = value.to_str().map_err(|_| invalid("only visible ASCII characters are taken"))?;
        Self::parse(text.trim()).map(Some)
    }

    fn parse(text: &str) -> Result<Self, ApiError> {
        let key = match text.strip_prefix('"') {
            Some(quoted) => {
                unquote(quoted).ok_or_else(|| invalid("the quoted string does not end as one"))?
            }
            None => text.to_owned(),
        };
        if !key.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(invalid("only visible ASCII characters are taken"));
        }
        match key.len() {
            0 => Err(invalid("it is empty")),
            1..=MAX_CHARS => Ok(Self(key)),
            more => Err(invalid(&format!("{more} characters are more than {MAX_CHARS}"))),
        }
    }

    /// The key without quotes.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A quoted string behind its first quote: up to the last one, with nothing after it.
fn unquote(text: &str) -> Option<String> {
    let mut key = String::new();
    let mut rest = text.chars();
    loop {
        match rest.next()? {
            '"' => return rest.next().is_none().then_some(key),
            '\\' => key.push(rest.next().filter(|escaped| matches!(escaped, '"' | '\\'))?),
            other => key.push(other),
        }
    }
}

fn invalid(message: &str) -> ApiError {
    ApiError::invalid(NAME, message, None)
}

#[cfg(test)]
mod tests {
    use actix_web::http::header::{HeaderName, HeaderValue};

    use super::*;

    fn of(values: &[&str]) -> Result<Option<String>, String> {
        let mut headers = HeaderMap::new();
        for value in values {
            let value = HeaderValue::from_bytes(value.as_bytes()).unwrap();
            headers.append(HeaderName::from_static("idempotency-key"), value);
        }
        Key::of(&headers).map(|key| key.map(|key| key.0)).map_err(|error| error.to_string())
    }

    #[test]
    fn the_quotes_of_a_quoted_string_are_no_part_of_the_key() {
        assert_eq!(of(&[]), Ok(None));
        for same in ["abc", "\"abc\"", "  abc "] {
            assert_eq!(of(&[same]), Ok(Some("abc".to_owned())), "{same}");
        }
        assert_eq!(of(&[r#""a\"b\\c""#]), Ok(Some(r#"a"b\c"#.to_owned())));
        assert_eq!(of(&[r#"a"b"#]), Ok(Some(r#"a"b"#.to_owned())), "one that only holds a quote is bare");
    }

    #[test]
    fn what_is_no_key_is_refused_naming_the_header() {
        let (longest, too_long) = ("k".repeat(255), "k".repeat(256));
        assert_eq!(of(&[&longest]), Ok(Some(longest.clone())));
        let bad =
            ["", "\"\"", "a b", "\"a b\"", "\"abc", "\"abc\"d", r#""a\b""#, "caf\u{e9}", "a\tb", &too_long];
        for bad in bad {
            assert!(of(&[bad]).unwrap_err().contains("Idempotency-Key"), "{bad}");
        }
        assert!(of(&["a", "b"]).unwrap_err().contains("more than once"));
    }
}
