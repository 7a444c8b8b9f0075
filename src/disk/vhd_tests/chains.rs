use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

use proptest::prelude::*;
use tempfile::TempDir;

use crate::disk::error::DiskError;
use crate::disk::open::{DiskKind, OpenDisk, open_disk, open_disk_with};
use crate::disk::vhd_chain::{MAX_CHAIN, ParentPlaces};
use crate::formats::vhd::{
    DiskKind as VhdKind, DynamicHeader, Footer, Locator, Platform, Rule, UNUSED_ENTRY, VhdError,
};
use crate::ids::DiskFormat;

const SECTOR: usize = 512;

/// A VHD file of a chain, as a test wants it.
#[derive(Debug, Clone)]
struct Link {
    id: u8,
    sectors: u64,
    block_bytes: u64,
    /// Id and name of the parent.
    parent: Option<(u8, String)>,
    /// Sectors that the file holds, with the byte that each is filled with.
    held: Vec<(u64, u8)>,
    hidden: bool,
}

impl Link {
    fn root(id: u8) -> Self {
        Self {
            id,
            sectors: 8192,
            block_bytes: 2 << 20,
            parent: None,
            held: vec![(u64::from(id), id)],
            hidden: false,
        }
    }

    fn child(id: u8, parent: u8) -> Self {
        Self { parent: Some((parent, name(parent))), ..Self::root(id) }
    }

    /// The file: footer copy, header, one locator's data, table, blocks in falling order, footer.
    fn encode(&self) -> Vec<u8> {
        let block_sectors = self.block_bytes / 512;
        let blocks = self.sectors.div_ceil(block_sectors);
        let mut footer = Footer::dynamic(self.sectors * 512, [self.id; 16], 0).unwrap();
        footer.creator_application = *b"win ";
        footer.hidden = self.hidden;
        let mut header = DynamicHeader::new(2048, blocks as u32, self.block_bytes as u32);
        let mut locator_data = vec![0; SECTOR];
        if let Some((id, name)) = &self.parent {
            footer.kind = VhdKind::Differencing;
            header.parent_id = [*id; 16];
            let relative: Vec<u8> = format!(".\\{name}").encode_utf16().flat_map(u16::to_le_bytes).collect();
            locator_data[..relative.len()].copy_from_slice(&relative);
            let (platform, len) = (Platform::WindowsRelative, relative.len() as u32);
            header.locators[2] = Some(Locator { platform, space: 512, len, offset: 1536 });
        }
        let bitmap_bytes = block_sectors.div_ceil(8).next_multiple_of(512);
        let mut bat = vec![UNUSED_ENTRY; (blocks * 4).next_multiple_of(512) as usize / 4];
        let mut bodies = Vec::new();
        let first = 2048 + bat.len() as u64 * 4;
        for block in (0..blocks).rev() {
            let held = self.held.iter().filter(|(sector, _)| sector / block_sectors == block);
            let mut body = vec![0; (bitmap_bytes + self.block_bytes) as usize];
            let mut any = false;
            for (sector, fill) in held {
                let within = (sector % block_sectors) as usize;
                body[within / 8] |= 0x80 >> (within % 8);
                let at = bitmap_bytes as usize + within * SECTOR;
                body[at..at + SECTOR].fill(*fill);
                any = true;
            }
            if any {
                bat[block as usize] = ((first + bodies.len() as u64) / 512) as u32;
                bodies.extend(body);
            }
        }
        let mut file = footer.encode().to_vec();
        file.extend(header.encode());
        file.extend(locator_data);
        file.extend(bat.iter().flat_map(|entry| entry.to_be_bytes()));
        file.extend(bodies);
        file.extend(footer.encode());
        file
    }
}

fn name(id: u8) -> String {
    format!("{id}.vhd")
}

fn store(links: &[Link]) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    links.iter().for_each(|link| std::fs::write(dir.path().join(name(link.id)), link.encode()).unwrap());
    dir
}

fn open(dir: &TempDir, id: u8) -> Result<OpenDisk, DiskError> {
    open_disk(&dir.path().join(name(id)), DiskFormat::Vhd)
}

fn sector(disk: &OpenDisk, sector: u64) -> [u8; SECTOR] {
    let mut bytes = [0xEE; SECTOR];
    disk.reader().read_at(sector * 512, &mut bytes).unwrap();
    bytes
}

