//! Reads an XVA archive from its uncompressed tar stream, which only goes forward.
//!
//! The blocks of the disks follow `ova.xml` in the order that it dictates, so nothing of them is kept: each piece of
//! input becomes a piece of a disk. A block's checksum comes behind it, when its bytes have been handed out already:
//! whoever stores them must not count the disk as whole before [`XvaEvent::DiskEnd`].

mod checksum;
mod disk;
mod members;

use bytes::Bytes;

use self::checksum::BlockBytes;
use self::disk::DiskCursor;
use self::members::{Member, Members, Token};
use super::document_read::{MAX_DOCUMENT_BYTES, disk_size};
use super::error::{Quoted, Rule, XvaError};
use super::{ArchivedDisk, ChecksumKind, Document};
use crate::formats::input::Input;

/// Zeros that may follow the end marker, in bytes. Programs pad archives to some 10 KiB.
const MAX_TRAILING: u64 = 1 << 20;

/// What a decoder read from an archive. What no [`Data`](Self::Data) event of a disk covered is zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum XvaEvent {
    /// What the archive holds. Comes once, first.
    Document(Box<Document>),
    /// A disk begins. Each disk comes once, in the order of [`Document::disks`].
    DiskBegin {
        /// Index into [`Document::disks`].
        disk: usize,
        /// The disk's size in bytes.
        size: u64,
    },
    /// Bytes of the disk that has begun. Never empty, never past its size, with growing offsets.
    Data {
        /// Index into [`Document::disks`].
        disk: usize,
        /// First byte's address on the disk.
        offset: u64,
        /// The bytes.
        data: Bytes,
    },
    /// The disk is whole, and all its checksums were right.
    DiskEnd {
        /// Index into [`Document::disks`].
        disk: usize,
    },
}

/// What an archive may demand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct XvaLimits {
    /// Largest virtual size of a disk in bytes.
    pub largest_disk: u64,
}

/// What an archive turned out to hold, when it was whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct XvaSummary {
    /// Number of disks.
    pub disks: usize,
    /// Number of blocks that were in the archive, empty ones too.
    pub blocks: u64,
    /// Length of the tar stream in bytes.
    pub length: u64,
    /// Whether its end was marked; readers do not ask for it.
    pub end_marker: bool,
}

/// What was seen of an archive up to now, be it whole or not.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct XvaSeen {
    /// Blocks with bytes.
    pub blocks: u64,
    /// Length in bytes of the first block of the disk that began last: all its blocks have it, but the last one.
    pub block_bytes: u64,
    /// Checksums by XXH64.
    pub xxh64: u64,
    /// Checksums by SHA-1.
    pub sha1: u64,
}

/// A forward-only decoder. Push bytes as they come, take events until there are none, push more; at the end of the input
/// call [`finish`](Self::finish). How the input is cut makes no difference to what is read.
///
/// Data events are slices of what was pushed; those of one block (1 MiB) are kept until its checksum has come. Apart from
/// them the decoder keeps `ova.xml` (at most 64 MiB, as it arrives) until it is whole, and never room for what was only
/// announced.
#[derive(Debug)]
pub struct XvaDecoder {
    input: Input,
    members: Members,
    limits: XvaLimits,
    /// The disks, in their order.
    disks: Vec<ArchivedDisk>,
    /// How many of them were read to their end.
    done: usize,
    blocks: u64,
    seen: XvaSeen,
    state: State,
}

/// What is being read.
#[derive(Debug)]
enum State {
    /// The header of `ova.xml`.
    Start,
    /// `ova.xml`, as far as it has come.
    Document { member: Member, text: Vec<u8> },
    /// The header of a disk's next block.
    NextBlock(DiskCursor),
    /// A block.
    Block { cursor: DiskCursor, block: Member, bytes: BlockBytes },
    /// The header of its checksum.
    NextChecksum { cursor: DiskCursor, block: Member, bytes: BlockBytes },
    /// The checksum, as far as it has come.
    Checksum { cursor: DiskCursor, member: Member, expected: String, text: Vec<u8> },
    /// The end marker: all disks have been read.
    Tail,
    /// Zeros behind the end marker, with their number.
    End { zeros: u64 },
    /// An archive that was refused.
    Refused(XvaError),
}

impl XvaDecoder {
    /// A decoder that refuses archives which demand more than `limits`.
    pub fn new(limits: XvaLimits) -> Self {
        Self {
            input: Input::default(),
            members: Members::default(),
            limits,
            disks: Vec::new(),
            done: 0,
            blocks: 0,
            seen: XvaSeen::default(),
            state: State::Start,
        }
    }

    /// Adds bytes to the input. Best done when [`next_event`](Self::next_event) has nothing left: only then nothing is
    /// copied.
    pub fn push(&mut self, input: Bytes) {
        self.input.push(input);
    }

    /// Number of bytes of the stream that were used so far.
    pub fn position(&self) -> u64 {
        self.input.position()
    }

    /// What was seen up to now.
    pub fn seen(&self) -> XvaSeen {
        self.seen
    }

