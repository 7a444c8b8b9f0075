//! An XVA archive as a layout: its length and every byte range of it follow from its `ova.xml` and from which blocks of
//! its disks hold data. Nothing has to be produced before something else.
//!
//! The archive is, without gaps: `ova.xml`; for each disk, in the order of their ids as text, its blocks, each with its
//! checksum; two zero records. The first and the last block of a disk are always there, of those between only the ones
//! with data. A block is named by its number, so that the counter times 1 MiB is its place.
//!
//! Its pieces name bytes of *one* virtual disk: the disks behind each other, each beginning at a multiple of 1 MiB
//! ([`XvaLayout::disk_start`]).

use std::num::NonZeroU64;
use std::ops::Range;

use bytes::Bytes;

use super::tar_write::{MAX_NAME_BYTES, RECORD_BYTES, file_header, padded};
use super::{BLOCK_BYTES, ChecksumKind};
use crate::formats::Piece;
use crate::formats::blocks::BlockSet;

mod error;

pub use error::XvaLayoutError;

/// Most blocks of a disk: their numbers have eight digits. About 95 TiB.
pub const MAX_BLOCKS: u32 = 99_999_999;
/// Longest `ova.xml`: what importers take at least.
pub const MAX_OVA_XML_BYTES: usize = 64 << 20;

const BLOCK: NonZeroU64 = NonZeroU64::new(BLOCK_BYTES).unwrap();
/// Bytes of a checksum's member; its text fits in one record.
const CHECKSUM_BYTES: u64 = 2 * RECORD_BYTES;
/// What a block's member and its checksum take besides the block.
const OVERHEAD_BYTES: u64 = RECORD_BYTES + CHECKSUM_BYTES;
/// Bytes of an archive that a whole block takes with its checksum.
pub const SLOT_BYTES: u64 = BLOCK_BYTES + OVERHEAD_BYTES;
/// The end of an archive.
const END_BYTES: u64 = 2 * RECORD_BYTES;
/// Longest id: with a slash, eight digits and the longer ending it is a name.
const MAX_ID_BYTES: usize = MAX_NAME_BYTES - "/00000000.checksum".len();

/// A disk of an archive that is to be written.
#[derive(Debug, Clone)]
pub struct XvaDisk {
    /// The VDI's id in the document; the name of its folder.
    pub id: String,
    /// Size in bytes.
    pub virtual_size: u64,
    /// Its 1 MiB blocks that hold data.
    pub blocks: BlockSet,
}

impl XvaDisk {
    /// A disk of which those ranges of bytes hold data. One that is too large for an archive has no blocks;
    /// [`XvaLayout::new`] refuses it.
    pub fn from_extents(
        id: String,
        virtual_size: u64,
        extents: impl IntoIterator<Item = Range<u64>>,
    ) -> Self {
        let count = virtual_size.div_ceil(BLOCK_BYTES);
        let count = u32::try_from(count).ok().filter(|count| *count <= MAX_BLOCKS).unwrap_or(0);
        Self { id, virtual_size, blocks: BlockSet::touched_by(BLOCK, count, extents) }
    }
}

/// What the document has to say of the sizes of disks, given in the archive's order: what the blocks cover.
///
/// That is the size itself, but 1 MiB for a smaller disk that comes before one of several blocks: xapi takes the length
/// of an archive's first block for the step of all its disks' counters, so that block is padded with zeros.
pub fn declared_sizes(virtual_sizes: &[u64]) -> Vec<u64> {
    let mut declared = virtual_sizes.to_vec();
    if let [first, others @ ..] = declared.as_mut_slice()
        && others.iter().any(|other| *other > BLOCK_BYTES)
    {
        *first = (*first).max(BLOCK_BYTES);
    }
    declared
}

/// A disk and where it is.
#[derive(Debug, Clone)]
struct Placed {
    id: String,
    virtual_size: u64,
    /// What its blocks cover, in bytes.
    declared_size: u64,
    /// The blocks that are written.
    blocks: BlockSet,
    /// Where its first member begins in the archive.
    start: u64,
    /// Where it begins on the virtual disk.
    disk_start: u64,
}

/// A block in the archive: its member, then its checksum's.
#[derive(Debug, Clone, Copy)]
struct Slot {
    block: u32,
    /// Where the block's header is.
    start: u64,
    /// Bytes of the block.
    len: u64,
}

impl Slot {
    fn data_start(self) -> u64 {
        self.start + RECORD_BYTES
    }

    fn checksum_start(self) -> u64 {
        self.data_start() + padded(self.len)
    }

    fn end(self) -> u64 {
        self.checksum_start() + CHECKSUM_BYTES
    }
}

