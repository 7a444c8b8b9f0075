//! A dynamic disk from a stream: header, BAT, blocks in the order in which they lie, footer.

use super::super::bitmap::run_at;
use super::super::error::VhdError;
use super::super::footer::{DiskKind, FOOTER_LEN, Footer, compare_copies};
use super::super::header::{DynamicHeader, HEADER_LEN};
use super::super::placement::{Placement, check_header_offset};
use super::{VhdSummary, behind_the_footer};
use crate::formats::ImageEvent;
use crate::formats::input::Input;

/// A dynamic disk whose footer copy was read.
#[derive(Debug, Clone)]
pub(super) struct Sparse {
    /// The footer copy's bytes, which must come again at the end.
    head: [u8; FOOTER_LEN],
    footer: Footer,
    phase: Phase,
}

/// What is read next.
#[derive(Debug, Clone)]
enum Phase {
    /// The dynamic header, as far as it has come.
    Header(Vec<u8>),
    Table(Table),
    Blocks(Blocks),
    Tail(Tail),
    /// Nothing: the trailing footer was found where the announced length put it.
    End {
        blocks: u64,
    },
}

/// The BAT.
#[derive(Debug, Clone)]
struct Table {
    placement: Placement,
    /// The next entry.
    index: u32,
    /// The bytes of that entry which have come.
    partial: Vec<u8>,
    used: Vec<Slot>,
}

/// A used BAT entry. Slots sort in the order in which they lie in the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Slot {
    /// Where the block's bitmap begins.
    sector: u32,
    /// Which block of the disk it is.
    index: u32,
}

/// The blocks.
#[derive(Debug, Clone)]
struct Blocks {
    placement: Placement,
    /// In the order of the stream.
    used: Vec<Slot>,
    /// Number of blocks that were read to their end.
    done: usize,
    /// The current block's bitmap, as far as it has come.
    bitmap: Vec<u8>,
    /// End of the current run of sectors, in bytes from the beginning of the block's data.
    run_end: u64,
    /// Whether the sectors of that run are there.
    run_set: bool,
}

/// What follows the last block.
#[derive(Debug, Clone)]
struct Tail {
    placement: Placement,
    blocks: u64,
    /// Where the last block ended.
    start: u64,
    /// The last bytes that have come, at most 512.
    ring: Vec<u8>,
}

/// How far reading blocks has come.
enum Progress {
    Event(ImageEvent),
    NeedsInput,
    AllRead,
}

impl Sparse {
    /// See [`super::StreamDecoder::allocated_bytes`].
    pub(super) fn allocated_bytes(&self) -> Option<u64> {
        match &self.phase {
            Phase::Blocks(blocks) => {
                Some((blocks.used.len() as u64).saturating_mul(blocks.placement.data_bytes()))
            }
            _ => None,
        }
    }

    /// # Errors
    /// H2.
    pub(super) fn new(head: [u8; FOOTER_LEN], footer: Footer, length: Option<u64>) -> Result<Self, VhdError> {
        check_header_offset(&footer, 0, footer_position(length))?;
        Ok(Self { head, footer, phase: Phase::Header(Vec::new()) })
    }

    pub(super) fn read(
        &mut self,
        input: &mut Input,
        length: Option<u64>,
    ) -> Result<Option<ImageEvent>, VhdError> {
        loop {
            match &mut self.phase {
                Phase::Header(bytes) => {
                    if !input.skip_to(self.footer.data_offset) || !input.fill(bytes, HEADER_LEN) {
                        return Ok(None);
                    }
                    let Some(header) = bytes.first_chunk::<HEADER_LEN>() else { return Ok(None) };
                    let placement = read_header(header, &self.footer, length)?;
                    self.phase =
                        Phase::Table(Table { placement, index: 0, partial: Vec::new(), used: Vec::new() });
                    return Ok(Some(ImageEvent::Size(self.footer.current_size)));
                }
                Phase::Table(table) => {
                    if !table.read(input)? {
                        return Ok(None);
                    }
                    self.phase = Phase::Blocks(table.blocks()?);
                }
                Phase::Blocks(blocks) => match blocks.read(input, self.footer.current_size) {
                    Progress::Event(event) => return Ok(Some(event)),
                    Progress::NeedsInput => return Ok(None),
                    Progress::AllRead => {
                        self.phase = Phase::Tail(Tail {
                            placement: blocks.placement.clone(),
                            blocks: blocks.used.len() as u64,
                            start: input.position(),
                            ring: Vec::new(),
                        });
                    }
                },
                Phase::Tail(tail) => {
                    tail.read(input, length);
                    if length != Some(input.position()) {
                        return Ok(None);
                    }
                    tail.check(&self.head, input.position())?;
                    self.phase = Phase::End { blocks: tail.blocks };
                }
                Phase::End { .. } if input.len() > 0 => return Err(behind_the_footer(input.position())),
                Phase::End { .. } => return Ok(None),
            }
        }
    }

