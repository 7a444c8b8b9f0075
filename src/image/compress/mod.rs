//! Makes the frames of a compressed image: strictly in order, several windows at once, and only when asked.
//!
//! The plain bytes come from [`produce`]. Each window is put together in one buffer, compressed on the threads of the
//! [`ComputePool`] and handed out when its turn has come. What a window takes is a permit of
//! the budget: its plain bytes first, and then the length of its frame. Encoders and what they write into are the threads'
//! and not the windows': as many as there are threads, whatever the number of transfers. Windows of nothing but zeros take a frame that was made once, and no memory.
//!
//! As with [`ChunkStream`], what was made ahead can be given back, and making ahead is on credit: a stream begins with
//! credit for all windows that it may have in flight, loses those that it gives back, and earns a quarter of a window
//! with each that it hands out.

use std::collections::VecDeque;
use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::{self, BoxFuture};
use futures_util::stream::{FuturesOrdered, Stream};
use futures_util::{FutureExt as _, StreamExt as _};

use super::Layout;
use super::budget::{Share, WindowRoom, WindowShare};
use super::compute::{ComputePool, Registered};
use super::pools::Pools;
use super::produce::{ChunkStream, ProduceCounters, ProduceError, is_zero, produce};
use crate::disk::DiskReader;
use crate::disk::io_pool::IoPoolError;
use crate::formats::frames::{Compression, EncodeError, FrameEntry};

/// Windows in flight for each thread that compresses.
const WINDOWS_PER_THREAD: usize = 2;
/// Credit that one window costs when it is made ahead; each that is handed out earns 1.
const CREDIT_PER_WINDOW: usize = 4;
/// Bytes that one poll copies at most before it lets others have the executor's thread.
const COPIED_PER_POLL: usize = 4 << 20;

/// One frame of a compressed image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its number, from 0: which window of the image it stands for.
    pub number: u64,
    /// A zstd frame or gzip member.
    pub bytes: Bytes,
    /// Its length and hash.
    pub entry: FrameEntry,
}

/// What is to be made of an image.
#[derive(Debug, Clone)]
pub struct FrameRange {
    /// How it is compressed.
    pub compression: Compression,
    /// Numbers of the frames.
    pub frames: Range<u64>,
}

/// Makes some frames of an image whose disk parts come from `disk`.
///
/// Nothing happens until the stream is polled. It gives exactly those frames, or ends with one error, in whose place it
/// comes: all frames before were handed out. Dropping it cancels: reads and windows that have begun are finished and
/// thrown away. The counters' produced bytes are plain ones, of the frames that were handed out.
pub fn compress(
    layout: Arc<dyn Layout>,
    disk: Arc<dyn DiskReader>,
    range: FrameRange,
    pools: impl Into<Pools>,
    compute: &Arc<ComputePool>,
    share: Share,
    counters: Arc<ProduceCounters>,
) -> CompressedStream {
    let FrameRange { compression, frames } = range;
    let image_bytes = layout.len();
    let of_image = compression.frames_of(image_bytes);
    let is_inside = frames.start <= frames.end && frames.end <= of_image;
    let refused = (!is_inside).then_some(ProduceError::BadFrames {
        start: frames.start,
        end: frames.end,
        frames: of_image,
    });
    let start_of = |frame: u64| frame.saturating_mul(compression.window_bytes()).min(image_bytes);
    let bytes = start_of(frames.start)..start_of(frames.end);
    let windows = share.windows();
    CompressedStream {
        plain: produce(layout, disk, bytes, pools, share, Arc::clone(&counters)).uncounted(),
        windows,
        compute: Arc::clone(compute),
        _registered: compute.register(),
        counters,
        compression,
        image_bytes,
        next_frame: frames.start,
        next_window: frames.start,
        end: frames.end,
        filling: Filling::default(),
        in_flight: FuturesOrdered::new(),
        costs: VecDeque::new(),
        credit: usize::MAX,
        is_awaited: false,
        has_failed: false,
        stopped: Arc::default(),
        refused,
    }
}

/// Some frames of a compressed image. See [`compress`].
pub struct CompressedStream {
    plain: ChunkStream,
    windows: WindowShare,
    compute: Arc<ComputePool>,
    _registered: Registered,
    counters: Arc<ProduceCounters>,
    compression: Compression,
    image_bytes: u64,
    /// The frame to be handed out next.
    next_frame: u64,
    /// The window to be filled now.
    next_window: u64,
    end: u64,
    filling: Filling,
    in_flight: FuturesOrdered<BoxFuture<'static, Result<Made, ProduceError>>>,
    /// What it took to make each window in flight: 1, or 0 for one that was there.
    costs: VecDeque<usize>,
    /// What may be made ahead, [`Self::most_credit`] at most.
    credit: usize,
    /// Somebody was told to wait for the next frame.
    is_awaited: bool,
    /// The plain bytes have ended with an error, which has its place in what is in flight.
    has_failed: bool,
    /// Set when nobody wants the windows any more.
    stopped: Arc<AtomicBool>,
    refused: Option<ProduceError>,
}

