//! Disk images in gzip and zstd: found by their content, and read as what is in them.

use serde_json::Value;

use super::{MIB, child, dynamic, gzip, rules, run_on, zstd};
use crate::formats::vhd::Footer;

#[test]
fn a_vhd_in_any_compression_is_read_as_a_vhd_whatever_its_name() {
    let directory = tempfile::tempdir().unwrap();
    let image = dynamic();
    for (name, bytes, codec) in [
        ("disk.vhd.gz", gzip(&image), "gzip"),
        ("disk.zst", zstd(&image), "zstd"),
        ("disk.raw", zstd(&image), "zstd"),
    ] {
        let (code, text, report) = run_on(directory.path(), name, &bytes);
        assert_eq!((code, report["format"].as_str()), (0, Some("vhd")), "{text}");
        assert!(text.contains(&format!("{name}: dynamic VHD in {codec}, sound\n")), "{text}");
        assert!(text.contains("  blocks        2 present\n"), "{text}");
        assert_eq!(report["virtualSize"], 5 * MIB);
        assert_eq!(report["vhd"]["dataBytes"], 3 * MIB);
        assert_eq!(report["compression"]["plainLength"], image.len());
    }
    let fixed = [vec![1; 1024], Footer::fixed(1024, [1; 16], 0).unwrap().encode().to_vec()].concat();
    let (code, text, report) = run_on(directory.path(), "disk.img.gz", &gzip(&fixed));
    assert_eq!((code, report["vhd"]["kind"].as_str()), (0, Some("fixed")), "{text}");
    assert_eq!(
        (report["vhd"]["dataBytes"].as_u64(), report["virtualSize"].as_u64()),
        (Some(1024), Some(1024))
    );
}

#[test]
fn a_raw_disk_is_told_by_the_name_before_the_ending_of_the_compression() {
    let directory = tempfile::tempdir().unwrap();
    let (code, text, report) = run_on(directory.path(), "disk.RAW.zst", &zstd(&[7; 2048]));
    assert_eq!(
        (code, report["format"].as_str(), report["virtualSize"].as_u64()),
        (0, Some("raw"), Some(2048))
    );
    assert!(text.contains("disk.RAW.zst: raw disk in zstd, sound\n"), "{text}");
    assert!(text.contains("  uncompressed  2048 bytes (2.0 KiB)\n"), "{text}");
    let (code, text, report) = run_on(directory.path(), "disk.raw.gz", &gzip(&[7; 2049]));
    assert_eq!((code, report["problems"][0]["code"].as_str()), (4, Some("raw_size_unaligned")), "{text}");
    let (code, text, _) = run_on(directory.path(), "disk.img.gz", &gzip(&[7; 2048]));
    assert_eq!((code, text.as_str()), (1, ""));
}

/// Two bytes that begin a gzip member may begin a disk as well.
#[test]
fn a_raw_disk_that_begins_somewhat_like_gzip_is_a_raw_disk() {
    let directory = tempfile::tempdir().unwrap();
    let mut disk = [0; 1024];
    disk[..2].copy_from_slice(&[0x1F, 0x8B]);
    let (code, text, report) = run_on(directory.path(), "disk.raw", &disk);
    assert_eq!((code, &report["compression"]), (0, &Value::Null), "{text}");
}

#[test]
fn damage_in_a_compressed_image_is_told_with_both_places() {
    let directory = tempfile::tempdir().unwrap();
    let mut image = dynamic();
    image[600] ^= 1;
    let (code, text, report) = run_on(directory.path(), "bad.vhd.zst", &zstd(&image));
    assert_eq!((code, rules(&report)), (4, vec![("H4".to_owned(), 512 + 36)]), "{text}");
    assert!(report["problems"][0]["fileOffset"].is_u64(), "{text}");
    assert!(text.contains("bad.vhd.zst: VHD in zstd, damaged\n"), "{text}");
    let stream = gzip(&dynamic());
    for (name, cut) in [("cut.vhd.gz", stream.len() - 4), ("cut.raw.gz", 20), ("cut.vhd.gz", 4)] {
        let (code, text, report) = run_on(directory.path(), name, &stream[..cut]);
        assert_eq!(
            (code, report["problems"][0]["code"].as_str()),
            (4, Some("compressed_truncated")),
            "{text}"
        );
        assert_eq!(report["problems"][0]["fileOffset"], cut, "{text}");
        assert_eq!(report["compression"]["plainLength"], Value::Null);
    }
}

#[test]
fn a_vhd_that_cannot_be_read_as_a_stream_is_not_called_damaged() {
    let directory = tempfile::tempdir().unwrap();
    let leaf = child(9, 7, ".\\first.vhd", "first.vhd");
    assert_eq!(run_on(directory.path(), "leaf.vhd.gz", &gzip(&leaf)).0, 1);
}
