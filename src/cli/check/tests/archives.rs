//! XVA archives, plain and compressed: what is told of sound ones, and of the first fault.

use serde_json::{Value, json};

use super::{gzip, run_on, zstd};
use crate::formats::frames::{Codec, Compression, FrameEncoder, FrameIndex, SeekTable};
use crate::formats::xva::ChecksumKind;
use crate::formats::xva::Value as XmlValue;
use crate::formats::xva::tests::archive::{Archive, document, object, small};

/// A problem's rule, code, member and offset.
fn problem(report: &Value) -> (&str, &str, &str, u64) {
    let text = |name: &str| report["problems"][0][name].as_str().unwrap_or("");
    let count = report["problems"].as_array().unwrap().len();
    assert_eq!(count, 1, "only the first fault can be told: {report}");
    (text("rule"), text("code"), text("member"), report["problems"][0]["offset"].as_u64().unwrap())
}

/// A zstd stream of frames of `window` bytes with a seek table, as Gantry exports it.
fn seekable(plain: &[u8], window: usize) -> (Vec<u8>, u64) {
    let mut encoder = FrameEncoder::new(Compression::default_of(Codec::Zstd)).unwrap();
    let (mut stream, mut frame, mut index) = (Vec::new(), Vec::new(), FrameIndex::new());
    for part in plain.chunks(window) {
        encoder.compress(part, &mut frame).unwrap();
        index.push_frame(&frame).unwrap();
        stream.extend_from_slice(&frame);
    }
    let table = SeekTable::new(&index, window as u64, plain.len() as u64).unwrap();
    stream.extend(table.part(0, usize::MAX));
    (stream, index.frames())
}

#[test]
fn a_sound_archive_is_described_in_any_compression() {
    let directory = tempfile::tempdir().unwrap();
    let plain = small().bytes();
    let files = [("vm.xva", plain.clone(), None), ("vm.bin", plain.clone(), None)]
        .into_iter()
        .chain([
            ("vm.xva.gz", gzip(&plain), Some(("gzip", 1))),
            ("two.xva", [gzip(&plain[..9000]), gzip(&plain[9000..])].concat(), Some(("gzip", 2))),
            ("vm", zstd(&plain), Some(("zstd", 1))),
        ])
        .collect::<Vec<_>>();
    for (name, bytes, compression) in files {
        let (code, text, report) = run_on(directory.path(), name, &bytes);
        assert_eq!((code, report["sound"].as_bool()), (0, Some(true)), "{name}: {text}");
        assert_eq!(
            (report["format"].as_str(), report["fileLength"].as_u64()),
            (Some("xva"), Some(bytes.len() as u64))
        );
        let xva = &report["xva"];
        assert_eq!(
            [&xva["product"], &xva["version"], &xva["host"], &xva["date"], &xva["xapi"], &xva["checksums"]],
            ["XCP-ng", "8.3.0", "host", "2026-01-31", "25.6", "xxhash"],
        );
        assert_eq!(
            (xva["exportVersion"].as_i64(), xva["tarLength"].as_u64()),
            (Some(2), Some(plain.len() as u64))
        );
        assert_eq!(xva["vms"], json!([{"kind": "vm", "name": "a VM", "uuid": ""}]));
        let disk = &xva["disks"][0];
        assert_eq!((disk["id"].as_str(), disk["whole"].as_bool()), (Some("Ref:10"), Some(true)));
        let counts = ["virtualSize", "blockBytes", "blocks", "presentBlocks", "dataBytes"];
        assert_eq!(counts.map(|name| disk[name].as_u64().unwrap()), [22528, 4096, 6, 4, 14336]);
        assert_eq!(disk["usedBy"], json!([{"vm": "a VM", "vmUuid": "", "position": "0"}]));
        assert_eq!(xva["disks"].as_array().unwrap().len(), 2);
        assert!(text.contains("  blocks      4 of 6, 4096 bytes (4.0 KiB) each\n"), "{text}");
        assert!(text.contains("  written by    XCP-ng 8.3.0 (build 1) on host, 2026-01-31\n"), "{text}");
        let Some((codec, frames)) = compression else {
            assert_eq!(report["compression"], Value::Null);
            assert!(text.contains(&format!("{name}: XVA archive, sound\n")), "{text}");
            continue;
        };
        assert!(text.contains(&format!("{name}: XVA archive in {codec}, sound\n")), "{text}");
        let expected =
            json!({"codec": codec, "frames": frames, "seekable": false, "plainLength": plain.len()});
        assert_eq!(report["compression"], expected);
    }
}

