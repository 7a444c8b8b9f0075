//! Reads an `ova.xml`: its text, and whether what it says is enough to make VMs of it. What an importing host would miss
//! is refused here, before a byte of a disk was read.

use std::collections::{HashMap, HashSet};

use super::error::{Quoted, Rule, XvaError};
use super::xml_read::read_value;
use super::{Document, NULL_REFERENCE, Object, Record, Value};

/// Longest `ova.xml` in bytes.
pub const MAX_DOCUMENT_BYTES: u64 = 64 << 20;

impl Document {
    /// Reads an `ova.xml` and checks it: every class has the members that importers require, references lead
    /// somewhere, disks have a size.
    ///
    /// # Errors
    /// What is wrong with it; offsets count from the start of the text.
    pub fn parse(text: &[u8]) -> Result<Self, XvaError> {
        if text.len() as u64 > MAX_DOCUMENT_BYTES {
            let expected = format!("at most {MAX_DOCUMENT_BYTES} bytes");
            return Err(wrong(Rule::O2, "length", expected, text.len()));
        }
        let document = Self::from_value(read_value(text)?)?;
        check_references(&document)?;
        Ok(document)
    }

    fn from_value(value: Value) -> Result<Self, XvaError> {
        let kind = kind(&value);
        let Value::Struct(members) = value else {
            return Err(wrong(Rule::X3, "value", "a struct of version and objects", kind));
        };
        let (mut version, mut objects) = (None, None);
        for (name, value) in members {
            match name.as_str() {
                "version" => version = Some(value),
                "objects" => objects = Some(value),
                _ => {}
            }
        }
        let version = match version {
            Some(Value::Struct(version)) => version,
            other => {
                return Err(wrong(
                    Rule::X3,
                    "member version",
                    "a struct",
                    other.as_ref().map_or("none", self::kind),
                ));
            }
        };
        let values = match objects {
            Some(Value::Array(values)) => values,
            other => {
                return Err(wrong(
                    Rule::X3,
                    "member objects",
                    "an array",
                    other.as_ref().map_or("none", self::kind),
                ));
            }
        };
        check_version(&version)?;
        let objects: Vec<_> = values
            .into_iter()
            .enumerate()
            .map(|(nth, value)| object(nth, value))
            .collect::<Result<_, _>>()?;
        let mut ids = HashSet::new();
        if let Some(object) = objects.iter().find(|object| !ids.insert(object.id.as_str())) {
            let place = format!("id of an object of class {}", Quoted::new(&object.class));
            return Err(wrong(Rule::X8, place, "an id of its own", Quoted::new(&object.id)));
        }
        objects.iter().try_for_each(check_members)?;
        Ok(Self { version, objects })
    }
}

/// Newest major version of xapi whose archives are taken. They have been numbered by the year since 2023; what an archive
/// of a later one means, nobody can know.
const NEWEST_XAPI: i64 = 30;

/// X4, X5 and X6.
fn check_version(version: &Record) -> Result<(), XvaError> {
    for name in
        ["hostname", "date", "product_version", "product_brand", "build_number", "xapi_major", "xapi_minor"]
    {
        if version.get(name).and_then(Value::as_text).is_none() {
            let found = version.get(name).map_or("none", kind);
            return Err(wrong(Rule::X4, format!("member {name} of the version"), "a text", found));
        }
    }
    for name in ["xapi_major", "xapi_minor"] {
        if version.number(name).is_none_or(|number| number < 0) {
            let found = Quoted::new(version.text(name));
            return Err(wrong(Rule::X5, format!("member {name} of the version"), "a number", found));
        }
    }
    if let Some(major) = version.number("xapi_major").filter(|major| *major > NEWEST_XAPI) {
        let expected = format!("a version of xapi up to {NEWEST_XAPI}");
        return Err(wrong(Rule::X5, "member xapi_major of the version", expected, major));
    }
    match version.number("export_vsn") {
        Some(2) => Ok(()),
        _ => {
            // The first exports had none.
            let found = version.get("export_vsn").map_or_else(|| "none".into(), shown);
            Err(wrong(Rule::X6, "member export_vsn of the version", "2", found))
        }
    }
}

