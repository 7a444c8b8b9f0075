//! Users and their tokens.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};

use actix_web::http::StatusCode;
use actix_web::http::header::LOCATION;
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Value, json};

use crate::auth::{
    self, AccountError, AuthError, Capability, KeepTokens, Role, TokenError, TokenRecord, User,
};
use crate::ids::UserId;
use crate::state::{now_ms, tokens, users};

use super::App;
use super::JSON;
use super::address::client_address;
use super::answers::created;
use super::caller::{Caller, refusal};
use super::collections::Listing;
use super::error::ApiError;
use super::idempotency::Made;
use super::query::{Params, Query, required};
use super::token_request;

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

/// A role, from `role` or from the contract's `permission`; `None` if neither is given.
fn wanted_role(params: &mut Params) -> Result<Option<Role>, ApiError> {
    let refused = |name: &str, text: String| {
        let message = "Value does not match any allowed schema";
        ApiError::invalid(format!("body.{name}"), message, Some(text.into()))
    };
    let role = params.text("role")?;
    let role = role.map(|text| text.parse::<Role>().map_err(|_| refused("role", text))).transpose()?;
    let permission = params.text("permission")?;
    match (role, permission) {
        (role, None) => Ok(role),
        (Some(role), Some(permission)) if role.permission() == permission => Ok(Some(role)),
        (None, Some(permission)) if permission == Role::Admin.permission() => Ok(Some(Role::Admin)),
        (None, Some(permission)) if permission == Role::Viewer.permission() => Ok(Some(Role::Viewer)),
        (_, Some(permission)) => Err(refused("permission", permission)),
    }
}

/// `POST /users`.
///
/// # Errors
/// 403, 409 for a name that is taken, 422 for what is no name or no password.
pub async fn create(
    app: web::Data<App>,
    caller: Caller,
    mut params: Params,
) -> Result<HttpResponse, ApiError> {
    caller.require(Capability::Administer, None, "user")?;
    let (name, email) = (params.text("name")?, params.text("email")?);
    let name = match (name, email) {
        (Some(name), Some(email)) if name != email => {
            let message = "a user has one name: name and email must be the same";
            return Err(ApiError::invalid("body.email", message, Some(email.into())));
        }
        (Some(name), _) | (None, Some(name)) => name,
        (None, None) => return Err(required("name")),
    };
    let password = params.required_text("password")?;
    let role = wanted_role(&mut params)?.unwrap_or(Role::Viewer);
    params.nothing_else()?;
    let (id, name) = (UserId::random(), name.parse()?);
    caller.makes(Made::User(id), None, || created("users", id)).await?;
    app.accounts.add_as(id, &name, role, password).await?;
    Ok(created("users", id))
}

/// `PATCH /users/<id>`: one's own password by the current one, anybody's password and role by an administrator. A new
/// password ends the user's other tokens.
///
/// # Errors
/// 403 for a wrong current password, which counts as a failed login; 429 after one; 409 for the last administrator's
/// role.
pub async fn change(
    app: web::Data<App>,
    caller: Caller,
    request: HttpRequest,
    id: &str,
    mut params: Params,
) -> Result<HttpResponse, ApiError> {
    let no_such = || ApiError::NoSuchObject { kind: "user", id: id.chars().take(64).collect() };
    let user: UserId = id.parse().map_err(|_| no_such())?;
    let own = user == caller.user();
    if !own {
        caller.require(Capability::Administer, Some(id), "user")?;
    }
    let password = params.text("password")?;
    let current = params.text("currentPassword")?;
    let role = wanted_role(&mut params)?;
    params.nothing_else()?;
    // Before anything is changed.
    password.as_deref().map_or(Ok(()), auth::check_password_form)?;
    if role.is_some() {
        caller.require(Capability::Administer, Some(id), "user")?;
    }
    if own && password.is_some() {
        let current = current.ok_or_else(|| required("currentPassword"))?;
        let name = caller.principal().name.clone();
        let checked = app.authenticator.check_password(name, current, address_of(&app, &request)).await;
        checked.map_err(|error| match error {
            AuthError::Invalid => ApiError::ForbiddenOperation {
                operation: "change password",
                reason: "currentPassword is not the current password",
            },
            error => refusal(error),
        })?;
    }
    let missing = |error| match error {
        AccountError::NoSuchUser { .. } => no_such(),
        error => ApiError::Account(error),
    };
    if let Some(role) = role {
        app.accounts.set_role(user, role).await.map_err(missing)?;
    }
    if let Some(password) = password {
        let kept = caller.principal().token.as_ref().filter(|_| own);
        let keep = kept.map_or(KeepTokens::None, |token| KeepTokens::Only(token.family));
        let ended = app.accounts.set_password(user, password, keep).await.map_err(missing)?;
        ended.into_iter().for_each(|family| app.revocations.cut(family));
    } else if role.is_none() {
        // Nothing to change is no mistake, as long as there is somebody.
        let found = app.store.db().call(move |db| users::get(db, user)).await?;
        found.ok_or_else(no_such)?;
    }
    Ok(HttpResponse::NoContent().finish())
}

fn address_of(app: &App, request: &HttpRequest) -> IpAddr {
    let peer = request.peer_addr().map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |peer| peer.ip());
    client_address(&app.config.http.trusted_proxies, request.headers(), peer)
}

/// `DELETE /users/<id>`, with all tokens and what they have begun.
///
/// # Errors
/// 403, 404, 409 for oneself and for the last administrator.
pub async fn delete(app: web::Data<App>, caller: Caller, id: &str) -> Result<HttpResponse, ApiError> {
    let no_such = || ApiError::NoSuchObject { kind: "user", id: id.chars().take(64).collect() };
    caller.require(Capability::Administer, Some(id), "user")?;
    let user: UserId = id.parse().map_err(|_| no_such())?;
    if user == caller.user() {
        return Err(ApiError::OwnUser);
    }
    let ended = app.accounts.remove(user).await.map_err(|error| match error {
        AccountError::NoSuchUser { .. } => no_such(),
        error => ApiError::Account(error),
    })?;
    ended.into_iter().for_each(|family| app.revocations.cut(family));
    Ok(HttpResponse::NoContent().finish())
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
    params: Params,
) -> Result<HttpResponse, ApiError> {
    if let Some(id) = id {
        own(&caller, id, "create authentication token")?;
    }
    let request = token_request::take(params)?;
    let maker = caller.principal().token.clone();
    let issued = auth::create_token(app.store.db(), caller.user(), maker, request).await.map_err(
        |error| match error {
            TokenError::State(error) => ApiError::State(error),
            TokenError::Stronger { .. } => ApiError::ForbiddenOperation {
                operation: "create authentication token",
                reason: "a token cannot make one that is stronger than itself",
            },
            error => match error.member() {
                Some(member) => ApiError::invalid(format!("body.{member}"), error.told(), None),
                None => ApiError::invalid("body", error.told(), None),
            },
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
pub fn token_shown(record: &TokenRecord) -> Value {
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
    let found = app.store.db().call(move |db| tokens::get(db, public)).await?;
    let found = found.filter(|found| found.user == user).ok_or_else(no_such)?;
    if !caller.principal().may_revoke(&found) {
        return Err(ApiError::ForbiddenOperation {
            operation: "delete authentication token",
            reason: "a token with a scope, objects or SRs revokes none but itself",
        });
    }
    let family = auth::revoke_token(app.store.db(), Some(user), public).await?.ok_or_else(no_such)?;
    app.revocations.cut(family);
    Ok(HttpResponse::NoContent().finish())
}
