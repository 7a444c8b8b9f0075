//! `gantry check`: what is in a file and what is wrong with it, with offsets; 0 sound, 4 damaged.

mod archives;

use std::path::Path;
use std::process::Output;

use crate::support::MIB;
use crate::support::disk::{Disk, noise};
use crate::support::server::{gantry_run, scratch};
use crate::support::tools::qemu;
use crate::support::vhd::{Locator, Parent, Vhd, edit_header, fixed, put32};

fn check(file: &Path) -> Output {
    gantry_run([Path::new("check"), file])
}

#[track_caller]
fn says(output: &Output, code: i32, words: &[&str]) {
    let told =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "{told}");
    for word in words {
        assert!(told.contains(word), "{word:?} in {told}");
    }
}

#[test]
fn disks_made_by_qemu_img_are_sound() {
    let folder = scratch();
    let raw = folder.path().join("disk.raw");
    let disk = Disk::lively(64 * MIB + 1536, 1);
    disk.write_raw(&raw);
    says(&check(&raw), 0, &["raw", "67110400"]);
    for (kind, options) in
        [("dynamic", "subformat=dynamic,force_size=on"), ("fixed", "subformat=fixed,force_size=on")]
    {
        let vhd = folder.path().join(format!("{kind}.vhd"));
        qemu::raw_to_vhd(&raw, &vhd, options);
        let output = check(&vhd);
        says(&output, 0, &[kind, "67110400"]);
        assert!(!output.stdout.is_empty(), "what is in it is told on stdout");
    }
}

#[test]
fn a_huge_sparse_disk_is_checked_without_reading_its_holes() {
    let folder = scratch();
    let raw = folder.path().join("disk.raw");
    Disk::lively(2040 << 30, 1).write_raw(&raw);
    let began = std::time::Instant::now();
    says(&check(&raw), 0, &[]);
    let vhd = folder.path().join("disk.vhd");
    qemu::raw_to_vhd(&raw, &vhd, "subformat=dynamic");
    says(&check(&vhd), 0, &["2190433320960"]);
    assert!(began.elapsed().as_secs() < 60, "{:?}", began.elapsed());
}

#[test]
fn damaged_disks_are_told_with_the_offset_of_the_damage() {
    let folder = scratch();
    let file = folder.path().join("disk.vhd");
    let sound = Vhd::dynamic(8 * MIB, &[(0, b"x"), (2, b"y")]).bytes();
    let last = sound.len() - 512;
    let mut damage: Vec<(Vec<u8>, String)> = Vec::new();
    let mut add = |offset: usize, edit: &dyn Fn(&mut Vec<u8>)| {
        let mut image = sound.clone();
        edit(&mut image);
        damage.push((image, offset.to_string()));
    };
    add(512 + 36, &|v| v[512 + 900] ^= 1);
    add(512, &|v| edit_header(v, |h| h[0] = 0));
    add(512 + 28, &|v| edit_header(v, |h| put32(h, 28, 1)));
    // Entry 2 of the table points into block 0.
    add(1536 + 8, &|v| put32(v, 1536 + 8, 5));
    for (image, offset) in damage {
        std::fs::write(&file, &image).expect("it can be written");
        says(&check(&file), 4, &[&offset]);
    }
    for image in
        [&sound[..last], &sound[..1_000_000], &sound[..2000], &[sound.as_slice(), &[0; 512]].concat()]
    {
        std::fs::write(&file, image).expect("it can be written");
        says(&check(&file), 4, &[]);
    }
    let mut short = fixed(&noise(65_536, 1));
    short.drain(..512);
    std::fs::write(&file, &short).expect("it can be written");
    says(&check(&file), 4, &[]);
    std::fs::write(&file, &sound).expect("it can be written");
    says(&check(&file), 0, &["dynamic", "8388608"]);
}

#[test]
fn a_damaged_last_footer_with_a_good_head_copy_is_told_and_the_disk_is_found() {
    // A crashed tapdisk leaves this: readable, but not as it should be.
    let folder = scratch();
    let file = folder.path().join("disk.vhd");
    let mut image = Vhd::dynamic(8 * MIB, &[(0, b"x")]).bytes();
    let last = image.len() - 512;
    image[last..].fill(0);
    std::fs::write(&file, &image).expect("it can be written");
    says(&check(&file), 4, &["footer", &last.to_string()]);
}

#[test]
fn a_child_is_checked_with_its_parents() {
    let folder = scratch();
    let base = Vhd::dynamic(8 * MIB, &[(0, b"base")]);
    let mut child = Vhd::dynamic(8 * MIB, &[(1, b"child")]);
    child.id = [7; 16];
    child.parent =
        Some(Parent { id: base.id, name: "base.vhd".into(), locators: vec![Locator::macx("base.vhd")] });
    let file = folder.path().join("child.vhd");
    std::fs::write(&file, child.bytes()).expect("it can be written");
    says(&check(&file), 4, &["base.vhd"]);
    std::fs::write(folder.path().join("base.vhd"), base.bytes()).expect("it can be written");
    says(&check(&file), 0, &["differencing"]);

    // Locators that are wrong, with everything else right.
    for edit in [
        (|h: &mut [u8]| h[576..580].copy_from_slice(b"Xxxx")) as fn(&mut [u8]),
        |h| put32(h, 580, 700),
        |h| put32(h, 584, 0),
        |h| put32(h, 584, 513),
        |h| crate::support::vhd::put64(h, 592, 1 << 40),
    ] {
        let mut image = child.bytes();
        edit_header(&mut image, edit);
        std::fs::write(&file, image).expect("it can be written");
        says(&check(&file), 4, &["locator"]);
    }
}

#[test]
fn a_raw_disk_of_an_odd_size_is_damaged() {
    let folder = scratch();
    let file = folder.path().join("disk.raw");
    std::fs::write(&file, noise(1000, 1)).expect("it can be written");
    says(&check(&file), 4, &["512"]);
}

#[test]
fn a_file_that_is_not_there_is_a_failure_and_no_file_a_wrong_usage() {
    let folder = scratch();
    let file = folder.path().join("nothing.vhd");
    says(&check(&file), 1, &["nothing.vhd"]);
    assert!(check(&file).stdout.is_empty());
    assert_eq!(gantry_run(["check"]).status.code(), Some(2));
}
