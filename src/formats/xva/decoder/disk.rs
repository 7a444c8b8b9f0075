//! The blocks of one disk: which may come next, and where on the disk their bytes belong.

use bytes::Bytes;

use super::super::error::{Quoted, Rule, XvaError};
use super::super::tar_read::is_zero;
use super::super::{ArchivedDisk, BLOCK_BYTES};
use super::members::Member;

/// Empty blocks that may come in a row. xapi writes one every five seconds while it skips zeros.
const MAX_EMPTY_BLOCKS: u32 = 100_000;

/// How far a disk has been read. The number in a block's name is a counter: empty blocks use one up and move nothing.
#[derive(Debug)]
pub(super) struct DiskCursor {
    id: String,
    size: u64,
    /// Where the last block ended, in bytes on the disk. Beyond its end when that block was padded.
    position: u64,
    /// Number of the last block.
    last: Option<u32>,
    /// Length of the first block, for which each number that was left out stands.
    unit: u64,
    /// Empty blocks since the last one with bytes.
    empty: u32,
}

impl DiskCursor {
    pub(super) fn new(disk: &ArchivedDisk) -> Self {
        Self { id: disk.id.clone(), size: disk.virtual_size, position: 0, last: None, unit: 0, empty: 0 }
    }

    /// Whether every byte has been read.
    pub(super) fn is_complete(&self) -> bool {
        self.position >= self.size
    }

    /// Checks the block that begins with this header; whether it is the disk's first.
    pub(super) fn begin_block(&mut self, block: &Member) -> Result<bool, XvaError> {
        let number = self.number(block)?;
        let skipped = match self.last {
            None if number == 0 => 0,
            None => return Err(block.wrong(Rule::D7, "number", "0 for a disk's first block", number)),
            Some(last) if number > last => u64::from(number - last - 1),
            Some(last) => {
                let expected = format!("more than {last}, the number of the block before");
                return Err(block.wrong(Rule::D4, "number", expected, number));
            }
        };
        let first = self.last.is_none();
        if first && !(1..=BLOCK_BYTES).contains(&block.size) {
            let expected = format!("1 to {BLOCK_BYTES} bytes for a disk's first block");
            return Err(block.wrong(Rule::D5, "size", expected, block.size));
        }
        if first {
            self.unit = block.size;
        }
        if block.size > self.unit {
            let expected = format!("at most {} bytes, as the disk's first block has", self.unit);
            return Err(block.wrong(Rule::D6, "size", expected, block.size));
        }
        let start = self.position.saturating_add(skipped.saturating_mul(self.unit));
        let end = start.saturating_add(block.size);
        let padded = self.size.checked_next_multiple_of(self.unit).unwrap_or(u64::MAX);
        if start >= self.size || end > padded {
            let expected = format!("bytes before {}, the end of the disk", self.size);
            return Err(block.wrong(Rule::D8, "place on the disk", expected, format!("{start} to {end}")));
        }
        if block.size > 0 && block.size < self.unit && end < self.size {
            let expected = format!("{} bytes, for the disk goes on to byte {}", self.unit, self.size);
            return Err(block.wrong(Rule::D9, "size", expected, block.size));
        }
        self.empty = if block.size == 0 { self.empty + 1 } else { 0 };
        if self.empty > MAX_EMPTY_BLOCKS {
            let expected = format!("bytes after {MAX_EMPTY_BLOCKS} empty blocks");
            return Err(block.wrong(Rule::D14, "size", expected, 0));
        }
        (self.last, self.position) = (Some(number), start);
        Ok(first)
    }

    /// The number in a block's name.
    fn number(&self, block: &Member) -> Result<u32, XvaError> {
        let inside = block.name.strip_prefix(self.id.as_bytes()).and_then(|rest| rest.strip_prefix(b"/"));
        let Some(name) = inside.filter(|name| !name.contains(&b'/')) else {
            let disk = Quoted::new(&self.id);
            let expected = match self.last {
                None => format!("a block of the disk {disk}, whose turn it is"),
                Some(_) => {
                    format!("the blocks of the disk {disk} from byte {} to {}", self.position, self.size)
                }
            };
            return Err(block.wrong(Rule::D2, "name", expected, "another member"));
        };
        let digits =
            (name.len() == 8 && name.iter().all(u8::is_ascii_digit)).then(|| std::str::from_utf8(name));
        match digits.and_then(Result::ok).and_then(|digits| digits.parse().ok()) {
            Some(number) => Ok(number),
            None => {
                Err(block.wrong(Rule::D3, "name", "eight digits behind the directory", Quoted::new(name)))
            }
        }
    }

    /// Takes the next bytes of a block, the last of which was read at byte `end` of the stream. What lies on the disk,
    /// with its place there; `None` of padding.
    pub(super) fn add(
        &mut self,
        block: &Member,
        mut bytes: Bytes,
        end: u64,
    ) -> Result<Option<(u64, Bytes)>, XvaError> {
        let offset = self.position;
        self.position += bytes.len() as u64;
        let visible = usize::try_from(self.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let padding = bytes.split_off(visible.min(bytes.len()));
        if !is_zero(&padding) {
            let nth = padding.iter().position(|&byte| byte != 0).unwrap_or_default();
            let found = padding.get(nth).copied().unwrap_or_default();
            let at = end - (padding.len() - nth) as u64;
            return Err(block.wrong_at(at, Rule::D13, "padding", "zeros", format!("byte {found:#04x}")));
        }
        Ok((!bytes.is_empty()).then_some((offset, bytes)))
    }

    /// Why the archive may not end here.
    pub(super) fn incomplete(&self, end: u64) -> XvaError {
        XvaError::Truncated {
            rule: Rule::D1,
            place: format!("the disk {}", Quoted::new(&self.id)),
            offset: end,
            expected: format!("its blocks from byte {} to {}", self.position, self.size),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn empty_blocks_may_not_go_on_forever() {
        let mut cursor = DiskCursor::new(&ArchivedDisk { id: "Ref:5".into(), virtual_size: 8192 });
        let block = |number: u32, size| Member { name: format!("Ref:5/{number:08}").into(), offset: 0, size };
        assert_eq!(cursor.begin_block(&block(0, 4096)), Ok(true));
        cursor.add(&block(0, 4096), Bytes::from_static(&[1; 4096]), 4096).unwrap();
        for number in 1..=MAX_EMPTY_BLOCKS {
            assert_eq!(cursor.begin_block(&block(number, 0)), Ok(false));
        }
        let error = cursor.begin_block(&block(MAX_EMPTY_BLOCKS + 1, 0)).unwrap_err();
        assert_eq!(error.rule(), Rule::D14);
    }
}
