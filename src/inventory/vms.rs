//! VMs, snapshots and templates: every member that is always present in the contract, and of the optional ones those
//! that are known of a VM which does not run. What has no column comes from its record, in xapi's terms.

use rusqlite::Connection;
use serde_json::{Map, Value, json};

use crate::backends::local::Site;
use crate::formats::xva::Record;
use crate::ids::{SrId, VbdId, VifId, VmId};
use crate::state::networks;
use crate::state::vms::{self, VmKind, VmRow};

use super::objects::with_reference;
use super::place::{Place, Placed};

/// A VM with all that its object counts.
#[derive(Debug, Clone)]
pub struct VmFacts {
    row: VmRow,
    vbds: Vec<VbdId>,
    vifs: Vec<VifId>,
    snapshots: Vec<VmId>,
    srs: Vec<SrId>,
}

impl VmFacts {
    /// Reads what belongs to a row.
    pub fn of(db: &Connection, row: VmRow) -> rusqlite::Result<Self> {
        Ok(Self {
            vbds: vms::vbds_of_vm(db, row.id)?.into_iter().map(|vbd| vbd.id).collect(),
            vifs: networks::vifs_of_vm(db, row.id)?.into_iter().map(|vif| vif.id).collect(),
            snapshots: vms::snapshots_of(db, row.id)?,
            srs: vms::srs_of_vm(db, row.id)?,
            row,
        })
    }

    /// What sort of VM it is.
    pub fn kind(&self) -> VmKind {
        self.row.kind
    }

    /// The object. It lies in the SRs of its disks.
    pub fn placed(&self, site: Site) -> Placed {
        let mut members = self.base(site);
        members.append(&mut self.hardware());
        members.append(&mut self.of_its_kind());
        let object = with_reference(members.into(), &self.row.id.to_string(), self.row.kind.as_str(), site);
        Placed { object, place: Place::in_srs(&self.srs) }
    }

    fn base(&self, site: Site) -> Map<String, Value> {
        let record = &self.row.record;
        let other = strings(record, "other_config");
        let suspended = record.text("power_state").eq_ignore_ascii_case("Suspended");
        // Every SR is this host's own, and a VM is where its disks are.
        let container = if self.srs.is_empty() { site.pool.to_string() } else { site.host.to_string() };
        object(json!({
            "name_label": self.row.name_label,
            "name_description": self.row.name_description,
            "tags": self.row.tags,
            // Nothing runs here, whatever the record says of where it came from.
            "power_state": if suspended { "Suspended" } else { "Halted" },
            "addresses": {},
            "os_version": self.os_version(),
            "$container": container,
            "$VBDs": self.vbds,
            "VIFs": self.vifs,
            "VGPUs": [],
            "$VGPUs": [],
            "VTPMs": [],
            "snapshots": self.snapshots,
            "auto_poweron": is_true(&other, "auto_poweron"),
            "bios_strings": strings(record, "bios_strings"),
            "xenStoreData": strings(record, "xenstore_data"),
            "other": other,
            "blockedOperations": strings(record, "blocked_operations"),
            "current_operations": {},
            "high_availability": record.text("ha_restart_priority"),
            "startDelay": record.number("start_delay").unwrap_or(0),
        }))
    }

    fn hardware(&self) -> Map<String, Value> {
        let record = &self.row.record;
        let number = |name: &str| record.number(name).unwrap_or(0);
        let platform = strings(record, "platform");
        let params = strings(record, "VCPUs_params");
        let mode = virtualization_mode(record);
        let nested = is_true(&platform, "exp-nested-hvm");
        let mut members = object(json!({
            "CPUs": { "max": number("VCPUs_max"), "number": number("VCPUs_at_startup") },
            "memory": {
                "size": number("memory_dynamic_max"),
                "dynamic": [number("memory_dynamic_min"), number("memory_dynamic_max")],
                "static": [number("memory_static_min"), number("memory_static_max")],
            },
            "boot": strings(record, "HVM_boot_params"),
            "virtualizationMode": mode,
            "hasVendorDevice": record.flag("has_vendor_device"),
            "secureBoot": is_true(&platform, "secureboot"),
            "viridian": is_true(&platform, "viridian"),
            "expNestedHvm": nested,
            "isNestedVirtEnabled": nested || is_true(&platform, "nested-virt"),
            "isFirmwareSupported": true,
            "needsVtpm": is_true(&platform, "vtpm"),
        }));
        let mut optional = |name: &str, value: Option<Value>| {
            if let Some(value) = value {
                members.insert(name.into(), value);
            }
        };
        if mode == "hvm" {
            optional("vga", platform.get("vga").cloned());
            optional("videoram", whole(&platform, "videoram"));
        } else {
            optional("PV_args", Some(record.text("PV_args").into()));
        }
        optional("coresPerSocket", whole(&platform, "cores-per-socket"));
        optional("cpuCap", whole(&params, "cap"));
        optional("cpuWeight", whole(&params, "weight"));
        optional("cpuMask", numbers(&params, "mask"));
        optional("nicType", platform.get("nic_type").cloned());
        members
    }

