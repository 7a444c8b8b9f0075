//! Whose database it is, which version it has, and the way from one version to the next.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rusqlite::backup::Backup;
use rusqlite::{Connection, TransactionBehavior};

use super::StateError;

/// SQLite's `application_id` of a Gantry database: the letters `GNTY`.
pub const APPLICATION_ID: i32 = 0x474E_5459;

/// SQLite's `user_version` of a database that this program writes.
pub const SCHEMA_VERSION: i64 = MIGRATIONS.len() as i64;

/// The statements that lead from version `n` to `n + 1` stand at index `n`. What stands here once has been released
/// and is not changed any more.
pub(super) const MIGRATIONS: &[&str] =
    &[include_str!("schema_v1.sql"), include_str!("schema_v2.sql"), include_str!("schema_v3.sql")];

/// Indexes that came after the tables that they are of. They change nothing of what the database says, so a former
/// program can go on with it, and they need no version of their own. Each is asked for with every object of a collection.
const LATE_INDEXES: &str = "
    CREATE INDEX IF NOT EXISTS vdis_by_origin ON vdis (snapshot_of) WHERE snapshot_of IS NOT NULL;
    CREATE INDEX IF NOT EXISTS contents_by_parent ON contents (parent_id) WHERE parent_id IS NOT NULL;";

/// Makes the indexes that are not there yet. Without them everything works, only slower: where there is no room for
/// them, say, that is no reason not to start.
pub(super) fn index(conn: &Connection) {
    if let Err(error) = conn.execute_batch(LATE_INDEXES) {
        tracing::warn!(%error, "indexes of the state database are missing");
    }
}

/// The file's version; 0 for a new one.
///
/// # Errors
/// [`StateError::Foreign`] and [`StateError::Newer`], before anything was changed.
pub(super) fn check(conn: &Connection, path: &Path, known: i64) -> Result<i64, StateError> {
    let application_id: i64 = pragma(conn, "application_id")?;
    let found = pragma(conn, "user_version")?;
    let tables: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let ours = application_id == i64::from(APPLICATION_ID);
    let new = application_id == 0 && found == 0 && tables == 0;
    if !ours && !new {
        return Err(StateError::Foreign { path: path.to_owned(), application_id });
    }
    if found > known {
        return Err(StateError::Newer { path: path.to_owned(), found, known });
    }
    Ok(found)
}

/// Brings the database to the newest version in one transaction. One that holds something is copied to
/// `<file>.backup-v<version>` first.
pub(super) fn migrate(conn: &mut Connection, path: &Path, migrations: &[&str]) -> Result<(), StateError> {
    let known = i64::try_from(migrations.len()).unwrap_or(i64::MAX);
    let before = check(conn, path, known)?;
    if before == known {
        return Ok(());
    }
    if before > 0 {
        back_up(conn, path, before)?;
    }
    let transaction = conn.transaction_with_behavior(TransactionBehavior::Immediate)?;
    // another process may have been faster
    let current = check(&transaction, path, known)?;
    for statements in migrations.iter().skip(usize::try_from(current).unwrap_or(usize::MAX)) {
        transaction.execute_batch(statements)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.pragma_update(None, "user_version", known)?;
    transaction.commit()?;
    tracing::info!(from = before, to = known, path = %path.display(), "state database brought up to date");
    Ok(())
}

fn pragma(conn: &Connection, name: &str) -> Result<i64, StateError> {
    Ok(conn.pragma_query_value(None, name, |row| row.get(0))?)
}

/// Copies the database, so that an older program can be put back.
fn back_up(conn: &Connection, path: &Path, version: i64) -> Result<(), StateError> {
    let target = beside(path, &format!(".backup-v{version}"));
    let partial = beside(path, &format!(".backup-v{version}.partial"));
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| StateError::Io { path, source }
    };
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(&partial)
        .map_err(io(&partial))?;
    let mut copy = Connection::open(&partial)?;
    Backup::new(conn, &mut copy)?.run_to_completion(1024, std::time::Duration::ZERO, None)?;
    copy.close().map_err(|(_, error)| error)?;
    file.sync_all().map_err(io(&partial))?;
    std::fs::rename(&partial, &target).map_err(io(&target))?;
    sync_folder_of(&target)
}

/// Makes the names in the file's folder durable.
pub(super) fn sync_folder_of(path: &Path) -> Result<(), StateError> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|source| StateError::Io { path: folder.to_owned(), source })
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    PathBuf::from(name)
}
