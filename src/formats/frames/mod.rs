//! Compressed streams: zstd frames and gzip members, each of which stands for one window of the plain stream.
//!
//! An export is cut into windows of a fixed length, and each window is compressed on its own. Any decoder reads the
//! concatenation, several threads can work on it, and a part of it can be made again without what lies before.
//! [`FrameEncoder`] makes one frame, [`FrameIndex`] remembers where the frames are, [`SeekTable`] tells it to readers
//! of seekable zstd. [`Decompressor`] reads what others have compressed, in whatever frames.

use serde::{Deserialize, Serialize};

mod decode;
mod encode;
mod index;
mod seek_table;

pub use decode::{Decompressor, FREE_WINDOW_BYTES, FrameError, MAX_CHUNK_BYTES, MAX_WINDOW_BYTES, Next};
pub use decode::{SNIFF_BYTES, Sniffed, sniff};
pub use encode::{EncodeError, FrameEncoder};
pub use index::{ENTRY_BYTES, FrameEntry, FrameIndex, FramePlace, INDEX_VERSION, IndexError};
pub use seek_table::SeekTable;

/// Version of what is ours in a compressed stream: how it is cut, which fields the frames have, what follows them.
/// To be raised with every change of the bytes.
const STREAM_VERSION: u32 = 1;

/// The library behind [`Codec::Gzip`]. It cannot be asked for its version; a test compares this with what is built in.
const GZIP_LIBRARY: &str = "zlib-rs 0.6.8";

/// How bytes are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Codec {
    /// Gzip members (RFC 1952).
    Gzip,
    /// Zstandard frames (RFC 8878).
    Zstd,
}

impl Codec {
    /// Its name, in lower case.
    pub fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }

    /// The lowest and the highest level.
    pub fn levels(self) -> (i32, i32) {
        match self {
            Self::Gzip => (1, 9),
            Self::Zstd => (1, 19),
        }
    }

    /// The level for who does not say one: that of the codec's own command.
    pub fn default_level(self) -> i32 {
        match self {
            Self::Gzip => 6,
            Self::Zstd => 3,
        }
    }
}

/// Why bytes cannot be compressed in that way.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompressionError {
    /// No such level.
    #[error("the {} level is wrong: expected {lowest} to {highest}, found {found}", codec.name())]
    BadLevel {
        /// The codec.
        codec: Codec,
        /// Its lowest level.
        lowest: i32,
        /// Its highest level.
        highest: i32,
        /// What was asked for.
        found: i32,
    },
}

impl CompressionError {
    /// A stable name in snake case for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::BadLevel { .. } => "compression_level_invalid",
        }
    }
}

/// A codec and how hard it tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Compression {
    codec: Codec,
    level: i32,
}

const MIB: u64 = 1 << 20;

impl Compression {
    /// That codec at that level.
    ///
    /// # Errors
    /// [`CompressionError::BadLevel`] for a level that the codec does not have.
    pub fn new(codec: Codec, level: i32) -> Result<Self, CompressionError> {
        let (lowest, highest) = codec.levels();
        match level {
            found if found < lowest || found > highest => {
                Err(CompressionError::BadLevel { codec, lowest, highest, found })
            }
            level => Ok(Self { codec, level }),
        }
    }

    /// That codec at its default level.
    pub fn default_of(codec: Codec) -> Self {
        Self { codec, level: codec.default_level() }
    }

    /// The codec.
    pub fn codec(&self) -> Codec {
        self.codec
    }

    /// The level.
    pub fn level(&self) -> i32 {
        self.level
    }

    /// Length in bytes of the windows that a stream is cut into, the last one excepted. High levels look back
    /// farther, and lose more at each cut.
    pub fn window_bytes(&self) -> u64 {
        match self.codec {
            Codec::Zstd if self.level > 3 => 8 * MIB,
            Codec::Gzip | Codec::Zstd => 4 * MIB,
        }
    }

    /// Number of frames of a stream of `plain_bytes`.
    pub fn frames_of(&self, plain_bytes: u64) -> u64 {
        plain_bytes.div_ceil(self.window_bytes())
    }

    /// Memory in bytes that one encoder takes, its input and output excepted.
    pub fn encoder_bytes(&self) -> u64 {
        let kib: u64 = match (self.codec, self.level) {
            // Window, hash table and pending output, whatever the level.
            (Codec::Gzip, _) => 512,
            // What a context has taken after a whole window, rounded up; a test holds them against the library.
            (Codec::Zstd, ..=1) => 640,
            (Codec::Zstd, 2) => 896,
            (Codec::Zstd, 3) => 1536,
            (Codec::Zstd, 4) => 2816,
            (Codec::Zstd, 5 | 6) => 3328,
            (Codec::Zstd, 7 | 8) => 6144,
            (Codec::Zstd, 9) => 11 << 10,
            (Codec::Zstd, 10 | 11) => 22 << 10,
            (Codec::Zstd, 12) => 42 << 10,
            (Codec::Zstd, 13 | 16) => 34 << 10,
            (Codec::Zstd, 14 | 17 | 18) => 51 << 10,
            (Codec::Zstd, 15) => 66 << 10,
            (Codec::Zstd, _) => 84 << 10,
        };
        kib << 10
    }

    /// Whether the stream ends with a table of its frames.
    pub fn has_seek_table(&self) -> bool {
        self.codec == Codec::Zstd
    }

    /// Names everything that the bytes of a frame depend on besides its content, for an entity tag.
    pub fn identity(&self) -> String {
        let (level, window) = (self.level, self.window_bytes());
        match self.codec {
            Codec::Gzip => {
                format!("gzip {STREAM_VERSION}; {GZIP_LIBRARY}; level {level}; window {window}")
            }
            Codec::Zstd => {
                let library = zstd_safe::version_string();
                format!("zstd {STREAM_VERSION}; zstd {library}; level {level}; window {window}; checksum")
            }
        }
    }
}

#[cfg(test)]
mod tests;
