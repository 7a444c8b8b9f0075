//! How the file of a content gets another name, while the content stays what it is.
//!
//! A file bears the name of a VDI that refers to its content, so that a stranger finds it. When that VDI goes, or gets
//! other content, and others share the content (snapshots), the file gets the name of one of those. Content that only
//! its readers still know moves to `.gantry/pinned`.
//!
//! 1. The move is written down (`state/moves.rs`).
//! 2. The file gets its second name.
//! 3. The database says that it has that name.
//! 4. The first name goes, and then the note of the move.
//!
//! A move is in effect with step 3: one that was interrupted before is undone, one after it is finished, whenever
//! [`finish`] is called next, at the next start at the latest. Who moves files that others share holds the SR's
//! [`turn`](super::Sr::turn).

use rusqlite::Connection;

use crate::ids::{ContentId, VdiId};
use crate::state::Db;
use crate::state::disks::{self, ContentRow};
use crate::state::moves::{self, MoveRow};

use super::LocalError;
use super::sr_dir::SrDir;

/// The name that a content's file needs when `without` no longer refers to it, relative to the SR's directory. `None`
/// when it bears the name of another VDI that does, or when there is none.
pub(super) fn new_name(
    db: &Connection,
    row: &ContentRow,
    without: Option<VdiId>,
) -> rusqlite::Result<Option<String>> {
    let mut sharers = disks::vdis_of_content(db, row.id)?;
    sharers.retain(|id| Some(*id) != without);
    if SrDir::disk_of(&row.file).is_some_and(|(named, _)| sharers.contains(&named)) {
        return Ok(None);
    }
    Ok(sharers.first().map(|id| SrDir::disk_file(*id, row.format)))
}

/// Gives the file of a content that VDIs refer to the name of one of them, if it has none of theirs. One that other
/// files build on keeps its name, by which they find it. Blocks.
///
/// # Errors
/// Trouble with disk or database. The content can be read all the same.
pub(super) fn settle(db: &Db, dir: &SrDir, content: ContentId) -> Result<(), LocalError> {
    let to = db.call_blocking(move |db| {
        let Some(row) = disks::find_content(db, content)?.filter(|row| !row.dropped) else { return Ok(None) };
        if !disks::children_of(db, content)?.is_empty() {
            return Ok(None);
        }
        Ok(new_name(db, &row, None)?)
    })?;
    to.map_or(Ok(()), |to| shift(db, dir, content, &to))
}

/// Moves the file of a content. At every moment the name in the database is one of its names. Blocks.
///
/// # Errors
/// Trouble with disk or database; the move is undone then, or finished later.
pub(super) fn shift(db: &Db, dir: &SrDir, content: ContentId, to: &str) -> Result<(), LocalError> {
    finish(db, dir, content)?;
    let name = to.to_owned();
    let noted = db.transaction_blocking(move |tx| {
        let Some(row) = disks::find_content(tx, content)?.filter(|row| row.file != name) else {
            return Ok(None);
        };
        let step = MoveRow { content, sr: row.sr, from: row.file, to: name.clone() };
        moves::insert(tx, &step)?;
        Ok(Some(step))
    })?;
    let Some(step) = noted else { return Ok(()) };
    let linked = dir.keep_as(&step.from, &step.to).and_then(|()| dir.sync_folder_of(&step.to));
    if let Err(error) = linked {
        finish(db, dir, content)?;
        // Its last reader may have left meanwhile, and taken it along.
        let gone = db.call_blocking(move |db| Ok(disks::find_content(db, content)?.is_none()))?;
        return if gone { Ok(()) } else { Err(error.into()) };
    }
    db.transaction_blocking(move |tx| Ok(disks::set_file(tx, content, &step.to)?))?;
    finish(db, dir, content)
}

/// Finishes or undoes a move that was interrupted; does nothing when there is none. Blocks.
///
/// # Errors
/// Trouble with disk or database; it is as before then.
pub(super) fn finish(db: &Db, dir: &SrDir, content: ContentId) -> Result<(), LocalError> {
    let found = db.call_blocking(move |db| {
        let file = disks::find_content(db, content)?.map(|row| row.file);
        Ok(moves::find(db, content)?.map(|step| (step, file)))
    })?;
    let Some((MoveRow { from, to, .. }, file)) = found else { return Ok(()) };
    match file {
        Some(file) if file == to => dir.unlink(&from)?,
        Some(_) if dir.exists(&from) => dir.unlink(&to)?,
        // Where the file system knows no second names, it has been renamed.
        Some(_) if dir.exists(&to) => {
            let to = to.clone();
            db.transaction_blocking(move |tx| Ok(disks::set_file(tx, content, &to)?))?;
        }
        Some(_) => {}
        // Its last reader has left meanwhile.
        None => {
            dir.unlink(&from)?;
            dir.unlink(&to)?;
        }
    }
    dir.sync_folder_of(&to)?;
    dir.sync_folder_of(&from)?;
    Ok(db.transaction_blocking(move |tx| Ok(moves::delete(tx, content)?))?)
}
