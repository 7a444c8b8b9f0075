//! How new content becomes visible.
//!
//! 1. The finished file lies in `.gantry/work`, synced. An intent is written: what will be moved where.
//! 2. The old content's file, if there is one, gets a second name, and the database says that it is there; only then
//!    the new file is renamed to its place, over the old one if that has the same name. Folders are synced in this
//!    order. Who opens content looks into the database again afterwards. The second name is that of another VDI, if
//!    one shares the old content (a snapshot), else one in `.gantry/pinned`.
//! 3. One transaction switches the reference and removes the intent: the commit point. It marks the old content as
//!    dropped, unless others share it.
//! 4. The old content's file loses its first name if that is not the new one's, and goes, at once or with its last
//!    reader, if it was dropped.
//!
//! Several new disks become visible together ([`LocalStore::commit_all`]): an intent each, all moves, one transaction.
//!
//! A crash before step 3 is undone at the next start (`recovery`), each intent by itself: they name different files, and
//! the transaction removes all of them or none. One after it leaves only step 4 to do.

use std::sync::Arc;

use rusqlite::{Connection, Transaction};
use tokio::sync::Mutex;

use crate::disk::io_pool::IoPoolError;
use crate::disk::writer::Written;
use crate::formats::xva::Record;
use crate::ids::{ContentId, VdiId};
use crate::state::disks::{self, ContentRow, IntentRow, ReplacedContent, VdiRow};
use crate::state::{StateError, now_ms};

use super::caretaker::Chore;
use super::sr_dir::{SrDir, SrDirError};
use super::{LocalError, LocalStore, ObjectChange, Sr, Staging, WriteClaim};

/// What the new content is for.
#[derive(Debug)]
pub enum Destination {
    /// A VDI that does not exist yet.
    New {
        /// Its id.
        vdi: VdiId,
        /// Name that people see.
        name_label: String,
        /// Description that people see.
        name_description: String,
    },
    /// A VDI whose content is replaced; the claim keeps other writers away until the commit is through.
    Replace {
        /// Its id.
        vdi: VdiId,
        /// The content that it must still have.
        expected: ContentId,
        /// The right to write it.
        claim: WriteClaim,
    },
}

/// A VDI that does not exist yet.
#[derive(Debug, Clone)]
pub struct NewVdi {
    /// Its id, which must be new.
    pub id: VdiId,
    /// Name that people see.
    pub name_label: String,
    /// Description that people see.
    pub name_description: String,
    /// Tags, in the order in which they were added.
    pub tags: Vec<String>,
    /// `user`, `system`, … as the contract lists them.
    pub vdi_type: String,
    /// What else is known of it in xapi's terms.
    pub record: Record,
}

impl NewVdi {
    fn row(self, content: &ContentRow) -> VdiRow {
        VdiRow {
            id: self.id,
            sr: content.sr,
            content: content.id,
            name_label: self.name_label,
            name_description: self.name_description,
            tags: self.tags,
            vdi_type: self.vdi_type,
            virtual_size: content.virtual_size,
            created_ms: now_ms(),
            content_changed_ms: None,
            snapshot_of: None,
            snapshot_ms: None,
            record: self.record,
        }
    }
}

/// A new disk, written and not visible yet.
#[derive(Debug)]
pub struct NewDisk {
    /// Where its content lies.
    pub staging: Staging,
    /// What its writer knows of it.
    pub written: Written,
    /// The VDI that it becomes.
    pub vdi: NewVdi,
}

/// Content that has become visible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The VDI that refers to it.
    pub vdi: VdiId,
    /// Its identity.
    pub content: ContentId,
}

/// Content on its way from its staging place to its own.
#[derive(Debug)]
pub(super) struct Arrival {
    pub sr: Arc<Sr>,
    pub intent: IntentRow,
    pub row: ContentRow,
    pub map: Vec<u8>,
}

impl Arrival {
    pub(super) fn of(
        staging: &Staging,
        written: &Written,
        vdi: VdiId,
        old: Option<ReplacedContent>,
        job: Option<String>,
    ) -> Result<Self, LocalError> {
        let sr = Arc::clone(staging.sr());
        let target = SrDir::disk_file(vdi, sr.content_format);
        let row = ContentRow {
            id: staging.content(),
            sr: sr.id,
            file: target.clone(),
            format: sr.content_format,
            virtual_size: written.virtual_size,
            physical_bytes: written.physical_bytes,
            map_version: 1,
            parent: None,
            created_ms: staging.created_ms(),
            dropped: false,
        };
        let staged = staging.file().to_owned();
        let intent = IntentRow { content: row.id, sr: sr.id, vdi, staged, target, old, job, epoch: 1 };
        Ok(Self { sr, intent, row, map: written.map.encode()? })
    }

    pub(super) fn committed(&self) -> Committed {
        Committed { vdi: self.intent.vdi, content: self.row.id }
    }
}

