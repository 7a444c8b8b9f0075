//! Which parts of a disk hold data: a bitmap of granules, bounded whatever the disk's size.
//!
//! A granule is 64 KiB, and doubles while the bitmap would take more than 4 MiB: up to 2 TiB a disk is
//! known in steps of 64 KiB, beyond that in coarser ones. A clear bit is a promise (these bytes are zero),
//! a set bit is none (these bytes have to be read).

use std::iter::FusedIterator;
use std::num::NonZeroU64;

use serde::Serialize;

/// Smallest granule: 64 KiB.
pub(super) const MIN_SHIFT: u32 = 16;
/// Largest bitmap, in 64-bit words: 4 MiB.
pub(super) const MAX_WORDS: u64 = 4 << 20 >> 3;

/// Which parts of a disk may hold data.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllocationMap {
    pub(super) virtual_size: u64,
    pub(super) shift: u32,
    /// One bit per granule, least significant first; bits past the last granule are clear.
    pub(super) words: Vec<u64>,
}

/// A run of bytes that are all promised to be zero, or all not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Extent {
    /// First byte's address on the disk.
    pub start: u64,
    /// Number of bytes, at least 1.
    pub length: u64,
    /// Whether the run may hold data; if not, it is zero.
    pub data: bool,
}

impl Extent {
    /// First byte after the run.
    pub fn end(&self) -> u64 {
        self.start.saturating_add(self.length)
    }
}

/// The granule, as a power of two, that a disk of this size is described in.
pub(super) fn shift_for(virtual_size: u64) -> u32 {
    let mut shift = MIN_SHIFT;
    while words_for(virtual_size, shift) > MAX_WORDS {
        shift += 1;
    }
    shift
}

/// Number of 64-bit words that a bitmap of such granules takes.
pub(super) fn words_for(virtual_size: u64, shift: u32) -> u64 {
    virtual_size.div_ceil(1 << shift).div_ceil(64)
}

impl AllocationMap {
    /// A map of a disk that holds no data. For a disk whose size is not known yet, begin with 0 and
    /// [`grow_to`](Self::grow_to) what arrives.
    pub fn new(virtual_size: u64) -> Self {
        let shift = shift_for(virtual_size);
        // At most MAX_WORDS.
        let words = vec![0; words_for(virtual_size, shift) as usize];
        Self { virtual_size, shift, words }
    }

    /// A map of a disk of which nothing is known, so that all of it has to be read.
    pub fn full(virtual_size: u64) -> Self {
        let mut map = Self::new(virtual_size);
        map.set_range(0, virtual_size);
        map
    }

    /// The disk's size in bytes.
    pub fn virtual_size(&self) -> u64 {
        self.virtual_size
    }

    /// Size in bytes of the pieces that are told apart.
    pub fn granule_bytes(&self) -> u64 {
        1 << self.shift
    }

    /// Makes the disk larger; what is new holds no data. A smaller size changes nothing.
    pub fn grow_to(&mut self, virtual_size: u64) {
        if virtual_size <= self.virtual_size {
            return;
        }
        while words_for(virtual_size, self.shift) > MAX_WORDS {
            self.coarsen();
        }
        self.virtual_size = virtual_size;
        self.words.resize(words_for(virtual_size, self.shift) as usize, 0);
    }

    /// Doubles the granule: each pair of bits becomes one.
    fn coarsen(&mut self) {
        let halves = self.words.chunks(2).map(|pair| {
            let [low, high] = [0, 1].map(|at| pair.get(at).copied().map_or(0, squeeze_pairs));
            low | high << 32
        });
        self.words = halves.collect();
        self.shift += 1;
    }

    /// Marks the granules that `length` bytes from `start` on touch. What lies past the disk's end is ignored.
    pub fn set_range(&mut self, start: u64, length: u64) {
        let end = start.saturating_add(length).min(self.virtual_size);
        if start >= end {
            return;
        }
        let (first, last) = (start >> self.shift, (end - 1) >> self.shift);
        let (first_word, last_word) = (first / 64, last / 64);
        let touched = self.words.iter_mut().enumerate().skip(first_word as usize);
        for (at, word) in touched.take((last_word - first_word + 1) as usize) {
            let at = at as u64;
            let low = if at == first_word { u64::MAX << (first % 64) } else { u64::MAX };
            let high = if at == last_word { u64::MAX >> (63 - last % 64) } else { u64::MAX };
            *word |= low & high;
        }
    }

    /// Whether the byte at `offset` may be other than zero. Past the disk's end it is not.
    pub fn is_data(&self, offset: u64) -> bool {
        offset < self.virtual_size && self.bit(offset >> self.shift)
    }

