//! How new content becomes visible, and how a VDI goes.
//!
//! 1. The finished file lies in `.gantry/work`, synced. An intent is written: what will be moved where.
//! 2. The old content's file, if there is one, gets a second name in `.gantry/pinned`, and the database says that
//!    it is there; only then the new file is renamed to its place, over the old one if that has the same name.
//!    Folders are synced in this order. Who opens content looks into the database again afterwards.
//! 3. One transaction switches the reference, marks the old content as dropped and removes the intent: the
//!    commit point.
//! 4. The old content's file goes, at once or with its last reader.
//!
//! A crash before step 3 is undone at the next start (`recovery`), one after it leaves only step 4 to do.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::Mutex;

use crate::disk::io_pool::IoPoolError;
use crate::disk::writer::Written;
use crate::formats::xva::Record;
use crate::ids::{ContentId, VdiId};
use crate::state::disks::{self, ContentRow, IntentRow, ReplacedContent, VdiRow};
use crate::state::{Db, StateError, now_ms};

use super::caretaker::Chore;
use super::sr_dir::{SrDir, SrDirError};
use super::{LocalError, LocalStore, ObjectChange, Sr, WriteClaim};

/// A place for content in the making. Unless it is committed, its file goes when this is dropped.
#[derive(Debug)]
pub struct Staging {
    content: ContentId,
    created_ms: i64,
    sr: Arc<Sr>,
    file: String,
    committed: bool,
}

impl Staging {
    /// The identity that the content will have.
    pub fn content(&self) -> ContentId {
        self.content
    }

    /// When it was begun, Unix milliseconds.
    pub fn created_ms(&self) -> i64 {
        self.created_ms
    }

    /// Where the file is to be written.
    pub fn path(&self) -> PathBuf {
        self.sr.dir.file(&self.file)
    }

    /// The SR that it lies in.
    pub fn sr(&self) -> &Arc<Sr> {
        &self.sr
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.committed {
            return;
        }
        let (sr, file) = (Arc::clone(&self.sr), std::mem::take(&mut self.file));
        let sweep = move || {
            if let Err(error) = sr.dir.unlink(&file) {
                tracing::error!(%file, %error, "an unfinished import could not be removed; the next start does it");
            }
        };
        // Removing a large file takes long, and an executor's thread must not wait for it.
        if tokio::runtime::Handle::try_current().is_ok() {
            drop(std::thread::Builder::new().name("sweep".into()).spawn(sweep));
        } else {
            sweep();
        }
    }
}

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

/// Content that has become visible.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    /// The VDI that refers to it.
    pub vdi: VdiId,
    /// Its identity.
    pub content: ContentId,
}

/// What is to be removed after the commit.
struct Leftover {
    content: ContentId,
    unread: bool,
    stale_file: Option<String>,
}

