//! Rows of VMs, with their snapshots and templates, and of the VBDs by which they have disks. Every function is one or
//! a few SQL statements on a connection that the caller holds, so that several of them make one transaction.
//!
//! `changed_ms` of a VM is moved by triggers of the schema when its VBDs or VIFs, or the disks and networks that these
//! name, change.

use std::fmt;
use std::str::FromStr;

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::formats::xva::Record;
use crate::ids::{BadId, SrId, VbdId, VdiId, VmId};

use super::disks::{Page, conversion, json, parsed, parsed_optional, record, tags};

/// What sort of VM a row is; as the contract's types go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VmKind {
    /// A VM.
    Vm,
    /// A snapshot of one.
    Snapshot,
    /// A template.
    Template,
}

/// What a VBD stands for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VbdKind {
    /// A disk.
    Disk,
    /// A CD drive.
    Cd,
    /// A floppy drive.
    Floppy,
}

/// Whether a guest may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum VbdMode {
    /// It may.
    ReadWrite,
    /// It may not.
    ReadOnly,
}

macro_rules! words {
    ($name:ident, $what:literal, $($variant:ident => $word:literal),+) => {
        impl $name {
            /// The word for it, here and in xapi.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word),+
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl FromStr for $name {
            type Err = BadId;

            /// Takes the word in any letter case, as xapi does.
            fn from_str(text: &str) -> Result<Self, BadId> {
                let all = [$(Self::$variant),+];
                let known = all.into_iter().find(|one| one.as_str().eq_ignore_ascii_case(text));
                known.ok_or_else(|| BadId { what: $what, text: text.chars().take(64).collect() })
            }
        }
    };
}

words!(VmKind, "kind of VM", Vm => "VM", Snapshot => "VM-snapshot", Template => "VM-template");
words!(VbdKind, "type of VBD (Disk, CD or Floppy)", Disk => "Disk", Cd => "CD", Floppy => "Floppy");
words!(VbdMode, "mode of a VBD (RW or RO)", ReadWrite => "RW", ReadOnly => "RO");

/// A VM, a snapshot or a template.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VmRow {
    /// Its uuid.
    pub id: VmId,
    /// What sort it is.
    pub kind: VmKind,
    /// Name that people see.
    pub name_label: String,
    /// Description that people see.
    pub name_description: String,
    /// Tags, in the order in which they were added.
    pub tags: Vec<String>,
    /// The VM that it is a snapshot of, which may be gone.
    pub snapshot_of: Option<VmId>,
    /// When the snapshot was taken, Unix milliseconds.
    pub snapshot_ms: Option<i64>,
    /// When it was made, Unix milliseconds.
    pub created_ms: i64,
    /// When anything was last changed that an export of it shows, Unix milliseconds; always grows.
    pub changed_ms: i64,
    /// What is known of it in xapi's terms. Where a member here says the same, this one is right.
    pub record: Record,
    /// Objects of the archive that it came with that have no table: class and record of each.
    pub extra: Vec<(String, Record)>,
}

/// The connection of a VM to a disk or a drive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VbdRow {
    /// Its uuid.
    pub id: VbdId,
    /// The VM.
    pub vm: VmId,
    /// The disk; `None` for an empty drive.
    pub vdi: Option<VdiId>,
    /// Its position in the VM: a number as text.
    pub userdevice: String,
    /// What it stands for.
    pub kind: VbdKind,
    /// Whether the guest may write.
    pub mode: VbdMode,
    /// Whether the VM starts from it.
    pub bootable: bool,
    /// What is known of it in xapi's terms. Where a member here says the same, this one is right.
    pub record: Record,
}

pub(super) fn stored<T: serde::Serialize>(value: &T) -> rusqlite::Result<String> {
    serde_json::to_string(value).map_err(|error| rusqlite::Error::ToSqlConversionFailure(error.into()))
}