    fn bit(&self, granule: u64) -> bool {
        self.words.get((granule / 64) as usize).is_some_and(|word| word >> (granule % 64) & 1 == 1)
    }

    /// The run that begins at `offset`, up to the next change or the disk's end; `None` from the end on.
    /// Costs one step per 64 granules of the run.
    pub fn extent_at(&self, offset: u64) -> Option<Extent> {
        self.extent_within(offset, u64::MAX)
    }

    /// As [`Self::extent_at`], but `limit` bytes at most: where a run ends beyond them is not looked for.
    pub fn extent_within(&self, offset: u64, limit: u64) -> Option<Extent> {
        if offset >= self.virtual_size {
            return None;
        }
        let granule = offset >> self.shift;
        let data = self.bit(granule);
        let last = offset.saturating_add(limit).min(self.virtual_size);
        let end = match self.next_change(granule, last.div_ceil(1 << self.shift), data) {
            Some(change) => (change << self.shift).min(last),
            None => last,
        };
        Some(Extent { start: offset, length: end - offset, data })
    }

    /// The first granule after `granule` whose bit is not `data`, unless it is one from `end` on, where it may be found
    /// too.
    fn next_change(&self, granule: u64, end: u64, data: bool) -> Option<u64> {
        let same = if data { u64::MAX } else { 0 };
        let first_word = granule / 64;
        let count = usize::try_from(end.div_ceil(64).saturating_sub(first_word)).unwrap_or(usize::MAX);
        let words = self.words.iter().enumerate().skip(first_word as usize).take(count);
        for (at, word) in words {
            let at = at as u64;
            let mut differing = word ^ same;
            if at == first_word {
                differing &= u64::MAX << (granule % 64);
            }
            if differing != 0 {
                return Some(at * 64 + u64::from(differing.trailing_zeros()));
            }
        }
        None
    }

    /// All runs in ascending order, each as long as it can be; together they are the whole disk.
    pub fn extents(&self) -> Extents<'_> {
        Extents { map: self, at: 0 }
    }

    /// Number of bytes that may hold data.
    pub fn data_bytes(&self) -> u64 {
        let granules: u64 = self.words.iter().map(|word| u64::from(word.count_ones())).sum();
        let Some(last) = self.virtual_size.checked_sub(1).map(|last| last >> self.shift) else { return 0 };
        // The last granule may be cut by the disk's end.
        let beyond_end = self.granule_bytes() - 1 - (self.virtual_size - 1) % self.granule_bytes();
        let missing = if self.bit(last) { beyond_end } else { 0 };
        (granules << self.shift) - missing
    }

    /// Numbers of the blocks of `block_bytes` in which anything may be data, ascending, each once.
    pub fn blocks_with_data(&self, block_bytes: NonZeroU64) -> impl Iterator<Item = u64> + '_ {
        let mut next = 0;
        self.extents().filter(|extent| extent.data).flat_map(move |extent| {
            let first = (extent.start / block_bytes).max(next);
            next = (extent.end() - 1) / block_bytes + 1;
            first..next
        })
    }

    /// Memory that the bitmap takes, in bytes.
    pub fn memory_bytes(&self) -> usize {
        self.words.len() * size_of::<u64>()
    }
}

/// Takes each pair of bits together (set when either is) into the low 32 bits.
fn squeeze_pairs(word: u64) -> u64 {
    let mut bits = (word | word >> 1) & 0x5555_5555_5555_5555;
    bits = (bits | bits >> 1) & 0x3333_3333_3333_3333;
    bits = (bits | bits >> 2) & 0x0F0F_0F0F_0F0F_0F0F;
    bits = (bits | bits >> 4) & 0x00FF_00FF_00FF_00FF;
    bits = (bits | bits >> 8) & 0x0000_FFFF_0000_FFFF;
    (bits | bits >> 16) & 0xFFFF_FFFF
}

/// The runs of a map, in order.
#[derive(Debug, Clone)]
pub struct Extents<'a> {
    map: &'a AllocationMap,
    at: u64,
}

impl Iterator for Extents<'_> {
    type Item = Extent;

    fn next(&mut self) -> Option<Extent> {
        let extent = self.map.extent_at(self.at)?;
        self.at = extent.end();
        Some(extent)
    }
}

