//! Archives by GNU tar, in each of its formats.

use std::path::Path;
use std::process::Command;

use super::super::{Document, Rule};
use super::archive::{Archive, Entry, document, small};
use super::streams::read;

/// The archive that `tar` makes of some members.
fn tar(directory: &Path, members: &[Entry], options: &[&str]) -> Vec<u8> {
    for member in members {
        let path = directory.join(&member.name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, &member.content).unwrap();
    }
    let output = Command::new("tar")
        .current_dir(directory)
        .args(["--create", "--file=-", "--numeric-owner", "--mtime=@0"])
        .args(options)
        .args(members.iter().map(|member| &member.name))
        .output()
        .expect("these tests need tar");
    assert!(output.status.success(), "tar {options:?}: {}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

#[test]
fn archives_by_gnu_tar_are_read_in_each_of_its_formats() {
    let directory = tempfile::tempdir().unwrap();
    let archive = small();
    let sound = read(&archive.bytes(), usize::MAX).unwrap();
    let pax = ["--format=pax", "--pax-option=delete=atime,delete=ctime"];
    for options in [&["--format=v7"][..], &["--format=ustar"], &["--format=oldgnu"], &["--format=gnu"], &pax]
    {
        let found = read(&tar(directory.path(), &archive.members, options), 10_240).unwrap();
        assert_eq!((&found.0, &found.1), (&sound.0, &sound.1), "{options:?}");
        assert!(found.2.end_marker);
    }
}

#[test]
fn names_that_are_too_long_for_a_header_are_read_in_the_formats_that_have_them() {
    let directory = tempfile::tempdir().unwrap();
    let pax = ["--format=pax", "--pax-option=delete=atime,delete=ctime"];
    let name = |len: usize| format!("OpaqueRef:{}", "é".repeat(len / 2));
    let read_by = |id: &str, options: &[&str]| {
        let archive = Archive::of(&document(&[(id, 4096)])).xxh(id, 0, [7; 4096]);
        read(&tar(directory.path(), &archive.members, options), 999).unwrap()
    };
    for (len, options) in [(110, &["--format=ustar"][..]), (230, &["--format=gnu"]), (230, &pax)] {
        let (_, disks, _): (Document, _, _) = read_by(&name(len), options);
        assert_eq!(disks, [(4096, vec![(0, vec![7; 4096])])], "{options:?}");
    }
}

#[test]
fn what_no_importer_takes_from_tar_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    // The times that pax adds need an extension header in front of the first member.
    let bytes = tar(directory.path(), &small().members, &["--format=pax", "--pax-option=a:=b"]);
    assert_eq!(read(&bytes, usize::MAX).unwrap_err().rule(), Rule::O1);
    let mut archive = small();
    archive.entry("ova.xml").name = "a/ova.xml".into();
    assert_eq!(read(&tar(directory.path(), &archive.members, &[]), 77).unwrap_err().rule(), Rule::O1);
}
