//! What a decompressor reads, and what it refuses.

use proptest::prelude::*;

use super::*;
use crate::formats::frames::{MAX_WINDOW_BYTES, sniff};

/// A skippable frame.
fn skippable(number: u8, content: &[u8]) -> Vec<u8> {
    [&[0x50 + number, 0x2A, 0x4D, 0x18], &(content.len() as u32).to_le_bytes()[..], content].concat()
}

/// The head of a zstd frame with that window descriptor, and no content size.
fn head_with_window(descriptor: u8) -> Vec<u8> {
    vec![0x28, 0xB5, 0x2F, 0xFD, 0, descriptor]
}

/// A last block with one byte of content.
const LAST_BLOCK: [u8; 4] = [9, 0, 0, b'x'];

fn pieces<'a>(stream: &'a [u8], lengths: &[usize]) -> Vec<&'a [u8]> {
    let (mut pieces, mut rest) = (Vec::new(), stream);
    for &len in lengths.iter().cycle() {
        if rest.is_empty() {
            break;
        }
        let (piece, after) = rest.split_at(len.min(rest.len()));
        pieces.push(piece);
        rest = after;
    }
    pieces
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn what_was_compressed_is_read_however_it_is_cut(
        runs in prop::collection::vec((any::<u8>(), 0..200_000_usize, 0..3_u8), 0..4),
        level in 1..=9,
        window in 1000..300_000_usize,
        lengths in prop::collection::vec(1..70_000_usize, 1..5),
        extras in any::<bool>(),
    ) {
        let content: Vec<u8> = runs.iter().flat_map(|&(byte, len, kind)| match kind {
            0 => vec![byte; len],
            1 => noise(len),
            _ => like_a_disk(len),
        }).collect();
        for codec in BOTH {
            let compression = Compression::new(codec, level).unwrap();
            let mut stream = frame(compression, &[]);
            for window in content.chunks(window) {
                stream.extend(frame(compression, window));
                if codec == Codec::Zstd && extras {
                    stream.extend(skippable(3, &[7; 100]));
                }
            }
            if codec == Codec::Gzip && extras {
                stream.extend([0; 1000]);
            }
            let (read, error) = read(sniffed(codec), pieces(&stream, &lengths));
            prop_assert_eq!(error, None);
            prop_assert!(read == content);
        }
    }

    #[test]
    fn a_changed_byte_is_refused_at_the_same_place_however_the_stream_is_cut(
        at in any::<prop::sample::Index>(),
        change in 1..=255_u8,
        lengths in prop::collection::vec(1..400_usize, 1..5),
    ) {
        for codec in BOTH {
            let mut stream = framed(codec, &like_a_disk(3000));
            stream.extend(framed(codec, &noise(500)));
            let at = at.index(stream.len());
            stream[at] ^= change;
            let (plain, error) = read_whole(codec, &stream);
            let (cut_plain, cut_error) = read(sniffed(codec), pieces(&stream, &lengths));
            // Of the block that is wrong, a part may have been given out, as it came.
            prop_assert!(plain.starts_with(&cut_plain) || cut_plain.starts_with(&plain));
            prop_assert_eq!(error.as_ref().map(FrameError::code), cut_error.as_ref().map(FrameError::code));
            // A gzip head has hints that nobody reads; nothing else may change unseen.
            let is_hint = codec == Codec::Gzip && error.is_none();
            prop_assert!(error.is_some() || is_hint, "{codec:?}, byte {at}");
        }
    }
}

#[test]
fn the_first_bytes_tell_how_a_stream_is_compressed() {
    assert_eq!(sniff(&framed(Codec::Zstd, b"x")), Some(Sniffed::Zstd));
    assert_eq!(sniff(&framed(Codec::Gzip, b"x")[..2]), Some(Sniffed::Gzip));
    assert_eq!(sniff(b"ova.xml"), Some(Sniffed::Plain));
    assert_eq!(sniff(&skippable(0, b"")), Some(Sniffed::Plain));
    for undecided in [&[][..], &[0x1F], &[0x28], &[0x28, 0xB5, 0x2F]] {
        assert_eq!(sniff(undecided), None);
    }
    assert_eq!(sniff(&[0x28, 0xB5, 0x2F, 0xFE]), Some(Sniffed::Plain));
}