impl FusedIterator for Extents<'_> {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const G: u64 = 64 << 10;

    fn ranges() -> impl Strategy<Value = Vec<(u64, u64)>> {
        prop::collection::vec((0..300 * G, 0..20 * G), 0..12)
    }

    /// The same thing said with one bool per granule.
    fn model(size: u64, granule: u64, ranges: &[(u64, u64)]) -> Vec<bool> {
        let mut bits = vec![false; size.div_ceil(granule) as usize];
        for &(start, length) in ranges {
            for (at, bit) in bits.iter_mut().enumerate() {
                let low = at as u64 * granule;
                let high = (low + granule).min(size);
                *bit |= length > 0 && start < high && start + length > low;
            }
        }
        bits
    }

    proptest! {
        #[test]
        fn runs_are_maximal_cover_the_disk_and_agree_with_a_plain_model(size in 1..250 * G, ranges in ranges()) {
            let mut map = AllocationMap::new(size);
            ranges.iter().for_each(|&(start, length)| map.set_range(start, length));
            let bits = model(size, G, &ranges);
            let (mut at, mut before) = (0, None);
            for extent in map.extents() {
                prop_assert_eq!(extent.start, at);
                for limit in [1, 77_777, u64::MAX] {
                    let part = Extent { length: extent.length.min(limit), ..extent };
                    prop_assert_eq!(map.extent_within(at, limit), Some(part));
                }
                prop_assert_ne!(Some(extent.data), before);
                for granule in extent.start / G..extent.end().div_ceil(G) {
                    prop_assert_eq!(bits[granule as usize], extent.data);
                    prop_assert_eq!(map.is_data(granule * G), extent.data);
                }
                (at, before) = (extent.end(), Some(extent.data));
            }
            prop_assert_eq!(at, size);
            let data: u64 = map.extents().filter(|e| e.data).map(|e| e.length).sum();
            prop_assert_eq!(map.data_bytes(), data);
            prop_assert_eq!(map.extent_at(size), None);
        }

        #[test]
        fn blocks_with_data_are_those_that_any_data_run_touches(size in 1..250 * G, ranges in ranges(), block in 1..2_000_000_u64) {
            let mut map = AllocationMap::new(size);
            ranges.iter().for_each(|&(start, length)| map.set_range(start, length));
            let blocks: Vec<u64> = map.blocks_with_data(NonZeroU64::new(block).unwrap()).collect();
            let wanted: Vec<u64> = (0..size.div_ceil(block)).filter(|b| {
                let (low, high) = (b * block, ((b + 1) * block).min(size));
                map.extents().any(|e| e.data && e.start < high && e.end() > low)
            }).collect();
            prop_assert_eq!(blocks, wanted);
        }

        #[test]
        fn a_map_that_grew_equals_one_that_knew_its_size(steps in prop::collection::vec((1..40 * G, any::<bool>()), 1..20)) {
            let (mut grown, mut at, mut sets) = (AllocationMap::new(0), 0, Vec::new());
            for (length, data) in steps {
                grown.grow_to(at + length);
                if data {
                    grown.set_range(at, length);
                    sets.push((at, length));
                }
                at += length;
            }
            let mut known = AllocationMap::new(at);
            sets.iter().for_each(|&(start, length)| known.set_range(start, length));
            prop_assert_eq!(grown, known);
        }
    }

    #[test]
    fn any_size_fits_in_four_mebibytes_of_bitmap() {
        for size in [0, 1, 2040 << 30, 2 << 40, (2 << 40) + 512, 1 << 50, i64::MAX as u64, u64::MAX] {
            let map = AllocationMap::new(size);
            assert!(map.memory_bytes() <= 4 << 20, "{size} takes {}", map.memory_bytes());
            assert_eq!(map.data_bytes(), 0);
            assert_eq!(map.extents().map(|e| e.length).sum::<u64>(), size);
        }
        assert_eq!(AllocationMap::new(2 << 40).granule_bytes(), 64 << 10);
        assert_eq!(AllocationMap::new((2 << 40) + 1).granule_bytes(), 128 << 10);
    }

    #[test]
    fn growing_past_the_limit_doubles_the_granule_and_keeps_every_bit() {
        let mut map = AllocationMap::new(2 << 40);
        let starts = [0, 3 * G, 64 * G, 127 * G, 129 * G, (2 << 40) - G];
        starts.iter().for_each(|&start| map.set_range(start, 1));
        map.grow_to(5 << 40);
        assert_eq!(map.granule_bytes(), 256 << 10);
        let mut direct = AllocationMap::new(5 << 40);
        starts.iter().for_each(|&start| direct.set_range(start, 1));
        assert_eq!(map, direct);
    }

    #[test]
    fn what_is_set_past_the_end_is_ignored() {
        let mut map = AllocationMap::new(G + 512);
        map.set_range(G + 512, G);
        map.set_range(u64::MAX, u64::MAX);
        assert_eq!(map.data_bytes(), 0);
        map.set_range(G, u64::MAX);
        assert_eq!(map.data_bytes(), 512);
        assert_eq!(AllocationMap::full(3 * G - 512).data_bytes(), 3 * G - 512);
    }
}
