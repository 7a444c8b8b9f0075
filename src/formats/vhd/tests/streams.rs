//! What a stream decoder promises: cuts make no difference, nothing is ever shorter than it should be, oddities
//! that the format allows are read, and what cannot be read is refused early.

use bytes::Bytes;
use proptest::prelude::*;

use super::super::{Footer, StreamDecoder, VhdError};
use super::sample::{BLOCK, FIRST, SIZE, SLOT, Sample, TABLE, decode, open_bytes, put, read_index, seal};
use crate::formats::ImageEvent;

const WHOLE: &[usize] = &[usize::MAX];

/// Both ways to read an image, which must agree; the disk's bytes.
fn read(image: &Sample) -> Vec<u8> {
    let (disk, summary) = decode(&image.bytes, None, WHOLE).unwrap();
    let announced = decode(&image.bytes, Some(image.bytes.len() as u64), &[4096]).unwrap();
    assert_eq!((&disk, &summary), (&announced.0, &announced.1));
    let index = open_bytes(&image.bytes).unwrap();
    assert_eq!(index.warnings, []);
    assert_eq!(read_index(&index, &image.bytes), disk);
    assert_eq!(summary.length, image.bytes.len() as u64);
    disk.bytes()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    /// How the network cuts a stream must not change what is read from it.
    #[test]
    fn cuts_never_matter(cuts in prop::collection::vec(prop_oneof![1usize..600, 1usize..200_000], 1..6), announced: bool, kind in 0..3) {
        let image = match kind {
            0 => Sample::dynamic(),
            1 => Sample::fixed(),
            _ => Sample::batmap(),
        };
        let length = announced.then_some(image.bytes.len() as u64);
        prop_assert_eq!(decode(&image.bytes, length, &cuts), decode(&image.bytes, length, WHOLE));
    }

    #[test]
    fn bytes_that_mean_nothing_are_errors_and_never_panics(bytes in prop::collection::vec(any::<u8>(), 0..3000), announced: bool) {
        prop_assert!(decode(&bytes, announced.then_some(bytes.len() as u64), &[100]).is_err());
        prop_assert!(open_bytes(&bytes).is_err());
    }

    /// Sealed again, so that what stands behind the checksums is reached.
    #[test]
    fn any_change_of_a_structure_is_read_or_refused_and_never_panics(at in 0usize..2048, new in prop::collection::vec(any::<u8>(), 1..24), child: bool) {
        let mut image = if child { Sample::child() } else { Sample::empty() };
        let at = at.min(2048 - new.len());
        put(&mut image.bytes, at, &new);
        seal(&mut image.bytes[..512], 64);
        seal(&mut image.bytes[512..1536], 36);
        let head = image.bytes[..512].to_vec();
        let tail = image.tail();
        put(&mut image.bytes, tail, &head);
        let length = Some(image.bytes.len() as u64);
        let announced = decode(&image.bytes, length, WHOLE);
        let unannounced = decode(&image.bytes, None, &[700]);
        if let Ok((disk, _)) = &announced {
            prop_assert_eq!(announced.as_ref().ok(), unannounced.as_ref().ok());
            prop_assert_eq!(&read_index(&open_bytes(&image.bytes).unwrap(), &image.bytes), disk);
        }
    }
}

#[test]
fn one_byte_at_a_time_is_enough() {
    for image in [Sample::empty(), Sample::fixed(), Sample::batmap()] {
        let length = Some(image.bytes.len() as u64);
        assert_eq!(decode(&image.bytes, length, &[1]), decode(&image.bytes, length, WHOLE));
        assert_eq!(decode(&image.bytes, None, &[1]), decode(&image.bytes, None, WHOLE));
    }
}

