//! What objects look like, as JSON Schema: the members that this folder gives them, for the API's description. A test
//! holds real objects of every collection against it, in both directions.

use serde_json::{Map, Value, json};

use super::Collection;

/// What a member holds.
enum Holds {
    Text,
    TextOrNull,
    Texts,
    Bool,
    /// A whole number from 0 on.
    Count,
    Counts,
    /// Bytes.
    Bytes,
    /// Seconds since 1970.
    Seconds,
    SecondsOrNull,
    /// The id of another object.
    Id,
    Ids,
    /// An object whose members are texts.
    Strings,
    StringsOrNull,
    /// One of these words.
    Word(&'static [&'static str]),
    /// Members of its own.
    Members(&'static [Member]),
    /// Lists of which nothing is known here.
    List,
    /// Least and most, bytes.
    BytesRange,
}
use Holds::{
    Bool, Bytes, BytesRange, Count, Counts, Id, Ids, List, Members, Seconds, SecondsOrNull, Strings,
    StringsOrNull, Text, TextOrNull, Texts, Word,
};

/// A member: its name, with a question mark where it may be missing; what it holds; what it means.
type Member = (&'static str, Holds, &'static str);

const COMMON: &[Member] = &[
    ("id", Id, "the object's id"),
    ("uuid", Id, "the same"),
    ("$pool", Id, "its pool"),
    ("$poolId", Id, "the same; deprecated"),
    ("_xapiRef", Text, "opaque"),
];

const LABELS: &[Member] = &[
    ("name_label", Text, "its name"),
    ("name_description", Text, "what it is for"),
    ("tags", Texts, "words by which it is found"),
];

const VDI: &[Member] = &[
    ("size", Bytes, "virtual size, bytes"),
    ("usage", Bytes, "what it takes on its SR by itself, bytes"),
    ("VDI_type", Text, "`user` for disks of people"),
    ("$SR", Id, "the SR that it lies in"),
    ("$VBDs", Ids, "its connections to VMs"),
    ("snapshots", Ids, "its snapshots"),
    ("missing", Bool, "its file is not there"),
    ("cbt_enabled", Bool, "always false: changed blocks are not tracked"),
    ("current_operations", Strings, "always empty"),
    ("other_config", Strings, "always empty"),
    ("image_format", Word(&["raw", "vhd"]), "how it is stored"),
    ("parent?", Text, "the VHD that it builds on"),
];
const VDI_ALONE: &[Member] = &[("chainPhysicalUsage", Bytes, "what it and its parents take, bytes")];
const VDI_SNAPSHOT: &[Member] =
    &[("$snapshot_of", Id, "the VDI that it was taken of"), ("snapshot_time", Seconds, "when it was taken")];

const SR: &[Member] = &[
    ("size", Bytes, "capacity, bytes"),
    ("physical_usage", Bytes, "what of it is taken, bytes"),
    ("usage", Bytes, "the sum of the virtual sizes, bytes"),
    ("SR_type", Text, "`file`"),
    ("content_type", Text, "`user`"),
    ("allocationStrategy", Word(&["thin", "thick", "unknown"]), "how room is taken"),
    ("shared", Bool, "whether several hosts have it"),
    ("inMaintenanceMode", Bool, "it cannot be reached"),
    ("VDIs", Ids, "the disks in it"),
    ("$container", Id, "the host that has it"),
    ("$PBDs", Ids, "always empty"),
    ("current_operations", Strings, "always empty"),
    ("other_config", Strings, "always empty"),
    ("sm_config", Strings, "`path`, `content_format`, `read_only`"),
];

const CPUS: &[Member] = &[("max", Count, "most"), ("number", Count, "at start-up")];
const MEMORY: &[Member] = &[
    ("size", Bytes, "bytes"),
    ("dynamic", BytesRange, "least and most while it runs"),
    ("static", BytesRange, "least and most"),
];

