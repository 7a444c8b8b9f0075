//! How a VDI gets other content: the steps of `commit` that are about the old one.

use std::sync::Arc;

use tokio::sync::OwnedMutexGuard;

use crate::disk::writer::Written;
use crate::ids::{ContentId, VdiId};
use crate::state::disks::{self, ReplacedContent};
use crate::state::moves::{self as moved, MoveRow};
use crate::state::now_ms;

use super::commit::{Arrival, Moving, child_files, place};
use super::sr_dir::{SrDir, SrDirError};
use super::{Committed, LocalError, LocalStore, Sr, Staging, WriteClaim, moves};

impl LocalStore {
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

    /// Gives a VDI other content; see `commit`.
    pub(super) async fn replace(
        &self,
        staging: Staging,
        written: Written,
        (vdi, expected): (VdiId, ContentId),
        claim: WriteClaim,
        job: Option<String>,
    ) -> Result<Committed, LocalError> {
        let sr = Arc::clone(staging.sr());
        let turn = sr.turn(self.stuck_after()).await?;
        let old = self.replaced(&sr, vdi, expected).await?;
        let arrival = Arrival::of(&staging, &written, vdi, old, job)?;
        let committed = arrival.committed();
        let arrivals: Arc<[Arrival]> = [arrival].into();
        self.announce(vec![staging], &arrivals, false).await?;
        let moving = Moving::default();
        match self.switch(&arrivals, expected, &moving).await {
            Ok(dropped) => {
                arrivals.iter().for_each(|arrival| self.tell(&arrival.intent));
                self.leave(&sr, expected, dropped, turn).await;
                drop(claim);
                Ok(committed)
            }
            Err(error) => Err(self.take_back(arrivals, moving, (claim, turn), error).await),
        }
    }

    /// What is to be moved so that the old content stays: nothing if its file bears the name of another VDI already.
    async fn replaced(
        &self,
        sr: &Arc<Sr>,
        vdi: VdiId,
        expected: ContentId,
    ) -> Result<Option<ReplacedContent>, LocalError> {
        let (db, dir) = (self.inner.db.clone(), Arc::clone(sr));
        sr.io.run(move || moves::finish(&db, &dir.dir, expected)).await??;
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
                let aside = match moves::new_name(db, &old, Some(vdi))? {
                    Some(name) => name,
                    None if disks::vdis_of_content(db, old.id)?.len() > 1 => return Ok(Ok(None)),
                    None => SrDir::pinned_file(old.id, old.format),
                };
                let stays = aside == old.file;
                Ok(Ok((!stays).then_some(ReplacedContent { content: old.id, file: old.file, aside })))
            })
            .await?
    }

    /// Steps 2 and 3 of a replacement. Answers whether the old content was dropped.
    async fn switch(
        &self,
        arrivals: &Arc<[Arrival]>,
        expected: ContentId,
        moving: &Moving,
    ) -> Result<bool, LocalError> {
        for arrival in arrivals.iter() {
            if let Some(old) = arrival.intent.old.clone() {
                let (sr, named) = (Arc::clone(&arrival.sr), old.clone());
                let held = Arc::clone(moving).lock_owned().await;
                let keep = move || {
                    let _held = held;
                    keep_old_file(&sr.dir, &named)
                };
                arrival.sr.io.run(keep).await??;
                // Before the new file takes the old one's name: whoever opens the old content looks there from now on.
                self.inner
                    .db
                    .transaction(move |tx| Ok(disks::set_file(tx, old.content, &old.aside)?))
                    .await?;
            }
            place(arrival, moving).await?;
        }
        let switched = Arc::clone(arrivals);
        let switched = self.inner.db.transaction(move |tx| {
            let mut dropped = false;
            for Arrival { intent, row, map, .. } in switched.iter() {
                if disks::find_vdi(tx, intent.vdi)?.map(|vdi| vdi.content) != Some(expected) {
                    return Ok(Err(LocalError::ContentReplaced(intent.vdi)));
                }
                disks::insert_content(tx, row, map)?;
                disks::switch_content(tx, intent.vdi, row, now_ms())?;
                disks::delete_intent(tx, row.id)?;
                // A snapshot may have been taken in this very moment.
                if disks::vdis_of_content(tx, expected)?.is_empty()
                    && let Some(old) = disks::find_content(tx, expected)?
                {
                    dropped = disks::drop_content(tx, expected, &old.file)?;
                }
                if let Some(old) = intent.old.as_ref().filter(|old| old.file != intent.target) {
                    let (from, to) = (old.file.clone(), old.aside.clone());
                    moved::insert(tx, &MoveRow { content: expected, sr: row.sr, from, to })?;
                }
            }
            Ok(Ok(dropped))
        });
        switched.await?
    }

    /// Step 4. What fails here is done by the next start.
    async fn leave(&self, sr: &Arc<Sr>, content: ContentId, dropped: bool, turn: OwnedMutexGuard<()>) {
        // Nothing leads to dropped content any more, so nobody can begin to read it now.
        let unread = dropped && self.inner.pins.drop_content(content);
        let (store, dir) = (self.clone(), Arc::clone(sr));
        let steps = move || {
            moves::finish(&store.inner.db, &dir.dir, content)?;
            if !dropped {
                return moves::settle(&store.inner.db, &dir.dir, content);
            }
            drop(turn);
            if unread { store.remove_dropped(content) } else { Ok(()) }
        };
        let done = sr.io.run(steps).await;
        if let Err(error) = done.unwrap_or_else(|error| Err(error.into())) {
            tracing::error!(%error, "replaced content could not be cleared away; the next start does it");
        }
    }
}

fn keep_old_file(dir: &SrDir, old: &ReplacedContent) -> Result<(), SrDirError> {
    dir.keep_as(&old.file, &old.aside)?;
    dir.sync_folder_of(&old.aside)
}
