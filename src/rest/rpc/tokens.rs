//! `token.…`: making and revoking tokens.

use serde_json::{Map, Value};

use super::error::RpcError;
use super::pattern::Pattern;
use super::session::Session;
use crate::auth::audit::Outcome;
use crate::auth::{self, Capability, TokenId};
use crate::ids::UserId;
use crate::rest::error::{ApiError, Invalid};
use crate::rest::query::Params;
use crate::rest::token_request;
use crate::state::{now_ms, tokens};

/// Tokens that are revoked by one call.
const MAX_TOKENS: usize = 1000;

/// `token.create`: the secret, which is shown this once.
///
/// # Errors
/// What cannot be granted.
pub async fn create(session: &Session, params: Map<String, Value>) -> Result<Value, RpcError> {
    let principal = session.principal()?;
    let request = token_request::take(Params::of(params)).map_err(|error| {
        let first = match error {
            ApiError::Invalid(list) => list.into_iter().next(),
            _ => None,
        };
        match first {
            Some(Invalid { name, message, .. }) => {
                RpcError::parameter(name.trim_start_matches("body.").to_owned(), message)
            }
            None => RpcError::parameter("params", "invalid"),
        }
    })?;
    let (user, maker) = (principal.user, principal.token.clone());
    let mut intent = session.intend("token.create", None).await?;
    match auth::create_token(session.app().store.db(), user, maker, request).await {
        Ok(issued) => {
            intent.found(Some(issued.record.id.to_string()), None);
            intent.end(Outcome::Success, None).await;
            Ok(issued.secret.into())
        }
        Err(error) => {
            intent.end(Outcome::Refused, None).await;
            Err(error.into())
        }
    }
}

/// `token.delete`, of anybody's tokens.
///
/// # Errors
/// Who is no administrator; a token that there is not.
pub async fn delete_any(session: &Session, params: Map<String, Value>) -> Result<Value, RpcError> {
    session.require(Capability::Administer)?;
    delete(session, None, params).await
}

/// `token.deleteOwn`
///
/// # Errors
/// A token that there is not, or that is somebody else's.
pub async fn delete_own(session: &Session, params: Map<String, Value>) -> Result<Value, RpcError> {
    let user = session.principal()?.user;
    delete(session, Some(user), params).await
}

/// Revokes tokens and cuts what they have begun. All are looked at before the first is revoked.
async fn delete(
    session: &Session,
    user: Option<UserId>,
    mut params: Map<String, Value>,
) -> Result<Value, RpcError> {
    let ids = match (params.remove("tokens"), params.remove("pattern")) {
        (Some(named), None) => named_tokens(named)?,
        (None, Some(pattern)) => matching(session, user, Pattern::of("pattern", pattern)?).await?,
        _ => return Err(RpcError::parameter("tokens", "either tokens or a pattern is needed")),
    };
    let looked_at = ids.clone();
    let principal = session.principal()?.clone();
    let refused = session.app().store.db().call(move |conn| {
        for id in looked_at {
            let found = tokens::get(conn, id)?;
            match found.filter(|token| user.is_none_or(|user| user == token.user)) {
                None => {
                    let id = id.to_string();
                    return Ok(Some(RpcError::NoSuchObject { kind: "authenticationToken", id }));
                }
                Some(token) if !principal.may_revoke(&token) => {
                    return Ok(Some(RpcError::ForbiddenOperation {
                        operation: "token.delete",
                        reason: "a token with a scope, objects or SRs revokes none but itself",
                    }));
                }
                Some(_) => {}
            }
        }
        Ok(None)
    });
    if let Some(error) = refused.await? {
        return Err(error);
    }
    for id in ids {
        let intent = session.intend("token.revoke", Some(id.to_string())).await?;
        // One that is gone meanwhile is as wished.
        if let Some(family) = auth::revoke_token(session.app().store.db(), user, id).await? {
            session.app().revocations.cut(family);
        }
        intent.end(Outcome::Success, None).await;
    }
    Ok(true.into())
}

/// The public ids of tokens, given by these or by their secrets.
fn named_tokens(named: Value) -> Result<Vec<TokenId>, RpcError> {
    let named = match named {
        Value::Array(list) => list,
        one => vec![one],
    };
    if named.len() > MAX_TOKENS {
        let message = format!("{} tokens, at most {MAX_TOKENS} are taken", named.len());
        return Err(RpcError::parameter("tokens", message));
    }
    let id = |(at, named): (usize, &Value)| {
        // Not repeated: it may be a secret.
        let no_id = || RpcError::parameter(format!("tokens[{at}]"), "neither a token's id nor a token");
        named.as_str().and_then(auth::token_id_of).ok_or_else(no_id)
    };
    let mut ids = named.iter().enumerate().map(id).collect::<Result<Vec<_>, _>>()?;
    ids.sort_unstable();
    ids.dedup();
    Ok(ids)
}

async fn matching(
    session: &Session,
    user: Option<UserId>,
    pattern: Pattern,
) -> Result<Vec<TokenId>, RpcError> {
    let all = session.app().store.db().call(move |conn| tokens::list(conn, user, now_ms())).await?;
    let matching = move || {
        all.iter()
            .filter(|token| pattern.matches(&crate::rest::users::token_shown(token)))
            .map(|token| token.id)
            .collect()
    };
    tokio::task::spawn_blocking(matching).await.map_err(|_| RpcError::Unknown("a pattern was not evaluated"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tokens_are_named_by_id_or_secret_alone_or_in_a_list_and_never_repeated() {
        let secret = "A".repeat(43);
        let by_secret = named_tokens(json!([secret])).unwrap();
        assert_eq!(named_tokens(json!(by_secret[0].to_string())).unwrap(), by_secret);
        assert_eq!(named_tokens(json!([secret, by_secret[0].to_string()])).unwrap(), by_secret);
        let error = named_tokens(json!(["0123456789abcdef", "geheim"])).unwrap_err();
        assert_eq!(error.number(), 10);
        assert!(error.to_string().contains("tokens[1]") && !error.to_string().contains("geheim"), "{error}");
    }
}