const VM: &[Member] = &[
    ("power_state", Word(&["Halted", "Suspended"]), "nothing runs here"),
    ("CPUs", Members(CPUS), "virtual processors"),
    ("memory", Members(MEMORY), "memory"),
    ("addresses", Strings, "always empty"),
    ("os_version", StringsOrNull, "what its guest said of itself when it last ran"),
    ("$container", Id, "the host of its disks, or its pool"),
    ("$VBDs", Ids, "its connections to disks"),
    ("VIFs", Ids, "its connections to networks"),
    ("VGPUs", Ids, "always empty"),
    ("$VGPUs", Ids, "always empty"),
    ("VTPMs", Ids, "always empty"),
    ("snapshots", Ids, "its snapshots"),
    ("auto_poweron", Bool, "it starts with its host"),
    ("boot", Strings, "`order`, `firmware`"),
    ("bios_strings", Strings, "what its firmware says of itself"),
    ("xenStoreData", Strings, "what its guest finds in XenStore"),
    ("other", Strings, "xapi's `other_config`"),
    ("blockedOperations", Strings, "operation to reason"),
    ("current_operations", Strings, "always empty"),
    ("high_availability", Text, "empty, `restart` or `best-effort`"),
    ("startDelay", Count, "seconds"),
    ("virtualizationMode", Word(&["hvm", "pv", "pvh", "pv_in_pvh"]), "how it is virtualised"),
    ("hasVendorDevice", Bool, "Windows updates its drivers"),
    ("secureBoot", Bool, "its firmware checks signatures"),
    ("viridian", Bool, "it sees Hyper-V's interface"),
    ("expNestedHvm", Bool, "it may run VMs itself"),
    ("isNestedVirtEnabled", Bool, "it may run VMs itself"),
    ("isFirmwareSupported", Bool, "always true"),
    ("needsVtpm", Bool, "it needs a TPM"),
    ("vga?", Text, "its graphics card (HVM)"),
    ("videoram?", Count, "MiB (HVM)"),
    ("PV_args?", Text, "its kernel's command line (not HVM)"),
    ("coresPerSocket?", Count, "cores in a socket"),
    ("cpuCap?", Count, "most of a processor, per cent"),
    ("cpuWeight?", Count, "its share"),
    ("cpuMask?", Counts, "the processors that it may run on"),
    ("nicType?", Text, "the network card that it sees"),
];
const VM_SNAPSHOT: &[Member] =
    &[("snapshot_time", Seconds, "when it was taken"), ("$snapshot_of?", Id, "the VM that it was taken of")];
const TEMPLATE_INFO: &[Member] =
    &[("disks", List, "always empty"), ("install_methods", Texts, "ways to install a guest")];
const VM_TEMPLATE: &[Member] = &[
    ("isDefaultTemplate", Bool, "it came with the hypervisor"),
    ("template_info", Members(TEMPLATE_INFO), "how a guest is installed"),
];

const VBD: &[Member] = &[
    ("attached", Bool, "always false: nothing runs"),
    ("bootable", Bool, "the VM may start from it"),
    ("device", TextOrNull, "what its guest calls it"),
    ("position", Text, "its number"),
    ("is_cd_drive", Bool, "it is a CD drive"),
    ("read_only", Bool, "its guest cannot write"),
    ("VM", Id, "the VM, snapshot or template"),
    ("VDI?", Id, "the disk; an empty drive has none"),
];

const VIF: &[Member] = &[
    ("attached", Bool, "always false: nothing runs"),
    ("device", Text, "its number"),
    ("MAC", Text, "its address"),
    ("MTU", Count, "bytes"),
    ("$network", Text, "the network; empty for none"),
    ("$VM", Id, "the VM, snapshot or template"),
    ("allowedIpv4Addresses", Texts, "the only ones, if it is locked"),
    ("allowedIpv6Addresses", Texts, "the only ones, if it is locked"),
    ("lockingMode", Text, "`network_default`, `locked`, `unlocked` or `disabled`"),
    ("rateLimit?", Count, "kB/s"),
    ("txChecksumming", Bool, "the host computes checksums"),
    ("other_config", Strings, "xapi's `other_config`"),
];

const NETWORK: &[Member] = &[
    ("bridge", Text, "its bridge"),
    ("MTU", Count, "bytes"),
    ("PIFs", Ids, "always empty"),
    ("VIFs", Ids, "the VMs' connections to it"),
    ("automatic", Bool, "new VMs get a connection to it"),
    ("defaultIsLocked", Bool, "who is not allowed an address is cut off"),
    ("current_operations", Strings, "always empty"),
    ("other_config", Strings, "xapi's `other_config`"),
    ("isBonded", Bool, "always false"),
];