impl Placed {
    fn new(disk: XvaDisk, declared_size: u64) -> Result<Self, XvaLayoutError> {
        let XvaDisk { id, virtual_size, blocks } = disk;
        let visible = id.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'/');
        if id.is_empty()
            || id.len() > MAX_ID_BYTES
            || !visible
            || [".", "..", "ova.xml"].contains(&id.as_str())
        {
            return Err(XvaLayoutError::BadId { id });
        }
        let found = virtual_size.div_ceil(BLOCK_BYTES);
        let expected = match u32::try_from(found) {
            Ok(0) => return Err(XvaLayoutError::EmptyDisk { id }),
            Ok(count) if count <= MAX_BLOCKS => count,
            _ => return Err(XvaLayoutError::TooManyBlocks { id, found }),
        };
        if blocks.block_count() != expected {
            return Err(XvaLayoutError::OtherBlocks { id, expected, found: blocks.block_count() });
        }
        let mut blocks = blocks.into_builder();
        blocks.insert(0);
        blocks.insert(expected - 1);
        Ok(Self { id, virtual_size, declared_size, blocks: blocks.finish(), start: 0, disk_start: 0 })
    }

    /// Bytes of a block.
    fn block_len(&self, block: u32) -> u64 {
        (self.declared_size - u64::from(block) * BLOCK_BYTES).min(BLOCK_BYTES)
    }

    /// Number of blocks in the archive but the last one, which is always there and may be shorter.
    fn whole_slots(&self) -> u64 {
        u64::from(self.blocks.allocated() - 1)
    }

    /// Bytes that the disk takes in the archive.
    fn archived_bytes(&self) -> u64 {
        let last = self.block_len(self.blocks.block_count() - 1);
        self.whole_slots() * SLOT_BYTES + padded(last) + OVERHEAD_BYTES
    }

    /// Bytes that it takes on the virtual disk.
    fn disk_bytes(&self) -> u64 {
        self.virtual_size.next_multiple_of(BLOCK_BYTES)
    }

    /// The block that is written at `at` of the archive, where this disk is.
    fn slot_at(&self, at: u64) -> Option<Slot> {
        let nth = ((at - self.start) / SLOT_BYTES).min(self.whole_slots());
        let block = self.blocks.select(u32::try_from(nth).ok()?)?;
        Some(Slot { block, start: self.start + nth * SLOT_BYTES, len: self.block_len(block) })
    }

    fn name(&self, block: u32, suffix: &str) -> String {
        format!("{}/{block:08}{suffix}", self.id)
    }
}

/// An archive that can be produced from any byte on.
#[derive(Debug, Clone)]
pub struct XvaLayout {
    ova_xml: Bytes,
    ova_header: Bytes,
    checksum: ChecksumKind,
    disks: Vec<Placed>,
    /// Where the two zero records are.
    end: u64,
    virtual_size: u64,
}

impl XvaLayout {
    /// The archive of a document and the disks that it names, which come in the order of their ids as text. Their sizes
    /// in the document are the caller's: see [`declared_sizes`]. Without a disk it is one of metadata only.
    ///
    /// # Errors
    /// When importers would not take it, or not as it is meant: [`XvaLayoutError`] says which disk.
    pub fn new(ova_xml: Bytes, disks: Vec<XvaDisk>, checksum: ChecksumKind) -> Result<Self, XvaLayoutError> {
        if ova_xml.len() > MAX_OVA_XML_BYTES {
            return Err(XvaLayoutError::OvaXmlTooLong { found: ova_xml.len() });
        }
        let sizes: Vec<u64> = disks.iter().map(|disk| disk.virtual_size).collect();
        let ova_len = ova_xml.len() as u64;
        let (mut end, mut virtual_size) = (RECORD_BYTES + padded(ova_len), 0u64);
        let mut placed: Vec<Placed> = Vec::with_capacity(disks.len());
        for (disk, declared) in disks.into_iter().zip(declared_sizes(&sizes)) {
            let mut disk = Placed::new(disk, declared)?;
            if let Some(before) = placed.last() {
                check_order(&before.id, &disk.id)?;
            }
            (disk.start, disk.disk_start) = (end, virtual_size);
            end = end.checked_add(disk.archived_bytes()).ok_or(XvaLayoutError::TooLong)?;
            virtual_size = virtual_size.checked_add(disk.disk_bytes()).ok_or(XvaLayoutError::TooLong)?;
            placed.push(disk);
        }
        end.checked_add(END_BYTES).ok_or(XvaLayoutError::TooLong)?;
        let ova_header = Bytes::copy_from_slice(&file_header("ova.xml", ova_len));
        Ok(Self { ova_xml, ova_header, checksum, disks: placed, end, virtual_size })
    }

    /// The archive's exact length in bytes.
    #[expect(clippy::len_without_is_empty, reason = "no archive is empty")]
    pub fn len(&self) -> u64 {
        self.end + END_BYTES
    }

    /// Size in bytes of the virtual disk that the pieces name: the disks behind each other, each rounded up to 1 MiB.
    pub fn virtual_size(&self) -> u64 {
        self.virtual_size
    }

    /// Number of disks.
    pub fn disk_count(&self) -> usize {
        self.disks.len()
    }

    /// Where a disk begins on the virtual disk, in bytes: a multiple of 1 MiB.
    pub fn disk_start(&self, disk: usize) -> Option<u64> {
        self.disks.get(disk).map(|disk| disk.disk_start)
    }

