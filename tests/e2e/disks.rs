//! Disks made by `qemu-img` go in and come out bit for bit, and other people's readers read what comes out.

use crate::support::disk::{Disk, extents, occupied};
use crate::support::server::Server;
use crate::support::tools::{libvhdi_read, qemu, seven_zip_read, seven_zip_size};
use crate::support::{GIB, MIB, VHD_MAX};

/// 127.5 GiB, beside which a VHD's geometry reaches its maximum.
const CEILING: u64 = 127 * GIB + 512 * MIB;
const BLOCK: u64 = 2 * MIB;

/// Has qemu make a VHD of the disk, imports it, exports it, and compares both ways.
fn goes_in_and_comes_out(disk: &Disk, options: &str) {
    let server = Server::start();
    let (raw, made) = (server.path("made.raw"), server.path("made.vhd"));
    disk.write_raw(&raw);
    qemu::raw_to_vhd(&raw, &made, options);
    // Without force_size qemu rounds the size up to whole cylinders.
    let size = qemu::virtual_size(&made);
    let disk = disk.clone().resized(size);

    let vdi = server.import_file("?name_label=round+trip", &made);
    let object = server.json(&format!("/rest/v0/vdis/{vdi}"));
    assert_eq!(object["size"], size, "{object}");
    assert_eq!(object["name_label"], "round trip");

    let exported = server.path("exported.vhd");
    server.export(&vdi, "vhd", &exported);
    assert_eq!(qemu::virtual_size(&exported), size);
    qemu::same("vpc", &exported, "vpc", &made);
    comes_out_raw(&server, &vdi, &disk);

    // What came out goes in again.
    let again = server.import_file("", &exported);
    comes_out_raw(&server, &again, &disk);
}

/// Reads the raw export: the whole of a small one; of a large one its length, its data and the edges of it.
fn comes_out_raw(server: &Server, vdi: &str, disk: &Disk) {
    if disk.size <= 256 * MIB {
        let raw = server.path("exported.raw");
        server.export(vdi, "raw", &raw);
        return disk.assert_is(&raw);
    }
    let head = server.request("HEAD", &format!("/rest/v0/vdis/{vdi}.raw")).send().expect(200);
    assert_eq!(head.head.length(), disk.size);
    for (offset, length) in disk.data() {
        let from = offset.saturating_sub(65_536);
        let length = (offset + length + 65_536).min(disk.size) - from;
        let got = server.slice(vdi, "raw", from, length);
        assert!(got == disk.bytes(from, length), "the disk differs between {from} and {}", from + length);
    }
}

#[test]
fn a_dynamic_disk_of_64_mib_goes_in_and_comes_out_bit_for_bit() {
    goes_in_and_comes_out(&Disk::lively(64 * MIB, 1), "subformat=dynamic");
}

#[test]
fn a_fixed_disk_goes_in_and_comes_out_bit_for_bit() {
    goes_in_and_comes_out(&Disk::lively(64 * MIB, 2), "subformat=fixed");
}

#[test]
fn a_fixed_disk_with_force_size_goes_in_and_comes_out_bit_for_bit() {
    goes_in_and_comes_out(&Disk::lively(64 * MIB + 1536, 3), "subformat=fixed,force_size=on");
}

#[test]
fn a_dynamic_disk_with_force_size_goes_in_and_comes_out_bit_for_bit() {
    goes_in_and_comes_out(&Disk::lively(64 * MIB, 4), "subformat=dynamic,force_size=on");
}

#[test]
fn a_disk_of_64_mib_and_1536_bytes_goes_in_and_comes_out_bit_for_bit() {
    goes_in_and_comes_out(&Disk::lively(64 * MIB + 1536, 5), "subformat=dynamic,force_size=on");
    goes_in_and_comes_out(&Disk::lively(64 * MIB + 1536, 6), "subformat=dynamic");
}

#[test]
fn a_disk_one_block_below_the_geometrys_ceiling_goes_in_and_comes_out_bit_for_bit() {
    goes_in_and_comes_out(&Disk::lively(CEILING - BLOCK, 7), "subformat=dynamic,force_size=on");
}

#[test]
fn a_disk_of_127_gib_and_a_half_goes_in_and_comes_out_bit_for_bit() {
    goes_in_and_comes_out(&Disk::lively(CEILING, 8), "subformat=dynamic");
}

#[test]
fn a_disk_one_block_above_the_geometrys_ceiling_goes_in_and_comes_out_bit_for_bit() {
    goes_in_and_comes_out(&Disk::lively(CEILING + BLOCK, 9), "subformat=dynamic");
}

