use std::path::PathBuf;

use super::*;
use crate::formats::xva::Value;
use crate::ids::{ContentId, DiskFormat, NetworkId, VifId};
use crate::state::db::memory;
use crate::state::disks::{self, ContentRow, SrRow, VdiRow};
use crate::state::networks::VifRow;

pub(in crate::state) fn vm_named(name: &str) -> VmRow {
    VmRow {
        id: VmId::random(),
        kind: VmKind::Vm,
        name_label: name.into(),
        name_description: "d".into(),
        tags: vec!["t".into()],
        snapshot_of: None,
        snapshot_ms: None,
        created_ms: 1,
        changed_ms: 2,
        record: [("PV_args", Value::text("quiet"))].into_iter().collect(),
        extra: vec![("VM_metrics".into(), [("state", Value::Array(Vec::new()))].into_iter().collect())],
    }
}

pub(in crate::state) fn vif_of(vm: VmId, network: Option<NetworkId>, device: &str) -> VifRow {
    VifRow {
        id: VifId::random(),
        vm,
        network,
        device: device.into(),
        mac: "02:00:00:00:00:01".into(),
        mtu: 1500,
        record: Record::new(),
    }
}

fn vbd_of(vm: VmId, vdi: Option<VdiId>, position: &str) -> VbdRow {
    VbdRow {
        id: VbdId::random(),
        vm,
        vdi,
        userdevice: position.into(),
        kind: VbdKind::Disk,
        mode: VbdMode::ReadWrite,
        bootable: position == "0",
        record: [("device", Value::text("xvda"))].into_iter().collect(),
    }
}

/// An SR with a disk in it.
fn disk(db: &Connection) -> VdiRow {
    let sr = SrRow {
        id: SrId::random(),
        name_label: "sr".into(),
        name_description: String::new(),
        tags: Vec::new(),
        path: PathBuf::from(format!("/{}", SrId::random())),
        content_format: DiskFormat::Raw,
        read_only: false,
        created_ms: 1,
    };
    let content = ContentRow {
        id: ContentId::random(),
        sr: sr.id,
        file: "f".into(),
        format: DiskFormat::Raw,
        virtual_size: 512,
        physical_bytes: 0,
        map_version: 1,
        parent: None,
        created_ms: 1,
        dropped: false,
    };
    let vdi = VdiRow {
        id: VdiId::random(),
        sr: sr.id,
        content: content.id,
        name_label: "disk".into(),
        name_description: String::new(),
        tags: Vec::new(),
        vdi_type: "user".into(),
        virtual_size: 512,
        created_ms: 1,
        content_changed_ms: None,
        snapshot_of: None,
        snapshot_ms: None,
        record: Record::new(),
    };
    disks::insert_sr(db, &sr).unwrap();
    disks::insert_content(db, &content, b"map").unwrap();
    disks::insert_vdi(db, &vdi).unwrap();
    vdi
}

fn changed_ms(db: &Connection, id: VmId) -> i64 {
    find_vm(db, id).unwrap().unwrap().changed_ms
}

#[test]
fn vms_are_stored_found_and_changed() {
    let db = memory();
    let vm = vm_named("a");
    insert_vm(&db, &vm).unwrap();
    assert_eq!(find_vm(&db, vm.id).unwrap(), Some(vm.clone()));
    let changed = VmRow { name_label: "b".into(), tags: Vec::new(), ..vm.clone() };
    update_vm(&db, &changed, 50).unwrap();
    assert_eq!(find_vm(&db, vm.id).unwrap(), Some(VmRow { changed_ms: 50, ..changed.clone() }));
    update_vm(&db, &changed, 50).unwrap();
    assert_eq!(changed_ms(&db, vm.id), 51, "it grows when the clock does not");
    delete_vm(&db, vm.id).unwrap();
    assert_eq!(find_vm(&db, vm.id).unwrap(), None);
}

#[test]
fn pages_hold_the_vms_of_one_kind_in_the_order_of_ids() {
    let db = memory();
    let mut ids = Vec::new();
    for kind in [VmKind::Vm, VmKind::Snapshot, VmKind::Template] {
        for _ in 0..3 {
            let row = VmRow { kind, ..vm_named("x") };
            insert_vm(&db, &row).unwrap();
            ids.push((kind, row.id));
        }
    }
    for kind in [VmKind::Vm, VmKind::Snapshot, VmKind::Template] {
        let mut expected: Vec<_> =
            ids.iter().filter(|(of, _)| *of == kind).map(|(_, id)| id.to_string()).collect();
        expected.sort();
        let page = |after: &str| {
            let page = vms(&db, kind, Page { after, rows: 2 }).unwrap();
            page.into_iter().map(|row| row.id.to_string()).collect::<Vec<_>>()
        };
        assert_eq!([page(""), page(&expected[1])].concat(), expected);
    }
}