/// Every place in front of, behind and at the edges of structures, and many inside of the blocks.
#[test]
fn a_cut_stream_is_an_error_and_never_a_shorter_disk() {
    let image = Sample::dynamic().bytes;
    let edges = [FIRST, FIRST + 1, FIRST + SLOT, FIRST + SLOT + 3, FIRST + SLOT + 4, FIRST + 2 * SLOT + 3];
    let near_edges =
        edges.iter().flat_map(|&sector| (-2..=2).map(move |d| (i64::from(sector) * 512 + d) as usize));
    for end in (0..5000).chain((5000..image.len()).step_by(4001)).chain(near_edges) {
        if end < image.len() {
            let error = decode(&image[..end], None, WHOLE).expect_err("cut");
            assert!(matches!(error.rule(), "F1" | "T"), "{end}: {error}");
            assert!(
                decode(&image[..end], Some(image.len() as u64), WHOLE).is_err(),
                "announced, cut at {end}"
            );
            assert!(decode(&image[..end], Some(end as u64), WHOLE).is_err(), "announced as cut at {end}");
        }
    }
    for image in [Sample::empty().bytes, Sample::fixed().bytes, Sample::batmap().bytes] {
        for end in 0..image.len() {
            assert!(decode(&image[..end], None, WHOLE).is_err(), "cut at {end}");
            assert!(
                decode(&image[..end], Some(image.len() as u64), WHOLE).is_err(),
                "announced, cut at {end}"
            );
        }
    }
}

#[test]
fn every_flipped_bit_of_a_checksummed_structure_is_an_error() {
    let image = Sample::empty().bytes;
    for bit in (0..1536 * 8).chain(2048 * 8..2560 * 8) {
        let mut bytes = image.clone();
        bytes[bit / 8] ^= 1 << (bit % 8);
        assert!(decode(&bytes, None, WHOLE).is_err(), "bit {bit}");
        assert!(decode(&bytes, Some(2560), WHOLE).is_err(), "bit {bit}");
        // A file's trailing footer may be damaged, but never without a word.
        assert!(
            open_bytes(&bytes).is_ok_and(|index| bit >= 2048 * 8 && index.warnings.len() == 1)
                || bit < 2048 * 8
        );
        assert!(bit >= 2048 * 8 || open_bytes(&bytes).is_err(), "bit {bit}");
    }
}

#[test]
fn what_the_format_allows_is_read_however_odd() {
    let plain = read(&Sample::dynamic());
    let mut odd = Sample::dynamic();
    odd.footers(|footer| {
        put(footer, 8, &3u32.to_be_bytes()); // temporary
        put(footer, 24, &1_700_000_000u32.to_be_bytes()); // Unix time
        put(footer, 28, b"what\xFF\xFF\xFF\xFF\0\0\0\0");
        put(footer, 40, &12345u64.to_be_bytes()); // another original size
        put(footer, 56, &[0xFF; 4]); // no geometry at all
        put(footer, 84, &[1, 1]); // saved and hidden
    });
    assert_eq!(read(&odd), plain);
    assert!(open_bytes(&odd.bytes).unwrap().hidden);

    let mut padded = Sample::dynamic();
    let tail = padded.tail();
    padded.bytes.splice(tail..tail, [0xAB; 1500]);
    assert_eq!(read(&padded), plain);

    // A BAT that is far larger than needed, behind a gap, and a header that is not at 512.
    let mut moved = Sample::dynamic();
    let blocks = moved.bytes.split_off(FIRST as usize * 512);
    let (footer, header) = (moved.bytes[..512].to_vec(), moved.bytes[512..1536].to_vec());
    let mut bytes = footer;
    bytes.resize(1024, 0xEE);
    bytes.extend(header);
    bytes.resize(4096, 0xEE);
    for entry in [40 + SLOT + 3, u32::MAX, 40] {
        bytes.extend_from_slice(&entry.to_be_bytes());
    }
    bytes.resize(4096 + 12_288, 0xFF);
    bytes.resize(40 * 512, 0xEE);
    bytes.extend(blocks);
    let mut moved = Sample { bytes };
    put(&mut moved.bytes[1024..2048], 16, &4096u64.to_be_bytes());
    put(&mut moved.bytes[1024..2048], 28, &3000u32.to_be_bytes());
    seal(&mut moved.bytes[1024..2048], 36);
    moved.footers(|footer| put(footer, 16, &1024u64.to_be_bytes()));
    assert_eq!(read(&moved), plain);
}

