//! Objects that have no table of their own (pools, hosts), as versioned JSON documents.

use rusqlite::{Connection, OptionalExtension, Row};

use super::StateError;

/// A stored object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectDoc {
    /// Its id as clients see it.
    pub id: String,
    /// What it is: `pool`, `host`.
    pub kind: String,
    /// Version of the document's shape.
    pub version: u32,
    /// The document, JSON; kept as it is.
    pub doc: String,
}

fn from_row(row: &Row<'_>) -> rusqlite::Result<ObjectDoc> {
    Ok(ObjectDoc { id: row.get(0)?, kind: row.get(1)?, version: row.get(2)?, doc: row.get(3)? })
}

/// Stores an object, in place of the one that had its id.
///
/// # Errors
/// [`StateError`] if the database cannot be written.
pub fn put(conn: &Connection, object: &ObjectDoc) -> Result<(), StateError> {
    conn.execute(
        "INSERT INTO objects (id, type, version, doc) VALUES (?1, ?2, ?3, ?4)
         ON CONFLICT (id) DO UPDATE SET type = excluded.type, version = excluded.version, doc = excluded.doc",
        (&object.id, &object.kind, object.version, &object.doc),
    )?;
    Ok(())
}

/// The object with that id.
///
/// # Errors
/// [`StateError`] if the database cannot be read.
pub fn get(conn: &Connection, id: &str) -> Result<Option<ObjectDoc>, StateError> {
    Ok(conn
        .query_row("SELECT id, type, version, doc FROM objects WHERE id = ?1", [id], from_row)
        .optional()?)
}

/// All objects of a kind, by id.
///
/// # Errors
/// [`StateError`] if the database cannot be read.
pub fn list(conn: &Connection, kind: &str) -> Result<Vec<ObjectDoc>, StateError> {
    let mut query = conn.prepare("SELECT id, type, version, doc FROM objects WHERE type = ?1 ORDER BY id")?;
    let rows = query.query_map([kind], from_row)?;
    Ok(rows.collect::<Result<_, _>>()?)
}

/// Removes an object. Whether there was one.
///
/// # Errors
/// [`StateError`] if the database cannot be written.
pub fn delete(conn: &Connection, id: &str) -> Result<bool, StateError> {
    Ok(conn.execute("DELETE FROM objects WHERE id = ?1", [id])? > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::db::memory;

    #[test]
    fn documents_are_kept_as_they_are_and_listed_by_kind() {
        let conn = memory();
        let object = |id: &str, kind: &str, doc: &str| ObjectDoc {
            id: id.to_owned(),
            kind: kind.to_owned(),
            version: 1,
            doc: doc.to_owned(),
        };
        let (pool, host) = (object("p", "pool", "{ \"b\":1, \"a\" : 2 }"), object("h", "host", "{}"));
        put(&conn, &pool).unwrap();
        put(&conn, &host).unwrap();
        assert_eq!(get(&conn, "p").unwrap(), Some(pool.clone()));
        let changed = ObjectDoc { version: 2, doc: "[]".to_owned(), ..pool };
        put(&conn, &changed).unwrap();
        assert_eq!(list(&conn, "pool").unwrap(), [changed]);
        assert!(delete(&conn, "h").unwrap() && !delete(&conn, "h").unwrap());
        assert_eq!(list(&conn, "host").unwrap(), []);
    }
}
