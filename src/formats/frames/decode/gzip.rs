//! Reads gzip members. Head and tail are read here, as members follow each other and zeros may follow the last one.

use flate2::{Crc, Decompress, FlushDecompress, Status};

use super::super::Codec;
use super::{FrameError, GZIP_MAGIC, Input, Step};

/// How far deflate looks back, in bytes.
pub(super) const WINDOW_BYTES: u64 = 32 << 10;

const HAS_HEAD_SUM: u8 = 1 << 1;
const HAS_EXTRA: u8 = 1 << 2;
const HAS_NAME: u8 = 1 << 3;
const HAS_COMMENT: u8 = 1 << 4;
const RESERVED_FLAGS: u8 = 0b1110_0000;
const DEFLATE: u8 = 8;

pub(super) struct GzipReader {
    inflate: Decompress,
    state: State,
    /// Where the present member begins.
    member: u64,
    flags: u8,
    head_sum: Crc,
    content_sum: Crc,
    /// Number of members that were read to their end.
    members: u64,
}

#[derive(Clone, Copy)]
enum State {
    /// The ten bytes that each head has, of which so many were read.
    Head { read: usize },
    /// The length of the extra field: its first byte, when that was read.
    ExtraLength { low: Option<u8> },
    /// The extra field, of which so many bytes are left.
    Extra { left: u16 },
    /// The file's name, up to a zero.
    Name,
    /// A comment, up to a zero.
    Comment,
    /// The head's checksum: its first byte, when that was read.
    HeadSum { low: Option<u8> },
    /// Deflated bytes; the library may hold plain bytes when it has filled all room.
    Body { may_hold: bool },
    /// Checksum and length, of which so many bytes were read.
    Tail { tail: [u8; 8], read: usize },
    /// Zeros after the last member.
    Padding,
    /// Damaged at that byte or after; what lay before was given out.
    Broken { offset: u64, reason: &'static str },
}

impl std::fmt::Debug for GzipReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GzipReader").field("member", &self.member).finish_non_exhaustive()
    }
}

impl GzipReader {
    pub(super) fn new() -> Self {
        Self {
            inflate: Decompress::new(false),
            state: State::Head { read: 0 },
            member: 0,
            flags: 0,
            head_sum: Crc::new(),
            content_sum: Crc::new(),
            members: 0,
        }
    }

    pub(super) fn members(&self) -> u64 {
        self.members
    }

    pub(super) fn step(&mut self, input: &mut Input, room: &mut [u8]) -> Result<Step, FrameError> {
        match self.state {
            State::Body { may_hold: false } if input.bytes.is_empty() => return Ok(Step::NeedsInput),
            State::Body { .. } => return Ok(Step::Wrote(self.read_body(input, room))),
            State::Broken { offset, reason } => {
                let (codec, frame) = (Codec::Gzip, self.member);
                return Err(FrameError::Damaged { codec, frame, offset, reason });
            }
            _ => {}
        }
        let Some(&byte) = input.bytes.first() else { return Ok(Step::NeedsInput) };
        self.state = match self.state {
            State::Tail { tail, read } => self.read_tail(tail, read, byte, input.position)?,
            State::Padding if byte == 0 => State::Padding,
            State::Padding => return Err(self.no_member(byte, input.position)),
            state => self.read_head(state, byte, input.position)?,
        };
        input.advance(1);
        Ok(Step::Wrote(0))
    }

    /// Takes the byte `byte`, which is at `position`, into the head. The state after.
    fn read_head(&mut self, state: State, byte: u8, position: u64) -> Result<State, FrameError> {
        if let State::Head { read: 0 } = state {
            if byte == 0 && self.members > 0 {
                return Ok(State::Padding);
            }
            self.member = position;
            self.head_sum.reset();
        }
        let sum = (self.head_sum.sum() & 0xFFFF) as u16;
        self.head_sum.update(&[byte]);
        let bad = |field, expected| FrameError::BadHeader {
            codec: Codec::Gzip,
            frame: self.member,
            field,
            expected,
            found: byte.into(),
        };
        Ok(match state {
            State::Head { read } => match read {
                0 | 1 if GZIP_MAGIC.get(read) != Some(&byte) => return Err(self.no_member(byte, position)),
                2 if byte != DEFLATE => return Err(bad("compression method", "8 (deflate)")),
                3 if byte & RESERVED_FLAGS != 0 => return Err(bad("flags", "no reserved ones")),
                3 => {
                    self.flags = byte;
                    State::Head { read: 4 }
                }
                9 => self.field_after(0),
                read => State::Head { read: read + 1 },
            },
            State::ExtraLength { low: None } => State::ExtraLength { low: Some(byte) },
            State::ExtraLength { low: Some(low) } => match u16::from_le_bytes([low, byte]) {
                0 => self.field_after(HAS_EXTRA),
                left => State::Extra { left },
            },
            State::Extra { left: 1 } => self.field_after(HAS_EXTRA),
            State::Extra { left } => State::Extra { left: left - 1 },
            State::Name if byte == 0 => self.field_after(HAS_NAME),
            State::Comment if byte == 0 => self.field_after(HAS_COMMENT),
            State::HeadSum { low: None } => {
                // Both bytes of the sum are compared with the sum of what came before the first.
                self.head_sum.reset();
                let [low, high] = sum.to_le_bytes();
                if low != byte {
                    return Err(self.wrong_sum("header checksum", position, low, byte));
                }
                State::HeadSum { low: Some(high) }
            }
            State::HeadSum { low: Some(high) } if high != byte => {
                return Err(self.wrong_sum("header checksum", position, high, byte));
            }
            State::HeadSum { low: Some(_) } => self.field_after(HAS_HEAD_SUM),
            state => state,
        })
    }

