//! Users and their tokens.

use std::collections::BTreeMap;

use actix_web::http::StatusCode;
use actix_web::http::header::LOCATION;
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Map, Value, json};

use crate::auth::{self, Capability, TokenError, TokenRecord, TokenRequest, User};
use crate::ids::UserId;
use crate::state::{now_ms, tokens, users};

use super::App;
use super::JSON;
use super::caller::Caller;
use super::collections::Listing;
use super::error::ApiError;
use super::query::{Params, Query};

fn shown(user: &User) -> Value {
    json!({
        "id": user.id,
        "email": user.name,
        "name": user.name,
        "permission": user.role.permission(),
        "role": user.role.name(),
        "groups": [],
        "preferences": {},
        "pw_hash": "***obfuscated***",
    })
}

/// `/users/me` and everything below it: the caller's own address.
///
/// # Errors
/// None but those of authentication.
pub async fn me(caller: Caller, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    let rest = request.path().strip_prefix("/rest/v0/users/me").unwrap_or_default();
    let query = match request.query_string() {
        "" => String::new(),
        query => format!("?{query}"),
    };
    let address = format!("/rest/v0/users/{}{rest}{query}", caller.user());
    Ok(HttpResponse::build(StatusCode::TEMPORARY_REDIRECT)
        .insert_header((LOCATION, address.clone()))
        .content_type("text/plain; charset=utf-8")
        .body(format!("Temporary Redirect. Redirecting to {address}")))
}

/// `GET /users`: all for administrators, oneself for the others.
///
/// # Errors
/// 422 for parameters that cannot be taken, 400 for a filter that is none.
pub async fn list(
    app: web::Data<App>,
    caller: Caller,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    let listing = Listing::of(&Query::of(&request)?).await?;
    let all = app.store.db().call(|db| users::list(db)).await?;
    let admin = caller.principal().may(Capability::Administer);
    let visible = all.iter().filter(|user| admin || user.id == caller.user());
    let linked = visible.map(|user| (shown(user), format!("/rest/v0/users/{}", user.id)));
    listing.answer(linked.collect()).await
}

/// `GET /users/<id>`.
///
/// # Errors
/// 404, 403 for somebody else.
pub async fn one(app: web::Data<App>, caller: Caller, id: &str) -> Result<HttpResponse, ApiError> {
    let no_such = || ApiError::NoSuchObject { kind: "user", id: id.to_owned() };
    let user: UserId = id.parse().map_err(|_| no_such())?;
    if user != caller.user() {
        caller.require(Capability::Administer, Some(id), "user")?;
    }
    let found = app.store.db().call(move |db| users::get(db, user)).await?;
    Ok(HttpResponse::Ok().content_type(JSON).json(shown(&found.ok_or_else(no_such)?)))
}

fn own(caller: &Caller, id: &str, operation: &'static str) -> Result<(), ApiError> {
    if id.parse() == Ok(caller.user()) {
        return Ok(());
    }
    Err(ApiError::ForbiddenOperation { operation, reason: "only for oneself" })
}

/// `POST /users/<own id>/authentication_tokens`, and the old address `POST /users/authentication_tokens`.
///
/// # Errors
/// 403 for somebody else, 422 for what cannot be granted.
pub async fn create_token(
    app: web::Data<App>,
    caller: Caller,
    id: Option<&str>,
    mut params: Params,
) -> Result<HttpResponse, ApiError> {
    if let Some(id) = id {
        own(&caller, id, "create authentication token")?;
    }
    let mut wanted = Map::new();
    for name in ["client", "description", "expiresIn", "scope", "objects", "srs", "renewable"] {
        if let Some(value) = params.any(name) {
            wanted.insert(name.to_owned(), value);
        }
    }
    params.nothing_else()?;
    let request: TokenRequest = serde_json::from_value(Value::Object(wanted))
        .map_err(|error| ApiError::invalid("body", error.to_string(), None))?;
    let maker = caller.principal().token.clone();
    let issued = auth::create_token(app.store.db(), caller.user(), maker, request).await.map_err(
        |error| match error {
            TokenError::State(error) => ApiError::State(error),
            TokenError::Stronger { .. } => ApiError::ForbiddenOperation {
                operation: "create authentication token",
                reason: "a token cannot make one that is stronger than itself",
            },
            error => ApiError::invalid("body", error.to_string(), None),
        },
    )?;
    // The secret is nowhere but in this answer.
    caller.answers_a_secret();
    caller.audit_made(issued.record.id, issued.record.description.clone());
    let mut token = token_shown(&issued.record);
    if let Some(members) = token.as_object_mut() {
        members.insert("id".into(), issued.secret.into());
    }
    Ok(HttpResponse::build(StatusCode::CREATED).content_type(JSON).json(json!({ "token": token })))
}

/// A token without its secret.
fn token_shown(record: &TokenRecord) -> Value {
    let mut shown = json!({
        "id": record.id.to_string(),
        "user_id": record.user,
        "created_at": record.created_ms,
        "expiration": record.expires_ms,
    });
    let Some(members) = shown.as_object_mut() else { return shown };
    if let Some(description) = &record.description {
        members.insert("description".into(), description.clone().into());
    }
    if let Some(client) = record.client.as_ref().and_then(|client| serde_json::to_value(client).ok()) {
        members.insert("client".into(), client);
    }
    if let (Some(at), Some(address)) = (record.last_used_ms, &record.last_address) {
        let uses = BTreeMap::from([(address.clone(), json!({ "timestamp": at }))]);
        members.insert("last_uses".into(), json!(uses));
    }
    for (name, list) in [("objects", &record.objects), ("srs", &record.srs)] {
        if let Some(list) = list {
            members.insert(name.into(), json!(list));
        }
    }
    if let Some(scope) = record.scope.as_ref() {
        let names: Vec<&str> = scope.iter().map(|part| part.name()).collect();
        members.insert("scope".into(), json!(names));
    }
    if record.renewable {
        members.insert("renewable".into(), true.into());
    }
    shown
}

/// `GET /users/<own id>/authentication_tokens`.
///
/// # Errors
/// 403 for somebody else, 400 for a filter that is none.
pub async fn list_tokens(
    app: web::Data<App>,
    caller: Caller,
    id: &str,
    query: Query,
) -> Result<HttpResponse, ApiError> {
    own(&caller, id, "list authentication tokens")?;
    // Tokens have no address of their own, so they are whole objects without links.
    let listing = Listing::of(&query).await?;
    let user = caller.user();
    let all = app.store.db().call(move |db| tokens::list(db, Some(user), now_ms())).await?;
    let list = listing.select(all.iter().map(token_shown).collect()).await?;
    Ok(HttpResponse::Ok().content_type(JSON).json(list))
}

/// `DELETE /users/<own id>/authentication_tokens/<public id>`.
///
/// # Errors
/// 403 for somebody else, 404.
pub async fn delete_token(
    app: web::Data<App>,
    caller: Caller,
    id: &str,
    token: &str,
) -> Result<HttpResponse, ApiError> {
    if !caller.principal().may(Capability::Administer) {
        own(&caller, id, "delete authentication token")?;
    }
    let no_such =
        || ApiError::NoSuchObject { kind: "authentication token", id: token.chars().take(64).collect() };
    let user: UserId = id.parse().map_err(|_| no_such())?;
    let public = auth::token_id_of(token).ok_or_else(no_such)?;
    let family = auth::revoke_token(app.store.db(), Some(user), public).await?.ok_or_else(no_such)?;
    app.revocations.cut(family);
    Ok(HttpResponse::NoContent().finish())
}
