//! Moves of files whose content stays what it is: under way from one name to another.
//!
//! A move is kept as an intent in which a content replaces itself; it is about no VDI, and no commit.

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::ids::{ContentId, SrId};

use super::disks::parsed;

/// A move, written before the file gets its second name, deleted when it has lost its first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoveRow {
    /// Whose file it is.
    pub content: ContentId,
    /// The SR in whose directory it lies.
    pub sr: SrId,
    /// Its name before, relative to the SR's directory.
    pub from: String,
    /// Its name afterwards. The move is in effect as soon as this is the name in the content's row.
    pub to: String,
}

fn row(row: &Row<'_>) -> rusqlite::Result<MoveRow> {
    Ok(MoveRow {
        content: parsed(row, "content_id")?,
        sr: parsed(row, "sr_id")?,
        from: row.get("old_file")?,
        to: row.get("aside")?,
    })
}

/// Notes that a file is about to be moved.
pub fn insert(db: &Connection, row: &MoveRow) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT INTO intents (content_id, sr_id, vdi_id, staged, target, old_content_id, old_file, aside,
                              job_id, epoch)
         VALUES (?1, ?2, '', '', ?4, ?1, ?3, ?4, NULL, 0)",
    )?
    .execute(params![row.content.to_string(), row.sr.to_string(), row.from, row.to])?;
    Ok(())
}

/// The move of a content's file that is not through yet.
pub fn find(db: &Connection, content: ContentId) -> rusqlite::Result<Option<MoveRow>> {
    db.prepare_cached("SELECT * FROM intents WHERE content_id = ?1 AND old_content_id = content_id")?
        .query_row([content.to_string()], row)
        .optional()
}

/// All moves of an SR's files that are not through yet.
pub fn of_sr(db: &Connection, sr: SrId) -> rusqlite::Result<Vec<MoveRow>> {
    db.prepare_cached("SELECT * FROM intents WHERE sr_id = ?1 AND old_content_id = content_id")?
        .query_map([sr.to_string()], row)?
        .collect()
}

/// Notes that the move of a content's file is through.
pub fn delete(db: &Connection, content: ContentId) -> rusqlite::Result<()> {
    db.prepare_cached("DELETE FROM intents WHERE content_id = ?1 AND old_content_id = content_id")?
        .execute([content.to_string()])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::{db, disks};

    #[test]
    fn a_move_is_no_commit() {
        let conn = db::memory();
        let sr = SrId::random();
        let one = MoveRow { content: ContentId::random(), sr, from: "a.raw".into(), to: "b.raw".into() };
        insert(&conn, &one).unwrap();
        assert_eq!(find(&conn, one.content).unwrap(), Some(one.clone()));
        assert_eq!(of_sr(&conn, sr).unwrap(), std::slice::from_ref(&one));
        assert_eq!(disks::intents_of_sr(&conn, sr).unwrap(), []);
        assert!(insert(&conn, &one).is_err(), "a file makes one move at a time");
        delete(&conn, one.content).unwrap();
        assert_eq!(find(&conn, one.content).unwrap(), None);
    }
}
