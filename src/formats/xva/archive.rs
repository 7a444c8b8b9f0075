//! Archives as they come: plain, in gzip members or in zstd frames, found out by their first bytes.

use bytes::Bytes;

use super::{Rule, XvaDecoder, XvaError, XvaEvent, XvaLimits, XvaSeen, XvaSummary};
use crate::formats::frames::{Decompressor, FrameError, Next, SNIFF_BYTES, Sniffed, sniff};

/// As many of its first bytes are told of what is no archive.
const QUOTED_BYTES: usize = 16;

/// Why an archive is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ArchiveError {
    /// What is in it.
    #[error(transparent)]
    Xva(#[from] XvaError),
    /// Its compression.
    #[error(transparent)]
    Frames(#[from] FrameError),
    /// It is no archive at all.
    #[error(
        "this is no XVA: byte 0 begins neither a tar header of ova.xml nor a gzip member nor a zstd frame, but {found}"
    )]
    Unknown {
        /// Its first bytes, as hexadecimal digits.
        found: String,
    },
}

impl ArchiveError {
    /// A stable name in snake case for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Xva(error) => error.code(),
            Self::Frames(error) => error.code(),
            Self::Unknown { .. } => "xva_unknown_format",
        }
    }

    /// Where it is wrong: in bytes of the uncompressed archive, or, for its compression, of what was read.
    pub fn offset(&self) -> u64 {
        match self {
            Self::Xva(error) => error.offset(),
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
    /// The first bytes, while there are too few to tell; then the first bytes of what they unpack to.
    first: Vec<u8>,
    decompressor: Option<Decompressor>,
    compression: Sniffed,
    decoder: XvaDecoder,
}

impl ArchiveDecoder {
    /// A decoder that refuses archives which demand more than `limits`.
    pub fn new(limits: XvaLimits) -> Self {
        Self {
            first: Vec::new(),
            decompressor: None,
            compression: Sniffed::Plain,
            decoder: XvaDecoder::new(limits),
        }
    }

    /// How it is compressed, as soon as that is known.
    pub fn compression(&self) -> Option<Sniffed> {
        self.decompressor.as_ref().map(|_| self.compression)
    }

    /// Adds bytes to the input. Best done when more is needed: only then nothing is copied.
    pub fn push(&mut self, input: Bytes) {
        if let Some(decompressor) = &mut self.decompressor {
            return decompressor.push(input);
        }
        self.first.extend_from_slice(&input);
        if self.first.len() >= SNIFF_BYTES {
            self.begin();
        }
    }

    fn begin(&mut self) -> &mut Decompressor {
        let first = std::mem::take(&mut self.first);
        self.compression = sniff(&first).unwrap_or(Sniffed::Plain);
        let decompressor = self.decompressor.insert(Decompressor::new(self.compression));
        decompressor.push(first.into());
        decompressor
    }

    /// Number of bytes of the input that were used so far.
    pub fn position(&self) -> u64 {
        self.decompressor.as_ref().map_or(0, Decompressor::position)
    }

    /// Number of bytes of the uncompressed archive that were used so far.
    pub fn plain_position(&self) -> u64 {
        self.decoder.position()
    }

    /// Number of frames or members that were read to their end; 0 of what is not compressed.
    pub fn frames(&self) -> u64 {
        self.decompressor.as_ref().map_or(0, Decompressor::frames)
    }

    /// What was seen up to now.
    pub fn seen(&self) -> XvaSeen {
        self.decoder.seen()
    }

    /// Lets the decompressor take the memory of the window that it has asked for.
    pub fn grant_window(&mut self) {
        if let Some(decompressor) = &mut self.decompressor {
            decompressor.grant_window();
        }
    }

    /// What is next.
    ///
    /// # Errors
    /// Why the archive is refused.
    pub fn next(&mut self) -> Result<ArchiveNext, ArchiveError> {
        loop {
            match self.decoder.next_event() {
                Ok(Some(event)) => return Ok(ArchiveNext::Event(event)),
                Ok(None) => {}
                Err(error) => return Err(self.refusal(error)),
            }
            let Some(decompressor) = &mut self.decompressor else { return Ok(ArchiveNext::NeedsInput) };
            match decompressor.next_chunk()? {
                Next::Chunk(chunk) => {
                    let missing = QUOTED_BYTES.saturating_sub(self.first.len());
                    self.first.extend(chunk.iter().take(missing));
                    self.decoder.push(chunk);
                }
                Next::NeedsInput => return Ok(ArchiveNext::NeedsInput),
                Next::NeedsWindow(bytes) => return Ok(ArchiveNext::NeedsWindow(bytes)),
            }
        }
    }

    /// What does not even begin as a tar header is told as what it is: something else.
    fn refusal(&self, error: XvaError) -> ArchiveError {
        let no_header = matches!(&error, XvaError::Member { rule: Rule::T2, offset, .. } if *offset < 512);
        if no_header && self.compression == Sniffed::Plain {
            let found = self.first.iter().map(|byte| format!("{byte:02x}")).collect();
            return ArchiveError::Unknown { found };
        }
        error.into()
    }

    /// The end of the input. To be called when more input is needed.
    ///
    /// # Errors
    /// The archive is not whole, or was refused before.
    pub fn finish(mut self) -> Result<XvaSummary, ArchiveError> {
        if self.decompressor.is_none() {
            self.begin();
            self.next()?;
        }
        if let Some(decompressor) = self.decompressor.take() {
            decompressor.finish()?;
        }
        Ok(self.decoder.finish()?)
    }
}
