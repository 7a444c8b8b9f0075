//! VMs of the local store: what is known of them is in the database, their disks are VDIs. Nothing here runs a VM.

use std::collections::{BTreeSet, HashMap, HashSet};

use rusqlite::{Connection, Transaction};

use crate::ids::{NetworkId, SrId, VbdId, VdiId, VifId, VmId};
use crate::state::disks::{self, VdiRow};
use crate::state::networks::{self, NetworkRow, VifRow};
use crate::state::vms::{self, VbdKind, VbdMode, VbdRow, VmKind, VmRow};
use crate::state::{StateError, now_ms};

use super::commit::to_its_end;
use super::vbds::{POSITIONS, usable_disk};
use super::vm_archive::{set_suspend_image, suspend_image};
use super::{Chore, LocalError, LocalStore, ObjectChange, vm_records};

/// A VM that is to be made of disks that are there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewVm {
    /// Its id.
    pub id: VmId,
    /// Name that people see.
    pub name_label: String,
    /// Description that people see.
    pub name_description: String,
    /// Virtual processors.
    pub cpus: u32,
    /// Memory, bytes.
    pub memory: u64,
    /// Its disks, in the order of their positions; it starts from the first.
    pub vdis: Vec<VdiId>,
}

/// What a transaction has done: its value, and what is to be told of it; or why it has done nothing.
pub(super) type Done<R> = Result<Result<(R, Vec<ObjectChange>), LocalError>, StateError>;

impl LocalStore {
    /// Runs a transaction and tells what it has changed after its commit, whatever becomes of who asked for it. One
    /// that refuses must not have written anything.
    pub(super) async fn change<R: Send + 'static>(
        &self,
        change: impl FnMut(&Transaction<'_>) -> Done<R> + Send + 'static,
    ) -> Result<R, LocalError> {
        let store = self.clone();
        to_its_end(async move {
            let (value, changes) = store.inner.db.transaction(change).await??;
            for change in changes {
                if let ObjectChange::Sr(sr) = change {
                    store.inner.caretaker.ask(Chore::WriteNames(sr));
                }
                store.inner.changes.tell(change);
            }
            Ok(value)
        })
        .await
    }

    /// Makes a halted VM of disks that are there; other VMs may use them too.
    ///
    /// # Errors
    /// [`LocalError::NoSuchVdi`], [`LocalError::VdiIsSnapshot`], [`LocalError::VdiTwice`], [`LocalError::NoPosition`]
    /// for more disks than a VM can have. Nothing is made then.
    pub async fn create_vm(&self, new: NewVm) -> Result<(), LocalError> {
        self.change(move |tx| {
            if new.vdis.len() > POSITIONS as usize {
                let position = POSITIONS.to_string();
                return Ok(Err(LocalError::NoPosition { vm: new.id, position, last: POSITIONS - 1 }));
            }
            let mut disks = BTreeSet::new();
            for vdi in &new.vdis {
                if let Err(refused) = usable_disk(tx, *vdi)? {
                    return Ok(Err(refused));
                }
                if !disks.insert(*vdi) {
                    return Ok(Err(LocalError::VdiTwice { vm: new.id, vdi: *vdi }));
                }
            }
            vms::insert_vm(tx, &new.row(now_ms()))?;
            let mut changes = vec![ObjectChange::Vm(new.id)];
            for (position, vdi) in new.vdis.iter().enumerate() {
                let vbd = VbdRow {
                    id: VbdId::random(),
                    vm: new.id,
                    vdi: Some(*vdi),
                    userdevice: position.to_string(),
                    kind: VbdKind::Disk,
                    mode: VbdMode::ReadWrite,
                    bootable: position == 0,
                    record: vm_records::vbd(),
                };
                vms::insert_vbd(tx, &vbd)?;
                changes.extend([ObjectChange::Vbd(vbd.id), ObjectChange::Vdi(*vdi)]);
            }
            vms::set_unchanged(tx, new.id)?;
            Ok(Ok(((), changes)))
        })
        .await
    }

    /// Stores a VM's name, description, tags and record anew; also a snapshot's or a template's.
    ///
    /// # Errors
    /// [`LocalError::NoSuchVm`].
    pub async fn edit_vm(
        &self,
        id: VmId,
        edit: impl Fn(&mut VmRow) + Send + 'static,
    ) -> Result<(), LocalError> {
        self.change(move |tx| {
            let Some(mut row) = vms::find_vm(tx, id)? else { return Ok(Err(LocalError::NoSuchVm(id))) };
            edit(&mut row);
            vms::update_vm(tx, &row, now_ms())?;
            Ok(Ok(((), vec![ObjectChange::Vm(id)])))
        })
        .await
    }

