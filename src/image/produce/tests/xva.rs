use super::*;

use sha2::{Digest as _, Sha256};

use crate::disk::concat::ConcatReader;
use crate::formats::xva::ChecksumKind;
use crate::image::xva_layout::{XVA_LAYOUT_VERSION, XvaImageLayout};

/// An archive of disks with those maps, and the disks as one.
fn archive(maps: &[Arc<AllocationMap>], kind: ChecksumKind) -> (Arc<dyn Layout>, Arc<ConcatReader>) {
    let ids = (0..).map(|at| format!("Ref:{at:03}"));
    let xml = bytes::Bytes::from_static(b"<value>a document</value>");
    let layout = XvaImageLayout::new(xml, ids.zip(maps.iter().cloned()).collect(), kind).unwrap();
    let disks = maps.iter().map(|map| Arc::new(Computed::new(map)) as Arc<dyn DiskReader>).collect();
    (Arc::new(layout), Arc::new(XvaImageLayout::reader(disks)))
}

fn kinds() -> impl Strategy<Value = ChecksumKind> {
    prop::sample::select(vec![ChecksumKind::Xxh64, ChecksumKind::Sha1])
}

/// The archive as the rules have it, made from all bytes of the disks by another hand than the layout's.
fn by_hand(xml: &[u8], disks: &[(String, Vec<u8>, Arc<AllocationMap>)], kind: ChecksumKind) -> Vec<u8> {
    let mut builder = Vec::new();
    let mut add = |name: &str, bytes: &[u8]| {
        let mut header = tar::Header::new_old();
        header.set_path(name).unwrap();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o400);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.as_mut_bytes()[156] = 0;
        header.set_cksum();
        // The same number as others write it.
        let sum = header.cksum().unwrap();
        header.as_mut_bytes()[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        builder.extend_from_slice(header.as_bytes());
        builder.extend_from_slice(bytes);
        builder.resize(builder.len().next_multiple_of(512), 0);
    };
    add("ova.xml", xml);
    for (at, (id, content, map)) in disks.iter().enumerate() {
        let mut content = content.clone();
        let before_longer = disks.iter().skip(1).any(|(_, other, _)| other.len() > 1 << 20);
        if at == 0 && before_longer && content.len() < 1 << 20 {
            content.resize(1 << 20, 0);
        }
        let last = (content.len() - 1) >> 20;
        let with_data: Vec<_> = map.blocks_with_data(NonZeroU64::new(MIB).unwrap()).collect();
        for (number, block) in content.chunks(1 << 20).enumerate() {
            if number != 0 && number != last && !with_data.contains(&(number as u64)) {
                continue;
            }
            let mut checksum = Checksum::new(kind);
            checksum.update(block);
            add(&format!("{id}/{number:08}"), block);
            add(&format!("{id}/{number:08}{}", kind.suffix()), checksum.text().as_bytes());
        }
    }
    builder.resize(builder.len() + 1024, 0);
    builder
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20))]
    #[test]
    fn any_range_of_an_archive_is_what_the_rules_say_with_any_budget(
        disks in prop::collection::vec((1..6000u64, prop::collection::vec((0..3 * MIB, 0..900 * KIB), 0..4)), 0..4),
        kind in kinds(),
        shift in 17..26u32,
        ranges in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..5),
    ) {
        let maps: Vec<_> = disks.iter().map(|(sectors, sets)| map(sectors * 512, sets)).collect();
        let (layout, disk) = archive(&maps, kind);
        let contents: Vec<_> = maps.iter().enumerate()
            .map(|(at, map)| (format!("Ref:{at:03}"), Computed::new(map).content(), Arc::clone(map))).collect();
        let image = by_hand(b"<value>a document</value>", &contents, kind);
        prop_assert_eq!(image.len() as u64, layout.len());
        prop_assert!(plain(&*layout, &*disk) == image);
        let mut wanted = vec![(0, image.len())];
        wanted.extend(ranges.iter().map(|(a, b)| (a.index(image.len() + 1), b.index(image.len() + 1))));
        for (a, b) in wanted {
            let (start, end) = (a.min(b), a.max(b));
            let transfer = begin(&layout, disk.clone(), start as u64..end as u64, 1 << shift);
            let (bytes, error) = run(collect(transfer.stream));
            prop_assert!(error.is_none(), "{error:?}");
            prop_assert!(bytes == image[start..end], "{}..{}", start, end);
            prop_assert_eq!(transfer.budget.used_bytes(), 0);
            if shift >= 22 {
                // Whole blocks: only that in which the range begins is read for its checksum.
                prop_assert!(transfer.counters.reread_bytes() < MIB);
            }
        }
    }

    #[test]
    fn giving_back_in_an_archive_changes_no_byte_and_costs_a_bounded_part(
        sets in prop::collection::vec((0..8 * MIB, 0..3 * MIB), 1..6),
        start in any::<prop::sample::Index>(),
        bursts in prop::collection::vec(1..12_usize, 1..8),
        shift in 17..26u32,
    ) {
        let map = map(8 * MIB, &sets);
        let (layout, disk) = archive(&[map], ChecksumKind::Xxh64);
        let image = plain(&*layout, &*disk);
        let start = start.index(image.len());
        let mut transfer = begin(&layout, disk, start as u64..layout.len(), 1 << shift);
        let mut bytes = Vec::new();
        run(async {
            'all: for burst in bursts.iter().cycle() {
                for _ in 0..*burst {
                    let Some(chunk) = transfer.stream.next().await else { break 'all };
                    bytes.extend_from_slice(&chunk.unwrap());
                }
                transfer.stream.give_back();
                used(&transfer.budget, 0).await;
            }
        });
        prop_assert!(bytes == image[start..]);
        // Each block once for itself and at most once for its checksum.
        let (most, first) = (bytes.len() as u64 * 2 * 5 / 4, 9 * MIB + MIB);
        prop_assert!(transfer.counters.disk_bytes() <= most + first, "{:?}", transfer.counters);
    }
}