#[test]
fn a_sparse_disk_of_2040_gib_goes_in_and_comes_out_bit_for_bit() {
    goes_in_and_comes_out(&Disk::lively(VHD_MAX, 10), "subformat=dynamic");
}

#[test]
fn libvhdi_and_7_zip_and_qemu_read_an_exported_vhd_to_the_same_content() {
    let server = Server::start();
    // Sizes that are whole cylinders, whole blocks, neither, and less than a block.
    for (number, size) in
        [64 * MIB, 64 * MIB + 1536, 67_125_248, 40 * MIB + 512, 31 * MIB].into_iter().enumerate()
    {
        let disk = Disk::lively(size, 20 + number as u64);
        let vdi = server.import("?raw", disk.whole());
        let vhd = server.path("read.vhd");
        server.export(&vdi, "vhd", &vhd);
        let whole = disk.whole();
        let (told, bytes) = libvhdi_read(&vhd, 0, size);
        assert!(told == size && bytes == whole, "libvhdi, {size} bytes");
        assert!(seven_zip_read(&vhd) == whole, "7-Zip, {size} bytes");
        let read = server.path("read.raw");
        qemu::vhd_to_raw(&vhd, &read);
        disk.assert_is(&read);
    }
}

#[test]
fn a_disk_smaller_than_a_block_is_read_by_all_three_readers() {
    let server = Server::start();
    for size in [512, 4096, MIB + 512] {
        let disk = Disk::empty(size).noise(0, size, size);
        let vdi = server.import("?raw", disk.whole());
        let vhd = server.path("small.vhd");
        server.export(&vdi, "vhd", &vhd);
        let whole = disk.whole();
        let (told, bytes) = libvhdi_read(&vhd, 0, size);
        assert!(told == size && bytes == whole, "libvhdi, {size} bytes");
        assert!(seven_zip_read(&vhd) == whole, "7-Zip, {size} bytes");
        assert_eq!(qemu::virtual_size(&vhd), size);
        assert_eq!(server.export_bytes(&vdi, "raw"), disk.whole());
    }
}

#[test]
fn an_exported_vhd_of_2040_gib_is_read_by_libvhdi_and_7_zip() {
    let server = Server::start();
    let disk = Disk::lively(VHD_MAX, 30);
    let (raw, made, exported) =
        (server.path("huge.raw"), server.path("huge.vhd"), server.path("exported.vhd"));
    disk.write_raw(&raw);
    qemu::raw_to_vhd(&raw, &made, "subformat=dynamic");
    let vdi = server.import_file("", &made);
    server.export(&vdi, "vhd", &exported);
    assert_eq!(seven_zip_size(&exported), VHD_MAX);
    for (offset, length) in disk.data() {
        let (told, bytes) = libvhdi_read(&exported, offset, length);
        assert!(told == VHD_MAX && bytes == disk.bytes(offset, length), "at {offset}");
    }
}

#[test]
fn a_disk_above_2040_gib_is_exported_as_raw_and_refused_as_vhd_before_the_first_byte() {
    let server = Server::start();
    let size = VHD_MAX + 512;
    let disk = Disk::empty(size).noise(4096, 70_000, 1);
    let vdi = server.import_disk(&disk);
    assert_eq!(server.json(&format!("/rest/v0/vdis/{vdi}"))["size"], size);
    comes_out_raw(&server, &vdi, &disk);
    assert_eq!(server.slice(&vdi, "raw", size - 512, 512), vec![0; 512]);

    let refusal = server.get(&format!("/rest/v0/vdis/{vdi}.vhd")).refused(422..=422);
    assert_eq!(refusal.code, "vhd_too_large");
    assert!(refusal.text.contains(".raw"), "it should propose .raw: {}", refusal.text);
    let head = server.request("HEAD", &format!("/rest/v0/vdis/{vdi}.vhd")).send();
    assert_eq!(head.head.status, 422, "HEAD says what GET would say");
}

#[test]
fn a_vhd_above_2040_gib_is_refused_on_import_and_leaves_nothing() {
    use crate::support::vhd::{Vhd, edit_footers};
    let server = Server::start();
    let mut image = Vhd::dynamic(8 * MIB, &[(0, b"x")]).bytes();
    edit_footers(&mut image, |footer| {
        crate::support::vhd::put64(footer, 40, VHD_MAX + 512);
        crate::support::vhd::put64(footer, 48, VHD_MAX + 512);
    });
    let refusal = server.request("POST", &server.import_target("")).body(image).send().refused(422..=422);
    assert_eq!(refusal.code, "vhd_too_large");
    assert!(refusal.text.contains("raw"), "it should propose raw: {}", refusal.text);
    server.assert_empty("a VHD above 2040 GiB");
}

