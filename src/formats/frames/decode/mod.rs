//! Reads compressed streams of any origin, without IO: bytes go in as they come, plain bytes come out in chunks of
//! bounded length, one at a time. So a stream that would unpack to much more than it has costs nothing before it is
//! asked for.

mod error;
mod gzip;
mod zstd;

pub use error::FrameError;

use bytes::{Buf as _, Bytes};

use gzip::GzipReader;
use zstd::ZstdReader;

/// Longest chunk that a decompressor gives, in bytes.
pub const MAX_CHUNK_BYTES: usize = 256 << 10;
/// Largest window in bytes that a decompressor takes memory for without asking, unless told otherwise.
pub const FREE_WINDOW_BYTES: u64 = 64 << 20;
/// Largest window in bytes that is read at all: that of the `zstd` command.
pub const MAX_WINDOW_BYTES: u64 = 1 << 27;
/// Number of a stream's first bytes that always tell how it is compressed.
pub const SNIFF_BYTES: usize = 4;

const ZSTD_MAGIC: [u8; 4] = [0x28, 0xB5, 0x2F, 0xFD];
const GZIP_MAGIC: [u8; 2] = [0x1F, 0x8B];

/// How a stream is compressed, by its first bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sniffed {
    /// Not at all, as far as one can see.
    Plain,
    /// In gzip members.
    Gzip,
    /// In zstd frames.
    Zstd,
}

/// How the stream that begins with these bytes is compressed. `None`: more of them are needed to tell, up to
/// [`SNIFF_BYTES`]; a stream that ends there is plain.
pub fn sniff(first: &[u8]) -> Option<Sniffed> {
    if first.starts_with(&ZSTD_MAGIC) {
        Some(Sniffed::Zstd)
    } else if first.starts_with(&GZIP_MAGIC) {
        Some(Sniffed::Gzip)
    } else if ZSTD_MAGIC.starts_with(first) || GZIP_MAGIC.starts_with(first) {
        None
    } else {
        Some(Sniffed::Plain)
    }
}

/// What a decompressor has next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Next {
    /// Plain bytes, at least one and at most [`MAX_CHUNK_BYTES`].
    Chunk(Bytes),
    /// Nothing before more is pushed; or the end, when there is no more.
    NeedsInput,
    /// The next frame needs a window of so many bytes. Its memory is taken after
    /// [`Decompressor::grant_window`].
    NeedsWindow(u64),
}

/// Reads a compressed stream. Push bytes as they come, take chunks until more input is needed, push more; at the end of
/// the input call [`finish`](Self::finish).
#[derive(Debug)]
pub struct Decompressor {
    reader: Reader,
    input: Input,
    /// As long as a chunk; empty while none is made.
    out: Vec<u8>,
    filled: usize,
    refused: Option<FrameError>,
}

#[derive(Debug)]
enum Reader {
    Plain,
    Gzip(Box<GzipReader>),
    Zstd(Box<ZstdReader>),
}

/// Bytes of the stream that were not used yet.
#[derive(Debug)]
struct Input {
    bytes: Bytes,
    /// Where they begin in the stream.
    position: u64,
}

impl Input {
    fn advance(&mut self, used: usize) {
        let used = used.min(self.bytes.len());
        self.bytes.advance(used);
        self.position += used as u64;
    }
}

/// What one step of a reader led to.
enum Step {
    /// So many bytes were written, maybe none; there is more to do.
    Wrote(usize),
    /// More input is needed.
    NeedsInput,
    /// The next frame needs a window that was not granted.
    NeedsWindow(u64),
}

impl Decompressor {
    /// A decompressor of a stream that is compressed like that. It asks before it takes a window of more than
    /// [`FREE_WINDOW_BYTES`].
    pub fn new(sniffed: Sniffed) -> Self {
        Self::with_free_window(sniffed, FREE_WINDOW_BYTES)
    }

    /// As [`Self::new`], but it asks before it takes a window of more than `free_window_bytes`.
    pub fn with_free_window(sniffed: Sniffed, free_window_bytes: u64) -> Self {
        let reader = match sniffed {
            Sniffed::Plain => Reader::Plain,
            Sniffed::Gzip => Reader::Gzip(Box::new(GzipReader::new())),
            Sniffed::Zstd => Reader::Zstd(Box::new(ZstdReader::new(free_window_bytes))),
        };
        let input = Input { bytes: Bytes::new(), position: 0 };
        Self { reader, input, out: Vec::new(), filled: 0, refused: None }
    }