    /// The disk in which a byte of the virtual disk lies, and where in it; behind its end when it is padding.
    pub fn disk_at(&self, offset: u64) -> Option<(usize, u64)> {
        if offset >= self.virtual_size {
            return None;
        }
        let at = self.disks.partition_point(|disk| disk.disk_start <= offset).checked_sub(1)?;
        Some((at, offset - self.disks.get(at)?.disk_start))
    }

    /// The run of the archive that begins at byte `at`, at most `limit` bytes long. Empty only when `at` is not before
    /// the end, or `limit` is zero. Disk pieces never go past the end of one of the disks.
    pub fn piece_at(&self, at: u64, limit: u64) -> Piece {
        let limit = limit.min(self.len().saturating_sub(at));
        if at < self.ova_end() {
            return self.ova_piece(at, limit);
        }
        match self.slot_at(at) {
            Some((disk, slot)) => self.slot_piece(disk, slot, at, limit),
            None => Piece::Zeros(limit),
        }
    }

    /// Where a chunk that begins at `at`, and has about `chunk` bytes, best ends: behind a checksum, so that the block
    /// before it is in the same chunk, else where its disk part is a multiple of `chunk`. At most `chunk` + 1536
    /// bytes behind `at`, if `chunk` is a power of two of at least 512. `None` at the archive's end.
    pub fn cut_at(&self, at: u64, chunk: u64) -> Option<u64> {
        let (first, end) = match self.slot_at(at) {
            _ if at >= self.len() || chunk == 0 => return None,
            _ if at < self.ova_end() => (0, self.ova_end()),
            Some((_, slot)) => (slot.data_start(), slot.end()),
            None => (self.end, self.len()),
        };
        if end - at <= chunk.saturating_add(OVERHEAD_BYTES) {
            return Some(end);
        }
        Some(first + (at.saturating_sub(first) / chunk + 1) * chunk)
    }

    fn ova_end(&self) -> u64 {
        RECORD_BYTES + padded(self.ova_xml.len() as u64)
    }

    fn ova_piece(&self, at: u64, limit: u64) -> Piece {
        let xml_end = RECORD_BYTES + self.ova_xml.len() as u64;
        if at < RECORD_BYTES {
            cut(&self.ova_header, at, limit)
        } else if at < xml_end {
            cut(&self.ova_xml, at - RECORD_BYTES, limit)
        } else {
            Piece::Zeros(limit.min(self.ova_end() - at))
        }
    }

    fn slot_at(&self, at: u64) -> Option<(&Placed, Slot)> {
        if at >= self.end {
            return None;
        }
        let after = self.disks.partition_point(|disk| disk.start <= at);
        let disk = self.disks.get(after.checked_sub(1)?)?;
        Some((disk, disk.slot_at(at)?))
    }

    fn slot_piece(&self, disk: &Placed, slot: Slot, at: u64, limit: u64) -> Piece {
        let (data_start, checksum_start) = (slot.data_start(), slot.checksum_start());
        let text_start = checksum_start + RECORD_BYTES;
        let text_len = self.checksum.text_len();
        if at < data_start {
            let header = file_header(&disk.name(slot.block, ""), slot.len);
            cut(&Bytes::copy_from_slice(&header), at - slot.start, limit)
        } else if at < data_start + slot.len {
            let within = u64::from(slot.block) * BLOCK_BYTES + (at - data_start);
            let len = limit.min(data_start + slot.len - at);
            match disk.virtual_size.saturating_sub(within) {
                0 => Piece::Zeros(len),
                left => Piece::Disk { offset: disk.disk_start + within, len: len.min(left) },
            }
        } else if at < checksum_start {
            Piece::Zeros(limit.min(checksum_start - at))
        } else if at < text_start {
            let header = file_header(&disk.name(slot.block, self.checksum.suffix()), text_len);
            cut(&Bytes::copy_from_slice(&header), at - checksum_start, limit)
        } else if at < text_start + text_len {
            let skip = at - text_start;
            let take = limit.min(text_len - skip);
            Piece::Digest { start: data_start, len: slot.len, kind: self.checksum, skip, take }
        } else {
            Piece::Zeros(limit.min(slot.end() - at))
        }
    }
}

fn check_order(before: &str, id: &str) -> Result<(), XvaLayoutError> {
    let (before, id) = (before.to_owned(), id.to_owned());
    if before.as_bytes() >= id.as_bytes() {
        return Err(XvaLayoutError::Order { before, id });
    }
    // In this order whatever begins any later id begins the next one.
    if id.starts_with(&before) {
        return Err(XvaLayoutError::Prefix { id: before, longer: id });
    }
    Ok(())
}

/// The bytes from `from` on, at most `limit` of them.
fn cut(bytes: &Bytes, from: u64, limit: u64) -> Piece {
    let from = usize::try_from(from).unwrap_or(usize::MAX).min(bytes.len());
    let len = usize::try_from(limit).unwrap_or(usize::MAX).min(bytes.len() - from);
    Piece::Bytes(bytes.slice(from..from + len))
}

#[cfg(test)]
mod tests;
