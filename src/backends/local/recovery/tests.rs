use super::*;
use crate::ids::{ContentId, SrId, VdiId};
use crate::state::disks::ReplacedContent;
use std::fs;

/// The moves of a replacement, stopped after each of them.
fn stopped_after(
    steps: usize,
    [old_file, aside, target]: [&str; 3],
) -> (tempfile::TempDir, SrDir, IntentRow) {
    let folder = tempfile::tempdir().unwrap();
    let dir = SrDir::take(folder.path(), false).unwrap();
    let intent = IntentRow {
        content: ContentId::random(),
        sr: SrId::random(),
        vdi: VdiId::random(),
        staged: ".gantry/work/new".into(),
        target: target.into(),
        old: Some(ReplacedContent {
            content: ContentId::random(),
            file: old_file.into(),
            aside: aside.into(),
        }),
        job: None,
        epoch: 1,
    };
    fs::write(dir.file(old_file), "old").unwrap();
    fs::write(dir.file(&intent.staged), "new").unwrap();
    if steps > 0 {
        dir.keep_as(old_file, aside).unwrap();
    }
    if steps > 1 {
        dir.rename(&intent.staged, target).unwrap();
    }
    (folder, dir, intent)
}

const PINNED: &str = ".gantry/pinned/old";

#[test]
fn a_replacement_that_stopped_at_any_step_leaves_the_old_content_alone() {
    for names in [
        ["a.raw", PINNED, "a.raw"],
        ["a.vhd", PINNED, "a.raw"],
        ["a.raw", "snapshot.raw", "a.raw"],
        ["a.vhd", "snapshot.vhd", "a.raw"],
    ] {
        for steps in 0..3 {
            let (_folder, dir, intent) = stopped_after(steps, names);
            undo_moves(&dir, &intent).unwrap();
            // Doing it again, after a crash in the middle of it, changes nothing.
            undo_moves(&dir, &intent).unwrap();
            let [old_file, aside, target] = names;
            assert_eq!(fs::read_to_string(dir.file(old_file)).unwrap(), "old", "step {steps}");
            assert_eq!(dir.own_files("work").unwrap(), Vec::<String>::new());
            assert!(!dir.exists(aside), "step {steps}");
            assert_eq!(dir.exists(target), old_file == target);
        }
    }
}

#[test]
fn a_replacement_is_undone_where_files_have_no_second_names() {
    for steps in 1..3 {
        let (_folder, dir, intent) = stopped_after(0, ["a.raw", "snapshot.raw", "a.raw"]);
        dir.rename("a.raw", "snapshot.raw").unwrap();
        if steps > 1 {
            dir.rename(&intent.staged, "a.raw").unwrap();
        }
        undo_moves(&dir, &intent).unwrap();
        undo_moves(&dir, &intent).unwrap();
        assert_eq!(fs::read_to_string(dir.file("a.raw")).unwrap(), "old", "step {steps}");
        assert!(!dir.exists("snapshot.raw"));
    }
}

#[test]
fn a_file_that_a_stranger_left_under_the_second_name_is_not_taken_for_the_old_content() {
    let (_folder, dir, intent) = stopped_after(0, ["a.raw", "snapshot.raw", "a.raw"]);
    fs::write(dir.file("snapshot.raw"), "a stranger's").unwrap();
    undo_moves(&dir, &intent).unwrap();
    assert_eq!(fs::read_to_string(dir.file("a.raw")).unwrap(), "old");
}

#[test]
fn a_new_disk_whose_commit_stopped_is_gone() {
    let (_folder, dir, mut intent) = stopped_after(0, ["other.raw", PINNED, "new.raw"]);
    intent.old = None;
    dir.rename(&intent.staged, &intent.target).unwrap();
    undo_moves(&dir, &intent).unwrap();
    assert!(!dir.exists("new.raw"));
    assert!(dir.exists("other.raw"));
}