const SOCKETS: &[Member] = &[("cores", Count, "cores"), ("sockets", Count, "sockets")];
const USED: &[Member] = &[("size", Bytes, "bytes, whole GiB"), ("usage", Bytes, "bytes")];

const HOST: &[Member] = &[
    ("hostname", Text, "its name on the network"),
    ("address", Text, "its address"),
    ("power_state", Word(&["Running", "Halted", "Unknown"]), "whether it runs"),
    ("enabled", Bool, "always true"),
    ("version", Text, "Gantry's version"),
    ("build", Text, "the same"),
    ("productBrand", Text, "`Gantry`"),
    ("memory", Members(USED), "memory"),
    ("cpus", Members(SOCKETS), "processors"),
    ("CPUs", Strings, "deprecated"),
    ("residentVms", Ids, "always empty"),
    ("$PBDs", Ids, "always empty"),
    ("PIFs", Ids, "always empty"),
    ("$PIFs", Ids, "always empty"),
    ("PCIs", Ids, "always empty"),
    ("$PCIs", Ids, "always empty"),
    ("PGPUs", Ids, "always empty"),
    ("$PGPUs", Ids, "always empty"),
    ("startTime", SecondsOrNull, "when the machine started"),
    ("agentStartTime", SecondsOrNull, "when Gantry started"),
    ("license_params", Strings, "always empty"),
    ("license_server", Strings, "always empty"),
    ("license_expiry", SecondsOrNull, "always null"),
    ("logging", Strings, "always empty"),
    ("otherConfig", Strings, "always empty"),
    ("bios_strings", Strings, "always empty"),
    ("chipset_info", Strings, "always empty"),
    ("iscsiIqn", Text, "always empty"),
    ("multipathing", Bool, "always false"),
    ("hvmCapable", Bool, "always false"),
    ("zstdSupported", Bool, "always true"),
    ("rebootRequired", Bool, "always false"),
    ("powerOnMode", Text, "always empty"),
    ("patches", Texts, "always empty"),
    ("supplementalPacks", List, "always empty"),
    ("current_operations", Strings, "always empty"),
];

const POOL: &[Member] = &[
    ("master", Id, "its host"),
    ("default_SR", Id, "where imports go unless it is said"),
    ("HA_enabled", Bool, "always false"),
    ("haSrs", Ids, "always empty"),
    ("auto_poweron", Bool, "always false"),
    ("cpus", Members(SOCKETS), "processors"),
    ("zstdSupported", Bool, "always true"),
    ("vtpmSupported", Bool, "always false"),
    ("haRebootVmOnInternalShutdown", Bool, "always false"),
    ("platform_version", Text, "Gantry's version"),
    ("current_operations", Strings, "always empty"),
    ("otherConfig", Strings, "always empty"),
];

impl Holds {
    fn schema(&self) -> Value {
        match self {
            Self::Text | Self::Id => json!({ "type": "string" }),
            Self::TextOrNull => json!({ "type": ["string", "null"] }),
            Self::Texts | Self::Ids => json!({ "type": "array", "items": { "type": "string" } }),
            Self::Bool => json!({ "type": "boolean" }),
            Self::Count | Self::Bytes => json!({ "type": "integer", "minimum": 0 }),
            Self::Counts => json!({ "type": "array", "items": { "type": "integer", "minimum": 0 } }),
            Self::Seconds => json!({ "type": "integer" }),
            Self::SecondsOrNull => json!({ "type": ["integer", "null"] }),
            Self::Strings => json!({ "type": "object", "additionalProperties": { "type": "string" } }),
            Self::StringsOrNull => {
                json!({ "type": ["object", "null"], "additionalProperties": { "type": "string" } })
            }
            Self::Word(words) => json!({ "type": "string", "enum": words }),
            Self::Members(members) => object(*members),
            Self::List => json!({ "type": "array", "items": {} }),
            Self::BytesRange => json!({
                "type": "array", "items": { "type": "integer", "minimum": 0 }, "minItems": 2, "maxItems": 2,
            }),
        }
    }
}

