//! §13 Object model: "A member without `?` is always present; nothing to say is `[]`, `{}`, `""` or false."

use serde_json::Value;

use super::Site;

/// A member's type in the tables.
#[derive(Clone, Copy, Debug)]
enum Kind {
    Text,
    Number,
    Flag,
    List,
    /// "map": an object with string values.
    Map,
    Object,
    /// `null` is allowed.
    TextOrNull,
    NumberOrNull,
    MapOrNull,
}

impl Kind {
    fn is(self, value: &Value) -> bool {
        match self {
            Self::Text => value.is_string(),
            Self::Number => value.is_u64(),
            Self::Flag => value.is_boolean(),
            Self::List => value.as_array().is_some_and(|list| list.iter().all(|one| !one.is_null())),
            Self::Map => value.as_object().is_some_and(|map| map.values().all(Value::is_string)),
            Self::Object => value.is_object(),
            Self::TextOrNull => value.is_null() || value.is_string(),
            Self::NumberOrNull => value.is_null() || value.is_u64(),
            Self::MapOrNull => value.is_null() || Self::Map.is(value),
        }
    }
}

type Table = &'static [(Kind, &'static str)];

use Kind::{Flag, List, Map, MapOrNull, Number, NumberOrNull, Object, Text, TextOrNull};

const COMMON: Table = &[(Text, "id type uuid $pool $poolId _xapiRef")];
const VM: Table = &[
    (Text, "name_label name_description power_state $container high_availability virtualizationMode"),
    (Object, "CPUs memory"),
    (List, "tags $VBDs VIFs VGPUs $VGPUs VTPMs snapshots"),
    (Map, "addresses boot bios_strings xenStoreData other blockedOperations current_operations"),
    (MapOrNull, "os_version"),
    (Flag, "auto_poweron hasVendorDevice secureBoot viridian expNestedHvm"),
    (Flag, "isNestedVirtEnabled isFirmwareSupported needsVtpm"),
    (Number, "startDelay"),
];
const VDI: Table = &[
    (Text, "name_label name_description VDI_type $SR"),
    (Number, "size usage"),
    (List, "$VBDs snapshots tags"),
    (Flag, "missing cbt_enabled"),
    (Map, "current_operations other_config"),
];
const SR: Table = &[
    (Text, "name_label name_description SR_type content_type $container"),
    (Number, "size physical_usage usage"),
    (Flag, "shared inMaintenanceMode"),
    (List, "tags VDIs $PBDs"),
    (Map, "current_operations other_config sm_config"),
];
const VBD: Table =
    &[(Flag, "attached bootable is_cd_drive read_only"), (TextOrNull, "device"), (Text, "position VM")];
const VIF: Table = &[
    (Flag, "attached txChecksumming"),
    (Text, "device MAC $network $VM lockingMode"),
    (Number, "MTU"),
    (List, "allowedIpv4Addresses allowedIpv6Addresses"),
    (Map, "other_config"),
];
const NETWORK: Table = &[
    (Text, "name_label name_description bridge"),
    (Number, "MTU"),
    (List, "PIFs VIFs tags"),
    (Flag, "automatic defaultIsLocked isBonded"),
    (Map, "current_operations other_config"),
];
const HOST: Table = &[
    (
        Text,
        "name_label name_description hostname address power_state version build productBrand iscsiIqn powerOnMode",
    ),
    (Flag, "enabled multipathing hvmCapable zstdSupported rebootRequired"),
    (Object, "memory cpus chipset_info"),
    (Map, "CPUs license_params license_server logging otherConfig bios_strings current_operations"),
    (List, "residentVms $PBDs PIFs $PIFs PCIs $PCIs PGPUs $PGPUs patches supplementalPacks tags"),
    (NumberOrNull, "startTime agentStartTime license_expiry"),
];
const POOL: Table = &[
    (Text, "name_label name_description master"),
    (List, "tags haSrs"),
    (Flag, "HA_enabled auto_poweron zstdSupported vtpmSupported"),
    (Object, "cpus"),
    (Map, "current_operations otherConfig"),
];

#[test]
fn every_object_has_the_members_of_its_table_in_their_types() {
    let site = Site::new();
    for (collection, kind, id) in site.kinds() {
        let object = site.get(&format!("{collection}/{id}"));
        let table = match kind {
            "VM" | "VM-snapshot" => VM,
            "VDI" | "VDI-snapshot" => VDI,
            "SR" => SR,
            "VBD" => VBD,
            "VIF" => VIF,
            "network" => NETWORK,
            "host" => HOST,
            _ => POOL,
        };
        for (kind, names) in COMMON.iter().chain(table) {
            for name in names.split_whitespace() {
                let value =
                    object.get(name).unwrap_or_else(|| panic!("{collection}: no {name} in {object:#}"));
                assert!(kind.is(value), "{collection}: {name} is {value}, no {kind:?}");
            }
        }
        assert_eq!((&object["type"], &object["$pool"]), (&Value::from(kind), &object["$poolId"]));
        assert_eq!(object["$pool"], site.pool.as_str());
    }
}

