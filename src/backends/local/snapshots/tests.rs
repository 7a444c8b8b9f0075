use std::collections::BTreeMap;
use std::path::Path;

use super::*;
use crate::backends::local::NewSr;
use crate::backends::local::test_support::{Bench, SIZE};
use crate::ids::SrId;
use crate::state::disks::VdiRow;

/// Lets an SR go and attaches its directory again, as a fresh data directory would.
fn attach_anew(bench: &Bench, sr: SrId, path: &Path) -> BTreeMap<VdiId, VdiRow> {
    bench.store().settle();
    bench.wait(bench.store().forget_sr(sr)).unwrap();
    let new = NewSr {
        id: SrId::random(),
        name_label: "again".into(),
        name_description: None,
        path: Some(path.into()),
        content_format: None,
        read_only: false,
    };
    // The threads of the SR before may hold its lock for a moment.
    let attached = (0..500).find_map(|_| match bench.wait(bench.store().create_sr(new.clone())) {
        Err(LocalError::SrDir(_)) => {
            std::thread::sleep(std::time::Duration::from_millis(10));
            None
        }
        other => Some(other.unwrap()),
    });
    let attached = attached.expect("the lock is released");
    assert_eq!(attached.id, sr);
    assert!(attached.broken.is_empty(), "{:?}", attached.broken);
    let rows = bench.store().db().call_blocking(move |db| Ok(disks::vdis_of_sr(db, sr)?)).unwrap();
    rows.into_iter().map(|row| (row.id, row)).collect()
}

#[test]
fn a_snapshot_shares_the_content_and_takes_no_room() {
    let bench = Bench::new();
    let vdi = bench.make(1);
    let files = bench.files();
    let sr = bench.sr().id;
    let snapshot = bench.snapshot(vdi);
    let named = bench.wait(bench.store().snapshot_vdi(vdi, Some("named".into()))).unwrap();
    let (row, of) = (bench.row(snapshot).unwrap(), bench.row(vdi).unwrap());
    assert_eq!((row.content, row.snapshot_of, row.name_label), (of.content, Some(vdi), of.name_label));
    assert_eq!(bench.row(named).unwrap().name_label, "named");
    assert!(row.snapshot_ms.is_some() && row.content_changed_ms.is_none());
    assert_eq!(bench.files(), files);
    let bytes = bench.store().db().call_blocking(move |db| Ok(disks::virtual_bytes(db, sr)?)).unwrap();
    assert_eq!(bytes, SIZE, "a shared content counts once");
    bench.assert_holds(&[(vdi, 1), (snapshot, 1), (named, 1)], "after two snapshots");
}

#[test]
fn there_is_no_snapshot_of_a_snapshot_or_of_nothing() {
    let bench = Bench::new();
    let vdi = bench.make(1);
    let snapshot = bench.snapshot(vdi);
    let of = |id| bench.wait(bench.store().snapshot_vdi(id, None)).unwrap_err();
    assert!(matches!(of(snapshot), LocalError::IsSnapshot(id) if id == snapshot));
    assert!(matches!(of(VdiId::random()), LocalError::NoSuchVdi(_)));
}

#[test]
fn a_snapshot_is_taken_while_its_disk_is_being_written() {
    let bench = Bench::new();
    let vdi = bench.make(1);
    let claim = bench.store().claim(vdi).unwrap();
    let snapshot = bench.snapshot(vdi);
    drop(claim);
    bench.replace(vdi, 2).unwrap();
    bench.assert_holds(&[(vdi, 2), (snapshot, 1)], "after the replacement");
    assert!(bench.row(vdi).unwrap().content_changed_ms.is_some());
    assert_eq!(bench.row(snapshot).unwrap().content_changed_ms, None, "its bytes are what they were");
}

#[test]
fn contents_come_and_go_with_whoever_refers_to_them() {
    let bench = Bench::new();
    let vdi = bench.make(1);
    let (first, second) = (bench.snapshot(vdi), bench.snapshot(vdi));
    bench.replace(vdi, 2).unwrap();
    let third = bench.snapshot(vdi);
    bench.replace(vdi, 3).unwrap();
    let all = [(vdi, 3), (first, 1), (second, 1), (third, 2)];
    bench.assert_holds(&all, "after two replacements");
    bench.delete(first).unwrap();
    bench.assert_holds(&[(vdi, 3), (second, 1), (third, 2)], "after a snapshot has gone");
    bench.delete(vdi).unwrap();
    bench.assert_holds(&[(second, 1), (third, 2)], "after the disk has gone");
    bench.delete(second).unwrap();
    bench.delete(third).unwrap();
    bench.assert_holds(&[], "at the end");
}

