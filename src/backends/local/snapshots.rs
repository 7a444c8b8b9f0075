//! Snapshots of VDIs: further VDIs that refer to the same content, which never changes.

use crate::ids::VdiId;
use crate::state::{disks, now_ms};

use super::caretaker::Chore;
use super::{LocalError, LocalStore, ObjectChange};

impl LocalStore {
    /// Takes a snapshot of a VDI: at once, and without taking room. Its name is the VDI's if none is given.
    ///
    /// Neither readers nor writers are in its way: while the VDI is being given other content, it still has the old.
    ///
    /// # Errors
    /// [`LocalError::NoSuchVdi`], [`LocalError::IsSnapshot`], [`LocalError::SrReadOnly`]; database trouble.
    pub async fn snapshot_vdi(&self, id: VdiId, name_label: Option<String>) -> Result<VdiId, LocalError> {
        self.snapshot_vdi_as(id, VdiId::random(), name_label).await
    }

    /// As [`Self::snapshot_vdi`], with an id of the caller's choice, which must be new.
    ///
    /// # Errors
    /// As [`Self::snapshot_vdi`].
    pub async fn snapshot_vdi_as(
        &self,
        id: VdiId,
        snapshot: VdiId,
        name_label: Option<String>,
    ) -> Result<VdiId, LocalError> {
        let sr = self
            .inner
            .db
            .call(move |db| Ok(disks::find_vdi(db, id)?.map(|row| row.sr)))
            .await?
            .ok_or(LocalError::NoSuchVdi(id))?;
        // Its name has to come back when the SR is attached elsewhere.
        self.writable_sr(sr)?;
        let taken = self.inner.db.transaction(move |tx| {
            let Some(row) = disks::find_vdi(tx, id)? else { return Ok(Err(LocalError::NoSuchVdi(id))) };
            if row.snapshot_of.is_some() {
                return Ok(Err(LocalError::IsSnapshot(id)));
            }
            let name = name_label.clone().unwrap_or_else(|| row.name_label.clone());
            let mut taken = row.snapshot(name, now_ms());
            taken.id = snapshot;
            disks::insert_vdi(tx, &taken)?;
            Ok(Ok(()))
        });
        taken.await??;
        for vdi in [snapshot, id] {
            self.inner.changes.tell(ObjectChange::Vdi(vdi));
        }
        self.inner.changes.tell(ObjectChange::Sr(sr));
        self.inner.caretaker.ask(Chore::WriteNames(sr));
        Ok(snapshot)
    }
}

#[cfg(test)]
mod tests;