#[test]
fn a_plain_stream_is_passed_through_in_bounded_chunks() {
    let content = noise(1_000_000);
    assert!(read(Sniffed::Plain, [&content[..]]) == (content.clone(), None));
    assert_eq!(read(Sniffed::Plain, []), (Vec::new(), None));
}

#[test]
fn a_stream_that_is_cut_anywhere_is_refused_and_never_short() {
    for codec in BOTH {
        let first = framed(codec, &like_a_disk(700));
        let stream = [first.clone(), framed(codec, &noise(100))].concat();
        for len in 0..stream.len() {
            let (plain, error) = read_whole(codec, &stream[..len]);
            if len == first.len() {
                assert_eq!((plain.len(), error), (700, None), "two streams, of which one is whole");
                continue;
            }
            let error = error.unwrap();
            assert!(matches!(error, FrameError::Truncated { .. }), "{codec:?} {len}: {error}");
            assert_eq!(error.offset(), len as u64);
        }
    }
    let skipped = [framed(Codec::Zstd, b"x"), skippable(0, b"abc")].concat();
    let cut = refusal(Codec::Zstd, &skipped[..skipped.len() - 1]);
    assert_eq!(
        cut.to_string(),
        format!("the zstd stream ends at byte {}, inside of a skippable frame", skipped.len() - 1)
    );
}

#[test]
fn skippable_frames_are_legal_anywhere_but_first() {
    let frame = framed(Codec::Zstd, b"content");
    for skipped in [skippable(0, b""), skippable(15, &[0x28; 70_000])] {
        let stream =
            [frame.clone(), skipped.clone(), skipped.clone(), frame.clone(), skipped.clone()].concat();
        assert_eq!(read_whole(Codec::Zstd, &stream), (b"contentcontent".to_vec(), None));
        let first = refusal(Codec::Zstd, &[skipped.clone(), frame.clone()].concat());
        assert_eq!(first, FrameError::NotAFrame { codec: Codec::Zstd, offset: 0, found: skipped[0] });
    }
}

#[test]
fn what_follows_the_last_zstd_frame_must_be_a_frame() {
    let frame = framed(Codec::Zstd, b"content");
    for (garbage, at) in [(&[0][..], 0), (b"abcd", 0), (&[0x28, 0xB5, 0x2F, 0xFE], 3), (&[0x5A, 0x2A, 0], 2)]
    {
        let error = refusal(Codec::Zstd, &[&frame, garbage].concat());
        let offset = (frame.len() + at) as u64;
        assert_eq!(error, FrameError::TrailingGarbage { codec: Codec::Zstd, offset, found: garbage[at] });
    }
}

#[test]
fn zeros_may_follow_the_last_gzip_member_and_nothing_else() {
    let member = framed(Codec::Gzip, b"content");
    let padded = [&member[..], &[0; 5000]].concat();
    assert_eq!(read_whole(Codec::Gzip, &padded), (b"content".to_vec(), None));
    for (garbage, at) in [(&[1][..], 0), (&[0, 0, 0x1F, 0x8B], 2), (&[0x1F, 0], 1), (b"tail", 0)] {
        let error = refusal(Codec::Gzip, &[&member, garbage].concat());
        let offset = (member.len() + at) as u64;
        assert_eq!(error, FrameError::TrailingGarbage { codec: Codec::Gzip, offset, found: garbage[at] });
    }
    let first = refusal(Codec::Gzip, &[&[0], &member[..]].concat());
    assert_eq!(first, FrameError::NotAFrame { codec: Codec::Gzip, offset: 0, found: 0 });
}