    /// Adds bytes to the input. Best done when [`next_chunk`](Self::next_chunk) needs input: only then nothing is
    /// copied.
    pub fn push(&mut self, input: Bytes) {
        self.input.bytes = match self.input.bytes.is_empty() {
            true => input,
            false => [self.input.bytes.as_ref(), input.as_ref()].concat().into(),
        };
    }

    /// Number of compressed bytes that were used so far.
    pub fn position(&self) -> u64 {
        self.input.position
    }

    /// Number of frames or members that were read to their end, skippable frames left out; 0 of a plain stream.
    pub fn frames(&self) -> u64 {
        match &self.reader {
            Reader::Plain => 0,
            Reader::Gzip(reader) => reader.members(),
            Reader::Zstd(reader) => reader.frames(),
        }
    }

    /// The largest window in bytes of the frames so far, the present one included: memory that the decoder has taken,
    /// or will take when it is granted. A few hundred KiB come on top.
    pub fn window_bytes(&self) -> u64 {
        match &self.reader {
            Reader::Plain => 0,
            Reader::Gzip(_) => gzip::WINDOW_BYTES,
            Reader::Zstd(reader) => reader.window_bytes(),
        }
    }

    /// Lets the decoder take the memory of the window that [`Next::NeedsWindow`] has named, and of any that is not
    /// larger.
    pub fn grant_window(&mut self) {
        if let Reader::Zstd(reader) = &mut self.reader {
            reader.grant_window();
        }
    }

    /// The next plain bytes.
    ///
    /// # Errors
    /// Why the stream is refused; the same again when called again. What lies before the block that is wrong was given
    /// out, and maybe a part of what was in it: what has come of a stream is good only after [`finish`](Self::finish).
    pub fn next_chunk(&mut self) -> Result<Next, FrameError> {
        if let Some(error) = &self.refused {
            return Err(error.clone());
        }
        if matches!(self.reader, Reader::Plain) {
            return Ok(self.next_plain());
        }
        loop {
            let outcome = if self.filled < MAX_CHUNK_BYTES { self.step() } else { Ok(Step::NeedsInput) };
            let next = match outcome {
                Ok(Step::Wrote(bytes)) => {
                    self.filled += bytes;
                    continue;
                }
                Ok(Step::NeedsInput) => Ok(Next::NeedsInput),
                Ok(Step::NeedsWindow(bytes)) => Ok(Next::NeedsWindow(bytes)),
                Err(error) => {
                    self.refused = Some(error.clone());
                    Err(error)
                }
            };
            return if self.filled > 0 { Ok(Next::Chunk(self.take_chunk())) } else { next };
        }
    }

    fn step(&mut self) -> Result<Step, FrameError> {
        if self.out.is_empty() {
            self.out = vec![0; MAX_CHUNK_BYTES];
        }
        let room = self.out.get_mut(self.filled..).unwrap_or_default();
        match &mut self.reader {
            Reader::Plain => Ok(Step::NeedsInput),
            Reader::Gzip(reader) => reader.step(&mut self.input, room),
            Reader::Zstd(reader) => reader.step(&mut self.input, room),
        }
    }

    fn next_plain(&mut self) -> Next {
        let chunk = self.input.bytes.slice(..self.input.bytes.len().min(MAX_CHUNK_BYTES));
        self.input.advance(chunk.len());
        if chunk.is_empty() { Next::NeedsInput } else { Next::Chunk(chunk) }
    }

    /// What was made. The buffer goes with it when it is well filled.
    fn take_chunk(&mut self) -> Bytes {
        let filled = std::mem::take(&mut self.filled);
        match filled < MAX_CHUNK_BYTES / 2 {
            true => Bytes::copy_from_slice(self.out.get(..filled).unwrap_or_default()),
            false => Bytes::from(std::mem::take(&mut self.out)).slice(..filled),
        }
    }

    /// The end of the input. To be called when [`next_chunk`](Self::next_chunk) needs input.
    ///
    /// # Errors
    /// The stream is not whole, was refused before, or not everything was taken.
    pub fn finish(mut self) -> Result<(), FrameError> {
        match self.next_chunk()? {
            Next::NeedsInput => {}
            Next::Chunk(_) | Next::NeedsWindow(_) => {
                return Err(FrameError::NotTaken { offset: self.position() });
            }
        }
        match &self.reader {
            Reader::Plain => Ok(()),
            Reader::Gzip(reader) => reader.finish(self.input.position),
            Reader::Zstd(reader) => reader.finish(self.input.position),
        }
    }
}
