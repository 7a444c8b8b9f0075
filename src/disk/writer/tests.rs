use super::*;
use crate::disk::open::open_disk;
use proptest::prelude::*;
use tempfile::TempDir;

const IDENTITY: VhdIdentity = VhdIdentity { unique_id: [0x5A; 16], timestamp: 700_000_000 };
const MIB: u64 = 1 << 20;

fn writer(dir: &TempDir, format: DiskFormat, size: Option<u64>) -> Result<DiskWriter, DiskError> {
    DiskWriter::create(&dir.path().join("disk"), format, size, IDENTITY)
}

fn read_all(dir: &TempDir, format: DiskFormat) -> Vec<u8> {
    let disk = open_disk(&dir.path().join("disk"), format).unwrap();
    let mut bytes = vec![0xEE; disk.virtual_size() as usize];
    disk.reader().read_at(0, &mut bytes).unwrap();
    bytes
}

/// What one write puts down: a byte repeated, or a mix of data and zero pages.
#[derive(Debug, Clone)]
struct Put {
    offset: u64,
    data: Vec<u8>,
}

fn put(size: u64) -> impl Strategy<Value = Put> {
    let offset = prop_oneof![0..size, (0..size / 4096).prop_map(|page| page * 4096)];
    let len = prop_oneof![1..2000_usize, 1..200_000_usize, Just(1_usize << 20), Just(3_usize << 20)];
    (offset, len, 0..4_u8, any::<u8>()).prop_map(move |(offset, len, shape, seed)| {
        let mut data = vec![0; len.min((size - offset) as usize)];
        for (at, bytes) in data.chunks_mut(4096).enumerate() {
            match shape {
                0 => {}
                1 => bytes.fill(seed | 1),
                // Runs of zeros of 4, 8, 12… KiB between data.
                2 if at % 7 < 1 + usize::from(seed % 6) => {}
                2 => bytes.fill(at as u8 | 1),
                // A byte here and there.
                _ if at % 3 == 0 => bytes[bytes.len() / 2] = seed | 1,
                _ => {}
            }
        }
        Put { offset, data }
    })
}

fn check_random_writes(
    format: DiskFormat,
    known: bool,
    size: u64,
    puts: &[Put],
) -> Result<(), TestCaseError> {
    let dir = tempfile::tempdir().unwrap();
    let mut model = vec![0; size as usize];
    let mut writer = writer(&dir, format, known.then_some(size)).unwrap();
    for Put { offset, data } in puts {
        writer.write(*offset, data).unwrap();
        model[*offset as usize..][..data.len()].copy_from_slice(data);
    }
    let written = writer.finish(size).unwrap();
    prop_assert!(read_all(&dir, format) == model, "content differs");
    for extent in written.map.extents().filter(|extent| !extent.data) {
        let range = extent.start as usize..extent.end() as usize;
        prop_assert!(is_zero(&model[range]), "{extent:?} is promised to be zero");
    }
    prop_assert_eq!(written.virtual_size, size);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn writes_in_any_order_and_over_each_other_give_what_a_plain_buffer_gives(
        raw in any::<bool>(),
        known in any::<bool>(),
        puts in prop::collection::vec(put(7 * MIB + 1536), 0..9),
    ) {
        let format = if raw { DiskFormat::Raw } else { DiskFormat::Vhd };
        check_random_writes(format, known, 7 * MIB + 1536, &puts)?;
    }

    #[test]
    fn how_the_data_is_cut_changes_neither_content_nor_map(cuts in prop::collection::vec(1..90_000_usize, 1..60)) {
        let mut body = vec![0; 4 << 20];
        for (page, bytes) in body.chunks_mut(4096).enumerate() {
            if page % 50 < 13 { bytes.fill(page as u8 | 1) }
        }
        let whole = tempfile::tempdir().unwrap();
        let mut in_one = writer(&whole, DiskFormat::Raw, None).unwrap();
        in_one.write(0, &body).unwrap();
        let cut = tempfile::tempdir().unwrap();
        let mut in_pieces = writer(&cut, DiskFormat::Raw, None).unwrap();
        let (mut at, mut sizes) = (0, cuts.iter().cycle());
        while at < body.len() {
            let end = (at + sizes.next().unwrap()).min(body.len());
            in_pieces.write(at as u64, &body[at..end]).unwrap();
            at = end;
        }
        let (one, pieces) = (in_one.finish(4 * MIB).unwrap(), in_pieces.finish(4 * MIB).unwrap());
        prop_assert_eq!(one, pieces);
        prop_assert!(read_all(&cut, DiskFormat::Raw) == body);
    }
}

