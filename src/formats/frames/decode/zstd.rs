//! Reads zstd frames. Headers are read here, so that a window is known before memory is taken for it; the rest is the
//! library's.

use zstd_safe::{DCtx, DParameter, InBuffer, OutBuffer, ResetDirective};

use super::super::Codec;
use super::{FrameError, Input, MAX_WINDOW_BYTES, Step, ZSTD_MAGIC};

/// Longest frame header, magic number included.
const MAX_HEAD_BYTES: usize = 18;
const MAX_WINDOW_LOG: u32 = MAX_WINDOW_BYTES.ilog2();
/// The last three bytes of a skippable frame's magic number; the first is 0x50 to 0x5F.
const SKIPPABLE_MAGIC: [u8; 3] = [0x2A, 0x4D, 0x18];
const SKIPPABLE_HEAD_BYTES: usize = 8;
const BLOCK_HEAD_BYTES: usize = 3;
const SUM_BYTES: usize = 4;
const BEFORE_BLOCK: State = State::BlockHead { head: [0; BLOCK_HEAD_BYTES], len: 0 };

pub(super) struct ZstdReader {
    context: Option<DCtx<'static>>,
    state: State,
    /// Where the present frame begins.
    frame: u64,
    /// Where its present block begins.
    block: u64,
    has_sum: bool,
    /// Largest window so far, in bytes.
    window_bytes: u64,
    granted_bytes: u64,
    /// Number of frames that were read to their end.
    frames: u64,
}

#[derive(Clone, Copy)]
enum State {
    /// A header, as far as it was read.
    Head { head: [u8; MAX_HEAD_BYTES], len: usize },
    /// A header that was read, and not given to the library.
    Begin { head: [u8; MAX_HEAD_BYTES], len: usize },
    /// The header of a block, as far as it was read.
    BlockHead { head: [u8; BLOCK_HEAD_BYTES], len: usize },
    /// What follows a block's header, or the frame's checksum. So many bytes of it were not used yet.
    Body { left: usize, after: After },
    /// The library may hold plain bytes, as it has filled all room.
    Flush { left: usize, after: After },
    /// A skippable frame of which so many bytes are left.
    Skip { left: u64 },
}

/// What comes after a block or the checksum.
#[derive(Clone, Copy, PartialEq)]
enum After {
    Block,
    Sum,
    End,
}

const BEFORE_FRAME: State = State::Head { head: [0; MAX_HEAD_BYTES], len: 0 };

impl std::fmt::Debug for ZstdReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ZstdReader").field("frame", &self.frame).finish_non_exhaustive()
    }
}

impl ZstdReader {
    pub(super) fn new(free_window_bytes: u64) -> Self {
        let granted_bytes = free_window_bytes;
        let state = BEFORE_FRAME;
        Self {
            context: None,
            state,
            frame: 0,
            block: 0,
            has_sum: false,
            window_bytes: 0,
            granted_bytes,
            frames: 0,
        }
    }

    pub(super) fn window_bytes(&self) -> u64 {
        self.window_bytes
    }

    pub(super) fn grant_window(&mut self) {
        self.granted_bytes = self.granted_bytes.max(self.window_bytes);
    }

    pub(super) fn frames(&self) -> u64 {
        self.frames
    }

    pub(super) fn step(&mut self, input: &mut Input, room: &mut [u8]) -> Result<Step, FrameError> {
        match self.state {
            State::Head { head, len } => match input.bytes.first() {
                None => Ok(Step::NeedsInput),
                Some(&byte) => {
                    self.read_head(head, len, byte, input.position)?;
                    input.advance(1);
                    Ok(Step::Wrote(0))
                }
            },
            State::Begin { .. } if self.window_bytes > self.granted_bytes => {
                Ok(Step::NeedsWindow(self.window_bytes))
            }
            State::Begin { head, len } => {
                let head = head.get(..len).unwrap_or_default();
                self.begin_frame(head)?;
                Ok(Step::Wrote(0))
            }
            State::BlockHead { head, len } => match input.bytes.first() {
                None => Ok(Step::NeedsInput),
                Some(&byte) => {
                    self.read_block_head(head, len, byte, input.position)?;
                    input.advance(1);
                    Ok(Step::Wrote(0))
                }
            },
            State::Body { .. } if input.bytes.is_empty() => Ok(Step::NeedsInput),
            State::Body { left, after } | State::Flush { left, after } => {
                let source = input.bytes.get(..left.min(input.bytes.len())).unwrap_or_default();
                let (used, written) = self.read_body(source, room, left, after)?;
                input.advance(used);
                Ok(Step::Wrote(written))
            }
            State::Skip { left } => {
                let skipped = left.min(input.bytes.len() as u64);
                if skipped == 0 {
                    return Ok(Step::NeedsInput);
                }
                input.advance(skipped as usize);
                self.skip(left - skipped);
                Ok(Step::Wrote(0))
            }
        }
    }