fn vm(row: &Row<'_>) -> rusqlite::Result<VmRow> {
    let extra: String = row.get("extra")?;
    Ok(VmRow {
        id: parsed(row, "id")?,
        kind: parsed(row, "kind")?,
        name_label: row.get("name_label")?,
        name_description: row.get("name_description")?,
        tags: tags(row)?,
        snapshot_of: parsed_optional(row, "snapshot_of")?,
        snapshot_ms: row.get("snapshot_ms")?,
        created_ms: row.get("created_ms")?,
        changed_ms: row.get("changed_ms")?,
        record: record(row)?,
        extra: serde_json::from_str(&extra).map_err(|error| conversion(row, "extra", error))?,
    })
}

fn vbd(row: &Row<'_>) -> rusqlite::Result<VbdRow> {
    Ok(VbdRow {
        id: parsed(row, "id")?,
        vm: parsed(row, "vm_id")?,
        vdi: parsed_optional(row, "vdi_id")?,
        userdevice: row.get("userdevice")?,
        kind: parsed(row, "kind")?,
        mode: parsed(row, "mode")?,
        bootable: row.get("bootable")?,
        record: record(row)?,
    })
}

/// One VM, snapshot or template.
pub fn find_vm(db: &Connection, id: VmId) -> rusqlite::Result<Option<VmRow>> {
    db.prepare_cached("SELECT * FROM vms WHERE id = ?1")?.query_row([id.to_string()], vm).optional()
}

/// A page of the VMs of a kind.
pub fn vms(db: &Connection, kind: VmKind, page: Page<'_>) -> rusqlite::Result<Vec<VmRow>> {
    db.prepare_cached("SELECT * FROM vms WHERE kind = ?1 AND id > ?2 ORDER BY id LIMIT ?3")?
        .query_map(params![kind.as_str(), page.after, page.rows], vm)?
        .collect()
}

/// The snapshots of a VM, oldest first.
pub fn snapshots_of(db: &Connection, id: VmId) -> rusqlite::Result<Vec<VmId>> {
    db.prepare_cached("SELECT id FROM vms WHERE snapshot_of = ?1 ORDER BY snapshot_ms, id")?
        .query_map([id.to_string()], |row| parsed(row, "id"))?
        .collect()
}

/// Adds a VM.
pub fn insert_vm(db: &Connection, row: &VmRow) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT INTO vms (id, kind, name_label, name_description, tags, snapshot_of, snapshot_ms, created_ms,
                          changed_ms, record, extra)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
    )?
    .execute(params![
        row.id.to_string(),
        row.kind.as_str(),
        row.name_label,
        row.name_description,
        json(&row.tags),
        row.snapshot_of.map(|id| id.to_string()),
        row.snapshot_ms,
        row.created_ms,
        row.changed_ms,
        stored(&row.record)?,
        stored(&row.extra)?,
    ])?;
    Ok(())
}

/// Stores a VM's name, description, tags, record and extra objects anew. Its `changed_ms` becomes `now_ms`, or more if
/// it was that already.
pub fn update_vm(db: &Connection, row: &VmRow, now_ms: i64) -> rusqlite::Result<()> {
    db.prepare_cached(
        "UPDATE vms SET name_label = ?2, name_description = ?3, tags = ?4, record = ?5, extra = ?6,
                        changed_ms = max(changed_ms + 1, ?7)
         WHERE id = ?1",
    )?
    .execute(params![
        row.id.to_string(),
        row.name_label,
        row.name_description,
        json(&row.tags),
        stored(&row.record)?,
        stored(&row.extra)?,
        now_ms,
    ])?;
    Ok(())
}

/// Says that a VM with its devices is as it was made: nothing has been changed since.
pub fn set_unchanged(db: &Connection, id: VmId) -> rusqlite::Result<()> {
    db.execute("UPDATE vms SET changed_ms = created_ms WHERE id = ?1", [id.to_string()])?;
    Ok(())
}