    /// What its guest has said of itself when it last ran.
    fn os_version(&self) -> Value {
        let metrics = self.row.extra.iter().find(|(class, _)| class == "VM_guest_metrics");
        let version = metrics.map(|(_, record)| strings(record, "os_version")).unwrap_or_default();
        if version.is_empty() { Value::Null } else { version.into() }
    }

    fn of_its_kind(&self) -> Map<String, Value> {
        let row = &self.row;
        match row.kind {
            VmKind::Vm => Map::new(),
            VmKind::Snapshot => {
                let seconds = row.snapshot_ms.unwrap_or(row.created_ms).div_euclid(1000);
                let mut members = object(json!({ "snapshot_time": seconds }));
                if let Some(of) = row.snapshot_of {
                    members.insert("$snapshot_of".into(), of.to_string().into());
                }
                members
            }
            VmKind::Template => {
                let other = strings(&row.record, "other_config");
                let methods = other.get("install-methods").and_then(Value::as_str).unwrap_or_default();
                let methods: Vec<_> = methods.split(',').filter(|name| !name.is_empty()).collect();
                let default = row.record.flag("is_default_template") || is_true(&other, "default_template");
                object(json!({
                    "isDefaultTemplate": default,
                    "template_info": { "disks": [], "install_methods": methods },
                }))
            }
        }
    }
}

