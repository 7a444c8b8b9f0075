//! What `gantry check` promises: its exit codes, and that a report says what is wrong and where.

mod archives;
mod compressed;

use std::io::{self, Write as _};
use std::path::Path;

use serde_json::Value;

use super::{CheckArgs, DataArgs, check};
use crate::formats::Piece;
use crate::formats::vhd::{BlockSet, DiskKind, DynamicHeader, Footer, Locator, Platform, VhdLayout};

const MIB: u64 = 1 << 20;

/// The bytes of a dynamic VHD of 5 MiB with blocks 0 and 2.
fn dynamic() -> Vec<u8> {
    let blocks = BlockSet::from_extents(5 * MIB, [0..1, 4 * MIB..5 * MIB]);
    let layout = VhdLayout::new(5 * MIB, blocks, [7; 16], 1).unwrap();
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < layout.len() {
        match layout.piece_at(bytes.len() as u64, u64::MAX) {
            Piece::Bytes(piece) => bytes.extend_from_slice(&piece),
            Piece::Disk { len, .. } => bytes.resize(bytes.len() + len as usize, 0x5A),
            Piece::Zeros(len) => bytes.resize(bytes.len() + len as usize, 0),
            Piece::Digest { .. } => unreachable!("only archives have digests"),
        }
    }
    bytes
}

/// A differencing VHD without blocks, whose parent has that id and one of two names.
fn child(id: u8, parent_id: u8, locator: &str, name: &str) -> Vec<u8> {
    let footer = Footer {
        kind: DiskKind::Differencing,
        creator_application: *b"win ",
        ..Footer::dynamic(5 * MIB, [id; 16], 1).unwrap()
    };
    let mut header = DynamicHeader::new(1536, 3, 2 << 20);
    header.parent_id = [parent_id; 16];
    header.parent_name = name.to_owned();
    let path: Vec<u8> = locator.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let len = path.len() as u32;
    header.locators[2] = Some(Locator { platform: Platform::WindowsRelative, space: 512, len, offset: 2048 });
    let mut bytes = [footer.encode().as_slice(), header.encode().as_slice()].concat();
    bytes.resize(2048, 0xFF);
    bytes.extend(path);
    bytes.resize(2560, 0);
    bytes.extend(footer.encode());
    bytes
}

/// One gzip member.
fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// One zstd frame.
fn zstd(bytes: &[u8]) -> Vec<u8> {
    zstd::encode_all(bytes, 1).unwrap()
}

/// Checks a file: exit code and text, and the same as JSON.
fn run(path: &Path) -> (u8, String, Value) {
    let [text, json] = [false, true].map(|json| {
        let mut out = Vec::new();
        let code = check(
            &CheckArgs { file: Some(path.to_owned()), json, audit: false, data: DataArgs::default() },
            &mut out,
        );
        (code, String::from_utf8(out).unwrap())
    });
    assert_eq!(text.0, json.0, "both forms have the same verdict");
    let value = if json.1.is_empty() { Value::Null } else { serde_json::from_str(&json.1).unwrap() };
    (text.0, text.1, value)
}

/// Writes a file and checks it.
fn run_on(directory: &Path, name: &str, bytes: &[u8]) -> (u8, String, Value) {
    let path = directory.join(name);
    std::fs::write(&path, bytes).unwrap();
    run(&path)
}

fn rules(report: &Value) -> Vec<(String, u64)> {
    let problems = report["problems"].as_array().unwrap().iter();
    problems.map(|p| (p["rule"].as_str().unwrap_or("").to_owned(), p["offset"].as_u64().unwrap())).collect()
}