#[test]
fn snapshots_are_listed_in_the_order_in_which_they_were_taken() {
    let db = memory();
    let vm = vm_named("a");
    insert_vm(&db, &vm).unwrap();
    let snapshot = |at| VmRow {
        kind: VmKind::Snapshot,
        snapshot_of: Some(vm.id),
        snapshot_ms: Some(at),
        ..vm_named("s")
    };
    let (late, early) = (snapshot(20), snapshot(10));
    insert_vm(&db, &late).unwrap();
    insert_vm(&db, &early).unwrap();
    assert_eq!(snapshots_of(&db, vm.id).unwrap(), [early.id, late.id]);
}

#[test]
fn vbds_are_found_by_vm_in_order_of_their_positions_and_by_disk() {
    let db = memory();
    let (vm, other, vdi) = (vm_named("a"), vm_named("b"), disk(&db));
    insert_vm(&db, &vm).unwrap();
    insert_vm(&db, &other).unwrap();
    let rows =
        [vbd_of(vm.id, Some(vdi.id), "10"), vbd_of(vm.id, None, "2"), vbd_of(other.id, Some(vdi.id), "0")];
    rows.iter().for_each(|row| insert_vbd(&db, row).unwrap());
    assert_eq!(find_vbd(&db, rows[0].id).unwrap().as_ref(), Some(&rows[0]));
    assert_eq!(vbds_of_vm(&db, vm.id).unwrap(), [rows[1].clone(), rows[0].clone()]);
    assert_eq!(vbds_of_vdi(&db, vdi.id).unwrap().len(), 2);
    assert_eq!(vbds(&db, Page { after: "", rows: 9 }).unwrap().len(), 3);
    let mut users = vec![vm.id, other.id];
    users.sort_by_key(ToString::to_string);
    assert_eq!(vms_of_vdi(&db, vdi.id).unwrap(), users);
    assert_eq!(srs_of_vm(&db, vm.id).unwrap(), [vdi.sr]);
    assert!(insert_vbd(&db, &vbd_of(vm.id, None, "2")).is_err(), "a position is taken once");
    let changed = VbdRow { mode: VbdMode::ReadOnly, vdi: None, ..rows[0].clone() };
    update_vbd(&db, &changed).unwrap();
    assert_eq!(find_vbd(&db, changed.id).unwrap(), Some(changed.clone()));
    delete_vbd(&db, changed.id).unwrap();
    delete_vm(&db, other.id).unwrap();
    assert_eq!(vbds(&db, Page { after: "", rows: 9 }).unwrap(), [rows[1].clone()], "VBDs go with their VM");
}

#[test]
fn a_vbd_goes_with_its_vdi_also_when_a_whole_sr_is_forgotten() {
    let db = memory();
    let (vm, one, two) = (vm_named("a"), disk(&db), disk(&db));
    insert_vm(&db, &vm).unwrap();
    let rows = [vbd_of(vm.id, Some(one.id), "0"), vbd_of(vm.id, Some(two.id), "1"), vbd_of(vm.id, None, "2")];
    rows.iter().for_each(|row| insert_vbd(&db, row).unwrap());
    let before = changed_ms(&db, vm.id);
    disks::delete_vdi(&db, one.id).unwrap();
    assert!(changed_ms(&db, vm.id) > before);
    assert_eq!(vbds_of_vm(&db, vm.id).unwrap(), rows[1..]);
    disks::forget_sr(&db, two.sr).unwrap();
    assert_eq!(vbds_of_vm(&db, vm.id).unwrap(), rows[2..]);
}

#[test]
fn whatever_an_export_shows_moves_the_time_of_the_last_change() {
    let db = memory();
    let (vm, other, vdi) = (vm_named("a"), vm_named("b"), disk(&db));
    insert_vm(&db, &vm).unwrap();
    insert_vm(&db, &other).unwrap();
    let vbd = vbd_of(vm.id, Some(vdi.id), "0");
    let mut last = changed_ms(&db, vm.id);
    let mut moved = |what: &str| {
        let now = changed_ms(&db, vm.id);
        assert!(now > last, "{what}");
        last = now;
    };
    insert_vbd(&db, &vbd).unwrap();
    moved("a new VBD");
    update_vbd(&db, &VbdRow { bootable: false, ..vbd.clone() }).unwrap();
    moved("a changed VBD");
    disks::update_vdi(&db, &VdiRow { name_label: "other".into(), ..vdi }).unwrap();
    moved("a renamed disk");
    delete_vbd(&db, vbd.id).unwrap();
    moved("a VBD that is gone");
    assert_eq!(changed_ms(&db, other.id), other.changed_ms);
}

#[test]
fn words_are_read_in_any_letter_case_and_nothing_else_is() {
    assert_eq!("vm-SNAPSHOT".parse(), Ok(VmKind::Snapshot));
    assert_eq!("cd".parse(), Ok(VbdKind::Cd));
    assert_eq!("ro".parse(), Ok(VbdMode::ReadOnly));
    assert!("VM-controller".parse::<VmKind>().is_err());
    assert!("".parse::<VbdMode>().is_err());
}
