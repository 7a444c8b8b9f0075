//! What an archive's document becomes here: rows of a VM, its devices, networks and disks. Everything that it says is
//! kept, in the terms in which it said it; references are led to what the objects are called here.

use std::collections::{HashMap, HashSet};

use rusqlite::Transaction;
use sha2::{Digest, Sha256};
use uuid::Uuid;

use super::super::ova::{REFERENCE, extra_reference};
use super::ImportError;
use crate::backends::local::{NewVdi, ObjectChange, VDI_REFERENCE};
use crate::formats::xva::{Document, Object, Record, Value};
use crate::ids::{NetworkId, VdiId, VifId, VmId};
use crate::state::networks::{self, NetworkRow, VifRow};
use crate::state::vms::{self, VbdKind, VbdMode, VbdRow, VmKind, VmRow};
use crate::state::{StateError, now_ms};

/// What the VM is to be called.
#[derive(Debug, Clone, Copy)]
pub(super) struct Names {
    /// Its id, if it does not keep its own.
    pub(super) vm: VmId,
    /// Whether ids and MAC addresses stay what they were.
    pub(super) restore: bool,
}

/// A document as rows that are not in the database yet.
#[derive(Debug)]
pub(super) struct Adopted {
    vms: Vec<VmRow>,
    vbds: Vec<VbdRow>,
    vifs: Vec<VifRow>,
    networks: Vec<NetworkRow>,
    /// In the order of the archive.
    disks: Vec<Option<NewVdi>>,
}

impl Adopted {
    /// The VM that the archive is of, and what it is.
    pub(super) fn vm(&self) -> (VmId, VmKind) {
        self.vms.first().map_or((VmId(Uuid::nil()), VmKind::Vm), |vm| (vm.id, vm.kind))
    }

    /// The VDI that a disk of the archive becomes; once.
    pub(super) fn take_disk(&mut self, disk: usize) -> Option<NewVdi> {
        self.disks.get_mut(disk)?.take()
    }

    /// What is new once it is in the database.
    pub(super) fn changes(&self) -> Vec<ObjectChange> {
        let vms = self.vms.iter().map(|vm| ObjectChange::Vm(vm.id));
        let vbds = self.vbds.iter().map(|vbd| ObjectChange::Vbd(vbd.id));
        let vifs = self.vifs.iter().map(|vif| ObjectChange::Vif(vif.id));
        let networks = self.networks.iter().map(|network| ObjectChange::Network(network.id));
        vms.chain(vbds).chain(vifs).chain(networks).collect()
    }

    /// Writes it into the database. A network that is there already, by its name or its bridge, takes the place of the
    /// archive's.
    pub(super) fn insert(&mut self, tx: &Transaction<'_>) -> Result<(), StateError> {
        let mut here = HashMap::new();
        for network in &self.networks {
            let found = networks::matching_network(tx, &network.name_label, &network.bridge)?;
            if found.is_none() {
                networks::insert_network(tx, network)?;
            }
            here.insert(network.id, found.map_or(network.id, |found| found.id));
        }
        for vm in &self.vms {
            vms::insert_vm(tx, vm)?;
        }
        for vbd in &self.vbds {
            vms::insert_vbd(tx, vbd)?;
        }
        for vif in &self.vifs {
            let network = vif.network.and_then(|id| here.get(&id).copied());
            networks::insert_vif(tx, &VifRow { network, ..vif.clone() })?;
        }
        for vm in &self.vms {
            vms::set_unchanged(tx, vm.id)?;
        }
        Ok(())
    }
}

/// Makes rows of a document.
///
/// # Errors
/// When what it says cannot be stored: two devices of a VM in one place, an id that is none.
pub(super) fn adopt(document: Document, names: Names) -> Result<Adopted, ImportError> {
    let disks = document.disks();
    let data: HashSet<&str> = disks.iter().map(|disk| disk.id.as_str()).collect();
    let mut plan = Plan { names, references: HashMap::new(), extras: 0 };
    let mut kept = Vec::new();
    let mut is_first = true;
    // First what everything is called here, since objects name each other in any order.
    for object in &document.objects {
        let is_data = data.contains(object.id.as_str());
        let is_snapshot = object.snapshot.flag("is_a_snapshot")
            && document
                .object(object.snapshot.text("snapshot_of"))
                .is_some_and(|origin| origin.class == "VM");
        match plan.name(object, (is_data, is_snapshot), &mut is_first)? {
            Fate::Kept => kept.push(object),
            Fate::Row => {}
        }
    }
    let now = now_ms();
    let mut adopted = Adopted {
        vms: Vec::new(),
        vbds: Vec::new(),
        vifs: Vec::new(),
        networks: Vec::new(),
        disks: Vec::new(),
    };
    for object in &document.objects {
        match object.class.as_str() {
            "VM" => adopted.vms.push(plan.vm(object, now)?),
            "VBD" => adopted.vbds.extend(plan.vbd(object)?),
            "VIF" => adopted.vifs.push(plan.vif(object)?),
            "network" => adopted.networks.push(plan.network(object, now)?),
            _ => {}
        }
    }
    // The VM that the archive is of comes first; snapshots of it may be there too.
    adopted.vms.sort_by_key(|vm| vm.kind == VmKind::Snapshot);
    for disk in &disks {
        let object = document.object(&disk.id);
        adopted.disks.push(object.map(|object| plan.vdi(object)).transpose()?);
    }
    if let Some(vm) = adopted.vms.first_mut() {
        vm.extra = kept.into_iter().map(|object| (object.class.clone(), plan.record(object))).collect();
    }
    Ok(adopted)
}