#[test]
fn a_sound_vhd_is_described() {
    let directory = tempfile::tempdir().unwrap();
    let (code, text, report) = run_on(directory.path(), "disk.vhd", &dynamic());
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("disk.vhd: dynamic VHD, sound\n"), "{text}");
    assert!(text.contains("  virtual size  5242880 bytes (5.0 MiB)\n"), "{text}");
    assert!(text.contains("  blocks        2 of 3, 2097152 bytes (2.0 MiB) each\n"), "{text}");
    assert!(text.contains("  creator       \"tap\" 1.3\n"), "{text}");
    assert!(text.contains("07070707-0707-0707-0707-070707070707"), "{text}");
    assert_eq!((report["sound"].as_bool(), report["virtualSize"].as_u64()), (Some(true), Some(5 * MIB)));
    assert_eq!(
        (report["vhd"]["kind"].as_str(), report["vhd"]["dataBytes"].as_u64()),
        (Some("dynamic"), Some(3 * MIB))
    );
    assert_eq!(
        (report["problems"].clone(), report["notes"].clone()),
        (Value::Array(vec![]), Value::Array(vec![]))
    );
}

#[test]
fn damage_is_named_with_its_place_and_is_exit_code_4() {
    let directory = tempfile::tempdir().unwrap();
    let good = dynamic();
    let tail = good.len() as u64 - 512;
    type Fault = fn(&mut Vec<u8>);
    let faults: [(&str, Fault, &str, u64); 7] = [
        ("header", |b| b[600] ^= 1, "H4", 512 + 36),
        ("overlap", |b| b.copy_within(1536..1540, 1540), "B6", 1540),
        ("entry", |b| b[1540..1544].fill(0x70), "B5", 1540),
        ("extra", |b| b.push(0), "F2", tail + 1),
        ("tail", |b| *b.last_mut().unwrap() ^= 1, "F3", tail + 64),
        ("batmap", |b| b[2560] ^= 1, "M5", 2048 + 24),
        ("short", |b| b.truncate(2_000_000), "B5", 1536),
    ];
    for (name, fault, rule, offset) in faults {
        let mut bytes = good.clone();
        fault(&mut bytes);
        let (code, text, report) = run_on(directory.path(), "bad.vhd", &bytes);
        assert_eq!(code, 4, "{name}: {text}");
        assert_eq!(rules(&report).last(), Some(&(rule.to_owned(), offset)), "{name}: {text}");
        assert!(text.contains("bad.vhd: ") && text.contains(", damaged\n"), "{name}: {text}");
        assert!(
            text.contains(&format!("byte {offset}")) && text.contains(&format!("({rule})\n")),
            "{name}: {text}"
        );
    }
}

#[test]
fn data_under_clear_bits_is_worth_a_note() {
    let directory = tempfile::tempdir().unwrap();
    let mut bytes = dynamic();
    bytes[3072] = 0x7F;
    let (code, text, report) = run_on(directory.path(), "stale.vhd", &bytes);
    assert_eq!(code, 0, "{text}");
    assert_eq!(report["notes"][0]["code"], "vhd_data_under_clear_bits");
    assert_eq!(report["notes"][0]["offset"], 3584);
    assert_eq!(report["vhd"]["dataBytes"], 3 * MIB - 512);
    assert!(text.contains("note: 1 sectors hold data"), "{text}");
    bytes[3584..4096].fill(0);
    let (_, _, report) = run_on(directory.path(), "clear.vhd", &bytes);
    assert_eq!(report["notes"], Value::Array(vec![]));
}

#[test]
fn content_says_what_a_file_is_before_its_name_does() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(run_on(directory.path(), "disk.raw", &dynamic()).2["format"], "vhd");
    let fixed = [vec![1; 1024], Footer::fixed(1024, [1; 16], 0).unwrap().encode().to_vec()].concat();
    let (code, text, report) = run_on(directory.path(), "disk.img", &fixed);
    assert_eq!((code, report["vhd"]["kind"].as_str()), (0, Some("fixed")), "{text}");
    assert_eq!(report["vhd"]["dataBytes"], 1024);
    let (code, _, report) = run_on(directory.path(), "no.vhd", &[0; 4096]);
    assert_eq!((code, rules(&report)), (4, vec![("F2".to_owned(), 3584)]));
    let (code, _, report) = run_on(directory.path(), "tiny.vhd", &[0; 10]);
    assert_eq!((code, rules(&report)), (4, vec![("F1".to_owned(), 0)]));
}