/// Held by whoever moves files, and longer than anybody waits if he hangs.
pub(super) type Moving = Arc<Mutex<()>>;

impl LocalStore {
    /// Makes staged content visible. Either it all happens, or nothing has changed.
    ///
    /// Goes on to its end when the caller does not wait for it.
    ///
    /// # Errors
    /// [`LocalError::ContentReplaced`] when the VDI no longer has the content that was to be replaced; disk and
    /// database trouble otherwise.
    pub async fn commit(
        &self,
        staging: Staging,
        written: Written,
        destination: Destination,
        job: Option<String>,
    ) -> Result<Committed, LocalError> {
        let store = self.clone();
        match destination {
            Destination::New { vdi: id, name_label, name_description } => {
                let (content, record) = (staging.content(), Record::new());
                let vdi_type = "user".into();
                let vdi = NewVdi { id, name_label, name_description, tags: Vec::new(), vdi_type, record };
                self.commit_all(vec![NewDisk { staging, written, vdi }], |_| Ok(()), Vec::new(), job).await?;
                Ok(Committed { vdi: id, content })
            }
            Destination::Replace { vdi, expected, claim } => {
                to_its_end(async move { store.replace(staging, written, (vdi, expected), claim, job).await })
                    .await
            }
        }
    }

    /// Makes several new disks visible, on one or more SRs, together with what `also` writes: in one transaction, in
    /// which `also` runs after the VDIs were inserted. `changes` are told after it, besides those of disks and SRs.
    /// Either it all happens, or nothing has changed. The answer is in the order of the disks; there may be none.
    ///
    /// `also` runs a second time when the database's disk is full: it may have no effects but those in the transaction.
    ///
    /// Goes on to its end when the caller does not wait for it.
    ///
    /// # Errors
    /// [`LocalError::AlreadyKnown`] when a VDI is not new; what `also` returns; disk and database trouble.
    pub async fn commit_all(
        &self,
        disks: Vec<NewDisk>,
        also: impl FnMut(&Transaction<'_>) -> Result<(), StateError> + Send + 'static,
        changes: Vec<ObjectChange>,
        job: Option<String>,
    ) -> Result<Vec<Committed>, LocalError> {
        let store = self.clone();
        to_its_end(async move { store.make(disks, also, changes, job).await }).await
    }

    async fn make(
        &self,
        disks: Vec<NewDisk>,
        also: impl FnMut(&Transaction<'_>) -> Result<(), StateError> + Send + 'static,
        changes: Vec<ObjectChange>,
        job: Option<String>,
    ) -> Result<Vec<Committed>, LocalError> {
        let (mut stagings, mut arrivals, mut vdis) = (Vec::new(), Vec::new(), Vec::new());
        for NewDisk { staging, written, vdi } in disks {
            let arrival = Arrival::of(&staging, &written, vdi.id, None, job.clone())?;
            vdis.push(vdi.row(&arrival.row));
            arrivals.push(arrival);
            stagings.push(staging);
        }
        let arrivals: Arc<[Arrival]> = arrivals.into();
        self.announce(stagings, &arrivals, true).await?;
        let moving = Moving::default();
        match self.show(&arrivals, vdis, also, &moving).await {
            Ok(()) => {
                changes.into_iter().for_each(|change| self.inner.changes.tell(change));
                arrivals.iter().for_each(|arrival| self.tell(&arrival.intent));
                Ok(arrivals.iter().map(Arrival::committed).collect())
            }
            Err(error) => Err(self.take_back(arrivals, moving, (), error).await),
        }
    }

    /// Step 1; `new` VDIs must not exist.
    pub(super) async fn announce(
        &self,
        stagings: Vec<Staging>,
        arrivals: &Arc<[Arrival]>,
        new: bool,
    ) -> Result<(), LocalError> {
        let announced = Arc::clone(arrivals);
        let noted = self.inner.db.transaction(move |tx| {
            for arrival in announced.iter().filter(|_| new) {
                if let Some(error) = not_new(tx, arrival)? {
                    return Ok(Err(error));
                }
            }
            for arrival in announced.iter() {
                disks::insert_intent(tx, &arrival.intent)?;
            }
            Ok(Ok(()))
        });
        noted.await??;
        stagings.into_iter().for_each(Staging::hand_over);
        Ok(())
    }

    /// Steps 2 and 3 of new disks.
    async fn show(
        &self,
        arrivals: &Arc<[Arrival]>,
        vdis: Vec<VdiRow>,
        mut also: impl FnMut(&Transaction<'_>) -> Result<(), StateError> + Send + 'static,
        moving: &Moving,
    ) -> Result<(), LocalError> {
        for arrival in arrivals.iter() {
            place(arrival, moving).await?;
        }
        let shown = Arc::clone(arrivals);
        let inserted = self.inner.db.transaction(move |tx| {
            for (arrival, vdi) in shown.iter().zip(&vdis) {
                disks::insert_content(tx, &arrival.row, &arrival.map)?;
                disks::insert_vdi(tx, vdi)?;
                disks::delete_intent(tx, arrival.row.id)?;
            }
            also(tx)
        });
        Ok(inserted.await?)
    }

    /// Undoes a commit that failed. A move that was given up may still happen: only when it has returned can it be
    /// undone, and until then nobody else gets what is `held`.
    pub(super) async fn take_back<H: Send + 'static>(
        &self,
        arrivals: Arc<[Arrival]>,
        moving: Moving,
        held: H,
        error: LocalError,
    ) -> LocalError {
        let store = self.clone();
        let undone = async move {
            let _moved = moving.lock().await;
            for arrival in arrivals.iter() {
                store.undo(&arrival.sr, arrival.intent.clone()).await;
            }
            drop(held);
        };
        if matches!(error, LocalError::Pool(IoPoolError::Stuck)) {
            tokio::spawn(undone);
        } else {
            undone.await;
        }
        error
    }

    pub(super) fn tell(&self, intent: &IntentRow) {
        self.inner.changes.tell(ObjectChange::Vdi(intent.vdi));
        self.inner.changes.tell(ObjectChange::Sr(intent.sr));
        self.inner.caretaker.ask(Chore::WriteNames(intent.sr));
    }

    async fn undo(&self, sr: &Arc<Sr>, intent: IntentRow) {
        let content = intent.content;
        match self.inner.db.call(move |db| Ok(disks::has_intent(db, content)?)).await {
            Ok(true) => {}
            // The transaction went through although its answer did not arrive: nothing to undo.
            Ok(false) => {
                self.tell(&intent);
                return;
            }
            Err(error) => {
                tracing::error!(%error, "a commit could not be undone; the next start does it");
                return;
            }
        }
        let (dir, moves) = (Arc::clone(sr), intent.clone());
        let undone = sr.io.run(move || super::recovery::undo_moves(&dir.dir, &moves)).await;
        match undone {
            Ok(Ok(())) => {
                let removed = self.inner.db.transaction(move |tx| Ok(disks::undo_intent(tx, &intent)?)).await;
                if let Err(error) = removed {
                    tracing::error!(%error, "an intent could not be removed; the next start does it");
                }
            }
            Ok(Err(error)) => tracing::error!(%error, "a commit could not be undone; the next start does it"),
            Err(error) => tracing::error!(%error, "a commit could not be undone; the next start does it"),
        }
    }
}

/// Runs steps of which none may be left out, whatever becomes of who asked for them: a client that hangs up ends
/// its request's handler, an abort ends a job.
pub(super) async fn to_its_end<R: Send + 'static>(
    steps: impl Future<Output = Result<R, LocalError>> + Send + 'static,
) -> Result<R, LocalError> {
    match tokio::spawn(steps).await {
        Ok(ended) => ended,
        Err(error) => Err(IoPoolError::Panicked { message: error.to_string() }.into()),
    }
}

/// The files of the disks that build on a content.
pub(super) fn child_files(db: &Connection, content: ContentId) -> rusqlite::Result<Vec<String>> {
    let mut files = Vec::new();
    for child in disks::children_of(db, content)? {
        files.extend(disks::find_content(db, child)?.filter(|row| !row.dropped).map(|row| row.file));
    }
    Ok(files)
}

/// The refusal of a VDI that is to be made and exists already: its file must not be touched.
fn not_new(db: &Connection, arrival: &Arrival) -> rusqlite::Result<Option<LocalError>> {
    let Some(known) = disks::find_vdi(db, arrival.intent.vdi)? else { return Ok(None) };
    let sr = disks::find_sr(db, known.sr)?;
    let file = disks::find_content(db, known.content)?.map(|content| content.file).unwrap_or_default();
    Ok(Some(LocalError::AlreadyKnown {
        what: "VDI",
        uuid: known.id.to_string(),
        known: sr.map(|sr| sr.path.join(file)).unwrap_or_default(),
        offered: arrival.sr.dir.file(&arrival.intent.target),
    }))
}

pub(super) async fn place(arrival: &Arrival, moving: &Moving) -> Result<(), LocalError> {
    let (sr, intent) = (Arc::clone(&arrival.sr), arrival.intent.clone());
    let held = Arc::clone(moving).lock_owned().await;
    let moves = move || {
        let _held = held;
        move_into_place(&sr.dir, &intent)
    };
    Ok(arrival.sr.io.run(moves).await??)
}

fn move_into_place(dir: &SrDir, intent: &IntentRow) -> Result<(), SrDirError> {
    dir.sync_folder_of(&intent.staged)?;
    dir.rename(&intent.staged, &intent.target)?;
    dir.sync_folder_of(&intent.target)?;
    dir.sync_folder_of(&intent.staged)
}

#[cfg(test)]
mod tests;