fn object(value: Value) -> Map<String, Value> {
    match value {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

/// A map of the record, as a map with text values.
pub(super) fn strings(record: &Record, name: &str) -> Map<String, Value> {
    let texts = record.map(name).filter_map(|(key, value)| Some((key.to_owned(), value.as_text()?.into())));
    texts.collect()
}

/// xapi's maps have no booleans.
pub(super) fn is_true(map: &Map<String, Value>, name: &str) -> bool {
    matches!(map.get(name).and_then(Value::as_str), Some("true" | "1"))
}

fn whole(map: &Map<String, Value>, name: &str) -> Option<Value> {
    map.get(name)?.as_str()?.trim().parse::<u64>().ok().map(Value::from)
}

fn numbers(map: &Map<String, Value>, name: &str) -> Option<Value> {
    let list: Result<Vec<u64>, _> = map.get(name)?.as_str()?.split(',').map(|n| n.trim().parse()).collect();
    list.ok().map(Value::from)
}

fn virtualization_mode(record: &Record) -> &'static str {
    let kind = record.text("domain_type");
    let known = ["hvm", "pv", "pvh", "pv_in_pvh"].into_iter().find(|mode| kind.eq_ignore_ascii_case(mode));
    // Archives from before there was a type say it by the way in which the VM starts.
    known.unwrap_or(if record.text("HVM_boot_policy").is_empty() { "pv" } else { "hvm" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::xva::Value as Typed;
    use crate::ids::{HostId, PoolId};

    fn facts(kind: VmKind, record: Record) -> VmFacts {
        let row = VmRow {
            id: VmId::random(),
            kind,
            name_label: "a".into(),
            name_description: "b".into(),
            tags: vec!["t".into()],
            snapshot_of: None,
            snapshot_ms: None,
            created_ms: 1_700_000_000_999,
            changed_ms: 0,
            record,
            extra: Vec::new(),
        };
        VmFacts { row, vbds: Vec::new(), vifs: Vec::new(), snapshots: Vec::new(), srs: Vec::new() }
    }

    fn site() -> Site {
        Site { pool: PoolId::random(), host: HostId::random(), default_sr: SrId::random() }
    }

    fn map(members: &[(&str, &str)]) -> Typed {
        Typed::Struct(members.iter().map(|(name, text)| (*name, Typed::text(text))).collect())
    }

    #[test]
    fn a_vm_of_an_empty_record_has_every_member_that_the_contract_always_has() {
        for kind in [VmKind::Vm, VmKind::Snapshot, VmKind::Template] {
            let object = facts(kind, Record::new()).placed(site()).object;
            let always = "id type uuid $pool $poolId _xapiRef name_label name_description power_state CPUs memory \
                tags addresses os_version $container $VBDs VIFs VGPUs $VGPUs VTPMs snapshots auto_poweron boot \
                bios_strings xenStoreData other blockedOperations current_operations high_availability \
                virtualizationMode startDelay hasVendorDevice secureBoot viridian expNestedHvm \
                isNestedVirtEnabled isFirmwareSupported needsVtpm";
            let more = match kind {
                VmKind::Vm => "",
                VmKind::Snapshot => "snapshot_time",
                VmKind::Template => "isDefaultTemplate template_info",
            };
            for member in always.split_whitespace().chain(more.split_whitespace()) {
                assert!(object.get(member).is_some(), "{kind}: {member}");
            }
            assert_eq!(object["type"], kind.as_str());
        }
    }

    #[test]
    fn what_the_record_says_is_shown_in_the_contracts_words() {
        let record: Record = [
            ("power_state", Typed::text("Running")),
            ("VCPUs_max", Typed::text(4)),
            ("VCPUs_at_startup", Typed::text(2)),
            ("memory_static_min", Typed::text(1)),
            ("memory_dynamic_min", Typed::text(2)),
            ("memory_dynamic_max", Typed::text(3)),
            ("memory_static_max", Typed::text(4)),
            ("VCPUs_params", map(&[("weight", "256"), ("cap", "x"), ("mask", "0, 2")])),
            ("HVM_boot_params", map(&[("order", "cd"), ("firmware", "uefi")])),
            ("platform", map(&[("secureboot", "true"), ("viridian", "false"), ("videoram", "8")])),
            ("other_config", map(&[("auto_poweron", "true")])),
            ("ha_restart_priority", Typed::text("restart")),
            ("start_delay", Typed::text(30)),
            ("has_vendor_device", Typed::Bool(true)),
            ("domain_type", Typed::text("hvm")),
        ]
        .into_iter()
        .collect();
        let object = facts(VmKind::Vm, record).placed(site()).object;
        assert_eq!(object["power_state"], "Halted", "nothing runs here");
        assert_eq!(object["CPUs"], json!({"max": 4, "number": 2}));
        assert_eq!(object["memory"], json!({"size": 3, "dynamic": [2, 3], "static": [1, 4]}));
        assert_eq!(object["boot"], json!({"order": "cd", "firmware": "uefi"}));
        assert_eq!((&object["cpuWeight"], &object["cpuMask"]), (&json!(256), &json!([0, 2])));
        assert!(object.get("cpuCap").is_none(), "no number, no member");
        assert_eq!((&object["secureBoot"], &object["viridian"]), (&json!(true), &json!(false)));
        assert_eq!((&object["videoram"], &object["auto_poweron"]), (&json!(8), &json!(true)));
        assert_eq!((&object["high_availability"], &object["startDelay"]), (&json!("restart"), &json!(30)));
        assert_eq!(object["hasVendorDevice"], true);
        assert!(object.get("PV_args").is_none());
    }

    #[test]
    fn an_old_record_without_a_type_is_known_by_how_it_starts() {
        let started = |policy: &str| {
            let record: Record =
                [("HVM_boot_policy", Typed::text(policy)), ("PV_args", Typed::text("quiet"))]
                    .into_iter()
                    .collect();
            facts(VmKind::Vm, record).placed(site()).object
        };
        assert_eq!(started("BIOS order")["virtualizationMode"], "hvm");
        let paravirtual = started("");
        assert_eq!(
            (&paravirtual["virtualizationMode"], &paravirtual["PV_args"]),
            (&json!("pv"), &json!("quiet"))
        );
    }

    #[test]
    fn what_a_guest_said_of_itself_is_shown() {
        let mut told = facts(VmKind::Vm, Record::new());
        assert_eq!(told.placed(site()).object["os_version"], Value::Null);
        let metrics = [("os_version", map(&[("name", "Debian")]))].into_iter().collect();
        told.row.extra.push(("VM_guest_metrics".into(), metrics));
        assert_eq!(told.placed(site()).object["os_version"], json!({"name": "Debian"}));
    }
}
