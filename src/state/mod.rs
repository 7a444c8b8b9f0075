//! What survives a restart: one SQLite database, owned by one thread, behind small typed repositories.
//!
//! The file is opened in WAL mode with `synchronous = FULL`: what a transaction returned is on disk. Other
//! processes (the `user` and `token` commands, an operator's SQLite tool) may use it while the server runs.
//! Times are Unix milliseconds and come from the caller.

pub mod audit;
mod ballast;
pub mod datadir;
mod db;
pub mod disks;
pub mod documents;
mod error;
pub mod frames;
pub mod idempotency;
pub mod jobs;
pub mod meta;
mod migrations;
pub mod moves;
pub mod networks;
pub mod objects;
pub mod tokens;
pub mod users;
pub mod vms;

pub use datadir::{DataDir, DataDirError};
pub use db::Db;
pub use error::StateError;
pub use migrations::{APPLICATION_ID, SCHEMA_VERSION};

/// The current time in Unix milliseconds.
pub fn now_ms() -> i64 {
    jiff::Timestamp::now().as_millisecond()
}
