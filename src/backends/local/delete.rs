//! How a VDI goes.
//!
//! The file of a content that other VDIs share gets the name of one of them first, while the VDI is still there
//! (`moves`); then one transaction removes the VDI. Content that nothing refers to any more is dropped in the same
//! transaction, and its file goes at once, or with its last reader.

use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;

use crate::ids::{ContentId, VdiId};
use crate::state::disks::{self, ContentRow};

use super::caretaker::Chore;
use super::commit::{child_files, to_its_end};
use super::sr_dir::SrDir;
use super::{LocalError, LocalStore, ObjectChange, Sr, moves};

/// How often the file of a shared content is moved before one gives up. Nothing but a defect needs more than one try.
const TRIES: usize = 4;

/// What an attempt to remove a VDI came to.
enum Attempt {
    /// It is gone; its content too if that is here.
    Gone(Option<ContentRow>),
    /// Its content's file has to get this name first.
    Rename(ContentId, String),
}

impl LocalStore {
    /// Removes a VDI. Its content goes too, unless others share it, as soon as nobody reads it. Goes on to its end when
    /// the caller does not wait for it.
    ///
    /// # Errors
    /// [`LocalError::NoSuchVdi`], [`LocalError::VdiBusy`], [`LocalError::VdiHasChildren`],
    /// [`LocalError::SrReadOnly`]; disk and database trouble. The VDI is still there then.
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
        let turn = Arc::new(sr.turn(self.stuck_after()).await?);
        let mut tries = 0;
        let dropped = loop {
            match self.try_to_delete(id).await? {
                Attempt::Gone(content) => break content,
                Attempt::Rename(..) if tries >= TRIES => return Err(LocalError::VdiBusy(id)),
                Attempt::Rename(content, to) => {
                    tries += 1;
                    let (db, dir, held) = (self.inner.db.clone(), Arc::clone(&sr), Arc::clone(&turn));
                    let moved = move || {
                        let _held = held;
                        moves::shift(&db, &dir.dir, content, &to)
                    };
                    sr.io.run(moved).await??;
                }
            }
        };
        // The disk of which this was a snapshot names it no longer.
        for vdi in [Some(id), row.snapshot_of].into_iter().flatten() {
            self.inner.changes.tell(ObjectChange::Vdi(vdi));
        }
        self.inner.changes.tell(ObjectChange::Sr(sr.id));
        self.inner.caretaker.ask(Chore::WriteNames(sr.id));
        if let Some(content) = dropped {
            self.let_go(&sr, &content, turn).await;
        }
        Ok(())
    }

    async fn try_to_delete(&self, id: VdiId) -> Result<Attempt, LocalError> {
        self.inner
            .db
            .transaction(move |tx| {
                let Some(vdi) = disks::find_vdi(tx, id)? else { return Ok(Err(LocalError::NoSuchVdi(id))) };
                let Some(content) = disks::find_content(tx, vdi.content)? else {
                    return Ok(Err(LocalError::ContentGone(vdi.content)));
                };
                let shared = disks::vdis_of_content(tx, content.id)?.len() > 1;
                let new_name = moves::new_name(tx, &content, Some(id))?;
                if !shared || new_name.is_some() {
                    let children = child_files(tx, content.id)?;
                    if !children.is_empty() {
                        return Ok(Err(LocalError::VdiHasChildren { vdi: id, children }));
                    }
                }
                if let Some(to) = new_name {
                    return Ok(Ok(Attempt::Rename(content.id, to)));
                }
                disks::delete_vdi(tx, id)?;
                if shared {
                    return Ok(Ok(Attempt::Gone(None)));
                }
                disks::drop_content(tx, content.id, &content.file)?;
                Ok(Ok(Attempt::Gone(Some(content))))
            })
            .await?
    }

    /// Removes the file of a content that was dropped just now, or gives it its place among the pinned if it is still
    /// read. What fails here is done by the next start.
    async fn let_go(&self, sr: &Arc<Sr>, content: &ContentRow, turn: Arc<OwnedMutexGuard<()>>) {
        // Nothing leads to the content any more, so nobody can begin to read it now.
        let unread = self.inner.pins.drop_content(content.id);
        let (store, dir, id) = (self.clone(), Arc::clone(sr), content.id);
        let aside = SrDir::pinned_file(content.id, content.format);
        let steps = move || {
            moves::finish(&store.inner.db, &dir.dir, id)?;
            if unread {
                drop(turn);
                return store.remove_dropped(id);
            }
            moves::shift(&store.inner.db, &dir.dir, id, &aside)
        };
        let done = sr.io.run(steps).await;
        if let Err(error) = done.unwrap_or_else(|error| Err(error.into())) {
            tracing::error!(%error, "deleted content could not be removed or moved aside; the next start does it");
        }
    }
}
