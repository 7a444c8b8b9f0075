//! What the start of a server makes of an SR that was left in the middle of something. It follows what the
//! database says was intended, not what happens to lie in the folders.

use std::collections::HashSet;

use crate::ids::ContentId;
use crate::state::disks::{self, ContentRow, IntentRow, SrRow};
use crate::state::moves;

use super::moves::{finish, settle};
use super::sr_dir::{SrDir, SrDirError};
use super::{LocalError, LocalStore, Sr};

impl LocalStore {
    /// Takes the directory of an SR that the database knows, and brings both into agreement. Blocks.
    ///
    /// # Errors
    /// When the directory is another SR's, is in use, or cannot be read.
    pub(super) fn take(&self, row: &SrRow, needed: &HashSet<ContentId>) -> Result<(), LocalError> {
        let found = SrDir::identity(&row.path)?;
        if let Some(found) = found.filter(|found| found.uuid != row.id) {
            return Err(LocalError::BadPath {
                path: row.path.clone(),
                reason: format!("it holds the storage repository {}, not {}", found.uuid, row.id),
            });
        }
        let dir = SrDir::take(&row.path, row.read_only)?;
        let sr = Sr::new(row, dir)?;
        if !row.read_only {
            self.recover(&sr, needed)?;
        }
        self.look_for_missing(&sr)?;
        let mut srs = self.inner.srs.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        srs.insert(row.id, sr);
        drop(srs);
        // On a full file system, say: that is no reason not to serve what lies there.
        if let Err(error) = self.write_names(row.id) {
            tracing::error!(sr = %row.id, %error, "the names of the disks could not be written into the directory");
        }
        Ok(())
    }

    fn recover(&self, sr: &Sr, needed: &HashSet<ContentId>) -> Result<(), LocalError> {
        let id = sr.id;
        for intent in self.inner.db.call_blocking(move |db| Ok(disks::intents_of_sr(db, id)?))? {
            tracing::warn!(vdi = %intent.vdi, content = %intent.content, "undoing a commit that was interrupted");
            undo_moves(&sr.dir, &intent)?;
            self.inner.db.transaction_blocking(move |tx| Ok(disks::undo_intent(tx, &intent)?))?;
        }
        for step in self.inner.db.call_blocking(move |db| Ok(moves::of_sr(db, id)?))? {
            tracing::warn!(content = %step.content, "bringing an interrupted move of a file to its end");
            finish(&self.inner.db, &sr.dir, step.content)?;
        }
        self.settle_all(sr)?;
        let contents = self.inner.db.call_blocking(move |db| Ok(disks::contents_of_sr(db, id)?))?;
        let keeps = |content: &&ContentRow| !content.dropped || needed.contains(&content.id);
        // What is not dropped may be replaced by a growth that goes on before its reader is there.
        for content in contents.iter().filter(|content| needed.contains(&content.id)) {
            let pin = self.inner.pins.pin(content.id);
            if content.dropped {
                // With its last pin it goes, as if the server had not been away.
                self.inner.pins.drop_content(content.id);
            }
            self.inner.kept.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(pin);
        }
        for content in contents.iter().filter(|content| !keeps(content)) {
            let aside = SrDir::pinned_file(content.id, content.format);
            for file in [&content.file, &aside] {
                sr.dir.unlink(file)?;
            }
            let gone = content.id;
            self.inner.db.transaction_blocking(move |tx| Ok(disks::delete_content(tx, gone)?))?;
        }
        let kept: HashSet<&str> =
            contents.iter().filter(keeps).map(|content| content.file.as_str()).collect();
        sweep(&sr.dir, &kept)
    }

    /// Gives files that none of the VDIs which share their content gives its name, because a server stopped in
    /// between, such a name.
    fn settle_all(&self, sr: &Sr) -> Result<(), LocalError> {
        let id = sr.id;
        for content in self.inner.db.call_blocking(move |db| Ok(disks::contents_of_sr(db, id)?))? {
            if content.dropped || !sr.dir.exists(&content.file) {
                continue;
            }
            if let Err(error) = settle(&self.inner.db, &sr.dir, content.id) {
                tracing::error!(file = %content.file, %error, "a file does not bear the name of a VDI, and stays so");
            }
        }
        Ok(())
    }

    fn look_for_missing(&self, sr: &Sr) -> Result<(), LocalError> {
        let id = sr.id;
        let contents = self.inner.db.call_blocking(move |db| Ok(disks::contents_of_sr(db, id)?))?;
        let mut count = 0;
        for content in contents.iter().filter(|content| !content.dropped && !sr.dir.exists(&content.file)) {
            sr.set_missing(content.id, true);
            count += 1;
        }
        if count > 0 {
            tracing::error!(sr = %sr.id, count, "files of VDIs are missing");
        }
        Ok(())
    }
}

/// Removes what lies in Gantry's own folders and belongs to nothing.
pub(super) fn sweep(dir: &SrDir, kept: &HashSet<&str>) -> Result<(), LocalError> {
    for folder in ["work", "pinned"] {
        for file in dir.own_files(folder)? {
            if !kept.contains(file.as_str()) {
                tracing::info!(%file, "sweeping a file that belongs to nothing");
                dir.unlink(&file)?;
            }
        }
    }
    Ok(())
}

/// Undoes the file moves of a commit whose transaction did not happen, however far they got.
pub(super) fn undo_moves(dir: &SrDir, intent: &IntentRow) -> Result<(), SrDirError> {
    let moved = !dir.exists(&intent.staged);
    match &intent.old {
        None if moved => dir.unlink(&intent.target)?,
        // The second name is made before anything is moved: without it, nothing was.
        Some(old) if dir.exists(&old.aside) => {
            if moved && old.file != intent.target {
                dir.unlink(&intent.target)?;
            }
            // The new file lies under the old one's name, or the old one was moved where there are no second names.
            let taken = moved && old.file == intent.target;
            if taken || !dir.exists(&old.file) || dir.is_one_file(&old.aside, &old.file) {
                // When both names are still those of one file, the rename does nothing, and the second name goes below.
                dir.rename(&old.aside, &old.file)?;
                dir.unlink(&old.aside)?;
            }
            dir.sync_folder_of(&old.aside)?;
        }
        None | Some(_) => {}
    }
    dir.unlink(&intent.staged)?;
    dir.sync_folder_of(&intent.staged)?;
    dir.sync_folder_of(&intent.target)
}

#[cfg(test)]
mod crashes;
#[cfg(test)]
mod tests;