fn link(id: u8, parent: Option<u8>) -> impl Strategy<Value = Link> {
    let block_bytes = prop_oneof![Just(512_u64 << 10), Just(1 << 20), Just(2 << 20)];
    (block_bytes, 1..9000_u64, any::<bool>()).prop_flat_map(move |(block_bytes, sectors, hidden)| {
        // Runs of sectors, so that many begin and end inside of a bitmap's byte.
        let run = (0..sectors, 1..40_u64, 1..=255_u8);
        prop::collection::vec(run, 0..6).prop_map(move |runs| {
            let run = |(start, length, fill): &(u64, u64, u8)| {
                let fill = *fill;
                (*start..(start + length).min(sectors)).map(move |sector| (sector, fill))
            };
            let held = runs.iter().flat_map(run).collect();
            let parent = parent.map(|id| (id, name(id)));
            Link { id, sectors, block_bytes, parent, held, hidden }
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn a_chain_reads_as_its_files_laid_over_each_other(
        root in link(1, None),
        middle in link(2, Some(1)),
        top in link(3, Some(2)),
        cuts in prop::collection::vec((0..9000 * 512_usize, 1..300_000_usize), 4),
    ) {
        let links = [root, middle, top];
        let dir = store(&links);
        for depth in 1..=3 {
            let disk = open(&dir, depth as u8).unwrap();
            let size = links[depth - 1].sectors as usize * SECTOR;
            let mut model = vec![0; size];
            for below in 0..depth {
                // What a larger parent holds past its child's end is gone for good, also above that child.
                let end = links[below..depth].iter().map(|link| link.sectors).min().unwrap();
                for (sector, fill) in links[below].held.iter().filter(|(sector, _)| *sector < end) {
                    model[*sector as usize * SECTOR..][..SECTOR].fill(*fill);
                }
            }
            prop_assert_eq!(disk.virtual_size(), size as u64);
            let mut whole = vec![0xEE; size];
            disk.reader().read_at(0, &mut whole).unwrap();
            prop_assert!(whole == model, "depth {depth}");
            for (start, length) in &cuts {
                let mut part = vec![0xEE; *length];
                disk.reader().read_at(*start as u64, &mut part).unwrap();
                let inside = length.min(&size.saturating_sub(*start)).to_owned();
                prop_assert!(part[..inside] == model[(*start).min(size)..][..inside]);
                prop_assert!(part[inside..].iter().all(|byte| *byte == 0));
            }
            for extent in disk.capture_map().unwrap().extents().filter(|extent| !extent.data) {
                let range = extent.start as usize..extent.end() as usize;
                prop_assert!(model[range].iter().all(|byte| *byte == 0), "{extent:?}");
            }
            prop_assert_eq!(disk.hidden(), links[depth - 1].hidden);
            prop_assert_eq!(disk.parents().len(), depth - 1);
        }
    }
}

#[test]
fn an_open_chain_tells_its_kind_and_its_parents_nearest_first() {
    let dir = store(&[Link::root(1), Link::child(2, 1), Link::child(3, 2)]);
    let disk = open(&dir, 3).unwrap();
    assert_eq!(disk.kind(), DiskKind::DifferencingVhd);
    assert_eq!(disk.unique_id(), Some([3; 16]));
    let parents: Vec<(PathBuf, u8)> =
        disk.parents().iter().map(|parent| (parent.path.clone(), parent.unique_id[0])).collect();
    assert_eq!(parents, [(dir.path().join("2.vhd"), 2), (dir.path().join("1.vhd"), 1)]);
    assert_eq!(sector(&disk, 1), [1; SECTOR]);
    assert_eq!(sector(&disk, 2), [2; SECTOR]);
    assert_eq!(sector(&disk, 4), [0; SECTOR]);
}

#[test]
fn a_fixed_parent_is_read_as_it_lies() {
    let dir = store(&[Link::child(2, 1)]);
    let size = 4 << 20;
    let footer = Footer::fixed(size, [1; 16], 0).unwrap().encode();
    let file = File::create(dir.path().join("1.vhd")).unwrap();
    file.write_all_at(&[8; 1024], size - 1024).unwrap();
    file.write_all_at(&footer, size).unwrap();
    let disk = open(&dir, 2).unwrap();
    assert_eq!(sector(&disk, size / 512 - 1), [8; SECTOR]);
    assert_eq!(sector(&disk, 2), [2; SECTOR]);
    let data: Vec<_> = disk.capture_map().unwrap().extents().filter(|extent| extent.data).collect();
    assert_eq!(data.len(), 2, "{data:?}");
}

#[test]
fn p1_and_p2_a_null_parent_id_and_ones_own_are_refused() {
    for (parent, rule) in [(0, Rule::P1), (2, Rule::P2)] {
        let dir = store(&[Link::root(1), Link::child(2, parent)]);
        let found = open(&dir, 2);
        let Err(DiskError::Vhd { source: VhdError::Malformed { rule: found, .. }, .. }) = found else {
            panic!("{found:?}");
        };
        assert_eq!(found, rule);
    }
}

#[test]
fn p3_a_chain_of_32_is_read_and_one_of_33_refused() {
    let depth = MAX_CHAIN as u8;
    let mut links = vec![Link { held: vec![(0, 9)], ..Link::root(1) }];
    links.extend((2..=depth + 1).map(|id| Link { held: Vec::new(), ..Link::child(id, id - 1) }));
    let dir = store(&links);
    assert_eq!(sector(&open(&dir, depth).unwrap(), 0), [9; SECTOR]);
    let found = open(&dir, depth + 1);
    assert!(matches!(found, Err(DiskError::ChainTooDeep { limit: MAX_CHAIN, .. })), "{found:?}");
}

#[test]
fn p4_a_parent_with_another_id_is_refused_with_both_ids() {
    let dir = store(&[Link::root(7), Link::child(2, 1)]);
    std::fs::rename(dir.path().join("7.vhd"), dir.path().join("1.vhd")).unwrap();
    let found = open(&dir, 2);
    let Err(DiskError::ParentMismatch { expected, found, .. }) = found else { panic!("{found:?}") };
    assert_eq!((expected.as_bytes(), found.as_bytes()), (&[1; 16], &[7; 16]));
}

#[test]
fn p5_a_chain_that_comes_back_to_itself_is_refused() {
    let dir = store(&[Link::child(1, 3), Link::child(2, 1), Link::child(3, 2)]);
    let found = open(&dir, 3);
    assert!(
        matches!(found, Err(DiskError::ChainCycle { unique_id, .. }) if unique_id.as_bytes() == &[3; 16])
    );
}

#[test]
fn p6_a_parent_that_is_missing_or_outside_of_the_store_is_not_found() {
    let dir = store(&[Link::child(2, 1)]);
    let found = open(&dir, 2);
    assert!(
        matches!(&found, Err(DiskError::ParentNotFound { names, .. }) if names == &["1.vhd"]),
        "{found:?}"
    );

    // The parent lies where the names point to, but that is not in the store.
    let outer = tempfile::tempdir().unwrap();
    let inner = outer.path().join("store");
    std::fs::create_dir(&inner).unwrap();
    let outside = outer.path().join("1.vhd");
    std::fs::write(&outside, Link::root(1).encode()).unwrap();
    for name in ["../1.vhd", "..\\1.vhd", outside.to_str().unwrap()] {
        let child = Link { parent: Some((1, name.to_owned())), ..Link::root(2) };
        std::fs::write(inner.join("2.vhd"), child.encode()).unwrap();
        let found = open_disk(&inner.join("2.vhd"), DiskFormat::Vhd);
        assert!(matches!(found, Err(DiskError::ParentNotFound { .. })), "{name}: {found:?}");
    }
    // Nor is a link in the store that leads there.
    std::fs::write(inner.join("2.vhd"), Link::child(2, 1).encode()).unwrap();
    std::os::unix::fs::symlink(&outside, inner.join("1.vhd")).unwrap();
    let found = open_disk(&inner.join("2.vhd"), DiskFormat::Vhd);
    assert!(matches!(found, Err(DiskError::NotARegularFile { .. })), "{found:?}");
    // A path's base name beside the child is taken.
    std::fs::remove_file(inner.join("1.vhd")).unwrap();
    std::fs::rename(&outside, inner.join("1.vhd")).unwrap();
    let child = Link { parent: Some((1, "C:\\far\\away\\1.vhd".to_owned())), ..Link::root(2) };
    std::fs::write(inner.join("2.vhd"), child.encode()).unwrap();
    assert_eq!(sector(&open_disk(&inner.join("2.vhd"), DiskFormat::Vhd).unwrap(), 1), [1; SECTOR]);
}

#[test]
fn a_parent_that_moved_is_found_by_its_id_and_another_one_there_is_not_taken() {
    let dir = store(&[Link::root(1), Link::root(7), Link::child(2, 1)]);
    let at = |name: &str| dir.path().join(name);
    std::fs::rename(at("1.vhd"), at("elsewhere.vhd")).unwrap();
    let open = |path: &str| {
        let places = ParentPlaces { known: vec![([1; 16], at(path))], directories: Vec::new() };
        open_disk_with(&at("2.vhd"), DiskFormat::Vhd, &places)
    };
    assert_eq!(sector(&open("elsewhere.vhd").unwrap(), 1), [1; SECTOR]);
    assert!(matches!(open("7.vhd"), Err(DiskError::ParentMismatch { .. })));
}