    pub(super) fn finish(self, position: u64, length: Option<u64>) -> Result<VhdSummary, VhdError> {
        let truncated = |field, offset, expected: u64| {
            let expected = length.unwrap_or(expected);
            Err(VhdError::Truncated { field, offset, expected, found: position })
        };
        let blocks = match self.phase {
            Phase::Header(_) => {
                let offset = self.footer.data_offset;
                return truncated("dynamic header", offset, offset.saturating_add(HEADER_LEN as u64));
            }
            Phase::Table(table) => {
                return truncated("BAT", table.placement.header.table_offset, table.placement.table_end());
            }
            Phase::Blocks(blocks) => {
                let (start, data, end) = blocks.bounds();
                let (field, offset) = if position < data { ("bitmap", start) } else { ("block", data) };
                return truncated(field, offset, end);
            }
            Phase::Tail(tail) => {
                if length.is_some() || tail.ring.len() < FOOTER_LEN {
                    return truncated("footer", tail.start, tail.start.saturating_add(FOOTER_LEN as u64));
                }
                tail.check(&self.head, position)?;
                tail.blocks
            }
            Phase::End { blocks } => blocks,
        };
        Ok(VhdSummary {
            virtual_size: self.footer.current_size,
            footer: self.footer,
            blocks,
            length: position,
        })
    }
}

/// Where the trailing footer begins, when the length is known.
fn footer_position(length: Option<u64>) -> Option<u64> {
    length.map(|length| length.saturating_sub(FOOTER_LEN as u64))
}

/// Checks the header, and that the stream can be read without seeking and without a parent.
fn read_header(
    bytes: &[u8; HEADER_LEN],
    footer: &Footer,
    length: Option<u64>,
) -> Result<Placement, VhdError> {
    let header = DynamicHeader::parse(bytes, footer)?;
    let placement = Placement::new(footer, header, footer_position(length))?;
    if footer.kind == DiskKind::Differencing {
        let parent = Box::new(placement.header.parent(Vec::new()));
        return Err(VhdError::ParentNeeded { offset: 60, parent });
    }
    let (expected, found) = (placement.header_end(), placement.header.table_offset);
    if found < expected {
        let offset = footer.data_offset.saturating_add(16);
        return Err(VhdError::NotStreamable { field: "BAT", offset, expected, found });
    }
    Ok(placement)
}

impl Table {
    /// Reads entries; `true` when all have been read, and the padding behind them.
    fn read(&mut self, input: &mut Input) -> Result<bool, VhdError> {
        if !input.skip_to(self.placement.header.table_offset) {
            return Ok(false);
        }
        while self.index < self.placement.header.entries {
            if !input.fill(&mut self.partial, 4) {
                return Ok(false);
            }
            let sector = self.partial.first_chunk::<4>().map_or(0, |bytes| u32::from_be_bytes(*bytes));
            self.partial.clear();
            if self.placement.check_entry(self.index, sector)? {
                self.used.push(Slot { sector, index: self.index });
            }
            self.index += 1;
        }
        Ok(input.skip_to(self.placement.table_end()))
    }

