//! Making, changing and removing users.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::password::{PasswordError, Passwords};
use crate::ids::UserId;
use crate::state::tokens::TokenId;
use crate::state::users::{Role, User};
use crate::state::{DataDir, Db, StateError, now_ms, tokens, users};

/// The user that the first start makes.
pub(super) const FIRST_USER: &str = "admin";

/// Characters of a name.
const MAX_NAME_CHARS: usize = 128;

/// Bytes of a password.
const MAX_PASSWORD_BYTES: usize = 1024;

/// Random bytes of a password that is made up: 24 characters.
const MADE_UP_BYTES: usize = 18;

/// A user cannot be made, changed or removed.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// No name for a user.
    #[error("{name:?} is no user name (1 to {MAX_NAME_CHARS} characters, no colon, no control characters)")]
    BadName {
        /// The name, shortened.
        name: String,
    },
    /// The name is somebody's.
    #[error("there is a user {name:?} already")]
    NameTaken {
        /// The name.
        name: String,
    },
    /// Nobody has that name or id.
    #[error("there is no user {name:?}")]
    NoSuchUser {
        /// The name, or the id.
        name: String,
    },
    /// Nobody could undo it.
    #[error("{name:?} is the last administrator")]
    LastAdmin {
        /// The user.
        name: String,
    },
    /// An empty password, or one that is too long.
    #[error("a password has 1 to {MAX_PASSWORD_BYTES} bytes, this one has {found}")]
    BadPassword {
        /// Its length in bytes.
        found: usize,
    },
    /// The password is no text.
    #[error("the password in {place} is no UTF-8")]
    PasswordNotText {
        /// Where it was found.
        place: &'static str,
    },
    /// It could not be hashed.
    #[error(transparent)]
    Password(#[from] PasswordError),
    /// A file with a password could not be read, written or removed.
    #[error("{}: {source}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The system gives no random bytes.
    #[error("no random bytes: {0}")]
    Random(#[from] getrandom::Error),
    /// The state database failed.
    #[error(transparent)]
    State(#[from] StateError),
}

/// The name of a user: 1 to 128 characters, no colon (it ends the name in a Basic header), no control
/// characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserName(String);

impl UserName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for UserName {
    type Err = AccountError;

    fn from_str(text: &str) -> Result<Self, AccountError> {
        let fits = (1..=MAX_NAME_CHARS).contains(&text.chars().count());
        if fits && !text.chars().any(|c| c == ':' || c.is_control()) {
            Ok(Self(text.to_owned()))
        } else {
            Err(AccountError::BadName { name: text.chars().take(MAX_NAME_CHARS).collect() })
        }
    }
}

/// Which tokens outlive a change of the password.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KeepTokens {
    /// None.
    None,
    /// The one with which the change was made, by its family.
    Only(TokenId),
    /// All.
    All,
}

/// A new password that is easy to copy and hard to guess.
///
/// # Errors
/// If the system gives no random bytes.
pub fn random_password() -> Result<String, getrandom::Error> {
    let mut bytes = [0; MADE_UP_BYTES];
    getrandom::fill(&mut bytes)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

/// Refuses a password that nobody should have.
///
/// # Errors
/// [`AccountError::BadPassword`].
pub fn check_password_form(password: &str) -> Result<(), AccountError> {
    if (1..=MAX_PASSWORD_BYTES).contains(&password.len()) {
        Ok(())
    } else {
        Err(AccountError::BadPassword { found: password.len() })
    }
}

/// The users of one data directory.
#[derive(Clone)]
pub struct Accounts {
    db: Db,
    passwords: Passwords,
    /// Where the first start has left a password, which is to go when it is changed.
    made_up_path: PathBuf,
}

impl Accounts {
    /// The users in that database of that data directory.
    pub fn new(data: &DataDir, db: Db, passwords: Passwords) -> Self {
        Self { db, passwords, made_up_path: data.admin_password_path() }
    }

    /// Adds a user.
    ///
    /// # Errors
    /// [`AccountError::NameTaken`], [`AccountError::BadPassword`], or a failure.
    pub async fn add(&self, name: &UserName, role: Role, password: String) -> Result<User, AccountError> {
        self.add_as(UserId::random(), name, role, password).await
    }

    /// Adds a user whose id was chosen before.
    ///
    /// # Errors
    /// As [`Self::add`].
    pub async fn add_as(
        &self,
        id: UserId,
        name: &UserName,
        role: Role,
        password: String,
    ) -> Result<User, AccountError> {
        let user = User { id, ..new_user(&self.passwords, name.as_str(), role, password).await? };
        let row = user.clone();
        if self.db.transaction(move |transaction| users::insert(transaction, &row)).await? {
            Ok(user)
        } else {
            Err(AccountError::NameTaken { name: user.name })
        }
    }

    /// All users, by name.
    ///
    /// # Errors
    /// [`AccountError::State`].
    pub async fn list(&self) -> Result<Vec<User>, AccountError> {
        Ok(self.db.call(|conn| users::list(conn)).await?)
    }

    /// The user of that name.
    ///
    /// # Errors
    /// [`AccountError::NoSuchUser`], [`AccountError::State`].
    pub async fn by_name(&self, name: &str) -> Result<User, AccountError> {
        let wanted = name.to_owned();
        let found = self.db.call(move |conn| users::by_name(conn, &wanted)).await?;
        found.ok_or_else(|| AccountError::NoSuchUser { name: name.to_owned() })
    }

    /// Gives a user another password. Returns the families of the tokens that this has ended: what they have begun
    /// is to be cut.
    ///
    /// # Errors
    /// [`AccountError::NoSuchUser`], [`AccountError::BadPassword`], or a failure; [`AccountError::File`] if the
    /// password was changed but the file with the first one could not be removed.
    pub async fn set_password(
        &self,
        id: UserId,
        password: String,
        keep: KeepTokens,
    ) -> Result<Vec<TokenId>, AccountError> {
        check_password_form(&password)?;
        let hash = self.passwords.hash(password).await?;
        let changed = self
            .db
            .transaction(move |transaction| {
                let Some(user) = users::get(transaction, id)? else { return Ok(None) };
                users::set_password_hash(transaction, id, &hash)?;
                let ended = match keep {
                    KeepTokens::None => tokens::delete_of_user(transaction, id, None)?,
                    KeepTokens::Only(family) => tokens::delete_of_user(transaction, id, Some(family))?,
                    KeepTokens::All => Default::default(),
                };
                Ok(Some((user.name, ended)))
            })
            .await?;
        let (name, ended) = changed.ok_or_else(|| AccountError::NoSuchUser { name: id.to_string() })?;
        self.forget_made_up(&name).await?;
        Ok(ended.into_iter().collect())
    }

    /// Gives a user another role.
    ///
    /// # Errors
    /// [`AccountError::NoSuchUser`], [`AccountError::LastAdmin`], [`AccountError::State`].
    pub async fn set_role(&self, id: UserId, role: Role) -> Result<(), AccountError> {
        self.db
            .transaction(move |transaction| {
                let user = match losing_admin(transaction, id, role)? {
                    Ok(user) => user,
                    Err(refusal) => return Ok(Err(refusal)),
                };
                users::set_role(transaction, user.id, role)?;
                Ok(Ok(()))
            })
            .await?
    }

    /// Removes a user with all tokens. Returns the tokens' families: what they have begun is to be cut.
    ///
    /// # Errors
    /// [`AccountError::NoSuchUser`], [`AccountError::LastAdmin`], or a failure.
    pub async fn remove(&self, id: UserId) -> Result<Vec<TokenId>, AccountError> {
        let removed: Result<_, AccountError> = self
            .db
            .transaction(move |transaction| {
                let user = match losing_admin(transaction, id, Role::Viewer)? {
                    Ok(user) => user,
                    Err(refusal) => return Ok(Err(refusal)),
                };
                let ended = tokens::delete_of_user(transaction, id, None)?;
                users::delete(transaction, id)?;
                Ok(Ok((user.name, ended)))
            })
            .await?;
        let (name, ended) = removed?;
        self.forget_made_up(&name).await?;
        Ok(ended.into_iter().collect())
    }

    /// Removes the file with the first start's password once that password is nobody's.
    async fn forget_made_up(&self, name: &str) -> Result<(), AccountError> {
        if name != FIRST_USER {
            return Ok(());
        }
        match tokio::fs::remove_file(&self.made_up_path).await {
            Err(source) if source.kind() != std::io::ErrorKind::NotFound => {
                Err(AccountError::File { path: self.made_up_path.clone(), source })
            }
            _ => Ok(()),
        }
    }
}

/// The user, unless taking `role` instead would leave nobody who is an administrator.
fn losing_admin(
    conn: &rusqlite::Connection,
    id: UserId,
    role: Role,
) -> Result<Result<User, AccountError>, StateError> {
    let Some(user) = users::get(conn, id)? else {
        return Ok(Err(AccountError::NoSuchUser { name: id.to_string() }));
    };
    let loses = user.role == Role::Admin && role != Role::Admin;
    if loses && !users::others_have_role(conn, Role::Admin, id)? {
        return Ok(Err(AccountError::LastAdmin { name: user.name }));
    }
    Ok(Ok(user))
}

/// A user who is not stored yet.
pub(super) async fn new_user(
    passwords: &Passwords,
    name: &str,
    role: Role,
    password: String,
) -> Result<User, AccountError> {
    check_password_form(&password)?;
    Ok(User {
        id: UserId::random(),
        name: name.to_owned(),
        role,
        password_hash: passwords.hash(password).await?,
        created_ms: now_ms(),
    })
}

#[cfg(test)]
mod tests;
