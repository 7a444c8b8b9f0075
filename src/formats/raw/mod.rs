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

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    fn decode(
        size: Option<u64>,
        length: Option<u64>,
        pieces: &[&[u8]],
    ) -> Result<(Option<u64>, Vec<u8>, u64), RawError> {
        let mut decoder = RawDecoder::new(size, length);
        let (mut told, mut bytes) = (None, Vec::new());
        for piece in std::iter::once(&[].as_slice()).chain(pieces) {
            decoder.push(Bytes::copy_from_slice(piece));
            while let Some(event) = decoder.next_event()? {
                match event {
                    ImageEvent::Size(size) => assert_eq!(told.replace(size), None),
                    ImageEvent::Data { offset, data } => {
                        assert!(!data.is_empty() && offset == bytes.len() as u64);
                        bytes.extend_from_slice(&data);
                    }
                }
            }
        }
        Ok((told, bytes, decoder.finish()?))
    }

    proptest! {
        #[test]
        fn whatever_its_cuts_a_raw_disk_is_its_bytes(sectors in 1usize..6, cuts in prop::collection::vec(1usize..900, 1..9), announced: bool) {
            let disk: Vec<u8> = (0..sectors * 512).map(|at| (at * 7) as u8).collect();
            let (mut pieces, mut rest, mut cuts) = (Vec::new(), disk.as_slice(), cuts.iter().cycle());
            while !rest.is_empty() {
                let (piece, left) = rest.split_at((*cuts.next().unwrap()).min(rest.len()));
                pieces.push(piece);
                rest = left;
            }
            let size = disk.len() as u64;
            let length = announced.then_some(size);
            prop_assert_eq!(decode(None, length, &pieces), Ok((length, disk, size)));
        }
    }

    #[test]
    fn less_than_the_size_is_a_disk_with_a_hole_at_its_end() {
        assert_eq!(decode(Some(2048), None, &[&[1; 700]]), Ok((Some(2048), vec![1; 700], 2048)));
        assert_eq!(decode(Some(2048), Some(700), &[&[1; 700]]), Ok((Some(2048), vec![1; 700], 2048)));
        assert_eq!(decode(Some(512), None, &[]), Ok((Some(512), vec![], 512)));
    }

    #[test]
    fn more_than_the_size_is_refused_at_the_first_byte_too_many() {
        let error = RawError::TooLong { offset: 512, expected: 512, found: 600 };
        assert_eq!(decode(Some(512), None, &[&[1; 600]]), Err(error.clone()));
        assert_eq!(decode(Some(512), Some(600), &[]), Err(error), "before anything came");
        let error = decode(Some(512), None, &[&[1; 512], &[1]]).unwrap_err();
        assert_eq!((error.offset(), error.code()), (512, "raw_too_long"));
    }

    #[test]
    fn a_size_that_no_disk_has_is_refused_as_early_as_it_is_known() {
        let unaligned = RawError::Unaligned { offset: 512, found: 1000 };
        assert_eq!(decode(None, None, &[&[1; 1000]]), Err(unaligned.clone()));
        assert_eq!(decode(None, Some(1000), &[]), Err(unaligned.clone()));
        assert_eq!(decode(Some(1000), Some(512), &[]), Err(unaligned));
        assert_eq!(decode(None, None, &[]), Err(RawError::Empty));
        assert_eq!(decode(None, Some(0), &[]), Err(RawError::Empty));
        assert_eq!(decode(Some(0), None, &[]), Err(RawError::Empty));
    }

    #[test]
    fn a_stream_that_is_not_as_long_as_announced_is_no_disk() {
        let cut = RawError::Truncated { offset: 512, expected: 1024 };
        assert_eq!(decode(None, Some(1024), &[&[1; 512]]), Err(cut.clone()));
        assert_eq!(decode(Some(4096), Some(1024), &[&[1; 512]]), Err(cut));
        assert!(matches!(
            decode(None, Some(1024), &[&[1; 1025]]),
            Err(RawError::TooLong { offset: 1024, .. })
        ));
        let mut decoder = RawDecoder::new(None, None);
        decoder.push(Bytes::from_static(&[0; 512]));
        assert!(
            matches!(decoder.finish(), Err(RawError::Truncated { offset: 0, .. })),
            "events were not taken"
        );
    }

    #[test]
    fn a_raw_disk_may_be_larger_than_any_vhd() {
        assert_eq!(decode(Some(1 << 50), None, &[]), Ok((Some(1 << 50), vec![], 1 << 50)));
    }
}
