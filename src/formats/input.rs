//! The bytes that have come and were not used yet, and the place in the stream at which they are.

use bytes::{Bytes, BytesMut};

/// Input of a decoder that is fed what comes.
#[derive(Debug, Clone, Default)]
pub(in crate::formats) struct Input {
    waiting: Bytes,
    position: u64,
}

impl Input {
    pub(in crate::formats) fn push(&mut self, bytes: Bytes) {
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
    pub(in crate::formats) fn position(&self) -> u64 {
        self.position
    }

    /// Bytes pushed so far.
    pub(in crate::formats) fn pushed(&self) -> u64 {
        self.position + self.waiting.len() as u64
    }

    /// Number of bytes that wait.
    pub(in crate::formats) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Uses up to `most` bytes, without copying them.
    pub(in crate::formats) fn take(&mut self, most: u64) -> Bytes {
        let len = usize::try_from(most).unwrap_or(usize::MAX).min(self.waiting.len());
        self.position += len as u64;
        self.waiting.split_to(len)
    }

    /// Uses bytes until the position is `offset` or beyond; `false` when more must come first.
    pub(in crate::formats) fn skip_to(&mut self, offset: u64) -> bool {
        self.take(offset.saturating_sub(self.position));
        self.position >= offset
    }

    /// Moves bytes into `buffer` until it holds `len`; `false` when more must come first.
    pub(in crate::formats) fn fill(&mut self, buffer: &mut Vec<u8>, len: usize) -> bool {
        buffer.extend_from_slice(&self.take(len.saturating_sub(buffer.len()) as u64));
        buffer.len() >= len
    }
}
