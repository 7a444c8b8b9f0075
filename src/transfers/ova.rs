//! The `ova.xml` of a VM: what is known of it, in xapi's own terms.
//!
//! The same VM gives the same document, byte for byte, as long as nobody changes it: no clock, no number of how full
//! something is. Records that came with an archive are written back as they were, with what has a column of its own
//! set anew and every reference led to where its object is now.

use std::collections::HashMap;

use crate::backends::local::{Pin, PinnedDisk, PinnedVm, VDI_REFERENCE};
use crate::formats::xva::{BLOCK_BYTES, Document, NULL_REFERENCE, Object, Record, Value};
use crate::state::vms::{VbdMode, VmKind};

/// What the references of stored records begin with. XML cannot hold the character, so no text of an archive is ever
/// taken for one.
pub const REFERENCE: char = '\u{1}';

/// The name of an object that has no table, in the records of its VM.
pub fn extra_reference(at: usize) -> String {
    format!("{REFERENCE}extra/{at}")
}

/// The oldest pair of versions that there is: every importer takes what an older pool has written.
const XAPI_VERSION: (i64, i64) = (1, 20);
/// The version of the archive's form that importers take.
const EXPORT_VERSION: i64 = 2;

/// Describes a VM. Answers the document, and the holds on the disks in the order of the archive.
pub fn document(pinned: PinnedVm) -> (Document, Vec<Pin>) {
    let PinnedVm { vm, vbds, mut disks, vifs, networks, srs } = pinned;
    // Some importers take the first block of the whole archive for the length of all gaps. So disks that are smaller
    // than a block come last, where there are no gaps.
    disks.sort_by_key(|disk| (disk.vdi.virtual_size < BLOCK_BYTES, disk.vdi.id));
    let mut draft = Draft::default();
    draft.add("VM", format!("{REFERENCE}vm/{}", vm.id), vm_record(&vm));
    let vm_reference = format!("{REFERENCE}vm/{}", vm.id);
    for vbd in &vbds {
        let mut record = vbd.record.clone();
        let vdi = vbd.vdi.map(vdi_reference);
        // Of a CD that is not one of our disks the record still knows.
        let kept = record.text("VDI").starts_with(REFERENCE).then(|| record.text("VDI").to_owned());
        let empty = vdi.is_none() && kept.is_none();
        let members = [
            ("uuid", Value::text(vbd.id)),
            ("VM", Value::text(&vm_reference)),
            ("VDI", Value::text(vdi.or(kept).unwrap_or_else(|| NULL_REFERENCE.into()))),
            ("userdevice", Value::text(&vbd.userdevice)),
            ("bootable", Value::Bool(vbd.bootable)),
            ("mode", Value::text(vbd.mode)),
            ("type", Value::text(vbd.kind)),
            ("empty", Value::Bool(empty)),
            ("currently_attached", Value::Bool(false)),
        ];
        set(&mut record, members);
        defaults(
            &mut record,
            [
                ("device", Value::text("")),
                ("unpluggable", Value::Bool(vbd.mode == VbdMode::ReadOnly)),
                ("storage_lock", Value::Bool(false)),
            ],
        );
        device_defaults(&mut record);
        draft.add("VBD", format!("{REFERENCE}vbd/{}", vbd.id), record);
    }
    for vif in &vifs {
        let mut record = vif.record.clone();
        let network = vif.network.map(|id| format!("{REFERENCE}network/{id}"));
        set(
            &mut record,
            [
                ("uuid", Value::text(vif.id)),
                ("device", Value::text(&vif.device)),
                ("network", Value::text(network.unwrap_or_else(|| NULL_REFERENCE.into()))),
                ("VM", Value::text(&vm_reference)),
                ("MAC", Value::text(&vif.mac)),
                ("MTU", Value::text(vif.mtu)),
                ("currently_attached", Value::Bool(false)),
            ],
        );
        device_defaults(&mut record);
        draft.add("VIF", format!("{REFERENCE}vif/{}", vif.id), record);
    }
    for network in &networks {
        let mut record = network.record.clone();
        let of_it = vifs.iter().filter(|vif| vif.network == Some(network.id));
        set(
            &mut record,
            [
                ("uuid", Value::text(network.id)),
                ("name_label", Value::text(&network.name_label)),
                ("name_description", Value::text(&network.name_description)),
                ("bridge", Value::text(&network.bridge)),
                ("MTU", Value::text(network.mtu)),
                ("tags", texts(&network.tags)),
                (
                    "VIFs",
                    Value::Array(
                        of_it.map(|vif| Value::text(format!("{REFERENCE}vif/{}", vif.id))).collect(),
                    ),
                ),
                ("PIFs", Value::Array(Vec::new())),
            ],
        );
        record.set_default("other_config", empty_map());
        draft.add("network", format!("{REFERENCE}network/{}", network.id), record);
    }
    for disk in &disks {
        let of_it = vbds.iter().filter(|vbd| vbd.vdi == Some(disk.vdi.id));
        let of_it = of_it.map(|vbd| Value::text(format!("{REFERENCE}vbd/{}", vbd.id))).collect();
        draft.add("VDI", vdi_reference(disk.vdi.id), vdi_record(disk, of_it));
    }
    // What an archive said of the SRs that the disks came from goes on with those that they are on now.
    let came_from: Vec<usize> =
        vm.extra.iter().enumerate().filter(|(_, kept)| is_disks_sr(kept)).map(|(at, _)| at).collect();
    for sr in &srs {
        let reference = format!("{REFERENCE}sr/{}", sr.id);
        let on_it = || disks.iter().filter(|disk| disk.vdi.sr == sr.id);
        let of_disk = |disk: &PinnedDisk| {
            came_from.iter().find(|at| disk.vdi.record.text("SR") == extra_reference(**at))
        };
        let kept = on_it().find_map(of_disk).and_then(|at| vm.extra.get(*at));
        let mut record = kept.map(|(_, record)| record.clone()).unwrap_or_default();
        set(
            &mut record,
            [
                ("uuid", Value::text(sr.id)),
                ("name_label", Value::text(&sr.name_label)),
                ("name_description", Value::text(&sr.name_description)),
                ("VDIs", Value::Array(on_it().map(|disk| Value::text(vdi_reference(disk.vdi.id))).collect())),
                ("virtual_allocation", Value::text(0)),
                ("physical_utilisation", Value::text(0)),
                ("physical_size", Value::text(0)),
                ("type", Value::text("file")),
                ("content_type", Value::text("user")),
                ("shared", Value::Bool(false)),
                ("tags", texts(&sr.tags)),
                ("default_vdi_visibility", Value::Bool(true)),
                ("sm_config", empty_map()),
            ],
        );
        record.set_default("other_config", empty_map());
        draft.add("SR", reference.clone(), record);
        for at in &came_from {
            draft.also_called(extra_reference(*at), &reference);
        }
    }
    for (at, (class, record)) in vm.extra.iter().enumerate() {
        if !came_from.contains(&at) {
            draft.add(class, extra_reference(at), record.clone());
        }
    }
    let document = Document { version: version(vm.changed_ms), objects: draft.finish() };
    (document, disks.into_iter().map(|disk| disk.pin).collect())
}

