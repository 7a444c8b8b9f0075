use tempfile::TempDir;
use tokio::sync::broadcast::Receiver;

use super::*;
use crate::backends::local::NewVbd;
use crate::config::Storage;
use crate::formats::xva::Record;
use crate::ids::{ContentId, DiskFormat};
use crate::state::Db;
use crate::state::disks::ContentRow;

fn opened(folder: &TempDir) -> LocalStore {
    let db = Db::open(&folder.path().join("gantry.db")).unwrap();
    LocalStore::open(db, folder.path(), Storage::default(), &Default::default()).unwrap()
}

fn store() -> (TempDir, LocalStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = opened(&folder);
    (folder, store)
}

/// Disks of the default SR that have rows and no files.
async fn disks<const N: usize>(store: &LocalStore) -> [VdiId; N] {
    let sr = store.site().default_sr;
    let ids = [(); N].map(|()| VdiId::random());
    store
        .db()
        .transaction(move |tx| {
            for id in ids {
                let content = ContentRow {
                    id: ContentId::random(),
                    sr,
                    file: format!("{id}.raw"),
                    format: DiskFormat::Raw,
                    virtual_size: 512,
                    physical_bytes: 0,
                    map_version: 1,
                    parent: None,
                    created_ms: 1,
                    dropped: false,
                };
                let vdi = VdiRow {
                    id,
                    sr,
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
                crate::state::disks::insert_content(tx, &content, b"map")?;
                crate::state::disks::insert_vdi(tx, &vdi)?;
            }
            Ok(())
        })
        .await
        .unwrap();
    ids
}

fn new_vm(vdis: &[VdiId]) -> NewVm {
    NewVm {
        id: VmId::random(),
        name_label: "vm".into(),
        name_description: "d".into(),
        cpus: 2,
        memory: 1 << 30,
        vdis: vdis.to_vec(),
    }
}

async fn made(store: &LocalStore, vdis: &[VdiId]) -> VmId {
    let new = new_vm(vdis);
    let id = new.id;
    store.create_vm(new).await.unwrap();
    id
}

async fn parts(store: &LocalStore, id: VmId) -> Option<Parts> {
    store.db().call(move |db| Ok(Parts::of(db, id)?)).await.unwrap()
}

async fn vdi(store: &LocalStore, id: VdiId) -> Option<VdiRow> {
    store.db().call(move |db| Ok(crate::state::disks::find_vdi(db, id)?)).await.unwrap()
}

fn told(changes: &mut Receiver<ObjectChange>) -> Vec<ObjectChange> {
    std::iter::from_fn(|| changes.try_recv().ok()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_has_its_disks_in_their_order_and_starts_from_the_first() {
    let folder = tempfile::tempdir().unwrap();
    let store = tokio::task::block_in_place(|| opened(&folder));
    let vdis: [_; 3] = disks(&store).await;
    let mut changes = store.changes();
    let id = made(&store, &vdis).await;
    let told = told(&mut changes);
    let parts = parts(&store, id).await.unwrap();
    assert_eq!(parts.disks().collect::<Vec<_>>(), vdis);
    let positions: Vec<_> = parts.vbds.iter().map(|vbd| (vbd.userdevice.as_str(), vbd.bootable)).collect();
    assert_eq!(positions, [("0", true), ("1", false), ("2", false)]);
    let expected = std::iter::once(ObjectChange::Vm(id))
        .chain(parts.vbds.iter().map(|vbd| ObjectChange::Vbd(vbd.id)))
        .chain(vdis.map(ObjectChange::Vdi));
    for change in expected {
        assert!(told.contains(&change), "{change:?} in {told:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_vm_of_disks_that_it_cannot_have_is_not_made() {
    let (_folder, store) = tokio::task::block_in_place(store);
    let [one, two] = disks(&store).await;
    let snapshot = VmId::random();
    store.snapshot_vm(made(&store, &[one]).await, snapshot, "s".into()).await.unwrap();
    let taken = parts(&store, snapshot).await.unwrap().disks().next().unwrap();
    let many: [_; 256] = disks(&store).await;
    for (vdis, expected) in [
        (vec![two, VdiId::random()], "no such VDI"),
        (vec![two, taken], "is a snapshot"),
        (vec![two, one, two], "twice"),
        (many.to_vec(), "no free position"),
    ] {
        let new = new_vm(&vdis);
        let id = new.id;
        let refused = store.create_vm(new).await.unwrap_err().to_string();
        assert!(refused.contains(expected), "{refused}");
        assert!(parts(&store, id).await.is_none());
        let attached = store.db().call(move |db| Ok(vms::vbds_of_vdi(db, two)?)).await.unwrap();
        assert_eq!(attached, []);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_of_a_vm_has_snapshots_of_its_disks_that_refer_to_the_same_content() {
    let (_folder, store) = tokio::task::block_in_place(store);
    let vdis: [_; 2] = disks(&store).await;
    let id = made(&store, &vdis).await;
    let vif = VifRow {
        id: VifId::random(),
        vm: id,
        network: Some(NetworkId::random()),
        device: "0".into(),
        mac: "02:00:00:00:00:01".into(),
        mtu: 1500,
        record: Record::new(),
    };
    let inserted = vif.clone();
    store.db().call(move |db| Ok(networks::insert_vif(db, &inserted)?)).await.unwrap();
    let mut changes = store.changes();
    let snapshot = VmId::random();
    store.snapshot_vm(id, snapshot, "before".into()).await.unwrap();
    let told = told(&mut changes);
    let (of, taken) = (parts(&store, id).await.unwrap(), parts(&store, snapshot).await.unwrap());
    assert_eq!((taken.vm.kind, taken.vm.snapshot_of), (VmKind::Snapshot, Some(id)));
    assert_eq!((taken.vm.name_label.as_str(), &taken.vm.record), ("before", &of.vm.record));
    assert!(taken.vm.snapshot_ms.is_some());
    assert_eq!((taken.vbds.len(), taken.vifs.len()), (2, 1));
    assert_eq!((&taken.vifs[0].mac, taken.vifs[0].network), (&vif.mac, vif.network));
    for (disk, origin) in taken.disks().zip(vdis) {
        let (disk, origin) = (vdi(&store, disk).await.unwrap(), vdi(&store, origin).await.unwrap());
        assert_eq!((disk.content, disk.snapshot_of), (origin.content, Some(origin.id)));
        for change in [ObjectChange::Vdi(disk.id), ObjectChange::Vdi(origin.id)] {
            assert!(told.contains(&change), "{change:?}");
        }
    }
    for change in
        [ObjectChange::Vm(id), ObjectChange::Vm(snapshot), ObjectChange::Sr(store.site().default_sr)]
    {
        assert!(told.contains(&change), "{change:?}");
    }
    let refused = store.snapshot_vm(snapshot, VmId::random(), "x".into()).await;
    assert!(matches!(refused, Err(LocalError::VmIsSnapshot(_))), "{refused:?}");
    let refused = store.snapshot_vm(VmId::random(), VmId::random(), "x".into()).await;
    assert!(matches!(refused, Err(LocalError::NoSuchVm(_))), "{refused:?}");
    let refused = store.delete_vbd(taken.vbds[0].id).await;
    assert!(matches!(refused, Err(LocalError::VmIsSnapshot(_))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_a_vm_takes_its_snapshots_and_the_disks_that_nobody_else_uses() {
    let (_folder, store) = tokio::task::block_in_place(store);
    let [own, shared] = disks(&store).await;
    let (id, other) = (made(&store, &[own, shared]).await, made(&store, &[shared]).await);
    let snapshot = VmId::random();
    store.snapshot_vm(id, snapshot, "s".into()).await.unwrap();
    let taken: Vec<_> = parts(&store, snapshot).await.unwrap().disks().collect();
    let mut changes = store.changes();
    let mut gone = store.delete_vm(id).await.unwrap();
    let told = told(&mut changes);
    let mut expected = vec![own, taken[0], taken[1]];
    gone.sort();
    expected.sort();
    assert_eq!(gone, expected);
    assert!(parts(&store, id).await.is_none() && parts(&store, snapshot).await.is_none());
    assert!(vdi(&store, own).await.is_none() && vdi(&store, shared).await.is_some());
    assert_eq!(parts(&store, other).await.unwrap().disks().collect::<Vec<_>>(), [shared]);
    for change in [ObjectChange::Vm(id), ObjectChange::Vm(snapshot), ObjectChange::Vdi(shared)] {
        assert!(told.contains(&change), "{change:?}");
    }
    let again = store.delete_vm(id).await;
    assert!(matches!(again, Err(LocalError::NoSuchVm(_))), "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_a_snapshot_takes_its_own_disks_and_leaves_those_of_the_vm() {
    let (_folder, store) = tokio::task::block_in_place(store);
    let [disk] = disks(&store).await;
    let id = made(&store, &[disk]).await;
    let snapshot = VmId::random();
    store.snapshot_vm(id, snapshot, "s".into()).await.unwrap();
    let taken: Vec<_> = parts(&store, snapshot).await.unwrap().disks().collect();
    assert_eq!(store.delete_vm(snapshot).await.unwrap(), taken);
    assert!(vdi(&store, disk).await.is_some());
    assert_eq!(parts(&store, id).await.unwrap().vbds.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_is_attached_at_a_free_position_and_detached_again() {
    let (_folder, store) = tokio::task::block_in_place(store);
    let vdis: [_; 4] = disks(&store).await;
    let id = made(&store, &vdis[..1]).await;
    let new = |vdi, position| NewVbd {
        id: VbdId::random(),
        vm: id,
        vdi,
        mode: VbdMode::ReadOnly,
        bootable: false,
        position,
    };
    store.create_vbd(new(vdis[1], Some(2))).await.unwrap();
    let first = new(vdis[2], None);
    let first_id = first.id;
    store.create_vbd(first).await.unwrap();
    let positions: Vec<_> =
        parts(&store, id).await.unwrap().vbds.into_iter().map(|vbd| (vbd.userdevice, vbd.vdi)).collect();
    let expected = [("0", vdis[0]), ("1", vdis[2]), ("2", vdis[1])];
    assert_eq!(positions, expected.map(|(position, vdi)| (position.to_owned(), Some(vdi))));
    for (vdi, position, expected) in [
        (vdis[3], Some(2), "no free position 2"),
        (vdis[3], Some(255), "no free position 255"),
        (vdis[1], None, "twice"),
        (VdiId::random(), None, "no such VDI"),
    ] {
        let refused = store.create_vbd(new(vdi, position)).await.unwrap_err().to_string();
        assert!(refused.contains(expected), "{refused}");
    }
    store.delete_vbd(first_id).await.unwrap();
    assert!(matches!(store.delete_vbd(first_id).await, Err(LocalError::NoSuchVbd(_))));
    assert!(vdi(&store, vdis[2]).await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_vm_of_a_disk_that_is_deleted_is_told_of() {
    let (_folder, store) = tokio::task::block_in_place(store);
    let [disk] = disks(&store).await;
    let id = made(&store, &[disk]).await;
    let vbd = parts(&store, id).await.unwrap().vbds[0].id;
    let mut changes = store.changes();
    store.delete_disk(disk).await.unwrap();
    let told = told(&mut changes);
    assert!(told.contains(&ObjectChange::Vm(id)) && told.contains(&ObjectChange::Vbd(vbd)), "{told:?}");
    assert_eq!(parts(&store, id).await.unwrap().vbds, []);
}