#[test]
fn a_seek_table_is_told_and_compared_with_the_frames() {
    let directory = tempfile::tempdir().unwrap();
    let (stream, frames) = seekable(&small().bytes(), 10_000);
    let (code, text, report) = run_on(directory.path(), "vm.xva", &stream);
    assert_eq!((code, report["compression"]["frames"].as_u64()), (0, Some(frames)), "{text}");
    assert!(text.contains(&format!("  compression   zstd, {frames} frames, seekable\n")), "{text}");
    let mut wrong = stream.clone();
    let entry = stream.len() - 9 - 8;
    wrong[entry] ^= 1;
    let (code, text, report) = run_on(directory.path(), "vm.xva", &wrong);
    assert_eq!((code, report["compression"]["seekable"].as_bool()), (0, Some(false)), "{text}");
    assert_eq!(report["notes"][0]["code"], "zstd_seek_table_wrong");
}

#[test]
fn a_flipped_byte_in_a_block_names_the_member_whose_checksum_is_wrong() {
    let directory = tempfile::tempdir().unwrap();
    let archive = small();
    let mut bytes = archive.bytes();
    bytes[archive.offset("Ref:10/00000003") as usize + 512 + 100] ^= 1;
    let checksum = archive.offset("Ref:10/00000003.xxhash");
    let expected = ("D12", "xva_checksum_mismatch", "Ref:10/00000003.xxhash", checksum);
    let (code, text, report) = run_on(directory.path(), "bad.xva", &bytes);
    assert_eq!((code, problem(&report)), (4, expected), "{text}");
    assert_eq!(report["problems"][0]["fileOffset"], Value::Null);
    assert!(text.contains("bad.xva: XVA archive, damaged\n") && text.contains("(D12)\n"), "{text}");
    assert_eq!(report["xva"]["disks"][0]["whole"], false);
    assert_eq!(report["xva"]["tarLength"], Value::Null);
    assert!(text.contains("2 of 6, 4096 bytes (4.0 KiB) each, not read to its end\n"), "{text}");
    for compressed in [gzip(&bytes), zstd(&bytes)] {
        let (code, text, report) = run_on(directory.path(), "bad.xva", &compressed);
        assert_eq!((code, problem(&report)), (4, expected), "{text}");
        let at = report["problems"][0]["fileOffset"].as_u64().unwrap();
        assert!(at > 0 && at <= compressed.len() as u64, "{text}");
        assert!(text.contains(&format!("; seen at byte {at} of the ")), "{text}");
    }
}

#[test]
fn damage_to_the_compression_is_told_with_its_place_in_the_file() {
    let directory = tempfile::tempdir().unwrap();
    let mut stream = seekable(&small().bytes(), 10_000).0;
    let middle = stream.len() / 2;
    stream[middle] ^= 0x55;
    let (code, text, report) = run_on(directory.path(), "bad.xva.zst", &stream);
    assert_eq!((code, problem(&report).1), (4, "compressed_damaged"), "{text}");
    assert!(report["problems"][0]["fileOffset"].as_u64().unwrap() <= stream.len() as u64);
    assert!(text.contains("read whole\n"), "{text}");
    assert_eq!(report["compression"]["seekable"], Value::Null, "the table was not compared with anything");
    assert!(!text.contains("; seen at"), "the message names the place itself: {text}");
}

#[test]
fn a_truncated_archive_says_where_it_ends_and_which_disk_is_not_whole() {
    let directory = tempfile::tempdir().unwrap();
    let archive = small();
    let bytes = archive.bytes();
    let inside = archive.offset("Ref:10/00000004") + 512 + 1000;
    let (code, text, report) = run_on(directory.path(), "cut.xva", &bytes[..inside as usize]);
    assert_eq!((code, problem(&report)), (4, ("T1", "xva_truncated", "Ref:10/00000004", inside)), "{text}");
    let between = archive.offset("Ref:2/00000000");
    let (code, text, report) = run_on(directory.path(), "cut.xva", &bytes[..between as usize]);
    assert_eq!((code, problem(&report).0, problem(&report).3), (4, "D1", between), "{text}");
    let stream = zstd(&bytes);
    let cut = stream.len() - 9;
    let (code, text, report) = run_on(directory.path(), "cut.xva", &stream[..cut]);
    assert_eq!((code, problem(&report).1), (4, "compressed_truncated"), "{text}");
    assert_eq!(report["problems"][0]["fileOffset"], cut);
    for length in [0, 1, 3, 100] {
        let (code, text, _) = run_on(directory.path(), "cut.xva", &bytes[..length]);
        assert_eq!(code, 4, "{length}: {text}");
        let (code, text, _) = run_on(directory.path(), "cut.xva", &stream[..length]);
        assert_eq!(code, 4, "{length}: {text}");
    }
}

