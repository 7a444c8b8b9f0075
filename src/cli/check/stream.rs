//! A file that is read from its beginning to its end, and what is in it when it is compressed.

use bytes::Bytes;

use super::report::{CompressionFacts, Note};
use super::source::{CheckError, Source};
use crate::formats::frames::{Decompressor, FrameError, MAX_WINDOW_BYTES, Next, Sniffed};

/// Bytes that are read at once.
const READ_BYTES: u64 = 256 << 10;

const SKIPPABLE_MAGIC: u32 = 0x184D_2A5E;
const SEEKABLE_MAGIC: u32 = 0x8F92_EAB1;
const TABLE_HEAD_BYTES: u64 = 8;
const TABLE_FOOTER_BYTES: u64 = 9;

/// Reads a file, piece by piece.
#[derive(Debug)]
pub(super) struct Pieces<'a> {
    source: &'a Source,
    position: u64,
}

impl<'a> Pieces<'a> {
    pub(super) fn of(source: &'a Source) -> Self {
        Self { source, position: 0 }
    }

    /// The next piece; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, CheckError> {
        let left = self.source.len.saturating_sub(self.position).min(READ_BYTES);
        if left == 0 {
            return Ok(None);
        }
        let mut piece = vec![0; usize::try_from(left).unwrap_or(0)];
        self.source.read(self.position, &mut piece)?;
        self.position += left;
        Ok(Some(piece.into()))
    }
}

/// Why a compressed file cannot be read on.
#[derive(Debug)]
pub(super) enum Halt {
    Frames(FrameError),
    File(CheckError),
}

impl From<CheckError> for Halt {
    fn from(error: CheckError) -> Self {
        Self::File(error)
    }
}

/// Reads what is in a compressed file.
#[derive(Debug)]
pub(super) struct Unpacked<'a> {
    pieces: Pieces<'a>,
    decompressor: Decompressor,
    /// Bytes that were given out.
    pub(super) position: u64,
    is_at_end: bool,
}

impl<'a> Unpacked<'a> {
    pub(super) fn of(source: &'a Source, sniffed: Sniffed) -> Self {
        let (pieces, decompressor) =
            (Pieces::of(source), Decompressor::with_free_window(sniffed, MAX_WINDOW_BYTES));
        Self { pieces, decompressor, position: 0, is_at_end: false }
    }

    /// The next bytes; `None` at the end of a whole stream.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, Halt> {
        loop {
            match self.decompressor.next_chunk().map_err(|error| self.halt(error))? {
                Next::Chunk(chunk) => {
                    self.position += chunk.len() as u64;
                    return Ok(Some(chunk));
                }
                Next::NeedsWindow(_) => self.decompressor.grant_window(),
                Next::NeedsInput if self.is_at_end => return Ok(None),
                Next::NeedsInput => match self.pieces.next()? {
                    Some(piece) => self.decompressor.push(piece),
                    None => self.is_at_end = true,
                },
            }
        }
    }

    fn halt(&self, error: FrameError) -> Halt {
        match check_memory(self.pieces.source, &error) {
            Err(error) => Halt::File(error),
            Ok(()) => Halt::Frames(error),
        }
    }

    /// Bytes of the file that were used.
    pub(super) fn file_position(&self) -> u64 {
        self.decompressor.position()
    }

    /// Frames that were read to their end.
    pub(super) fn frames(&self) -> u64 {
        self.decompressor.frames()
    }

    /// Whether the file may end here.
    pub(super) fn finish(self) -> Result<(), FrameError> {
        self.decompressor.finish()
    }
}

/// That there was no memory is nobody's damage.
pub(super) fn check_memory(source: &Source, error: &FrameError) -> Result<(), CheckError> {
    match error {
        FrameError::NoMemory { .. } => Err(CheckError::Io {
            file: source.path.display().to_string(),
            source: std::io::Error::new(std::io::ErrorKind::OutOfMemory, error.to_string()),
        }),
        _ => Ok(()),
    }
}