fn refused(code: &'static str, message: String) -> ImportError {
    ImportError::Unfit { code, message: format!("ova.xml: {message}") }
}

/// What becomes of an object.
enum Fate {
    /// It has a table.
    Row,
    /// It is kept with the VM, as it is: also the SR that a disk was on, of which the record goes out with the one that
    /// it is on here.
    Kept,
}

/// What the objects of a document are called here.
struct Plan {
    names: Names,
    /// Document id to reference.
    references: HashMap<String, String>,
    extras: usize,
}

impl Plan {
    fn name(
        &mut self,
        object: &Object,
        (is_data, is_snapshot): (bool, bool),
        is_first: &mut bool,
    ) -> Result<Fate, ImportError> {
        let own = object.snapshot.text("uuid");
        let restored = |what: &str| -> Result<Uuid, ImportError> {
            let uuid = own.parse::<Uuid>();
            uuid.map_err(|_| refused("xva_bad_uuid", format!("the uuid of {what} {} is {own:?}", object.id)))
        };
        let fresh = Uuid::new_v4;
        let (reference, fate) = match object.class.as_str() {
            "VM" => {
                let id = match (self.names.restore, *is_first && !is_snapshot) {
                    (true, _) => restored("VM")?,
                    (false, true) => self.names.vm.0,
                    (false, false) => fresh(),
                };
                *is_first &= is_snapshot;
                (format!("{REFERENCE}vm/{id}"), Fate::Row)
            }
            "VBD" => (format!("{REFERENCE}vbd/{}", fresh()), Fate::Row),
            "VIF" => (format!("{REFERENCE}vif/{}", fresh()), Fate::Row),
            "network" => (format!("{REFERENCE}network/{}", fresh()), Fate::Row),
            "VDI" if is_data => (format!("{VDI_REFERENCE}{}", fresh()), Fate::Row),
            _ => {
                let at = self.extras;
                self.extras += 1;
                (extra_reference(at), Fate::Kept)
            }
        };
        self.references.insert(object.id.clone(), reference);
        Ok(fate)
    }

    /// The members of an object with references as they are here. Names and descriptions are text whatever they say.
    fn record(&self, object: &Object) -> Record {
        let mut record = object.snapshot.clone();
        for (name, value) in record.iter_mut() {
            if !matches!(name, "name_label" | "name_description" | "tags") {
                self.redirect(value);
            }
        }
        record
    }

    fn redirect(&self, value: &mut Value) {
        let mut pending = vec![value];
        while let Some(value) = pending.pop() {
            match value {
                Value::Text(text) => {
                    if let Some(reference) = self.references.get(text) {
                        text.clone_from(reference);
                    }
                }
                Value::Array(items) => pending.extend(items),
                Value::Struct(record) => pending.extend(record.iter_mut().map(|(_, value)| value)),
                Value::Bool(_) | Value::Double(_) | Value::Date(_) => {}
            }
        }
    }

    /// The id here of the object that a member names, if it is of the kind that begins so.
    fn id<I: std::str::FromStr>(&self, object: &Object, member: &str, kind: &str) -> Option<I> {
        let reference = self.references.get(object.snapshot.text(member))?;
        reference.strip_prefix(REFERENCE)?.strip_prefix(kind)?.strip_prefix('/')?.parse().ok()
    }

    /// The id here of an object itself.
    fn own<I: std::str::FromStr>(&self, object: &Object, kind: &str) -> Result<I, ImportError> {
        let reference = self.references.get(&object.id);
        let id = reference.and_then(|reference| {
            reference.strip_prefix(REFERENCE)?.strip_prefix(kind)?.strip_prefix('/')?.parse().ok()
        });
        id.ok_or_else(|| refused("xva_bad_uuid", format!("{} {} has no id", object.class, object.id)))
    }