/// A window that is not complete.
#[derive(Default)]
struct Filling {
    /// Bytes that have their place in this window or the next ones.
    chunk: Bytes,
    /// Bytes of the window so far. All zero while there is no buffer.
    len: usize,
    buffer: Option<(Vec<u8>, WindowRoom)>,
}

/// A window that was compressed.
enum Made {
    Own(FrameBytes, FrameEntry),
    Shared(Bytes, FrameEntry),
}

/// A frame and its permit.
struct FrameBytes {
    bytes: Vec<u8>,
    room: WindowRoom,
}

impl AsRef<[u8]> for FrameBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl std::fmt::Debug for CompressedStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (next, end) = (self.next_frame, self.end);
        f.debug_struct("CompressedStream").field("next", &next).field("end", &end).finish_non_exhaustive()
    }
}

impl CompressedStream {
    /// Number of windows that are being compressed or wait to be handed out.
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// The most windows that are in flight at a time.
    pub fn most_in_flight(&self) -> usize {
        WINDOWS_PER_THREAD * self.compute.threads().get()
    }

    /// Gives back everything that was made ahead, for a sink that has stopped taking: what it asks for later is made
    /// again. Returns how many windows were complete or begun. Does nothing while somebody waits for the next frame,
    /// and when the plain bytes have ended with an error.
    ///
    /// Reads and windows that have begun keep their memory until they return.
    pub fn give_back(&mut self) -> usize {
        if self.is_awaited || self.has_failed || self.refused.is_some() || self.next_frame >= self.end {
            return 0;
        }
        let lost = self.costs.iter().sum::<usize>() + usize::from(self.filling.buffer.is_some());
        self.credit = self.credit.min(self.most_credit()).saturating_sub(lost * CREDIT_PER_WINDOW);
        let given_back = self.in_flight.len() + usize::from(self.filling.len > 0);
        self.abandon_windows();
        self.next_window = self.next_frame;
        self.plain.rewind(self.next_frame.saturating_mul(self.compression.window_bytes()));
        given_back
    }

    fn abandon_windows(&mut self) {
        std::mem::take(&mut self.stopped).store(true, Ordering::Relaxed);
        self.filling = Filling::default();
        self.in_flight = FuturesOrdered::new();
        self.costs.clear();
    }

    fn stop(&mut self) {
        self.abandon_windows();
        self.next_frame = self.end;
        self.next_window = self.end;
    }

    fn most_credit(&self) -> usize {
        self.most_in_flight() * CREDIT_PER_WINDOW
    }

    /// Whether one more window may be made, beyond the next that is to be handed out.
    fn has_credit(&self) -> bool {
        let ahead: usize = self.costs.iter().skip(1).sum();
        self.in_flight.is_empty() || (ahead + 1) * CREDIT_PER_WINDOW <= self.credit
    }

    /// Length in bytes of a window.
    fn window_len(&self, number: u64) -> usize {
        let window = self.compression.window_bytes();
        self.image_bytes.saturating_sub(number.saturating_mul(window)).min(window) as usize
    }

    /// Puts as many windows in flight as there is memory for, and plain bytes.
    fn fill(&mut self, cx: &mut Context<'_>) {
        let mut copied = 0;
        while self.in_flight.len() < self.most_in_flight() && self.next_window < self.end && !self.has_failed
        {
            if self.filling.len == 0 && !self.has_credit() {
                // Goes on when the next frame is asked for.
                return;
            }
            let wanted = self.window_len(self.next_window);
            if self.filling.len >= wanted {
                if !self.launch(cx, wanted) {
                    return;
                }
            } else if self.filling.chunk.is_empty() {
                match self.plain.poll_next_unpin(cx) {
                    Poll::Pending => return,
                    Poll::Ready(Some(Ok(chunk))) => self.filling.chunk = chunk,
                    Poll::Ready(Some(Err(error))) => self.fail(error),
                    Poll::Ready(None) => self.fail(ProduceError::BrokenLayout { at: self.image_bytes }),
                }
            } else if copied >= COPIED_PER_POLL {
                // To be asked again, after the others.
                cx.waker().wake_by_ref();
                return;
            } else {
                match self.take_in(cx, wanted) {
                    Some(bytes) => copied += bytes,
                    None => return,
                }
            }
        }
    }

    /// The plain bytes have ended too early.
    fn fail(&mut self, error: ProduceError) {
        self.has_failed = true;
        self.put_in_flight(future::ready(Err(error)).boxed(), 0);
    }