#[tokio::test]
async fn whole_blocks_are_read_once_and_their_chunks_take_little_more_than_them() {
    let map = map(40 * MIB + 512, &[(0, 41 * MIB)]);
    let (layout, disk) = archive(&[map], ChecksumKind::Xxh64);
    let mut transfer = begin(&layout, disk, 0..layout.len(), 32 * MIB);
    let mut lengths = Vec::new();
    while let Some(chunk) = transfer.stream.next().await {
        assert!(transfer.budget.used_bytes() <= 8 * (MIB + 2 * KIB));
        lengths.push(chunk.unwrap().len() as u64);
    }
    assert_eq!(lengths[..3], [1024, MIB + 1536, MIB + 1536]);
    assert_eq!(lengths.len(), 1 + 41 + 1);
    let counters = transfer.counters;
    assert_eq!((counters.disk_bytes(), counters.reread_bytes()), (40 * MIB + 512, 0));
    assert_eq!(counters.reads(), 41);
}

#[tokio::test]
async fn small_chunks_read_their_blocks_a_second_time_and_still_read_ahead() {
    let map = map(16 * MIB, &[(0, 16 * MIB)]);
    let (layout, disk) = archive(&[map], ChecksumKind::Sha1);
    let mut transfer = begin(&layout, disk, 0..layout.len(), 512 * KIB);
    assert_eq!(transfer.stream.share.chunk_bytes() as u64, 128 * KIB);
    let mut most = 0;
    let mut under_way = Vec::new();
    while let Some(chunk) = transfer.stream.next().await {
        most = most.max(transfer.budget.used_bytes());
        under_way.push(transfer.stream.under_way.len());
        chunk.unwrap();
    }
    let counters = transfer.counters;
    assert_eq!(counters.disk_bytes(), 16 * MIB + counters.reread_bytes());
    // All of a block but its last chunk, in which the checksum is.
    assert_eq!(counters.reread_bytes(), 16 * (MIB - 128 * KIB));
    assert!(most <= 512 * KIB, "{most}");
    let behind: usize = under_way[8..under_way.len() - 8].iter().filter(|&&chunks| chunks == 0).count();
    assert_eq!(behind, 0, "{under_way:?}");
}