#[test]
fn what_is_no_archive_is_damaged_when_its_name_says_that_it_is_one() {
    let directory = tempfile::tempdir().unwrap();
    let (code, text, report) = run_on(directory.path(), "text.xva", &[b'x'; 4096]);
    assert_eq!((code, problem(&report).1), (4, "xva_unknown_format"), "{text}");
    assert_eq!(run_on(directory.path(), "text.bin", &[b'x'; 4096]).0, 1);
    assert_eq!(run_on(directory.path(), "text.xva.gz", &gzip(&[b'x'; 4096])).0, 4);
}

#[test]
fn garbage_behind_the_end_is_damage_and_a_missing_end_is_a_note() {
    let directory = tempfile::tempdir().unwrap();
    let mut archive = small();
    let end = archive.bytes().len() as u64;
    archive.end.extend([7; 3000]);
    let (code, text, report) = run_on(directory.path(), "long.xva", &archive.bytes());
    assert_eq!((code, problem(&report).1, problem(&report).3), (4, "xva_trailing_data", end), "{text}");
    archive.end.clear();
    let (code, text, report) = run_on(directory.path(), "short.xva", &archive.bytes());
    assert_eq!((code, report["notes"][0]["code"].as_str()), (0, Some("xva_no_end_marker")), "{text}");
    assert_eq!(
        (report["notes"][0]["offset"].as_u64(), report["xva"]["endMarker"].as_bool()),
        (Some(end - 1024), Some(false))
    );
}

#[test]
fn an_archive_without_disks_is_sound() {
    let directory = tempfile::tempdir().unwrap();
    let (code, text, report) = run_on(directory.path(), "vm.xva", &Archive::of(&document(&[])).bytes());
    assert_eq!(
        (code, &report["xva"]["disks"], &report["xva"]["checksums"]),
        (0, &json!([]), &Value::Null),
        "{text}"
    );
    assert!(text.contains("  disks         none\n") && text.contains("  checksums     none\n"), "{text}");
}

#[test]
fn snapshots_templates_and_suspend_images_are_told_apart() {
    let directory = tempfile::tempdir().unwrap();
    let mut document = document(&[("Ref:5", 4096)]);
    let mut vm = |id, name, flags: &[&str], suspend| {
        let members = [("name_label", name), ("uuid", id), ("suspend_VDI", suspend)];
        let mut vm = object("VM", id, &members);
        flags.iter().for_each(|flag| vm.snapshot.set(flag, XmlValue::Bool(true)));
        document.objects.push(vm);
    };
    vm("Ref:20", "before", &["is_a_snapshot", "is_a_template"], "OpaqueRef:NULL");
    vm("Ref:21", "golden", &["is_a_template"], "");
    vm("Ref:22", "asleep", &[], "Ref:6");
    let memory =
        [("SR", "Ref:1"), ("virtual_size", "4096"), ("type", "Suspend"), ("name_label", "\u{202e}2J")];
    document.objects.push(object("VDI", "Ref:6", &memory));
    let bytes = Archive::of(&document)
        .block("Ref:5", 0, [1; 4096], ChecksumKind::Sha1)
        .xxh("Ref:6", 0, [2; 4096])
        .bytes();
    let (code, text, report) = run_on(directory.path(), "vm.xva", &bytes);
    let all = |list: &str, member: &str| {
        report["xva"][list].as_array().unwrap().iter().map(|item| item[member].clone()).collect::<Value>()
    };
    assert_eq!((code, all("vms", "kind")), (0, json!(["vm", "snapshot", "template", "vm"])), "{text}");
    assert_eq!(all("disks", "suspendImage"), json!([false, true]));
    assert_eq!(report["xva"]["checksums"], "mixed");
    assert_eq!(report["xva"]["disks"][1]["usedBy"], json!([{"vm": "asleep", "vmUuid": "Ref:22"}]));
    assert!(text.contains("  snapshot      \"before\" Ref:20\n"), "{text}");
    assert!(text.contains("  suspend image \"\\u{202e}2J\" , Ref:6 in the archive\n"), "{text}");
    assert!(!text.contains('\u{202e}'), "nothing in it is for the terminal to obey");
}
