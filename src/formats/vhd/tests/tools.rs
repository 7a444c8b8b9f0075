//! Images by `qemu-img`, and `qemu-img` as the judge of ours. It must be installed (Debian: qemu-utils).

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use bytes::Bytes;

use super::super::{
    ALL_SECTORS, BLOCK_BYTES, DiskKind, MAX_VIRTUAL_SIZE, StreamDecoder, UNUSED_ENTRY, VhdIndex, VhdLayout,
    WriterGeometry, open,
};
use super::layouts::{layout, piece_bytes};
use super::sample::Disk;
use crate::formats::{ImageEvent, Piece};

/// The sizes that a VHD's geometry makes hard: exact ones, one sector more, and around its ceiling.
const CEILING: u64 = 65_535 * 16 * 255 * 512;
const SIZES: [u64; 6] =
    [64 << 20, (64 << 20) + 1536, CEILING - BLOCK_BYTES, CEILING, CEILING + BLOCK_BYTES, MAX_VIRTUAL_SIZE];

/// Runs `qemu-img` in a directory; what it printed.
fn qemu_img(directory: &Path, arguments: &[&str]) -> String {
    let output = Command::new("qemu-img").current_dir(directory).args(arguments).output();
    let output = output.expect("these tests need qemu-img (Debian package qemu-utils)");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "qemu-img {arguments:?}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
    text
}

/// The blocks that the test disks have: the first, the last, and some between.
fn blocks_of(size: u64) -> Vec<u32> {
    let count = size.div_ceil(BLOCK_BYTES) as u32;
    vec![0, 2, count / 2, count - 2, count - 1]
}

/// Writes a sparse raw disk with those blocks.
fn write_raw(path: &Path, size: u64) {
    let file = File::create(path).unwrap();
    file.set_len(size).unwrap();
    for block in blocks_of(size) {
        let offset = u64::from(block) * BLOCK_BYTES;
        let len = BLOCK_BYTES.min(size - offset);
        file.write_all_at(&piece_bytes(&Piece::Disk { offset, len }), offset).unwrap();
    }
}

fn write_layout(path: &Path, layout: &VhdLayout) {
    let file = File::create(path).unwrap();
    file.set_len(layout.len()).unwrap();
    let mut at = 0;
    while at < layout.len() {
        let piece = layout.piece_at(at, u64::MAX);
        if !matches!(piece, Piece::Zeros(_)) {
            file.write_all_at(&piece_bytes(&piece), at).unwrap();
        }
        at += piece.len();
    }
}

/// Reads a file as a stream.
fn decode_file(path: &Path) -> Disk {
    let file = File::open(path).unwrap();
    let len = file.metadata().unwrap().len();
    let mut decoder = StreamDecoder::new(Some(len));
    let mut disk = Disk::default();
    let mut at = 0;
    while at < len {
        let mut chunk = vec![0; (len - at).min(1 << 20) as usize];
        file.read_exact_at(&mut chunk, at).unwrap();
        at += chunk.len() as u64;
        decoder.push(Bytes::from(chunk));
        while let Some(event) = decoder.next_event().unwrap() {
            if let ImageEvent::Data { offset, data } = event {
                disk.add(offset, &data);
            }
        }
    }
    disk.size = decoder.finish().unwrap().virtual_size;
    disk
}

fn open_file(path: &Path) -> VhdIndex {
    let file = File::open(path).unwrap();
    let index = open(file.metadata().unwrap().len(), |offset, buffer| {
        file.read_exact_at(buffer, offset).unwrap();
        Ok::<_, super::super::VhdError>(())
    });
    let index = index.unwrap();
    assert_eq!(index.warnings, []);
    index
}

/// Checks that a disk holds what `write_raw` wrote, and zeroes.
fn check_disk(disk: &Disk, size: u64) {
    let mut blocks = blocks_of(size);
    blocks.dedup();
    let mut checked = 0;
    for (&start, run) in &disk.runs {
        for (nth, sector) in run.chunks(512).enumerate() {
            let at = start + nth as u64 * 512;
            let written = at < size && blocks.contains(&((at / BLOCK_BYTES) as u32));
            let wanted = if written { super::layouts::guest_byte(at) } else { 0 };
            assert!(sector.iter().all(|&byte| byte == wanted), "byte {at}");
            checked += if written { sector.len() as u64 } else { 0 };
        }
    }
    let wanted: u64 = blocks.iter().map(|&b| BLOCK_BYTES.min(size - u64::from(b) * BLOCK_BYTES)).sum();
    assert_eq!(checked, wanted, "some of the data is missing");
}