#[test]
fn a_gzip_head_with_all_its_fields_is_read_and_its_checksum_looked_at() {
    let member = framed(Codec::Gzip, b"content");
    let mut head = vec![0x1F, 0x8B, 8, 0b1_1110, 1, 2, 3, 4, 2, 3];
    head.extend([3, 0, 0, 0, 0]);
    head.extend(b"a name\0a comment\0");
    let mut sum = flate2::Crc::new();
    sum.update(&head);
    head.extend((sum.sum() as u16).to_le_bytes());
    let mut stream = [&head, &member[10..]].concat();
    let one_by_one = read(Sniffed::Gzip, stream.chunks(1));
    assert_eq!(one_by_one, (b"content".to_vec(), None));
    let without_extra = [&[0x1F, 0x8B, 8, 4, 0, 0, 0, 0, 0, 3, 0, 0], &member[10..]].concat();
    assert_eq!(read_whole(Codec::Gzip, &without_extra), (b"content".to_vec(), None));
    stream[head.len() - 1] ^= 1;
    assert!(matches!(refusal(Codec::Gzip, &stream), FrameError::WrongSum { field: "header checksum", .. }));
}

#[test]
fn fields_that_cannot_be_are_refused_with_their_names() {
    let bad = |codec, stream: &[u8]| match refusal(codec, stream) {
        FrameError::BadHeader { frame: 0, field, found, .. } => (field, found),
        error => panic!("{error}"),
    };
    let gzip = |at: usize, byte: u8| {
        let mut member = framed(Codec::Gzip, b"x");
        member[at] = byte;
        bad(Codec::Gzip, &member)
    };
    assert_eq!(gzip(2, 7), ("compression method", 7));
    assert_eq!(gzip(3, 0x20), ("flags", 0x20));
    let zstd =
        |fields: &[u8]| bad(Codec::Zstd, &[&[0x28, 0xB5, 0x2F, 0xFD][..], fields, &LAST_BLOCK].concat());
    assert_eq!(zstd(&[8, 0]), ("reserved bit", 1));
    assert_eq!(zstd(&[3, 0, 1, 2, 3, 4]), ("dictionary id", 0x0403_0201));
}

#[test]
fn wrong_checksums_and_lengths_are_refused() {
    let mut zstd = framed(Codec::Zstd, b"content");
    *zstd.last_mut().unwrap() ^= 1;
    let error = refusal(Codec::Zstd, &zstd);
    assert!(error.to_string().contains("checksum"), "{error}");
    assert_eq!(
        (error.code(), read_whole(Codec::Zstd, &zstd).0.as_slice()),
        ("compressed_damaged", &b"content"[..])
    );
    let gzip = framed(Codec::Gzip, b"content");
    for (from_end, field) in [(1, "length"), (5, "checksum")] {
        let mut gzip = gzip.clone();
        let at = gzip.len() - from_end;
        gzip[at] ^= 1;
        match refusal(Codec::Gzip, &gzip) {
            FrameError::WrongSum { frame: 0, offset, field: found, .. } => {
                assert_eq!((found, offset), (field, at as u64 - 3));
            }
            error => panic!("{error}"),
        }
    }
}

#[test]
fn damage_is_found_in_its_frame_and_block() {
    let content = noise(300_000);
    let first = framed(Codec::Zstd, &content);
    // Noise is stored as it is: three blocks of 128 KiB, of which the second gets a kind that there is not.
    let mut stream = [first.clone(), first.clone()].concat();
    let block = first.len() + 9 + 3 + (128 << 10);
    stream[block] |= 6;
    let (plain, error) = read_whole(Codec::Zstd, &stream);
    match error.unwrap() {
        FrameError::Damaged { frame, offset, .. } => {
            assert_eq!((frame, offset), (first.len() as u64, block as u64))
        }
        error => panic!("{error}"),
    }
    assert_eq!(plain.len(), 300_000 + (128 << 10), "what lay before was given out");
}