#[test]
fn a_raw_disk_is_whole_sectors() {
    let directory = tempfile::tempdir().unwrap();
    let (code, text, report) = run_on(directory.path(), "disk.raw", &[0; 2048]);
    assert_eq!(
        (code, report["format"].as_str(), report["virtualSize"].as_u64()),
        (0, Some("raw"), Some(2048))
    );
    assert!(text.contains("disk.raw: raw disk, sound\n"), "{text}");
    let (code, text, report) = run_on(directory.path(), "odd.raw", &[0; 2049]);
    assert_eq!((code, report["problems"][0]["code"].as_str()), (4, Some("raw_size_unaligned")), "{text}");
    assert!(text.contains("at byte 2048"), "{text}");
    assert_eq!(run_on(directory.path(), "empty.raw", &[]).0, 4);
}

#[test]
fn what_cannot_be_read_or_told_is_exit_code_1() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(run(&directory.path().join("none.vhd")).0, 1);
    assert_eq!(run(directory.path()).0, 1);
    assert_eq!(run_on(directory.path(), "notes.txt", b"nothing").0, 1);
}

#[test]
fn a_parent_is_looked_up_beside_the_file_and_its_id_compared() {
    let directory = tempfile::tempdir().unwrap();
    let at = |name: &str| directory.path().join(name);
    let leaf = child(9, 7, ".\\first.vhd", "/srv/second.vhd");
    let (code, text, report) = run_on(directory.path(), "leaf.vhd", &leaf);
    assert_eq!((code, rules(&report)), (4, vec![("P6".to_owned(), 552)]), "{text}");
    assert!(text.contains("expected one of first.vhd, second.vhd"), "{text}");
    assert_eq!(report["vhd"]["parent"]["found"], Value::Null);

    std::fs::write(at("first.vhd"), child(8, 5, "x", "x")).unwrap();
    let (code, text, report) = run(&at("leaf.vhd"));
    assert_eq!((code, rules(&report)), (4, vec![("P4".to_owned(), 552)]), "{text}");

    // The second name is tried when the first one is another disk's.
    std::fs::write(at("second.vhd"), dynamic()).unwrap();
    let (code, text, report) = run(&at("leaf.vhd"));
    assert_eq!((code, report["vhd"]["parent"]["found"].as_str()), (0, Some("second.vhd")), "{text}");
    assert!(text.contains("found as second.vhd"), "{text}");

    std::fs::write(at("second.vhd"), &dynamic()[..4096]).unwrap();
    std::fs::remove_file(at("first.vhd")).unwrap();
    let (code, _, report) = run(&at("leaf.vhd"));
    assert_eq!((code, report["problems"][0]["file"].as_str()), (4, Some("second.vhd")));
}

#[test]
fn chains_are_followed_and_their_cycles_and_depth_refused() {
    let directory = tempfile::tempdir().unwrap();
    let at = |id: u8| directory.path().join(format!("{id}.vhd"));
    std::fs::write(at(7), dynamic()).unwrap();
    for id in 8..=39 {
        let name = format!("{}.vhd", id - 1);
        std::fs::write(at(id), child(id, id - 1, &name, "")).unwrap();
    }
    let (code, text, report) = run(&at(38));
    assert_eq!((code, report["vhd"]["chain"].as_array().unwrap().len()), (0, 31), "{text}");
    let (code, text, report) = run(&at(39));
    assert_eq!((code, rules(&report)[0].0.as_str()), (4, "P3"), "{text}");
    std::fs::write(at(8), child(8, 10, "10.vhd", "")).unwrap();
    let (code, text, report) = run(&at(12));
    assert_eq!((code, rules(&report)[0].0.as_str()), (4, "P5"), "{text}");
    assert_eq!(report["problems"][0]["file"], "8.vhd");
}

/// Takes no byte.
struct Lost(io::ErrorKind);

impl io::Write for Lost {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(self.0.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn lost_output_is_a_failure_and_a_closed_pipe_is_quiet() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("disk.raw");
    std::fs::write(&file, [0; 512]).unwrap();
    let args = CheckArgs { file: Some(file), json: false, audit: false, data: DataArgs::default() };
    assert_eq!(check(&args, &mut Lost(io::ErrorKind::StorageFull)), 1);
    assert_eq!(check(&args, &mut Lost(io::ErrorKind::BrokenPipe)), 0);
}
