//! Archives made by the `tar` crate and a document written by hand, compressed by the tools of everybody.

use std::path::{Path, PathBuf};

use serde_json::Value;

use super::{check, says};
use crate::support::MIB;
use crate::support::disk::{Disk, noise};
use crate::support::server::{gantry_run, scratch};
use crate::support::tools::{program, qemu, run};
use crate::support::vhd::Vhd;
use crate::support::xva::{Builder, document, folder};

/// Two disks, the first with a hole.
fn archive() -> Vec<u8> {
    let mut builder = Builder::new(&document("web \u{202e}1", &[8 * MIB, 3 * MIB + 512]));
    let disk = Disk::empty(8 * MIB).noise(0, 2 * MIB, 1).noise(7 * MIB, MIB, 2).whole();
    builder.disk(&folder(0), &disk).disk(&folder(1), &noise(3 * MIB as usize + 512, 3));
    builder.finish()
}

fn written(path: PathBuf, bytes: &[u8]) -> PathBuf {
    std::fs::write(&path, bytes).expect("it can be written");
    path
}

/// The file in gzip and in zstd.
fn compressed(file: &Path) -> [PathBuf; 2] {
    let name = |ending: &str| PathBuf::from(format!("{}.{ending}", file.display()));
    run(&program("gzip", "gzip"), ["-k1".as_ref(), file.as_os_str()]);
    run(&program("zstd", "zstd"), ["-qk1".as_ref(), file.as_os_str()]);
    [name("gz"), name("zst")]
}

fn json(file: &Path) -> Value {
    let output = gantry_run([Path::new("check"), Path::new("--json"), file]);
    serde_json::from_slice(&output.stdout).expect("it prints one JSON object")
}

#[test]
fn an_archive_is_sound_in_each_compression_and_says_what_is_in_it() {
    let scratch = scratch();
    let archive = archive();
    let plain = written(scratch.path().join("vm.xva"), &archive);
    let [gzip, zstd] = compressed(&plain);
    let words = [
        "XVA archive",
        "XCP-ng 8.3.0",
        "11111111-2222-4333-8444-555555555555",
        r#""web \u{202e}1""#,
        r#""disk 0" 00000000-0000-4000-9000-000000000000, Ref:3 in the archive"#,
        "3 of 8, 1048576 bytes (1.0 MiB) each",
        "4 of 4, 1048576 bytes (1.0 MiB) each",
        "xxhash",
    ];
    for file in [&plain, &gzip, &zstd] {
        says(&check(file), 0, &words);
        let report = json(file);
        assert_eq!(report["xva"]["tarLength"], archive.len());
        assert_eq!(report["xva"]["disks"][1]["usedBy"][0]["position"], "1");
        assert_eq!(report["xva"]["disks"][1]["dataBytes"], 3 * MIB + 512);
    }
    says(&check(&gzip), 0, &["in gzip, sound", "gzip, 1 member"]);
    says(&check(&zstd), 0, &["in zstd, sound", "zstd, 1 frame"]);
}

#[test]
fn a_flipped_byte_names_the_member_and_a_cut_says_where() {
    let scratch = scratch();
    let mut archive = archive();
    let sound = archive.clone();
    let block = archive.windows(14).position(|bytes| bytes == b"Ref:3/00000001").expect("the second block");
    archive[block + 512 + 12345] ^= 1;
    let checksum = block + 512 + MIB as usize;
    let plain = written(scratch.path().join("bad.xva"), &archive);
    let words = ["damaged", "Ref:3/00000001.xxhash", &format!("byte {checksum}"), "(D12)"];
    says(&check(&plain), 4, &words);
    for file in compressed(&plain) {
        says(&check(&file), 4, &words);
        let problem = &json(&file)["problems"][0];
        assert_eq!(problem["rule"], "D12");
        assert_eq!(
            (&problem["member"], &problem["offset"]),
            (&"Ref:3/00000001.xxhash".into(), &checksum.into())
        );
        let length = std::fs::metadata(&file).expect("it is there").len();
        assert!(
            problem["fileOffset"].as_u64().is_some_and(|offset| offset > 0 && offset <= length),
            "{problem}"
        );
    }
    let whole = written(scratch.path().join("vm.xva"), &sound);
    for file in compressed(&whole).into_iter().chain([whole]) {
        let bytes = std::fs::read(&file).expect("it is there");
        std::fs::write(&file, &bytes[..bytes.len() / 2]).expect("it can be written");
        says(&check(&file), 4, &["damaged", "ends at byte"]);
    }
}

#[test]
fn what_is_no_archive_and_what_is_behind_one_is_told() {
    let scratch = scratch();
    let text = written(scratch.path().join("text.xva"), &b"no archive at all ".repeat(1000));
    says(&check(&text), 4, &["no XVA"]);
    let mut archive = archive();
    let end = archive.len();
    archive.extend(noise(100 * MIB as usize, 9));
    let long = written(scratch.path().join("long.xva"), &archive);
    says(&check(&long), 4, &["damaged", &format!("byte {end}"), "(E1)"]);
    archive.truncate(end);
    archive.resize(end + 100 * MIB as usize, 0);
    let long = written(long, &archive);
    says(&check(&long), 4, &["damaged", "zeros", "(E1)"]);
    let none = written(scratch.path().join("none.xva"), &Builder::new(&document("alone", &[])).finish());
    says(&check(&none), 0, &["sound", "alone", "disks         none"]);
}

#[test]
fn compressed_disks_are_read_as_what_is_in_them() {
    let scratch = scratch();
    let disk = Disk::lively(64 * MIB + 1536, 1);
    let raw = scratch.path().join("disk.raw");
    disk.write_raw(&raw);
    for (file, codec) in compressed(&raw).iter().zip(["gzip", "zstd"]) {
        says(&check(file), 0, &[&format!("raw disk in {codec}, sound"), "67110400"]);
    }
    for (kind, options) in
        [("dynamic", "subformat=dynamic,force_size=on"), ("fixed", "subformat=fixed,force_size=on")]
    {
        let vhd = scratch.path().join(format!("{kind}.vhd"));
        qemu::raw_to_vhd(&raw, &vhd, options);
        for (file, codec) in compressed(&vhd).iter().zip(["gzip", "zstd"]) {
            says(&check(file), 0, &[&format!("{kind} VHD in {codec}, sound"), "67110400"]);
        }
    }
    let mut image = Vhd::dynamic(8 * MIB, &[(0, b"x")]).bytes();
    image[600] ^= 1;
    let bad = written(scratch.path().join("bad.vhd"), &image);
    for file in compressed(&bad) {
        says(&check(&file), 4, &["VHD", "damaged", "byte 548"]);
    }
}