#[test]
fn what_needs_seeking_is_refused_in_a_stream_and_read_from_a_file() {
    // The BAT in front of the header.
    let mut early_table = Sample::dynamic();
    let (header, table) =
        (early_table.bytes[512..1536].to_vec(), early_table.bytes[TABLE..TABLE + 512].to_vec());
    put(&mut early_table.bytes, 512, &table);
    put(&mut early_table.bytes, 1024, &header);
    put(&mut early_table.bytes[1024..2048], 16, &512u64.to_be_bytes());
    seal(&mut early_table.bytes[1024..2048], 36);
    early_table.footers(|footer| put(footer, 16, &1024u64.to_be_bytes()));
    let error = decode(&early_table.bytes, None, WHOLE).unwrap_err();
    assert_eq!(error, VhdError::NotStreamable { field: "BAT", offset: 1040, expected: 2048, found: 512 });
    assert_eq!((error.rule(), error.code()), ("S", "vhd_not_streamable"));

    // A block in front of the BAT.
    let mut late_table = Sample::dynamic();
    let tail = late_table.tail();
    let table = late_table.bytes[TABLE..TABLE + 512].to_vec();
    late_table.bytes.splice(tail..tail, table);
    late_table.header(|header| put(header, 16, &(tail as u64).to_be_bytes()));
    let error = decode(&late_table.bytes, None, WHOLE).unwrap_err();
    assert!(matches!(error, VhdError::NotStreamable { field: "block", found: 4096, .. }), "{error}");

    let plain = read(&Sample::dynamic());
    for image in [early_table, late_table] {
        let index = open_bytes(&image.bytes).unwrap();
        assert_eq!(read_index(&index, &image.bytes).bytes(), plain);
    }
}

#[test]
fn a_child_is_refused_with_its_parents_id_and_name_before_any_data() {
    let image = Sample::child();
    // The header is enough to tell.
    let error = decode(&image.bytes[..1536], None, &[1]).unwrap_err();
    let VhdError::ParentNeeded { offset: 60, parent } = &error else { panic!("{error}") };
    assert_eq!((parent.id, parent.names.as_slice()), ([9; 16], &["parent.vhd".to_owned()][..]));
    assert_eq!(error.code(), "vhd_parent_needed");
    // A file's locators are looked at too, and come first.
    let parent = open_bytes(&image.bytes).unwrap().parent.unwrap();
    assert_eq!(parent.names, ["nearby.vhd", "parent.vhd"]);
}

#[test]
fn data_is_a_slice_of_the_input_and_not_a_copy() {
    let image = Bytes::from(Sample::dynamic().bytes);
    let mut decoder = StreamDecoder::new(None);
    decoder.push(image.clone());
    let mut data_bytes = 0;
    while let Some(event) = decoder.next_event().unwrap() {
        if let ImageEvent::Data { data, .. } = event {
            assert!(image.as_ptr_range().contains(&data.as_ptr()));
            data_bytes += data.len() as u64;
        }
    }
    // Two sectors of every three in block 0, and block 2 up to the disk's end.
    let wanted = (0..BLOCK / 512).filter(|sector| sector % 3 != 0).count() as u64 * 512 + (SIZE - 2 * BLOCK);
    assert_eq!(data_bytes, wanted);
    assert!(decoder.finish().is_ok());
}

#[test]
fn the_size_is_known_before_the_first_byte_of_data() {
    let image = Bytes::from(Sample::dynamic().bytes);
    let mut decoder = StreamDecoder::new(None);
    decoder.push(image.slice(..1536));
    assert_eq!(decoder.next_event(), Ok(Some(ImageEvent::Size(SIZE))));
    assert_eq!(decoder.next_event(), Ok(None));
}