    /// The state after the head's field with that flag; 0 stands for what each head has.
    fn field_after(&mut self, flag: u8) -> State {
        let order = [
            (HAS_EXTRA, State::ExtraLength { low: None }),
            (HAS_NAME, State::Name),
            (HAS_COMMENT, State::Comment),
            (HAS_HEAD_SUM, State::HeadSum { low: None }),
        ];
        let read = order.iter().position(|(of, _)| *of == flag).map_or(0, |at| at + 1);
        let next = order.iter().skip(read).find(|(of, _)| self.flags & of != 0);
        match next {
            Some((_, state)) => *state,
            None => {
                self.inflate.reset(false);
                self.content_sum.reset();
                State::Body { may_hold: false }
            }
        }
    }

    /// Reads deflated bytes. How many plain ones were written.
    fn read_body(&mut self, input: &mut Input, room: &mut [u8]) -> usize {
        let offset = input.position;
        let (used_before, written_before) = (self.inflate.total_in(), self.inflate.total_out());
        let status = self.inflate.decompress(&input.bytes, room, FlushDecompress::None);
        let used = (self.inflate.total_in() - used_before) as usize;
        let written = (self.inflate.total_out() - written_before) as usize;
        self.content_sum.update(room.get(..written).unwrap_or_default());
        let is_stuck = used == 0 && written == 0 && !input.bytes.is_empty();
        self.state = match status {
            Ok(Status::StreamEnd) => State::Tail { tail: [0; 8], read: 0 },
            Err(_) => State::Broken { offset, reason: "the deflated bytes make no sense" },
            Ok(_) if is_stuck => State::Broken { offset, reason: "the deflated bytes lead nowhere" },
            Ok(_) => State::Body { may_hold: written == room.len() },
        };
        input.advance(used);
        written
    }

    fn read_tail(
        &mut self,
        mut tail: [u8; 8],
        read: usize,
        byte: u8,
        position: u64,
    ) -> Result<State, FrameError> {
        if let Some(place) = tail.get_mut(read) {
            *place = byte;
        }
        let read = read + 1;
        if read < tail.len() {
            return Ok(State::Tail { tail, read });
        }
        let [a, b, c, d, e, f, g, h] = tail;
        let length = self.inflate.total_out() as u32; // modulo 2^32, as the format has it
        let fields = [
            ("checksum", position - 7, self.content_sum.sum(), u32::from_le_bytes([a, b, c, d])),
            ("length", position - 3, length, u32::from_le_bytes([e, f, g, h])),
        ];
        for (field, offset, expected, found) in fields {
            if expected != found {
                return Err(FrameError::WrongSum { frame: self.member, offset, field, expected, found });
            }
        }
        self.members += 1;
        Ok(State::Head { read: 0 })
    }

    fn wrong_sum(&self, field: &'static str, offset: u64, expected: u8, found: u8) -> FrameError {
        let (expected, found) = (expected.into(), found.into());
        FrameError::WrongSum { frame: self.member, offset, field, expected, found }
    }

    fn no_member(&self, found: u8, offset: u64) -> FrameError {
        let codec = Codec::Gzip;
        match self.members > 0 {
            true => FrameError::TrailingGarbage { codec, offset, found },
            false => FrameError::NotAFrame { codec, offset, found },
        }
    }

    /// The stream ends at `offset`.
    pub(super) fn finish(&self, offset: u64) -> Result<(), FrameError> {
        let what = match self.state {
            State::Head { read: 0 } | State::Padding if self.members > 0 => return Ok(()),
            State::Body { .. } | State::Broken { .. } => "a member",
            State::Tail { .. } => "a member's checksum and length",
            _ => "a member's header",
        };
        Err(FrameError::Truncated { codec: Codec::Gzip, offset, what })
    }
}