/// X7: an object of the list.
fn object(nth: usize, value: Value) -> Result<Object, XvaError> {
    let fault = |what: &str, expected: &str, found: String| {
        wrong(Rule::X7, format!("{what} of the object at index {nth}"), expected, found)
    };
    let Value::Struct(members) = value else {
        return Err(fault("value", "a struct", kind(&value).into()));
    };
    let (mut class, mut id, mut snapshot) = (None, None, None);
    for (name, value) in members {
        match name.as_str() {
            "class" => class = Some(value),
            "id" => id = Some(value),
            "snapshot" => snapshot = Some(value),
            _ => {}
        }
    }
    let found = |value: Option<Value>| value.as_ref().map_or_else(|| "none".into(), shown);
    let class = match class {
        Some(Value::Text(class)) if !class.is_empty() => class,
        other => return Err(fault("class", "a text", found(other))),
    };
    let id = match id {
        Some(Value::Text(id)) if !id.is_empty() && id != NULL_REFERENCE => id,
        other => return Err(fault("id", "a reference", found(other))),
    };
    match snapshot {
        Some(Value::Struct(snapshot)) => Ok(Object { class, id, snapshot }),
        other => Err(fault("snapshot", "a struct", found(other))),
    }
}

/// X9: the members that the importers of xapi require; for all others they have defaults. X14: those that they read as
/// booleans or numbers, and do not take as anything else.
fn check_members(object: &Object) -> Result<(), XvaError> {
    let names = required(&object.class);
    if let Some(name) = names.split_ascii_whitespace().find(|name| object.snapshot.get(name).is_none()) {
        return Err(wrong(Rule::X9, place(object, name), "a value", "none"));
    }
    let (booleans, numbers) = typed(&object.class);
    for name in booleans.split_ascii_whitespace() {
        if let Some(value) = object.snapshot.get(name).filter(|value| value.as_bool().is_none()) {
            return Err(wrong(Rule::X14, place(object, name), "a boolean", shown(value)));
        }
    }
    for name in numbers.split_ascii_whitespace() {
        if let Some(value) = object.snapshot.get(name).filter(|value| value.as_i64().is_none()) {
            return Err(wrong(Rule::X14, place(object, name), "a whole number", shown(value)));
        }
    }
    Ok(())
}

/// The members of a class that are booleans, and those that are whole numbers, of those that importers require.
pub(super) fn typed(class: &str) -> (&'static str, &'static str) {
    match class {
        "VM" => (
            "is_a_template is_a_snapshot is_control_domain",
            "user_version memory_static_max memory_dynamic_max memory_dynamic_min memory_static_min VCPUs_max \
             VCPUs_at_startup domid",
        ),
        // The virtual size has a rule of its own.
        "VDI" => ("sharable read_only storage_lock managed missing", "physical_utilisation"),
        "VBD" => ("bootable storage_lock empty", "status_code"),
        "VIF" => ("", "MTU status_code"),
        "SR" => ("shared default_vdi_visibility", "virtual_allocation physical_utilisation physical_size"),
        "VM_metrics" => ("", "memory_actual VCPUs_number"),
        _ => ("", ""),
    }
}

/// The members of a class that must be there, with white space between them.
pub(super) fn required(class: &str) -> &'static str {
    match class {
        "VM" => {
            "uuid user_version is_a_template resident_on affinity memory_static_max memory_dynamic_max \
             memory_dynamic_min memory_static_min VCPUs_params VCPUs_max VCPUs_at_startup actions_after_shutdown \
             actions_after_reboot actions_after_crash PV_bootloader PV_kernel PV_ramdisk PV_args PV_bootloader_args \
             PV_legacy_args HVM_boot_policy HVM_boot_params platform PCI_bus other_config domid domarch \
             is_control_domain metrics guest_metrics recommendations"
        }
        "VDI" => {
            "uuid SR virtual_size physical_utilisation type sharable read_only other_config storage_lock managed \
             missing parent"
        }
        "VBD" => {
            "uuid VM VDI userdevice bootable mode type storage_lock empty other_config status_code status_detail \
             runtime_properties qos_algorithm_type qos_algorithm_params qos_supported_algorithms"
        }
        "VIF" => {
            "uuid device network VM MAC MTU other_config status_code status_detail runtime_properties \
             qos_algorithm_type qos_algorithm_params qos_supported_algorithms"
        }
        "SR" => {
            "uuid virtual_allocation physical_utilisation physical_size type content_type shared other_config \
             default_vdi_visibility"
        }
        "network" => "uuid other_config",
        "VM_guest_metrics" => {
            "uuid os_version PV_drivers_version PV_drivers_up_to_date networks other last_updated"
        }
        "VM_metrics" => {
            "uuid memory_actual VCPUs_number VCPUs_CPU VCPUs_params VCPUs_flags state start_time install_time \
             last_updated"
        }
        _ => "",
    }
}

