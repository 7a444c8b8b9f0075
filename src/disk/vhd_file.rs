//! One VHD file of a chain: its index in memory, its sector bitmaps read when they are asked for.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use super::error::DiskError;
use super::file::DiskFile;
use super::map::AllocationMap;
use crate::formats::vhd::{self, BlockLocation, DiskKind, VhdError, VhdIndex};

/// Memory for the bitmaps of one file that are kept, in bytes.
const BITMAP_CACHE_BYTES: u64 = 256 << 10;
/// Number of bitmaps that are kept, whatever their size: neighbours of what several readers are at.
const BITMAP_CACHE_ENTRIES: std::ops::RangeInclusive<u64> = 4..=64;

/// Reads from the file below in a chain: fills a buffer from an offset on.
pub(super) type Below<'a> = dyn FnMut(u64, &mut [u8]) -> Result<(), DiskError> + 'a;

/// An open VHD without its parents.
#[derive(Debug)]
pub(super) struct VhdFile {
    file: DiskFile,
    index: VhdIndex,
    bitmaps: BitmapCache,
}

/// Either side of reading an index: the file or what is in it.
enum OpenFailure {
    Vhd(VhdError),
    Disk(DiskError),
}

impl From<VhdError> for OpenFailure {
    fn from(error: VhdError) -> Self {
        Self::Vhd(error)
    }
}

impl VhdFile {
    pub(super) fn open(path: &Path) -> Result<Self, DiskError> {
        let file = DiskFile::open(path)?;
        let read = |at, buf: &mut [u8]| file.read_exact_at(buf, at).map_err(OpenFailure::Disk);
        let index = vhd::open(file.len()?, read).map_err(|failure| match failure {
            OpenFailure::Vhd(source) => DiskError::Vhd { path: path.to_path_buf(), source },
            OpenFailure::Disk(error) => error,
        })?;
        let bitmap_bytes = index.block_bytes.div_ceil(512 * 8).max(512);
        let entries = (BITMAP_CACHE_BYTES / bitmap_bytes)
            .clamp(*BITMAP_CACHE_ENTRIES.start(), *BITMAP_CACHE_ENTRIES.end());
        Ok(Self { file, index, bitmaps: BitmapCache::new(entries as usize) })
    }

    pub(super) fn index(&self) -> &VhdIndex {
        &self.index
    }

    pub(super) fn path(&self) -> &Path {
        self.file.path()
    }

    pub(super) fn physical_bytes(&self) -> Result<u64, DiskError> {
        self.file.physical_bytes()
    }

    /// Marks what this file may hold data for.
    pub(super) fn mark_data(&self, map: &mut AllocationMap) -> Result<(), DiskError> {
        if self.index.kind == DiskKind::Fixed {
            return self
                .file
                .for_each_data(self.index.virtual_size, |start, length| map.set_range(start, length));
        }
        for (block, _) in self.index.blocks() {
            map.set_range(block.saturating_mul(self.index.block_bytes), self.index.block_bytes);
        }
        Ok(())
    }

    /// Fills `buf` from `offset` on, which must lie inside of this file's virtual size; what this file does
    /// not hold is left to `below`.
    pub(super) fn read_at(
        &self,
        offset: u64,
        buf: &mut [u8],
        below: &mut Below<'_>,
    ) -> Result<(), DiskError> {
        let (mut rest, mut at) = (buf, offset);
        while !rest.is_empty() {
            let (block, within) = (at / self.index.block_bytes, at % self.index.block_bytes);
            let left_in_block = self.index.block_bytes - within;
            let (part, after) = split(rest, left_in_block);
            match self.index.block(block) {
                None => below(at, part)?,
                Some(location) => self.read_block(block, location, within, at, part, below)?,
            }
            at += left_in_block;
            rest = after;
        }
        Ok(())
    }

    /// Reads from one allocated block, `within` bytes from its begin on, `at` on the disk.
    fn read_block(
        &self,
        block: u64,
        location: BlockLocation,
        within: u64,
        at: u64,
        buf: &mut [u8],
        below: &mut Below<'_>,
    ) -> Result<(), DiskError> {
        if location.bitmap_len == 0 {
            return self.file.read_exact_at(buf, location.data_offset + within);
        }
        let bitmap = self.bitmaps.get_or_read(block, || {
            // At most 64 KiB: the index refuses larger blocks than that stands for.
            let mut bytes = vec![0; location.bitmap_len as usize];
            self.file.read_exact_at(&mut bytes, location.bitmap_offset)?;
            Ok(bytes.into())
        })?;
        // Blocks have 256 MiB at most.
        let sectors = (self.index.block_bytes / 512) as u32;
        let (mut rest, mut within, mut at) = (buf, within, at);
        while !rest.is_empty() {
            let sector = (within / 512) as u32;
            let (present, run) = vhd::bitmap::run_at(&bitmap, sector, sectors);
            let length = (u64::from(sector + run) * 512).saturating_sub(within).max(1);
            let (part, after) = split(rest, length);
            if present {
                self.file.read_exact_at(part, location.data_offset + within)?;
            } else {
                below(at, part)?;
            }
            (rest, within, at) = (after, within + length, at + length);
        }
        Ok(())
    }
}

/// The first `length` bytes, or all if there are fewer, and the rest.
fn split(buf: &mut [u8], length: u64) -> (&mut [u8], &mut [u8]) {
    let length = length.min(buf.len() as u64) as usize;
    buf.split_at_mut_checked(length).unwrap_or_default()
}

/// The bitmaps read last.
#[derive(Debug)]
struct BitmapCache {
    entries: usize,
    /// Block number and bitmap, the one used last at the back.
    kept: Mutex<VecDeque<(u64, Arc<[u8]>)>>,
}

impl BitmapCache {
    fn new(entries: usize) -> Self {
        Self { entries, kept: Mutex::default() }
    }

    /// Two readers that miss at the same time both read; the file does not change.
    fn get_or_read(
        &self,
        block: u64,
        read: impl FnOnce() -> Result<Arc<[u8]>, DiskError>,
    ) -> Result<Arc<[u8]>, DiskError> {
        if let Some(bitmap) = self.take_to_back(block) {
            return Ok(bitmap);
        }
        let bitmap = read()?;
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= self.entries {
            kept.pop_front();
        }
        kept.push_back((block, Arc::clone(&bitmap)));
        Ok(bitmap)
    }

    fn take_to_back(&self, block: u64) -> Option<Arc<[u8]>> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        let found = kept.iter().rposition(|(number, _)| *number == block)?;
        let entry = kept.remove(found)?;
        let bitmap = Arc::clone(&entry.1);
        kept.push_back(entry);
        Some(bitmap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bitmap_cache_keeps_the_ones_used_last_and_no_more() {
        let cache = BitmapCache::new(2);
        let reads = std::cell::Cell::new(0);
        let get = |block: u64| {
            let read = || {
                reads.set(reads.get() + 1);
                Ok(vec![block as u8].into())
            };
            assert_eq!(*cache.get_or_read(block, read).unwrap(), [block as u8]);
            reads.get()
        };
        assert_eq!([get(1), get(2), get(1), get(3), get(1), get(2)], [1, 2, 2, 3, 3, 4]);
        assert_eq!(cache.kept.lock().unwrap().len(), 2);
    }
}
