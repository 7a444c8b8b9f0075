//! Makes any range of an image: reads ahead within the transfer's share, in order, and only when asked.

use std::ops::Range;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesOrdered, Stream};
use futures_util::{FutureExt as _, StreamExt as _, future};

use super::Layout;
use super::budget::{ChunkBuffer, MAX_CHUNK_BYTES, Share};
use crate::disk::DiskReader;
use crate::disk::error::DiskError;
use crate::disk::io_pool::{IoPool, IoPoolError};
use crate::formats::Piece;

/// The zeros of all transfers. Never written, so that the kernel keeps one page for all of it.
static ZEROS: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(vec![0; MAX_CHUNK_BYTES]));

/// Why a range of an image could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ProduceError {
    /// The disk could not be read.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The threads that read the disk gave no answer.
    #[error(transparent)]
    Pool(#[from] IoPoolError),
    /// The range is not part of the image.
    #[error("bytes {start} to {end} are not part of an image of {len} bytes")]
    BadRange {
        /// First byte that was wanted.
        start: u64,
        /// First byte after.
        end: u64,
        /// The image's length in bytes.
        len: u64,
    },
    /// The disk is not the one that the layout was made for.
    #[error("the disk has {found} bytes, its map was made for {expected}")]
    SizeChanged {
        /// The layout's size of the disk in bytes.
        expected: u64,
        /// The disk's size in bytes.
        found: u64,
    },
    /// The layout has no byte, or too many, where the image has some. An error in the program.
    #[error("the layout does not describe byte {at} of the image")]
    BrokenLayout {
        /// The place in the image.
        at: u64,
    },
}

/// What a transfer has done so far. Read at any time, from any thread.
#[derive(Debug, Default)]
pub struct ProduceCounters {
    produced_bytes: AtomicU64,
    disk_bytes: AtomicU64,
    zero_bytes: AtomicU64,
    reads: AtomicU64,
}

impl ProduceCounters {
    /// Bytes of the image that were handed out.
    pub fn produced_bytes(&self) -> u64 {
        self.produced_bytes.load(Ordering::Relaxed)
    }

    /// Bytes that were read from the disk.
    pub fn disk_bytes(&self) -> u64 {
        self.disk_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of the image that are zero and were not read.
    pub fn zero_bytes(&self) -> u64 {
        self.zero_bytes.load(Ordering::Relaxed)
    }

    /// Number of reads from the disk.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }
}

/// Makes the bytes `range` of an image whose disk parts come from `disk`.
///
/// Nothing happens until the stream is polled; each poll tops up the reads under way to what the share
/// allows (2 to 8), on the threads of `pool`, and hands out chunks strictly in order. The stream gives
/// exactly the range's bytes, or ends with one error. Dropping it cancels: reads that have begun finish
/// and are thrown away.
pub fn produce(
    layout: Arc<dyn Layout>,
    disk: Arc<dyn DiskReader>,
    range: Range<u64>,
    pool: Arc<IoPool>,
    share: Share,
    counters: Arc<ProduceCounters>,
) -> ChunkStream {
    let refused = refusal(&*layout, &*disk, &range);
    ChunkStream {
        plan: Plan { layout, at: range.start, end: range.end },
        next: None,
        disk,
        pool,
        share,
        counters,
        under_way: FuturesOrdered::new(),
        stopped: Arc::default(),
        refused,
    }
}

fn refusal(layout: &dyn Layout, disk: &dyn DiskReader, range: &Range<u64>) -> Option<ProduceError> {
    let (expected, found) = (layout.virtual_size(), disk.virtual_size());
    if expected != found {
        return Some(ProduceError::SizeChanged { expected, found });
    }
    let len = layout.len();
    let inside = range.start <= range.end && range.end <= len;
    (!inside).then_some(ProduceError::BadRange { start: range.start, end: range.end, len })
}

/// A range of an image, in chunks. See [`produce`].
pub struct ChunkStream {
    plan: Plan,
    /// A chunk that waits for memory.
    next: Option<Assembly>,
    disk: Arc<dyn DiskReader>,
    pool: Arc<IoPool>,
    share: Share,
    counters: Arc<ProduceCounters>,
    under_way: FuturesOrdered<BoxFuture<'static, Result<Bytes, ProduceError>>>,
    /// Set when nobody wants the reads any more.
    stopped: Arc<AtomicBool>,
    refused: Option<ProduceError>,
}

impl std::fmt::Debug for ChunkStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (at, end) = (self.plan.at, self.plan.end);
        f.debug_struct("ChunkStream").field("at", &at).field("end", &end).finish_non_exhaustive()
    }
}

impl ChunkStream {
    /// Puts as many chunks under way as the share allows.
    fn top_up(&mut self, cx: &Context<'_>) -> Result<(), ProduceError> {
        let read_ahead = self.share.read_ahead();
        while self.under_way.len() < read_ahead {
            let assembly = match self.next.take() {
                Some(assembly) => assembly,
                None => match self.plan.next_chunk(self.share.chunk_bytes())? {
                    None => break,
                    Some(Chunk::Zeros(zeros)) => {
                        self.counters.zero_bytes.fetch_add(zeros.len() as u64, Ordering::Relaxed);
                        self.under_way.push_back(future::ready(Ok(zeros)).boxed());
                        continue;
                    }
                    Some(Chunk::Generated(bytes)) => {
                        self.under_way.push_back(future::ready(Ok(bytes)).boxed());
                        continue;
                    }
                    Some(Chunk::Assembled(assembly)) => assembly,
                },
            };
            let Some(buffer) = self.share.poll_buffer(cx, assembly.len) else {
                self.next = Some(assembly);
                break;
            };
            let chunk = self.begin(assembly, buffer);
            self.under_way.push_back(chunk);
        }
        Ok(())
    }