    /// The next event; `None` when more input is needed, or everything was read.
    ///
    /// # Errors
    /// Why the archive is refused; the same again when called again.
    pub fn next_event(&mut self) -> Result<Option<XvaEvent>, XvaError> {
        let event = self.read();
        if let Err(error) = &event {
            self.state = State::Refused(error.clone());
        }
        event
    }

    fn read(&mut self) -> Result<Option<XvaEvent>, XvaError> {
        loop {
            match &mut self.state {
                State::Refused(error) => return Err(error.clone()),
                State::End { zeros } => {
                    read_trailing(&mut self.input, zeros)?;
                    return Ok(None);
                }
                _ => {}
            }
            let Some(token) = self.members.next(&mut self.input)? else { return Ok(None) };
            if let Some(event) = self.take(token)? {
                return Ok(Some(event));
            }
        }
    }

    /// Takes what comes next in the tar stream.
    fn take(&mut self, token: Token) -> Result<Option<XvaEvent>, XvaError> {
        let disk = self.done;
        let (state, event) = match (std::mem::replace(&mut self.state, State::Tail), token) {
            (State::Start, Token::Member(member)) => {
                check_first(&member)?;
                (State::Document { member, text: Vec::new() }, None)
            }
            (State::Start, Token::End) => return Err(first("the end of the archive")),
            (State::Document { member, mut text }, Token::Body(bytes)) => {
                text.extend_from_slice(&bytes);
                (State::Document { member, text }, None)
            }
            (State::Document { text, .. }, Token::BodyEnd) => {
                let document = self.document(&text).map_err(|error| error.of_text_at(512))?;
                self.disks = document.disks();
                (self.next_disk(), Some(XvaEvent::Document(Box::new(document))))
            }
            (State::NextBlock(mut cursor), Token::Member(block)) => {
                let first = cursor.begin_block(&block)?;
                if first {
                    self.seen.block_bytes = block.size;
                }
                let size = self.disks.get(disk).map_or(0, |disk| disk.virtual_size);
                let bytes = BlockBytes::default();
                (State::Block { cursor, block, bytes }, first.then_some(XvaEvent::DiskBegin { disk, size }))
            }
            (State::NextBlock(cursor), Token::End) => {
                return Err(cursor.incomplete(self.input.position() - 512));
            }
            (State::Block { mut cursor, block, mut bytes }, Token::Body(data)) => {
                bytes.add(&data);
                let data = cursor.add(&block, data, self.input.position())?;
                let event = data.map(|(offset, data)| XvaEvent::Data { disk, offset, data });
                (State::Block { cursor, block, bytes }, event)
            }
            (State::Block { cursor, block, bytes }, Token::BodyEnd) => {
                self.blocks += 1;
                self.seen.blocks += u64::from(block.size > 0);
                (State::NextChecksum { cursor, block, bytes }, None)
            }
            (State::NextChecksum { cursor, block, bytes }, Token::Member(member)) => {
                let kind = checksum_kind(&block, &member)?;
                match kind {
                    ChecksumKind::Xxh64 => self.seen.xxh64 += 1,
                    ChecksumKind::Sha1 => self.seen.sha1 += 1,
                }
                let expected = bytes.checksum(kind);
                (State::Checksum { cursor, member, expected, text: Vec::new() }, None)
            }
            (State::NextChecksum { block, .. }, Token::End) => {
                let end = self.input.position() - 512;
                return Err(block.wrong_at(end, Rule::D10, "checksum", "a member behind it", "the end"));
            }
            (State::Checksum { cursor, member, expected, mut text }, Token::Body(bytes)) => {
                text.extend_from_slice(&bytes);
                (State::Checksum { cursor, member, expected, text }, None)
            }
            (State::Checksum { cursor, member, expected, text }, Token::BodyEnd) => {
                if text != expected.as_bytes() {
                    let expected = format!("{expected:?}, which the block's bytes have");
                    return Err(member.wrong(Rule::D12, "text", expected, Quoted::new(text)));
                }
                if cursor.is_complete() {
                    self.done += 1;
                    (self.next_disk(), Some(XvaEvent::DiskEnd { disk }))
                } else {
                    (State::NextBlock(cursor), None)
                }
            }
            (State::Tail, Token::Member(member)) => {
                return Err(member.wrong(Rule::E1, "name", "the end of the archive", "a member more"));
            }
            (_, Token::End) => (State::End { zeros: 0 }, None),
            // A body comes only behind its header.
            (state, Token::Member(_) | Token::Body(_) | Token::BodyEnd) => (state, None),
        };
        self.state = state;
        Ok(event)
    }

    /// Reads `ova.xml`.
    fn document(&self, text: &[u8]) -> Result<Document, XvaError> {
        let document = Document::parse(text)?;
        let largest = self.limits.largest_disk;
        match document.disks().into_iter().find(|disk| disk.virtual_size > largest) {
            Some(disk) => Err(disk_size(&disk.id, format!("at most {largest} bytes"), disk.virtual_size)),
            None => Ok(document),
        }
    }