#[test]
fn a_large_window_is_told_before_its_memory_is_taken_and_one_beyond_128_mib_is_refused() {
    // 10 + 16 bits: 64 MiB; an eighth more; 128 MiB; an eighth more.
    let stream = |descriptor| [&head_with_window(descriptor)[..], &LAST_BLOCK].concat();
    let mut decompressor = Decompressor::new(Sniffed::Zstd);
    decompressor.push(stream(16 << 3).into());
    assert_eq!(decompressor.next_chunk(), Ok(Next::Chunk(Bytes::from_static(b"x"))));
    assert_eq!(decompressor.window_bytes(), 64 << 20);
    decompressor.push(stream(17 << 3).into());
    for _ in 0..2 {
        assert_eq!(decompressor.next_chunk(), Ok(Next::NeedsWindow(128 << 20)));
    }
    assert_eq!(decompressor.window_bytes(), MAX_WINDOW_BYTES);
    decompressor.grant_window();
    assert_eq!(decompressor.next_chunk(), Ok(Next::Chunk(Bytes::from_static(b"x"))));
    // What was granted once need not be asked for again.
    decompressor.push(stream(16 << 3 | 1).into());
    assert_eq!(decompressor.next_chunk(), Ok(Next::Chunk(Bytes::from_static(b"x"))));
    decompressor.push(stream(17 << 3 | 1).into());
    let frame = 3 * stream(0).len() as u64;
    let refused = FrameError::WindowTooLarge { frame, found: 144 << 20 };
    assert_eq!(decompressor.next_chunk(), Err(refused.clone()));
    assert!(refused.to_string().contains("150994944"), "{refused}");

    let mut decompressor = Decompressor::with_free_window(Sniffed::Zstd, 1 << 20);
    decompressor.push(stream(11 << 3).into());
    assert_eq!(decompressor.next_chunk(), Ok(Next::NeedsWindow(2 << 20)));
    assert_eq!(decompressor.finish(), Err(FrameError::NotTaken { offset: 6 }), "it was not granted");
    // A frame in one piece needs what it unpacks to, and says so in eight bytes.
    let huge = [&[0x28, 0xB5, 0x2F, 0xFD, 0b1110_0000][..], &(1_u64 << 40).to_le_bytes()].concat();
    assert_eq!(refusal(Codec::Zstd, &huge), FrameError::WindowTooLarge { frame: 0, found: 1 << 40 });
}

#[test]
fn a_bomb_gives_chunks_of_bounded_size_one_at_a_time() {
    for codec in BOTH {
        let member = framed(codec, &vec![0; 64 << 20]);
        let stream: Bytes = member.repeat(16).into();
        assert!(stream.len() < 2 << 20);
        let mut decompressor = Decompressor::new(sniffed(codec));
        decompressor.push(stream);
        let (mut plain, mut chunks) = (0_u64, 0);
        while let Next::Chunk(chunk) = decompressor.next_chunk().unwrap() {
            assert!(chunk.len() <= MAX_CHUNK_BYTES);
            plain += chunk.len() as u64;
            chunks += 1;
            if chunks == 1 {
                assert!(decompressor.position() <= member.len() as u64, "nothing is read ahead");
            }
        }
        assert_eq!((plain, chunks), (1 << 30, 4096));
        assert_eq!(decompressor.finish(), Ok(()));
    }
}

#[test]
fn the_end_may_not_be_told_before_everything_was_taken() {
    for sniffed in [Sniffed::Plain, Sniffed::Gzip, Sniffed::Zstd] {
        let stream = match sniffed {
            Sniffed::Plain => b"x".to_vec(),
            Sniffed::Gzip => framed(Codec::Gzip, b"x"),
            Sniffed::Zstd => framed(Codec::Zstd, b"x"),
        };
        let mut decompressor = Decompressor::new(sniffed);
        decompressor.push(stream.into());
        assert!(matches!(decompressor.finish(), Err(FrameError::NotTaken { .. })));
    }
}
