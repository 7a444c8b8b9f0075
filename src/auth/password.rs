//! Passwords: argon2id with the library's default parameters (19 MiB, two passes), never on an executor's
//! thread and never more than two at once.

use std::sync::Arc;

use argon2::Argon2;
use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{self, PasswordHasher, PasswordVerifier};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Hashes that are computed at once: each takes 19 MiB and a core for some 40 ms.
const AT_ONCE: usize = 2;

/// Stands in for the hash of a user that does not exist, so that a wrong name costs what a wrong password does. The
/// hash of nothing in particular, with the default parameters.
const DECOY: &str = "$argon2id$v=19$m=19456,t=2,p=1$Z2FudHJ5LWRlY295LXNhbHQ$\
     AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";

/// A password could not be hashed or compared.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// The library refused.
    #[error("the password cannot be hashed: {0}")]
    Hash(password_hash::Error),
    /// What is stored is no hash.
    #[error("the stored password hash cannot be read: {0}")]
    Stored(password_hash::phc::Error),
    /// The process is shutting down.
    #[error("password hashing has stopped")]
    Stopped,
}

/// Hashes and compares passwords. Clones share the limit.
#[derive(Debug, Clone)]
pub struct Passwords {
    turns: Arc<Semaphore>,
}

impl Default for Passwords {
    fn default() -> Self {
        Self::new()
    }
}

impl Passwords {
    /// A hasher with a limit of its own: make one per process.
    pub fn new() -> Self {
        Self { turns: Arc::new(Semaphore::new(AT_ONCE)) }
    }

    /// The hash of a new password as a PHC string.
    ///
    /// # Errors
    /// [`PasswordError::Hash`], [`PasswordError::Stopped`].
    pub async fn hash(&self, password: String) -> Result<String, PasswordError> {
        let turn = self.turn().await?;
        run(turn, move || {
            let hash = Argon2::default().hash_password(password.as_bytes()).map_err(PasswordError::Hash)?;
            Ok(hash.to_string())
        })
        .await
    }

    /// Waits for a turn to compute.
    pub(super) async fn turn(&self) -> Result<OwnedSemaphorePermit, PasswordError> {
        Arc::clone(&self.turns).acquire_owned().await.map_err(|_| PasswordError::Stopped)
    }
}

/// Compares a password with a hash, or with none, which takes as long and is never equal; then calls `then` with
/// the outcome, also when the caller does not wait for it any more.
pub(super) async fn verify(
    turn: OwnedSemaphorePermit,
    password: String,
    hash: Option<String>,
    then: impl FnOnce(bool) + Send + 'static,
) -> Result<bool, PasswordError> {
    run(turn, move || {
        let parsed = PasswordHash::new(hash.as_deref().unwrap_or(DECOY)).map_err(PasswordError::Stored)?;
        let equal = match Argon2::default().verify_password(password.as_bytes(), &parsed) {
            Ok(()) => hash.is_some(),
            Err(password_hash::Error::PasswordInvalid) => false,
            Err(error) => return Err(PasswordError::Hash(error)),
        };
        then(equal);
        Ok(equal)
    })
    .await
}

/// Runs it on a thread that may compute for long; the turn ends with it, not with the caller.
async fn run<R: Send + 'static>(
    turn: OwnedSemaphorePermit,
    work: impl FnOnce() -> Result<R, PasswordError> + Send + 'static,
) -> Result<R, PasswordError> {
    let task = tokio::task::spawn_blocking(move || {
        let _turn = turn;
        work()
    });
    task.await.map_err(|_| PasswordError::Stopped)?
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    async fn equal(password: &str, hash: Option<&str>) -> bool {
        let turn = Passwords::new().turn().await.unwrap();
        verify(turn, password.to_owned(), hash.map(str::to_owned), |_| {}).await.unwrap()
    }

    #[tokio::test]
    async fn a_password_is_known_again_and_another_one_is_not() {
        let passwords = Passwords::new();
        let hash = passwords.hash("geheim".to_owned()).await.unwrap();
        assert!(hash.starts_with("$argon2id$v=19$"), "{hash}");
        assert!(equal("geheim", Some(&hash)).await);
        assert!(!equal("Geheim", Some(&hash)).await);
        assert_ne!(hash, passwords.hash("geheim".to_owned()).await.unwrap(), "no salt");
    }

    #[tokio::test]
    async fn the_decoy_costs_what_a_hash_costs_and_equals_nothing() {
        let hash = Passwords::new().hash("x".to_owned()).await.unwrap();
        let cost = |hash: &str| hash.split('$').take(4).map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(cost(DECOY), cost(&hash));
        assert!(!equal("x", None).await);
        assert!(!equal("", None).await);
    }

    #[tokio::test]
    async fn a_damaged_hash_is_an_error_and_not_a_wrong_password() {
        let turn = Passwords::new().turn().await.unwrap();
        let called = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&called);
        let outcome = verify(turn, "x".to_owned(), Some("plain".to_owned()), move |_| {
            seen.store(true, Ordering::SeqCst);
        })
        .await;
        assert!(matches!(outcome, Err(PasswordError::Stored(_))), "{outcome:?}");
        assert!(!called.load(Ordering::SeqCst));
    }

    #[tokio::test]
    async fn no_more_than_two_hashes_are_computed_at_once() {
        let passwords = Passwords::new();
        let (_first, _second) = (passwords.turn().await.unwrap(), passwords.turn().await.unwrap());
        assert_eq!(passwords.turns.available_permits(), 0);
    }
}
