//! XenServer's batmap: a header behind the BAT, and a map with one bit for each block all of whose sectors are
//! there. Whoever claims to be `tap` 1.2 or later must write one, or libvhd refuses the whole file.
//!
//! Facts: blktap's libvhd, format version 1.2.

use super::blocks::BlockSet;
use super::checksum::byte_sum;
use super::error::{Fact, Rule, VhdError};
use super::fields::{get, put, u32_at, u64_at};

/// Length of a batmap header in bytes.
pub const BATMAP_HEADER_LEN: usize = 512;
/// What a batmap header begins with.
pub const BATMAP_COOKIE: [u8; 8] = *b"tdbatmap";
/// Version 1.2, in which the map's bytes are summed unsigned.
const VERSION: u32 = 0x0001_0002;

/// Number of blocks in one byte of the map.
const BLOCKS_PER_BYTE: u64 = 8;

/// A batmap header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BatmapHeader {
    /// Where the map is, in bytes.
    pub map_offset: u64,
    /// Length of the map in sectors.
    pub map_sectors: u32,
    /// Version, major in the upper half.
    pub version: u32,
    /// One's complement of the sum of the map's bytes.
    pub checksum: u32,
}

impl BatmapHeader {
    /// Reads the header at byte `at`.
    ///
    /// # Errors
    /// M3, when it does not begin with its cookie.
    pub fn parse(bytes: &[u8; BATMAP_HEADER_LEN], at: u64) -> Result<Self, VhdError> {
        let cookie = get::<0, 8, _>(bytes);
        if cookie != BATMAP_COOKIE {
            let (expected, found) = (Fact::Cookie(BATMAP_COOKIE), Fact::Cookie(cookie));
            return Err(VhdError::Malformed {
                rule: Rule::M3,
                field: "batmap cookie",
                offset: at,
                expected,
                found,
            });
        }
        Ok(Self {
            map_offset: u64_at::<8, _>(bytes),
            map_sectors: u32_at::<16, _>(bytes),
            version: u32_at::<20, _>(bytes),
            checksum: u32_at::<24, _>(bytes),
        })
    }

    /// The header's bytes.
    pub fn encode(&self) -> [u8; BATMAP_HEADER_LEN] {
        let mut bytes = [0; BATMAP_HEADER_LEN];
        put::<0, 8, _>(&mut bytes, BATMAP_COOKIE);
        put::<8, 8, _>(&mut bytes, self.map_offset.to_be_bytes());
        put::<16, 4, _>(&mut bytes, self.map_sectors.to_be_bytes());
        put::<20, 4, _>(&mut bytes, self.version.to_be_bytes());
        put::<24, 4, _>(&mut bytes, self.checksum.to_be_bytes());
        bytes
    }

    /// Length of the map in bytes.
    pub fn map_bytes(&self) -> u64 {
        u64::from(self.map_sectors) * 512
    }
}

/// Bytes of the map over which libvhd sums, for a disk of `virtual_size` bytes.
///
/// It counts whole 2 MiB blocks and whole bytes of bits, so the last bits of a map that is one bit longer than
/// a sector are outside of it.
pub fn summed_bytes(virtual_size: u64) -> u64 {
    ((virtual_size >> 21) / BLOCKS_PER_BYTE).max(1).next_multiple_of(512)
}

/// The batmap of a disk whose blocks are either complete or absent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Batmap {
    /// Blocks from this one on are left out although they are complete: libvhd would not sum their bits, and so
    /// both ways of summing agree. A clear bit only sends readers to the block's own bitmap.
    shown: u32,
    /// Length of the map in bytes, a multiple of 512.
    pub(super) map_bytes: u64,
}

impl Batmap {
    /// The batmap of a disk of `virtual_size` bytes.
    pub(super) fn of(virtual_size: u64, block_count: u32) -> Self {
        let shown = summed_bytes(virtual_size) * BLOCKS_PER_BYTE;
        Self {
            shown: u32::try_from(shown).unwrap_or(u32::MAX),
            map_bytes: u64::from(block_count).div_ceil(BLOCKS_PER_BYTE).next_multiple_of(512),
        }
    }

    /// Bytes of header and map.
    pub(super) fn len(self) -> u64 {
        BATMAP_HEADER_LEN as u64 + self.map_bytes
    }

    /// The map's byte at `at`.
    pub(super) fn byte(self, blocks: &BlockSet, at: u64) -> u8 {
        let first = u32::try_from(at * BLOCKS_PER_BYTE).unwrap_or(u32::MAX);
        (0..8).fold(0, |byte, bit| {
            let index = first.saturating_add(bit);
            let set = index < self.shown && blocks.contains(index);
            byte | if set { 0x80 >> bit } else { 0 }
        })
    }

    /// The header of this batmap when it lies at byte `at`.
    pub(super) fn header(self, blocks: &BlockSet, at: u64) -> BatmapHeader {
        let sum = (0..self.map_bytes).fold(0u32, |sum, i| sum.wrapping_add(u32::from(self.byte(blocks, i))));
        BatmapHeader {
            map_offset: at.saturating_add(BATMAP_HEADER_LEN as u64),
            map_sectors: u32::try_from(self.map_bytes / 512).unwrap_or(u32::MAX),
            version: VERSION,
            checksum: !sum,
        }
    }
}

/// Sums a map as libvhd does while its bytes come in pieces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct MapSum {
    left: u64,
    sum: u32,
}

impl MapSum {
    pub(super) fn new(virtual_size: u64) -> Self {
        Self { left: summed_bytes(virtual_size), sum: 0 }
    }

    /// Number of bytes that it still sums.
    pub(super) fn bytes(&self) -> u64 {
        self.left
    }

    pub(super) fn add(&mut self, bytes: &[u8], signed: bool) {
        let take = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        let bytes = bytes.get(..take).unwrap_or_default();
        let sum = if signed {
            bytes.iter().fold(0u32, |sum, &b| sum.wrapping_add_signed(i32::from(i8::from_ne_bytes([b]))))
        } else {
            byte_sum(bytes)
        };
        self.sum = self.sum.wrapping_add(sum);
        self.left -= take as u64;
    }

    pub(super) fn checksum(&self) -> u32 {
        !self.sum
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libvhd_sums_whole_bytes_of_whole_blocks_in_whole_sectors() {
        assert_eq!(summed_bytes(512), 512);
        assert_eq!(summed_bytes(4096 << 21), 512);
        assert_eq!(summed_bytes((4096 << 21) + 512), 512);
        assert_eq!(summed_bytes(4104 << 21), 1024);
        assert_eq!(summed_bytes(2040 << 30), 130_560);
    }

    #[test]
    fn both_ways_of_summing_agree_also_when_the_map_is_one_bit_longer_than_a_sector() {
        for block_count in [1u32, 8, 4095, 4096, 4097, 4100, 4104, 4105, 8193] {
            let virtual_size = (u64::from(block_count) << 21) - 512;
            let mut all = BlockSet::builder(block_count);
            all.insert_range(0..block_count);
            let all = all.finish();
            let batmap = Batmap::of(virtual_size, block_count);
            let map: Vec<u8> = (0..batmap.map_bytes).map(|at| batmap.byte(&all, at)).collect();
            let mut sum = MapSum::new(virtual_size);
            sum.add(&map, false);
            let header = batmap.header(&all, 4096);
            assert_eq!(header.checksum, sum.checksum(), "{block_count} blocks");
            assert_eq!(header.checksum, !byte_sum(&map));
            assert_eq!(BatmapHeader::parse(&header.encode(), 4096), Ok(header));
        }
    }
}