/// X10 to X13.
fn check_references(document: &Document) -> Result<(), XvaError> {
    let ids = |class| document.of_class(class).map(|object| object.id.as_str()).collect::<HashSet<_>>();
    if document.of_class("VM").next().is_none() {
        return Err(wrong(Rule::X13, "list of objects", "a VM", "none"));
    }
    let (vdis, srs) = (ids("VDI"), ids("SR"));
    for vbd in document.of_class("VBD").filter(|vbd| !vbd.snapshot.text("type").eq_ignore_ascii_case("CD")) {
        let vdi = vbd.snapshot.text("VDI");
        if vdi != NULL_REFERENCE && !vdis.contains(vdi) {
            return Err(wrong(Rule::X10, place(vbd, "VDI"), "the id of a VDI", Quoted::new(vdi)));
        }
    }
    if let Some(vdi) = document.of_class("VDI").find(|vdi| !srs.contains(vdi.snapshot.text("SR"))) {
        let found = Quoted::new(vdi.snapshot.text("SR"));
        return Err(wrong(Rule::X11, place(vdi, "SR"), "the id of an SR", found));
    }
    check_devices(document, &ids("VM"))?;
    let objects: HashMap<&str, &Object> =
        document.of_class("VDI").map(|vdi| (vdi.id.as_str(), vdi)).collect();
    for disk in document.disks() {
        if disk.virtual_size == 0 || !disk.virtual_size.is_multiple_of(512) {
            let found = objects.get(disk.id.as_str()).and_then(|vdi| vdi.snapshot.get("virtual_size"));
            return Err(disk_size(
                &disk.id,
                "a positive multiple of 512",
                found.map_or("none".into(), shown),
            ));
        }
    }
    Ok(())
}

/// X15: devices have a VM and a place in it.
fn check_devices(document: &Document, vms: &HashSet<&str>) -> Result<(), XvaError> {
    let mut taken = HashSet::new();
    for (class, member) in [("VBD", "userdevice"), ("VIF", "device")] {
        for device in document.of_class(class) {
            let (vm, place_in_vm) = (device.snapshot.text("VM"), device.snapshot.text(member));
            if !vms.contains(vm) {
                return Err(wrong(Rule::X15, place(device, "VM"), "the id of a VM", Quoted::new(vm)));
            }
            if place_in_vm.parse::<u8>().is_err() {
                let found = Quoted::new(place_in_vm);
                return Err(wrong(Rule::X15, place(device, member), "a number from 0 to 255", found));
            }
            // Of a disk's VBD that names no disk nothing is made.
            let is_left_out = device.snapshot.text("type").eq_ignore_ascii_case("Disk")
                && device.snapshot.text("VDI") == NULL_REFERENCE;
            if !is_left_out && !taken.insert((class, vm, place_in_vm)) {
                let found = Quoted::new(place_in_vm);
                return Err(wrong(
                    Rule::X15,
                    place(device, member),
                    "a place that no other device has",
                    found,
                ));
            }
        }
    }
    Ok(())
}

/// X12: the size of a disk.
pub(super) fn disk_size(id: &str, expected: impl ToString, found: impl ToString) -> XvaError {
    wrong(Rule::X12, format!("member \"virtual_size\" of the VDI {}", Quoted::new(id)), expected, found)
}

fn place(object: &Object, member: &str) -> String {
    format!("member {member:?} of the {} {}", object.class, Quoted::new(&object.id))
}

fn wrong(rule: Rule, place: impl ToString, expected: impl ToString, found: impl ToString) -> XvaError {
    let [place, expected, found] = [place.to_string(), expected.to_string(), found.to_string()];
    XvaError::Document { rule, place, offset: 0, expected, found }
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Text(_) => "a text",
        Value::Bool(_) => "a boolean",
        Value::Double(_) => "a number",
        Value::Date(_) => "a date",
        Value::Array(_) => "an array",
        Value::Struct(_) => "a struct",
    }
}

fn shown(value: &Value) -> String {
    value.as_text().map_or_else(|| kind(value).into(), |text| Quoted::new(text).to_string())
}
