//! Frame indexes of compressed exports: where the frames are, as far as they are known. The segments are opaque here.
//!
//! An index grows by segments. Each says which frame it begins with, and is taken only if that is the next one: so two
//! who compress the same export cannot mix what they found. An index goes with the contents that it was made of.

use rusqlite::{Connection, OptionalExtension, params};

use super::StateError;

/// What an index belongs to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewIndex<'a> {
    /// Entity tag of the compressed export.
    pub etag: &'a str,
    /// Version of the segments' encoding.
    pub version: u32,
    /// How many frames the whole has.
    pub windows: u64,
    /// Ids of the contents that it is made of.
    pub contents: &'a [String],
}

/// Some frames more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewSegment<'a> {
    /// Number of its first frame.
    pub first: u64,
    /// How many frames it has.
    pub frames: u64,
    /// Their length together, in bytes.
    pub bytes: u64,
    /// The frames, encoded.
    pub entries: &'a [u8],
}

/// How far an index is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IndexState {
    /// Version of the segments' encoding.
    pub version: u32,
    /// How many frames the whole has.
    pub windows: u64,
    /// How many are recorded, from the first one on.
    pub frames: u64,
    /// Their length together, in bytes.
    pub bytes: u64,
}

impl IndexState {
    /// Whether all frames are recorded.
    pub fn is_complete(&self) -> bool {
        self.frames == self.windows
    }
}

/// An index with its segments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredIndex {
    /// How far it is.
    pub state: IndexState,
    /// The segments, in order.
    pub segments: Vec<Vec<u8>>,
}

/// Begins an index, or goes on with the one that there is. One of another version, or of another number of frames, is
/// forgotten first.
///
/// # Errors
/// [`StateError`] if the database cannot be written.
pub fn begin(conn: &Connection, index: &NewIndex<'_>, now_ms: i64) -> Result<IndexState, StateError> {
    let (version, windows) = (index.version, index.windows);
    match state(conn, index.etag)? {
        Some(found) if (found.version, found.windows) == (version, windows) => {
            touch(conn, index.etag, now_ms)?;
            return Ok(found);
        }
        Some(_) => forget(conn, index.etag).map(drop)?,
        None => {}
    }
    conn.prepare_cached(
        "INSERT INTO frame_indexes (etag, version, windows, frames, bytes, touched_ms) VALUES (?1, ?2, ?3, 0, 0, ?4)",
    )?
    .execute(params![index.etag, version, as_integer(windows), now_ms])?;
    let mut insert =
        conn.prepare_cached("INSERT OR IGNORE INTO frame_contents (etag, content_id) VALUES (?1, ?2)")?;
    for content in index.contents {
        insert.execute(params![index.etag, content])?;
    }
    Ok(IndexState { version, windows, frames: 0, bytes: 0 })
}

/// Appends a segment. Whether it was taken: it is not when there is no such index, when others than the frames before
/// it are recorded, or when it has more than are missing.
///
/// # Errors
/// [`StateError`] if the database cannot be written.
pub fn append(
    conn: &Connection,
    etag: &str,
    segment: &NewSegment<'_>,
    now_ms: i64,
) -> Result<bool, StateError> {
    let (first, frames) = (as_integer(segment.first), as_integer(segment.frames));
    if frames == 0 {
        return Ok(false);
    }
    let is_next = conn
        .prepare_cached(
            "UPDATE frame_indexes SET frames = frames + ?3, bytes = bytes + ?4, touched_ms = ?5
             WHERE etag = ?1 AND frames = ?2 AND windows - frames >= ?3",
        )?
        .execute(params![etag, first, frames, as_integer(segment.bytes), now_ms])?
        > 0;
    if is_next {
        conn.prepare_cached("INSERT INTO frame_segments (etag, first, entries) VALUES (?1, ?2, ?3)")?
            .execute(params![etag, first, segment.entries])?;
    }
    Ok(is_next)
}

/// How far an index is; `None` if there is none.
///
/// # Errors
/// [`StateError`] if the database cannot be read.
pub fn state(conn: &Connection, etag: &str) -> Result<Option<IndexState>, StateError> {
    let read = |row: &rusqlite::Row<'_>| {
        let count = |at| row.get::<_, i64>(at).map(|count| u64::try_from(count).unwrap_or(0));
        Ok(IndexState { version: row.get(0)?, windows: count(1)?, frames: count(2)?, bytes: count(3)? })
    };
    Ok(conn
        .prepare_cached("SELECT version, windows, frames, bytes FROM frame_indexes WHERE etag = ?1")?
        .query_row([etag], read)
        .optional()?)
}

