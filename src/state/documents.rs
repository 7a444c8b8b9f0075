//! The `ova.xml` documents of exports that somebody may go on with: an export is continued with the document that it
//! began with, whatever has become of its VM.

use rusqlite::{Connection, OptionalExtension, params};

use super::{StateError, now_ms};

/// Keeps a document under the entity tag of its plain export.
///
/// # Errors
/// [`StateError`] if the database cannot be written.
pub fn put(conn: &Connection, etag: &str, xml: &[u8]) -> Result<(), StateError> {
    conn.execute(
        "INSERT INTO export_documents (etag, xml, touched_ms) VALUES (?1, ?2, ?3)
         ON CONFLICT (etag) DO UPDATE SET touched_ms = excluded.touched_ms",
        params![etag, xml, now_ms()],
    )?;
    Ok(())
}

/// A kept document.
///
/// # Errors
/// [`StateError`] if the database cannot be read.
pub fn get(conn: &Connection, etag: &str) -> Result<Option<Vec<u8>>, StateError> {
    let mut query = conn.prepare_cached("SELECT xml FROM export_documents WHERE etag = ?1")?;
    Ok(query.query_row([etag], |row| row.get(0)).optional()?)
}

/// Forgets a document.
///
/// # Errors
/// [`StateError`] if the database cannot be written.
pub fn delete(conn: &Connection, etag: &str) -> Result<(), StateError> {
    conn.execute("DELETE FROM export_documents WHERE etag = ?1", [etag])?;
    Ok(())
}

/// Forgets all documents but those that are needed.
///
/// # Errors
/// [`StateError`] if the database cannot be written.
pub fn retain(conn: &Connection, needed: &[String]) -> Result<(), StateError> {
    let mut query = conn.prepare("SELECT etag FROM export_documents")?;
    let kept: Vec<String> = query.query_map([], |row| row.get(0))?.collect::<Result<_, _>>()?;
    kept.iter().filter(|etag| !needed.contains(etag)).try_for_each(|etag| delete(conn, etag))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::db::memory;

    #[test]
    fn a_document_stays_until_it_is_not_needed_any_more() {
        let conn = memory();
        put(&conn, "a", b"<a/>").unwrap();
        put(&conn, "b", b"<b/>").unwrap();
        put(&conn, "a", b"<a/>").unwrap();
        assert_eq!(get(&conn, "a").unwrap().as_deref(), Some(b"<a/>".as_slice()));
        retain(&conn, &["b".to_owned()]).unwrap();
        assert_eq!((get(&conn, "a").unwrap(), get(&conn, "b").unwrap().is_some()), (None, true));
        delete(&conn, "b").unwrap();
        assert_eq!(get(&conn, "b").unwrap(), None);
    }
}
