//! Sound archives, and archives cut in every way.

use bytes::Bytes;
use proptest::prelude::*;

use super::super::{
    ChecksumKind, Document, Rule, Value, XvaDecoder, XvaError, XvaEvent, XvaLimits, XvaSummary,
};
use super::archive::{Archive, Entry, document, object, small, xml};

const LIMITS: XvaLimits = XvaLimits { largest_disk: 1 << 40 };

/// A disk as it was read: its size, and runs of bytes without regard to how they were cut.
pub type Disk = (u64, Vec<(u64, Vec<u8>)>);

/// Reads an archive in pieces of `cut` bytes.
pub fn read(archive: &[u8], cut: usize) -> Result<(Document, Vec<Disk>, XvaSummary), XvaError> {
    let mut pieces = archive.chunks(cut.min(archive.len()).max(1));
    read_pieces(std::iter::from_fn(|| pieces.next().map(Bytes::copy_from_slice)))
}

fn read_pieces(
    pieces: impl IntoIterator<Item = Bytes>,
) -> Result<(Document, Vec<Disk>, XvaSummary), XvaError> {
    let mut decoder = XvaDecoder::new(LIMITS);
    let (mut document, mut disks, mut open) = (None, Vec::<Disk>::new(), false);
    for piece in pieces {
        decoder.push(piece);
        loop {
            let event = match decoder.next_event() {
                Ok(Some(event)) => event,
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(decoder.next_event().as_ref(), Err(&error));
                    assert_eq!(decoder.finish().as_ref(), Err(&error));
                    return Err(error);
                }
            };
            match event {
                XvaEvent::Document(found) => assert!(document.replace(*found).is_none()),
                XvaEvent::DiskBegin { disk, size } => {
                    assert!(!open && disk == disks.len() && document.is_some());
                    disks.push((size, Vec::new()));
                    open = true;
                }
                XvaEvent::Data { disk, offset, data } => {
                    assert!(open && disk + 1 == disks.len() && !data.is_empty());
                    match disks[disk].1.last_mut() {
                        Some((start, run)) if *start + run.len() as u64 == offset => run.extend(data),
                        _ => disks[disk].1.push((offset, data.to_vec())),
                    }
                }
                XvaEvent::DiskEnd { disk } => {
                    assert!(open && disk + 1 == disks.len());
                    open = false;
                }
            }
        }
    }
    let position = decoder.position();
    let summary = decoder.finish()?;
    assert!(!open && summary.disks == disks.len() && summary.length == position);
    Ok((document.unwrap(), disks, summary))
}

fn whole(archive: &Archive) -> Vec<Disk> {
    read(&archive.bytes(), usize::MAX).unwrap().1
}

fn mib(count: usize, fill: u8) -> Vec<u8> {
    vec![fill; count << 20]
}

#[test]
fn blocks_come_at_their_places_with_the_first_block_as_the_unit_of_gaps() {
    let disks = whole(&small());
    let first = vec![(0, vec![1; 4096]), (3 * 4096, [[2; 4096], [3; 4096]].concat())];
    let mut first: Disk = (4096 * 5 + 2048, first);
    first.1[1].1.extend([4; 2048]);
    assert_eq!(disks, [first, (4096, vec![(0, vec![5; 4096])])]);
}

#[test]
fn each_disk_has_a_unit_of_its_own() {
    let document = document(&[("Ref:1a", 4096), ("Ref:2", 5 << 20)]);
    let archive = Archive::of(&document).xxh("Ref:1a", 0, [1; 4096]).xxh("Ref:2", 0, mib(1, 2)).xxh(
        "Ref:2",
        4,
        mib(1, 3),
    );
    let disks = whole(&archive);
    assert_eq!(disks[1].1, [(0, mib(1, 2)), (4 << 20, mib(1, 3))]);
}

#[test]
fn the_last_block_is_short_or_padded_with_zeros() {
    let document = document(&[("Ref:5", (1 << 20) + 512)]);
    let start = Archive::of(&document).xxh("Ref:5", 0, mib(1, 1));
    let mut padded = vec![2; 512];
    padded.resize(1 << 20, 0);
    let short = whole(&start.clone().xxh("Ref:5", 1, [2; 512]));
    assert_eq!(short, whole(&start.xxh("Ref:5", 1, padded)));
    assert_eq!(short[0].1, [(0, [mib(1, 1), vec![2; 512]].concat())]);
    // Also when it is the only one.
    let document = super::archive::document(&[("Ref:5", 512)]);
    let mut padded = vec![3; 512];
    padded.resize(1 << 20, 0);
    assert_eq!(whole(&Archive::of(&document).xxh("Ref:5", 0, padded)), [(512, vec![(0, vec![3; 512])])]);
}

