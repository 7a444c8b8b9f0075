use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::disk::error::DiskError;
use crate::disk::map::AllocationMap;
use crate::disk::open::{DiskKind, OpenDisk, open_disk};
use crate::disk::writer::{DiskWriter, VhdIdentity, Written};
use crate::ids::DiskFormat;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const IDENTITY: VhdIdentity = VhdIdentity { unique_id: [0x5A; 16], timestamp: 700_000_000 };

/// Runs qemu-img and gives what it printed.
fn qemu_img(arguments: &[&str]) -> String {
    let output = Command::new("qemu-img").args(arguments).output().expect("qemu-img is installed");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "qemu-img {arguments:?}: {error}");
    String::from_utf8(output.stdout).unwrap()
}

fn assert_size_by_qemu_img(path: &Path, size: u64) {
    let told = qemu_img(&["info", "-f", "vpc", "--output=json", text(path)]);
    let told: serde_json::Value = serde_json::from_str(&told).unwrap();
    assert_eq!(told["virtual-size"], size);
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Some data at the beginning, around a block's border, in the middle and in the last sector.
fn places(size: u64) -> Vec<(u64, Vec<u8>)> {
    let wanted = [(0, 700), (2 * MIB - 5120, 10 * KIB), (size / 2 / 512 * 512, 300 * KIB), (size - 512, 512)];
    let fill = |offset: u64, length: u64| (0..length).map(|at| ((offset + at) / 7) as u8 | 1).collect();
    wanted.map(|(offset, length)| (offset, fill(offset, length))).into()
}

fn make_raw(dir: &TempDir, size: u64) -> PathBuf {
    let path = dir.path().join("made.raw");
    let file = File::create(&path).unwrap();
    file.set_len(size).unwrap();
    places(size).iter().for_each(|(offset, data)| file.write_all_at(data, *offset).unwrap());
    path
}

/// Checks every byte that the map does not promise to be zero, and that all places are among them.
fn assert_content(disk: &OpenDisk, map: &AllocationMap, size: u64) {
    let places = places(size);
    assert_eq!((disk.virtual_size(), map.virtual_size()), (size, size));
    assert!(map.data_bytes() <= 16 * MIB, "{} bytes of data", map.data_bytes());
    let reader = disk.reader();
    for (offset, data) in &places {
        let (mut at, end) = (*offset, offset + data.len() as u64);
        while at < end {
            let extent = map.extent_at(at).unwrap();
            assert!(extent.data, "{at} is promised to be zero");
            at = extent.end();
        }
    }
    for extent in map.extents().filter(|extent| extent.data) {
        let mut found = vec![0xEE; extent.length as usize];
        reader.read_at(extent.start, &mut found).unwrap();
        let mut wanted = vec![0; extent.length as usize];
        for (offset, data) in &places {
            for (at, byte) in
                (*offset..).zip(data).filter(|(at, _)| (extent.start..extent.end()).contains(at))
            {
                wanted[(at - extent.start) as usize] = *byte;
            }
        }
        assert!(found == wanted, "{extent:?}");
    }
}

fn check_read(size: u64, options: &str, kind: DiskKind) {
    let dir = tempfile::tempdir().unwrap();
    let (raw, vhd) = (make_raw(&dir, size), dir.path().join("made.vhd"));
    qemu_img(&["convert", "-f", "raw", "-O", "vpc", "-o", options, text(&raw), text(&vhd)]);
    let disk = open_disk(&vhd, DiskFormat::Vhd).unwrap();
    assert_eq!((disk.kind(), disk.hidden(), disk.parents().len()), (kind, false, 0));
    // Without force_size qemu-img rounds the size up, so that it can be said in cylinders.
    let rounded = disk.virtual_size();
    assert!(rounded == size || !options.contains("force_size") && rounded > size);
    let map = disk.capture_map().unwrap();
    if rounded == size {
        assert_content(&disk, &map, size);
    } else {
        let mut tail = vec![0xEE; (rounded - size) as usize];
        disk.reader().read_at(size, &mut tail).unwrap();
        assert!(tail.iter().all(|byte| *byte == 0));
        let mut place = vec![0; 512];
        disk.reader().read_at(size - 512, &mut place).unwrap();
        assert_eq!(place, places(size)[3].1);
    }
}

#[test]
fn what_qemu_img_makes_reads_as_what_went_in() {
    for size in [64 * MIB, 64 * MIB + 1536] {
        check_read(size, "subformat=dynamic,force_size=on", DiskKind::DynamicVhd);
        check_read(size, "subformat=fixed,force_size=on", DiskKind::FixedVhd);
        check_read(size, "subformat=dynamic", DiskKind::DynamicVhd);
        check_read(size, "subformat=fixed", DiskKind::FixedVhd);
    }
}

/// Where geometry ends: 65535 cylinders of 16 heads of 255 sectors, about 127.5 GiB.
const GEOMETRY_END: u64 = 65535 * 16 * 255 * 512;

#[test]
fn huge_sparse_disks_of_qemu_img_read_right_and_cost_only_their_data() {
    for size in [GEOMETRY_END - 2 * MIB, GEOMETRY_END, GEOMETRY_END + 2 * MIB, 2040 * GIB] {
        check_read(size, "subformat=dynamic,force_size=on", DiskKind::DynamicVhd);
    }
}

fn write_vhd(path: &Path, size: u64, known: bool, backwards: bool) -> Written {
    let mut writer = DiskWriter::create(path, DiskFormat::Vhd, known.then_some(size), IDENTITY).unwrap();
    let mut places = places(size);
    if backwards {
        places.reverse();
    }
    for (offset, data) in places {
        // In uneven cuts, as a network makes them.
        let (mut at, mut rest) = (offset, data.as_slice());
        while !rest.is_empty() {
            let (part, after) = rest.split_at(rest.len().min(70_001));
            writer.write(at, part).unwrap();
            (at, rest) = (at + part.len() as u64, after);
        }
    }
    writer.finish(size).unwrap()
}

#[test]
fn what_the_writer_makes_is_read_by_qemu_img_and_by_ourselves() {
    for size in [64 * MIB, 64 * MIB + 1536] {
        for (known, backwards) in [(true, false), (false, false), (false, true)] {
            let dir = tempfile::tempdir().unwrap();
            let (raw, vhd) = (make_raw(&dir, size), dir.path().join("disk.vhd"));
            let written = write_vhd(&vhd, size, known, backwards);
            qemu_img(&["compare", "-f", "raw", "-F", "vpc", text(&raw), text(&vhd)]);
            assert_size_by_qemu_img(&vhd, size);
            let disk = open_disk(&vhd, DiskFormat::Vhd).unwrap();
            assert_eq!(disk.unique_id(), Some(IDENTITY.unique_id));
            assert_eq!(disk.kind(), DiskKind::DynamicVhd);
            assert_content(&disk, &written.map, size);
            assert_content(&disk, &disk.capture_map().unwrap(), size);
            assert_eq!(written.physical_bytes, disk.physical_bytes().unwrap());
            assert!(written.physical_bytes < MIB, "{}", written.physical_bytes);
        }
    }
}

#[test]
fn an_empty_and_a_tiny_disk_are_whole_vhds() {
    for size in [512, 2 * MIB, 2 * MIB + 512] {
        for known in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("disk.vhd");
            let writer = DiskWriter::create(&path, DiskFormat::Vhd, known.then_some(size), IDENTITY).unwrap();
            assert_eq!(writer.finish(size).unwrap().map, AllocationMap::new(size));
            let disk = open_disk(&path, DiskFormat::Vhd).unwrap();
            assert_eq!(disk.virtual_size(), size);
            assert_eq!(disk.capture_map().unwrap().data_bytes(), 0);
            assert_size_by_qemu_img(&path, size);
        }
    }
}

