//! Single objects: every member that is always present in the contract, and of the optional ones those that
//! the local store can fill truthfully.

use serde_json::{Map, Value, json};

use crate::backends::local::{Label, Site, Space};
use crate::ids::{VbdId, VdiId};
use crate::state::disks::{Chain, ContentRow, SrRow, VdiRow};

/// The id of an object.
pub fn id_of(object: &Value) -> &str {
    object.get("id").and_then(Value::as_str).unwrap_or_default()
}

/// Adds what all objects have in common.
pub fn with_reference(mut object: Value, id: &str, kind: &str, site: Site) -> Value {
    if let Some(members) = object.as_object_mut() {
        let mut common = Map::new();
        common.insert("id".into(), id.into());
        common.insert("uuid".into(), id.into());
        common.insert("type".into(), kind.into());
        common.insert("_xapiRef".into(), format!("OpaqueRef:{id}").into());
        common.insert("$pool".into(), site.pool.to_string().into());
        common.insert("$poolId".into(), site.pool.to_string().into());
        members.append(&mut common);
    }
    object
}

/// A VDI or a snapshot of one.
pub fn vdi(
    row: &VdiRow,
    content: &ContentRow,
    chain: &Chain,
    vbds: &[VbdId],
    snapshots: &[VdiId],
    missing: bool,
    site: Site,
) -> Value {
    let mut object = json!({
        "name_label": row.name_label,
        "name_description": row.name_description,
        "size": row.virtual_size,
        "usage": content.physical_bytes,
        "VDI_type": row.vdi_type,
        "$SR": row.sr,
        "$VBDs": vbds,
        "snapshots": snapshots,
        "tags": row.tags,
        "missing": missing,
        "cbt_enabled": false,
        "current_operations": {},
        "other_config": {},
        "image_format": content.format,
    });
    if let Some(members) = object.as_object_mut() {
        match (row.snapshot_of, row.snapshot_ms) {
            (Some(of), at) => {
                members.insert("$snapshot_of".into(), of.to_string().into());
                members.insert("snapshot_time".into(), at.unwrap_or(row.created_ms).div_euclid(1000).into());
            }
            (None, _) => {
                members.insert("chainPhysicalUsage".into(), chain.physical_bytes.into());
            }
        }
    }
    if let (Some(parent), Some(members)) = (&chain.parent, object.as_object_mut()) {
        members.insert("parent".into(), parent.clone().into());
    }
    let kind = if row.snapshot_of.is_some() { "VDI-snapshot" } else { "VDI" };
    with_reference(object, &row.id.to_string(), kind, site)
}

/// A storage repository.
pub fn sr(row: &SrRow, vdis: &[VdiId], usage: u64, space: Option<Space>, site: Site) -> Value {
    let object = json!({
        "name_label": row.name_label,
        "name_description": row.name_description,
        "tags": row.tags,
        "size": space.map_or(0, |space| space.capacity),
        "physical_usage": space.map_or(0, |space| space.capacity.saturating_sub(space.free)),
        "usage": usage,
        "SR_type": "file",
        "content_type": "user",
        "allocationStrategy": "thin",
        "shared": false,
        "inMaintenanceMode": space.is_none(),
        "VDIs": vdis,
        "$container": site.host,
        "$PBDs": [],
        "current_operations": {},
        "other_config": {},
        "sm_config": {
            "path": row.path,
            "content_format": row.content_format,
            "read_only": if row.read_only { "true" } else { "false" },
        },
    });
    with_reference(object, &row.id.to_string(), "SR", site)
}

/// The local pool.
pub fn pool(site: Site, label: &Label, cores: usize) -> Value {
    let object = json!({
        "name_label": label.name_label,
        "name_description": label.name_description,
        "tags": label.tags,
        "master": site.host,
        "default_SR": site.default_sr,
        "HA_enabled": false,
        "haSrs": [],
        "auto_poweron": false,
        "cpus": { "cores": cores, "sockets": 1 },
        "zstdSupported": true,
        "vtpmSupported": false,
        "haRebootVmOnInternalShutdown": false,
        "platform_version": env!("CARGO_PKG_VERSION"),
        "current_operations": {},
        "otherConfig": {},
    });
    with_reference(object, &site.pool.to_string(), "pool", site)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::xva::Record;
    use crate::ids::{ContentId, DiskFormat, HostId, PoolId, SrId};

    #[test]
    fn a_vdi_has_every_member_that_the_contract_always_has() {
        let site = Site { pool: PoolId::random(), host: HostId::random(), default_sr: SrId::random() };
        let row = VdiRow {
            id: VdiId::random(),
            sr: site.default_sr,
            content: ContentId::random(),
            name_label: "a".into(),
            name_description: "b".into(),
            tags: vec!["t".into()],
            vdi_type: "user".into(),
            virtual_size: 512,
            created_ms: 1_700_000_000_999,
            content_changed_ms: None,
            snapshot_of: None,
            snapshot_ms: None,
            record: Record::new(),
        };
        let content = ContentRow {
            id: row.content,
            sr: row.sr,
            file: "f".into(),
            format: DiskFormat::Raw,
            virtual_size: 512,
            physical_bytes: 4096,
            map_version: 1,
            parent: None,
            created_ms: 0,
            dropped: false,
        };
        let chain = Chain { physical_bytes: 4096, parent: None };
        let object = vdi(&row, &content, &chain, &[], &[], false, site);
        for member in [
            "id",
            "type",
            "uuid",
            "$pool",
            "$poolId",
            "_xapiRef",
            "name_label",
            "name_description",
            "size",
            "usage",
            "chainPhysicalUsage",
            "VDI_type",
            "$SR",
            "$VBDs",
            "snapshots",
            "tags",
            "missing",
            "cbt_enabled",
            "current_operations",
            "other_config",
        ] {
            assert!(object.get(member).is_some(), "{member}");
        }
        let snapshot = VdiRow { snapshot_of: Some(VdiId::random()), ..row };
        let object = vdi(&snapshot, &content, &chain, &[], &[], false, site);
        assert_eq!(object["type"], "VDI-snapshot");
        assert_eq!(object["snapshot_time"], 1_700_000_000);
        assert!(object.get("chainPhysicalUsage").is_none());
    }
}
