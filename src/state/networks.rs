//! Rows of networks and of the VIFs by which VMs are on them. Every function is one SQL statement on a connection that
//! the caller holds, so that several of them make one transaction.

use rusqlite::{Connection, OptionalExtension, Row, params};

use crate::formats::xva::Record;
use crate::ids::{NetworkId, VifId, VmId};

use super::disks::{Page, json, parsed, parsed_optional, record, tags};
use super::vms::stored;

/// A network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NetworkRow {
    /// Its uuid.
    pub id: NetworkId,
    /// Name that people see.
    pub name_label: String,
    /// Description that people see.
    pub name_description: String,
    /// Tags, in the order in which they were added.
    pub tags: Vec<String>,
    /// The bridge on the hosts: `xenbr0`; may be empty.
    pub bridge: String,
    /// Largest packet, bytes.
    pub mtu: u32,
    /// What is known of it in xapi's terms. Where a member here says the same, this one is right.
    pub record: Record,
    /// When it was made, Unix milliseconds.
    pub created_ms: i64,
}

/// The connection of a VM to a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VifRow {
    /// Its uuid.
    pub id: VifId,
    /// The VM.
    pub vm: VmId,
    /// The network.
    pub network: Option<NetworkId>,
    /// Its position in the VM: a number as text.
    pub device: String,
    /// Its address: `aa:bb:cc:dd:ee:ff`.
    pub mac: String,
    /// Largest packet, bytes.
    pub mtu: u32,
    /// What is known of it in xapi's terms. Where a member here says the same, this one is right.
    pub record: Record,
}

fn network(row: &Row<'_>) -> rusqlite::Result<NetworkRow> {
    Ok(NetworkRow {
        id: parsed(row, "id")?,
        name_label: row.get("name_label")?,
        name_description: row.get("name_description")?,
        tags: tags(row)?,
        bridge: row.get("bridge")?,
        mtu: row.get("mtu")?,
        record: record(row)?,
        created_ms: row.get("created_ms")?,
    })
}

fn vif(row: &Row<'_>) -> rusqlite::Result<VifRow> {
    Ok(VifRow {
        id: parsed(row, "id")?,
        vm: parsed(row, "vm_id")?,
        network: parsed_optional(row, "network_id")?,
        device: row.get("device")?,
        mac: row.get("mac")?,
        mtu: row.get("mtu")?,
        record: record(row)?,
    })
}

/// One network.
pub fn find_network(db: &Connection, id: NetworkId) -> rusqlite::Result<Option<NetworkRow>> {
    db.prepare_cached("SELECT * FROM networks WHERE id = ?1")?.query_row([id.to_string()], network).optional()
}

/// The oldest network that has a name, or, if `bridge` is one, the oldest that has that bridge: how an archive's
/// networks are recognised.
pub fn matching_network(
    db: &Connection,
    name_label: &str,
    bridge: &str,
) -> rusqlite::Result<Option<NetworkRow>> {
    db.prepare_cached(
        "SELECT * FROM networks WHERE name_label = ?1 OR (bridge = ?2 AND ?2 != '')
         ORDER BY name_label != ?1, created_ms, id LIMIT 1",
    )?
    .query_row([name_label, bridge], network)
    .optional()
}

/// A page of all networks.
pub fn networks(db: &Connection, page: Page<'_>) -> rusqlite::Result<Vec<NetworkRow>> {
    db.prepare_cached("SELECT * FROM networks WHERE id > ?1 ORDER BY id LIMIT ?2")?
        .query_map(params![page.after, page.rows], network)?
        .collect()
}

/// Adds a network.
pub fn insert_network(db: &Connection, row: &NetworkRow) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT INTO networks (id, name_label, name_description, tags, bridge, mtu, record, created_ms)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)",
    )?
    .execute(params![
        row.id.to_string(),
        row.name_label,
        row.name_description,
        json(&row.tags),
        row.bridge,
        row.mtu,
        stored(&row.record)?,
        row.created_ms,
    ])?;
    Ok(())
}

/// Stores a network's name, description, tags and record anew.
pub fn update_network(db: &Connection, row: &NetworkRow) -> rusqlite::Result<()> {
    db.prepare_cached(
        "UPDATE networks SET name_label = ?2, name_description = ?3, tags = ?4, record = ?5 WHERE id = ?1",
    )?
    .execute(params![
        row.id.to_string(),
        row.name_label,
        row.name_description,
        json(&row.tags),
        stored(&row.record)?,
    ])?;
    Ok(())
}

/// Removes a network; VIFs that are on it go on naming it.
pub fn delete_network(db: &Connection, id: NetworkId) -> rusqlite::Result<()> {
    db.execute("DELETE FROM networks WHERE id = ?1", [id.to_string()])?;
    Ok(())
}

/// One VIF.
pub fn find_vif(db: &Connection, id: VifId) -> rusqlite::Result<Option<VifRow>> {
    db.prepare_cached("SELECT * FROM vifs WHERE id = ?1")?.query_row([id.to_string()], vif).optional()
}

/// A page of all VIFs.
pub fn vifs(db: &Connection, page: Page<'_>) -> rusqlite::Result<Vec<VifRow>> {
    db.prepare_cached("SELECT * FROM vifs WHERE id > ?1 ORDER BY id LIMIT ?2")?
        .query_map(params![page.after, page.rows], vif)?
        .collect()
}

/// The VIFs of a VM, by position.
pub fn vifs_of_vm(db: &Connection, id: VmId) -> rusqlite::Result<Vec<VifRow>> {
    db.prepare_cached("SELECT * FROM vifs WHERE vm_id = ?1 ORDER BY CAST(device AS INTEGER), device, id")?
        .query_map([id.to_string()], vif)?
        .collect()
}