/// The members that only snapshots have, and those whose values the tables list.
#[test]
fn values_are_among_those_that_the_tables_list() {
    let site = Site::new();
    let get = |collection: &str, id: &str| site.get(&format!("{collection}/{id}"));
    let one_of = |object: &Value, name: &str, values: &[&str]| {
        assert!(object[name].as_str().is_some_and(|value| values.contains(&value)), "{name} of {object:#}");
    };
    let vm = get("vms", &site.vm);
    one_of(&vm, "power_state", &["Running", "Halted", "Paused", "Suspended"]);
    one_of(&vm, "high_availability", &["", "restart", "best-effort"]);
    one_of(&vm, "virtualizationMode", &["hvm", "pv", "pvh", "pv_in_pvh"]);
    for name in ["dynamic", "static"] {
        let range = vm["memory"][name].as_array().expect("a pair");
        assert!(range.len() == 2 && range[0].as_u64() <= range[1].as_u64(), "{vm:#}");
    }
    assert_eq!(vm["snapshots"][0], site.vm_snapshot.as_str());
    let snapshot = get("vm-snapshots", &site.vm_snapshot);
    assert_eq!(snapshot["$snapshot_of"], site.vm.as_str());
    assert!(
        snapshot["snapshot_time"]
            .as_u64()
            .is_some_and(|time| (1_600_000_000..10_000_000_000).contains(&time))
    );
    let vdi = get("vdis", &site.vdi);
    one_of(&vdi, "VDI_type", &["user", "system", "ephemeral", "suspend", "crashdump", "metadata"]);
    assert!(vdi["chainPhysicalUsage"].as_u64() >= vdi["usage"].as_u64(), "{vdi:#}");
    assert_eq!(vdi["snapshots"][0], site.vdi_snapshot.as_str());
    let snapshot = get("vdi-snapshots", &site.vdi_snapshot);
    assert_eq!(snapshot["$snapshot_of"], site.vdi.as_str());
    assert!(
        snapshot["snapshot_time"]
            .as_u64()
            .is_some_and(|time| (1_600_000_000..10_000_000_000).contains(&time))
    );
    let sr = get("srs", site.server.sr());
    one_of(&sr, "content_type", &["user", "iso", "disk", ""]);
    one_of(&sr, "allocationStrategy", &["thin", "thick", "unknown"]);
    assert_eq!((&sr["shared"], &sr["$container"]), (&Value::from(false), &Value::from(site.host.as_str())));
    assert!(sr["VDIs"].as_array().is_some_and(|list| list.contains(&Value::from(site.vdi.as_str()))));
    let vif = get("vifs", &site.vif);
    one_of(&vif, "lockingMode", &["network_default", "locked", "unlocked", "disabled"]);
    let vbd = get("vbds", &site.vbd);
    assert!(vbd["VDI"].is_string() && vbd["VM"].is_string());
    let host = get("hosts", &site.host);
    assert_eq!(host["memory"]["size"].as_u64().map(|size| size % (1 << 30)), Some(0), "rounded up to GiB");
    let pool = get("pools", &site.pool);
    assert_eq!((&pool["master"], &pool["default_SR"]), (&host["id"], &sr["id"]));
}

/// "Links to other objects are ids": each leads to an object.
#[test]
fn links_lead_to_objects() {
    let site = Site::new();
    let vm = site.get(&format!("vms/{}", site.vm));
    let ids = |value: &Value| super::texts(value);
    for vbd in ids(&vm["$VBDs"]) {
        assert_eq!(site.get(&format!("vbds/{vbd}"))["VM"], site.vm.as_str());
    }
    for vif in ids(&vm["VIFs"]) {
        let vif = site.get(&format!("vifs/{vif}"));
        assert_eq!(vif["$VM"], site.vm.as_str());
        let network = site.get(&format!("networks/{}", vif["$network"].as_str().expect("an id")));
        assert!(ids(&network["VIFs"]).contains(&vif["id"].as_str().expect("an id").to_owned()));
    }
    let vbd = site.get(&format!("vbds/{}", site.vbd));
    let disk = vbd["VDI"].as_str().expect("an id");
    let at = if vbd["VM"] == site.vm.as_str() { "vdis" } else { "vdi-snapshots" };
    assert!(ids(&site.get(&format!("{at}/{disk}"))["$VBDs"]).contains(&site.vbd));
}
