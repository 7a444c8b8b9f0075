//! What is left when a server stops after any step, with and without the database having heard of it.

use std::sync::atomic::Ordering;

use crate::backends::local::fuse::Moment;
use crate::backends::local::test_support::Bench;
use crate::backends::local::{LocalError, moves};
use crate::ids::{DiskFormat, VdiId};
use crate::state::{disks, now_ms};

type Disks = Vec<(VdiId, u8)>;
type Act = Box<dyn Fn(&Bench) -> Result<(), LocalError>>;

/// Something that is stopped, and what is there when it was not done and when it was.
struct Scenario {
    act: Act,
    before: Disks,
    after: Disks,
}

/// Plays a scenario anew for every step after which it may be stopped.
fn stop_at_every_step(prepare: impl Fn(&Bench) -> Scenario) {
    for with_db in [false, true] {
        for steps in usize::from(with_db).. {
            let mut bench = Bench::new();
            let scenario = prepare(&bench);
            let stopped = bench.stop_after(steps, with_db);
            let done = (scenario.act)(&bench).is_ok();
            bench.crash();
            let when = format!("{steps} steps, with the database {with_db}, done {done}");
            bench.assert_holds(if done { &scenario.after } else { &scenario.before }, &when);
            if !stopped.load(Ordering::Relaxed) {
                assert!(done, "{when}");
                break;
            }
            assert!(steps < 40, "it has no end");
        }
    }
}

/// A disk and a snapshot of it.
fn snapped(bench: &Bench) -> (VdiId, VdiId) {
    let vdi = bench.make(1);
    (vdi, bench.snapshot(vdi))
}

/// The same, on a file that bears the snapshot's name.
fn snapped_elsewhere(bench: &Bench) -> (VdiId, VdiId) {
    let (vdi, snapshot) = snapped(bench);
    let content = bench.content(vdi);
    moves::shift(bench.store().db(), &bench.sr().dir, content.id, &format!("{snapshot}.raw")).unwrap();
    assert_eq!(bench.content(vdi).file, format!("{snapshot}.raw"));
    (vdi, snapshot)
}

#[test]
fn a_replacement_without_a_snapshot() {
    stop_at_every_step(|bench| {
        let vdi = bench.make(1);
        let act = move |bench: &Bench| bench.replace(vdi, 2).map(drop);
        Scenario { act: Box::new(act), before: vec![(vdi, 1)], after: vec![(vdi, 2)] }
    });
}

#[test]
fn a_replacement_of_what_a_snapshot_shares() {
    stop_at_every_step(|bench| {
        let (vdi, snapshot) = snapped(bench);
        let act = move |bench: &Bench| bench.replace(vdi, 2).map(drop);
        let (before, after) = (vec![(vdi, 1), (snapshot, 1)], vec![(vdi, 2), (snapshot, 1)]);
        Scenario { act: Box::new(act), before, after }
    });
}

#[test]
fn a_replacement_of_what_lies_under_the_name_of_a_snapshot() {
    stop_at_every_step(|bench| {
        let (vdi, snapshot) = snapped_elsewhere(bench);
        let act = move |bench: &Bench| bench.replace(vdi, 2).map(drop);
        let (before, after) = (vec![(vdi, 1), (snapshot, 1)], vec![(vdi, 2), (snapshot, 1)]);
        Scenario { act: Box::new(act), before, after }
    });
}

#[test]
fn a_replacement_by_content_in_another_form() {
    for shared in [false, true] {
        stop_at_every_step(|bench| {
            let vdi = bench.make(1);
            // As if the SR had been one of VHDs when the disk was made.
            let content = bench.content(vdi);
            bench.sr().dir.rename(&content.file, &format!("{vdi}.vhd")).unwrap();
            let db = bench.store().db();
            db.transaction_blocking(move |tx| Ok(disks::set_file(tx, content.id, &format!("{vdi}.vhd"))?))
                .unwrap();
            let (mut before, mut after) = (vec![(vdi, 1)], vec![(vdi, 2)]);
            if shared {
                let snapshot = bench.snapshot(vdi);
                before.push((snapshot, 1));
                after.push((snapshot, 1));
            }
            let act = move |bench: &Bench| bench.replace(vdi, 2).map(drop);
            Scenario { act: Box::new(act), before, after }
        });
    }
}

#[test]
fn the_deletion_of_a_disk_that_nothing_shares() {
    stop_at_every_step(|bench| {
        let (vdi, other) = (bench.make(1), bench.make(2));
        let act = move |bench: &Bench| bench.delete(vdi);
        Scenario { act: Box::new(act), before: vec![(vdi, 1), (other, 2)], after: vec![(other, 2)] }
    });
}

#[test]
fn the_deletion_of_a_disk_that_a_snapshot_shares() {
    stop_at_every_step(|bench| {
        let (vdi, snapshot) = snapped(bench);
        let act = move |bench: &Bench| bench.delete(vdi);
        Scenario { act: Box::new(act), before: vec![(vdi, 1), (snapshot, 1)], after: vec![(snapshot, 1)] }
    });
}

