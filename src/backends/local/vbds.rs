//! Disks in VMs: attaching, detaching, and what becomes of it when the disk goes.

use rusqlite::Connection;

use crate::ids::{VbdId, VdiId, VmId};
use crate::state::disks::{self, VdiRow};
use crate::state::vms::{self, VbdKind, VbdMode, VbdRow, VmKind};

use super::{LocalError, LocalStore, ObjectChange, vm_records};

/// How many VBDs a VM can have, at positions from 0 on: as many as xapi allows.
pub(super) const POSITIONS: u32 = 255;

/// A disk that is to be attached to a VM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewVbd {
    /// The id of the VBD.
    pub id: VbdId,
    /// The VM.
    pub vm: VmId,
    /// The disk.
    pub vdi: VdiId,
    /// Whether the guest may write.
    pub mode: VbdMode,
    /// Whether the VM starts from it.
    pub bootable: bool,
    /// Its position; `None` takes the first that is free.
    pub position: Option<u32>,
}

/// A disk that a VM may get.
pub(super) fn usable_disk(db: &Connection, id: VdiId) -> rusqlite::Result<Result<VdiRow, LocalError>> {
    Ok(match disks::find_vdi(db, id)? {
        None => Err(LocalError::NoSuchVdi(id)),
        Some(vdi) if vdi.snapshot_of.is_some() => Err(LocalError::VdiIsSnapshot(id)),
        Some(vdi) => Ok(vdi),
    })
}

/// The position that was asked for, or the first one, unless it is taken.
fn free_position(taken: &[VbdRow], wanted: Option<u32>) -> Option<u32> {
    let is_free = |position: &u32| {
        let text = position.to_string();
        *position < POSITIONS && taken.iter().all(|vbd| vbd.userdevice != text)
    };
    match wanted {
        Some(position) => Some(position).filter(is_free),
        None => (0..POSITIONS).find(is_free),
    }
}

impl LocalStore {
    /// Attaches a disk to a VM or a template.
    ///
    /// # Errors
    /// [`LocalError::NoSuchVm`], [`LocalError::VmIsSnapshot`], [`LocalError::NoSuchVdi`],
    /// [`LocalError::VdiIsSnapshot`], [`LocalError::VdiTwice`], [`LocalError::NoPosition`].
    pub async fn create_vbd(&self, new: NewVbd) -> Result<(), LocalError> {
        self.change(move |tx| {
            let vm = match vms::find_vm(tx, new.vm)? {
                None => return Ok(Err(LocalError::NoSuchVm(new.vm))),
                Some(vm) if vm.kind == VmKind::Snapshot => {
                    return Ok(Err(LocalError::VmIsSnapshot(new.vm)));
                }
                Some(vm) => vm.id,
            };
            if let Err(refused) = usable_disk(tx, new.vdi)? {
                return Ok(Err(refused));
            }
            let taken = vms::vbds_of_vm(tx, vm)?;
            if taken.iter().any(|vbd| vbd.vdi == Some(new.vdi)) {
                return Ok(Err(LocalError::VdiTwice { vm, vdi: new.vdi }));
            }
            let Some(position) = free_position(&taken, new.position) else {
                let position = new.position.map(|position| position.to_string()).unwrap_or_default();
                return Ok(Err(LocalError::NoPosition { vm, position, last: POSITIONS - 1 }));
            };
            let row = VbdRow {
                id: new.id,
                vm,
                vdi: Some(new.vdi),
                userdevice: position.to_string(),
                kind: VbdKind::Disk,
                mode: new.mode,
                bootable: new.bootable,
                record: vm_records::vbd(),
            };
            vms::insert_vbd(tx, &row)?;
            Ok(Ok(((), shown_by(&row))))
        })
        .await
    }

    /// Detaches a disk; it stays.
    ///
    /// # Errors
    /// [`LocalError::NoSuchVbd`], [`LocalError::VmIsSnapshot`].
    pub async fn delete_vbd(&self, id: VbdId) -> Result<(), LocalError> {
        self.change(move |tx| {
            let Some(row) = vms::find_vbd(tx, id)? else { return Ok(Err(LocalError::NoSuchVbd(id))) };
            if vms::find_vm(tx, row.vm)?.is_some_and(|vm| vm.kind == VmKind::Snapshot) {
                return Ok(Err(LocalError::VmIsSnapshot(row.vm)));
            }
            vms::delete_vbd(tx, id)?;
            Ok(Ok(((), shown_by(&row))))
        })
        .await
    }

    /// Removes a VDI as [`Self::delete_vdi`] does, and tells of the VBDs that go with it. (The schema removes them,
    /// whichever way a VDI goes.)
    ///
    /// # Errors
    /// As [`Self::delete_vdi`].
    pub async fn delete_disk(&self, id: VdiId) -> Result<(), LocalError> {
        let attached = self.inner.db.call(move |db| Ok(vms::vbds_of_vdi(db, id)?)).await?;
        let store = self.clone();
        super::commit::to_its_end(async move {
            store.delete_vdi(id).await?;
            attached.iter().flat_map(shown_by).for_each(|change| store.inner.changes.tell(change));
            Ok(())
        })
        .await
    }
}

/// Everything that shows a VBD.
fn shown_by(row: &VbdRow) -> Vec<ObjectChange> {
    let vdi = row.vdi.map(ObjectChange::Vdi);
    [ObjectChange::Vm(row.vm), ObjectChange::Vbd(row.id)].into_iter().chain(vdi).collect()
}
