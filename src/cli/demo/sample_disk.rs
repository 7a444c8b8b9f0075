//! The demo's disk: an MBR, one FAT16 partition, a few files; sparse, and the same to the last byte each
//! time. Made without outside tools.
//!
//! Where the facts come from: the FAT layout from Microsoft's "FAT: General Overview of On-Disk Format"
//! 1.03; the partition table is the classic one, with type 0x0E (FAT16, LBA).

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use super::sample_files::Content;

/// Bytes of a sector.
const SECTOR: u64 = 512;
/// First sector of the partition: 1 MiB, where every partitioner puts it.
const PARTITION_START: u64 = 2048;
/// Copies of the allocation table.
const FATS: u64 = 2;
/// Directory entries that the root directory has room for.
const ROOT_ENTRIES: u64 = 512;
/// Bytes of a directory entry.
const ENTRY_BYTES: usize = 32;
/// Clusters from which on a file system is FAT16, and from which on it is FAT32.
const FAT16_CLUSTERS: std::ops::Range<u64> = 4085..65_525;
/// Marks the last cluster of a chain.
const END_OF_CHAIN: u16 = 0xffff;
/// The date of every file, 2026-01-01, as FAT stores it.
const DATE: u16 = ((2026 - 1980) << 9) | (1 << 5) | 1;

/// What goes into the disk.
#[derive(Debug, Clone, Copy)]
pub(super) struct SampleSpec {
    /// The disk's size in bytes, a multiple of 512.
    pub(super) virtual_bytes: u64,
    /// Bytes that do not compress, in two files.
    pub(super) noise_bytes: u64,
    /// Bytes of something like a log, in one file.
    pub(super) text_bytes: u64,
}

impl SampleSpec {
    /// 256 MiB, about a quarter of it data.
    pub(super) const DEFAULT: Self =
        Self { virtual_bytes: 256 << 20, noise_bytes: 33_333_333, text_bytes: 29_999_999 };
}

/// What was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Sample {
    /// Bytes that the disk takes where it lies.
    pub(super) allocated_bytes: u64,
    /// Number of files in its file system.
    pub(super) files: usize,
}

/// Makes the disk. Blocking.
///
/// # Errors
/// What the file system says; `InvalidInput` when the content does not fit, or when no FAT16 fits the disk.
pub(super) fn make_sample(path: &Path, spec: &SampleSpec) -> io::Result<Sample> {
    let volume =
        Volume::of(spec.virtual_bytes).ok_or_else(|| invalid("the sample disk has no room for FAT16"))?;
    let file = File::create(path)?;
    file.set_len(spec.virtual_bytes)?;
    file.write_all_at(&master_boot_record(volume.sectors), 0)?;

    let near = spec.noise_bytes / 4 * 3;
    let mut builder = Builder { file: &file, volume, fat: vec![0; volume.table_len()?] };
    builder.set(0, 0xfff8)?;
    builder.set(1, END_OF_CHAIN)?;
    // Spread over the disk, so that its image has holes between the files as a used disk has.
    let readme = builder.write_file(builder.cluster_at(0), Content::Text(README))?;
    let log = builder.write_file(builder.cluster_at(10), Content::Log { bytes: spec.text_bytes })?;
    let noise = builder.write_file(builder.cluster_at(45), Content::Noise { seed: 1, bytes: near })?;
    let late = builder
        .write_file(builder.cluster_at(90), Content::Noise { seed: 2, bytes: spec.noise_bytes - near })?;
    let logs = builder.write_directory(builder.cluster_at(8), &[entry(b"ACCESS  LOG", 0x20, log)])?;
    let data = builder.write_directory(
        builder.cluster_at(40),
        &[entry(b"NOISE   BIN", 0x20, noise), entry(b"LATE    BIN", 0x20, late)],
    )?;
    builder.write_root(&[
        entry(b"GANTRY DEMO", 0x08, Stored::default()),
        entry(b"README  TXT", 0x20, readme),
        entry(b"LOGS       ", 0x10, logs),
        entry(b"DATA       ", 0x10, data),
    ])?;
    builder.write_tables()?;
    file.sync_all()?;
    Ok(Sample { allocated_bytes: file.metadata()?.blocks() * SECTOR, files: 4 })
}

const README: &str = "This disk was made by `gantry demo`.\r\n\r\n\
It has a partition table, a FAT16 file system, a log that compresses well, noise that does not\r\n\
compress at all, and a lot of nothing between them, as real disks have.\r\n";

fn invalid(message: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, message)
}