#[test]
fn the_deletion_of_a_snapshot_under_whose_name_the_file_lies() {
    stop_at_every_step(|bench| {
        let (vdi, snapshot) = snapped_elsewhere(bench);
        let act = move |bench: &Bench| bench.delete(snapshot);
        Scenario { act: Box::new(act), before: vec![(vdi, 1), (snapshot, 1)], after: vec![(vdi, 1)] }
    });
}

#[test]
fn the_deletion_of_everything_that_shares_a_content() {
    stop_at_every_step(|bench| {
        let (vdi, first) = snapped(bench);
        let second = bench.snapshot(vdi);
        bench.delete(vdi).unwrap();
        let named = bench.content(first).file;
        let (one, other) =
            if named.starts_with(&first.to_string()) { (first, second) } else { (second, first) };
        let act = move |bench: &Bench| bench.delete(one);
        Scenario { act: Box::new(act), before: vec![(one, 1), (other, 1)], after: vec![(other, 1)] }
    });
}

#[test]
fn the_deletion_of_a_disk_that_is_read() {
    for with_db in [false, true] {
        for steps in usize::from(with_db).. {
            let mut bench = Bench::new();
            let vdi = bench.make(1);
            let (_, _, pin) = bench.wait(bench.store().pin_vdi(vdi)).unwrap();
            let stopped = bench.stop_after(steps, with_db);
            bench.delete(vdi).unwrap();
            if !stopped.load(Ordering::Relaxed) {
                let files = bench.files();
                assert!(files.keys().all(|file| file.starts_with(".gantry/pinned/")), "{files:?}");
            }
            drop(pin);
            bench.crash();
            bench.assert_holds(&[], &format!("{steps} steps, with the database {with_db}"));
            if !stopped.load(Ordering::Relaxed) {
                break;
            }
        }
    }
}

#[test]
fn several_new_disks_are_there_together_or_not_at_all() {
    stop_at_every_step(|bench| {
        let there = bench.make(1);
        let disks = [2, 3, 4].map(|byte| bench.new_disk(&bench.sr(), byte));
        let ids = disks.each_ref().map(|disk| disk.vdi.id);
        let disks = std::sync::Mutex::new(Some(Vec::from(disks)));
        let act = move |bench: &Bench| {
            let disks = disks.lock().unwrap().take().unwrap();
            bench.wait(bench.store().commit_all(disks, |_| Ok(()), Vec::new(), None)).map(drop)
        };
        let after = vec![(there, 1), (ids[0], 2), (ids[1], 3), (ids[2], 4)];
        Scenario { act: Box::new(act), before: vec![(there, 1)], after }
    });
}

/// A snapshot needs no turn, so it may come between any two steps of a replacement.
#[test]
fn a_snapshot_that_is_taken_between_two_steps_of_a_replacement_keeps_the_old_content() {
    for crash in [false, true] {
        for at in 1.. {
            let mut bench = Bench::new();
            let vdi = bench.make(1);
            let (row, db) = (bench.row(vdi).unwrap(), bench.store().db().clone());
            let (old, snapshot) = (row.content, row.snapshot("late".into(), now_ms()));
            let (id, mut steps, mut stopped) = (snapshot.id, 0, false);
            let (tell, told) = std::sync::mpsc::channel();
            bench.sr().dir.fuse().set(move |moment| {
                if moment == Moment::Before {
                    return !stopped;
                }
                steps += 1;
                if steps == at {
                    let snapshot = snapshot.clone();
                    let taken = db.transaction_blocking(move |tx| {
                        // When the replacement is through, there is nothing to be taken of the old content.
                        let current = disks::find_vdi(tx, vdi)?.map(|row| row.content);
                        if current == Some(old) {
                            disks::insert_vdi(tx, &snapshot)?;
                        }
                        Ok(current == Some(old))
                    });
                    tell.send(taken.unwrap()).unwrap();
                    stopped = crash;
                }
                true
            });
            let done = bench.replace(vdi, 2).is_ok();
            let Ok(taken) = told.try_recv() else { break };
            if crash {
                bench.crash();
            } else {
                assert!(done);
            }
            let mut expected = vec![(vdi, if done { 2 } else { 1 })];
            expected.extend(taken.then_some((id, 1)));
            let when = format!("after {at} steps, crash {crash}");
            bench.assert_holds(&expected, &when);
        }
    }
}

#[test]
fn a_disk_that_came_as_a_vhd_is_kept_by_its_snapshot_as_one() {
    let bench = Bench::new();
    let sr = bench.add_sr(None, Some(DiskFormat::Vhd));
    let sr = bench.store().sr(sr).unwrap();
    let disk = bench.new_disk(&sr, 1);
    let vdi = disk.vdi.id;
    bench.wait(bench.store().commit_all(vec![disk], |_| Ok(()), Vec::new(), None)).unwrap();
    let snapshot = bench.snapshot(vdi);
    bench.replace(vdi, 2).unwrap();
    assert_eq!(bench.content(snapshot).file, format!("{snapshot}.vhd"));
    assert_eq!((bench.byte(vdi), bench.byte(snapshot)), (Some(2), Some(1)));
}