/// Dynamic images, with the size rounded up to whole cylinders and with `force_size`.
#[test]
fn images_by_qemu_img_are_read_bit_for_bit() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    for (size, options, kind) in SIZES
        .iter()
        .flat_map(|&size| {
            [(size, "force_size=on", DiskKind::Dynamic), (size, "subformat=dynamic", DiskKind::Dynamic)]
        })
        .chain([(SIZES[0], "subformat=fixed", DiskKind::Fixed)])
        .chain([(SIZES[1], "subformat=fixed,force_size=on", DiskKind::Fixed)])
        // Without force_size the size would be rounded up; so does qemu-img above the ceiling of 2040 GiB.
        .filter(|&(size, options, _)| size != MAX_VIRTUAL_SIZE || options == "force_size=on")
    {
        write_raw(&at("disk.raw"), size);
        qemu_img(
            directory.path(),
            &["convert", "-f", "raw", "-O", "vpc", "-o", options, "disk.raw", "disk.vhd"],
        );
        let disk = decode_file(&at("disk.vhd"));
        let exact = options.contains("force_size") || size >= CEILING;
        assert!(if exact { disk.size == size } else { disk.size >= size }, "{size} {options}: {}", disk.size);
        check_disk(&disk, size);
        let index = open_file(&at("disk.vhd"));
        assert_eq!((index.kind, index.virtual_size), (kind, disk.size));
        if kind == DiskKind::Dynamic {
            let mut blocks = blocks_of(size);
            blocks.dedup();
            assert_eq!(index.blocks().map(|(block, _)| block as u32).collect::<Vec<_>>(), blocks);
        }
    }
}

#[test]
fn qemu_img_reads_our_layouts_bit_for_bit_at_any_size() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    for size in SIZES {
        write_raw(&at("disk.raw"), size);
        write_layout(&at("disk.vhd"), &layout(size, &blocks_of(size)));
        check_disk(&decode_file(&at("disk.vhd")), size);
        qemu_img(directory.path(), &["compare", "-f", "vpc", "-F", "raw", "disk.vhd", "disk.raw"]);
        let info = qemu_img(directory.path(), &["info", "--output=json", "-f", "vpc", "disk.vhd"]);
        assert!(info.contains(&format!("\"virtual-size\": {size}")), "{info}");
    }
}

#[test]
fn qemu_img_reads_files_whose_blocks_came_in_any_order() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    for (size, known) in [((64 << 20) + 1536, true), (CEILING + BLOCK_BYTES, false)] {
        write_raw(&at("disk.raw"), size);
        let mut order = blocks_of(size);
        order.rotate_left(2);
        let geometry = WriterGeometry::new(known.then_some(size)).unwrap();
        let file = File::create(at("disk.vhd")).unwrap();
        let mut bat = vec![UNUSED_ENTRY; size.div_ceil(BLOCK_BYTES) as usize];
        for (nth, &block) in (0u32..).zip(&order) {
            let (slot, offset) = (geometry.slot(nth), u64::from(block) * BLOCK_BYTES);
            let len = BLOCK_BYTES.min(size - offset);
            file.write_all_at(&ALL_SECTORS, slot.bitmap_offset).unwrap();
            file.write_all_at(&piece_bytes(&Piece::Disk { offset, len }), slot.data_offset).unwrap();
            bat[block as usize] = geometry.bat_entry(nth);
        }
        file.write_all_at(&geometry.encode_head(size, &bat, [1; 16], 0).unwrap(), 0).unwrap();
        let footer = geometry.encode_footer(size, [1; 16], 0).unwrap();
        file.write_all_at(&footer, geometry.footer_offset(order.len() as u32)).unwrap();
        open_file(&at("disk.vhd"));
        check_disk(&decode_file(&at("disk.vhd")), size);
        qemu_img(directory.path(), &["compare", "-f", "vpc", "-F", "raw", "disk.vhd", "disk.raw"]);
    }
}