    /// Stores a network's name, description, tags and record anew.
    ///
    /// # Errors
    /// [`LocalError::NoSuchNetwork`].
    pub async fn edit_network(
        &self,
        id: NetworkId,
        edit: impl Fn(&mut NetworkRow) + Send + 'static,
    ) -> Result<(), LocalError> {
        self.change(move |tx| {
            let Some(mut row) = networks::find_network(tx, id)? else {
                return Ok(Err(LocalError::NoSuchNetwork(id)));
            };
            edit(&mut row);
            networks::update_network(tx, &row)?;
            Ok(Ok(((), vec![ObjectChange::Network(id)])))
        })
        .await
    }

    /// Takes a snapshot of a VM as it is now, in one transaction and without room: each disk's snapshot refers to the
    /// content that the disk has.
    ///
    /// # Errors
    /// [`LocalError::NoSuchVm`], [`LocalError::VmIsSnapshot`]; [`LocalError::SrReadOnly`] and
    /// [`LocalError::SrUnavailable`] for an SR of one of its disks. Nothing is made then.
    pub async fn snapshot_vm(&self, id: VmId, snapshot: VmId, name_label: String) -> Result<(), LocalError> {
        let store = self.clone();
        self.change(move |tx| {
            let parts = match Parts::of(tx, id)? {
                None => return Ok(Err(LocalError::NoSuchVm(id))),
                Some(parts) if parts.vm.kind == VmKind::Snapshot => {
                    return Ok(Err(LocalError::VmIsSnapshot(id)));
                }
                Some(parts) => parts,
            };
            let mut disks = Vec::new();
            for vdi in parts.disks() {
                let Some(row) = disks::find_vdi(tx, vdi)? else { continue };
                // A disk whose snapshot could not be removed again is not snapshot.
                if let Err(refused) = store.writable_sr(row.sr) {
                    return Ok(Err(refused));
                }
                disks.push(row);
            }
            Ok(Ok(((), parts.snapshot(tx, snapshot, &name_label, &disks, now_ms())?)))
        })
        .await
    }

    /// Removes a VM, a snapshot or a template, then its snapshots, then its disks that no other VM uses. Answers which
    /// disks are gone. A disk that cannot be removed stays, and the log says why.
    ///
    /// # Errors
    /// [`LocalError::NoSuchVm`].
    pub async fn delete_vm(&self, id: VmId) -> Result<Vec<VdiId>, LocalError> {
        let store = self.clone();
        to_its_end(async move {
            let (snapshots, mut disks) = store.remove_vm(id).await?;
            for snapshot in snapshots {
                match store.remove_vm(snapshot).await {
                    Ok((_, more)) => disks.extend(more),
                    Err(LocalError::NoSuchVm(_)) => {}
                    Err(error) => tracing::error!(%snapshot, %error, "a snapshot of a deleted VM stays"),
                }
            }
            // Snapshots first: as long as they are there, their disks' contents are others' too.
            let (mut gone, mut seen) = (Vec::new(), HashSet::new());
            for vdi in disks.into_iter().rev().filter(|vdi| seen.insert(*vdi)) {
                match store.delete_unused(vdi).await {
                    Ok(true) => gone.push(vdi),
                    Ok(false) | Err(LocalError::NoSuchVdi(_)) => {}
                    Err(error) => tracing::warn!(vm = %id, %vdi, %error, "a disk of a deleted VM stays"),
                }
            }
            Ok(gone)
        })
        .await
    }

    /// Removes the row of a VM with its VBDs and VIFs; answers its snapshots and its disks.
    async fn remove_vm(&self, id: VmId) -> Result<(Vec<VmId>, Vec<VdiId>), LocalError> {
        self.change(move |tx| {
            let Some(parts) = Parts::of(tx, id)? else { return Ok(Err(LocalError::NoSuchVm(id))) };
            let snapshots = vms::snapshots_of(tx, id)?;
            vms::delete_vm(tx, id)?;
            Ok(Ok(((snapshots, parts.disks().collect()), parts.all())))
        })
        .await
    }

