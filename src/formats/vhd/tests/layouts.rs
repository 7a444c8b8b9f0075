//! What is laid out is read again, and any part of it is the part of the whole.

use bytes::Bytes;
use proptest::prelude::*;

use super::super::{
    ALL_SECTORS, BLOCK_BYTES, BlockSet, DiskKind, MAX_VIRTUAL_SIZE, StreamDecoder, UNUSED_ENTRY, VhdLayout,
    WriterGeometry, open,
};
use super::sample::{Disk, decode, open_bytes, put, read_index};
use crate::formats::{ImageEvent, Piece};

/// A disk's byte at an offset: never zero inside of a block that is not a hole.
pub fn guest_byte(offset: u64) -> u8 {
    ((offset >> 21) as u8).wrapping_mul(31) ^ ((offset >> 9) as u8) | 1
}

/// The bytes for which a piece stands.
pub fn piece_bytes(piece: &Piece) -> Bytes {
    match piece {
        Piece::Bytes(bytes) => bytes.clone(),
        Piece::Disk { offset, len } => {
            let mut bytes = Vec::with_capacity(*len as usize);
            let mut at = *offset;
            while at < offset + len {
                let end = (at / 512 * 512 + 512).min(offset + len);
                bytes.resize((end - offset) as usize, guest_byte(at));
                at = end;
            }
            bytes.into()
        }
        Piece::Zeros(len) => vec![0; *len as usize].into(),
        Piece::Digest { .. } => unreachable!("only archives have digests"),
    }
}

/// The bytes of a layout from one place to another, taken in pieces of at most `limit`.
pub fn slice(layout: &VhdLayout, from: u64, to: u64, limit: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut at = from;
    while at < to {
        let piece = layout.piece_at(at, limit.min(to - at));
        assert!(!piece.is_empty() && piece.len() <= limit.min(to - at));
        assert!(!matches!(&piece, Piece::Bytes(bytes) if bytes.len() > 64 << 10));
        at += piece.len();
        bytes.extend_from_slice(&piece_bytes(&piece));
    }
    bytes
}

pub fn layout(virtual_size: u64, blocks: &[u32]) -> VhdLayout {
    let mut set = BlockSet::builder(virtual_size.div_ceil(BLOCK_BYTES) as u32);
    blocks.iter().for_each(|&block| set.insert(block));
    VhdLayout::new(virtual_size, set.finish(), [0x42; 16], 700_000_000).unwrap()
}

/// What a disk is when those blocks hold `guest_byte` and the rest is zero.
fn wanted(virtual_size: u64, blocks: &[u32]) -> Disk {
    let mut disk = Disk { size: virtual_size, ..Disk::default() };
    for &block in blocks {
        let offset = u64::from(block) * BLOCK_BYTES;
        let len = BLOCK_BYTES.min(virtual_size - offset);
        disk.add(offset, &piece_bytes(&Piece::Disk { offset, len }));
    }
    disk
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn a_layout_is_decoded_to_the_same_disk(sectors in 1u64..(12 << 12), picks in prop::collection::btree_set(0u32..12, 0..4)) {
        let virtual_size = sectors * 512;
        let blocks: Vec<u32> = picks.into_iter().filter(|&b| u64::from(b) * BLOCK_BYTES < virtual_size).collect();
        let layout = layout(virtual_size, &blocks);
        let bytes = slice(&layout, 0, layout.len(), u64::MAX);
        prop_assert_eq!(bytes.len() as u64, layout.len());
        let (disk, summary) = decode(&bytes, Some(layout.len()), &[65_536]).unwrap();
        prop_assert_eq!(&disk, &wanted(virtual_size, &blocks));
        prop_assert_eq!(summary.blocks, blocks.len() as u64);
        let index = open_bytes(&bytes).unwrap();
        prop_assert_eq!(&index.warnings, &[]);
        prop_assert_eq!(index.blocks().map(|(b, _)| b as u32).collect::<Vec<_>>(), blocks);
        prop_assert_eq!(&read_index(&index, &bytes), &disk);
        prop_assert_eq!((index.kind, index.unique_id), (DiskKind::Dynamic, [0x42; 16]));
    }

    #[test]
    fn any_slice_of_a_layout_is_the_slice_of_the_whole(ranges in prop::collection::vec((any::<prop::sample::Index>(), 0u64..9000, 1u64..5000), 40)) {
        // A BAT and a batmap of many pieces: 1.2 TiB, three blocks.
        let virtual_size = (600_000u64 * BLOCK_BYTES) - 512;
        let layout = layout(virtual_size, &[0, 70_000, 599_999]);
        let whole = slice(&layout, 0, layout.len(), u64::MAX);
        let front = whole.len() - 3 * (512 + 2_097_152) - 512;
        for (at, len, limit) in ranges {
            // Half of them in front of the blocks, where most of the arithmetic is.
            let from = if limit % 2 == 0 { at.index(front) } else { at.index(whole.len()) };
            let to = (from as u64 + len).min(layout.len());
            prop_assert_eq!(&slice(&layout, from as u64, to, limit)[..], &whole[from..to as usize]);
        }
    }
}