/// Puts bytes into a buffer that has room for them by construction; what has no room is left out.
fn put(buffer: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(place) = buffer.get_mut(at..at + bytes.len()) {
        place.copy_from_slice(bytes);
    }
}

fn master_boot_record(partition_sectors: u32) -> [u8; 512] {
    let mut sector = [0; 512];
    put(&mut sector, 440, b"GNTR");
    // Not bootable; start and end in a form that says "look at the LBA"; type FAT16 with LBA.
    put(&mut sector, 446, &[0x00, 0xfe, 0xff, 0xff, 0x0e, 0xfe, 0xff, 0xff]);
    put(&mut sector, 454, &2048u32.to_le_bytes());
    put(&mut sector, 458, &partition_sectors.to_le_bytes());
    put(&mut sector, 510, &[0x55, 0xaa]);
    sector
}

/// The file system's measures, in sectors unless it says otherwise.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Volume {
    sectors: u32,
    sectors_per_cluster: u64,
    reserved: u64,
    fat_sectors: u64,
    clusters: u64,
}

impl Volume {
    /// The smallest clusters of at least 4 KiB with which the partition is FAT16.
    fn of(virtual_bytes: u64) -> Option<Self> {
        let sectors = (virtual_bytes / SECTOR).checked_sub(PARTITION_START)?;
        [8u64, 16, 32, 64].into_iter().find_map(|sectors_per_cluster| {
            let root = ROOT_ENTRIES * ENTRY_BYTES as u64 / SECTOR;
            // As if all were clusters: at most a sector or two more than needed.
            let fat_sectors = ((sectors / sectors_per_cluster + 2) * 2).div_ceil(SECTOR);
            let unaligned = 1 + FATS * fat_sectors + root;
            let reserved = 1 + unaligned.next_multiple_of(sectors_per_cluster) - unaligned;
            let clusters = sectors.checked_sub(reserved + FATS * fat_sectors + root)? / sectors_per_cluster;
            let sectors = u32::try_from(sectors).ok()?;
            let volume = Self { sectors, sectors_per_cluster, reserved, fat_sectors, clusters };
            FAT16_CLUSTERS.contains(&clusters).then_some(volume)
        })
    }

    fn cluster_bytes(&self) -> u64 {
        self.sectors_per_cluster * SECTOR
    }

    fn root_sector(&self) -> u64 {
        self.reserved + FATS * self.fat_sectors
    }

    /// Where a cluster lies on the disk, in bytes.
    fn cluster_offset(&self, cluster: u16) -> u64 {
        let first = self.root_sector() + ROOT_ENTRIES * ENTRY_BYTES as u64 / SECTOR;
        let sector = first + u64::from(cluster).saturating_sub(2) * self.sectors_per_cluster;
        (PARTITION_START + sector) * SECTOR
    }

    fn table_len(&self) -> io::Result<usize> {
        usize::try_from(self.clusters + 2).map_err(io::Error::other)
    }

    fn boot_sector(&self) -> [u8; 512] {
        let mut sector = [0; 512];
        let small = |value: u64| u16::try_from(value).unwrap_or(0).to_le_bytes();
        put(&mut sector, 0, &[0xeb, 0x3c, 0x90]);
        put(&mut sector, 3, b"GANTRY  ");
        put(&mut sector, 11, &small(SECTOR));
        put(&mut sector, 13, &[u8::try_from(self.sectors_per_cluster).unwrap_or(8)]);
        put(&mut sector, 14, &small(self.reserved));
        put(&mut sector, 16, &[2]);
        put(&mut sector, 17, &small(ROOT_ENTRIES));
        // The 16-bit count is for volumes that fit it; the other one is 0 then.
        let short = u16::try_from(self.sectors).unwrap_or(0);
        let long = if short == 0 { self.sectors } else { 0 };
        put(&mut sector, 19, &short.to_le_bytes());
        put(&mut sector, 21, &[0xf8]);
        put(&mut sector, 22, &small(self.fat_sectors));
        put(&mut sector, 24, &small(63));
        put(&mut sector, 26, &small(255));
        put(&mut sector, 28, &2048u32.to_le_bytes());
        put(&mut sector, 32, &long.to_le_bytes());
        put(&mut sector, 36, &[0x80, 0x00, 0x29]);
        put(&mut sector, 39, b"DEMO");
        put(&mut sector, 43, b"GANTRY DEMO");
        put(&mut sector, 54, b"FAT16   ");
        put(&mut sector, 510, &[0x55, 0xaa]);
        sector
    }
}

/// Where something was put: its first cluster, and its length as a directory shows it.
#[derive(Debug, Clone, Copy, Default)]
struct Stored {
    cluster: u16,
    bytes: u32,
}