fn object<'a>(members: impl IntoIterator<Item = &'a Member>) -> Value {
    let (mut properties, mut required) = (Map::new(), Vec::new());
    for (name, holds, meaning) in members {
        let plain = name.trim_end_matches('?');
        if plain == *name {
            required.push(Value::from(plain));
        }
        let mut schema = holds.schema();
        if let Some(schema) = schema.as_object_mut() {
            schema.insert("description".into(), (*meaning).into());
        }
        properties.insert(plain.into(), schema);
    }
    json!({ "type": "object", "properties": properties, "required": required })
}

/// The schema of a collection's objects.
pub fn of(collection: Collection) -> Value {
    let own: [&[Member]; 2] = match collection {
        Collection::Vdis => [VDI, VDI_ALONE],
        Collection::VdiSnapshots => [VDI, VDI_SNAPSHOT],
        Collection::Srs => [SR, &[]],
        Collection::Vms => [VM, &[]],
        Collection::VmSnapshots => [VM, VM_SNAPSHOT],
        Collection::VmTemplates => [VM, VM_TEMPLATE],
        Collection::Vbds => [VBD, &[]],
        Collection::Vifs => [VIF, &[]],
        Collection::Networks => [NETWORK, &[]],
        Collection::Hosts => [HOST, &[]],
        Collection::Pools => [POOL, &[]],
    };
    let labels = if collection.is_labelled() { LABELS } else { &[] };
    let mut schema = object(COMMON.iter().chain(labels).chain(own.into_iter().flatten()));
    if let Some(properties) = schema.get_mut("properties").and_then(Value::as_object_mut) {
        properties.insert("type".into(), json!({ "const": collection.kind(), "type": "string" }));
    }
    if let Some(required) = schema.get_mut("required").and_then(Value::as_array_mut) {
        required.push("type".into());
    }
    schema
}

/// An element of a collection as people ask for it: what is worth a column of a table.
pub fn example(collection: Collection) -> Value {
    let id = "6f2c8a4e-93d1-4d0b-a7a5-1f0f5a3c9b10";
    let other = "0b8e7c11-5f0d-4b53-9d0e-3f7d8a2b6c44";
    let mut element = match collection {
        Collection::Vdis => {
            json!({ "name_label": "web, system", "size": 10_737_418_240_u64, "usage": 2_147_483_648_u64, "$SR": other })
        }
        Collection::VdiSnapshots => {
            json!({ "name_label": "web, system", "size": 10_737_418_240_u64, "snapshot_time": 1_764_000_000, "$snapshot_of": other })
        }
        Collection::Srs => {
            json!({ "name_label": "local", "SR_type": "file", "size": 500_000_000_000_u64, "physical_usage": 120_000_000_000_u64 })
        }
        Collection::Vms | Collection::VmTemplates => {
            json!({ "name_label": "web", "power_state": "Halted", "CPUs": { "max": 2, "number": 2 }, "tags": ["prod"] })
        }
        Collection::VmSnapshots => {
            json!({ "name_label": "before the update", "snapshot_time": 1_764_000_000, "$snapshot_of": other })
        }
        Collection::Vbds => json!({ "VM": other, "VDI": id, "position": "0", "read_only": false }),
        Collection::Vifs => {
            json!({ "device": "0", "MAC": "02:00:00:00:00:01", "$VM": other, "$network": id })
        }
        Collection::Networks => json!({ "name_label": "lan", "bridge": "xenbr0", "MTU": 1500 }),
        Collection::Hosts => {
            json!({ "name_label": "gantry", "version": env!("CARGO_PKG_VERSION"), "power_state": "Running" })
        }
        Collection::Pools => json!({ "name_label": "gantry", "master": other, "default_SR": other }),
    };
    if let Some(members) = element.as_object_mut() {
        members.insert("id".into(), id.into());
        members.insert("href".into(), format!("/rest/v0/{}/{id}", collection.name()).into());
    }
    element
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_show_members_that_there_are() {
        for collection in Collection::ALL {
            let schema = of(collection);
            for name in example(collection).as_object().unwrap().keys().filter(|name| *name != "href") {
                assert!(schema["properties"].get(name).is_some(), "{}: {name}", collection.name());
            }
        }
    }
}
