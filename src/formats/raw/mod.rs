//! Raw disks: the guest's bytes and nothing else.

use bytes::Bytes;

use super::ImageEvent;

/// Why a raw disk is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RawError {
    /// A disk of no bytes at all.
    #[error("the raw disk's size at byte 0 is wrong: expected at least 512 bytes, found 0")]
    Empty,
    /// Not a whole number of sectors.
    #[error("the raw disk's size is wrong at byte {offset}: expected a multiple of 512 bytes, found {found}")]
    Unaligned {
        /// Where the last, incomplete sector begins.
        offset: u64,
        /// Size in bytes.
        found: u64,
    },
    /// More bytes than the size that was asked for.
    #[error(
        "the raw disk is too long at byte {offset}: expected at most {expected} bytes, found at least {found}"
    )]
    TooLong {
        /// The first byte that is too much.
        offset: u64,
        /// The size that was asked for, in bytes.
        expected: u64,
        /// The length of the stream, as far as it is known.
        found: u64,
    },
    /// Fewer bytes than were announced, or bytes that nobody took.
    #[error("the raw disk ends at byte {offset}: expected {expected} bytes, found {offset}")]
    Truncated {
        /// Where it ends.
        offset: u64,
        /// Length in bytes that was announced.
        expected: u64,
    },
}

impl RawError {
    /// A stable name in snake case for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Empty => "raw_size_zero",
            Self::Unaligned { .. } => "raw_size_unaligned",
            Self::TooLong { .. } => "raw_too_long",
            Self::Truncated { .. } => "raw_truncated",
        }
    }

    /// Where it is wrong, in bytes from the start of the stream.
    pub fn offset(&self) -> u64 {
        match self {
            Self::Empty => 0,
            Self::Unaligned { offset, .. }
            | Self::TooLong { offset, .. }
            | Self::Truncated { offset, .. } => *offset,
        }
    }
}

/// Reads a raw disk: passes bytes through, and sees to its size.
#[derive(Debug, Clone)]
pub struct RawDecoder {
    waiting: Bytes,
    position: u64,
    size: Option<u64>,
    length: Option<u64>,
    state: State,
}

#[derive(Debug, Clone)]
enum State {
    Begin,
    Data,
    Refused(RawError),
}

impl RawDecoder {
    /// A decoder for a disk of `size` bytes, when that was asked for: fewer that come are padded with a hole. A
    /// stream of `length` bytes, when that was announced, is refused early when it cannot be such a disk.
    pub fn new(size: Option<u64>, length: Option<u64>) -> Self {
        Self { waiting: Bytes::new(), position: 0, size, length, state: State::Begin }
    }

    /// Adds bytes to the input. Best done when [`next_event`](Self::next_event) has nothing left.
    pub fn push(&mut self, input: Bytes) {
        self.waiting = if self.waiting.is_empty() {
            input
        } else {
            [self.waiting.as_ref(), input.as_ref()].concat().into()
        };
    }

    /// Number of bytes of the stream that were used so far.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// The next event; `None` when more input is needed. The size comes first when it can be known.
    ///
    /// # Errors
    /// Why the disk is refused; the same again when called again.
    pub fn next_event(&mut self) -> Result<Option<ImageEvent>, RawError> {
        let event = self.read();
        if let Err(error) = &event {
            self.state = State::Refused(error.clone());
        }
        event
    }

    fn read(&mut self) -> Result<Option<ImageEvent>, RawError> {
        match &self.state {
            State::Refused(error) => return Err(error.clone()),
            State::Begin => {
                self.state = State::Data;
                if let Some(size) = self.size.or(self.length) {
                    check_size(size)?;
                    self.length.map_or(Ok(()), |length| self.check_length(length))?;
                    return Ok(Some(ImageEvent::Size(size)));
                }
            }
            State::Data => {}
        }
        let end = self.position + self.waiting.len() as u64;
        self.check_length(end)?;
        if let Some(length) = self.length.filter(|&length| end > length) {
            return Err(RawError::TooLong { offset: length, expected: length, found: end });
        }
        if self.waiting.is_empty() {
            return Ok(None);
        }
        let offset = std::mem::replace(&mut self.position, end);
        Ok(Some(ImageEvent::Data { offset, data: std::mem::take(&mut self.waiting) }))
    }

    /// Refuses more bytes than the disk is to have.
    fn check_length(&self, found: u64) -> Result<(), RawError> {
        match self.size {
            Some(size) if found > size => Err(RawError::TooLong { offset: size, expected: size, found }),
            _ => Ok(()),
        }
    }

    /// The end of the input: the disk's size in bytes.
    ///
    /// # Errors
    /// The stream was not as long as announced, its size is none that a disk can have, or it was refused before.
    pub fn finish(mut self) -> Result<u64, RawError> {
        while let Some(event) = self.next_event()? {
            if let ImageEvent::Data { offset, .. } = event {
                return Err(RawError::Truncated { offset, expected: self.position });
            }
        }
        match self.length {
            Some(expected) if self.position < expected => {
                Err(RawError::Truncated { offset: self.position, expected })
            }
            _ => {
                let size = self.size.unwrap_or(self.position);
                check_size(size)?;
                Ok(size)
            }
        }
    }
}

fn check_size(size: u64) -> Result<(), RawError> {
    match size {
        0 => Err(RawError::Empty),
        _ if !size.is_multiple_of(512) => Err(RawError::Unaligned { offset: size / 512 * 512, found: size }),
        _ => Ok(()),
    }
}
