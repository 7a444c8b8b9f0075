//! Makes frames, one at a time.

use flate2::{Compress, Crc, FlushCompress, Status};
use zstd_safe::{CCtx, CParameter, ResetDirective};

use super::{Codec, Compression};

/// A member's head: deflate, no flags, no time, no hint at the level, unknown system.
const GZIP_HEAD: [u8; 10] = [0x1F, 0x8B, 8, 0, 0, 0, 0, 0, 0, 255];
const GZIP_TAIL_BYTES: usize = 8;

/// Why a frame could not be made. None of these is the content's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// There is no memory for the encoder.
    #[error("no memory for a {} encoder", codec.name())]
    NoMemory {
        /// The codec.
        codec: Codec,
    },
    /// The library refuses.
    #[error("the {} encoder failed: {reason}", codec.name())]
    Library {
        /// The codec.
        codec: Codec,
        /// What it says.
        reason: String,
    },
}

impl EncodeError {
    /// A stable name in snake case for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::NoMemory { .. } => "compression_no_memory",
            Self::Library { .. } => "compression_failed",
        }
    }
}

/// Makes frames. What it makes of a window does not depend on what it has made before.
pub struct FrameEncoder {
    compression: Compression,
    context: Context,
}

enum Context {
    Gzip(Box<Compress>),
    Zstd(CCtx<'static>),
}

impl std::fmt::Debug for FrameEncoder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FrameEncoder").field("compression", &self.compression).finish_non_exhaustive()
    }
}

impl FrameEncoder {
    /// An encoder. It takes its memory with its first frame and keeps it.
    ///
    /// # Errors
    /// When there is no memory.
    pub fn new(compression: Compression) -> Result<Self, EncodeError> {
        let context = match compression.codec() {
            Codec::Gzip => {
                let level = flate2::Compression::new(compression.level().unsigned_abs());
                Context::Gzip(Box::new(Compress::new(level, false)))
            }
            Codec::Zstd => Context::Zstd(zstd_context(compression.level())?),
        };
        Ok(Self { compression, context })
    }

    /// How it compresses.
    pub fn compression(&self) -> Compression {
        self.compression
    }

    /// Makes one frame of `window`, in place of what is in `out`: a zstd frame with content size and checksum, or a
    /// gzip member without name and time. `out` grows to [`Self::bound`] at most.
    ///
    /// # Errors
    /// When there is no memory, or the library fails. Then `out` holds nothing of use.
    pub fn compress(&mut self, window: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
        out.clear();
        out.try_reserve_exact(Self::bound(self.compression.codec(), window.len()))
            .map_err(|_| EncodeError::NoMemory { codec: self.compression.codec() })?;
        match &mut self.context {
            Context::Gzip(context) => gzip_member(context, window, out),
            Context::Zstd(context) => {
                context.reset(ResetDirective::SessionOnly).map_err(zstd_error)?;
                context.compress2(out, window).map_err(zstd_error)?;
                Ok(())
            }
        }
    }

    /// The most bytes that a frame of `window_bytes` can have.
    pub fn bound(codec: Codec, window_bytes: usize) -> usize {
        match codec {
            // The quickest level spends up to nine bits on a byte; stored blocks take 5 bytes for 16 KiB.
            Codec::Gzip => window_bytes + window_bytes / 8 + 1024 + GZIP_HEAD.len() + GZIP_TAIL_BYTES,
            Codec::Zstd => zstd_safe::compress_bound(window_bytes),
        }
    }

    /// Memory in bytes that the library holds, where it can tell.
    #[cfg(test)]
    pub(super) fn context_bytes(&self) -> Option<usize> {
        match &self.context {
            Context::Gzip(_) => None,
            Context::Zstd(context) => Some(context.sizeof()),
        }
    }
}

fn zstd_context(level: i32) -> Result<CCtx<'static>, EncodeError> {
    let mut context = CCtx::try_create().ok_or(EncodeError::NoMemory { codec: Codec::Zstd })?;
    let parameters = [
        CParameter::CompressionLevel(level),
        CParameter::ContentSizeFlag(true),
        CParameter::ChecksumFlag(true),
        CParameter::DictIdFlag(false),
    ];
    for parameter in parameters {
        context.set_parameter(parameter).map_err(zstd_error)?;
    }
    Ok(context)
}

fn zstd_error(code: zstd_safe::ErrorCode) -> EncodeError {
    let reason = zstd_safe::get_error_name(code);
    match reason {
        "Allocation error : not enough memory" => EncodeError::NoMemory { codec: Codec::Zstd },
        reason => EncodeError::Library { codec: Codec::Zstd, reason: reason.to_owned() },
    }
}

fn gzip_member(context: &mut Compress, window: &[u8], out: &mut Vec<u8>) -> Result<(), EncodeError> {
    let failed = |reason: String| EncodeError::Library { codec: Codec::Gzip, reason };
    context.reset();
    out.extend(GZIP_HEAD);
    let status = context
        .compress_vec(window, out, FlushCompress::Finish)
        .map_err(|error| failed(error.to_string()))?;
    if status != Status::StreamEnd {
        return Err(failed(format!("a window of {} bytes does not fit its bound", window.len())));
    }
    let mut crc = Crc::new();
    crc.update(window);
    out.extend(crc.sum().to_le_bytes());
    // The length modulo 2^32, as the format has it.
    out.extend((window.len() as u32).to_le_bytes());
    Ok(())
}
