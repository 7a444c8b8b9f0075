//! The first start makes the user `admin`, so that there is somebody who can log in.

use std::ffi::OsString;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use super::accounts::{AccountError, FIRST_USER, new_user, random_password};
use super::password::Passwords;
use crate::state::users::Role;
use crate::state::{DataDir, Db, StateError, users};

/// Where the first start finds the password of `admin`. Looked at only when there is no user yet.
#[derive(Clone, Default)]
pub struct AdminPasswordSource {
    /// `GANTRY_ADMIN_PASSWORD`.
    pub password: Option<OsString>,
    /// `GANTRY_ADMIN_PASSWORD_FILE`, when the other is not set.
    pub file: Option<PathBuf>,
}

impl AdminPasswordSource {
    /// From this process's environment. A variable that is set to nothing counts as not set.
    pub fn from_env() -> Self {
        let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
        Self {
            password: set("GANTRY_ADMIN_PASSWORD"),
            file: set("GANTRY_ADMIN_PASSWORD_FILE").map(PathBuf::from),
        }
    }

    /// The password that was given, if one was.
    async fn read(&self) -> Result<Option<String>, AccountError> {
        if let Some(password) = &self.password {
            let text = password.to_str().map(str::to_owned);
            return text.map(Some).ok_or(AccountError::PasswordNotText { place: "GANTRY_ADMIN_PASSWORD" });
        }
        let Some(path) = &self.file else { return Ok(None) };
        let bytes = read_short(path.clone()).await?;
        let text = String::from_utf8(bytes)
            .map_err(|_| AccountError::PasswordNotText { place: "GANTRY_ADMIN_PASSWORD_FILE" })?;
        Ok(Some(strip_line_end(&text).to_owned()))
    }
}

/// Without the one line feed that editors and `echo` put at the end.
fn strip_line_end(text: &str) -> &str {
    let text = text.strip_suffix('\n').unwrap_or(text);
    text.strip_suffix('\r').unwrap_or(text)
}

/// The beginning of a file: no more than shows that it is too long for a password.
async fn read_short(path: PathBuf) -> Result<Vec<u8>, AccountError> {
    use tokio::io::AsyncReadExt as _;
    let read = async {
        let mut bytes = Vec::new();
        tokio::fs::File::open(&path).await?.take(4096).read_to_end(&mut bytes).await?;
        Ok(bytes)
    };
    read.await.map_err(|source| AccountError::File { path: path.clone(), source })
}

/// What a start found or did.
#[derive(Clone, PartialEq, Eq)]
pub enum FirstStart {
    /// There are users.
    Existing,
    /// `admin` was made with the password that was given.
    Given,
    /// `admin` was made with a password that was made up.
    MadeUp {
        /// The password, to be shown once.
        password: String,
        /// The file in which it is kept until it is changed.
        path: PathBuf,
    },
}

impl FirstStart {
    /// What the person who started the program should read, on stderr.
    pub fn notice(&self) -> Option<String> {
        match self {
            Self::Existing | Self::Given => None,
            Self::MadeUp { password, path } => Some(format!(
                "first start: log in as \"{FIRST_USER}\" with the password {password}\n\
                 (also in {} until it is changed)",
                path.display()
            )),
        }
    }

    /// Writes the notice to stderr, if there is one. That stderr is closed is no reason not to start.
    pub fn announce(&self) {
        if let Some(notice) = self.notice() {
            let _ = writeln!(std::io::stderr().lock(), "{notice}");
        }
    }
}

/// Makes the user `admin` if there is no user at all: with the password that is given, or with one that is made up
/// and kept in `<data>/admin-password` (mode 0600).
///
/// # Errors
/// [`AccountError`] if a given password cannot be read or is none, or the state cannot be written.
pub async fn ensure_admin(
    data: &DataDir,
    db: &Db,
    passwords: &Passwords,
    source: &AdminPasswordSource,
) -> Result<FirstStart, AccountError> {
    if !db.call(|conn| users::is_empty(conn)).await? {
        return Ok(FirstStart::Existing);
    }
    let (password, made_up) = match source.read().await? {
        Some(given) => (given, None),
        None => {
            let password = random_password()?;
            (password.clone(), Some(password))
        }
    };
    let user = new_user(passwords, FIRST_USER, Role::Admin, password).await?;
    let path = data.admin_password_path();
    let kept = made_up.clone().map(|password| (path.clone(), password));
    let made = db
        .transaction(move |transaction| {
            // another process may have made it meanwhile, and its password is then the one in the file
            if !users::is_empty(transaction)? {
                return Ok(false);
            }
            if let Some((path, password)) = &kept {
                // before the user is there, so that no crash leaves a user whose password nobody knows
                keep(path, password).map_err(|source| StateError::Io { path: path.clone(), source })?;
            }
            users::insert(transaction, &user)
        })
        .await?;
    Ok(match made_up {
        _ if !made => FirstStart::Existing,
        None => FirstStart::Given,
        Some(password) => FirstStart::MadeUp { password, path },
    })
}

/// Writes the password down for its owner alone.
fn keep(path: &Path, password: &str) -> std::io::Result<()> {
    // an old file would keep its old mode
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    writeln!(file, "{password}")?;
    file.sync_all()
}

#[cfg(test)]
mod tests;
