//! Disks whose content is known without keeping it: noise at a few places, zero everywhere else. Files are
//! compared by their extents, so that a disk of terabytes costs what its data costs.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;

use rustix::fs::SeekFrom;

use super::MIB;

/// A disk's size and where it is not zero. The runs do not overlap.
#[derive(Clone)]
pub struct Disk {
    pub size: u64,
    runs: Vec<(u64, Vec<u8>)>,
}

impl Disk {
    /// A disk of zeros.
    pub fn empty(size: u64) -> Self {
        Self { size, runs: Vec::new() }
    }

    /// Puts `length` bytes of noise at `offset`; the noise depends on the seed only.
    pub fn noise(mut self, offset: u64, length: u64, seed: u64) -> Self {
        assert!(offset + length <= self.size, "noise past the end of the disk");
        self.runs.push((offset, noise(length as usize, seed)));
        self
    }

    /// The same data on a disk of another size.
    pub fn resized(mut self, size: u64) -> Self {
        self.size = size;
        self
    }

    /// A disk as they are in life: a start, an end, something across a block's edge, single sectors, and holes.
    pub fn lively(size: u64, seed: u64) -> Self {
        let block = 2 * MIB;
        let disk = Self::empty(size)
            .noise(0, 4096, seed)
            .noise(block - 1536, 3 * 512 + 70_144, seed + 1)
            .noise(5 * block + 512, 512, seed + 2)
            .noise(9 * block, block, seed + 3)
            .noise(size - 512, 512, seed + 4);
        if size > 64 * block { disk.noise((size / 2) & !511, 3 * MIB, seed + 5) } else { disk }
    }

    /// Puts the disk's bytes `offset..offset + length` into a buffer; past the end they are zero.
    pub fn bytes(&self, offset: u64, length: u64) -> Vec<u8> {
        let mut bytes = vec![0; length as usize];
        for (start, data) in &self.runs {
            let (from, to) = (offset.max(*start), (offset + length).min(start + data.len() as u64));
            if from < to {
                let source = &data[(from - start) as usize..(to - start) as usize];
                bytes[(from - offset) as usize..(to - offset) as usize].copy_from_slice(source);
            }
        }
        bytes
    }

    /// The whole disk in memory, for small ones.
    pub fn whole(&self) -> Vec<u8> {
        assert!(self.size <= 256 * MIB, "too large to hold");
        self.bytes(0, self.size)
    }

    /// Offset and length of what is not zero.
    pub fn data(&self) -> impl Iterator<Item = (u64, u64)> {
        self.runs.iter().map(|(offset, data)| (*offset, data.len() as u64))
    }

    /// Writes the disk as a raw file with holes.
    pub fn write_raw(&self, path: &Path) {
        let file = File::create(path).expect("the file can be made");
        file.set_len(self.size).expect("the file system takes sparse files of this size");
        for (offset, data) in &self.runs {
            file.write_all_at(data, *offset).expect("there is room");
        }
    }

    /// Insists that a raw file holds exactly this disk.
    #[track_caller]
    pub fn assert_is(&self, path: &Path) {
        let file = File::open(path).expect("the file is there");
        assert_eq!(file.metadata().expect("metadata").len(), self.size, "the disk's size");
        for (start, end) in extents(&file) {
            self.compare(&file, start, end);
        }
        for (offset, length) in self.data() {
            self.compare(&file, offset, offset + length);
        }
    }

    #[track_caller]
    fn compare(&self, file: &File, start: u64, end: u64) {
        let mut at = start;
        let mut piece = vec![0; MIB as usize];
        while at < end {
            let length = (end - at).min(MIB);
            let part = &mut piece[..length as usize];
            file.read_exact_at(part, at).expect("the file can be read");
            assert!(self.bytes(at, length) == part, "the disk differs between {at} and {}", at + length);
            at += length;
        }
    }
}

/// The parts of a file that are no holes, as (start, end).
pub fn extents(file: &File) -> Vec<(u64, u64)> {
    let mut extents = Vec::new();
    let mut at = 0;
    while let Ok(start) = rustix::fs::seek(file, SeekFrom::Data(at)) {
        let end = rustix::fs::seek(file, SeekFrom::Hole(start)).expect("after data comes a hole or the end");
        extents.push((start, end));
        at = end;
    }
    extents
}

/// Bytes that a file takes on its disk.
pub fn occupied(path: &Path) -> u64 {
    std::fs::metadata(path).expect("the file is there").blocks() * 512
}

/// Writes a stream into a file, leaving holes where it is zero; returns its length.
pub fn write_sparse(source: &mut impl Read, path: &Path) -> u64 {
    let file = File::create(path).expect("the file can be made");
    let mut piece = vec![0; MIB as usize];
    let zeros = vec![0; MIB as usize];
    let mut at = 0;
    loop {
        let mut filled = 0;
        while filled < piece.len() {
            match source.read(&mut piece[filled..]).expect("the stream goes on") {
                0 => break,
                got => filled += got,
            }
        }
        if piece[..filled] != zeros[..filled] {
            file.write_all_at(&piece[..filled], at).expect("there is room");
        }
        at += filled as u64;
        if filled < piece.len() {
            file.set_len(at).expect("the length can be set");
            return at;
        }
    }
}

/// Bytes that do not compress and depend on the seed only (xorshift64*).
pub fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        bytes.extend_from_slice(&next(&mut state).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// The next number of a sequence that a seed fixes.
pub fn next(state: &mut u64) -> u64 {
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    state.wrapping_mul(0x2545_F491_4F6C_DD1D)
}