#[test]
fn who_reads_shared_content_is_not_disturbed_when_its_file_moves() {
    let bench = Bench::new();
    let vdi = bench.make(1);
    let snapshot = bench.snapshot(vdi);
    let (_, _, pin) = bench.wait(bench.store().pin_vdi(vdi)).unwrap();
    bench.replace(vdi, 2).unwrap();
    let open = bench.wait(bench.store().open_content(&pin)).unwrap();
    bench.delete(snapshot).unwrap();
    let mut bytes = vec![0; 512];
    open.reader.read_at(0, &mut bytes).unwrap();
    assert_eq!(bytes, vec![1; 512]);
    drop(open);
    let again = bench.wait(bench.store().open_content(&pin)).unwrap();
    again.reader.read_at(0, &mut bytes).unwrap();
    assert_eq!(bytes, vec![1; 512]);
}

#[test]
fn a_missing_file_is_missed_by_all_that_share_it() {
    let mut bench = Bench::new();
    let vdi = bench.make(1);
    bench.snapshot(vdi);
    std::fs::remove_file(bench.sr().dir.file(&format!("{vdi}.raw"))).unwrap();
    bench.crash();
    assert!(bench.sr().is_missing(bench.content(vdi).id));
    let content = bench.content(vdi);
    assert_eq!(content.file, format!("{vdi}.raw"), "what is not there is not moved");
}

#[test]
fn snapshots_come_back_with_the_directory_that_they_lie_in() {
    let bench = Bench::new();
    let sr = bench.add_sr(Some("moved"), None);
    let path = std::fs::canonicalize(bench.folder()).unwrap().join("moved");
    let on = bench.store().sr(sr).unwrap();
    let disks = [1, 2, 3].map(|byte| bench.new_disk(&on, byte));
    let [shared, replaced, deleted] = disks.each_ref().map(|disk| disk.vdi.id);
    bench.wait(bench.store().commit_all(disks.into(), |_| Ok(()), Vec::new(), None)).unwrap();
    drop(on);
    let (a, b) = (bench.snapshot(shared), bench.snapshot(shared));
    let of_replaced = bench.wait(bench.store().snapshot_vdi(replaced, Some("before".into()))).unwrap();
    let of_deleted = bench.snapshot(deleted);
    bench.replace(replaced, 4).unwrap();
    bench.delete(deleted).unwrap();

    let rows = attach_anew(&bench, sr, &path);
    assert_eq!(rows.len(), 6);
    for (snapshot, of, byte) in
        [(a, shared, 1), (b, shared, 1), (of_replaced, replaced, 2), (of_deleted, deleted, 3)]
    {
        assert_eq!((rows[&snapshot].snapshot_of, bench.byte(snapshot)), (Some(of), Some(byte)));
        assert!(rows[&snapshot].snapshot_ms.is_some());
    }
    assert_eq!(rows[&of_replaced].name_label, "before");
    assert_eq!((rows[&a].content, rows[&b].content), (rows[&shared].content, rows[&shared].content));
    assert_eq!(bench.byte(replaced), Some(4));
    let contents = bench.store().db().call_blocking(move |db| Ok(disks::contents_of_sr(db, sr)?)).unwrap();
    assert_eq!(contents.len(), 4);

    // And once more, with the shared file under the name of a snapshot.
    bench.delete(shared).unwrap();
    let rows = attach_anew(&bench, sr, &path);
    assert_eq!(rows.len(), 5);
    assert_eq!(rows[&a].content, rows[&b].content);
    assert_eq!((bench.byte(a), bench.byte(b)), (Some(1), Some(1)));
}

#[test]
fn a_file_of_its_own_name_is_a_snapshots_own_whatever_the_names_say() {
    let bench = Bench::new();
    let sr = bench.add_sr(Some("moved"), None);
    let path = std::fs::canonicalize(bench.folder()).unwrap().join("moved");
    let on = bench.store().sr(sr).unwrap();
    let disk = bench.new_disk(&on, 1);
    let vdi = disk.vdi.id;
    bench.wait(bench.store().commit_all(vec![disk], |_| Ok(()), Vec::new(), None)).unwrap();
    drop(on);
    let snapshot = bench.snapshot(vdi);
    // Names are written some time after the fact: here a crash has come between.
    std::fs::write(path.join(format!("{snapshot}.raw")), vec![7; SIZE as usize]).unwrap();
    let rows = attach_anew(&bench, sr, &path);
    assert_ne!(rows[&vdi].content, rows[&snapshot].content);
    assert_eq!((bench.byte(vdi), bench.byte(snapshot)), (Some(1), Some(7)));
    assert_eq!(rows[&snapshot].snapshot_of, Some(vdi));
}

#[test]
fn the_parent_of_a_chain_keeps_its_name_for_those_that_build_on_it() {
    let bench = Bench::new();
    let vdi = bench.make(1);
    let snapshot = bench.snapshot(vdi);
    let child = bench.make(2);
    let (parent, child) = (bench.content(vdi).id, bench.content(child).id);
    let db = bench.store().db();
    db.transaction_blocking(move |tx| Ok(disks::set_parent(tx, child, parent)?)).unwrap();
    for refused in [bench.delete(vdi), bench.replace(vdi, 3).map(drop)] {
        assert!(matches!(refused, Err(LocalError::VdiHasChildren { .. })), "{refused:?}");
    }
    bench.delete(snapshot).unwrap();
    assert_eq!(bench.content(vdi).file, format!("{vdi}.raw"));
}
