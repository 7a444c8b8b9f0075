//! The layout of an `.xva` image: an archive with the blocks that hold data, holes inside of them known.

use std::num::NonZeroU64;
use std::sync::Arc;

use bytes::Bytes;

use super::Layout;
use super::budget::CHUNK_ROOM_BYTES;
use super::raw_layout::disk_piece;
use crate::disk::DiskReader;
use crate::disk::concat::ConcatReader;
use crate::disk::map::AllocationMap;
use crate::formats::Piece;
use crate::formats::xva::{BLOCK_BYTES, ChecksumKind, SLOT_BYTES, XvaDisk, XvaLayout, XvaLayoutError};

/// Changes whenever the bytes of an archive of the same document and disks do.
pub const XVA_LAYOUT_VERSION: u32 = 1;

const BLOCK: NonZeroU64 = NonZeroU64::new(BLOCK_BYTES).unwrap();
/// A block is in one chunk with its checksum, which is what saves reading it again.
const _: () = assert!(SLOT_BYTES <= BLOCK_BYTES + CHUNK_ROOM_BYTES as u64);

/// An archive of a VM's disks.
#[derive(Debug, Clone)]
pub struct XvaImageLayout {
    xva: XvaLayout,
    /// In the archive's order.
    maps: Vec<Arc<AllocationMap>>,
}

impl XvaImageLayout {
    /// The archive of an `ova.xml` and the disks that it names, each with its id there and its map, in the order of
    /// their ids as text. What the document has to say of their sizes is
    /// [`declared_sizes`](crate::formats::xva::declared_sizes).
    ///
    /// # Errors
    ///
    /// When importers would not take such an archive.
    pub fn new(
        ova_xml: Bytes,
        disks: Vec<(String, Arc<AllocationMap>)>,
        checksum: ChecksumKind,
    ) -> Result<Self, XvaLayoutError> {
        let (listed, maps): (Vec<_>, Vec<_>) = disks
            .into_iter()
            .map(|(id, map)| {
                let data =
                    map.extents().filter(|extent| extent.data).map(|extent| extent.start..extent.end());
                (XvaDisk::from_extents(id, map.virtual_size(), data), map)
            })
            .unzip();
        Ok(Self { xva: XvaLayout::new(ova_xml, listed, checksum)?, maps })
    }

    /// The disks, in the layout's order, as the one that the layout is made for.
    pub fn reader(disks: Vec<Arc<dyn DiskReader>>) -> ConcatReader {
        ConcatReader::new(disks, BLOCK)
    }
}

impl Layout for XvaImageLayout {
    fn len(&self) -> u64 {
        self.xva.len()
    }

    fn virtual_size(&self) -> u64 {
        self.xva.virtual_size()
    }

    fn piece_at(&self, at: u64, limit: u64) -> Piece {
        let piece = self.xva.piece_at(at, limit);
        let Piece::Disk { offset, len } = piece else { return piece };
        let Some((disk, within)) = self.xva.disk_at(offset) else { return piece };
        match self.maps.get(disk).map(|map| disk_piece(map, within, len)) {
            // Places on its disk become places on all of them.
            Some(Piece::Disk { len, .. }) => Piece::Disk { offset, len },
            Some(zeros) => zeros,
            None => piece,
        }
    }

    fn cut_at(&self, at: u64, chunk: u64) -> Option<u64> {
        self.xva.cut_at(at, chunk)
    }
}