#[test]
fn empty_blocks_use_up_a_number_and_move_nothing() {
    let document = document(&[("Ref:5", 8 * 4096)]);
    let archive = Archive::of(&document)
        .xxh("Ref:5", 0, [1; 4096])
        .xxh("Ref:5", 3, [])
        .xxh("Ref:5", 5, [])
        .xxh("Ref:5", 6, [2; 4096])
        .xxh("Ref:5", 9, [3; 4096]);
    // Two zeros before 3, one before 5; 3 and 5 themselves are nothing; two before 9.
    assert_eq!(
        whole(&archive)[0].1,
        [(0, vec![1; 4096]), (4 * 4096, vec![2; 4096]), (7 * 4096, vec![3; 4096])]
    );
}

#[test]
fn both_kinds_of_checksums_are_verified_and_may_be_mixed() {
    let document = document(&[("Ref:5", 3 * 4096)]);
    let archive = Archive::of(&document)
        .block("Ref:5", 0, [1; 4096], ChecksumKind::Sha1)
        .block("Ref:5", 1, [2; 4096], ChecksumKind::Xxh64)
        .block("Ref:5", 2, [3; 4096], ChecksumKind::Sha1);
    assert_eq!(whole(&archive)[0].1[0].1.len(), 3 * 4096);
    for nth in 0..3 {
        let mut spoilt = archive.clone();
        spoilt.members[1 + 2 * nth].content[77] ^= 0x10;
        let error = read(&spoilt.bytes(), 4096).unwrap_err();
        assert_eq!(
            (error.rule(), error.offset()),
            (Rule::D12, spoilt.offset(&spoilt.members[2 + 2 * nth].name))
        );
    }
}

#[test]
fn a_suspend_image_is_a_disk_and_a_cd_is_none() {
    let mut document = document(&[("Ref:5", 4096)]);
    let suspend = [("SR", "Ref:1"), ("virtual_size", "8192"), ("type", "suspend")];
    document.objects.push(object("VDI", "Ref:40", &suspend));
    let archive = Archive::of(&document)
        .xxh("Ref:40", 0, [1; 4096])
        .xxh("Ref:40", 1, [2; 4096])
        .xxh("Ref:5", 0, [3; 4096]);
    assert_eq!(whole(&archive).iter().map(|disk| disk.0).collect::<Vec<_>>(), [8192, 4096]);
}

#[test]
fn a_vm_may_have_no_disks() {
    let (found, disks, summary) = read(&Archive::of(&document(&[])).bytes(), 7).unwrap();
    assert_eq!((found, disks.len(), summary.blocks), (document(&[]), 0, 0));
}

#[test]
fn the_end_marker_may_be_missing_cut_or_long() {
    let mut archive = small();
    for (zeros, marked) in [(0, false), (100, false), (512, true), (1024, true), (10 << 10, true)] {
        archive.end = vec![0; zeros];
        let summary = read(&archive.bytes(), usize::MAX).unwrap().2;
        assert_eq!((summary.end_marker, summary.disks, summary.blocks), (marked, 2, 5));
    }
}

#[test]
fn long_names_are_taken_from_gnu_and_pax_headers() {
    let id = format!("OpaqueRef:{}", "x".repeat(120));
    let document = document(&[(&id, 2 * 4096)]);
    let mut builder = tar::Builder::new(Vec::new());
    let text = xml(&document);
    let mut append = |name: &str, content: &[u8]| {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, content).unwrap();
    };
    append("ova.xml", &text);
    for number in 0..2u8 {
        let (name, content) = (format!("{id}/{number:08}"), [number + 1; 4096]);
        append(&name, &content);
        append(&format!("{name}.xxhash"), &super::archive::checksum(ChecksumKind::Xxh64, &content));
    }
    let gnu = builder.into_inner().unwrap();
    assert!(gnu.windows(9).any(|bytes| bytes == b"@LongLink"));
    let read_whole = read(&gnu, usize::MAX).unwrap();
    assert_eq!(read_whole.1[0].1[0].1, [[1; 4096], [2; 4096]].concat());
    assert_eq!(read(&gnu, 100).unwrap(), read_whole);

    let pax = |lines: &[(&str, &str)]| {
        let line = |(key, value): &(&str, &str)| {
            let rest = key.len() + value.len() + 3;
            let len = (rest..).find(|len| len.to_string().len() + rest == *len).unwrap();
            format!("{len} {key}={value}\n")
        };
        Entry { flag: b'x', ..Entry::new("PaxHeader", lines.iter().map(line).collect::<String>()) }
    };
    let mut archive = Archive::of(&document);
    for number in 0..2u8 {
        let (name, content) = (format!("{id}/{number:08}"), [number + 1; 4096]);
        let sum = super::archive::checksum(ChecksumKind::Xxh64, &content);
        // The sizes of the members' own headers do not count.
        let global = Entry { flag: b'g', ..Entry::new("global", "11 path=no\n") };
        archive = archive
            .with(global)
            .with(pax(&[("path", &name), ("mtime", "1.5"), ("size", "4096")]))
            .with(Entry { size: Some(0), ..Entry::new("short", content) })
            .with(pax(&[("path", &format!("{name}.xxhash"))]))
            .with(Entry::new("short", sum));
    }
    assert_eq!(read(&archive.bytes(), 333).unwrap().1, read_whole.1);
}

