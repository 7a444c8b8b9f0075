//! Where the blocks of a dynamic VHD go while they are written in any order: one after the other, in the
//! order in which they first get data.

use super::error::DiskError;
use super::file::DiskFile;
use super::writer::VhdIdentity;
use crate::formats::vhd::{ALL_SECTORS, BLOCK_BYTES, MAX_VIRTUAL_SIZE, UNUSED_ENTRY, WriterGeometry};

/// The blocks of a VHD in the making.
#[derive(Debug)]
pub(super) struct VhdPlacement {
    geometry: WriterGeometry,
    identity: VhdIdentity,
    /// Slot of each block, up to the last one that has any; [`UNUSED_ENTRY`] for those that have none. At
    /// most 4 MiB, because no block lies past [`MAX_VIRTUAL_SIZE`].
    slots: Vec<u32>,
    used: u32,
}

/// A part of the disk that lies in one block.
struct Part {
    block: usize,
    within: u64,
    start: usize,
    len: usize,
}

fn parts(offset: u64, len: usize) -> impl Iterator<Item = Part> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let at = offset + start as u64;
        let within = at % BLOCK_BYTES;
        let length = (BLOCK_BYTES - within).min((len - start) as u64) as usize;
        let part = Part { block: (at / BLOCK_BYTES) as usize, within, start, len: length };
        start += length;
        (length > 0).then_some(part)
    })
}

fn limit(source: crate::formats::vhd::VhdError) -> DiskError {
    DiskError::VhdLimit { source }
}

impl VhdPlacement {
    pub(super) fn new(size: Option<u64>, identity: VhdIdentity) -> Result<Self, DiskError> {
        let geometry = WriterGeometry::new(size).map_err(limit)?;
        Ok(Self { geometry, identity, slots: Vec::new(), used: 0 })
    }

    /// Refuses what lies past the largest VHD.
    pub(super) fn check_end(&self, end: u64) -> Result<(), DiskError> {
        if end <= MAX_VIRTUAL_SIZE {
            return Ok(());
        }
        WriterGeometry::new(Some(end.next_multiple_of(512))).map(drop).map_err(limit)
    }

    /// Where the parts of `data`, which belongs at `offset` of the disk, go in the file. Blocks that have no
    /// place yet get one, and their bitmap is written.
    pub(super) fn allocate<'data>(
        &mut self,
        file: &DiskFile,
        offset: u64,
        data: &'data [u8],
    ) -> Result<Vec<(u64, &'data [u8])>, DiskError> {
        let mut places = Vec::new();
        for part in parts(offset, data.len()) {
            let data_offset = self.block_data_offset(file, part.block)?;
            let bytes = data.get(part.start..part.start + part.len).unwrap_or_default();
            places.push((data_offset + part.within, bytes));
        }
        Ok(places)
    }

    fn block_data_offset(&mut self, file: &DiskFile, block: usize) -> Result<u64, DiskError> {
        if let Some(&slot) = self.slots.get(block).filter(|slot| **slot != UNUSED_ENTRY) {
            return Ok(self.geometry.slot(slot).data_offset);
        }
        let location = self.geometry.slot(self.used);
        file.write_all_at(&ALL_SECTORS, location.bitmap_offset)?;
        if self.slots.len() <= block {
            self.slots.resize(block + 1, UNUSED_ENTRY);
        }
        if let Some(slot) = self.slots.get_mut(block) {
            *slot = self.used;
            self.used += 1;
        }
        Ok(location.data_offset)
    }

    /// File offset and length of those parts of a range of the disk that have a place.
    pub(super) fn allocated(&self, offset: u64, len: u64) -> impl Iterator<Item = (u64, u64)> + '_ {
        parts(offset, len as usize).filter_map(|part| {
            let slot = *self.slots.get(part.block).filter(|slot| **slot != UNUSED_ENTRY)?;
            Some((self.geometry.slot(slot).data_offset + part.within, part.len as u64))
        })
    }

    /// Writes what makes a VHD of the blocks: both footers, header and tables.
    pub(super) fn finish(&self, file: &DiskFile, virtual_size: u64) -> Result<(), DiskError> {
        let entry = |slot: &u32| match *slot {
            UNUSED_ENTRY => UNUSED_ENTRY,
            slot => self.geometry.bat_entry(slot),
        };
        let bat: Vec<u32> = self.slots.iter().map(entry).collect();
        let VhdIdentity { unique_id, timestamp } = self.identity;
        let head = self.geometry.encode_head(virtual_size, &bat, unique_id, timestamp).map_err(limit)?;
        let footer = self.geometry.encode_footer(virtual_size, unique_id, timestamp).map_err(limit)?;
        file.write_all_at(&footer, self.geometry.footer_offset(self.used))?;
        file.write_all_at(&head, 0)
    }
}