/// Removes a VM with its VBDs and VIFs; its disks and snapshots stay.
pub fn delete_vm(db: &Connection, id: VmId) -> rusqlite::Result<()> {
    db.execute("DELETE FROM vms WHERE id = ?1", [id.to_string()])?;
    Ok(())
}

/// One VBD.
pub fn find_vbd(db: &Connection, id: VbdId) -> rusqlite::Result<Option<VbdRow>> {
    db.prepare_cached("SELECT * FROM vbds WHERE id = ?1")?.query_row([id.to_string()], vbd).optional()
}

/// A page of all VBDs.
pub fn vbds(db: &Connection, page: Page<'_>) -> rusqlite::Result<Vec<VbdRow>> {
    db.prepare_cached("SELECT * FROM vbds WHERE id > ?1 ORDER BY id LIMIT ?2")?
        .query_map(params![page.after, page.rows], vbd)?
        .collect()
}

/// The VBDs of a VM, by position.
pub fn vbds_of_vm(db: &Connection, id: VmId) -> rusqlite::Result<Vec<VbdRow>> {
    db.prepare_cached("SELECT * FROM vbds WHERE vm_id = ?1 ORDER BY CAST(userdevice AS INTEGER), userdevice")?
        .query_map([id.to_string()], vbd)?
        .collect()
}

/// The VBDs that name a VDI.
pub fn vbds_of_vdi(db: &Connection, id: VdiId) -> rusqlite::Result<Vec<VbdRow>> {
    db.prepare_cached("SELECT * FROM vbds WHERE vdi_id = ?1 ORDER BY id")?
        .query_map([id.to_string()], vbd)?
        .collect()
}

/// The VMs, snapshots and templates that use a VDI.
pub fn vms_of_vdi(db: &Connection, id: VdiId) -> rusqlite::Result<Vec<VmId>> {
    db.prepare_cached("SELECT DISTINCT vm_id FROM vbds WHERE vdi_id = ?1 ORDER BY vm_id")?
        .query_map([id.to_string()], |row| parsed(row, "vm_id"))?
        .collect()
}

/// The SRs that a VM's disks lie in.
pub fn srs_of_vm(db: &Connection, id: VmId) -> rusqlite::Result<Vec<SrId>> {
    db.prepare_cached(
        "SELECT DISTINCT vdis.sr_id AS sr_id FROM vbds JOIN vdis ON vdis.id = vbds.vdi_id
         WHERE vbds.vm_id = ?1 ORDER BY sr_id",
    )?
    .query_map([id.to_string()], |row| parsed(row, "sr_id"))?
    .collect()
}

/// Adds a VBD. Its position must be free.
pub fn insert_vbd(db: &Connection, row: &VbdRow) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT INTO vbds (id, vm_id, vdi_id, userdevice, kind, mode, bootable, record)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?
    .execute(params![
        row.id.to_string(),
        row.vm.to_string(),
        row.vdi.map(|id| id.to_string()),
        row.userdevice,
        row.kind.as_str(),
        row.mode.as_str(),
        row.bootable,
        stored(&row.record)?,
    ])?;
    Ok(())
}

/// Stores a VBD's disk, mode, flag and record anew.
pub fn update_vbd(db: &Connection, row: &VbdRow) -> rusqlite::Result<()> {
    db.prepare_cached("UPDATE vbds SET vdi_id = ?2, mode = ?3, bootable = ?4, record = ?5 WHERE id = ?1")?
        .execute(params![
            row.id.to_string(),
            row.vdi.map(|id| id.to_string()),
            row.mode.as_str(),
            row.bootable,
            stored(&row.record)?,
        ])?;
    Ok(())
}

/// Removes a VBD; its disk stays.
pub fn delete_vbd(db: &Connection, id: VbdId) -> rusqlite::Result<()> {
    db.execute("DELETE FROM vbds WHERE id = ?1", [id.to_string()])?;
    Ok(())
}

#[cfg(test)]
pub(in crate::state) mod tests;