#[test]
fn xen_orchestras_ustar_headers_are_read() {
    let mut archive = small();
    for entry in &mut archive.members {
        (entry.magic, entry.flag) = (*b"ustar\x0000", b'0');
    }
    assert_eq!(whole(&archive), whole(&small()));
}

#[test]
fn data_are_slices_of_the_input() {
    let bytes = Bytes::from(small().bytes());
    let range = bytes.as_ptr_range();
    let mut decoder = XvaDecoder::new(LIMITS);
    decoder.push(bytes.clone());
    let mut seen = 0;
    while let Some(event) = decoder.next_event().unwrap() {
        if let XvaEvent::Data { data, .. } = event {
            assert!(range.contains(&data.as_ptr()));
            seen += 1;
        }
    }
    assert_eq!(seen, 5);
}

#[test]
fn nothing_counts_as_read_when_events_were_left() {
    let mut decoder = XvaDecoder::new(LIMITS);
    decoder.push(small().bytes().into());
    assert_eq!(decoder.finish().unwrap_err().rule(), Rule::T1);
}

#[test]
fn every_archive_that_ends_too_early_is_refused() {
    let archive = small();
    let bytes = archive.bytes();
    let end = bytes.len() - archive.end.len();
    let headers = archive.members.iter().map(|entry| archive.offset(&entry.name) as usize);
    let lens = headers.flat_map(|at| [at.saturating_sub(1), at, at + 1, at + 511, at + 512, at + 513]);
    for len in lens.chain([end - 1]) {
        let error = read(&bytes[..len], usize::MAX).unwrap_err();
        assert!(matches!(error.rule(), Rule::T1 | Rule::D1), "{len}: {error}");
        assert_eq!(error.offset(), len as u64, "{error}");
    }
}

#[test]
fn a_disk_beyond_the_limit_is_refused_before_its_blocks() {
    let mut decoder = XvaDecoder::new(XvaLimits { largest_disk: 8192 });
    decoder.push(small().bytes().into());
    let error = decoder.next_event().unwrap_err();
    assert_eq!((error.rule(), error.code(), error.offset()), (Rule::X12, "xva_virtual_size", 512));
    assert!(
        error.to_string().contains("\"Ref:10\" is wrong: expected at most 8192 bytes, found 22528"),
        "{error}"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn how_the_input_is_cut_makes_no_difference(cuts in proptest::collection::vec(1usize..9000, 1..40)) {
        let bytes = Bytes::from(small().bytes());
        let mut cuts = cuts.into_iter().cycle();
        let mut rest = bytes.clone();
        let pieces = std::iter::from_fn(|| {
            let len = cuts.next()?.min(rest.len());
            (len > 0).then(|| rest.split_to(len))
        });
        prop_assert_eq!(read_pieces(pieces), read_pieces([bytes]));
    }

    #[test]
    fn no_flipped_bit_goes_unseen_in_what_checksums_cover(at in any::<prop::sample::Index>(), bit in 0u8..8) {
        let archive = small();
        let start = archive.offset("Ref:10/00000000");
        let mut bytes = archive.bytes();
        let sound = read(&bytes, usize::MAX).unwrap();
        let at = start as usize + at.index(bytes.len() - start as usize);
        bytes[at] ^= 1 << bit;
        // Padding is nobody's; what is read must be the same.
        if let Ok(found) = read(&bytes, usize::MAX) {
            prop_assert_eq!(found.1, sound.1);
        }
    }
}

#[test]
fn a_byte_at_a_time_reads_the_same() {
    let bytes = small().bytes();
    assert_eq!(read(&bytes, 1).unwrap(), read(&bytes, usize::MAX).unwrap());
}

#[test]
fn numbers_of_the_document_may_be_typed() {
    let mut text = String::from_utf8(xml(&document(&[]))).unwrap();
    text = text.replace("<value>25</value>", "<value><int>25</int></value>");
    let read = Document::parse(text.as_bytes()).unwrap();
    assert_eq!(read.version.get("xapi_major"), Some(&Value::text(25)));
}