    /// Takes what fits of the chunk into a window of `wanted` bytes. How many bytes were copied; `None` when there is
    /// no room for the window.
    fn take_in(&mut self, cx: &Context<'_>, wanted: usize) -> Option<usize> {
        let len = self.filling.chunk.len().min(wanted - self.filling.len);
        let is_zero = self.filling.chunk.get(..len).is_some_and(is_zero);
        if self.filling.buffer.is_none() && !is_zero {
            self.begin_buffer(cx, wanted)?;
        }
        let part = self.filling.chunk.split_to(len);
        self.filling.len += len;
        let Some((buffer, _)) = &mut self.filling.buffer else { return Some(0) };
        buffer.extend_from_slice(&part);
        Some(len)
    }

    /// Gives the window a buffer, and what it has of zeros. `None` when there is no room.
    fn begin_buffer(&mut self, cx: &Context<'_>, wanted: usize) -> Option<()> {
        let room = self.windows.poll_room(cx, wanted as u64)?;
        let mut buffer = self.compute.buffer(wanted);
        buffer.resize(self.filling.len, 0);
        self.filling.buffer = Some((buffer, room));
        Some(())
    }

    /// Puts the complete window in flight. Whether there was room for it.
    fn launch(&mut self, cx: &Context<'_>, wanted: usize) -> bool {
        let has_only_zeros = self.filling.buffer.is_none();
        if has_only_zeros {
            if let Some(frame) = self.compute.zero_frame(self.compression, wanted) {
                self.filling.len = 0;
                // Some hundred bytes: hashed at once.
                let entry = FrameEntry::of(&frame).unwrap_or_default();
                self.put_in_flight(future::ready(Ok(Made::Shared(frame, entry))).boxed(), 0);
                return true;
            }
            if self.begin_buffer(cx, wanted).is_none() {
                return false;
            }
        }
        let Some((buffer, room)) = self.filling.buffer.take() else { return false };
        self.filling.len = 0;
        let (compute, compression) = (Arc::clone(&self.compute), self.compression);
        let stopped = Arc::clone(&self.stopped);
        let work = move || match stopped.load(Ordering::Relaxed) {
            // Nobody sees it.
            true => Ok(Made::Shared(Bytes::new(), FrameEntry::default())),
            false => make(&compute, compression, buffer, room, has_only_zeros),
        };
        let made = self.compute.start(work);
        let made = async move {
            let made: Result<Result<Made, EncodeError>, IoPoolError> = made.await;
            Ok(made??)
        };
        self.put_in_flight(made.boxed(), 1);
        true
    }

    fn put_in_flight(&mut self, made: BoxFuture<'static, Result<Made, ProduceError>>, cost: usize) {
        self.in_flight.push_back(made);
        self.costs.push_back(cost);
        self.next_window += 1;
    }

    fn hand_out(&mut self, made: Made) -> Frame {
        let number = self.next_frame;
        self.next_frame += 1;
        self.costs.pop_front();
        self.credit = self.credit.saturating_add(1).min(self.most_credit());
        self.counters.add_produced(self.window_len(number) as u64);
        let (bytes, entry) = match made {
            Made::Shared(bytes, entry) => (bytes, entry),
            Made::Own(mut frame, entry) => {
                frame.room.hand_out();
                (Bytes::from_owner(frame), entry)
            }
        };
        Frame { number, bytes, entry }
    }
}

/// Compresses a window; on a thread that may take its time.
fn make(
    compute: &ComputePool,
    compression: Compression,
    window: Vec<u8>,
    mut room: WindowRoom,
    has_only_zeros: bool,
) -> Result<Made, EncodeError> {
    let bytes = compute.compress(compression, &window)?;
    let entry = FrameEntry::of(&bytes).unwrap_or_default();
    let window_bytes = window.len();
    compute.keep_buffer(window);
    if has_only_zeros {
        let frame = Bytes::from(bytes);
        compute.keep_zero_frame(compression, window_bytes, frame.clone());
        return Ok(Made::Shared(frame, entry));
    }
    room.shrink(bytes.len() as u64);
    Ok(Made::Own(FrameBytes { bytes, room }, entry))
}

impl Stream for CompressedStream {
    type Item = Result<Frame, ProduceError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(error) = self.refused.take() {
            self.stop();
            return Poll::Ready(Some(Err(error)));
        }
        if self.next_frame >= self.end {
            return Poll::Ready(None);
        }
        self.fill(cx);
        let polled = match self.in_flight.poll_next_unpin(cx) {
            Poll::Ready(Some(Ok(made))) => Poll::Ready(Some(Ok(self.hand_out(made)))),
            Poll::Ready(Some(Err(error))) => {
                self.stop();
                Poll::Ready(Some(Err(error)))
            }
            // Woken when there are plain bytes, or memory.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        };
        self.is_awaited = polled.is_pending();
        polled
    }
}

impl Drop for CompressedStream {
    fn drop(&mut self) {
        self.stop();
    }
}

#[cfg(test)]
mod tests;