/// Whether an object that is kept is an SR of disks, and not one of ISO images.
fn is_disks_sr((class, record): &(String, Record)) -> bool {
    class == "SR" && !record.text("content_type").eq_ignore_ascii_case("iso")
}

fn vdi_reference(id: impl std::fmt::Display) -> String {
    format!("{VDI_REFERENCE}{id}")
}

fn vm_record(vm: &crate::state::vms::VmRow) -> Record {
    let mut record = vm.record.clone();
    set(
        &mut record,
        [
            ("uuid", Value::text(vm.id)),
            ("name_label", Value::text(&vm.name_label)),
            ("name_description", Value::text(&vm.name_description)),
            ("tags", texts(&vm.tags)),
            ("is_a_template", Value::Bool(vm.kind == VmKind::Template)),
            ("is_a_snapshot", Value::Bool(false)),
            ("snapshot_of", Value::text(NULL_REFERENCE)),
            ("snapshots", Value::Array(Vec::new())),
            ("current_operations", empty_map()),
            ("allowed_operations", Value::Array(Vec::new())),
        ],
    );
    // An archive without its suspend image is one of a halted VM.
    if !record.text("suspend_VDI").starts_with(REFERENCE) {
        record.set("power_state", Value::text("Halted"));
    }
    record
}

fn vdi_record(disk: &PinnedDisk, vbds: Vec<Value>) -> Record {
    let (vdi, mut record) = (&disk.vdi, disk.vdi.record.clone());
    set(
        &mut record,
        [
            ("uuid", Value::text(vdi.id)),
            ("name_label", Value::text(&vdi.name_label)),
            ("name_description", Value::text(&vdi.name_description)),
            ("tags", texts(&vdi.tags)),
            ("SR", Value::text(format!("{REFERENCE}sr/{}", vdi.sr))),
            ("VBDs", Value::Array(vbds)),
            ("virtual_size", Value::text(vdi.virtual_size)),
            ("physical_utilisation", Value::text(disk.content.physical_bytes)),
            ("type", Value::text(&vdi.vdi_type)),
            ("managed", Value::Bool(true)),
            ("missing", Value::Bool(false)),
            ("storage_lock", Value::Bool(false)),
            ("parent", Value::text(NULL_REFERENCE)),
            ("is_a_snapshot", Value::Bool(false)),
            ("snapshot_of", Value::text(NULL_REFERENCE)),
            ("snapshots", Value::Array(Vec::new())),
            ("current_operations", empty_map()),
            ("allowed_operations", Value::Array(Vec::new())),
        ],
    );
    defaults(
        &mut record,
        [
            ("sharable", Value::Bool(false)),
            ("read_only", Value::Bool(false)),
            ("other_config", empty_map()),
            ("sm_config", empty_map()),
            ("xenstore_data", empty_map()),
        ],
    );
    record
}

