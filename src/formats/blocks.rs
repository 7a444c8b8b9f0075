//! Which blocks of a disk are in an image, and which of them comes where. What a block's length is, the format says.

use std::num::NonZeroU64;
use std::ops::Range;

/// Bits in a word.
const WORD: u32 = 64;
/// Words that one entry of the rank table counts.
const GROUP: usize = 8;

/// A set of block numbers below a limit: a bit for each block, and a table from which the number of members
/// before a block, and the nth member, follow in a few steps. 140 KiB for the largest VHD, 13 MiB for the
/// largest disk of an XVA.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockSet {
    block_count: u32,
    /// Bit `i % 64` of word `i / 64` is block `i`.
    words: Vec<u64>,
    /// Entry `g` is the number of members in the words before `g * GROUP`; one entry more than groups.
    ranks: Vec<u32>,
}

/// Collects the members of a [`BlockSet`].
#[derive(Debug, Clone)]
pub struct BlockSetBuilder {
    block_count: u32,
    words: Vec<u64>,
}

impl BlockSetBuilder {
    /// Adds a block. One that the disk does not have is not added.
    pub fn insert(&mut self, block: u32) {
        self.insert_range(block..block.saturating_add(1));
    }

    /// Adds the blocks of a range, as far as the disk has them.
    pub fn insert_range(&mut self, blocks: Range<u32>) {
        let end = blocks.end.min(self.block_count);
        let mut at = blocks.start;
        while at < end {
            let stop = (at / WORD * WORD).saturating_add(WORD).min(end);
            let ones = u64::MAX >> (WORD - (stop - at));
            if let Some(word) = self.words.get_mut((at / WORD) as usize) {
                *word |= ones << (at % WORD);
            }
            at = stop;
        }
    }

    /// The set.
    pub fn finish(self) -> BlockSet {
        let mut ranks = Vec::with_capacity(self.words.len() / GROUP + 2);
        let mut before = 0u32;
        for group in self.words.chunks(GROUP) {
            ranks.push(before);
            before += group.iter().map(|word| word.count_ones()).sum::<u32>();
        }
        ranks.push(before);
        BlockSet { block_count: self.block_count, words: self.words, ranks }
    }
}

impl BlockSet {
    /// A builder for a set of blocks below `block_count`.
    pub fn builder(block_count: u32) -> BlockSetBuilder {
        BlockSetBuilder { block_count, words: vec![0; block_count.div_ceil(WORD) as usize] }
    }

    /// Of the first `block_count` blocks of `block_bytes` those that ranges of bytes touch.
    pub fn touched_by(
        block_bytes: NonZeroU64,
        block_count: u32,
        extents: impl IntoIterator<Item = Range<u64>>,
    ) -> Self {
        let mut builder = Self::builder(block_count);
        for extent in extents {
            if extent.start < extent.end {
                let end = clamp(extent.end.div_ceil(block_bytes.get()));
                builder.insert_range(clamp(extent.start / block_bytes)..end);
            }
        }
        builder.finish()
    }

    /// The set, to be added to.
    pub fn into_builder(self) -> BlockSetBuilder {
        BlockSetBuilder { block_count: self.block_count, words: self.words }
    }

    /// Number of blocks that the disk has.
    pub fn block_count(&self) -> u32 {
        self.block_count
    }

    /// Number of blocks in the set.
    pub fn allocated(&self) -> u32 {
        self.ranks.last().copied().unwrap_or(0)
    }

    /// Whether the set holds `block`.
    pub fn contains(&self, block: u32) -> bool {
        self.word(block / WORD) & (1 << (block % WORD)) != 0
    }

    /// Number of members below `block`: the place of `block` among the blocks of the image.
    pub fn rank(&self, block: u32) -> u32 {
        let block = block.min(self.block_count);
        let word = (block / WORD) as usize;
        let group = word / GROUP;
        let before = self.ranks.get(group).copied().unwrap_or(0);
        let whole =
            self.words.iter().take(word).skip(group * GROUP).map(|word| word.count_ones()).sum::<u32>();
        let part = self.word(block / WORD) & !(u64::MAX << (block % WORD));
        before + whole + part.count_ones()
    }

