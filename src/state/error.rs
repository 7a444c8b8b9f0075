//! What can go wrong with stored state.

use std::path::PathBuf;

use rusqlite::{ErrorCode, ffi};

/// Stored state could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The disk is full, and what was kept for this case did not suffice.
    #[error("the file system of the state database is full")]
    Full,
    /// Another process holds the database for longer than one waits.
    #[error("the state database is in use by another process")]
    Busy,
    /// A later version of Gantry has written it.
    #[error("the state database {} is of version {found}, this program knows versions up to {known}", path.display())]
    Newer {
        /// The database.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest version that this program knows.
        known: i64,
    },
    /// The file belongs to something else.
    #[error("{} is not a state database of gantry (application id {application_id:#010x})", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The application id that it carries; 0 if it carries none.
        application_id: i64,
    },
    /// A value is not what this version writes.
    #[error("the state database holds {found:?} as {what}")]
    Corrupt {
        /// Table and column.
        what: &'static str,
        /// The value, shortened.
        found: String,
    },
    /// A file beside the database could not be used.
    #[error("{}: {source}", path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The thread that owned the database is gone.
    #[error("the state database is closed")]
    Closed,
    /// The queue of calls is full: only for calls that do not wait.
    #[error("too many calls wait for the state database")]
    Overloaded,
    /// The caller's code panicked; nothing of its transaction was kept.
    #[error("a call of the state database panicked: {message}")]
    Panicked {
        /// What the panic said.
        message: String,
    },
    /// Anything else that SQLite says.
    #[error("state database: {0}")]
    Database(#[source] rusqlite::Error),
}

impl StateError {
    /// An unexpected value.
    pub(crate) fn corrupt(what: &'static str, found: &str) -> Self {
        Self::Corrupt { what, found: found.chars().take(64).collect() }
    }
}

impl From<rusqlite::Error> for StateError {
    fn from(error: rusqlite::Error) -> Self {
        let Some(inner) = error.sqlite_error() else { return Self::Database(error) };
        match (inner.code, inner.extended_code) {
            // the index of the write-ahead log is mapped memory: growing it fails in its own way
            (ErrorCode::DiskFull, _) | (_, ffi::SQLITE_IOERR_SHMSIZE) => Self::Full,
            (ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked, _) => Self::Busy,
            _ => Self::Database(error),
        }
    }
}