#[test]
fn huge_sparse_disks_are_written_with_little_more_than_their_data() {
    for size in [GEOMETRY_END - 2 * MIB, GEOMETRY_END, GEOMETRY_END + 2 * MIB, 2040 * GIB] {
        for known in [true, false] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("disk.vhd");
            let written = write_vhd(&path, size, known, known);
            assert!(written.physical_bytes < 6 * MIB, "{}", written.physical_bytes);
            let disk = open_disk(&path, DiskFormat::Vhd).unwrap();
            assert_content(&disk, &written.map, size);
            assert_content(&disk, &disk.capture_map().unwrap(), size);
            assert_size_by_qemu_img(&path, size);
        }
    }
}

#[test]
fn a_vhd_that_was_cut_after_opening_is_an_error_and_never_zeros() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("disk.vhd");
    let size = 64 * MIB;
    write_vhd(&path, size, true, false);
    let disk = open_disk(&path, DiskFormat::Vhd).unwrap();
    File::options().write(true).open(&path).unwrap().set_len(MIB).unwrap();
    let found = disk.reader().read_at(size - 512, &mut [0; 512]);
    assert!(matches!(found, Err(DiskError::ShortFile { .. })), "{found:?}");
    assert!(matches!(open_disk(&path, DiskFormat::Vhd), Err(DiskError::Vhd { .. })));
}

/// A file system of one mebibyte, gone when it is dropped.
struct TinyFileSystem(TempDir);

impl TinyFileSystem {
    /// `None` where mounting is not allowed.
    fn mount() -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let at = text(dir.path());
        let mounted = Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs", at]).output();
        mounted.is_ok_and(|output| output.status.success()).then(|| Self(dir))
    }
}

impl Drop for TinyFileSystem {
    fn drop(&mut self) {
        Command::new("umount").arg(self.0.path()).status().unwrap();
    }
}

#[test]
fn a_full_file_system_is_no_space_and_what_was_there_stays() {
    let Some(tiny) = TinyFileSystem::mount() else {
        eprintln!("not run: may not mount");
        return;
    };
    let before = tiny.0.path().join("before");
    std::fs::write(&before, b"still here").unwrap();
    for format in [DiskFormat::Raw, DiskFormat::Vhd] {
        let path = tiny.0.path().join(format!("disk.{format}"));
        let mut writer = DiskWriter::create(&path, format, Some(64 * MIB), IDENTITY).unwrap();
        let found = (0..64).try_for_each(|at| writer.write(at * MIB, &vec![1; 1 << 20]));
        let error = found.unwrap_err();
        assert!(matches!(error, DiskError::NoSpace { needed: MIB, .. }), "{error:?}");
        drop(writer);
        std::fs::remove_file(&path).unwrap();
    }
    assert_eq!(std::fs::read(&before).unwrap(), b"still here");
}
