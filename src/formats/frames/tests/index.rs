//! Frame index and seek table.

use proptest::prelude::*;

use super::*;
use crate::formats::frames::{ENTRY_BYTES, FrameEntry, FrameIndex, FramePlace, IndexError, SeekTable};

fn index(lengths: &[u32]) -> FrameIndex {
    let mut index = FrameIndex::new();
    for (at, &len) in lengths.iter().enumerate() {
        index.push(FrameEntry { len, hash: at as u64 * 0x0123_4567_89AB }).unwrap();
    }
    index
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]
    #[test]
    fn each_byte_is_found_in_its_frame_and_segments_bring_the_index_back(
        lengths in prop::collection::vec(1..40_u32, 1..400),
        cut in any::<prop::sample::Index>(),
    ) {
        let index = index(&lengths);
        prop_assert_eq!(index.bytes(), lengths.iter().map(|&len| u64::from(len)).sum::<u64>());
        let mut offset = 0;
        for (frame, &len) in lengths.iter().enumerate() {
            prop_assert_eq!(index.start_of(frame as u64), Some(offset));
            for within in [0, len - 1] {
                let place = FramePlace { frame: frame as u64, within };
                prop_assert_eq!(index.locate(offset + u64::from(within)), Some(place));
            }
            offset += u64::from(len);
        }
        let frames = index.frames();
        prop_assert_eq!(index.start_of(frames), Some(offset));
        prop_assert_eq!((index.start_of(frames + 1), index.locate(offset)), (None, None));
        let cut = cut.index(lengths.len()) as u64;
        let segments = [index.segment(0..cut), index.segment(cut..u64::MAX)];
        prop_assert_eq!(segments[0].len(), cut as usize * ENTRY_BYTES);
        let back = FrameIndex::decode(1, segments.iter().map(Vec::as_slice)).unwrap();
        prop_assert_eq!(back, index);
    }

    #[test]
    fn any_part_of_a_seek_table_is_that_part_of_the_whole(
        lengths in prop::collection::vec(1..1000_u32, 0..50),
        (a, b) in (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
    ) {
        let index = index(&lengths);
        let plain = (lengths.len() as u64 * 4096).saturating_sub(1);
        let table = SeekTable::new(&index, 4096, plain).unwrap();
        let whole = table.part(0, usize::MAX);
        prop_assert_eq!(whole.len() as u64, table.len());
        prop_assert_eq!(SeekTable::len_for(index.frames()), Ok(table.len()));
        let (a, b) = (a.index(whole.len() + 1), b.index(whole.len() + 1));
        let (start, end) = (a.min(b), a.max(b));
        prop_assert_eq!(&table.part(start as u64, end - start), &whole[start..end]);
    }
}

#[test]
fn an_entry_is_a_little_endian_length_and_hash() {
    let mut index = FrameIndex::new();
    index.push_frame(b"abc").unwrap();
    // XXH64 of "abc": 44bc2cf5ad770999.
    assert_eq!(index.segment(0..1), [3, 0, 0, 0, 0x99, 0x09, 0x77, 0xAD, 0xF5, 0x2C, 0xBC, 0x44]);
    assert!(index.entry(0).unwrap().is_of(b"abc") && !index.entry(0).unwrap().is_of(b"abd"));
    assert_eq!(index.entry(1), None);
}

#[test]
fn segments_that_are_not_whole_or_name_no_frames_are_refused() {
    let mut index = index(&[7, 8]);
    let before = index.clone();
    let short = index.append_segment(&[1; 13]).unwrap_err();
    assert_eq!(short, IndexError::WrongLength { frame: 2, found: 13 });
    let mut segment = [1; 24];
    segment[12..16].fill(0);
    assert_eq!(index.append_segment(&segment), Err(IndexError::BadFrame { frame: 3, found: 0 }));
    assert_eq!(index.push_frame(&[]), Err(IndexError::BadFrame { frame: 2, found: 0 }));
    assert_eq!(index, before);
    assert_eq!(FrameIndex::decode(2, []), Err(IndexError::UnknownVersion { found: 2 }));
    assert_eq!(index.append_segment(&[]), Ok(()));
}

#[test]
fn a_frame_takes_at_most_16_bytes() {
    let mut index = FrameIndex::new();
    for frame in 0..100_000 {
        index.push(FrameEntry { len: 1, hash: 0 }).unwrap();
        if frame > 1000 {
            assert!(index.memory_bytes() <= index.frames() * 16, "{} for {frame}", index.memory_bytes());
        }
    }
}

#[test]
fn a_seek_table_has_the_bytes_of_the_format() {
    let index = index(&[0x11, 0x0102_0304]);
    let table = SeekTable::new(&index, 4 << 20, (4 << 20) + 5).unwrap();
    let expected: Vec<u8> = [
        &[0x5E, 0x2A, 0x4D, 0x18, 25, 0, 0, 0][..],
        &[0x11, 0, 0, 0, 0, 0, 0x40, 0],
        &[4, 3, 2, 1, 5, 0, 0, 0],
        &[2, 0, 0, 0, 0, 0xB1, 0xEA, 0x92, 0x8F],
    ]
    .concat();
    assert_eq!(table.part(0, 1000), expected);
    assert!(table.part(33, 10).is_empty());
    let wrong = SeekTable::new(&index, 4 << 20, 4 << 20).unwrap_err();
    assert_eq!(wrong, IndexError::WrongCount { expected: 1, found: 2 });
    assert!(SeekTable::new(&index, 0, 0).is_err() && SeekTable::new(&index, 1 << 32, 5).is_err());
    assert!(SeekTable::len_for(0x0800_0001).is_err());
}

#[test]
fn a_stream_with_its_seek_table_is_read_like_any_other() {
    let content = like_a_disk(10_000);
    let mut index = FrameIndex::new();
    let mut stream = Vec::new();
    for window in content.chunks(4096) {
        let frame = framed(Codec::Zstd, window);
        index.push_frame(&frame).unwrap();
        stream.extend(frame);
    }
    stream.extend(SeekTable::new(&index, 4096, 10_000).unwrap().part(0, usize::MAX));
    assert!(read_whole(Codec::Zstd, &stream) == (content, None));
}
