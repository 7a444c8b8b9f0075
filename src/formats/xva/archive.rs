//! Archives as they come: plain, in gzip members or in zstd frames, found out by their first bytes.

use bytes::Bytes;

use super::{Quoted, XvaDecoder, XvaError, XvaEvent, XvaLimits, XvaSeen, XvaSummary, looks_like_tar};
use crate::formats::frames::{Codec, Decompressor, FrameError, Next, SNIFF_BYTES, Sniffed, sniff};

/// Length of a tar header.
const TAR_HEADER_BYTES: usize = 512;

/// Why an archive is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    /// What is in it.
    #[error(transparent)]
    Xva(#[from] XvaError),
    /// What is in it once it was decompressed.
    #[error(
        "{fault} (in the decompressed archive; if its maker meant something else, the {} stream is damaged before its \
         byte {position})",
        codec.name()
    )]
    Decompressed {
        /// What is wrong.
        fault: XvaError,
        /// How it was compressed.
        codec: Codec,
        /// Up to which byte it had been read.
        position: u64,
    },
    /// Its compression.
    #[error(transparent)]
    Frames(#[from] FrameError),
    /// It is no archive at all.
    #[error(
        "this is no XVA: at byte 0 there is neither the tar header of an ova.xml nor a gzip member nor a zstd frame, \
         but {found}"
    )]
    Unknown {
        /// Its first bytes.
        found: Quoted,
    },
}

impl ArchiveError {
    /// A stable name in snake case for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Xva(error) | Self::Decompressed { fault: error, .. } => error.code(),
            Self::Frames(error) => error.code(),
            Self::Unknown { .. } => "xva_unknown_format",
        }
    }

    /// Where it is wrong: in bytes of the uncompressed archive, or, for its compression, of what was read.
    pub fn offset(&self) -> u64 {
        match self {
            Self::Xva(error) | Self::Decompressed { fault: error, .. } => error.offset(),
            Self::Frames(error) => error.offset(),
            Self::Unknown { .. } => 0,
        }
    }
}

/// What an archive has next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArchiveNext {
    /// An event.
    Event(XvaEvent),
    /// Nothing before more is pushed; or the end, when there is no more.
    NeedsInput,
    /// The decompressor needs a window of so many bytes, and takes its memory after
    /// [`ArchiveDecoder::grant_window`].
    NeedsWindow(u64),
}

/// Reads an archive in any compression. Push bytes as they come, take what is next until more input is needed, push more;
/// at the end of the input call [`finish`](Self::finish).
#[derive(Debug)]
pub struct ArchiveDecoder {
    /// The first bytes, while there are too few to tell how it is compressed.
    first: Vec<u8>,
    stream: Option<(Sniffed, Decompressor)>,
    /// The first bytes of what is not compressed, up to a tar header's length.
    head: Vec<u8>,
    decoder: XvaDecoder,
    free_window_bytes: u64,
}

impl ArchiveDecoder {
    /// A decoder that refuses archives which demand more than `limits`, and asks before it takes a window of more than
    /// `free_window_bytes`.
    pub fn new(limits: XvaLimits, free_window_bytes: u64) -> Self {
        let decoder = XvaDecoder::new(limits);
        Self { first: Vec::new(), stream: None, head: Vec::new(), decoder, free_window_bytes }
    }

    /// How it is compressed, as soon as that is known.
    pub fn compression(&self) -> Option<Sniffed> {
        self.stream.as_ref().map(|(compression, _)| *compression)
    }

    /// Adds bytes to the input. Best done when more is needed: only then nothing is copied.
    pub fn push(&mut self, input: Bytes) {
        if let Some((_, decompressor)) = &mut self.stream {
            return decompressor.push(input);
        }
        self.first.extend_from_slice(&input);
        if self.first.len() >= SNIFF_BYTES {
            self.begin();
        }
    }

    fn begin(&mut self) {
        let first = std::mem::take(&mut self.first);
        let compression = sniff(&first).unwrap_or(Sniffed::Plain);
        let mut decompressor = Decompressor::with_free_window(compression, self.free_window_bytes);
        decompressor.push(first.into());
        self.stream = Some((compression, decompressor));
    }

