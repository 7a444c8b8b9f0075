//! Looking through the directory of an SR that is attached: what has come, what has gone, what is there again.
//!
//! A file that is in the directory and that nothing in the database names has come from outside. For this to be true
//! the directory is read first and the database afterwards: a commit writes its intent before its file appears and
//! removes it together with the insertion of the content, and a deletion removes the file before the row. So what the
//! database does not name by then is nobody's, or can no longer be opened.

use std::collections::{HashMap, HashSet};

use rusqlite::Connection;

use crate::disk::worker::spawn_worker;
use crate::ids::{ContentId, SrId, VdiId};
use crate::state::disks::{self, ContentRow};
use crate::state::moves;

use super::attach::{self, Broken, Found};
use super::caretaker::Chore;
use super::sr_dir::SrDir;
use super::{LocalError, LocalStore, ObjectChange, Sr};

/// What a look through the directory of an SR has found.
#[derive(Debug, Default)]
pub struct Scanned {
    /// Disks that have come.
    pub added: Vec<VdiId>,
    /// Disks whose files are not there, those known before included.
    pub missing: Vec<VdiId>,
    /// Files that could not be taken over.
    pub broken: Vec<Broken>,
}

impl LocalStore {
    /// Looks through the directory of an SR again. Disks that have come are taken over as when the directory was
    /// attached; those whose files have gone are shown as missing.
    ///
    /// # Errors
    /// [`LocalError::NoSuchSr`], [`LocalError::SrUnavailable`]; trouble with directory or database.
    pub async fn scan_sr(&self, id: SrId) -> Result<Scanned, LocalError> {
        let (store, sr) = (self.clone(), self.sr(id)?);
        // A directory full of disks takes long: a thread of its own, as when it was attached.
        spawn_worker("scan", move || store.scan_blocking(&sr))?.await?
    }

    fn scan_blocking(&self, sr: &Sr) -> Result<Scanned, LocalError> {
        let id = sr.id;
        let row = self.inner.db.call_blocking(move |db| Ok(disks::find_sr(db, id)?))?;
        let row = row.ok_or(LocalError::NoSuchSr(id))?;
        let names = SrDir::kept_vdis(&row.path)?;
        let known = || Ok(self.inner.db.call_blocking(move |db| Ok(known_files(db, id)?))?);
        let (found, broken) = attach::scan(&sr.dir, &row, names, known)?;
        let mut scanned = Scanned { broken, ..Scanned::default() };
        let (added, refused) =
            self.inner.db.transaction_blocking(move |tx| Ok(take_over(tx, id, &found)?))?;
        scanned.added = added;
        scanned.broken.extend(refused);
        scanned.broken.sort_by(|one, other| one.file.cmp(&other.file));
        scanned.missing = self.look_again(sr)?;
        scanned.added.iter().for_each(|vdi| self.inner.changes.tell(ObjectChange::Vdi(*vdi)));
        self.inner.changes.tell(ObjectChange::Sr(id));
        if !scanned.added.is_empty() {
            self.inner.caretaker.ask(Chore::WriteNames(id));
        }
        Ok(scanned)
    }

    /// Notes which files are there, tells of the disks of which that is news, and answers those that are missing.
    fn look_again(&self, sr: &Sr) -> Result<Vec<VdiId>, LocalError> {
        let id = sr.id;
        let contents = self.inner.db.call_blocking(move |db| Ok(disks::contents_of_sr(db, id)?))?;
        let mut missing = Vec::new();
        for content in contents.into_iter().filter(|content| !content.dropped) {
            let id = content.id;
            let is_missing = !sr.dir.exists(&content.file) && self.is_unmoved(content)?;
            let news = sr.set_missing(id, is_missing);
            if !is_missing && !news {
                continue;
            }
            let vdis = self.inner.db.call_blocking(move |db| Ok(disks::vdis_of_content(db, id)?))?;
            if news {
                vdis.iter().for_each(|vdi| self.inner.changes.tell(ObjectChange::Vdi(*vdi)));
            }
            if is_missing {
                missing.extend(vdis);
            }
        }
        Ok(missing)
    }

    /// Whether a content still is where it was when its row was read.
    fn is_unmoved(&self, then: ContentRow) -> Result<bool, LocalError> {
        let now = self.inner.db.call_blocking(move |db| Ok(disks::find_content(db, then.id)?))?;
        Ok(now.is_some_and(|now| !now.dropped && now.file == then.file))
    }
}

/// The names in the SR's directory that belong to something.
fn known_files(db: &Connection, sr: SrId) -> rusqlite::Result<HashSet<String>> {
    let mut files: HashSet<String> =
        disks::contents_of_sr(db, sr)?.into_iter().map(|content| content.file).collect();
    for intent in disks::intents_of_sr(db, sr)? {
        files.insert(intent.target);
        files.extend(intent.old.into_iter().flat_map(|old| [old.file, old.aside]));
    }
    files.extend(moves::of_sr(db, sr)?.into_iter().flat_map(|step| [step.from, step.to]));
    Ok(files)
}

/// Stores the disks that were found, but for those whose id or file is known by now. An internal node of a chain that is
/// known already gets its new children.
fn take_over(db: &Connection, sr: SrId, found: &[Found]) -> rusqlite::Result<(Vec<VdiId>, Vec<Broken>)> {
    let known = known_files(db, sr)?;
    let mut broken = Vec::new();
    let mut kept = Vec::with_capacity(found.len());
    for disk in found.iter().filter(|disk| !known.contains(&disk.content.file)) {
        let ids: Vec<VdiId> = disk.vdis.iter().map(|vdi| vdi.id).collect();
        match disks::known_vdis(db, &ids)?.first() {
            None => kept.push(disk),
            Some(vdi) => {
                let reason = format!("the VDI {} is known already, in the SR {}", vdi.id, vdi.sr);
                broken.push(Broken { file: disk.content.file.clone(), reason });
            }
        }
    }
    let parents: HashMap<String, ContentId> = disks::contents_of_sr(db, sr)?
        .into_iter()
        .filter(|content| !content.dropped)
        .map(|content| (content.file, content.id))
        .collect();
    attach::store_found(db, &kept, &parents)?;
    Ok((kept.iter().flat_map(|disk| disk.vdis.iter().map(|vdi| vdi.id)).collect(), broken))
}
