//! The blocks of a VHD.

use std::num::NonZeroU64;
use std::ops::Range;

pub use crate::formats::blocks::{BlockSet, BlockSetBuilder};

/// Size of a block's data, in bytes, in every image that Gantry writes.
pub const BLOCK_BYTES: u64 = 2 << 20;

const BLOCK: NonZeroU64 = NonZeroU64::new(BLOCK_BYTES).unwrap();

impl BlockSet {
    /// The 2 MiB blocks of a disk of `virtual_size` bytes that ranges of bytes touch.
    ///
    /// A disk larger than any VHD has no blocks here; [`super::VhdLayout::new`] refuses it.
    pub fn from_extents(virtual_size: u64, extents: impl IntoIterator<Item = Range<u64>>) -> Self {
        let block_count =
            if virtual_size <= super::MAX_VIRTUAL_SIZE { virtual_size.div_ceil(BLOCK_BYTES) } else { 0 };
        Self::touched_by(BLOCK, u32::try_from(block_count).unwrap_or(u32::MAX), extents)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_blocks_of_a_vhd_are_of_2_mib() {
        let extents = [0..1, (2 << 21) - 1..(2 << 21) + 1, 7..7, (5 << 21)..(9 << 21)];
        let set = BlockSet::from_extents((5 << 21) + 1, extents);
        assert_eq!(set.block_count(), 6);
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 1, 2, 5]);
    }
}