    /// Number of bytes of the input that were used so far.
    pub fn position(&self) -> u64 {
        self.stream.as_ref().map_or(0, |(_, decompressor)| decompressor.position())
    }

    /// Number of bytes of the uncompressed archive that were used so far.
    pub fn plain_position(&self) -> u64 {
        self.decoder.position()
    }

    /// Number of frames or members that were read to their end; 0 of what is not compressed.
    pub fn frames(&self) -> u64 {
        self.stream.as_ref().map_or(0, |(_, decompressor)| decompressor.frames())
    }

    /// What was seen up to now.
    pub fn seen(&self) -> XvaSeen {
        self.decoder.seen()
    }

    /// Lets the decompressor take the memory of the window that it has asked for.
    pub fn grant_window(&mut self) {
        if let Some((_, decompressor)) = &mut self.stream {
            decompressor.grant_window();
        }
    }

    /// What is next.
    ///
    /// # Errors
    /// Why the archive is refused.
    pub fn advance(&mut self) -> Result<ArchiveNext, ArchiveError> {
        loop {
            match self.decoder.next_event() {
                Ok(Some(event)) => return Ok(ArchiveNext::Event(event)),
                Ok(None) => {}
                Err(error) => return Err(self.refusal(error)),
            }
            let Some((_, decompressor)) = &mut self.stream else { return Ok(ArchiveNext::NeedsInput) };
            match decompressor.next_chunk()? {
                Next::Chunk(chunk) => {
                    let missing = TAR_HEADER_BYTES.saturating_sub(self.head.len());
                    self.head.extend(chunk.iter().take(missing));
                    self.decoder.push(chunk);
                }
                Next::NeedsInput => return Ok(ArchiveNext::NeedsInput),
                Next::NeedsWindow(bytes) => return Ok(ArchiveNext::NeedsWindow(bytes)),
            }
        }
    }

    /// What does not even begin as a tar header is told as what it is: something else.
    fn refusal(&self, fault: XvaError) -> ArchiveError {
        let codec = match self.compression() {
            Some(Sniffed::Gzip) => Codec::Gzip,
            Some(Sniffed::Zstd) => Codec::Zstd,
            Some(Sniffed::Plain) | None => {
                if !looks_like_tar(&self.head) && !self.head.starts_with(b"ova.xml\0") {
                    let found = Quoted::new(self.head.get(..32).unwrap_or(&self.head));
                    return ArchiveError::Unknown { found };
                }
                return fault.into();
            }
        };
        ArchiveError::Decompressed { fault, codec, position: self.position() }
    }

    /// The end of the input. To be called when more input is needed.
    ///
    /// # Errors
    /// The archive is not whole, or was refused before.
    pub fn finish(mut self) -> Result<XvaSummary, ArchiveError> {
        if self.stream.is_none() {
            self.begin();
            self.advance()?;
        }
        let decoder = std::mem::replace(&mut self.decoder, XvaDecoder::new(XvaLimits { largest_disk: 0 }));
        let whole = decoder.finish().map_err(|error| self.refusal(error));
        // Of a stream that is cut, that is what is told.
        if let Some((_, decompressor)) = self.stream {
            decompressor.finish()?;
        }
        whole
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(bytes: &'static [u8]) -> ArchiveError {
        let mut decoder = ArchiveDecoder::new(XvaLimits { largest_disk: 1 << 40 }, 1 << 20);
        decoder.push(Bytes::from_static(bytes));
        match decoder.advance() {
            Err(error) => error,
            Ok(ArchiveNext::NeedsInput) => decoder.finish().unwrap_err(),
            Ok(next) => panic!("{next:?}"),
        }
    }

    #[test]
    fn what_is_something_else_is_told_so_and_what_is_only_cut_is_told_that() {
        for other in [b"".as_slice(), b"abc", b"conectix and more", &[0x28, 0xB5], &[7; 600]] {
            assert_eq!(refused(other).code(), "xva_unknown_format", "{other:?}");
        }
        assert_eq!(refused(b"ova.xml\0\0\0").code(), "xva_truncated");
        assert_eq!(refused(&[0x1F, 0x8B, 8, 0, 1]).code(), "compressed_truncated");
    }
}