/// What is to be said of a file's compression. Of a file that was read to its end, what its seek table says is compared
/// with what was found: `plain_length` is then known.
pub(super) fn compression(
    source: &Source,
    sniffed: Sniffed,
    frames: u64,
    plain_length: Option<u64>,
    notes: &mut Vec<Note>,
) -> Result<Option<CompressionFacts>, CheckError> {
    let codec = match sniffed {
        Sniffed::Plain => return Ok(None),
        Sniffed::Gzip => "gzip",
        Sniffed::Zstd => "zstd",
    };
    let table = if sniffed == Sniffed::Zstd { SeekTable::read(source)? } else { None };
    let mut seekable = if table.is_some() { None } else { Some(false) };
    if let (Some(table), Some(plain)) = (table, plain_length) {
        let found = SeekTable { frames, compressed: table.start, plain, ..table };
        seekable = Some(found == table);
        if found != table {
            notes.push(Note {
                code: "zstd_seek_table_wrong",
                offset: table.start,
                message: format!(
                    "the seek table at byte {} says {} frames of {} bytes, {} uncompressed, but there are {frames} of {} \
                     bytes, {plain} uncompressed: who reads from the beginning does not look at it",
                    table.start, table.frames, table.compressed, table.plain, table.start
                ),
            });
        }
    }
    Ok(Some(CompressionFacts { codec, frames, seekable, plain_length }))
}

/// What the table at the end of a seekable zstd file says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct SeekTable {
    /// Where it begins.
    start: u64,
    frames: u64,
    /// Bytes of all frames.
    compressed: u64,
    /// Bytes that they unpack to.
    plain: u64,
}

impl SeekTable {
    /// The table of a file; `None` when it has none.
    fn read(source: &Source) -> Result<Option<Self>, CheckError> {
        let mut footer = [0; TABLE_FOOTER_BYTES as usize];
        let Some(at) = source.len.checked_sub(TABLE_FOOTER_BYTES) else { return Ok(None) };
        source.read(at, &mut footer)?;
        let [a, b, c, d, descriptor, magic @ ..] = footer;
        // Bits 2 to 6 are reserved.
        if u32::from_le_bytes(magic) != SEEKABLE_MAGIC || descriptor & 0x7C != 0 {
            return Ok(None);
        }
        let frames = u64::from(u32::from_le_bytes([a, b, c, d]));
        let entry = if descriptor & 0x80 == 0 { 8 } else { 12 };
        let body = frames * entry + TABLE_FOOTER_BYTES;
        let Some(start) = source.len.checked_sub(TABLE_HEAD_BYTES + body) else { return Ok(None) };
        let mut head = [0; TABLE_HEAD_BYTES as usize];
        source.read(start, &mut head)?;
        let [a, b, c, d, length @ ..] = head;
        if u32::from_le_bytes([a, b, c, d]) != SKIPPABLE_MAGIC
            || u64::from(u32::from_le_bytes(length)) != body
        {
            return Ok(None);
        }
        let mut table = Self { start, frames, compressed: 0, plain: 0 };
        let mut left = frames;
        let mut at = start + TABLE_HEAD_BYTES;
        while left > 0 {
            let count = left.min(READ_BYTES / entry);
            let mut entries = vec![0; usize::try_from(count * entry).unwrap_or(0)];
            source.read(at, &mut entries)?;
            for entry in entries.chunks(usize::try_from(entry).unwrap_or(8)) {
                if let Some(&[a, b, c, d, e, f, g, h]) = entry.first_chunk() {
                    table.compressed += u64::from(u32::from_le_bytes([a, b, c, d]));
                    table.plain += u64::from(u32::from_le_bytes([e, f, g, h]));
                }
            }
            at += count * entry;
            left -= count;
        }
        Ok(Some(table))
    }
}
