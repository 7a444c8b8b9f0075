//! A wish for a token, from the members of a body or of a call: one by one, so that a refusal names the one that is
//! wrong.

use std::collections::BTreeSet;

use serde_json::Value;

use super::error::ApiError;
use super::query::Params;
use crate::auth::{TokenRequest, Validity};
use crate::state::tokens::Scope;

/// Takes the wish out of the parameters, of which there must be no other ones.
///
/// # Errors
/// [`ApiError::Invalid`], which names the member.
pub fn take(mut params: Params) -> Result<TokenRequest, ApiError> {
    params.forget_nulls();
    let refused = |name: &str, message: String, value: Value| {
        ApiError::invalid(format!("body.{name}"), message, Some(value))
    };
    let mut request = TokenRequest { description: params.text("description")?, ..TokenRequest::default() };
    if let Some(value) = params.any("client") {
        let client = serde_json::from_value(value.clone());
        request.client = Some(client.map_err(|error| refused("client", error.to_string(), value))?);
    }
    if let Some(value) = params.any("expiresIn") {
        let validity = Validity::of_json(&value).map_err(|message| refused("expiresIn", message, value))?;
        request.expires_in = Some(validity);
    }
    if let Some(names) = params.texts("scope")? {
        let scope: Result<BTreeSet<Scope>, _> = names.iter().map(|name| name.parse()).collect();
        request.scope = Some(
            scope.map_err(|error: crate::ids::BadId| refused("scope", error.to_string(), names.into()))?,
        );
    }
    request.objects = params.texts("objects")?.map(BTreeSet::from_iter);
    request.srs = params.texts("srs")?.map(BTreeSet::from_iter);
    request.renewable = params.flag("renewable")?;
    params.nothing_else()?;
    Ok(request)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of(value: Value) -> Result<TokenRequest, (String, Option<Value>)> {
        let Value::Object(members) = value else { unreachable!("an object") };
        take(Params::of(members)).map_err(|error| match error {
            ApiError::Invalid(list) => (list[0].name.clone(), list[0].value.clone()),
            other => (format!("{other:?}"), None),
        })
    }

    #[test]
    fn every_member_is_taken_and_texts_stand_for_numbers_and_booleans() {
        let full = of(json!({
            "client": {"id": "c", "name": "n"}, "description": "d", "expiresIn": "1 hour",
            "scope": ["read", "import"], "objects": ["o"], "srs": ["s"], "renewable": "true",
        }))
        .unwrap();
        assert_eq!(full.scope, Some([Scope::Read, Scope::Import].into()));
        assert_eq!(full.client.unwrap().id.as_deref(), Some("c"));
        assert_eq!((full.expires_in.map(Validity::ms), full.renewable), (Some(3_600_000), Some(true)));
        assert_eq!(of(json!({"description": null, "renewable": null})).unwrap(), TokenRequest::default());
        assert_eq!(of(json!({"expiresIn": "60000"})).unwrap(), of(json!({"expiresIn": 60000.4})).unwrap());
    }

    #[test]
    fn a_refusal_names_the_member_and_its_value() {
        for (name, value) in [
            ("client", json!("c")),
            ("description", json!(1)),
            ("expiresIn", json!("10 s")),
            ("expiresIn", json!("soon")),
            ("expiresIn", json!(true)),
            ("expiresIn", json!(1e300)),
            ("scope", json!(["everything"])),
            ("scope", json!("read")),
            ("objects", json!([1])),
            ("renewable", json!("perhaps")),
            ("expires", json!(1)),
        ] {
            let refused = of(json!({ name: value.clone() })).unwrap_err();
            assert_eq!(refused, (format!("body.{name}"), Some(value)));
        }
    }
}