#[test]
fn a_vhd_of_100_gib_that_holds_64_mib_takes_under_200_mib_and_its_export_is_as_short() {
    let server = Server::start();
    let size = 100 * GIB;
    let mut disk = Disk::empty(size);
    for part in 0..8 {
        disk = disk.noise(part * 12 * GIB + part * BLOCK, 8 * MIB, part + 1);
    }
    let (raw, made) = (server.path("made.raw"), server.path("made.vhd"));
    disk.write_raw(&raw);
    qemu::raw_to_vhd(&raw, &made, "subformat=dynamic,force_size=on");
    let vdi = server.import_file("", &made);

    let taken: u64 = server.disk_files().iter().map(|file| occupied(file)).sum();
    assert!((64 * MIB..200 * MIB).contains(&taken), "{taken} bytes on disk");
    let usage = server.json(&format!("/rest/v0/vdis/{vdi}"))["usage"].as_u64().expect("a number");
    assert!((64 * MIB..200 * MIB).contains(&usage), "usage {usage}");

    let exported = server.path("exported.vhd");
    server.export(&vdi, "vhd", &exported);
    let length = std::fs::metadata(&exported).expect("it is there").len();
    // 32 blocks of data, a table of 51 200 entries, and little else.
    assert!(length < 32 * (BLOCK + 512) + 400_000, "{length} bytes of export");
    qemu::same("vpc", &exported, "raw", &raw);
    comes_out_raw(&server, &vdi, &disk);
}

#[test]
fn zeros_inside_an_import_become_holes() {
    let server = Server::start();
    let disk = Disk::empty(64 * MIB).noise(MIB, 4096, 1).noise(40 * MIB, 65_536, 2);
    let vdi = server.import("?raw", disk.whole());
    let file = server.sr_folder().join(format!("{vdi}.raw"));
    assert!(occupied(&file) < MIB, "{} bytes for 68 KiB of data", occupied(&file));
    let data: u64 =
        extents(&std::fs::File::open(&file).expect("it is there")).iter().map(|(from, to)| to - from).sum();
    assert!(data < MIB, "{data} bytes in extents");
    disk.assert_is(&file);
}

#[test]
fn a_stranger_can_read_what_lies_in_the_sr_directory() {
    let server = Server::start();
    let disk = Disk::lively(40 * MIB, 40);
    let vdi = server.import("?raw", disk.whole());
    let file = server.sr_folder().join(format!("{vdi}.raw"));
    let told = qemu::img(["info", "-f", "raw", "--output=json", &file.display().to_string()]);
    let told: serde_json::Value = serde_json::from_slice(&told).expect("JSON");
    assert_eq!(told["virtual-size"], disk.size);
    disk.assert_is(&file);
}

#[test]
fn extents_tell_which_parts_hold_data() {
    let server = Server::start();
    let size = 64 * MIB + 512;
    let disk = Disk::empty(size).noise(0, 4096, 1).noise(20 * MIB, MIB, 2).noise(size - 512, 512, 3);
    let vdi = server.import("?raw", disk.whole());
    let target = format!("/rest/v0/vdis/{vdi}/extents");
    let response = server.get(&target).expect(200);
    let etag = server.get(&format!("/rest/v0/vdis/{vdi}.raw")).expect(200).head.need("ETag").to_owned();
    assert_eq!(response.head.need("ETag"), etag, "of the content that they describe");
    let extents = response.json().as_array().expect("an array").clone();
    let mut at = 0;
    let mut holes = 0;
    for extent in &extents {
        let (start, length) =
            (extent["start"].as_u64().expect("bytes"), extent["length"].as_u64().expect("bytes"));
        assert_eq!(start, at, "no gap and no overlap");
        assert!(length > 0);
        if !extent["data"].as_bool().expect("a flag") {
            holes += length;
            assert!(disk.bytes(start, length).iter().all(|byte| *byte == 0), "data in a hole: {extent}");
        }
        at += length;
    }
    assert_eq!(at, size);
    assert!(holes > 60 * MIB, "{extents:?}");
    let lines = server.get(&format!("{target}?ndjson")).expect(200);
    assert_eq!(lines.head.need("Content-Type"), "application/x-ndjson");
    assert_eq!(lines.body.iter().filter(|byte| **byte == b'\n').count(), extents.len());
}
