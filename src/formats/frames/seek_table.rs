//! The table at the end of a seekable zstd stream: a skippable frame that names all frames before it.
//!
//! Per frame its compressed and its decompressed length (u32 each, no checksums), then the number of frames, a
//! descriptor and the magic number, all little-endian. Any part of it is made from the frame index when it is asked
//! for, since a table of a large disk has megabytes.

use super::index::MAX_FRAMES;
use super::{FrameIndex, IndexError};

const SKIPPABLE_MAGIC: u32 = 0x184D_2A5E;
const SEEKABLE_MAGIC: u32 = 0x8F92_EAB1;
/// Entries have no checksums.
const DESCRIPTOR: u8 = 0;
const HEAD_BYTES: u64 = 8;
const TABLE_ENTRY_BYTES: u64 = 8;
const FOOTER_BYTES: u64 = 9;

/// The seek table of a whole stream.
#[derive(Debug, Clone, Copy)]
pub struct SeekTable<'a> {
    index: &'a FrameIndex,
    window_bytes: u32,
    last_bytes: u32,
}

impl<'a> SeekTable<'a> {
    /// The table for a stream of `plain_bytes`, cut into windows of `window_bytes`, whose frames are all in `index`.
    ///
    /// # Errors
    /// [`IndexError::WrongCount`] when the index has not one frame for each window, [`IndexError::BadFrame`] for a
    /// length of windows that the table cannot name.
    pub fn new(index: &'a FrameIndex, window_bytes: u64, plain_bytes: u64) -> Result<Self, IndexError> {
        let bad_window = IndexError::BadFrame { frame: 0, found: window_bytes };
        let window = u32::try_from(window_bytes).ok().filter(|&window| window > 0).ok_or(bad_window)?;
        let expected = plain_bytes.div_ceil(window_bytes);
        if expected != index.frames() {
            return Err(IndexError::WrongCount { expected, found: index.frames() });
        }
        let last_bytes = plain_bytes - expected.saturating_sub(1) * window_bytes;
        // At most a window.
        let last_bytes = u32::try_from(last_bytes).unwrap_or(window);
        Ok(Self { index, window_bytes: window, last_bytes })
    }

    /// Length in bytes of the table of so many frames.
    ///
    /// # Errors
    /// [`IndexError::TooMany`] when a table cannot name them.
    pub fn len_for(frames: u64) -> Result<u64, IndexError> {
        match frames {
            found if found > MAX_FRAMES => Err(IndexError::TooMany { found }),
            frames => Ok(HEAD_BYTES + frames * TABLE_ENTRY_BYTES + FOOTER_BYTES),
        }
    }

    /// Its length in bytes.
    pub fn len(&self) -> u64 {
        HEAD_BYTES + self.index.frames() * TABLE_ENTRY_BYTES + FOOTER_BYTES
    }

    /// Whether it has no byte: never.
    pub fn is_empty(&self) -> bool {
        false
    }

    /// Up to `limit` bytes of it from byte `offset` on. Fewer only at its end.
    pub fn part(&self, offset: u64, limit: usize) -> Vec<u8> {
        let wanted = self.len().saturating_sub(offset).min(limit as u64);
        let wanted = usize::try_from(wanted).unwrap_or(limit);
        let mut part = Vec::with_capacity(wanted);
        let mut at = offset;
        while part.len() < wanted {
            let (field, len, skipped) = self.field_at(at);
            let bytes = field.get(skipped..len).unwrap_or_default();
            let taken = bytes.get(..bytes.len().min(wanted - part.len())).unwrap_or_default();
            if taken.is_empty() {
                break;
            }
            part.extend_from_slice(taken);
            at += taken.len() as u64;
        }
        part
    }

    /// Head, entry or footer that holds byte `at`, its length, and how many of its bytes lie before.
    fn field_at(&self, at: u64) -> ([u8; 9], usize, usize) {
        let frames = self.index.frames();
        let Some(past_head) = at.checked_sub(HEAD_BYTES) else {
            let content = (self.len() - HEAD_BYTES) as u32; // at most 2^30 and the footer
            return (fields(SKIPPABLE_MAGIC, content, 0), HEAD_BYTES as usize, at as usize);
        };
        let frame = past_head / TABLE_ENTRY_BYTES;
        if let Some(entry) = self.index.entry(frame) {
            let plain = if frame + 1 == frames { self.last_bytes } else { self.window_bytes };
            let skipped = (past_head % TABLE_ENTRY_BYTES) as usize;
            return (fields(entry.len, plain, 0), TABLE_ENTRY_BYTES as usize, skipped);
        }
        let [a, b, c, d] = SEEKABLE_MAGIC.to_le_bytes();
        let (middle, last) = (u32::from_le_bytes([DESCRIPTOR, a, b, c]), d);
        let skipped = (past_head - frames * TABLE_ENTRY_BYTES).min(FOOTER_BYTES);
        (fields(frames as u32, middle, last), FOOTER_BYTES as usize, skipped as usize) // at most 2^27 frames
    }
}

fn fields(first: u32, second: u32, last: u8) -> [u8; 9] {
    let ([a, b, c, d], [e, f, g, h]) = (first.to_le_bytes(), second.to_le_bytes());
    [a, b, c, d, e, f, g, h, last]
}
