//! From credentials to a [`Principal`].

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::password::{self, PasswordError, Passwords};
use super::throttle::Throttle;
use super::{Credentials, Principal};
use crate::config;
use crate::state::tokens::{SecretHash, TokenId, TokenRecord};
use crate::state::users::User;
use crate::state::{Db, StateError, now_ms, tokens, users};

/// A token's last use is written down at most that often.
const LAST_USE_EVERY_MS: i64 = 60_000;

/// Credentials did not lead to a principal.
#[derive(Debug, thiserror::Error)]
pub enum AuthError {
    /// An unknown, expired or revoked token, an unknown name or a wrong password (401).
    #[error("invalid credentials")]
    Invalid,
    /// A password after too many failures; it was not looked at (429).
    #[error("too fast authentication tries")]
    TooFast {
        /// How long to wait before the next try.
        retry_after: Duration,
    },
    /// The state database failed.
    #[error(transparent)]
    State(#[from] StateError),
    /// The password could not be compared.
    #[error(transparent)]
    Password(#[from] PasswordError),
}

/// Checks credentials. Clones share the memory of failures.
#[derive(Clone)]
pub struct Authenticator {
    db: Db,
    passwords: Passwords,
    throttle: Arc<Mutex<Throttle>>,
}

impl Authenticator {
    /// One for the whole process.
    pub fn new(db: Db, passwords: Passwords, config: &config::Auth) -> Self {
        Self { db, passwords, throttle: Arc::new(Mutex::new(Throttle::new(config))) }
    }

    /// Who shows these credentials, from that address.
    ///
    /// # Errors
    /// [`AuthError`]; [`AuthError::TooFast`] for passwords only.
    pub async fn authenticate(
        &self,
        credentials: Credentials,
        address: IpAddr,
    ) -> Result<Principal, AuthError> {
        match credentials {
            Credentials::Token(secret) => self.by_token(&secret, address).await,
            Credentials::Password { user, password } => {
                let user = self.check_password(user, password, address).await?;
                Ok(Principal { user: user.id, name: user.name, role: user.role, token: None })
            }
        }
    }

    /// The user of that name, if the password is theirs. Failures count wherever the password came from.
    ///
    /// # Errors
    /// [`AuthError`].
    pub async fn check_password(
        &self,
        name: String,
        password: String,
        address: IpAddr,
    ) -> Result<User, AuthError> {
        self.not_too_fast(&name, address)?;
        let turn = self.passwords.turn().await?;
        // others may have failed while this one waited for its turn: a flood gets no more guesses than a trickle
        self.not_too_fast(&name, address)?;
        let wanted = name.clone();
        let user = self.db.call(move |conn| users::by_name(conn, &wanted)).await?;
        let hash = user.as_ref().map(|user| user.password_hash.clone());
        let throttle = Arc::clone(&self.throttle);
        let note = move |equal: bool| {
            if !equal {
                let mut throttle = throttle.lock().unwrap_or_else(PoisonError::into_inner);
                throttle.failed(&name, address, Instant::now());
            }
        };
        let equal = password::verify(turn, password, hash, note).await?;
        user.filter(|_| equal).ok_or(AuthError::Invalid)
    }

    fn not_too_fast(&self, name: &str, address: IpAddr) -> Result<(), AuthError> {
        let throttle = self.throttle.lock().unwrap_or_else(PoisonError::into_inner);
        match throttle.wait(name, address, Instant::now()) {
            Some(retry_after) => Err(AuthError::TooFast { retry_after }),
            None => Ok(()),
        }
    }

    async fn by_token(&self, secret: &str, address: IpAddr) -> Result<Principal, AuthError> {
        let hash = SecretHash::of(secret);
        let now = now_ms();
        let found: Option<(TokenRecord, User)> = self
            .db
            .call(move |conn| {
                let Some(token) = tokens::by_secret(conn, &hash, now)? else { return Ok(None) };
                Ok(users::get(conn, token.user)?.map(|user| (token, user)))
            })
            .await?;
        let (token, user) = found.ok_or(AuthError::Invalid)?;
        if token.last_used_ms.is_none_or(|last| last < now - LAST_USE_EVERY_MS) {
            self.note_use(token.id, now, address);
        }
        Ok(Principal { user: user.id, name: user.name, role: user.role, token: Some(token) })
    }

    /// Writes down the use without making the request wait for the disk.
    fn note_use(&self, id: TokenId, now: i64, address: IpAddr) {
        let address = address.to_canonical().to_string();
        let noted = self.db.post("a token's last use", move |transaction| {
            tokens::touch(transaction, id, now, now - LAST_USE_EVERY_MS, &address)
        });
        if let Err(error) = noted {
            tracing::debug!(%error, token = %id, "a token's last use was not noted");
        }
    }
}

#[cfg(test)]
mod tests;