    async fn delete_unused(&self, vdi: VdiId) -> Result<bool, LocalError> {
        let used = self.inner.db.call(move |db| Ok(!vms::vms_of_vdi(db, vdi)?.is_empty())).await?;
        if !used {
            self.delete_vdi(vdi).await?;
        }
        Ok(!used)
    }
}

impl NewVm {
    fn row(&self, now_ms: i64) -> VmRow {
        VmRow {
            id: self.id,
            kind: VmKind::Vm,
            name_label: self.name_label.clone(),
            name_description: self.name_description.clone(),
            tags: Vec::new(),
            snapshot_of: None,
            snapshot_ms: None,
            created_ms: now_ms,
            changed_ms: now_ms,
            record: vm_records::vm(self.cpus, self.memory),
            extra: Vec::new(),
        }
    }
}

/// A VM with all that is its own.
struct Parts {
    vm: VmRow,
    vbds: Vec<VbdRow>,
    vifs: Vec<VifRow>,
}

impl Parts {
    fn of(db: &Connection, id: VmId) -> rusqlite::Result<Option<Self>> {
        let Some(vm) = vms::find_vm(db, id)? else { return Ok(None) };
        Ok(Some(Self { vm, vbds: vms::vbds_of_vm(db, id)?, vifs: networks::vifs_of_vm(db, id)? }))
    }

    /// Its disks, and the image of its memory if it is suspended; what lies in its CD drives is none.
    fn disks(&self) -> impl Iterator<Item = VdiId> {
        let attached = self.vbds.iter().filter(|vbd| vbd.kind == VbdKind::Disk).filter_map(|vbd| vbd.vdi);
        attached.chain(suspend_image(&self.vm.record))
    }

    /// Everything that shows it.
    fn all(&self) -> Vec<ObjectChange> {
        let origin = self.vm.snapshot_of.map(ObjectChange::Vm);
        let vbds = self.vbds.iter().flat_map(|vbd| {
            [Some(ObjectChange::Vbd(vbd.id)), vbd.vdi.map(ObjectChange::Vdi)].into_iter().flatten()
        });
        let vifs = self.vifs.iter().flat_map(|vif| {
            [Some(ObjectChange::Vif(vif.id)), vif.network.map(ObjectChange::Network)].into_iter().flatten()
        });
        std::iter::once(ObjectChange::Vm(self.vm.id)).chain(origin).chain(vbds).chain(vifs).collect()
    }

    /// Writes a snapshot of it with snapshots of these disks, and answers what is to be told of it.
    fn snapshot(
        mut self,
        db: &Connection,
        id: VmId,
        name_label: &str,
        disks: &[VdiRow],
        now_ms: i64,
    ) -> rusqlite::Result<Vec<ObjectChange>> {
        let mut changes = Vec::new();
        let mut taken = HashMap::new();
        for disk in disks {
            let row = disk.snapshot(disk.name_label.clone(), now_ms);
            disks::insert_vdi(db, &row)?;
            taken.insert(disk.id, row.id);
            changes.push(ObjectChange::Vdi(disk.id));
        }
        let srs: BTreeSet<SrId> = disks.iter().map(|disk| disk.sr).collect();
        changes.extend(srs.into_iter().map(ObjectChange::Sr));
        self.vm = VmRow {
            id,
            kind: VmKind::Snapshot,
            name_label: name_label.to_owned(),
            snapshot_of: Some(self.vm.id),
            snapshot_ms: Some(now_ms),
            created_ms: now_ms,
            changed_ms: now_ms,
            ..self.vm
        };
        if let Some(image) = suspend_image(&self.vm.record).and_then(|image| taken.get(&image)) {
            set_suspend_image(&mut self.vm.record, *image);
        }
        vms::insert_vm(db, &self.vm)?;
        for vbd in &mut self.vbds {
            (vbd.id, vbd.vm) = (VbdId::random(), id);
            if vbd.kind == VbdKind::Disk {
                vbd.vdi = vbd.vdi.and_then(|vdi| taken.get(&vdi).copied());
            }
            vms::insert_vbd(db, vbd)?;
        }
        for vif in &mut self.vifs {
            (vif.id, vif.vm) = (VifId::random(), id);
            networks::insert_vif(db, vif)?;
        }
        vms::set_unchanged(db, id)?;
        changes.extend(self.all());
        Ok(changes)
    }
}

#[cfg(test)]
mod tests;
