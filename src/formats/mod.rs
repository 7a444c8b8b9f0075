//! Codecs for disk images: sans-IO, no clock, no global state. Bytes go in, events come out; a layout
//! goes in, pieces come out.

use bytes::Bytes;

pub mod raw;
pub mod vhd;

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
}

impl Piece {
    /// Number of bytes that this piece stands for.
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::Disk { len, .. } | Self::Zeros(len) => *len,
        }
    }

    /// Whether it stands for no byte at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}