    /// Puts the blocks into the order of the stream, and checks where they lie before any of them is read.
    fn blocks(&mut self) -> Result<Blocks, VhdError> {
        let mut used = std::mem::take(&mut self.used);
        used.sort_unstable();
        self.placement.check_overlaps(used.iter().map(|slot| slot.sector), |nth, _| {
            used.get(nth).map_or(0, |slot| slot.index)
        })?;
        let expected = self.placement.table_end();
        if let Some(first) = used.first().filter(|first| u64::from(first.sector) * 512 < expected) {
            return Err(VhdError::NotStreamable {
                field: "block",
                offset: self.placement.entry_offset(first.index),
                expected,
                found: u64::from(first.sector) * 512,
            });
        }
        let placement = self.placement.clone();
        Ok(Blocks { placement, used, done: 0, bitmap: Vec::new(), run_end: 0, run_set: false })
    }
}

impl Blocks {
    /// Where the current block's bitmap and data begin, and where it ends. The end of the last one when all
    /// were read.
    fn bounds(&self) -> (u64, u64, u64) {
        let slot = self.used.get(self.done).or(self.used.last());
        let start = slot.map_or(self.placement.table_end(), |slot| u64::from(slot.sector) * 512);
        let data = start + u64::from(self.placement.header.bitmap_bytes());
        (start, data, start + self.placement.slot_bytes())
    }

    fn read(&mut self, input: &mut Input, virtual_size: u64) -> Progress {
        let block_bytes = u64::from(self.placement.header.block_bytes);
        while let Some(slot) = self.used.get(self.done) {
            let disk_offset = u64::from(slot.index) * block_bytes;
            let (start, data_start, end) = self.bounds();
            if input.position() < data_start {
                let bitmap_bytes = self.placement.header.bitmap_bytes() as usize;
                if !input.skip_to(start) || !input.fill(&mut self.bitmap, bitmap_bytes) {
                    return Progress::NeedsInput;
                }
            }
            let at = input.position() - data_start;
            // The last block may reach beyond the disk's end; what is there belongs to nobody.
            let visible = block_bytes.min(virtual_size.saturating_sub(disk_offset));
            if at >= visible {
                if !input.skip_to(end) {
                    return Progress::NeedsInput;
                }
                self.done += 1;
                self.bitmap.clear();
                self.run_end = 0;
                continue;
            }
            if at >= self.run_end {
                // A block has at most 2¹⁹ sectors.
                let (set, sectors) = run_at(&self.bitmap, (at / 512) as u32, (visible / 512) as u32);
                (self.run_set, self.run_end) = (set, at + u64::from(sectors) * 512);
            }
            if !self.run_set {
                if !input.skip_to(data_start + self.run_end) {
                    return Progress::NeedsInput;
                }
                continue;
            }
            let data = input.take(self.run_end - at);
            if data.is_empty() {
                return Progress::NeedsInput;
            }
            return Progress::Event(ImageEvent::Data { offset: disk_offset + at, data });
        }
        Progress::AllRead
    }
}

impl Tail {
    /// Keeps the last 512 bytes of what has come, up to the announced end.
    fn read(&mut self, input: &mut Input, length: Option<u64>) {
        let most = length.map_or(u64::MAX, |length| length.saturating_sub(input.position()));
        let bytes = input.take(most);
        let recent = bytes.get(bytes.len().saturating_sub(FOOTER_LEN)..).unwrap_or_default();
        let excess = (self.ring.len() + recent.len()).saturating_sub(FOOTER_LEN);
        self.ring.drain(..excess.min(self.ring.len()));
        self.ring.extend_from_slice(recent);
    }

    /// Checks that the image, which ends at byte `length`, ends with a footer that equals the copy in front.
    fn check(&self, head: &[u8; FOOTER_LEN], length: u64) -> Result<(), VhdError> {
        let offset = length.saturating_sub(FOOTER_LEN as u64);
        let Some(tail) = self.ring.last_chunk::<FOOTER_LEN>() else {
            let (expected, found) = (self.start.saturating_add(FOOTER_LEN as u64), length);
            return Err(VhdError::Truncated { field: "footer", offset: self.start, expected, found });
        };
        compare_copies(head, tail, offset)?;
        self.placement.check_end(offset)
    }
}