/// The VIFs that are on a network.
pub fn vifs_of_network(db: &Connection, id: NetworkId) -> rusqlite::Result<Vec<VifRow>> {
    db.prepare_cached("SELECT * FROM vifs WHERE network_id = ?1 ORDER BY id")?
        .query_map([id.to_string()], vif)?
        .collect()
}

/// Adds a VIF.
pub fn insert_vif(db: &Connection, row: &VifRow) -> rusqlite::Result<()> {
    db.prepare_cached(
        "INSERT INTO vifs (id, vm_id, network_id, device, mac, mtu, record)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
    )?
    .execute(params![
        row.id.to_string(),
        row.vm.to_string(),
        row.network.map(|id| id.to_string()),
        row.device,
        row.mac,
        row.mtu,
        stored(&row.record)?,
    ])?;
    Ok(())
}

/// Stores a VIF anew, all but the VM that it is of.
pub fn update_vif(db: &Connection, row: &VifRow) -> rusqlite::Result<()> {
    db.prepare_cached(
        "UPDATE vifs SET network_id = ?2, device = ?3, mac = ?4, mtu = ?5, record = ?6 WHERE id = ?1",
    )?
    .execute(params![
        row.id.to_string(),
        row.network.map(|id| id.to_string()),
        row.device,
        row.mac,
        row.mtu,
        stored(&row.record)?,
    ])?;
    Ok(())
}

/// Removes a VIF.
pub fn delete_vif(db: &Connection, id: VifId) -> rusqlite::Result<()> {
    db.execute("DELETE FROM vifs WHERE id = ?1", [id.to_string()])?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::vms::tests::{vif_of, vm_named};
    use super::super::vms::{delete_vm, find_vm, insert_vm};
    use super::*;
    use crate::formats::xva::Value;
    use crate::state::db::memory;

    fn network_named(name: &str, bridge: &str, created_ms: i64) -> NetworkRow {
        NetworkRow {
            id: NetworkId::random(),
            name_label: name.into(),
            name_description: "d".into(),
            tags: vec!["t".into()],
            bridge: bridge.into(),
            mtu: 1500,
            record: [("other_config", Value::Struct(Record::new()))].into_iter().collect(),
            created_ms,
        }
    }

    #[test]
    fn networks_are_stored_found_paged_changed_and_removed() {
        let db = memory();
        let mut rows: Vec<_> =
            ["a", "b", "c"].map(|name| network_named(name, &format!("xenbr-{name}"), 1)).into();
        rows.iter().for_each(|row| insert_network(&db, row).unwrap());
        rows.sort_by_key(|row| row.id.to_string());
        assert_eq!(networks(&db, Page { after: "", rows: 2 }).unwrap(), rows[..2]);
        let after = rows[1].id.to_string();
        assert_eq!(networks(&db, Page { after: &after, rows: 2 }).unwrap(), rows[2..]);
        let changed = NetworkRow { name_label: "other".into(), tags: Vec::new(), ..rows[0].clone() };
        update_network(&db, &changed).unwrap();
        assert_eq!(find_network(&db, changed.id).unwrap(), Some(changed.clone()));
        delete_network(&db, changed.id).unwrap();
        assert_eq!(find_network(&db, changed.id).unwrap(), None);
    }

    #[test]
    fn a_network_is_recognised_by_its_name_then_by_its_bridge() {
        let db = memory();
        let (old, new) = (network_named("lan", "xenbr0", 1), network_named("lan", "xenbr1", 2));
        let nameless = network_named("", "", 0);
        [&new, &old, &nameless].into_iter().for_each(|row| insert_network(&db, row).unwrap());
        let found = |name, bridge| matching_network(&db, name, bridge).unwrap().map(|row| row.id);
        assert_eq!(found("lan", "xenbr1"), Some(old.id), "the oldest of that name");
        assert_eq!(found("elsewhere", "xenbr1"), Some(new.id));
        assert_eq!(found("elsewhere", ""), None, "no bridge is no bridge in common");
    }

    #[test]
    fn vifs_are_stored_by_vm_and_network_and_go_with_their_vm() {
        let db = memory();
        let (vm, network) = (vm_named("vm"), network_named("lan", "xenbr0", 1));
        insert_vm(&db, &vm).unwrap();
        insert_network(&db, &network).unwrap();
        let rows: Vec<_> = ["10", "2", "0"].map(|device| vif_of(vm.id, Some(network.id), device)).into();
        rows.iter().for_each(|row| insert_vif(&db, row).unwrap());
        let devices: Vec<_> = vifs_of_vm(&db, vm.id).unwrap().into_iter().map(|row| row.device).collect();
        assert_eq!(devices, ["0", "2", "10"]);
        assert_eq!(vifs_of_network(&db, network.id).unwrap().len(), 3);
        assert_eq!(vifs(&db, Page { after: "", rows: 2 }).unwrap().len(), 2);
        let changed = VifRow { mac: "aa:bb:cc:dd:ee:ff".into(), network: None, ..rows[0].clone() };
        let before = find_vm(&db, vm.id).unwrap().unwrap().changed_ms;
        update_vif(&db, &changed).unwrap();
        assert_eq!(find_vif(&db, changed.id).unwrap(), Some(changed.clone()));
        assert!(find_vm(&db, vm.id).unwrap().unwrap().changed_ms > before);
        delete_vif(&db, changed.id).unwrap();
        assert_eq!(vifs_of_vm(&db, vm.id).unwrap().len(), 2);
        delete_vm(&db, vm.id).unwrap();
        assert_eq!(vifs(&db, Page { after: "", rows: 9 }).unwrap(), []);
    }
}
