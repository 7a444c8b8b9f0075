//! The bytes that have come and were not used yet, and the place in the stream at which they are.

use bytes::{Bytes, BytesMut};

/// Input of a decoder.
#[derive(Debug, Default)]
pub(super) struct Input {
    waiting: Bytes,
    position: u64,
}

impl Input {
    pub(super) fn push(&mut self, bytes: Bytes) {
        if self.waiting.is_empty() {
            self.waiting = bytes;
        } else {
            let mut both = BytesMut::with_capacity(self.waiting.len() + bytes.len());
            both.extend_from_slice(&self.waiting);
            both.extend_from_slice(&bytes);
            self.waiting = both.freeze();
        }
    }

    /// Bytes used so far.
    pub(super) fn position(&self) -> u64 {
        self.position
    }

    /// Uses up to `most` bytes, without copying them.
    pub(super) fn take(&mut self, most: u64) -> Bytes {
        let len = usize::try_from(most).unwrap_or(usize::MAX).min(self.waiting.len());
        self.position += len as u64;
        self.waiting.split_to(len)
    }

    /// Moves bytes into `buffer` until it holds `len`; `false` when more must come first.
    pub(super) fn fill(&mut self, buffer: &mut Vec<u8>, len: usize) -> bool {
        buffer.extend_from_slice(&self.take(len.saturating_sub(buffer.len()) as u64));
        buffer.len() >= len
    }
}
