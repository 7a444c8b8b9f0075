//! What can be wrong with a compressed stream.

use super::super::Codec;
use super::MAX_WINDOW_BYTES;

/// Why a compressed stream is refused. Offsets are bytes from the start of the compressed stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// What should be the first frame is something else.
    #[error("the stream's first bytes, at byte {offset}, are wrong: expected a {} frame, found {found:02x}", codec.name())]
    NotAFrame {
        /// The codec.
        codec: Codec,
        /// The first byte that is not as it should be.
        offset: u64,
        /// What it is.
        found: u8,
    },
    /// Something that is no frame after a whole one.
    #[error(
        "byte {offset} is behind the last frame's end: expected another {} frame or the end, found {found:02x}",
        codec.name()
    )]
    TrailingGarbage {
        /// The codec.
        codec: Codec,
        /// The first byte that fits no frame.
        offset: u64,
        /// What it is.
        found: u8,
    },
    /// A field of a frame's header is wrong.
    #[error("the {field} of the {} frame at byte {frame} is wrong: expected {expected}, found {found:#x}", codec.name())]
    BadHeader {
        /// The codec.
        codec: Codec,
        /// Where the frame begins.
        frame: u64,
        /// The field.
        field: &'static str,
        /// What it may be.
        expected: &'static str,
        /// What it is.
        found: u64,
    },
    /// A frame looks back farther than this program, or the `zstd` command without further options, allows.
    #[error(
        "the window of the zstd frame at byte {frame} is too large: expected at most {MAX_WINDOW_BYTES} bytes \
         (128 MiB), found {found}; compress again without --long, or with --long=27 at most"
    )]
    WindowTooLarge {
        /// Where the frame begins.
        frame: u64,
        /// The window in bytes.
        found: u64,
    },
    /// What is in a frame cannot be read.
    #[error("the {} frame at byte {frame} is damaged at byte {offset} or after: {reason}", codec.name())]
    Damaged {
        /// The codec.
        codec: Codec,
        /// Where the frame begins.
        frame: u64,
        /// Up to where it was sound.
        offset: u64,
        /// What is wrong.
        reason: &'static str,
    },
    /// A frame was read, and is not what it says that it is.
    #[error(
        "the {field} of the gzip member at byte {frame} is wrong at byte {offset}: expected {expected:#010x}, \
         found {found:#010x}"
    )]
    WrongSum {
        /// Where the member begins.
        frame: u64,
        /// Where the field is.
        offset: u64,
        /// The field.
        field: &'static str,
        /// What the content makes.
        expected: u32,
        /// What is written.
        found: u32,
    },
    /// The stream ends too early.
    #[error("the {} stream ends at byte {offset}, inside of {what}", codec.name())]
    Truncated {
        /// The codec.
        codec: Codec,
        /// Its length in bytes.
        offset: u64,
        /// What is not complete.
        what: &'static str,
    },
    /// There is no memory for the decoder.
    #[error("no memory to read the frame at byte {frame}")]
    NoMemory {
        /// Where the frame begins.
        frame: u64,
    },
    /// The end was told before everything was taken. The caller's error.
    #[error("the stream was not read to its end: {offset} bytes of it were used")]
    NotTaken {
        /// Up to where it was read.
        offset: u64,
    },
}

impl FrameError {
    /// A stable name in snake case for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NotAFrame { .. } => "compressed_not_a_frame",
            Self::TrailingGarbage { .. } => "compressed_trailing_garbage",
            Self::BadHeader { .. } => "compressed_bad_header",
            Self::WindowTooLarge { .. } => "compressed_window_too_large",
            Self::Damaged { .. } => "compressed_damaged",
            Self::WrongSum { .. } => "compressed_wrong_sum",
            Self::Truncated { .. } => "compressed_truncated",
            Self::NoMemory { .. } => "compressed_no_memory",
            Self::NotTaken { .. } => "compressed_not_taken",
        }
    }

    /// Where it is wrong, in bytes from the start of the compressed stream.
    pub fn offset(&self) -> u64 {
        match self {
            Self::NotAFrame { offset, .. }
            | Self::TrailingGarbage { offset, .. }
            | Self::Damaged { offset, .. }
            | Self::WrongSum { offset, .. }
            | Self::Truncated { offset, .. }
            | Self::NotTaken { offset } => *offset,
            Self::BadHeader { frame, .. } | Self::WindowTooLarge { frame, .. } | Self::NoMemory { frame } => {
                *frame
            }
        }
    }
}