    /// Takes the byte `byte`, which is at `position`, into the header.
    fn read_head(
        &mut self,
        mut head: [u8; MAX_HEAD_BYTES],
        len: usize,
        byte: u8,
        position: u64,
    ) -> Result<(), FrameError> {
        if len == 0 {
            self.frame = position;
        }
        let skippable = head.first().is_some_and(|first| first >> 4 == 5);
        let fits = match len {
            0 => byte == ZSTD_MAGIC[0] || (byte >> 4 == 5 && self.frames > 0),
            1..4 if skippable => SKIPPABLE_MAGIC.get(len - 1) == Some(&byte),
            1..4 => ZSTD_MAGIC.get(len) == Some(&byte),
            _ => true,
        };
        let codec = Codec::Zstd;
        match (fits, self.frames > 0) {
            (true, _) => {}
            (false, true) => {
                return Err(FrameError::TrailingGarbage { codec, offset: position, found: byte });
            }
            (false, false) => return Err(FrameError::NotAFrame { codec, offset: position, found: byte }),
        }
        if let Some(place) = head.get_mut(len) {
            *place = byte;
        }
        let len = len + 1;
        self.state = State::Head { head, len };
        match head {
            _ if skippable && len == SKIPPABLE_HEAD_BYTES => {
                let [_, _, _, _, a, b, c, d, ..] = head;
                self.skip(u32::from_le_bytes([a, b, c, d]).into());
            }
            [_, _, _, _, descriptor, ..] if !skippable && len >= 5 && len == head_bytes(descriptor) => {
                self.check_head(&head)?;
                self.state = State::Begin { head, len };
            }
            _ => {}
        }
        Ok(())
    }

    fn skip(&mut self, left: u64) {
        self.state = if left == 0 { BEFORE_FRAME } else { State::Skip { left } };
    }

    /// Looks at a whole header.
    fn check_head(&mut self, head: &[u8; MAX_HEAD_BYTES]) -> Result<(), FrameError> {
        let bad = |field, expected, found| {
            Err(FrameError::BadHeader { codec: Codec::Zstd, frame: self.frame, field, expected, found })
        };
        let [_, _, _, _, descriptor, fields @ ..] = head;
        if descriptor & 8 != 0 {
            return bad("reserved bit", "0", 1);
        }
        let mut fields = fields.as_slice();
        let mut field = |len| {
            let (field, rest) = fields.split_at_checked(len).unwrap_or_default();
            fields = rest;
            field.iter().rev().fold(0_u64, |value, &byte| value << 8 | u64::from(byte))
        };
        let in_one_piece = is_in_one_piece(*descriptor);
        let window = (!in_one_piece).then(|| field(1));
        match field(dictionary_id_bytes(*descriptor)) {
            0 => {}
            found => return bad("dictionary id", "none", found),
        }
        let size = field(content_size_bytes(*descriptor));
        let window = match window {
            Some(window) => {
                let base = 1 << (10 + (window >> 3));
                base + base / 8 * (window & 7)
            }
            // The size with two bytes begins at 256.
            None if content_size_bytes(*descriptor) == 2 => size + 256,
            None => size,
        };
        if window > MAX_WINDOW_BYTES {
            return Err(FrameError::WindowTooLarge { frame: self.frame, found: window });
        }
        self.window_bytes = self.window_bytes.max(window);
        self.has_sum = descriptor & 4 != 0;
        Ok(())
    }

    /// Gives the library the header. Alone, as every block later: of a call that fails, what it has written before is
    /// lost.
    fn begin_frame(&mut self, head: &[u8]) -> Result<(), FrameError> {
        self.block = self.frame;
        let no_memory = FrameError::NoMemory { frame: self.frame };
        let mut context = match self.context.take() {
            Some(context) => context,
            None => DCtx::try_create().ok_or(no_memory)?,
        };
        context.reset(ResetDirective::SessionOnly).map_err(|code| self.damaged(code))?;
        let limit = DParameter::WindowLogMax(MAX_WINDOW_LOG);
        context.set_parameter(limit).map_err(|code| self.damaged(code))?;
        self.context = Some(context);
        let (used, _, _) = self.decode(head, &mut [])?;
        self.state = BEFORE_BLOCK;
        self.expect_used(used, head.len())
    }

