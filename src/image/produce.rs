//! Makes any range of an image: reads ahead within the transfer's share, in order, and only when asked.
//!
//! What was read ahead for a sink that then takes nothing is given back ([`ChunkStream::give_back`]) and read
//! again when it is asked for. So that this does not multiply the reads, reading ahead is on credit: a stream
//! begins with credit for all chunks that it may have under way, loses what it gives back, and earns a quarter of
//! what it hands out. Whatever a sink does, the disk is read for its bytes at most 1.25 times, and those first
//! chunks more (of a chunk with a checksum whose block is not in it, that block is part of its bytes). A sink that takes everything at once keeps the full read-ahead; for one that always makes its
//! stream give back, soon only the chunk is read that it asks for.

use std::collections::VecDeque;
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
use super::pools::Pools;
use crate::disk::DiskReader;
use crate::disk::error::DiskError;
use crate::disk::io_pool::IoPoolError;
use assembly::Assembly;
use plan::{Chunk, Plan};

mod assembly;
mod plan;
use crate::formats::frames::EncodeError;

/// The zeros of all transfers. Never written, so that the kernel keeps one page for all of it.
static ZEROS: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(vec![0; MAX_CHUNK_BYTES]));

/// Whether these bytes are all zero. Quick for what [`ChunkStream`] gives where it knows that there are zeros.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    let same = |zeros: &[u8], part: &[u8]| std::ptr::eq(zeros.as_ptr(), part.as_ptr()) || zeros == part;
    bytes.chunks(ZEROS.len()).all(|part| ZEROS.get(..part.len()).is_some_and(|zeros| same(zeros, part)))
}

/// A stream earns credit to read ahead of one byte for so many that were taken.
const TAKEN_PER_CREDIT: u64 = 4;

/// Why a range of an image could not be made.
#[derive(Debug, thiserror::Error)]
pub enum ProduceError {
    /// The disk could not be read.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// The threads that read the disk gave no answer.
    #[error(transparent)]
    Pool(#[from] IoPoolError),
    /// A window could not be compressed.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The frames are not part of the compressed image.
    #[error("frames {start} to {end} are not part of a compressed image of {frames} frames")]
    BadFrames {
        /// First frame that was wanted.
        start: u64,
        /// First frame after.
        end: u64,
        /// How many the compressed image has.
        frames: u64,
    },
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

impl ProduceError {
    /// The stable word for it.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Pool(IoPoolError::Stuck) => "storage_stuck",
            Self::Encode(error) => error.code(),
            _ => "storage_error",
        }
    }
}

/// What a transfer has done so far. Read at any time, from any thread.
#[derive(Debug, Default)]
pub struct ProduceCounters {
    produced_bytes: AtomicU64,
    disk_bytes: AtomicU64,
    zero_bytes: AtomicU64,
    reads: AtomicU64,
    reread_bytes: AtomicU64,
}

impl ProduceCounters {
    /// Bytes of the image that were handed out.
    pub fn produced_bytes(&self) -> u64 {
        self.produced_bytes.load(Ordering::Relaxed)
    }

    /// Bytes that were read from the disk, those that were given back and read again each time.
    pub fn disk_bytes(&self) -> u64 {
        self.disk_bytes.load(Ordering::Relaxed)
    }

    /// Bytes of the image that are zero and were not read; again when they were given back.
    pub fn zero_bytes(&self) -> u64 {
        self.zero_bytes.load(Ordering::Relaxed)
    }

    /// Bytes that were read from the disk only for a checksum, because their block was not in its chunk. They are among
    /// the [`disk_bytes`](Self::disk_bytes).
    pub fn reread_bytes(&self) -> u64 {
        self.reread_bytes.load(Ordering::Relaxed)
    }

