//! What is odd and legal in a VHD is accepted, and read as it is meant.

use crate::support::MIB;
use crate::support::disk::noise;
use crate::support::server::Server;
use crate::support::vhd::{BLOCK, Block, Vhd, edit_footers, edit_header, fixed, put32};

const SIZE: u64 = 9 * MIB + 512;

/// Two blocks of noise in a disk whose last block is not whole.
fn plain() -> Vhd {
    Vhd::dynamic(SIZE, &[(1, &noise(BLOCK as usize, 1)), (4, &noise(MIB as usize + 512, 2))])
}

fn content() -> Vec<u8> {
    let mut disk = vec![0; SIZE as usize];
    disk[BLOCK as usize..2 * BLOCK as usize].copy_from_slice(&noise(BLOCK as usize, 1));
    disk[4 * BLOCK as usize..].copy_from_slice(&noise(MIB as usize + 512, 2));
    disk
}

#[track_caller]
fn reads_as(server: &Server, what: &str, image: &[u8], disk: &[u8]) {
    let vdi = server.import("", image);
    assert!(server.export_bytes(&vdi, "raw") == disk, "{what}: with a length, the disk differs");
    let response = server.request("POST", &server.import_target("")).send_chunked(image, 77_777);
    let vdi = response.expect(201).json()["id"].as_str().expect("an id").to_owned();
    assert!(server.export_bytes(&vdi, "raw") == disk, "{what}: in chunks, the disk differs");
}

#[test]
fn what_is_odd_and_legal_in_a_vhd_is_accepted() {
    let server = Server::start();
    let odd = |what: &str, change: &dyn Fn(&mut Vhd)| {
        let mut vhd = plain();
        change(&mut vhd);
        reads_as(&server, what, &vhd.bytes(), &content());
    };
    odd("nothing odd", &|_| {});
    odd("blocks not in the order of the disk", &|vhd| vhd.blocks.reverse());
    odd("gaps before blocks, as tapdisk leaves them", &|vhd| vhd.gap = 7 * 512);
    odd("a table larger than needed", &|vhd| vhd.entries = 1000);
    odd("the layout of xapi: a sector of zeros before the table", &|vhd| vhd.table_offset = 2048);
    odd("a batmap", &|vhd| {
        vhd.creator = *b"tap\0";
        vhd.batmap = true;
    });
    odd("hidden and in a saved state", &|vhd| (vhd.hidden, vhd.saved) = (true, true));
    odd("a timestamp of 0", &|vhd| vhd.timestamp = 0);
    odd("a timestamp in Unix time", &|vhd| vhd.timestamp = 0xFFFF_FFF0);
    odd("an unknown creator", &|vhd| vhd.creator = *b"zzzz");
    odd("the creator of Xen Orchestra", &|vhd| vhd.creator = *b"xo  ");
    odd("a disk that was grown", &|vhd| vhd.original_size = MIB);
    odd("a nonsensical geometry", &|vhd| vhd.geometry = [0xFF; 4]);
    odd("no geometry", &|vhd| vhd.geometry = [0; 4]);
}

#[test]
fn a_disk_without_any_block_is_zeros() {
    let server = Server::start();
    reads_as(&server, "no block", &Vhd::dynamic(SIZE, &[]).bytes(), &vec![0; SIZE as usize]);
}

#[test]
fn the_temporary_bit_and_another_host_system_are_accepted() {
    let server = Server::start();
    let mut image = plain().bytes();
    edit_footers(&mut image, |footer| {
        put32(footer, 8, 3);
        footer[36..40].copy_from_slice(b"Mac ");
    });
    reads_as(&server, "temporary, made on a Mac", &image, &content());
}

#[test]
fn blocks_of_512_kib_are_read() {
    let server = Server::start();
    const SMALL: usize = 512 * 1024;
    // Two blocks of a disk of four, made by hand: the builder knows only blocks of 2 MiB.
    let (size, data) = (4 * SMALL, noise(2 * SMALL, 5));
    let mut image = Vhd::dynamic(size as u64, &[]).bytes();
    image.truncate(1536);
    edit_header(&mut image, |header| {
        put32(header, 28, 4);
        put32(header, 32, SMALL as u32);
    });
    let mut table = vec![0xFF; 512];
    put32(&mut table, 0, 4);
    put32(&mut table, 12, 4 + 1 + (SMALL / 512) as u32);
    image.extend(table);
    for block in data.chunks(SMALL) {
        let mut bitmap = vec![0; 512];
        bitmap[..SMALL / 512 / 8].fill(0xFF);
        image.extend(bitmap);
        image.extend(block);
    }
    image.extend(Vhd::dynamic(size as u64, &[]).footer());
    let disk = [&data[..SMALL], &vec![0; 2 * SMALL], &data[SMALL..]].concat();
    reads_as(&server, "512 KiB blocks", &image, &disk);
}

#[test]
fn a_sector_whose_bit_is_clear_reads_as_zeros_whatever_lies_there() {
    let server = Server::start();
    let mut vhd = Vhd::dynamic(4 * MIB, &[]);
    let data = noise(BLOCK as usize, 3);
    let present = [0..1, 7..9, 100..1000, 4095..4096];
    vhd.blocks = vec![(1, Block::sectors(&data, &present))];
    let mut disk = vec![0; 4 * MIB as usize];
    for range in present {
        let bytes = range.start * 512..range.end * 512;
        disk[BLOCK as usize + bytes.start..BLOCK as usize + bytes.end].copy_from_slice(&data[bytes]);
    }
    reads_as(&server, "clear bits", &vhd.bytes(), &disk);
}

#[test]
fn a_fixed_vhd_is_recognised_by_its_last_sector_with_a_length_and_in_chunks() {
    let server = Server::start();
    for size in [512, 4096, 3 * MIB as usize + 512] {
        let disk = noise(size, size as u64);
        reads_as(&server, "a fixed disk", &fixed(&disk), &disk);
    }
}

#[test]
fn with_raw_the_bytes_are_the_disk_even_when_they_are_a_vhd() {
    let server = Server::start();
    let image = plain().bytes();
    let vdi = server.import("?raw", image.clone());
    assert!(server.export_bytes(&vdi, "raw") == image);
}

#[test]
fn what_these_tests_build_is_a_vhd_to_qemu_and_7_zip_too() {
    use crate::support::tools::{qemu, seven_zip_read};
    let folder = crate::support::server::scratch();
    let (file, raw) = (folder.path().join("built.vhd"), folder.path().join("read.raw"));
    for batmap in [false, true] {
        let mut vhd = plain();
        vhd.batmap = batmap;
        vhd.creator = if batmap { *b"tap\0" } else { *b"win " };
        std::fs::write(&file, vhd.bytes()).expect("it can be written");
        qemu::vhd_to_raw(&file, &raw);
        assert!(std::fs::read(&raw).expect("it is there") == content());
        assert!(seven_zip_read(&file) == content());
    }
    std::fs::write(&file, fixed(&content())).expect("it can be written");
    assert!(seven_zip_read(&file) == content());
}