/// An index with its segments, which is now in use; `None` if there is none.
///
/// # Errors
/// [`StateError`] if the database cannot be read or written.
pub fn load(conn: &Connection, etag: &str, now_ms: i64) -> Result<Option<StoredIndex>, StateError> {
    let Some(state) = state(conn, etag)? else { return Ok(None) };
    touch(conn, etag, now_ms)?;
    let mut query =
        conn.prepare_cached("SELECT entries FROM frame_segments WHERE etag = ?1 ORDER BY first")?;
    let segments = query.query_map([etag], |row| row.get(0))?.collect::<Result<_, _>>()?;
    Ok(Some(StoredIndex { state, segments }))
}

/// Notes that an index is in use.
fn touch(conn: &Connection, etag: &str, now_ms: i64) -> Result<(), StateError> {
    conn.prepare_cached("UPDATE frame_indexes SET touched_ms = ?2 WHERE etag = ?1 AND touched_ms < ?2")?
        .execute(params![etag, now_ms])?;
    Ok(())
}

/// Forgets an index: nobody can go on with it. Whether there was one.
///
/// # Errors
/// [`StateError`] if the database cannot be written.
pub fn forget(conn: &Connection, etag: &str) -> Result<bool, StateError> {
    Ok(conn.prepare_cached("DELETE FROM frame_indexes WHERE etag = ?1")?.execute([etag])? > 0)
}

/// Forgets all indexes that are made of a content, among others. How many there were.
///
/// # Errors
/// [`StateError`] if the database cannot be written.
pub fn forget_content(conn: &Connection, content_id: &str) -> Result<usize, StateError> {
    Ok(conn
        .prepare_cached(
            "DELETE FROM frame_indexes
             WHERE etag IN (SELECT etag FROM frame_contents WHERE content_id = ?1)",
        )?
        .execute([content_id])?)
}

/// Forgets the indexes that were not in use for the longest time, complete or not, until there are at most `most_indexes`
/// whose segments have at most `most_bytes`. How many were forgotten.
///
/// # Errors
/// [`StateError`] if the database cannot be written.
pub fn forget_oldest(conn: &Connection, most_indexes: u64, most_bytes: u64) -> Result<usize, StateError> {
    Ok(conn
        .prepare_cached(
            "DELETE FROM frame_indexes WHERE etag IN (
                 SELECT etag FROM (
                     SELECT etag, row_number() OVER ranks AS place, sum(stored) OVER ranks AS bytes FROM (
                         SELECT etag, touched_ms, coalesce((SELECT sum(length(entries)) FROM frame_segments
                             WHERE frame_segments.etag = frame_indexes.etag), 0) AS stored
                         FROM frame_indexes)
                     WINDOW ranks AS (ORDER BY touched_ms DESC, etag ROWS UNBOUNDED PRECEDING))
                 WHERE place > ?1 OR bytes > ?2)",
        )?
        .execute(params![as_integer(most_indexes), as_integer(most_bytes)])?)
}