/// What importers require of every device.
fn device_defaults(record: &mut Record) {
    defaults(
        record,
        [
            ("other_config", empty_map()),
            ("status_code", Value::text(0)),
            ("status_detail", Value::text("")),
            ("runtime_properties", empty_map()),
            ("qos_algorithm_type", Value::text("")),
            ("qos_algorithm_params", empty_map()),
            ("qos_supported_algorithms", Value::Array(Vec::new())),
        ],
    );
}

fn version(changed_ms: i64) -> Record {
    let date = jiff::Timestamp::from_millisecond(changed_ms).unwrap_or_default();
    [
        ("hostname", Value::text("gantry")),
        ("date", Value::Date(date.strftime("%Y%m%dT%H:%M:%SZ").to_string())),
        ("product_version", Value::text(env!("CARGO_PKG_VERSION"))),
        ("product_brand", Value::text("Gantry")),
        ("build_number", Value::text(0)),
        ("xapi_major", Value::text(XAPI_VERSION.0)),
        ("xapi_minor", Value::text(XAPI_VERSION.1)),
        ("export_vsn", Value::text(EXPORT_VERSION)),
    ]
    .into_iter()
    .collect()
}

fn set<const N: usize>(record: &mut Record, members: [(&str, Value); N]) {
    members.into_iter().for_each(|(name, value)| record.set(name, value));
}

fn defaults<const N: usize>(record: &mut Record, members: [(&str, Value); N]) {
    members.into_iter().for_each(|(name, value)| record.set_default(name, value));
}

fn texts(list: &[String]) -> Value {
    Value::Array(list.iter().map(Value::text).collect())
}

fn empty_map() -> Value {
    Value::Struct(Record::new())
}

/// The objects of a document in the making, which still name each other as the database does.
#[derive(Default)]
struct Draft {
    objects: Vec<(String, String, Record)>,
    /// Other names of objects, and the names that these have.
    aliases: Vec<(String, String)>,
}

impl Draft {
    fn add(&mut self, class: &str, name: String, record: Record) {
        self.objects.push((class.to_owned(), name, record));
    }

    fn also_called(&mut self, alias: String, name: &str) {
        self.aliases.push((alias, name.to_owned()));
    }

    /// Gives every object its id and leads the references there. Ids are padded, so that their order as text is that
    /// of their numbers, and none is the beginning of another.
    fn finish(self) -> Vec<Object> {
        let width = self.objects.len().to_string().len().max(3);
        let id = |at: usize| format!("Ref:{at:0width$}");
        let mut ids: HashMap<String, String> =
            self.objects.iter().enumerate().map(|(at, (_, name, _))| (name.clone(), id(at))).collect();
        for (alias, name) in &self.aliases {
            if let Some(id) = ids.get(name).cloned() {
                ids.entry(alias.clone()).or_insert(id);
            }
        }
        let lead = |(at, (class, _, mut snapshot)): (usize, (String, String, Record))| {
            snapshot.iter_mut().for_each(|(_, value)| redirect(value, &ids));
            Object { class, id: id(at), snapshot }
        };
        self.objects.into_iter().enumerate().map(lead).collect()
    }
}

/// Replaces the references in a value: by the ids of what they name, or by the one that names nothing. A set loses
/// those.
fn redirect(value: &mut Value, ids: &HashMap<String, String>) {
    // Levels that are still to be looked at, so that deep records need no deep stack.
    let mut pending = vec![value];
    while let Some(value) = pending.pop() {
        match value {
            Value::Text(text) if text.starts_with(REFERENCE) => {
                *text = ids.get(text).cloned().unwrap_or_else(|| NULL_REFERENCE.into());
            }
            Value::Array(items) => {
                items.retain(|item| match item {
                    Value::Text(text) if text.starts_with(REFERENCE) => ids.contains_key(text),
                    _ => true,
                });
                pending.extend(items);
            }
            Value::Struct(record) => pending.extend(record.iter_mut().map(|(_, value)| value)),
            _ => {}
        }
    }
}
