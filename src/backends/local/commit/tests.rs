use super::*;
use crate::backends::local::test_support::Bench;
use crate::state::meta;

fn noted(bench: &Bench) -> Option<String> {
    bench.store().db().call_blocking(|db| meta::get(db, "note")).unwrap()
}

#[test]
fn several_disks_on_several_srs_become_visible_with_what_is_written_beside_them() {
    let bench = Bench::new();
    let other = bench.store().sr(bench.add_sr(None, None)).unwrap();
    let disks = vec![bench.new_disk(&bench.sr(), 1), bench.new_disk(&other, 2)];
    let ids: Vec<VdiId> = disks.iter().map(|disk| disk.vdi.id).collect();
    let mut changes = bench.store().changes();
    let told: Arc<str> = "told".into();
    let seen = ids.clone();
    let also = move |tx: &Transaction<'_>| {
        // The VDIs are there by now.
        let there = seen.iter().all(|id| disks::find_vdi(tx, *id).is_ok_and(|vdi| vdi.is_some()));
        meta::set(tx, "note", &there.to_string())
    };
    let changed = vec![ObjectChange::Label(Arc::clone(&told))];
    let committed = bench.wait(bench.store().commit_all(disks, also, changed, None)).unwrap();
    assert_eq!(committed.iter().map(|one| one.vdi).collect::<Vec<_>>(), ids);
    assert_eq!(noted(&bench).as_deref(), Some("true"));
    for ((one, byte), sr) in committed.iter().zip([1, 2]).zip([bench.sr().id, other.id]) {
        let row = bench.row(one.vdi).unwrap();
        assert_eq!((row.content, row.sr, row.vdi_type.as_str()), (one.content, sr, "system"));
        assert_eq!((row.name_label, row.tags), (format!("disk {byte}"), vec!["tag".to_owned()]));
        assert_eq!(bench.byte(one.vdi), Some(byte));
    }
    let mut heard = Vec::new();
    while let Ok(change) = changes.try_recv() {
        heard.push(change);
    }
    for expected in [
        ObjectChange::Label(told),
        ObjectChange::Vdi(ids[0]),
        ObjectChange::Vdi(ids[1]),
        ObjectChange::Sr(other.id),
    ] {
        assert!(heard.contains(&expected), "{expected:?} in {heard:?}");
    }
}

#[test]
fn a_disk_that_cannot_be_moved_takes_the_others_back() {
    let bench = Bench::new();
    let other = bench.store().sr(bench.add_sr(None, None)).unwrap();
    let there = bench.make(9);
    let disks = vec![bench.new_disk(&other, 1), bench.new_disk(&bench.sr(), 2), bench.new_disk(&other, 3)];
    std::fs::remove_file(disks[1].staging.path()).unwrap();
    let ids: Vec<VdiId> = disks.iter().map(|disk| disk.vdi.id).collect();
    let also = |tx: &Transaction<'_>| meta::set(tx, "note", "written");
    let error = bench.wait(bench.store().commit_all(disks, also, Vec::new(), None)).unwrap_err();
    assert!(matches!(error, LocalError::SrDir(_)), "{error}");
    assert_eq!(noted(&bench), None);
    assert!(ids.iter().all(|id| bench.row(*id).is_none()));
    bench.assert_holds(&[(there, 9)], "after the failure");
    assert_eq!(other.dir.own_files("work").unwrap(), Vec::<String>::new());
    assert!(ids.iter().all(|id| !other.dir.exists(&format!("{id}.raw"))));
    let id = other.id;
    let intents = bench.store().db().call_blocking(move |db| Ok(disks::intents_of_sr(db, id)?)).unwrap();
    assert_eq!(intents, []);
}

#[test]
fn what_is_written_beside_the_disks_and_fails_takes_them_back() {
    let bench = Bench::new();
    let disks = vec![bench.new_disk(&bench.sr(), 1), bench.new_disk(&bench.sr(), 2)];
    let also = |tx: &Transaction<'_>| {
        meta::set(tx, "note", "written")?;
        Err(StateError::Corrupt { what: "test", found: String::new() })
    };
    let error = bench.wait(bench.store().commit_all(disks, also, Vec::new(), None)).unwrap_err();
    assert!(matches!(error, LocalError::State(StateError::Corrupt { .. })), "{error}");
    assert_eq!(noted(&bench), None);
    bench.assert_holds(&[], "after the failure");
}

#[test]
fn no_disks_at_all_are_a_commit_too() {
    let bench = Bench::new();
    let also = |tx: &Transaction<'_>| meta::set(tx, "note", "written");
    assert_eq!(bench.wait(bench.store().commit_all(Vec::new(), also, Vec::new(), None)).unwrap(), []);
    assert_eq!(noted(&bench).as_deref(), Some("written"));
}

#[test]
fn a_new_disk_never_takes_the_file_of_one_that_exists() {
    let bench = Bench::new();
    let there = bench.make(1);
    let mut disks = vec![bench.new_disk(&bench.sr(), 2), bench.new_disk(&bench.sr(), 3)];
    disks[1].vdi.id = there;
    let error = bench.wait(bench.store().commit_all(disks, |_| Ok(()), Vec::new(), None)).unwrap_err();
    let LocalError::AlreadyKnown { what: "VDI", known, .. } = error else { panic!("{error}") };
    assert_eq!(known, bench.sr().dir.file(&format!("{there}.raw")));
    // What was staged goes by itself, on a thread of its own.
    for _ in 0..500 {
        if bench.files().len() == 1 {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    bench.assert_holds(&[(there, 1)], "after the refusal");
}
