//! The bytes of an export on their way out: as they are, or compressed.

use std::collections::VecDeque;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use tokio_util::sync::CancellationToken;

use crate::disk::retry::RetryingReader;
use crate::image::budget::Share;
use crate::image::compress::{CompressedStream, FrameRange, compress};
use crate::image::compute::ComputePool;
use crate::image::produce::{ChunkStream, ProduceCounters, ProduceError, produce};

use super::frames::{FrameMismatch, Recorded};
use super::representation::Representation;

/// Most bytes of the table after the frames that are made at a time.
const TABLE_CHUNK: usize = 64 << 10;
/// Longest piece of a frame that is handed out: an HTTP connection copies what it is given.
const PIECE: usize = 1 << 20;

/// Why the bytes of an export end early.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// They could not be made.
    #[error(transparent)]
    Produce(#[from] ProduceError),
    /// They are not those that were sent before.
    #[error(transparent)]
    Frame(#[from] FrameMismatch),
}

impl SourceError {
    /// The stable word for it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Produce(error) => error.code(),
            Self::Frame(FrameMismatch::Changed { .. }) => "encoder_changed",
            Self::Frame(FrameMismatch::Index(error)) => error.code(),
        }
    }
}

/// A range of an export.
pub enum ExportStream {
    /// As it is.
    Plain(Box<ChunkStream>),
    /// In frames.
    Compressed(Box<FrameStream>),
}

/// What a stream needs besides the export itself.
pub struct Means {
    /// Ends the reads.
    pub stop: CancellationToken,
    /// Memory.
    pub share: Share,
    /// Who compresses.
    pub compute: Arc<ComputePool>,
    /// What is counted.
    pub counters: Arc<ProduceCounters>,
}

impl ExportStream {
    /// The bytes `range` of an export. One whose length is not known yet is streamed from its beginning to its end,
    /// whatever the range's end is.
    pub fn open(
        export: &Representation,
        recorded: Option<&Arc<Recorded>>,
        range: Range<u64>,
        means: Means,
    ) -> Self {
        match (recorded, export.shape.compression) {
            (Some(recorded), Some(_)) => {
                Self::Compressed(Box::new(FrameStream::open(export, recorded, range, means)))
            }
            _ => Self::Plain(Box::new(plain(export, range, means))),
        }
    }

    /// Gives back what was made ahead; see [`ChunkStream::give_back`].
    pub fn give_back(&mut self) -> usize {
        match self {
            Self::Plain(chunks) => chunks.give_back(),
            Self::Compressed(stream) => stream.frames.as_mut().map_or(0, CompressedStream::give_back),
        }
    }
}

fn plain(export: &Representation, range: Range<u64>, means: Means) -> ChunkStream {
    let disk = Arc::new(RetryingReader::new(Arc::clone(&export.disk), means.stop));
    produce(Arc::clone(&export.layout), disk, range, export.pools.clone(), means.share, means.counters)
}

/// The frames of an export.
pub(super) fn frames(export: &Representation, numbers: Range<u64>, means: Means) -> Option<CompressedStream> {
    let disk = Arc::new(RetryingReader::new(Arc::clone(&export.disk), means.stop));
    let range = FrameRange { compression: export.shape.compression?, frames: numbers };
    Some(compress(
        Arc::clone(&export.layout),
        disk,
        range,
        export.pools.clone(),
        &means.compute,
        means.share,
        means.counters,
    ))
}

impl Stream for ExportStream {
    type Item = Result<Bytes, SourceError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match self.get_mut() {
            Self::Plain(chunks) => {
                Pin::new(chunks).poll_next(cx).map(|next| next.map(|chunk| chunk.map_err(SourceError::from)))
            }
            Self::Compressed(stream) => stream.poll_bytes(cx),
        }
    }
}

/// A range of a compressed export: the frames that hold it, trimmed, and its part of the table after them.
pub struct FrameStream {
    recorded: Arc<Recorded>,
    frames: Option<CompressedStream>,
    /// Bytes of the next frame that lie before the range.
    skip: usize,
    /// Bytes that are still wanted.
    left: u64,
    /// Next byte of the table.
    table_at: u64,
    ready: VecDeque<Bytes>,
}

impl FrameStream {
    fn open(export: &Representation, recorded: &Arc<Recorded>, range: Range<u64>, means: Means) -> Self {
        let (numbers, skip, left) = match recorded.len() {
            None => (0..recorded.windows(), 0, u64::MAX),
            Some(len) => {
                let end = range.end.min(len);
                let left = end.saturating_sub(range.start);
                match recorded.locate(range.start) {
                    Some(first) if left > 0 => {
                        let last = recorded.locate(end - 1).map_or(recorded.windows(), |last| last.frame + 1);
                        (first.frame..last, first.within as usize, left)
                    }
                    _ => (0..0, 0, left),
                }
            }
        };
        let table_at = recorded.len().map_or(0, |_| range.start.saturating_sub(recorded.bytes()));
        let frames = if numbers.is_empty() { None } else { frames(export, numbers, means) };
        Self { recorded: Arc::clone(recorded), frames, skip, left, table_at, ready: VecDeque::new() }
    }

    fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, SourceError>>> {
        loop {
            if let Some(piece) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(piece)));
            }
            if self.left == 0 {
                return Poll::Ready(None);
            }
            let Some(frames) = &mut self.frames else { return Poll::Ready(self.table().transpose()) };
            match std::task::ready!(Pin::new(frames).poll_next(cx)) {
                None => self.frames = None,
                Some(Err(error)) => {
                    self.left = 0;
                    return Poll::Ready(Some(Err(error.into())));
                }
                Some(Ok(frame)) => {
                    if let Err(error) = self.recorded.record(frame.number, frame.entry) {
                        self.left = 0;
                        return Poll::Ready(Some(Err(error.into())));
                    }
                    let mut bytes = frame.bytes;
                    drop(bytes.split_to(std::mem::take(&mut self.skip).min(bytes.len())));
                    bytes.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
                    if self.left != u64::MAX {
                        self.left -= bytes.len() as u64;
                    }
                    while !bytes.is_empty() {
                        self.ready.push_back(bytes.split_to(PIECE.min(bytes.len())));
                    }
                }
            }
        }
    }

    fn table(&mut self) -> Result<Option<Bytes>, SourceError> {
        let limit = usize::try_from(self.left).unwrap_or(TABLE_CHUNK).min(TABLE_CHUNK);
        let part = self.recorded.table_part(self.table_at, limit)?;
        if part.is_empty() {
            self.left = 0;
            return Ok(None);
        }
        self.table_at += part.len() as u64;
        if self.left != u64::MAX {
            self.left -= part.len() as u64;
        }
        Ok(Some(part.into()))
    }
}