fn entry(name: &[u8; 11], attributes: u8, stored: Stored) -> [u8; ENTRY_BYTES] {
    let mut entry = [0; ENTRY_BYTES];
    put(&mut entry, 0, name);
    put(&mut entry, 11, &[attributes]);
    for at in [16, 18, 24] {
        put(&mut entry, at, &DATE.to_le_bytes());
    }
    put(&mut entry, 26, &stored.cluster.to_le_bytes());
    put(&mut entry, 28, &stored.bytes.to_le_bytes());
    entry
}

struct Builder<'a> {
    file: &'a File,
    volume: Volume,
    fat: Vec<u16>,
}

impl Builder<'_> {
    /// The cluster at that many hundredths of the disk.
    fn cluster_at(&self, percent: u64) -> u16 {
        u16::try_from(2 + self.volume.clusters * percent / 100).unwrap_or(END_OF_CHAIN)
    }

    fn set(&mut self, cluster: u16, value: u16) -> io::Result<()> {
        match self.fat.get_mut(usize::from(cluster)) {
            Some(slot @ 0) => *slot = value,
            _ => return Err(invalid("the sample's content does not fit its disk")),
        }
        Ok(())
    }

    /// Takes a chain of clusters in a row, none of which may be taken.
    fn take(&mut self, first: u16, bytes: u64) -> io::Result<()> {
        let count = bytes.div_ceil(self.volume.cluster_bytes()).max(1);
        for index in 0..count {
            let too_far = |_| invalid("the sample's content does not fit its disk");
            let cluster = u16::try_from(u64::from(first) + index).map_err(too_far)?;
            let next = if index + 1 == count { END_OF_CHAIN } else { cluster.saturating_add(1) };
            self.set(cluster, next)?;
        }
        Ok(())
    }

    fn write_file(&mut self, first: u16, content: Content) -> io::Result<Stored> {
        let bytes = content.len();
        self.take(first, bytes)?;
        let mut at = self.volume.cluster_offset(first);
        content.pieces(|piece| {
            self.file.write_all_at(piece, at)?;
            at += piece.len() as u64;
            Ok(())
        })?;
        Ok(Stored { cluster: first, bytes: u32::try_from(bytes).map_err(io::Error::other)? })
    }

    fn write_directory(&mut self, first: u16, entries: &[[u8; ENTRY_BYTES]]) -> io::Result<Stored> {
        let stored = Stored { cluster: first, bytes: 0 };
        self.take(first, 1)?;
        let own = [entry(b".          ", 0x10, stored), entry(b"..         ", 0x10, Stored::default())];
        let bytes = [own.as_flattened(), entries.as_flattened()].concat();
        self.file.write_all_at(&bytes, self.volume.cluster_offset(first))?;
        Ok(stored)
    }

    fn write_root(&self, entries: &[[u8; ENTRY_BYTES]]) -> io::Result<()> {
        self.write_sector(self.volume.root_sector(), entries.as_flattened())
    }

    fn write_tables(&self) -> io::Result<()> {
        self.write_sector(0, &self.volume.boot_sector())?;
        let table: Vec<u8> = self.fat.iter().flat_map(|value| value.to_le_bytes()).collect();
        for copy in 0..FATS {
            self.write_sector(self.volume.reserved + copy * self.volume.fat_sectors, &table)?;
        }
        Ok(())
    }

    fn write_sector(&self, sector: u64, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all_at(bytes, (PARTITION_START + sector) * SECTOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    const SMALL: SampleSpec =
        SampleSpec { virtual_bytes: 40 << 20, noise_bytes: 3_000_001, text_bytes: 1_000_003 };

    fn made(spec: &SampleSpec) -> (tempfile::TempDir, Vec<u8>, Sample) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sample.raw");
        let sample = make_sample(&path, spec).unwrap();
        let bytes = std::fs::read(&path).unwrap();
        assert_eq!(bytes.len() as u64, spec.virtual_bytes);
        (dir, bytes, sample)
    }

    fn u16_at(bytes: &[u8], at: usize) -> usize {
        usize::from(u16::from_le_bytes(bytes[at..at + 2].try_into().unwrap()))
    }

    fn u32_at(bytes: &[u8], at: usize) -> usize {
        u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
    }

    /// Reads a FAT16 volume the way a driver does: from the fields of its boot sector.
    struct Reader<'a>(&'a [u8]);

    impl Reader<'_> {
        fn data_start(&self) -> usize {
            let v = self.0;
            (u16_at(v, 14) + usize::from(v[16]) * u16_at(v, 22)) * 512 + u16_at(v, 17) * 32
        }

        fn cluster_bytes(&self) -> usize {
            usize::from(self.0[13]) * 512
        }

        fn chain(&self, first: usize) -> Vec<u8> {
            let (mut cluster, mut bytes) = (first, Vec::new());
            while (2..0xfff8).contains(&cluster) {
                let at = self.data_start() + (cluster - 2) * self.cluster_bytes();
                bytes.extend_from_slice(&self.0[at..at + self.cluster_bytes()]);
                cluster = u16_at(self.0, u16_at(self.0, 14) * 512 + cluster * 2);
            }
            bytes
        }

        /// Names, attributes, first clusters and lengths.
        fn list(directory: &[u8]) -> Vec<(String, u8, usize, usize)> {
            let entries = directory.chunks(32).take_while(|entry| entry[0] != 0);
            let read = |e: &[u8]| {
                (String::from_utf8(e[..11].to_vec()).unwrap(), e[11], u16_at(e, 26), u32_at(e, 28))
            };
            entries.map(read).collect()
        }

        fn root(&self) -> Vec<(String, u8, usize, usize)> {
            let start = self.data_start() - u16_at(self.0, 17) * 32;
            Self::list(&self.0[start..self.data_start()])
        }

        fn read(&self, directory: &str, name: &str) -> Vec<u8> {
            let found =
                |list: Vec<(String, u8, usize, usize)>, name| list.into_iter().find(|e| e.0 == name).unwrap();
            let list = if directory.is_empty() {
                self.root()
            } else {
                Self::list(&self.chain(found(self.root(), directory).2))
            };
            let (_, _, cluster, len) = found(list, name);
            let mut bytes = self.chain(cluster);
            bytes.truncate(len);
            bytes
        }
    }

    #[test]
    fn the_partition_table_names_the_volume_and_the_files_read_back() {
        let (_dir, disk, sample) = made(&SMALL);
        assert_eq!(disk[510..512], [0x55, 0xaa]);
        assert_eq!((disk[450], u32_at(&disk, 454)), (0x0e, 2048));
        assert_eq!((2048 + u32_at(&disk, 458)) * 512, disk.len());
        let volume = Reader(&disk[2048 * 512..]);
        assert_eq!(volume.read("", "README  TXT"), README.as_bytes());
        assert_eq!(volume.read("LOGS       ", "ACCESS  LOG"), Content::Log { bytes: 1_000_003 }.bytes());
        let near = 3_000_001 / 4 * 3;
        assert_eq!(
            volume.read("DATA       ", "NOISE   BIN"),
            Content::Noise { seed: 1, bytes: near }.bytes()
        );
        let late = 3_000_001 - near;
        assert_eq!(
            volume.read("DATA       ", "LATE    BIN"),
            Content::Noise { seed: 2, bytes: late }.bytes()
        );
        assert_eq!(sample.files, 4);
    }

    #[test]
    fn the_disk_is_sparse_and_the_same_each_time() {
        let (_dir, first, sample) = made(&SMALL);
        let (_other, second, _) = made(&SMALL);
        assert!(first == second);
        assert!((4_000_000..8 << 20).contains(&sample.allocated_bytes), "{}", sample.allocated_bytes);
    }

    #[test]
    fn content_that_does_not_fit_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("sample.raw");
        for spec in
            [SampleSpec { noise_bytes: 60 << 20, ..SMALL }, SampleSpec { virtual_bytes: 4 << 20, ..SMALL }]
        {
            assert_eq!(make_sample(&path, &spec).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
    }

    /// The judge is dosfstools, which the README's test command installs.
    #[test]
    fn fsck_finds_nothing_wrong_with_the_file_system() {
        for spec in [SMALL, SampleSpec::DEFAULT] {
            let (dir, disk, _) = made(&spec);
            let volume = dir.path().join("volume");
            std::fs::write(&volume, &disk[2048 * 512..]).unwrap();
            let checked =
                Command::new("fsck.fat").args(["-n", "-v"]).arg(&volume).env("PATH", SEARCH).output();
            let Ok(checked) = checked else {
                eprintln!("fsck.fat is not installed: nothing was checked");
                return;
            };
            let said = String::from_utf8_lossy(&checked.stdout);
            assert!(checked.status.success(), "{said}");
            assert!(said.contains("Checking for unused clusters"), "{said}");
        }
    }

    /// Where distributions put it, whoever runs the test.
    const SEARCH: &str = "/usr/sbin:/sbin:/usr/bin:/bin";
}
