//! Codecs for disk images: sans-IO, no clock, no global state. Bytes go in, events come out; a layout
//! goes in, pieces come out.

use bytes::Bytes;

pub mod blocks;
pub mod frames;
mod input;
pub mod raw;
mod rules;
pub mod vhd;
pub mod xva;

/// What a decoder read from a stream. What no `Data` event covered is zero.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ImageEvent {
    /// The disk's virtual size in bytes is known from here on. Comes at most once, before the end; a raw
    /// stream of unknown length and a fixed VHD tell it only at their end.
    Size(u64),
    /// Bytes of the disk, from `offset` (bytes, guest address space) on. Never empty, never past the size
    /// that was announced, never twice for the same byte.
    Data {
        /// First byte's address on the virtual disk.
        offset: u64,
        /// The bytes.
        data: Bytes,
    },
}

/// A run of bytes of an image that is being written, as a layout describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// These bytes.
    Bytes(Bytes),
    /// `len` bytes of the virtual disk from `offset` on; past the disk's end they are zero.
    Disk {
        /// First byte's address on the virtual disk.
        offset: u64,
        /// Number of bytes.
        len: u64,
    },
    /// That many zero bytes.
    Zeros(u64),
    /// Part of the text of a checksum of bytes that lie further ahead in the image itself: made when it is produced,
    /// from what was written there.
    Digest {
        /// First byte of what is checked: its place in the image.
        start: u64,
        /// Number of bytes that are checked.
        len: u64,
        /// How.
        kind: xva::ChecksumKind,
        /// Bytes of the text before those that are meant.
        skip: u64,
        /// Number of bytes of the text that are meant.
        take: u64,
    },
}

impl Piece {
    /// Number of bytes that this piece stands for.
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Disk { len, .. } | Self::Zeros(len) => *len,
            Self::Digest { take, .. } => *take,
        }
    }

    /// Whether it stands for no byte at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Why an image is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImageError {
    /// A VHD.
    #[error(transparent)]
    Vhd(#[from] vhd::VhdError),
    /// A raw disk.
    #[error(transparent)]
    Raw(#[from] raw::RawError),
}

impl ImageError {
    /// A stable name in snake case for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Vhd(error) => error.code(),
            Self::Raw(error) => error.code(),
        }
    }

    /// Where it is wrong, in bytes from the start of the image.
    pub fn offset(&self) -> u64 {
        match self {
            Self::Vhd(error) => error.offset(),
            Self::Raw(error) => error.offset(),
        }
    }
}

/// What an image turned out to hold, when it was whole.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageSummary {
    /// The disk's size in bytes, whether or not an [`ImageEvent::Size`] told it before.
    pub virtual_size: u64,
}

/// A decoder for an image of any format. Push bytes as they come, take events until there are none, push more;
/// at the end of the input call [`finish`](Self::finish).
#[derive(Debug, Clone)]
pub enum ImageDecoder {
    /// Reads a VHD.
    Vhd(vhd::StreamDecoder),
    /// Reads a raw disk.
    Raw(raw::RawDecoder),
}

impl ImageDecoder {
    /// Adds bytes to the input. Best done when [`next_event`](Self::next_event) has nothing left: only then
    /// nothing is copied.
    pub fn push(&mut self, input: Bytes) {
        match self {
            Self::Vhd(decoder) => decoder.push(input),
            Self::Raw(decoder) => decoder.push(input),
        }
    }

    /// Number of bytes of the stream that were used so far.
    pub fn position(&self) -> u64 {
        match self {
            Self::Vhd(decoder) => decoder.position(),
            Self::Raw(decoder) => decoder.position(),
        }
    }

    /// What must be stored of the disk at least as far as its tables tell, in bytes; `None` while or when they do
    /// not.
    pub fn allocated_bytes(&self) -> Option<u64> {
        match self {
            Self::Vhd(decoder) => decoder.allocated_bytes(),
            Self::Raw(_) => None,
        }
    }

    /// The next event; `None` when more input is needed, or everything was read.
    ///
    /// # Errors
    /// Why the image is refused; the same again when called again.
    pub fn next_event(&mut self) -> Result<Option<ImageEvent>, ImageError> {
        match self {
            Self::Vhd(decoder) => Ok(decoder.next_event()?),
            Self::Raw(decoder) => Ok(decoder.next_event()?),
        }
    }

    /// The end of the input. To be called when [`next_event`](Self::next_event) has nothing left.
    ///
    /// # Errors
    /// The image is not whole, or was refused before.
    pub fn finish(self) -> Result<ImageSummary, ImageError> {
        let virtual_size = match self {
            Self::Vhd(decoder) => decoder.finish()?.virtual_size,
            Self::Raw(decoder) => decoder.finish()?,
        };
        Ok(ImageSummary { virtual_size })
    }
}
