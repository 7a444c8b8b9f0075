//! What makes two requests the same: their parameters, and the rights with which they were sent. The order of
//! parameters and the spelling of a body do not matter.

use actix_web::http::header::HeaderMap;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::auth::Principal;
use crate::rest::query::{self, Query};
use crate::state::idempotency::Fingerprint;

/// Where a request has its parameters besides its query.
#[derive(Debug, Clone, Copy)]
pub enum Parameters<'a> {
    /// An upload: what its head says of a body that cannot be known beforehand.
    Upload,
    /// A body that was read.
    Body(&'a [u8]),
}

/// Begins what is hashed, so that a later way of doing it never meets an older one.
const VERSION: &[u8] = b"gantry request 1";

/// The fingerprint of a request.
pub fn fingerprint(
    principal: &Principal,
    query: &str,
    headers: &HeaderMap,
    parameters: Parameters<'_>,
) -> Fingerprint {
    let mut hash = Sha256::new();
    part(&mut hash, VERSION);
    // What a token may see, the answer to it may tell: one with other rights gets no answer of another's.
    let rights = principal.token.as_ref().map(|token| json!([token.scope, token.objects, token.srs]));
    let rights = rights.filter(|rights| *rights != json!([null, null, null]));
    part(&mut hash, rights.unwrap_or_default().to_string().as_bytes());
    part(&mut hash, canonical_query(query).as_bytes());
    match parameters {
        Parameters::Upload => {
            part(&mut hash, b"upload");
            for name in ["content-length", "content-encoding", "content-digest", "repr-digest"] {
                for value in headers.get_all(name) {
                    part(&mut hash, name.as_bytes());
                    part(&mut hash, value.as_bytes().trim_ascii());
                }
            }
        }
        Parameters::Body(bytes) => {
            let kind = query::media_type(headers);
            match canonical_body(&kind, bytes) {
                Some(body) => {
                    part(&mut hash, b"parameters");
                    part(&mut hash, body.to_string().as_bytes());
                }
                None => {
                    part(&mut hash, b"bytes");
                    part(&mut hash, kind.as_bytes());
                    part(&mut hash, bytes);
                }
            }
        }
    }
    hash.finalize().into()
}

/// Lengths first, so that no two lists of parts read the same.
fn part(hash: &mut Sha256, bytes: &[u8]) {
    hash.update((bytes.len() as u64).to_be_bytes());
    hash.update(bytes);
}

fn canonical_query(query: &str) -> String {
    match Query::parse(query) {
        Ok(query) => json!(query.sorted()).to_string(),
        // It will be refused; as it stands it is itself.
        Err(_) => query.to_owned(),
    }
}

/// The parameters of a body; members are in the order of their names. `None` if it cannot be read as such.
fn canonical_body(kind: &str, bytes: &[u8]) -> Option<Value> {
    if bytes.is_empty() {
        return Some(json!({}));
    }
    query::parameters(kind, bytes).ok().flatten()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use actix_web::http::header::{HeaderName, HeaderValue};

    use super::*;
    use crate::auth::{Role, Scope, TokenRecord};
    use crate::ids::UserId;
    use crate::state::tokens::SecretHash;

    fn principal() -> Principal {
        Principal { user: UserId::random(), name: "bob".to_owned(), role: Role::Admin, token: None }
    }

    fn headers(list: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &'static str)| {
            (HeaderName::from_static(name), HeaderValue::from_static(value))
        };
        list.iter().map(pair).collect()
    }

    fn of_body(kind: &'static str, body: &str) -> Fingerprint {
        fingerprint(&principal(), "", &headers(&[("content-type", kind)]), Parameters::Body(body.as_bytes()))
    }

    fn of_upload(query: &str, list: &[(&'static str, &'static str)]) -> Fingerprint {
        fingerprint(&principal(), query, &headers(list), Parameters::Upload)
    }

    const JSON: &str = "application/json";
    const FORM: &str = "application/x-www-form-urlencoded";

    #[test]
    fn the_order_and_spelling_of_parameters_do_not_matter() {
        let one = of_body(JSON, r#"{"srId": "x", "size": {"b": 1, "a": [1, 2]}}"#);
        assert_eq!(
            one,
            of_body("Application/JSON; charset=utf-8", r#"{"size":{"a":[1,2],"b":1},"srId":"x"}"#)
        );
        assert_eq!(of_body(FORM, "a=1&b=%32"), of_body(FORM, "b=2&a=1"));
        assert_eq!(of_body(FORM, "a=1&b=2"), of_body(JSON, r#"{"a": "1", "b": "2"}"#));
        assert_eq!(of_body(JSON, ""), of_body(FORM, ""));
        assert_eq!(of_upload("raw&name_label=a%20b", &[]), of_upload("name_label=a+b&raw=", &[]));
    }

    #[test]
    fn other_parameters_are_another_request() {
        let mut seen = BTreeSet::new();
        for body in ["", "{}x", r#"{"a":1}"#, r#"{"a":2}"#, r#"{"a":"1"}"#, r#"{"b":1}"#, "[1]", "{"] {
            assert!(seen.insert(of_body(JSON, body)), "{body}");
        }
        assert!(seen.insert(of_body("text/plain", r#"{"a":1}"#)));
        assert!(seen.insert(of_body("text/other", r#"{"a":1}"#)));
        for query in ["", "a", "b", "a&a", "a=b", "ab", "%zz", "%ff"] {
            assert!(seen.insert(of_upload(query, &[])), "{query}");
        }
        assert!(seen.insert(of_upload("", &[("content-length", "512")])));
        assert!(seen.insert(of_upload("", &[("content-length", "5120")])));
        assert!(
            seen.insert(of_upload("", &[("content-length", "512"), ("content-digest", "sha-256=:YQ==:")]))
        );
        assert!(seen.insert(of_upload("", &[("content-length", "512"), ("repr-digest", "sha-256=:YQ==:")])));
    }

    #[test]
    fn a_token_with_other_rights_sends_another_request_and_one_with_the_same_does_not() {
        let user = UserId::random();
        let token = |secret: &str, scope: Option<BTreeSet<Scope>>| {
            let id = SecretHash::of(secret).id();
            TokenRecord {
                id,
                family: id,
                superseded: false,
                user,
                created_ms: 0,
                expires_ms: 1,
                description: None,
                client: None,
                scope,
                objects: None,
                srs: None,
                renewable: false,
                last_used_ms: None,
                last_address: None,
            }
        };
        let of = |token| {
            let principal = Principal { token, ..principal() };
            fingerprint(&principal, "a", &HeaderMap::new(), Parameters::Upload)
        };
        let narrow = || Some(BTreeSet::from([Scope::Import]));
        assert_eq!(of(None), of(Some(token("a", None))), "a whole token is as good as the password");
        assert_eq!(of(Some(token("a", narrow()))), of(Some(token("b", narrow()))));
        assert_ne!(of(None), of(Some(token("a", narrow()))));
    }
}