    fn next_disk(&self) -> State {
        self.disks.get(self.done).map_or(State::Tail, |disk| State::NextBlock(DiskCursor::new(disk)))
    }

    /// The end of the input. To be called when [`next_event`](Self::next_event) has nothing left.
    ///
    /// # Errors
    /// The archive is not whole, or was refused before. Events that were not taken count as an archive that is not whole.
    pub fn finish(mut self) -> Result<XvaSummary, XvaError> {
        let truncated = |place: &str, offset, expected: &str| XvaError::Truncated {
            rule: Rule::T1,
            place: place.into(),
            offset,
            expected: expected.into(),
        };
        if self.next_event()?.is_some() {
            return Err(truncated("an event", self.position(), "that it is taken before the end"));
        }
        let length = self.position();
        let end_marker = match self.state {
            State::Refused(error) => return Err(error),
            State::End { .. } => true,
            _ if !self.members.is_between() => return Err(self.members.truncated(length)),
            State::Tail => false,
            State::Start | State::Document { .. } => {
                return Err(truncated("its start", length, "the member \"ova.xml\""));
            }
            State::NextBlock(cursor)
            | State::Block { cursor, .. }
            | State::NextChecksum { cursor, .. }
            | State::Checksum { cursor, .. } => return Err(cursor.incomplete(length)),
        };
        Ok(XvaSummary { disks: self.disks.len(), blocks: self.blocks, length, end_marker })
    }
}

/// O1 and O2.
fn check_first(member: &Member) -> Result<(), XvaError> {
    if member.name != b"ova.xml" {
        return Err(first(Quoted::new(&member.name)));
    }
    if member.size > MAX_DOCUMENT_BYTES {
        let expected = format!("at most {MAX_DOCUMENT_BYTES} bytes");
        return Err(member.wrong(Rule::O2, "size", expected, member.size));
    }
    Ok(())
}

fn first(found: impl ToString) -> XvaError {
    XvaError::Member {
        rule: Rule::O1,
        field: "name",
        member: Quoted::new("ova.xml"),
        offset: 0,
        expected: "that name, of the first member".into(),
        found: found.to_string(),
    }
}

/// Which checksum of a block a member is.
fn checksum_kind(block: &Member, member: &Member) -> Result<ChecksumKind, XvaError> {
    let suffix = member.name.strip_prefix(block.name.as_slice());
    let kinds = [ChecksumKind::Xxh64, ChecksumKind::Sha1];
    let Some(kind) = kinds.into_iter().find(|kind| suffix == Some(kind.suffix().as_bytes())) else {
        let expected = format!("{} with .xxhash or .checksum behind it", Quoted::new(&block.name));
        return Err(member.wrong(Rule::D10, "name", expected, "another member"));
    };
    if member.size > kind.text_len() {
        let expected = format!("{} bytes", kind.text_len());
        return Err(member.wrong(Rule::D11, "size", expected, member.size));
    }
    Ok(kind)
}

/// E1: only zeros follow the end marker, and not many.
fn read_trailing(input: &mut Input, zeros: &mut u64) -> Result<(), XvaError> {
    let start = input.position();
    let rest = input.take(u64::MAX);
    let wrong = |offset, expected: String, found: String| XvaError::Member {
        rule: Rule::E1,
        field: "bytes",
        member: Quoted::new("the end of the archive"),
        offset,
        expected,
        found,
    };
    let room = usize::try_from(MAX_TRAILING.saturating_sub(*zeros)).unwrap_or(usize::MAX);
    let at = rest.iter().position(|&byte| byte != 0).unwrap_or(rest.len()).min(room);
    *zeros += at as u64;
    match rest.get(at) {
        None => Ok(()),
        Some(0) => Err(wrong(start + at as u64, format!("at most {MAX_TRAILING} zeros"), "more".into())),
        Some(byte) => Err(wrong(start + at as u64, "zeros".into(), format!("byte {byte:#04x}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A member of which only the beginning comes.
    fn begin(name: &str, size: u64, content: &[u8]) -> Bytes {
        let mut header = tar::Header::new_old();
        header.set_path(name).unwrap();
        header.set_size(size);
        header.set_cksum();
        [header.as_bytes().as_slice(), content].concat().into()
    }

    #[test]
    fn there_is_no_room_for_what_is_only_announced() {
        let mut decoder = XvaDecoder::new(XvaLimits { largest_disk: 1 << 40 });
        decoder.push(begin("ova.xml", MAX_DOCUMENT_BYTES, b"<value>"));
        assert_eq!(decoder.next_event(), Ok(None));
        let State::Document { text, .. } = &decoder.state else { panic!("{:?}", decoder.state) };
        assert!(text.len() == 7 && text.capacity() < 100);
        for size in [MAX_DOCUMENT_BYTES + 1, (1 << 33) - 1] {
            let mut decoder = XvaDecoder::new(XvaLimits { largest_disk: 1 << 40 });
            decoder.push(begin("ova.xml", size, b""));
            assert_eq!(decoder.next_event().unwrap_err().rule(), Rule::O2);
        }
    }
}