#[tokio::test]
async fn a_block_of_an_archive_that_cannot_be_read_ends_it_with_that_error() {
    let map = map(4 * MIB, &[(0, 4 * MIB)]);
    for window in [128 * KIB, 32 * MIB] {
        let (layout, _) = archive(&[Arc::clone(&map)], ChecksumKind::Xxh64);
        let disk = Arc::new(Computed { fails_at: Some(2 * MIB + 9), ..Computed::new(&map) });
        let (bytes, error) = collect(begin(&layout, disk, 0..layout.len(), window).stream).await;
        assert!(matches!(error, Some(ProduceError::Disk(DiskError::ShortFile { .. }))), "{error:?}");
        assert!(
            bytes.len() as u64 >= 1024 + 2 * (MIB + 1536)
                && bytes.len() as u64 <= 1024 + 2 * (MIB + 1536) + 512
        );
    }
}

#[tokio::test]
async fn a_checksum_alone_reads_its_block_and_no_hole_of_it() {
    let map = map(4 * MIB, &[(MIB + 128 * KIB, 64 * KIB), (3 * MIB, MIB)]);
    let (layout, disk) = archive(&[map], ChecksumKind::Sha1);
    let image = plain(&*layout, &*disk);
    let second = 1024 + (MIB + 1536) + 512 + MIB + 512;
    for (skip, take) in [(0, 40), (3, 5), (39, 1), (0, 512), (39, 2)] {
        let range = second + skip..second + skip + take;
        let transfer = begin(&layout, disk.clone(), range.clone(), 32 * MIB);
        let (bytes, error) = collect(transfer.stream).await;
        assert!(error.is_none());
        assert_eq!(bytes, image[range.start as usize..range.end as usize]);
        assert_eq!(transfer.counters.disk_bytes(), 64 * KIB);
        assert_eq!((transfer.counters.reread_bytes(), transfer.counters.reads()), (64 * KIB, 1));
    }
}

#[tokio::test]
async fn another_disk_than_the_archives_is_refused() {
    let (layout, _) = archive(&[map(MIB, &[]), map(5, &[])], ChecksumKind::Sha1);
    let (_, other) = archive(&[map(MIB, &[])], ChecksumKind::Sha1);
    let (_, error) = collect(begin(&layout, other, 0..9, MIB).stream).await;
    assert!(matches!(error, Some(ProduceError::SizeChanged { .. })), "{error:?}");
}

#[tokio::test]
async fn a_whole_archive_is_pinned_so_that_no_download_is_continued_with_other_bytes() {
    let maps = [map(3 * 512, &[(0, 1)]), map(5 * MIB + 512, &[(2 * MIB, 200_000), (5 * MIB, 1)])];
    let mut hashes = Vec::new();
    for kind in [ChecksumKind::Xxh64, ChecksumKind::Sha1] {
        let (layout, disk) = archive(&maps, kind);
        let (bytes, error) = collect(begin(&layout, disk, 0..layout.len(), 32 * MIB).stream).await;
        assert!(error.is_none());
        hashes.push(Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect::<String>());
    }
    // Whoever has to change these has to raise the version.
    assert_eq!(XVA_LAYOUT_VERSION, 1);
    assert_eq!(
        hashes,
        [
            "c9e548f16356a69f994af0636fa580a35be6d672fc5a0187d5de836768f37302",
            "f08d12e44bb16971b1e4c9434a22bdc9b0b71056548befb2785d22df2a71023a"
        ]
    );
}

/// A 2 TiB disk with a hole in every second block.
#[test]
fn a_layout_of_2_tib_says_any_place_in_no_time() {
    let size = 2 << 40;
    let mut sparse = AllocationMap::new(size);
    (0..size / MIB).step_by(2).for_each(|block| sparse.set_range(block * MIB, 1));
    let (layout, disk) = archive(&[Arc::new(sparse)], ChecksumKind::Xxh64);
    assert_eq!(layout.len(), 1024 + (1 << 20) * (MIB + 1536) + MIB + 1536 + 1024);
    let start = layout.len() / 2;
    let transfer = begin(&layout, disk, start..start + 3 * MIB, 32 * MIB);
    let (bytes, error) = run(collect(transfer.stream));
    assert!(error.is_none() && bytes.len() as u64 == 3 * MIB, "{error:?}");
    assert!(transfer.counters.disk_bytes() <= 5 * 64 * KIB, "{}", transfer.counters.disk_bytes());
}