#[test]
fn every_byte_of_a_short_layout_can_be_asked_for_alone() {
    let layout = layout(3 * BLOCK_BYTES, &[]);
    let whole = slice(&layout, 0, layout.len(), u64::MAX);
    assert_eq!(whole.len(), 512 + 1024 + 512 + 512 + 512 + 512);
    assert_eq!(slice(&layout, 0, layout.len(), 1), whole);
    assert!(layout.piece_at(layout.len(), 10).is_empty() && layout.piece_at(u64::MAX, 10).is_empty());
    assert!(layout.piece_at(0, 0).is_empty());
}

#[test]
fn holes_past_the_disks_end_are_zeros_and_not_read() {
    let layout = layout(BLOCK_BYTES + 512, &[1]);
    let data = layout.len() - 512 - BLOCK_BYTES;
    assert_eq!(layout.piece_at(data, u64::MAX), Piece::Disk { offset: BLOCK_BYTES, len: 512 });
    assert_eq!(layout.piece_at(data + 512, u64::MAX), Piece::Zeros(BLOCK_BYTES - 512));
    assert_eq!(layout.piece_at(data + 600, 7), Piece::Zeros(7));
}

#[test]
fn the_layout_of_the_largest_disk_is_small_and_ends_inside_32_bits() {
    let mut all = BlockSet::builder(1_044_480);
    all.insert_range(0..1_044_480);
    let layout = VhdLayout::new(MAX_VIRTUAL_SIZE, all.finish(), [1; 16], 0).unwrap();
    let front = 1536 + 4_177_920 + 512 + 130_560;
    assert_eq!(layout.len(), front + 1_044_480 * 2_097_664 + 512);
    let last = front - 131_072 - 4;
    let entry = slice(&layout, last, last + 4, u64::MAX);
    assert_eq!(u32::from_be_bytes(entry.try_into().unwrap()), ((front + 1_044_479 * 2_097_664) / 512) as u32);
    let piece = layout.piece_at(layout.len() - 513, u64::MAX);
    assert_eq!(piece, Piece::Disk { offset: MAX_VIRTUAL_SIZE - 1, len: 1 });
}

/// Reads a layout's front for real and its blocks as events only, as far as they are asked for.
#[test]
fn the_largest_disk_goes_through_the_decoder_and_the_opener() {
    let blocks = [0, 1, 522_240, 1_044_479];
    let layout = layout(MAX_VIRTUAL_SIZE, &blocks);
    let mut decoder = StreamDecoder::new(Some(layout.len()));
    let mut disk = Disk::default();
    let mut at = 0;
    while at < layout.len() {
        let piece = layout.piece_at(at, u64::MAX);
        at += piece.len();
        decoder.push(piece_bytes(&piece));
        while let Some(event) = decoder.next_event().unwrap() {
            if let ImageEvent::Data { offset, data } = event {
                disk.add(offset, &data);
            }
        }
    }
    assert_eq!(decoder.finish().unwrap().virtual_size, MAX_VIRTUAL_SIZE);
    disk.size = MAX_VIRTUAL_SIZE;
    assert_eq!(disk, wanted(MAX_VIRTUAL_SIZE, &blocks));
    let index = open::<super::super::VhdError>(layout.len(), |offset, buffer| {
        buffer.copy_from_slice(&slice(&layout, offset, offset + buffer.len() as u64, u64::MAX));
        Ok(())
    })
    .unwrap();
    assert_eq!(index.warnings, []);
    assert_eq!(index.blocks().map(|(index, _)| index as u32).collect::<Vec<_>>(), blocks);
}

#[test]
fn sizes_that_no_vhd_can_have_are_refused_before_anything_is_sent() {
    let rule = |size: u64| {
        let set = BlockSet::from_extents(size, []);
        VhdLayout::new(size, set, [0; 16], 0).map(drop).map_err(|error| error.rule())
    };
    assert_eq!(rule(0), Err("F6"));
    assert_eq!(rule(1000), Err("F7"));
    assert_eq!(rule(MAX_VIRTUAL_SIZE + 512), Err("F8"));
    assert_eq!(rule(MAX_VIRTUAL_SIZE), Ok(()));
    let other = BlockSet::from_extents(5 << 21, []);
    assert_eq!(VhdLayout::new(6 << 21, other, [0; 16], 0).unwrap_err().rule(), "H9");
}

