//! The layout of a `.vhd` image: a dynamic VHD with the blocks that hold data, holes inside of them known.

use std::sync::Arc;

use super::Layout;
use super::raw_layout::disk_piece;
use crate::disk::map::AllocationMap;
use crate::formats::Piece;
use crate::formats::vhd::{BlockSet, VhdError, VhdLayout};

/// A dynamic VHD of a disk.
#[derive(Debug, Clone)]
pub struct VhdImageLayout {
    vhd: VhdLayout,
    map: Arc<AllocationMap>,
}

impl VhdImageLayout {
    /// The image of the disk that `map` describes. Id and timestamp (seconds since 2000) are part of its
    /// bytes, so they have to come from the content and not from the clock.
    ///
    /// # Errors
    ///
    /// When the disk is larger than a VHD can be, or its size is not one that a disk can have.
    pub fn new(map: Arc<AllocationMap>, unique_id: [u8; 16], timestamp: u32) -> Result<Self, VhdError> {
        let data = map.extents().filter(|extent| extent.data).map(|extent| extent.start..extent.end());
        let blocks = BlockSet::from_extents(map.virtual_size(), data);
        let vhd = VhdLayout::new(map.virtual_size(), blocks, unique_id, timestamp)?;
        Ok(Self { vhd, map })
    }
}

impl Layout for VhdImageLayout {
    fn len(&self) -> u64 {
        self.vhd.len()
    }

    fn virtual_size(&self) -> u64 {
        self.map.virtual_size()
    }

    fn piece_at(&self, at: u64, limit: u64) -> Piece {
        match self.vhd.piece_at(at, limit) {
            // What pads the last block lies past the disk's end.
            Piece::Disk { offset, len } if offset >= self.map.virtual_size() => Piece::Zeros(len),
            Piece::Disk { offset, len } => disk_piece(&self.map, offset, len),
            piece => piece,
        }
    }
}
