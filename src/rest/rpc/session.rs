//! Who has signed in on a connection, and whether that still holds.

use std::net::IpAddr;

use actix_web::web;
use serde_json::{Map, Value, json};

use super::error::RpcError;
use super::seats::Seat;
use crate::auth::audit::{Actor, Intent, Object, Via};
use crate::auth::{AuthError, Capability, Credentials, Principal, User};
use crate::rest::App;
use crate::state::{StateError, now_ms, tokens, users};

/// Somebody who has signed in.
struct Signed {
    principal: Principal,
    /// The hash of the password that was shown: another one ends the session.
    password_hash: Option<String>,
}

/// One connection.
pub struct Session {
    app: web::Data<App>,
    address: IpAddr,
    seat: Seat,
    signed: Option<Signed>,
}

impl Session {
    /// Nobody has signed in yet.
    pub fn new(app: web::Data<App>, address: IpAddr, seat: Seat) -> Self {
        Self { app, address, seat, signed: None }
    }

    /// The service.
    pub fn app(&self) -> &App {
        &self.app
    }

    /// Whether somebody has signed in.
    pub fn is_signed_in(&self) -> bool {
        self.signed.is_some()
    }

    /// Who has signed in.
    ///
    /// # Errors
    /// [`RpcError::NotPermitted`] if nobody has.
    pub fn principal(&self) -> Result<&Principal, RpcError> {
        let signed = self.signed.as_ref().ok_or(RpcError::NotPermitted { needed: "sign in first" })?;
        Ok(&signed.principal)
    }

    /// Who has signed in, if he may do that.
    ///
    /// # Errors
    /// [`RpcError::NotPermitted`].
    pub fn require(&self, capability: Capability) -> Result<&Principal, RpcError> {
        let principal = self.principal()?;
        match principal.require(capability) {
            Ok(()) => Ok(principal),
            Err(forbidden) => Err(RpcError::NotPermitted { needed: forbidden.missing.name() }),
        }
    }

    /// Looks up what has become of who has signed in, and takes it over. `false`: the token has expired or was
    /// revoked, the password is another, or the user is gone.
    ///
    /// # Errors
    /// [`StateError`] if the database cannot be read.
    pub async fn still_stands(&mut self) -> Result<bool, StateError> {
        let Some(signed) = &mut self.signed else { return Ok(true) };
        let (user, now) = (signed.principal.user, now_ms());
        let token = signed.principal.token.as_ref().map(|token| token.id);
        let found = self.app.store.db().call(move |conn| {
            let Some(user) = users::get(conn, user)? else { return Ok(None) };
            let Some(id) = token else { return Ok(Some((user, None))) };
            let token = tokens::get(conn, id)?.filter(|token| token.expires_ms > now);
            Ok(token.map(|token| (user, Some(token))))
        });
        let Some((user, token)) = found.await? else { return Ok(false) };
        if signed.password_hash.as_ref().is_some_and(|hash| *hash != user.password_hash) {
            return Ok(false);
        }
        signed.principal = Principal { user: user.id, name: user.name, role: user.role, token };
        Ok(true)
    }

    /// `session.signIn`
    ///
    /// # Errors
    /// Wrong credentials, among others; whoever had signed in before then stays.
    pub async fn sign_in(&mut self, params: &mut Map<String, Value>) -> Result<Value, RpcError> {
        let mut text = |name: &str| match params.remove(name) {
            Some(Value::String(text)) => Some(text),
            _ => None,
        };
        let name = text("email").or(text("username"));
        let signed = match (text("token"), name, text("password")) {
            (Some(token), None, None) => {
                let credentials = Credentials::Token(token);
                let checked = self.app.authenticator.authenticate(credentials, self.address).await;
                let principal = self.noting(checked, None).await?;
                Signed { principal, password_hash: None }
            }
            (None, Some(name), Some(password)) => {
                let checked =
                    self.app.authenticator.check_password(name.clone(), password, self.address).await;
                let user = self.noting(checked, Some(&name)).await?;
                let User { id: user, name, role, password_hash, .. } = user;
                let principal = Principal { user, name, role, token: None };
                self.app.audit.signed_in(&principal, Via::Rpc, self.address).await.map_err(|error| {
                    tracing::error!(%error, "a login over JSON-RPC cannot be written down, and is refused");
                    RpcError::Unknown("the audit cannot be written")
                })?;
                Signed { principal, password_hash: Some(password_hash) }
            }
            _ => return Err(RpcError::parameter("token", "a token, or email and password, are needed")),
        };
        let user = signed.principal.user;
        self.seat
            .belong_to(user)
            .map_err(|full| RpcError::TooManyConnections { user: user.to_string(), most: full.most })?;
        let shown = shown(&signed.principal);
        self.signed = Some(signed);
        Ok(shown)
    }

    /// Writes down what is about to be done.
    ///
    /// # Errors
    /// When it cannot be: then it must not be done.
    pub async fn intend(&self, action: &str, id: Option<String>) -> Result<Intent, RpcError> {
        let actor = Actor::of(self.principal()?, Via::Rpc, self.address);
        let object = Object { kind: "token".into(), id, name: None };
        self.app.audit.intend(actor, action, Some(object)).await.map_err(|error| {
            tracing::error!(%error, action, "a call over JSON-RPC cannot be written down, and is refused");
            RpcError::Unknown("the audit cannot be written")
        })
    }

    /// Writes a failed login down.
    async fn noting<T>(&self, checked: Result<T, AuthError>, name: Option<&str>) -> Result<T, AuthError> {
        if matches!(checked, Err(AuthError::Invalid)) {
            self.app.audit.login_failed(name, Via::Rpc, self.address).await;
        }
        checked
    }

    /// `session.signOut`
    ///
    /// # Errors
    /// If the address has too many connections that are nobody's.
    pub fn sign_out(&mut self) -> Result<Value, RpcError> {
        if self.signed.is_some() {
            self.seat.belong_to_nobody(self.address).map_err(|_| RpcError::Busy)?;
            self.signed = None;
        }
        Ok(true.into())
    }

    /// `session.getUser`
    pub fn user(&self) -> Value {
        self.signed.as_ref().map_or(Value::Null, |signed| shown(&signed.principal))
    }
}

fn shown(principal: &Principal) -> Value {
    json!({
        "id": principal.user,
        "email": principal.name,
        "name": principal.name,
        "groups": [],
        "permission": principal.role.permission(),
        "role": principal.role.name(),
        "preferences": {},
    })
}
