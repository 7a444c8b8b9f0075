//! VBDs, VIFs and networks: every member that is always present in the contract, and of the optional ones those that
//! are known of VMs which do not run. What has no column comes from their records, in xapi's terms.

use rusqlite::Connection;
use serde_json::{Value, json};

use crate::backends::local::Site;
use crate::formats::xva::{self, Record};
use crate::ids::{SrId, VifId};
use crate::state::networks::{self, NetworkRow, VifRow};
use crate::state::vms::{self, VbdKind, VbdMode, VbdRow};

use super::objects::with_reference;
use super::place::{Place, Placed};
use super::vms::{is_true, strings};

/// A VBD, and the SRs that its VM lies in.
#[derive(Debug, Clone)]
pub struct VbdFacts(VbdRow, Vec<SrId>);

/// A VIF, and the SRs that its VM lies in.
#[derive(Debug, Clone)]
pub struct VifFacts(VifRow, Vec<SrId>);

/// A network, and the VIFs that are on it.
#[derive(Debug, Clone)]
pub struct NetworkFacts(NetworkRow, Vec<VifId>);

impl VbdFacts {
    /// Reads what belongs to a row.
    pub fn of(db: &Connection, row: VbdRow) -> rusqlite::Result<Self> {
        let srs = vms::srs_of_vm(db, row.vm)?;
        Ok(Self(row, srs))
    }

    /// The object: a part of its VM.
    pub fn placed(&self, site: Site) -> Placed {
        let Self(row, srs) = self;
        let device = Some(row.record.text("device")).filter(|device| !device.is_empty());
        let mut object = json!({
            "attached": false,
            "bootable": row.bootable,
            "device": device,
            "position": row.userdevice,
            "is_cd_drive": row.kind == VbdKind::Cd,
            "read_only": row.mode == VbdMode::ReadOnly,
            "VM": row.vm,
        });
        if let (Some(vdi), Some(members)) = (row.vdi, object.as_object_mut()) {
            members.insert("VDI".into(), vdi.to_string().into());
        }
        let object = with_reference(object, &row.id.to_string(), "VBD", site);
        Placed { object, place: Place::in_srs(srs).part_of(row.vm) }
    }
}

impl VifFacts {
    /// Reads what belongs to a row.
    pub fn of(db: &Connection, row: VifRow) -> rusqlite::Result<Self> {
        let srs = vms::srs_of_vm(db, row.vm)?;
        Ok(Self(row, srs))
    }

    /// The object: a part of its VM.
    pub fn placed(&self, site: Site) -> Placed {
        let Self(row, srs) = self;
        let other = strings(&row.record, "other_config");
        let checksumming = !matches!(other.get("ethtool-tx").and_then(Value::as_str), Some("off" | "false"));
        let mut object = json!({
            "attached": false,
            "device": row.device,
            "MAC": row.mac,
            "MTU": row.mtu,
            "$network": row.network.map(|id| id.to_string()).unwrap_or_default(),
            "$VM": row.vm,
            "allowedIpv4Addresses": texts(&row.record, "ipv4_allowed"),
            "allowedIpv6Addresses": texts(&row.record, "ipv6_allowed"),
            "lockingMode": word(&row.record, "locking_mode", "network_default"),
            "txChecksumming": checksumming,
            "other_config": other,
        });
        let limited = row.record.text("qos_algorithm_type") == "ratelimit";
        let rate = strings(&row.record, "qos_algorithm_params");
        let rate = rate.get("kbps").and_then(Value::as_str).and_then(|text| text.trim().parse::<u64>().ok());
        if let (Some(rate), Some(members)) = (rate.filter(|_| limited), object.as_object_mut()) {
            members.insert("rateLimit".into(), rate.into());
        }
        let object = with_reference(object, &row.id.to_string(), "VIF", site);
        Placed { object, place: Place::in_srs(srs).part_of(row.vm) }
    }
}

impl NetworkFacts {
    /// Reads what belongs to a row.
    pub fn of(db: &Connection, row: NetworkRow) -> rusqlite::Result<Self> {
        let vifs = networks::vifs_of_network(db, row.id)?.into_iter().map(|vif| vif.id).collect();
        Ok(Self(row, vifs))
    }

    /// The object.
    pub fn placed(&self, site: Site) -> Placed {
        let Self(row, vifs) = self;
        let other = strings(&row.record, "other_config");
        let object = json!({
            "name_label": row.name_label,
            "name_description": row.name_description,
            "tags": row.tags,
            "bridge": row.bridge,
            "MTU": row.mtu,
            "PIFs": [],
            "VIFs": vifs,
            "automatic": is_true(&other, "automatic"),
            "defaultIsLocked": row.record.text("default_locking_mode").eq_ignore_ascii_case("disabled"),
            "current_operations": {},
            "other_config": other,
            "isBonded": false,
        });
        let object = with_reference(object, &row.id.to_string(), "network", site);
        Placed { object, place: Place::default() }
    }
}