    /// The member before which there are `nth` others.
    pub fn select(&self, nth: u32) -> Option<u32> {
        if nth >= self.allocated() {
            return None;
        }
        let group = self.ranks.partition_point(|&before| before <= nth).checked_sub(1)?;
        let mut left = nth - self.ranks.get(group)?;
        for (at, &word) in self.words.iter().enumerate().skip(group * GROUP).take(GROUP) {
            let ones = word.count_ones();
            if left < ones {
                let mut rest = word;
                for _ in 0..left {
                    rest &= rest - 1;
                }
                return Some(clamp(at as u64) * WORD + rest.trailing_zeros());
            }
            left -= ones;
        }
        None
    }

    /// The members in ascending order.
    pub fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.words.iter().zip(0u32..).flat_map(|(&word, at)| {
            std::iter::successors((word != 0).then_some(word), |&rest| {
                let rest = rest & (rest - 1);
                (rest != 0).then_some(rest)
            })
            .map(move |rest| at * WORD + rest.trailing_zeros())
        })
    }

    /// A word of bits; zero beyond the end.
    fn word(&self, at: u32) -> u64 {
        self.words.get(at as usize).copied().unwrap_or(0)
    }
}

/// A block number, the largest one when it is none.
fn clamp(n: u64) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::collections::BTreeSet;

    use proptest::prelude::*;

    proptest! {
        #[test]
        fn rank_and_select_are_those_of_a_sorted_list(count in 1u32..3000, members in prop::collection::btree_set(0u32..3000, 0..400), runs in prop::collection::vec((0u32..3000, 0u32..700), 0..4)) {
            let mut builder = BlockSet::builder(count);
            members.iter().for_each(|&m| builder.insert(m));
            runs.iter().for_each(|&(start, len)| builder.insert_range(start..start + len));
            let set = builder.finish();
            let members: BTreeSet<u32> = members.into_iter().chain(runs.iter().flat_map(|&(s, l)| s..s + l)).filter(|&m| m < count).collect();
            prop_assert_eq!(set.allocated() as usize, members.len());
            prop_assert_eq!(set.iter().collect::<Vec<_>>(), members.iter().copied().collect::<Vec<_>>());
            for (nth, &member) in members.iter().enumerate() {
                prop_assert_eq!(set.select(nth as u32), Some(member));
                prop_assert_eq!(set.rank(member) as usize, nth);
            }
            prop_assert_eq!(set.select(set.allocated()), None);
            for block in 0..count + 70 {
                prop_assert_eq!(set.contains(block), members.contains(&block));
                prop_assert_eq!(set.rank(block) as usize, members.range(..block).count());
            }
        }
    }

    #[test]
    fn extents_touch_every_block_in_which_they_have_a_byte() {
        let extents = [0..1, 1999..2001, 7..7, 5000..9000];
        let set = BlockSet::touched_by(NonZeroU64::new(1000).unwrap(), 6, extents);
        assert_eq!(set.block_count(), 6);
        assert_eq!(set.iter().collect::<Vec<_>>(), [0, 1, 2, 5]);
        let mut more = set.into_builder();
        more.insert(3);
        assert_eq!(more.finish().iter().collect::<Vec<_>>(), [0, 1, 2, 3, 5]);
    }

    #[test]
    fn large_disks_need_little_memory() {
        for (block_bytes, virtual_size) in [(2 << 20, 2040 << 30), (1 << 20, 2 << 40)] {
            let count = (virtual_size / block_bytes) as u32;
            let block_bytes = NonZeroU64::new(block_bytes).unwrap();
            let set = BlockSet::touched_by(block_bytes, count, std::iter::once(0..virtual_size));
            assert_eq!(set.allocated(), count);
            assert!(set.words.capacity() * 8 + set.ranks.capacity() * 4 < 300 << 10);
            assert_eq!(set.select(count - 1), Some(count - 1));
        }
    }
}
