//! A VHD file that was opened: what is in it and where.

use super::error::VhdError;
use super::footer::{DiskKind, Footer};
use super::locator::ParentRef;
use super::placement::UNUSED_ENTRY;

/// Where a block is in its file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlockLocation {
    /// Where its bitmap begins, in bytes.
    pub bitmap_offset: u64,
    /// Length of the bitmap in bytes, padding included. Zero on a fixed disk: every sector is there.
    pub bitmap_len: u64,
    /// Where its data begins, in bytes. There are always `block_bytes` of it, except on a fixed disk.
    pub data_offset: u64,
}

/// What an opened VHD file holds, without its data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VhdIndex {
    /// The footer that is believed: the trailing one, or its copy when that one is damaged.
    pub footer: Footer,
    /// What the file holds.
    pub kind: DiskKind,
    /// The disk's size in bytes.
    pub virtual_size: u64,
    /// Size of a block's data in bytes. A fixed disk is one block of its whole size.
    pub block_bytes: u64,
    /// Whether the file is marked as an inner node of a chain (XenServer).
    pub hidden: bool,
    /// The file's own id, to which its children refer.
    pub unique_id: [u8; 16],
    /// The parent of a differencing disk.
    pub parent: Option<ParentRef>,
    /// What is wrong with the file although it can be read. Empty for a sound one.
    pub warnings: Vec<VhdError>,
    /// Length of a block's bitmap in bytes; zero on a fixed disk.
    pub(super) bitmap_bytes: u32,
    /// First sector of each block's bitmap. Exactly one entry for each block of the disk.
    pub(super) bat: Vec<u32>,
}

impl VhdIndex {
    /// Number of blocks that the disk has, whether they are in this file or not.
    pub fn block_count(&self) -> u64 {
        self.virtual_size.div_ceil(self.block_bytes.max(1))
    }

    /// Number of blocks that are in this file.
    pub fn allocated(&self) -> u64 {
        self.blocks().count() as u64
    }

    /// Where block `index` is in this file. `None`: nowhere; then it is a hole in a dynamic disk, and the
    /// parent's in a differencing one.
    pub fn block(&self, index: u64) -> Option<BlockLocation> {
        if self.kind == DiskKind::Fixed {
            return (index == 0).then_some(BlockLocation { bitmap_offset: 0, bitmap_len: 0, data_offset: 0 });
        }
        let entry = *self.bat.get(usize::try_from(index).ok()?)?;
        (entry != UNUSED_ENTRY).then(|| self.at(entry))
    }

    /// The blocks that are in this file, in the order of the disk.
    pub fn blocks(&self) -> impl Iterator<Item = (u64, BlockLocation)> + '_ {
        let fixed = self.block(0).filter(|_| self.kind == DiskKind::Fixed).map(|block| (0, block));
        let used = (0u64..).zip(&self.bat).filter(|&(_, &entry)| entry != UNUSED_ENTRY);
        fixed.into_iter().chain(used.map(|(index, &entry)| (index, self.at(entry))))
    }

    fn at(&self, entry: u32) -> BlockLocation {
        let bitmap_offset = u64::from(entry) * 512;
        let bitmap_len = u64::from(self.bitmap_bytes);
        BlockLocation { bitmap_offset, bitmap_len, data_offset: bitmap_offset + bitmap_len }
    }
}