fn as_integer(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::db::memory;

    fn start(conn: &Connection, etag: &str, windows: u64, contents: &[&str], now_ms: i64) -> IndexState {
        let contents: Vec<String> = contents.iter().map(|&content| content.to_owned()).collect();
        begin(conn, &NewIndex { etag, version: 1, windows, contents: &contents }, now_ms).unwrap()
    }

    fn add(conn: &Connection, etag: &str, first: u64, frames: u64, now_ms: i64) -> bool {
        let entries = vec![first as u8; frames as usize * 12];
        append(conn, etag, &NewSegment { first, frames, bytes: frames * 100, entries: &entries }, now_ms)
            .unwrap()
    }

    fn etags(conn: &Connection) -> Vec<String> {
        let mut query = conn.prepare("SELECT etag FROM frame_indexes ORDER BY etag").unwrap();
        query.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
    }

    fn rows(conn: &Connection, table: &str) -> u32 {
        conn.query_row(&format!("SELECT count(*) FROM {table}"), [], |row| row.get(0)).unwrap()
    }

    #[test]
    fn an_index_grows_by_segments_and_is_found_again_as_it_is() {
        let conn = memory();
        assert_eq!(load(&conn, "a", 0).unwrap(), None);
        let empty = start(&conn, "a", 5, &["c", "c", "d"], 0);
        assert_eq!(empty, IndexState { version: 1, windows: 5, frames: 0, bytes: 0 });
        assert!(add(&conn, "a", 0, 3, 1) && add(&conn, "a", 3, 1, 2));
        let state = IndexState { frames: 4, bytes: 400, ..empty };
        assert!(!state.is_complete());
        assert_eq!(start(&conn, "a", 5, &["c"], 3), state, "who begins again goes on");
        let loaded = load(&conn, "a", 3).unwrap().unwrap();
        assert_eq!(loaded, StoredIndex { state, segments: vec![vec![0; 36], vec![3; 12]] });
        assert!(add(&conn, "a", 4, 1, 4));
        assert!(self::state(&conn, "a").unwrap().unwrap().is_complete());
        assert!(forget(&conn, "a").unwrap() && !forget(&conn, "a").unwrap());
        assert_eq!((rows(&conn, "frame_segments"), rows(&conn, "frame_contents")), (0, 0));
    }

    #[test]
    fn a_segment_that_is_not_the_next_one_is_not_taken() {
        let conn = memory();
        assert!(!add(&conn, "a", 0, 1, 0), "there is no such index");
        start(&conn, "a", 5, &[], 0);
        assert!(add(&conn, "a", 0, 2, 0));
        for (first, frames) in [(0, 2), (0, 3), (1, 1), (3, 1), (2, 0), (2, 4), (2, u64::MAX), (u64::MAX, 1)]
        {
            let entries: &[u8] = &[];
            let segment = NewSegment { first, frames, bytes: 1, entries };
            assert!(!append(&conn, "a", &segment, 0).unwrap(), "{first} {frames}");
        }
        assert_eq!(load(&conn, "a", 0).unwrap().unwrap().segments, [[0; 24]]);
        assert!(add(&conn, "a", 2, 3, 0));
    }

    #[test]
    fn an_index_of_another_encoding_or_length_is_begun_anew() {
        let conn = memory();
        start(&conn, "a", 5, &["c"], 0);
        add(&conn, "a", 0, 2, 0);
        assert_eq!(start(&conn, "a", 6, &["d"], 1).frames, 0);
        assert_eq!(rows(&conn, "frame_segments"), 0);
        add(&conn, "a", 0, 2, 1);
        let other = NewIndex { etag: "a", version: 2, windows: 6, contents: &[] };
        assert_eq!(
            begin(&conn, &other, 2).unwrap(),
            IndexState { version: 2, windows: 6, frames: 0, bytes: 0 }
        );
    }

    #[test]
    fn indexes_go_with_any_of_their_contents() {
        let conn = memory();
        start(&conn, "a", 5, &["c", "d"], 0);
        start(&conn, "b", 5, &["d"], 0);
        start(&conn, "c", 5, &["e"], 0);
        add(&conn, "a", 0, 2, 0);
        assert_eq!(forget_content(&conn, "c").unwrap(), 1);
        assert_eq!(etags(&conn), ["b", "c"]);
        assert_eq!((rows(&conn, "frame_segments"), rows(&conn, "frame_contents")), (0, 2));
        assert_eq!(forget_content(&conn, "nothing").unwrap(), 0);
    }

    #[test]
    fn the_oldest_go_when_there_are_too_many_or_they_are_too_long() {
        let conn = memory();
        for (now, etag) in ["a", "b", "c", "d"].into_iter().enumerate() {
            start(&conn, etag, 10, &[], now as i64);
            add(&conn, etag, 0, 2, now as i64);
        }
        load(&conn, "a", 9).unwrap();
        assert_eq!(forget_oldest(&conn, 4, 96).unwrap(), 0);
        assert_eq!(forget_oldest(&conn, 3, 1000).unwrap(), 1);
        assert_eq!(etags(&conn), ["a", "c", "d"], "a was in use");
        assert_eq!(forget_oldest(&conn, 3, 71).unwrap(), 1);
        assert_eq!(etags(&conn), ["a", "d"]);
        assert_eq!(forget_oldest(&conn, 0, 1000).unwrap(), 2);
    }
}