#[test]
fn zeros_become_holes_and_are_not_counted_as_written() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = writer(&dir, DiskFormat::Raw, None).unwrap();
    writer.write(0, &vec![0; 64 << 20]).unwrap();
    writer.write(64 * MIB, &[1; 4096]).unwrap();
    writer.write(64 * MIB + 4096, &vec![0; 8 << 20]).unwrap();
    let written = writer.finish(100 * MIB).unwrap();
    assert_eq!(written.map.data_bytes(), 64 << 10);
    assert!(written.physical_bytes <= 64 << 10, "{}", written.physical_bytes);
    assert_eq!(std::fs::metadata(dir.path().join("disk")).unwrap().len(), 100 * MIB);
}

#[test]
fn small_pieces_are_gathered_into_writes_of_a_mebibyte() {
    let dir = tempfile::tempdir().unwrap();
    let mut writer = writer(&dir, DiskFormat::Raw, None).unwrap();
    let mut seen = Vec::new();
    for at in 0..3 * 1024 {
        writer.write(at * 1024, &[7; 1024]).unwrap();
        if seen.last() != Some(&writer.bytes_written()) {
            seen.push(writer.bytes_written());
        }
    }
    assert_eq!(seen, [0, MIB, 2 * MIB, 3 * MIB]);
}

#[test]
fn a_size_that_no_disk_has_is_refused_before_a_file_is_made() {
    let dir = tempfile::tempdir().unwrap();
    for size in [0, 511, 513, u64::MAX, 1 << 63] {
        for format in [DiskFormat::Raw, DiskFormat::Vhd] {
            let found = writer(&dir, format, Some(size));
            assert!(matches!(found, Err(DiskError::BadSize { .. })), "{size}: {found:?}");
        }
    }
    let found = writer(&dir, DiskFormat::Vhd, Some((2040 << 30) + 512));
    assert!(matches!(found, Err(DiskError::VhdLimit { .. })), "{found:?}");
    assert!(!dir.path().join("disk").exists());
}

#[test]
fn data_past_the_size_is_refused_and_so_is_another_size_at_the_end() {
    let dir = tempfile::tempdir().unwrap();
    let mut known = writer(&dir, DiskFormat::Raw, Some(4096)).unwrap();
    let found = known.write(4095, &[1, 2]);
    assert!(matches!(found, Err(DiskError::BeyondEnd { offset: 4095, len: 2, size: 4096 })), "{found:?}");
    let found = known.write(u64::MAX, &[1, 2]);
    assert!(matches!(found, Err(DiskError::BeyondEnd { .. })), "{found:?}");
    let found = known.finish(8192);
    assert!(matches!(found, Err(DiskError::SizeMismatch { expected: 4096, found: 8192 })), "{found:?}");

    let dir = tempfile::tempdir().unwrap();
    let mut unknown = writer(&dir, DiskFormat::Vhd, None).unwrap();
    let found = unknown.write((2040 << 30) - 1, &[0, 0]);
    assert!(matches!(found, Err(DiskError::VhdLimit { .. })), "{found:?}");
    unknown.write(8192, &[0]).unwrap();
    let found = unknown.finish(8192);
    assert!(matches!(found, Err(DiskError::BeyondEnd { len: 8193, size: 8192, .. })), "{found:?}");
}

#[test]
fn a_raw_disk_that_the_file_system_cannot_hold_is_refused_at_once() {
    let dir = tempfile::tempdir_in("/dev/shm").unwrap();
    let disk = dir.path().join("disk");
    // tmpfs takes any size that a file can have; ext4 ends at 16 TiB. Either way nothing is cut short.
    match DiskWriter::create(&disk, DiskFormat::Raw, Some(MAX_RAW_BYTES), IDENTITY) {
        Ok(writer) => {
            let written = writer.finish(MAX_RAW_BYTES).unwrap();
            assert_eq!(std::fs::metadata(disk).unwrap().len(), MAX_RAW_BYTES);
            assert_eq!(written.map.data_bytes(), 0);
        }
        Err(error) => {
            assert!(matches!(error, DiskError::FileTooLarge { size: MAX_RAW_BYTES, .. }), "{error:?}")
        }
    }
}
