//! The seeds in `tests/corpus/xva`: the malformed archives and sound ones, packed and compressed, and documents as they are. The fuzzer
//! starts from them, and here each of them is put through what the fuzzer checks.
//!
//! A seed's name says what it is. To write them anew after a change of the cases: `UPDATE_CORPUS=1 cargo test`.

#[path = "../../../../fuzz/xva_harness.rs"]
mod harness;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::LazyLock;

use proptest::prelude::*;
use proptest::sample::Index;

use crate as gantry;

use super::super::ChecksumKind;
use super::super::tar_read::looks_like_tar;
use super::archive::{Archive, document, small, xml};
use super::malformed::cases;

/// Longest seed in bytes.
const MAX_SEED: usize = 16 << 10;

fn directory(kind: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/xva").join(kind)
}

/// The packed form of an archive. Headers are sealed, so that a fuzzer gets beyond their checksums.
fn pack(archive: &[u8]) -> Vec<u8> {
    let mut packed = Vec::new();
    let mut rest = archive;
    while let Some(&first) = rest.first() {
        let uniform = rest.chunks_exact(512).take(126).take_while(|c| c.iter().all(|&b| b == first)).count();
        let taken = if uniform > 0 { uniform * 512 } else { rest.len().min(512) };
        if uniform > 0 {
            packed.extend([0x7F + uniform as u8, first]);
        } else {
            let record = &rest[..taken];
            let used = record.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
            let kept = if taken == 512 { used } else { taken };
            for part in record[..kept].chunks(128) {
                packed.push(part.len() as u8 - 1);
                packed.extend_from_slice(part);
            }
            packed.extend((kept < taken).then_some(0xFE));
            packed.extend(looks_like_tar(record).then_some(0xFF));
        }
        rest = &rest[taken..];
    }
    packed
}

fn archives() -> BTreeMap<String, Vec<u8>> {
    let full = Archive::of(&document(&[("Ref:5", 5 << 19)]))
        .block("Ref:5", 0, vec![7; 1 << 20], ChecksumKind::Sha1)
        .block("Ref:5", 1, [], ChecksumKind::Sha1)
        .block("Ref:5", 3, vec![8; 1 << 19], ChecksumKind::Sha1);
    let sound = [
        ("ok-small", small().bytes()),
        ("ok-no-disk", Archive::of(&document(&[])).bytes()),
        ("ok-blocks-of-1-MiB", full.bytes()),
    ];
    let malformed = cases().into_iter().filter(|case| !case.name.starts_with('X'));
    let all = sound.into_iter().map(|(name, bytes)| (name.to_owned(), bytes));
    all.chain(malformed.map(|case| (case.name.to_owned(), case.bytes)))
        .map(|(name, bytes)| (name, pack(&bytes)))
        .collect()
}

/// What the archives with a wrong document hold, and a sound one.
fn documents() -> BTreeMap<String, Vec<u8>> {
    let malformed = cases().into_iter().filter(|case| case.name.starts_with('X')).map(|case| {
        let len = case.bytes[124..135].iter().fold(0, |len, digit| len * 8 + usize::from(digit - b'0'));
        (case.name.to_owned(), case.bytes[512..512 + len].to_vec())
    });
    malformed.chain([("ok".to_owned(), xml(&document(&[("Ref:5", 4096)])))]).collect()
}

/// Archives that the harness compresses. Beside them lie some that other programs have compressed.
fn compressed() -> BTreeMap<String, Vec<u8>> {
    let mut damaged = small();
    damaged.entry("Ref:10/00000003").content[5] ^= 1;
    let (whole, damaged) = (small().bytes(), damaged.bytes());
    let archives = [
        ("small", whole.as_slice()),
        ("cut", whole.get(..whole.len() - 5000).unwrap()),
        ("wrong-checksum", damaged.as_slice()),
        ("text", b"this is no archive".as_slice()),
    ];
    let all = [("plain", 1), ("gzip", 2), ("zstd", 3)].into_iter().flat_map(|(compression, choice)| {
        archives.map(|(name, bytes)| (format!("{compression}-{name}"), [vec![choice], pack(bytes)].concat()))
    });
    all.collect()
}

#[test]
fn the_seeds_are_the_archives_and_documents_of_these_tests() {
    for (directory, seeds) in [
        (directory("archives"), archives()),
        (directory("documents"), documents()),
        (directory("compressed"), compressed()),
    ] {
        if std::env::var_os("UPDATE_CORPUS").is_some() {
            std::fs::create_dir_all(&directory).unwrap();
            for (name, seed) in &seeds {
                std::fs::write(directory.join(name), seed).unwrap();
            }
        }
        for (name, seed) in seeds {
            assert!(seed.len() <= MAX_SEED, "{name} has {} bytes", seed.len());
            let found =
                std::fs::read(directory.join(&name)).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(found == seed, "{name} is another one");
        }
    }
}

/// Also those that a fuzzer found and somebody kept.
#[test]
fn every_seed_passes_what_the_fuzzer_checks() {
    let check = |kind, check: fn(&[u8])| {
        let mut checked = 0;
        for entry in std::fs::read_dir(directory(kind)).unwrap() {
            check(&std::fs::read(entry.unwrap().path()).unwrap());
            checked += 1;
        }
        assert!(checked >= 20, "only {checked} {kind}");
    };
    check("archives", harness::xva_stream);
    check("documents", harness::ova_xml);
    check("compressed", harness::archive);
}

static ARCHIVES: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| archives().into_values().collect());
static DOCUMENTS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| documents().into_values().collect());

static COMPRESSED: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| {
    let kept = std::fs::read_dir(directory("compressed")).unwrap();
    kept.map(|entry| std::fs::read(entry.unwrap().path()).unwrap()).collect()
});

/// Changes bytes, and moves a piece to another place.
fn spoil(mut bytes: Vec<u8>, changes: &[(Index, u8)], from: &Index, to: &Index, len: usize) -> Vec<u8> {
    if bytes.is_empty() {
        return bytes;
    }
    for (at, byte) in changes {
        let at = at.index(bytes.len());
        bytes[at] = *byte;
    }
    let start = from.index(bytes.len());
    let piece: Vec<u8> = bytes.drain(start..(start + len).min(bytes.len())).collect();
    let at = to.index(bytes.len() + 1);
    bytes.splice(at..at, piece);
    bytes
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn what_the_fuzzer_checks_holds_for_spoilt_seeds(
        which in any::<Index>(),
        changes in proptest::collection::vec((any::<Index>(), any::<u8>()), 0..4),
        from in any::<Index>(),
        to in any::<Index>(),
        len in 0usize..300,
    ) {
        harness::xva_stream(&spoil(which.get(&ARCHIVES).clone(), &changes, &from, &to, len));
        harness::archive(&spoil(which.get(&COMPRESSED).clone(), &changes, &from, &to, len));
        harness::ova_xml(&spoil(which.get(&DOCUMENTS).clone(), &changes, &from, &to, len / 4));
    }
}

#[test]
fn packing_loses_nothing() {
    for bytes in [small().bytes(), small().bytes()[..7777].to_vec()] {
        assert!(harness::unpack(&pack(&bytes)) == bytes);
    }
    assert_eq!(harness::unpack(&[0x81, 7, 1, 8, 9]), [vec![7; 1024], vec![8, 9]].concat());
}