    /// Begins to fill a chunk: on the pool if the disk is needed.
    fn begin(
        &self,
        assembly: Assembly,
        mut buffer: ChunkBuffer,
    ) -> BoxFuture<'static, Result<Bytes, ProduceError>> {
        let counters = Arc::clone(&self.counters);
        let (disk, stopped) = (Arc::clone(&self.disk), Arc::clone(&self.stopped));
        let needs_disk = assembly.parts.iter().any(|part| matches!(part, Piece::Disk { .. }));
        let fill = move || -> Result<Bytes, DiskError> {
            // Nobody sees the result when it has stopped.
            if !stopped.load(Ordering::Relaxed) {
                assembly.fill(buffer.bytes_mut(), &*disk, &counters)?;
            }
            Ok(buffer.freeze())
        };
        if !needs_disk {
            return future::ready(fill().map_err(ProduceError::from)).boxed();
        }
        // Begun now, not when the chunks before it have come: that is what reading ahead means.
        let filled = self.pool.start(fill);
        async move { Ok(filled.await??) }.boxed()
    }

    fn stop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
        self.plan.at = self.plan.end;
        self.next = None;
        self.under_way.clear();
    }
}

impl Stream for ChunkStream {
    type Item = Result<Bytes, ProduceError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let refused = self.refused.take().map_or(Ok(()), Err);
        if let Err(error) = refused.and_then(|()| self.top_up(cx)) {
            self.stop();
            return Poll::Ready(Some(Err(error)));
        }
        match self.under_way.poll_next_unpin(cx) {
            Poll::Ready(Some(Ok(chunk))) => {
                self.counters.produced_bytes.fetch_add(chunk.len() as u64, Ordering::Relaxed);
                Poll::Ready(Some(Ok(chunk)))
            }
            Poll::Ready(Some(Err(error))) => {
                self.stop();
                Poll::Ready(Some(Err(error)))
            }
            // Woken when there is memory.
            Poll::Ready(None) if self.next.is_some() => Poll::Pending,
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}

impl Drop for ChunkStream {
    fn drop(&mut self) {
        self.stop();
    }
}

/// The range, cut into chunks as it is asked for.
struct Plan {
    layout: Arc<dyn Layout>,
    /// Next byte of the image to be planned.
    at: u64,
    end: u64,
}

enum Chunk {
    /// Nothing but zeros.
    Zeros(Bytes),
    /// One piece of generated bytes.
    Generated(Bytes),
    /// Several pieces, or bytes of the disk.
    Assembled(Assembly),
}

/// A chunk to be put together in a buffer.
struct Assembly {
    parts: Vec<Piece>,
    len: usize,
}

impl Plan {
    /// Plans about `chunk_bytes` more, up to a multiple of it in the image. Long runs of zeros are chunks of
    /// their own, which need no memory, and up to 1 MiB whatever `chunk_bytes` is.
    fn next_chunk(&mut self, chunk_bytes: usize) -> Result<Option<Chunk>, ProduceError> {
        let chunk = chunk_bytes as u64;
        let limit = (chunk - self.at % chunk).min(self.end - self.at);
        let long = chunk / 4;
        let mut parts = Vec::new();
        let mut len = 0;
        while len < limit {
            let at = self.at + len;
            let piece = self.piece_at(at, limit - len)?;
            if matches!(piece, Piece::Zeros(zeros) if zeros >= long.min(limit)) {
                if parts.is_empty() {
                    return self.zeros(at).map(|zeros| Some(Chunk::Zeros(zeros)));
                }
                break;
            }
            len += piece.len();
            parts.push(piece);
        }
        self.at += len;
        match parts.as_slice() {
            [] => Ok(None),
            [Piece::Bytes(bytes)] => Ok(Some(Chunk::Generated(bytes.clone()))),
            _ => Ok(Some(Chunk::Assembled(Assembly { parts, len: len as usize }))),
        }
    }

    fn zeros(&mut self, at: u64) -> Result<Bytes, ProduceError> {
        let limit = (self.end - at).min(ZEROS.len() as u64);
        let len = self.piece_at(at, limit)?.len();
        self.at = at + len;
        Ok(ZEROS.slice(..len as usize))
    }

    fn piece_at(&self, at: u64, limit: u64) -> Result<Piece, ProduceError> {
        let piece = self.layout.piece_at(at, limit);
        if piece.is_empty() || piece.len() > limit {
            return Err(ProduceError::BrokenLayout { at });
        }
        Ok(piece)
    }
}

impl Assembly {
    fn fill(
        &self,
        buffer: &mut [u8],
        disk: &dyn DiskReader,
        counters: &ProduceCounters,
    ) -> Result<(), DiskError> {
        let mut rest = buffer;
        for part in &self.parts {
            let (into, after) = rest.split_at_mut_checked(part.len() as usize).unwrap_or_default();
            match part {
                Piece::Bytes(bytes) => into.copy_from_slice(bytes),
                Piece::Zeros(zeros) => {
                    into.fill(0);
                    counters.zero_bytes.fetch_add(*zeros, Ordering::Relaxed);
                }
                Piece::Disk { offset, len } => {
                    disk.read_at(*offset, into)?;
                    counters.reads.fetch_add(1, Ordering::Relaxed);
                    counters.disk_bytes.fetch_add(*len, Ordering::Relaxed);
                }
            }
            rest = after;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