/// The bytes of layout version 1: a change of these is a change of every ETag and breaks every resumed transfer.
#[test]
fn the_front_of_a_layout_never_changes() {
    let layout = layout((5 << 21) + 512, &[0, 3]);
    let front = slice(&layout, 0, 3072, u64::MAX);
    let word = |at: usize| u32::from_be_bytes(front[at..at + 4].try_into().unwrap());
    assert_eq!(&front[..16], b"conectix\0\0\0\x02\0\x01\0\0");
    assert_eq!((word(20), word(24), &front[28..40]), (512, 700_000_000, &b"tap\0\0\x01\0\x03\0\0\0\0"[..]));
    assert_eq!((word(56), word(60), word(64)), (0x012D_0411, 3, 0xFFFF_F4A1));
    assert_eq!(&front[512..520], b"cxsparse");
    assert_eq!((word(532), word(540), word(544), word(548)), (1536, 6, 2 << 20, 0xFFFF_F471));
    assert_eq!([0, 1, 2, 3, 4, 5, 6].map(|n| word(1536 + n * 4)), [6, !0, !0, 6 + 4097, !0, !0, !0]);
    assert_eq!(&front[2048..2056], b"tdbatmap");
    assert_eq!((word(2060), word(2064), word(2068), word(2072)), (2560, 1, 0x0001_0002, !0x90));
    assert_eq!(front[2560..2563], [0x90, 0, 0]);
}

#[test]
fn blocks_that_came_in_any_order_make_a_sound_file() {
    for known in [true, false] {
        let virtual_size = 7 * BLOCK_BYTES - 1536;
        let order = [6u32, 2, 0];
        let geometry = WriterGeometry::new(known.then_some(virtual_size)).unwrap();
        let mut file = vec![0; geometry.footer_offset(3) as usize + 512];
        let mut bat = vec![UNUSED_ENTRY; 7];
        for (nth, &block) in (0u32..).zip(&order) {
            let slot = geometry.slot(nth);
            assert_eq!((slot.data_offset % 4096, slot.data_offset - slot.bitmap_offset), (0, 512));
            bat[block as usize] = geometry.bat_entry(nth);
            put(&mut file, slot.bitmap_offset as usize, &ALL_SECTORS);
            let offset = u64::from(block) * BLOCK_BYTES;
            let len = BLOCK_BYTES.min(virtual_size - offset);
            put(&mut file, slot.data_offset as usize, &piece_bytes(&Piece::Disk { offset, len }));
        }
        let head = geometry.encode_head(virtual_size, &bat, [5; 16], 1).unwrap();
        assert!(head.len() as u64 <= geometry.slot(0).bitmap_offset);
        put(&mut file, 0, &head);
        let footer = geometry.encode_footer(virtual_size, [5; 16], 1).unwrap();
        put(&mut file, geometry.footer_offset(3) as usize, &footer);

        let (disk, _) = decode(&file, Some(file.len() as u64), &[usize::MAX]).unwrap();
        assert_eq!(disk, wanted(virtual_size, &[0, 2, 6]));
        let index = open_bytes(&file).unwrap();
        assert_eq!(index.warnings, []);
        assert_eq!(read_index(&index, &file), disk);
    }
}

#[test]
fn a_file_without_blocks_is_sound_too() {
    let geometry = WriterGeometry::new(Some(512)).unwrap();
    let mut file = geometry.encode_head(512, &[], [5; 16], 1).unwrap();
    file.resize(geometry.footer_offset(0) as usize, 0);
    file.extend(geometry.encode_footer(512, [5; 16], 1).unwrap());
    assert_eq!(decode(&file, None, &[1]).unwrap().0.bytes(), [0; 512]);
    assert_eq!(open_bytes(&file).unwrap().warnings, []);
}

#[test]
fn a_writer_refuses_what_does_not_fit_its_geometry() {
    let small = WriterGeometry::new(Some(BLOCK_BYTES)).unwrap();
    assert_eq!(small.encode_head(MAX_VIRTUAL_SIZE, &[], [0; 16], 0).unwrap_err().rule(), "B2");
    assert_eq!(small.encode_head(BLOCK_BYTES, &[UNUSED_ENTRY, 9], [0; 16], 0).unwrap_err().rule(), "B4");
    assert!(small.encode_head(BLOCK_BYTES, &[9, UNUSED_ENTRY], [0; 16], 0).is_ok());
    assert_eq!(WriterGeometry::new(Some(MAX_VIRTUAL_SIZE + 512)).unwrap_err().rule(), "F8");
    // The last slot of the largest disk is still inside of 32 bits.
    let largest = WriterGeometry::new(None).unwrap();
    assert_eq!(u64::from(largest.bat_entry(1_044_479)) * 512, largest.slot(1_044_479).bitmap_offset);
}
