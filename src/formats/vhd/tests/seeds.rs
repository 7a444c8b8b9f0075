//! The seeds in `tests/corpus/vhd`: the malformed images and the sound samples, packed. The fuzzer starts from
//! them, and here each of them is put through what the fuzzer checks.
//!
//! A seed's name says what it is. To write them anew after a change of the cases: `UPDATE_CORPUS=1 cargo test`.

#[path = "../../../../fuzz/harness.rs"]
mod harness;

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate as gantry;

use super::malformed::cases;
use super::sample::Sample;

/// Longest seed in bytes.
const MAX_SEED: usize = 16 << 10;

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/vhd")
}

/// The packed form of an image.
fn pack(image: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    let mut rest = image;
    while let Some(&first) = rest.first() {
        let uniform = rest.chunks_exact(512).take(128).take_while(|c| c.iter().all(|&b| b == first)).count();
        let taken = if uniform > 0 {
            packed.extend([0x7F + uniform as u8, first]);
            uniform * 512
        } else {
            let taken = rest.len().min(128);
            packed.push(taken as u8 - 1);
            packed.extend_from_slice(&rest[..taken]);
            taken
        };
        rest = &rest[taken..];
    }
    packed
}

/// Every image of the tests, with the blocks' data made uniform so that it packs well.
fn seeds() -> BTreeMap<String, Vec<u8>> {
    let sound = [
        ("ok-dynamic", Sample::dynamic()),
        ("ok-empty", Sample::empty()),
        ("ok-fixed", Sample::fixed()),
        ("ok-child", Sample::child()),
        ("ok-batmap", Sample::batmap()),
    ];
    let images = sound
        .into_iter()
        .map(|(name, image)| (name.to_owned(), image))
        .chain(cases().into_iter().map(|case| (case.name.to_owned(), case.image)));
    images
        .map(|(name, mut image)| {
            for sector in image.bytes.chunks_exact_mut(512).filter(|s| s.starts_with(&[0xA5])) {
                sector.fill(sector[1] + 1);
            }
            (name, pack(&image.bytes))
        })
        .collect()
}

#[test]
fn the_seeds_are_the_images_of_these_tests() {
    if std::env::var_os("UPDATE_CORPUS").is_some() {
        for (name, packed) in seeds() {
            std::fs::write(directory().join(name), packed).unwrap();
        }
    }
    for (name, packed) in seeds() {
        assert!(packed.len() <= MAX_SEED, "{name} has {} bytes", packed.len());
        let found = std::fs::read(directory().join(&name)).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert_eq!(found, packed, "{name}");
    }
}

/// Also those that a fuzzer found and somebody kept.
#[test]
fn every_seed_passes_what_the_fuzzer_checks() {
    let mut checked = 0;
    for entry in std::fs::read_dir(directory()).unwrap() {
        let packed = std::fs::read(entry.unwrap().path()).unwrap();
        harness::vhd_stream(&packed);
        harness::vhd_open(&packed);
        harness::raw(&packed);
        checked += 1;
    }
    assert!(checked >= cases().len(), "only {checked} seeds");
}

#[test]
fn packing_loses_nothing() {
    let image = Sample::dynamic().bytes;
    assert_eq!(harness::unpack(&pack(&image)), image);
    assert_eq!(harness::unpack(&[0x81, 7]), [7; 1024]);
    assert_eq!(harness::unpack(&[2, 1, 2, 3, 0x7F, 9]), [1, 2, 3, 9]);
}