    /// Takes the byte `byte`, which is at `position`, into a block's header.
    fn read_block_head(
        &mut self,
        mut head: [u8; BLOCK_HEAD_BYTES],
        len: usize,
        byte: u8,
        position: u64,
    ) -> Result<(), FrameError> {
        if len == 0 {
            self.block = position;
        }
        if let Some(place) = head.get_mut(len) {
            *place = byte;
        }
        let len = len + 1;
        if len < BLOCK_HEAD_BYTES {
            self.state = State::BlockHead { head, len };
            return Ok(());
        }
        let [a, b, c] = head;
        let fields = u32::from_le_bytes([a, b, c, 0]);
        let left = match fields >> 1 & 3 {
            // One byte, many times.
            1 => 1,
            _ => (fields >> 3) as usize,
        };
        let after = match (fields & 1, self.has_sum) {
            (0, _) => After::Block,
            (_, true) => After::Sum,
            (_, false) => After::End,
        };
        // Refuses kinds that there are not, and blocks that are too long.
        let (used, _, is_end) = self.decode(&head, &mut [])?;
        self.expect_used(used, BLOCK_HEAD_BYTES)?;
        match is_end {
            true => self.end_frame(),
            false => self.go_on(left, after)?,
        }
        Ok(())
    }

    /// Reads from `source`, which is a part of the `left` bytes of a block or the checksum. How many bytes of it were
    /// used, and how many were written.
    fn read_body(
        &mut self,
        source: &[u8],
        room: &mut [u8],
        left: usize,
        after: After,
    ) -> Result<(usize, usize), FrameError> {
        let (used, written, is_end) = self.decode(source, room)?;
        let left = left.saturating_sub(used);
        if is_end {
            self.end_frame();
        } else if written == room.len() {
            self.state = State::Flush { left, after };
        } else {
            self.go_on(left, after)?;
        }
        Ok((used, written))
    }

    fn go_on(&mut self, left: usize, after: After) -> Result<(), FrameError> {
        self.state = match (left, after) {
            (0, After::Block) => BEFORE_BLOCK,
            (0, After::Sum) => State::Body { left: SUM_BYTES, after: After::End },
            (0, After::End) => return Err(self.damaged_because("it does not end where it says")),
            (left, after) => State::Body { left, after },
        };
        Ok(())
    }

    fn end_frame(&mut self) {
        self.frames += 1;
        self.state = BEFORE_FRAME;
    }

    /// One call of the library: bytes used, bytes written, whether the frame ends here.
    fn decode(&mut self, source: &[u8], room: &mut [u8]) -> Result<(usize, usize, bool), FrameError> {
        let Some(context) = &mut self.context else { return Err(self.damaged_because("it was not begun")) };
        let mut output = OutBuffer::around(room);
        let mut input = InBuffer::around(source);
        let hint = context.decompress_stream(&mut output, &mut input);
        let (used, written) = (input.pos(), output.pos());
        let hint = hint.map_err(|code| self.damaged(code))?;
        Ok((used, written, hint == 0))
    }

    fn expect_used(&self, used: usize, expected: usize) -> Result<(), FrameError> {
        if used == expected {
            Ok(())
        } else {
            Err(self.damaged_because("a header is not as long as it says"))
        }
    }

    fn damaged(&self, code: zstd_safe::ErrorCode) -> FrameError {
        match zstd_safe::get_error_name(code) {
            "Allocation error : not enough memory" => FrameError::NoMemory { frame: self.frame },
            reason => self.damaged_because(reason),
        }
    }

    fn damaged_because(&self, reason: &'static str) -> FrameError {
        FrameError::Damaged { codec: Codec::Zstd, frame: self.frame, offset: self.block, reason }
    }

    /// The stream ends at `offset`.
    pub(super) fn finish(&self, offset: u64) -> Result<(), FrameError> {
        let what = match self.state {
            State::Head { len: 0, .. } if self.frames > 0 => return Ok(()),
            State::Head { .. } | State::Begin { .. } => "a frame's header",
            State::BlockHead { .. } | State::Body { .. } | State::Flush { .. } => "a frame",
            State::Skip { .. } => "a skippable frame",
        };
        Err(FrameError::Truncated { codec: Codec::Zstd, offset, what })
    }
}

fn is_in_one_piece(descriptor: u8) -> bool {
    descriptor & 0x20 != 0
}

fn dictionary_id_bytes(descriptor: u8) -> usize {
    match descriptor & 3 {
        3 => 4,
        bytes => bytes.into(),
    }
}

fn content_size_bytes(descriptor: u8) -> usize {
    match descriptor >> 6 {
        0 => is_in_one_piece(descriptor).into(),
        flag => 1 << flag,
    }
}

/// Length of a header with that descriptor, magic number included.
fn head_bytes(descriptor: u8) -> usize {
    let window_bytes = usize::from(!is_in_one_piece(descriptor));
    5 + window_bytes + dictionary_id_bytes(descriptor) + content_size_bytes(descriptor)
}
