//! A VM with everything that an archive of it needs, looked up and pinned in one turn of the database.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::formats::xva::{Record, Value};
use crate::ids::{NetworkId, SrId, VdiId, VmId};
use crate::state::disks::{self, ContentRow, SrRow, VdiRow};
use crate::state::networks::{self, NetworkRow, VifRow};
use crate::state::vms::{self, VbdKind, VbdRow, VmRow};

use super::{LocalError, LocalStore, Pin};

/// What the reference to a VDI begins with in the records of what came out of an archive.
pub const VDI_REFERENCE: &str = "\u{1}vdi/";

/// A disk of a VM.
#[derive(Debug)]
pub struct PinnedDisk {
    /// The VDI.
    pub vdi: VdiRow,
    /// What is known of its content.
    pub content: ContentRow,
    /// Holds the content.
    pub pin: Pin,
}

/// A VM as it is at one moment.
#[derive(Debug)]
pub struct PinnedVm {
    /// The VM.
    pub vm: VmRow,
    /// Its disks and drives.
    pub vbds: Vec<VbdRow>,
    /// The disks that its VBDs name, and its suspend image, each once.
    pub disks: Vec<PinnedDisk>,
    /// Its network interfaces.
    pub vifs: Vec<VifRow>,
    /// Their networks.
    pub networks: Vec<NetworkRow>,
    /// The SRs of its disks.
    pub srs: Vec<SrRow>,
}

impl PinnedVm {
    /// The SRs of its disks.
    pub fn srs(&self) -> Vec<SrId> {
        self.srs.iter().map(|sr| sr.id).collect()
    }

    /// When an export of it was last another one, Unix milliseconds; `None` when it still is its first.
    pub fn last_changed_ms(&self) -> Option<i64> {
        let own = Some(self.vm.changed_ms).filter(|changed| *changed > self.vm.created_ms);
        let of_disks = self.disks.iter().filter_map(|disk| disk.vdi.content_changed_ms).max();
        own.max(of_disks)
    }
}

/// The image of a suspended VM's memory, as its record names it.
pub(super) fn suspend_image(record: &Record) -> Option<VdiId> {
    let reference = record.get("suspend_VDI").and_then(Value::as_text)?;
    reference.strip_prefix(VDI_REFERENCE)?.parse().ok()
}

/// Leads a record to another image.
pub(super) fn set_suspend_image(record: &mut Record, image: VdiId) {
    record.set("suspend_VDI", Value::text(format!("{VDI_REFERENCE}{image}")));
}

impl LocalStore {
    /// One VM.
    ///
    /// # Errors
    /// [`LocalError::NoSuchVm`].
    pub async fn vm(&self, id: VmId) -> Result<VmRow, LocalError> {
        let found = self.inner.db.call(move |db| Ok(vms::find_vm(db, id)?)).await?;
        found.ok_or(LocalError::NoSuchVm(id))
    }

    /// Looks a VM up and pins the contents of its disks, in one step.
    ///
    /// # Errors
    /// [`LocalError::NoSuchVm`].
    pub async fn pin_vm(&self, id: VmId) -> Result<PinnedVm, LocalError> {
        let pins = Arc::clone(&self.inner.pins);
        let found = self.inner.db.call(move |db| {
            let Some(vm) = vms::find_vm(db, id)? else { return Ok(None) };
            let (vbds, vifs) = (vms::vbds_of_vm(db, id)?, networks::vifs_of_vm(db, id)?);
            let suspended = vm.record.get("suspend_VDI").and_then(Value::as_text);
            let suspended =
                suspended.and_then(|reference| reference.strip_prefix(VDI_REFERENCE)?.parse().ok());
            let attached = vbds.iter().filter(|vbd| vbd.kind != VbdKind::Cd).filter_map(|vbd| vbd.vdi);
            let wanted: BTreeSet<VdiId> = attached.chain(suspended).collect();
            let mut disks = Vec::with_capacity(wanted.len());
            for vdi in wanted {
                let Some(vdi) = disks::find_vdi(db, vdi)? else { continue };
                let Some(content) = disks::find_content(db, vdi.content)? else { continue };
                let pin = pins.pin(content.id);
                disks.push(PinnedDisk { vdi, content, pin });
            }
            let of_disks: BTreeSet<SrId> = disks.iter().map(|disk| disk.vdi.sr).collect();
            let mut srs = Vec::with_capacity(of_disks.len());
            for sr in of_disks {
                srs.extend(disks::find_sr(db, sr)?);
            }
            let of_vifs: BTreeSet<NetworkId> = vifs.iter().filter_map(|vif| vif.network).collect();
            let mut found = Vec::with_capacity(of_vifs.len());
            for network in of_vifs {
                found.extend(networks::find_network(db, network)?);
            }
            Ok(Some(PinnedVm { vm, vbds, disks, vifs, networks: found, srs }))
        });
        found.await?.ok_or(LocalError::NoSuchVm(id))
    }
}
