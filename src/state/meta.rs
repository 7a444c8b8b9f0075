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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::db::memory;

    #[test]
    fn a_key_has_the_value_that_was_set_last() {
        let conn = memory();
        assert_eq!(get(&conn, "a").unwrap(), None);
        set(&conn, "a", "1").unwrap();
        set(&conn, "a", "2").unwrap();
        assert_eq!(get(&conn, "a").unwrap().as_deref(), Some("2"));
        assert!(delete(&conn, "a").unwrap());
        assert!(!delete(&conn, "a").unwrap());
    }
}