    /// Number of reads from the disk.
    pub fn reads(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    /// Notes that bytes of the image were handed out, in whatever form.
    pub(super) fn add_produced(&self, bytes: u64) {
        self.produced_bytes.fetch_add(bytes, Ordering::Relaxed);
    }
}

/// Makes the bytes `range` of an image whose disk parts come from `disk`.
///
/// Nothing happens until the stream is polled; each poll tops up the reads under way to what the share
/// allows (2 to 8), on the threads of `pools`, and hands out chunks strictly in order. The stream gives
/// exactly the range's bytes, or ends with one error. Dropping it cancels: reads that have begun finish
/// and are thrown away.
pub fn produce(
    layout: Arc<dyn Layout>,
    disk: Arc<dyn DiskReader>,
    range: Range<u64>,
    pools: impl Into<Pools>,
    share: Share,
    counters: Arc<ProduceCounters>,
) -> ChunkStream {
    let refused = refusal(&*layout, &*disk, &range);
    ChunkStream {
        at: range.start,
        plan: Plan { layout, at: range.start, end: range.end },
        largest_cost: 0,
        next: None,
        disk,
        pools: pools.into(),
        share,
        counters,
        under_way: FuturesOrdered::new(),
        costs: VecDeque::new(),
        credit_bytes: u64::MAX,
        is_awaited: false,
        is_counted: true,
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
    /// First byte of the image that was not handed out.
    at: u64,
    plan: Plan,
    /// A chunk that waits for memory.
    next: Option<Assembly>,
    disk: Arc<dyn DiskReader>,
    pools: Pools,
    share: Share,
    counters: Arc<ProduceCounters>,
    under_way: FuturesOrdered<BoxFuture<'static, Result<Bytes, ProduceError>>>,
    /// Bytes of the disk that each chunk under way takes to make.
    costs: VecDeque<u64>,
    /// Bytes of the disk that may be read beyond the next chunk, [`Self::most_credit`] at most.
    credit_bytes: u64,
    /// Most bytes of the disk that a chunk has taken so far.
    largest_cost: u64,
    /// Somebody was told to wait for the next chunk.
    is_awaited: bool,
    /// What is handed out is produced, and not only a part of what somebody else makes of it.
    is_counted: bool,
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
                        self.put_under_way(future::ready(Ok(zeros)).boxed(), 0);
                        continue;
                    }
                    Some(Chunk::Generated(bytes)) => {
                        self.put_under_way(future::ready(Ok(bytes)).boxed(), 0);
                        continue;
                    }
                    Some(Chunk::Assembled(assembly)) => assembly,
                },
            };
            let cost = assembly.disk_bytes();
            self.largest_cost = self.largest_cost.max(cost);
            let has_credit = self.ahead_bytes().saturating_add(cost) <= self.credit_bytes;
            let buffer = match has_credit || self.under_way.is_empty() {
                true => self.share.poll_buffer(cx, assembly.len()),
                false => None,
            };
            let Some(buffer) = buffer else {
                self.next = Some(assembly);
                break;
            };
            let chunk = self.begin(assembly, buffer);
            self.put_under_way(chunk, cost);
        }
        Ok(())
    }

    fn put_under_way(&mut self, chunk: BoxFuture<'static, Result<Bytes, ProduceError>>, cost: u64) {
        self.under_way.push_back(chunk);
        self.costs.push_back(cost);
    }

    /// Bytes of the disk that the chunks beyond the next one take.
    fn ahead_bytes(&self) -> u64 {
        self.costs.iter().skip(1).sum()
    }

    /// Gives back everything that was made ahead, for a sink that has stopped taking: what it asks for later is
    /// made again. Returns how many chunks were under way. Does nothing while somebody waits for the next
    /// chunk: then it is not the sink that is slow.
    ///
    /// Reads that have begun keep their memory until they return.
    pub fn give_back(&mut self) -> usize {
        if self.is_awaited || self.refused.is_some() {
            return 0;
        }
        let given_back = self.under_way.len();
        self.rewind(self.at);
        given_back
    }

    /// Gives back everything that was made ahead, and goes on at byte `at`, which lies in the range and not behind
    /// what was handed out. To be done only before the stream has ended.
    pub(super) fn rewind(&mut self, at: u64) {
        let lost: u64 = self.costs.iter().sum();
        self.credit_bytes = self.credit_bytes.min(self.most_credit()).saturating_sub(lost);
        self.abandon_reads();
        self.at = at;
        self.plan.at = at;
    }

    /// The same stream; what it hands out is not counted as produced.
    pub(super) fn uncounted(self) -> Self {
        let mut stream = self;
        stream.is_counted = false;
        stream
    }

    /// Forgets all chunks under way; reads that have not begun will not.
    fn abandon_reads(&mut self) {
        std::mem::take(&mut self.stopped).store(true, Ordering::Relaxed);
        self.next = None;
        self.under_way.clear();
        self.costs.clear();
    }

    /// Notes that a chunk was handed out.
    fn hand_out(&mut self, len: u64) {
        if self.is_counted {
            self.counters.add_produced(len);
        }
        self.at = self.at.saturating_add(len);
        let cost = self.costs.pop_front().unwrap_or(0);
        let earned = self.credit_bytes.saturating_add(len.max(cost) / TAKEN_PER_CREDIT);
        self.credit_bytes = earned.min(self.most_credit());
    }

    /// The bytes of as many chunks as may be under way now, of which one may take more than its length: a checksum whose
    /// block has to be read for it.
    fn most_credit(&self) -> u64 {
        let chunk = self.share.chunk_bytes() as u64;
        self.share.read_ahead() as u64 * chunk + self.largest_cost.saturating_sub(chunk)
    }

    /// Begins to fill a chunk: on the pool if the disk is needed, or something is to be checked.
    fn begin(
        &self,
        assembly: Assembly,
        mut buffer: ChunkBuffer,
    ) -> BoxFuture<'static, Result<Bytes, ProduceError>> {
        let counters = Arc::clone(&self.counters);
        let (disk, stopped) = (Arc::clone(&self.disk), Arc::clone(&self.stopped));
        let place = assembly.place();
        let fill = move || -> Result<Bytes, DiskError> {
            // Nobody sees the result when it has stopped.
            if !stopped.load(Ordering::Relaxed) {
                assembly.fill(&mut buffer, &*disk, &counters)?;
            }
            Ok(buffer.freeze())
        };
        let Some(pool) = place.and_then(|offset| self.pools.at(offset)) else {
            return future::ready(fill().map_err(ProduceError::from)).boxed();
        };
        // Begun now, not when the chunks before it have come: that is what reading ahead means.
        let filled = pool.start(fill);
        async move { Ok(filled.await??) }.boxed()
    }

    fn stop(&mut self) {
        self.abandon_reads();
        self.at = self.plan.end;
        self.plan.at = self.plan.end;
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
        let polled = match self.under_way.poll_next_unpin(cx) {
            Poll::Ready(Some(Ok(chunk))) => {
                self.hand_out(chunk.len() as u64);
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
        };
        self.is_awaited = polled.is_pending();
        polled
    }
}

impl Drop for ChunkStream {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests;