fn texts(record: &Record, name: &str) -> Vec<String> {
    let items = record.get(name).map(xva::Value::items).unwrap_or_default();
    items.iter().filter_map(xva::Value::as_text).map(str::to_owned).collect()
}

fn word(record: &Record, name: &str, default: &str) -> String {
    let word = record.text(name);
    if word.is_empty() { default.to_owned() } else { word.to_ascii_lowercase() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::xva::Value as Typed;
    use crate::ids::{HostId, NetworkId, PoolId, VbdId, VdiId, VmId};

    fn site() -> Site {
        Site { pool: PoolId::random(), host: HostId::random(), default_sr: SrId::random() }
    }

    fn has(object: &Value, members: &str) {
        for member in members.split_whitespace().chain("id type uuid $pool $poolId _xapiRef".split(' ')) {
            assert!(object.get(member).is_some(), "{member}");
        }
    }

    fn vif(record: Record) -> Value {
        let row = VifRow {
            id: VifId::random(),
            vm: VmId::random(),
            network: Some(NetworkId::random()),
            device: "0".into(),
            mac: "02:00:00:00:00:01".into(),
            mtu: 1500,
            record,
        };
        VifFacts(row, Vec::new()).placed(site()).object
    }

    #[test]
    fn a_vbd_is_a_part_of_its_vm_and_names_its_disk_if_it_has_one() {
        let row = VbdRow {
            id: VbdId::random(),
            vm: VmId::random(),
            vdi: Some(VdiId::random()),
            userdevice: "3".into(),
            kind: VbdKind::Disk,
            mode: VbdMode::ReadOnly,
            bootable: true,
            record: Record::new(),
        };
        let placed = VbdFacts(row.clone(), Vec::new()).placed(site());
        has(&placed.object, "attached bootable device position is_cd_drive read_only VM VDI");
        assert_eq!(placed.place.owner, Some(row.vm.to_string()));
        assert_eq!((&placed.object["position"], &placed.object["device"]), (&json!("3"), &Value::Null));
        assert_eq!(placed.object["read_only"], true);
        let drive = VbdRow { vdi: None, kind: VbdKind::Cd, ..row };
        let object = VbdFacts(drive, Vec::new()).placed(site()).object;
        assert_eq!(object["is_cd_drive"], true);
        assert!(object.get("VDI").is_none());
    }

    #[test]
    fn a_vif_has_every_member_and_what_its_record_says() {
        let always = "attached device MAC MTU $network $VM allowedIpv4Addresses allowedIpv6Addresses lockingMode \
            txChecksumming other_config";
        let plain = vif(Record::new());
        has(&plain, always);
        assert_eq!(
            (&plain["lockingMode"], &plain["txChecksumming"]),
            (&json!("network_default"), &json!(true))
        );
        assert!(plain.get("rateLimit").is_none());
        let map = |name: &str, text: &str| Typed::Struct([(name, Typed::text(text))].into_iter().collect());
        let record = [
            ("locking_mode", Typed::text("Locked")),
            ("ipv4_allowed", Typed::Array(vec![Typed::text("10.0.0.1")])),
            ("qos_algorithm_type", Typed::text("ratelimit")),
            ("qos_algorithm_params", map("kbps", "100")),
            ("other_config", map("ethtool-tx", "off")),
        ];
        let full = vif(record.into_iter().collect());
        assert_eq!((&full["lockingMode"], &full["rateLimit"]), (&json!("locked"), &json!(100)));
        assert_eq!(
            (&full["allowedIpv4Addresses"], &full["txChecksumming"]),
            (&json!(["10.0.0.1"]), &json!(false))
        );
    }

    #[test]
    fn a_network_has_every_member_and_lists_its_vifs() {
        let row = NetworkRow {
            id: NetworkId::random(),
            name_label: "lan".into(),
            name_description: String::new(),
            tags: Vec::new(),
            bridge: "xenbr0".into(),
            mtu: 9000,
            record: Record::new(),
            created_ms: 0,
        };
        let vif = VifId::random();
        let object = NetworkFacts(row, vec![vif]).placed(site()).object;
        has(
            &object,
            "name_label name_description bridge MTU PIFs VIFs tags automatic defaultIsLocked current_operations \
             other_config isBonded",
        );
        assert_eq!((&object["VIFs"], &object["MTU"]), (&json!([vif]), &json!(9000)));
    }
}
