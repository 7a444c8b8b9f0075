//! What is needed to write a dynamic VHD file whose blocks come in any order, and whose size may be known only
//! when the last of them has come.
//!
//! Blocks are put into slots one after the other, in the order of their coming, behind room for the largest
//! front that may be needed. A slot is 4 KiB and 2 MiB long: its data is aligned to 4 KiB, the bitmap is the
//! sector before it, and the seven sectors before that are unused, which is how XenServer lays out its files.
//! At the end the front (footer copy, header, BAT, batmap) is written to byte 0 and the footer behind the
//! last slot. The batmap says that every block is whole, so each bitmap must be [`super::ALL_SECTORS`], and
//! bytes of a block that were never written must be zero.

use super::blocks::{BLOCK_BYTES, BlockSet};
use super::error::{Fact, MAX_VIRTUAL_SIZE, Rule, VhdError};
use super::footer::{FOOTER_LEN, Footer};
use super::index::BlockLocation;
use super::layout::Front;
use super::placement::UNUSED_ENTRY;

/// Alignment of block data in bytes.
const ALIGNMENT: u64 = 4096;
/// Bytes from one slot's data to the next one's.
const SLOT_BYTES: u64 = BLOCK_BYTES + ALIGNMENT;
/// Length of a slot's bitmap.
const BITMAP_BYTES: u64 = 512;

/// Where the parts of such a file lie.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WriterGeometry {
    /// Where the first slot's data begins.
    first_data: u64,
}

impl WriterGeometry {
    /// The places for a disk of `virtual_size` bytes; for a size that is not known yet, with room for the
    /// largest BAT and batmap (4.2 MiB, which stay a hole in the file when they are not needed).
    ///
    /// # Errors
    /// F6, F7, F8: no VHD can have that size.
    pub fn new(virtual_size: Option<u64>) -> Result<Self, VhdError> {
        let front = Front::new(virtual_size.unwrap_or(MAX_VIRTUAL_SIZE), [0; 16], 0)?;
        Ok(Self { first_data: (front.end() + BITMAP_BYTES).next_multiple_of(ALIGNMENT) })
    }

    /// Where the block that came as the `nth` one (from 0) goes.
    pub fn slot(&self, nth: u32) -> BlockLocation {
        let data_offset = self.first_data + u64::from(nth) * SLOT_BYTES;
        BlockLocation { bitmap_offset: data_offset - BITMAP_BYTES, bitmap_len: BITMAP_BYTES, data_offset }
    }

    /// The value of the BAT entry of the block that came as the `nth` one.
    pub fn bat_entry(&self, nth: u32) -> u32 {
        // As many slots as the largest disk has blocks end before sector 2³² − 1.
        u32::try_from(self.slot(nth).bitmap_offset / 512).unwrap_or(UNUSED_ENTRY)
    }

    /// Where the trailing footer goes when `slots` blocks have come. The file ends 512 bytes later.
    pub fn footer_offset(&self, slots: u32) -> u64 {
        match slots.checked_sub(1) {
            Some(last) => self.slot(last).data_offset + BLOCK_BYTES,
            None => self.first_data - BITMAP_BYTES,
        }
    }

    /// What to write at byte 0: footer copy, header, BAT and batmap. `bat` has an entry for each block of the
    /// disk, [`UNUSED_ENTRY`] for those that never came; entries that are missing at its end count as unused.
    ///
    /// # Errors
    /// F6, F7, F8 for an impossible size; B2 when this geometry was made for a smaller disk; B4 when `bat` has
    /// blocks behind the disk's end.
    pub fn encode_head(
        &self,
        virtual_size: u64,
        bat: &[u32],
        unique_id: [u8; 16],
        timestamp: u32,
    ) -> Result<Vec<u8>, VhdError> {
        let front = Front::new(virtual_size, unique_id, timestamp)?;
        let room = self.first_data - BITMAP_BYTES;
        if front.end() > room {
            return Err(VhdError::Malformed {
                rule: Rule::B2,
                field: "end of BAT and batmap",
                offset: front.end(),
                expected: Fact::AtMost(room),
                found: Fact::Number(front.end()),
            });
        }
        let entries = front.header.entries;
        let mut blocks = BlockSet::builder(entries);
        for (index, &entry) in (0u32..).zip(bat) {
            if entry == UNUSED_ENTRY {
                continue;
            }
            if index >= entries {
                return Err(VhdError::Malformed {
                    rule: Rule::B4,
                    field: "BAT entry",
                    offset: front.header.table_offset + u64::from(index) * 4,
                    expected: Fact::Hex(u64::from(UNUSED_ENTRY)),
                    found: Fact::Number(u64::from(entry)),
                });
            }
            blocks.insert(index);
        }
        let blocks = blocks.finish();
        let mut head = Vec::with_capacity(usize::try_from(front.end()).unwrap_or(0));
        head.extend_from_slice(&front.footer.encode());
        head.extend_from_slice(&front.header.encode());
        let padding = std::iter::repeat(UNUSED_ENTRY);
        let table_entries = usize::try_from(front.header.table_bytes() / 4).unwrap_or(0);
        for entry in bat.iter().copied().chain(padding).take(table_entries) {
            head.extend_from_slice(&entry.to_be_bytes());
        }
        head.extend_from_slice(&front.batmap.header(&blocks, front.batmap_offset()).encode());
        head.extend((0..front.batmap.map_bytes).map(|at| front.batmap.byte(&blocks, at)));
        Ok(head)
    }

    /// What to write at [`footer_offset`](Self::footer_offset): the same footer as the copy in front.
    ///
    /// # Errors
    /// F6, F7, F8 for an impossible size.
    pub fn encode_footer(
        &self,
        virtual_size: u64,
        unique_id: [u8; 16],
        timestamp: u32,
    ) -> Result<[u8; FOOTER_LEN], VhdError> {
        Ok(Footer::dynamic(virtual_size, unique_id, timestamp)?.encode())
    }
}
