//! The layout of a `.raw` image: the disk itself, holes known.

use std::sync::Arc;

use super::Layout;
use crate::disk::map::AllocationMap;
use crate::formats::Piece;

/// A raw image of a disk.
#[derive(Debug, Clone)]
pub struct RawLayout {
    map: Arc<AllocationMap>,
}

impl RawLayout {
    /// The image of the disk that `map` describes.
    pub fn new(map: Arc<AllocationMap>) -> Self {
        Self { map }
    }
}

impl Layout for RawLayout {
    fn len(&self) -> u64 {
        self.map.virtual_size()
    }

    fn virtual_size(&self) -> u64 {
        self.map.virtual_size()
    }

    fn piece_at(&self, at: u64, limit: u64) -> Piece {
        disk_piece(&self.map, at, limit)
    }
}

/// Up to `limit` bytes of the disk, cut where data and holes meet. Past the disk's end there are zeros.
pub(super) fn disk_piece(map: &AllocationMap, offset: u64, limit: u64) -> Piece {
    match map.extent_within(offset, limit) {
        Some(extent) if extent.data => Piece::Disk { offset, len: extent.length.min(limit) },
        Some(extent) => Piece::Zeros(extent.length.min(limit)),
        None => Piece::Zeros(0),
    }
}