impl LocalStore {
    /// A place for new content on an SR.
    pub fn stage(&self, sr: &Arc<Sr>) -> Staging {
        let content = ContentId::random();
        let file = SrDir::work_file(content, sr.content_format);
        Staging { content, created_ms: now_ms(), sr: Arc::clone(sr), file, committed: false }
    }

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
        to_its_end(async move { store.commit_steps(staging, written, destination, job).await }).await
    }

    async fn commit_steps(
        &self,
        mut staging: Staging,
        written: Written,
        destination: Destination,
        job: Option<String>,
    ) -> Result<Committed, LocalError> {
        let sr = Arc::clone(&staging.sr);
        let (vdi, replaced) = match &destination {
            Destination::New { vdi, .. } => (*vdi, None),
            Destination::Replace { vdi, expected, .. } => (*vdi, Some(self.replaced(*vdi, *expected).await?)),
        };
        let target = SrDir::disk_file(vdi, sr.content_format);
        let row = ContentRow {
            id: staging.content,
            sr: sr.id,
            file: target.clone(),
            format: sr.content_format,
            virtual_size: written.virtual_size,
            physical_bytes: written.physical_bytes,
            map_version: 1,
            parent: None,
            created_ms: staging.created_ms,
            dropped: false,
        };
        let map = written.map.encode()?;
        let intent = IntentRow {
            content: staging.content,
            sr: sr.id,
            vdi,
            staged: staging.file.clone(),
            target,
            old: replaced,
            job,
            epoch: 1,
        };
        let recorded = intent.clone();
        self.inner.db.transaction(move |tx| Ok(disks::insert_intent(tx, &recorded)?)).await?;
        // From here on the file is the intent's, not the staging's: a failure is undone by following it.
        staging.committed = true;
        // Held by whoever moves files, and longer than anybody waits if he hangs.
        let moving = Arc::new(Mutex::new(()));
        match self.publish(&sr, &intent, row, map, &destination, &moving).await {
            Ok(leftover) => {
                self.inner.caretaker.ask(Chore::WriteNames(sr.id));
                if let Some(leftover) = leftover {
                    self.clear(&sr, leftover).await;
                }
                Ok(Committed { vdi, content: intent.content })
            }
            Err(LocalError::Pool(IoPoolError::Stuck)) => {
                // A move that was given up may still happen. Only when it has returned can it be undone, and until
                // then nobody else may write the VDI.
                let store = self.clone();
                tokio::spawn(async move {
                    let _moved = moving.lock().await;
                    store.undo(&sr, intent).await;
                    drop(destination);
                });
                Err(LocalError::Pool(IoPoolError::Stuck))
            }
            Err(error) => {
                self.undo(&sr, intent).await;
                Err(error)
            }
        }
    }

    /// Removes a VDI. Its content goes too, as soon as nobody reads it. Goes on to its end when the caller does
    /// not wait for it.
    ///
    /// # Errors
    /// [`LocalError::NoSuchVdi`], [`LocalError::VdiBusy`], [`LocalError::VdiHasChildren`],
    /// [`LocalError::SrReadOnly`].
    pub async fn delete_vdi(&self, id: VdiId) -> Result<(), LocalError> {
        let store = self.clone();
        to_its_end(async move { store.delete_steps(id).await }).await
    }

    async fn delete_steps(&self, id: VdiId) -> Result<(), LocalError> {
        let row = self
            .inner
            .db
            .call(move |db| Ok(disks::find_vdi(db, id)?))
            .await?
            .ok_or(LocalError::NoSuchVdi(id))?;
        let sr = self.writable_sr(row.sr)?;
        let _claim = self.claim(id)?;
        let outcome = self
            .inner
            .db
            .transaction(move |tx| {
                let Some(vdi) = disks::find_vdi(tx, id)? else { return Ok(Err(LocalError::NoSuchVdi(id))) };
                let Some(content) = disks::find_content(tx, vdi.content)? else {
                    return Ok(Err(LocalError::ContentGone(vdi.content)));
                };
                let shared = disks::vdis_of_content(tx, content.id)?.len() > 1;
                let children = child_files(tx, content.id)?;
                if !shared && !children.is_empty() {
                    return Ok(Err(LocalError::VdiHasChildren { vdi: id, children }));
                }
                disks::delete_vdi(tx, id)?;
                if shared {
                    return Ok(Ok(None));
                }
                disks::drop_content(tx, content.id, &content.file)?;
                Ok(Ok(Some(content)))
            })
            .await??;
        // The disk of which this was a snapshot names it no longer.
        for vdi in [Some(id), row.snapshot_of].into_iter().flatten() {
            self.inner.changes.tell(ObjectChange::Vdi(vdi));
        }
        self.inner.changes.tell(ObjectChange::Sr(sr.id));
        self.inner.caretaker.ask(Chore::WriteNames(sr.id));
        match outcome {
            None => {}
            // Nothing leads to the content any more, so nobody can begin to read it now.
            Some(content) if self.inner.pins.drop_content(content.id) => {
                self.clear(&sr, Leftover { content: content.id, unread: true, stale_file: None }).await;
            }
            Some(content) => self.move_aside(&sr, &content).await,
        }
        Ok(())
    }

    /// Refuses when a VDI's content cannot be replaced because other disks build on it.
    ///
    /// # Errors
    /// [`LocalError::NoSuchVdi`], [`LocalError::VdiHasChildren`].
    pub async fn require_replaceable(&self, vdi: VdiId) -> Result<(), LocalError> {
        let children = self
            .inner
            .db
            .call(move |db| {
                let Some(row) = disks::find_vdi(db, vdi)? else { return Ok(None) };
                Ok(Some(child_files(db, row.content)?))
            })
            .await?
            .ok_or(LocalError::NoSuchVdi(vdi))?;
        if children.is_empty() { Ok(()) } else { Err(LocalError::VdiHasChildren { vdi, children }) }
    }

    async fn replaced(&self, vdi: VdiId, expected: ContentId) -> Result<ReplacedContent, LocalError> {
        self.inner
            .db
            .call(move |db| {
                let current = disks::find_vdi(db, vdi)?.map(|row| row.content);
                if current.is_none() {
                    return Ok(Err(LocalError::NoSuchVdi(vdi)));
                }
                if current != Some(expected) {
                    return Ok(Err(LocalError::ContentReplaced(vdi)));
                }
                let Some(old) = disks::find_content(db, expected)? else {
                    return Ok(Err(LocalError::ContentGone(expected)));
                };
                let children = child_files(db, old.id)?;
                if !children.is_empty() {
                    return Ok(Err(LocalError::VdiHasChildren { vdi, children }));
                }
                let aside = SrDir::pinned_file(old.id, old.format);
                Ok(Ok(ReplacedContent { content: old.id, file: old.file, aside }))
            })
            .await?
    }

    /// Steps 2 and 3.
    async fn publish(
        &self,
        sr: &Arc<Sr>,
        intent: &IntentRow,
        row: ContentRow,
        map: Vec<u8>,
        destination: &Destination,
        moving: &Arc<Mutex<()>>,
    ) -> Result<Option<Leftover>, LocalError> {
        if let Some(old) = intent.old.clone() {
            let (dir, named) = (Arc::clone(sr), old.clone());
            let held = Arc::clone(moving).lock_owned().await;
            let keep = move || {
                let _held = held;
                keep_old_file(&dir.dir, &named)
            };
            sr.io.run(keep).await??;
            // Before the new file takes the old one's name: whoever opens the old content looks there from now on.
            self.inner.db.transaction(move |tx| Ok(disks::set_file(tx, old.content, &old.aside)?)).await?;
        }
        let (dir, moves) = (Arc::clone(sr), intent.clone());
        let held = Arc::clone(moving).lock_owned().await;
        let place = move || {
            let _held = held;
            move_into_place(&dir.dir, &moves)
        };
        sr.io.run(place).await??;
        let committing = intent.clone();
        let vdi = match destination {
            Destination::New { vdi, name_label, name_description } => Some(VdiRow {
                id: *vdi,
                sr: sr.id,
                content: row.id,
                name_label: name_label.clone(),
                name_description: name_description.clone(),
                tags: Vec::new(),
                vdi_type: "user".into(),
                virtual_size: row.virtual_size,
                created_ms: now_ms(),
                content_changed_ms: None,
                snapshot_of: None,
                snapshot_ms: None,
                record: Record::new(),
            }),
            Destination::Replace { .. } => None,
        };
        let switched = move |tx: &rusqlite::Transaction<'_>| -> Result<Result<(), LocalError>, StateError> {
            if let Some(old) = &committing.old {
                let current = disks::find_vdi(tx, committing.vdi)?.map(|vdi| vdi.content);
                if current != Some(old.content) {
                    return Ok(Err(LocalError::ContentReplaced(committing.vdi)));
                }
            }
            disks::insert_content(tx, &row, &map)?;
            if let Some(vdi) = &vdi {
                disks::insert_vdi(tx, vdi)?;
            }
            if let Some(old) = &committing.old {
                disks::switch_content(tx, committing.vdi, &row, now_ms())?;
                disks::drop_content(tx, old.content, &old.aside)?;
            }
            disks::delete_intent(tx, committing.content)?;
            Ok(Ok(()))
        };
        self.inner.db.transaction(switched).await??;
        self.inner.changes.tell(ObjectChange::Vdi(intent.vdi));
        self.inner.changes.tell(ObjectChange::Sr(sr.id));
        // Nothing leads to the old content any more, so nobody can begin to read it now.
        Ok(intent.old.clone().map(|old| Leftover {
            content: old.content,
            unread: self.inner.pins.drop_content(old.content),
            stale_file: (old.file != intent.target).then_some(old.file),
        }))
    }

    /// Step 4. What fails here is done by the next start.
    async fn clear(&self, sr: &Arc<Sr>, leftover: Leftover) {
        let store = self.clone();
        let dir = Arc::clone(sr);
        let cleared = sr
            .io
            .run(move || -> Result<(), LocalError> {
                if let Some(file) = &leftover.stale_file {
                    dir.dir.unlink(file)?;
                    dir.dir.sync_folder_of(file)?;
                }
                if leftover.unread { store.remove_dropped(leftover.content) } else { Ok(()) }
            })
            .await;
        if let Err(error) = cleared.unwrap_or_else(|error| Err(error.into())) {
            tracing::error!(%error, "replaced content could not be removed");
        }
    }

    /// Gives deleted content that is still read its place among the pinned.
    async fn move_aside(&self, sr: &Arc<Sr>, content: &ContentRow) {
        let aside = SrDir::pinned_file(content.id, content.format);
        let (dir, from, to, id) = (Arc::clone(sr), content.file.clone(), aside, content.id);
        let db: Db = self.inner.db.clone();
        let moved = sr
            .io
            .run(move || -> Result<(), LocalError> {
                // A second name first: at every moment the name in the database is that of the file.
                dir.dir.keep_as(&from, &to)?;
                let file = to.clone();
                let known = db.transaction_blocking(move |tx| Ok(disks::drop_content(tx, id, &file)?))?;
                dir.dir.unlink(&from)?;
                if !known {
                    // Its last reader has left meanwhile, and the caretaker has removed it.
                    dir.dir.unlink(&to)?;
                }
                dir.dir.sync_folder_of(&to)?;
                Ok(dir.dir.sync_folder_of(&from)?)
            })
            .await;
        if let Err(error) = moved.unwrap_or_else(|error| Err(error.into())) {
            tracing::error!(%error, "deleted content that is still read could not be moved aside");
        }
    }

    async fn undo(&self, sr: &Arc<Sr>, intent: IntentRow) {
        let content = intent.content;
        match self.inner.db.call(move |db| Ok(disks::has_intent(db, content)?)).await {
            Ok(true) => {}
            // The transaction went through although its answer did not arrive: nothing to undo.
            Ok(false) => {
                self.inner.changes.tell(ObjectChange::Vdi(intent.vdi));
                self.inner.changes.tell(ObjectChange::Sr(intent.sr));
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
fn child_files(db: &rusqlite::Connection, content: ContentId) -> rusqlite::Result<Vec<String>> {
    let mut files = Vec::new();
    for child in disks::children_of(db, content)? {
        files.extend(disks::find_content(db, child)?.filter(|row| !row.dropped).map(|row| row.file));
    }
    Ok(files)
}

fn keep_old_file(dir: &SrDir, old: &ReplacedContent) -> Result<(), SrDirError> {
    dir.keep_as(&old.file, &old.aside)?;
    dir.sync_folder_of(&old.aside)
}

fn move_into_place(dir: &SrDir, intent: &IntentRow) -> Result<(), SrDirError> {
    dir.sync_folder_of(&intent.staged)?;
    dir.rename(&intent.staged, &intent.target)?;
    dir.sync_folder_of(&intent.target)?;
    dir.sync_folder_of(&intent.staged)
}