#[test]
fn an_announced_length_refuses_what_cannot_fit_before_it_comes() {
    let image = Sample::dynamic().bytes;
    let refused = |length: u64, given: usize| {
        let mut decoder = StreamDecoder::new(Some(length));
        decoder.push(Bytes::copy_from_slice(&image[..given]));
        loop {
            match decoder.next_event() {
                Ok(Some(_)) => {}
                Ok(None) => return None,
                Err(error) => return Some(error.rule()),
            }
        }
    };
    let len = image.len() as u64;
    assert_eq!(refused(len, 4096), None);
    assert_eq!(refused(511, 0), Some("F1"));
    assert_eq!(refused(2047, 512), Some("H2"));
    assert_eq!(refused(2559, 1536), Some("B3"));
    assert_eq!(refused(len - 512, 2048), Some("B5"));
    // What has no footer in front would be a disk of that length less 512 bytes.
    let raw = |length: u64| {
        let mut decoder = StreamDecoder::new(Some(length));
        decoder.push(Bytes::from_static(&[0; 512]));
        decoder.next_event().map_err(|error| (error.rule(), error.code()))
    };
    assert_eq!(raw(512), Err(("F6", "vhd_size_zero")));
    assert_eq!(raw(4000), Err(("F7", "vhd_size_unaligned")));
    assert_eq!(raw((2040 << 30) + 1024), Err(("F8", "vhd_too_large")));
    assert_eq!(raw((2040 << 30) + 512), Ok(None));
}

#[test]
fn a_raw_disk_that_is_sent_as_a_vhd_is_told_how_to_be_sent() {
    let error = decode(&[3; 4096], None, &[1000]).unwrap_err();
    assert_eq!((error.rule(), error.offset()), ("F2", 3584));
    assert!(error.to_string().contains("?raw"), "{error}");
}

#[test]
fn a_fixed_disk_may_begin_with_what_looks_like_a_footer() {
    let inner = Sample::fixed();
    let mut bytes = inner.bytes[1536..].to_vec();
    bytes.extend([5; 1024]);
    bytes.extend(Footer::fixed(1536, [3; 16], 0).unwrap().encode());
    let (disk, summary) = decode(&bytes, None, &[300]).unwrap();
    assert_eq!(disk.bytes(), &bytes[..1536]);
    assert_eq!(summary.footer.unique_id, [3; 16]);
    assert_eq!(open_bytes(&bytes).unwrap().unique_id, [3; 16]);
}

#[test]
fn a_fixed_disk_is_one_block_of_its_whole_size() {
    let image = Sample::fixed();
    let index = open_bytes(&image.bytes).unwrap();
    assert_eq!(
        (index.virtual_size, index.block_bytes, index.block_count(), index.allocated()),
        (1536, 1536, 1, 1)
    );
    assert_eq!(read_index(&index, &image.bytes).bytes(), &image.bytes[..1536]);
    assert_eq!((index.block(0).unwrap().data_offset, index.block(1)), (0, None));
}

#[test]
fn bytes_behind_the_announced_end_are_refused() {
    for image in [Sample::dynamic(), Sample::fixed()] {
        let len = image.bytes.len() as u64;
        let mut longer = image.bytes;
        longer.push(0);
        for cuts in [WHOLE, &[100]] {
            let error = decode(&longer, Some(len), cuts).unwrap_err();
            assert_eq!((error.rule(), error.offset()), ("F2", len));
        }
    }
}

#[test]
fn a_refusal_is_repeated_and_ends_the_stream() {
    let mut decoder = StreamDecoder::new(None);
    decoder.push(Bytes::copy_from_slice(&[b"conectix".as_slice(), &[0; 504]].concat()));
    let error = decoder.next_event().unwrap_err();
    assert_eq!(decoder.next_event(), Err(error.clone()));
    assert_eq!(decoder.finish(), Err(error));
}

#[test]
fn data_that_nobody_took_is_no_whole_disk() {
    let mut decoder = StreamDecoder::new(None);
    decoder.push(Bytes::from(Sample::dynamic().bytes));
    assert_eq!(decoder.finish().unwrap_err().rule(), "T");
}

/// A claim alone must not cost memory: the BAT of this header would be 16 MiB, and none of it comes.
#[test]
fn a_claimed_table_is_not_allocated_before_it_comes() {
    let mut image = Sample::empty();
    image.header(|header| put(header, 28, &(4u32 << 20).to_be_bytes()));
    let error = decode(&image.bytes, None, WHOLE).unwrap_err();
    assert_eq!(error.rule(), "B4", "the trailing footer is read as entries of the BAT");
    let error = decode(&image.bytes[..2048], None, WHOLE).unwrap_err();
    assert!(matches!(error, VhdError::Truncated { field: "BAT", .. }), "{error}");
    assert_eq!(open_bytes(&image.bytes).unwrap_err().rule(), "B3");
}