    fn vm(&self, object: &Object, now: i64) -> Result<VmRow, ImportError> {
        let id: VmId = self.own(object, "vm")?;
        let mut record = self.record(object);
        if !self.names.restore {
            new_mac_seed(&mut record);
        }
        // One that comes without its VM is all that there is of it.
        let origin: Option<VmId> = self.id(object, "snapshot_of", "vm");
        let snapshot = record.flag("is_a_snapshot") && origin.is_some();
        let kind = match (snapshot, record.flag("is_a_template")) {
            (true, _) => VmKind::Snapshot,
            (false, true) => VmKind::Template,
            (false, false) => VmKind::Vm,
        };
        Ok(VmRow {
            id,
            kind,
            name_label: record.text("name_label").to_owned(),
            name_description: record.text("name_description").to_owned(),
            tags: tags(&record),
            snapshot_of: origin.filter(|_| snapshot),
            snapshot_ms: snapshot.then_some(now),
            created_ms: now,
            changed_ms: now,
            record,
            extra: Vec::new(),
        })
    }

    /// A disk's VBD that names no disk is left out, as xapi does.
    fn vbd(&self, object: &Object) -> Result<Option<VbdRow>, ImportError> {
        let record = self.record(object);
        let word = |member: &str| record.text(member);
        let kind: VbdKind = word("type")
            .parse()
            .map_err(|error| refused("xva_bad_vbd", format!("the type of VBD {}: {error}", object.id)))?;
        let mode: VbdMode = word("mode")
            .parse()
            .map_err(|error| refused("xva_bad_vbd", format!("the mode of VBD {}: {error}", object.id)))?;
        let Some(vm) = self.id(object, "VM", "vm") else {
            return Err(refused("xva_bad_vbd", format!("VBD {} belongs to no VM of the archive", object.id)));
        };
        let vdi: Option<VdiId> = self.id(object, "VDI", "vdi");
        if kind == VbdKind::Disk && vdi.is_none() {
            return Ok(None);
        }
        Ok(Some(VbdRow {
            id: self.own(object, "vbd")?,
            vm,
            vdi,
            userdevice: word("userdevice").to_owned(),
            kind,
            mode,
            bootable: record.flag("bootable"),
            record,
        }))
    }

    fn vif(&self, object: &Object) -> Result<VifRow, ImportError> {
        let id: VifId = self.own(object, "vif")?;
        let record = self.record(object);
        let Some(vm) = self.id(object, "VM", "vm") else {
            return Err(refused("xva_bad_vif", format!("VIF {} belongs to no VM of the archive", object.id)));
        };
        let mac = if self.names.restore { record.text("MAC").to_owned() } else { mac_of(id) };
        Ok(VifRow {
            id,
            vm,
            network: self.id(object, "network", "network"),
            device: record.text("device").to_owned(),
            mac,
            mtu: mtu(&record),
            record,
        })
    }

    fn network(&self, object: &Object, now: i64) -> Result<NetworkRow, ImportError> {
        let id: NetworkId = self.own(object, "network")?;
        let record = self.record(object);
        Ok(NetworkRow {
            id,
            name_label: record.text("name_label").to_owned(),
            name_description: record.text("name_description").to_owned(),
            tags: tags(&record),
            bridge: record.text("bridge").to_owned(),
            mtu: mtu(&record),
            record,
            created_ms: now,
        })
    }

    fn vdi(&self, object: &Object) -> Result<NewVdi, ImportError> {
        let record = self.record(object);
        let kind = record.text("type").to_ascii_lowercase();
        Ok(NewVdi {
            id: self.own(object, "vdi")?,
            name_label: record.text("name_label").to_owned(),
            name_description: record.text("name_description").to_owned(),
            tags: tags(&record),
            vdi_type: if kind.is_empty() { "user".into() } else { kind },
            record,
        })
    }
}

fn tags(record: &Record) -> Vec<String> {
    let tags = record.get("tags").map(Value::items).unwrap_or_default();
    tags.iter().filter_map(Value::as_text).map(str::to_owned).collect()
}

fn mtu(record: &Record) -> u32 {
    record.number("MTU").and_then(|mtu| u32::try_from(mtu).ok()).unwrap_or(1500)
}

/// A copy must not have its original's addresses.
fn new_mac_seed(record: &mut Record) {
    let Some(Value::Struct(other_config)) = record.get("other_config") else { return };
    let mut other_config = other_config.clone();
    if other_config.get("mac_seed").is_some() {
        other_config.set("mac_seed", Value::text(Uuid::new_v4()));
        record.set("other_config", Value::Struct(other_config));
    }
}

/// A locally administered unicast address (IEEE 802) of an interface's own.
fn mac_of(id: VifId) -> String {
    let hash = Sha256::digest(id.0.as_bytes());
    let mut octets = hash.iter().take(6).copied();
    let first = octets.next().unwrap_or(0) & 0xFC | 0x02;
    std::iter::once(first).chain(octets).map(|octet| format!("{octet:02x}")).collect::<Vec<_>>().join(":")
}

#[cfg(test)]
mod tests;
