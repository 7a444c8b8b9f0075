//! Single named values.

use rusqlite::{Connection, OptionalExtension};

use super::StateError;

/// The value of a key, if it has one.
///
/// # Errors
/// [`StateError`] if the database cannot be read.
pub fn get(conn: &Connection, key: &str) -> Result<Option<String>, StateError> {
    Ok(conn.query_row("SELECT value FROM meta WHERE key = ?1", [key], |row| row.get(0)).optional()?)
}

/// Gives a key its value, in place of the one that it had.
///
/// # Errors
/// [`StateError`] if the database cannot be written.
pub fn set(conn: &Connection, key: &str, value: &str) -> Result<(), StateError> {
    conn.execute(
        "INSERT INTO meta (key, value) VALUES (?1, ?2)
         ON CONFLICT (key) DO UPDATE SET value = excluded.value",
        [key, value],
    )?;
    Ok(())
}

/// Forgets a key. Whether it had a value.
///
/// # Errors
/// [`StateError`] if the database cannot be written.
pub fn delete(conn: &Connection, key: &str) -> Result<bool, StateError> {
    Ok(conn.execute("DELETE FROM meta WHERE key = ?1", [key])? > 0)
}
