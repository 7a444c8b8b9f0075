//! What frames are made of, and that nothing but their content decides it.

use super::*;
use crate::formats::frames::CompressionError;

fn every_compression() -> Vec<Compression> {
    BOTH.iter()
        .flat_map(|&codec| {
            let (lowest, highest) = codec.levels();
            (lowest..=highest).map(move |level| Compression::new(codec, level).unwrap())
        })
        .collect()
}

#[test]
fn levels_that_a_codec_does_not_have_are_refused_by_name() {
    for (codec, level) in
        [(Codec::Gzip, 0), (Codec::Gzip, 10), (Codec::Zstd, 0), (Codec::Zstd, 20), (Codec::Zstd, -5)]
    {
        let error = Compression::new(codec, level).unwrap_err();
        assert!(matches!(error, CompressionError::BadLevel { found, .. } if found == level));
        assert_eq!(error.code(), "compression_level_invalid");
    }
    let error = Compression::new(Codec::Zstd, 20).unwrap_err();
    assert_eq!(error.to_string(), "the zstd level is wrong: expected 1 to 19, found 20");
}

#[test]
fn windows_are_4_mib_up_to_level_3_of_zstd_and_8_mib_above() {
    let window = |codec, level| Compression::new(codec, level).unwrap().window_bytes() >> 20;
    assert_eq!((window(Codec::Zstd, 1), window(Codec::Zstd, 3), window(Codec::Zstd, 4)), (4, 4, 8));
    assert_eq!((window(Codec::Gzip, 1), window(Codec::Gzip, 9)), (4, 4));
    let compression = Compression::default_of(Codec::Zstd);
    let counts = [0, 1, 4 << 20, (4 << 20) + 1].map(|bytes| compression.frames_of(bytes));
    assert_eq!(counts, [0, 1, 1, 2]);
}

#[test]
fn identities_differ_and_name_the_libraries_that_are_built_in() {
    let identities: std::collections::BTreeSet<_> =
        every_compression().iter().map(Compression::identity).collect();
    assert_eq!(identities.len(), 28);
    assert!(identities.contains("zstd 1; zstd 1.5.7; level 3; window 4194304; checksum"), "{identities:?}");
    let gzip = Compression::default_of(Codec::Gzip).identity();
    let lock = include_str!("../../../../Cargo.lock");
    let (_, after) = lock.split_once("name = \"zlib-rs\"\nversion = \"").unwrap();
    let version = after.split('"').next().unwrap();
    assert_eq!(gzip, format!("gzip 1; zlib-rs {version}; level 6; window 4194304"));
}

#[test]
fn a_frame_is_the_same_whatever_was_compressed_before() {
    let windows = [like_a_disk(1 << 20), vec![0; 1 << 20], noise(300_000), Vec::new(), like_a_disk(70_001)];
    for level in [1, 2, 3, 6, 9] {
        for codec in BOTH {
            let compression = Compression::new(codec, level).unwrap();
            let fresh: Vec<_> = windows.iter().map(|window| frame(compression, window)).collect();
            let mut encoder = FrameEncoder::new(compression).unwrap();
            let mut out = Vec::new();
            for at in [0, 1, 2, 3, 4, 4, 3, 2, 1, 0, 2, 0] {
                encoder.compress(&windows[at], &mut out).unwrap();
                assert!(out == fresh[at], "{compression:?}, window {at}");
            }
        }
    }
}

#[test]
fn a_zstd_frame_has_size_and_checksum_and_no_dictionary_and_a_gzip_member_no_time_and_no_name() {
    let content = like_a_disk(100_000);
    let zstd = framed(Codec::Zstd, &content);
    assert_eq!(zstd[..4], [0x28, 0xB5, 0x2F, 0xFD]);
    // One piece, checksum, size of 4 bytes, no dictionary.
    assert_eq!(zstd[4], 0b1010_0100);
    assert_eq!(zstd[5..9], 100_000_u32.to_le_bytes());
    let sum = xxhash_rust::xxh64::xxh64(&content, 0) as u32;
    assert_eq!(zstd[zstd.len() - 4..], sum.to_le_bytes());
    let gzip = framed(Codec::Gzip, &content);
    assert_eq!(gzip[..10], [0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 255]);
    assert_eq!(gzip[gzip.len() - 4..], 100_000_u32.to_le_bytes());
}

#[test]
fn output_stays_within_its_bound_for_noise() {
    for codec in BOTH {
        for len in [0, 1, 1000, 1 << 20] {
            let window = noise(len);
            for level in [1, 3, 6, 9] {
                let made = frame(Compression::new(codec, level).unwrap(), &window);
                assert!(made.len() <= FrameEncoder::bound(codec, len));
                assert!(made.capacity() <= FrameEncoder::bound(codec, len) + 64, "{}", made.capacity());
            }
        }
    }
}

#[test]
fn an_encoder_takes_what_is_said_of_it() {
    let mut wrong = Vec::new();
    for level in 1..=19 {
        let compression = Compression::new(Codec::Zstd, level).unwrap();
        let mut encoder = FrameEncoder::new(compression).unwrap();
        let mut window = vec![0; compression.window_bytes() as usize];
        window[..300_000].copy_from_slice(&like_a_disk(300_000));
        encoder.compress(&window, &mut Vec::new()).unwrap();
        let (taken, said) = (encoder.context_bytes().unwrap() as u64, compression.encoder_bytes());
        if !(said / 5 * 4..=said).contains(&taken) {
            wrong.push(format!("level {level}: {} KiB, not {}", taken >> 10, said >> 10));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn frames_of_4_mib_lose_at_most_3_percent_to_one_frame() {
    let content = like_a_disk(32 << 20);
    for codec in BOTH {
        let compression = Compression::default_of(codec);
        let mut encoder = FrameEncoder::new(compression).unwrap();
        let mut out = Vec::new();
        let mut cut = 0;
        for window in content.chunks(compression.window_bytes() as usize) {
            encoder.compress(window, &mut out).unwrap();
            cut += out.len();
        }
        encoder.compress(&content, &mut out).unwrap();
        assert!(out.len() < content.len() * 3 / 4, "it is compressible");
        assert!(cut <= out.len() + out.len() * 3 / 100, "{cut} to {}", out.len());
    }
}
