//! The process's threads for work that needs a processor for milliseconds: one for each core, never the executor's.
//! What compressing needs besides is kept with them while there are streams that compress: encoders, buffers, and the
//! frames of windows of zeros.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::disk::io_pool::{IoPool, IoPoolError};
use crate::formats::frames::{Compression, EncodeError, FrameEncoder};

/// Places in the queue for each thread. More than there will be windows that have memory: who has to wait for a place
/// may be given one while its sink is blocked, and keep it from the others.
const QUEUED_PER_THREAD: usize = 1024;
/// Number of frames of zeros that are kept. They differ in codec, level and length; few are in use at a time.
const MAX_ZERO_FRAMES: usize = 64;

/// Threads for computing, with a bounded queue.
#[derive(Debug)]
pub struct ComputePool {
    threads: Arc<IoPool>,
    thread_count: NonZeroUsize,
    kept: Mutex<Kept>,
}

/// What is kept from one window to the next. Nothing without streams.
#[derive(Debug, Default)]
struct Kept {
    streams: usize,
    encoders: Vec<Encoder>,
    buffers: Vec<Vec<u8>>,
    zero_frames: HashMap<(Compression, usize), Bytes>,
}

#[derive(Debug)]
struct Encoder {
    encoder: FrameEncoder,
    out: Vec<u8>,
}

/// A stream that compresses.
#[derive(Debug)]
pub(super) struct Registered(Arc<ComputePool>);

impl Drop for Registered {
    fn drop(&mut self) {
        let mut kept = self.0.lock();
        kept.streams -= 1;
        if kept.streams == 0 {
            let dropped = std::mem::take(&mut *kept);
            drop(kept);
            drop(dropped);
        }
    }
}

impl ComputePool {
    /// So many threads.
    ///
    /// # Errors
    /// When the system gives no threads.
    pub fn new(threads: NonZeroUsize) -> Result<Arc<Self>, IoPoolError> {
        let queue = threads.saturating_mul(NonZeroUsize::MIN.saturating_add(QUEUED_PER_THREAD - 1));
        let pool = IoPool::new("compute", threads, queue, 0)?;
        Ok(Arc::new(Self { threads: Arc::new(pool), thread_count: threads, kept: Mutex::default() }))
    }

    /// One thread for each processor that the process may use.
    ///
    /// # Errors
    /// When the system gives no threads.
    pub fn for_this_machine() -> Result<Arc<Self>, IoPoolError> {
        Self::new(std::thread::available_parallelism().unwrap_or(NonZeroUsize::MIN))
    }

    /// Number of threads.
    pub fn threads(&self) -> NonZeroUsize {
        self.thread_count
    }

    /// Runs `work` on one of the threads. It goes on whether or not anybody looks at the future, once it has a place
    /// in the queue.
    pub(super) fn start<R: Send + 'static>(
        &self,
        work: impl FnOnce() -> R + Send + 'static,
    ) -> impl Future<Output = Result<R, IoPoolError>> + Send + 'static {
        self.threads.start(work)
    }

    /// Adds a stream.
    pub(super) fn register(self: &Arc<Self>) -> Registered {
        self.lock().streams += 1;
        Registered(Arc::clone(self))
    }

    /// Makes a frame. To be called on one of the threads: so there are no more encoders than threads.
    pub(super) fn compress(&self, compression: Compression, window: &[u8]) -> Result<Vec<u8>, EncodeError> {
        let kept = {
            let mut kept = self.lock();
            let at = kept.encoders.iter().rposition(|kept| kept.encoder.compression() == compression);
            // One of another kind makes way, so that there are never more than threads.
            at.or_else(|| kept.encoders.len().checked_sub(1)).map(|at| kept.encoders.swap_remove(at))
        };
        let mut encoder = match kept.filter(|kept| kept.encoder.compression() == compression) {
            Some(encoder) => encoder,
            None => Encoder { encoder: FrameEncoder::new(compression)?, out: Vec::new() },
        };
        encoder.encoder.compress(window, &mut encoder.out)?;
        // As long as the frame and not as its bound.
        let frame = encoder.out.as_slice().to_vec();
        let mut kept = self.lock();
        if kept.streams > 0 && kept.encoders.len() < self.thread_count.get() {
            kept.encoders.push(encoder);
        }
        Ok(frame)
    }

    /// An empty buffer with room for `capacity` bytes.
    pub(super) fn buffer(&self, capacity: usize) -> Vec<u8> {
        let mut buffer = self.lock().buffers.pop().unwrap_or_default();
        if buffer.capacity() != capacity {
            buffer = Vec::with_capacity(capacity);
        }
        buffer.clear();
        buffer
    }

    /// Takes a buffer that is not needed any more.
    pub(super) fn keep_buffer(&self, buffer: Vec<u8>) {
        let mut kept = self.lock();
        if kept.streams > 0 && kept.buffers.len() < self.thread_count.get() {
            kept.buffers.push(buffer);
        }
    }

    /// The frame of so many zeros, if it was made before.
    pub(super) fn zero_frame(&self, compression: Compression, window_bytes: usize) -> Option<Bytes> {
        self.lock().zero_frames.get(&(compression, window_bytes)).cloned()
    }

    /// Keeps the frame of so many zeros.
    pub(super) fn keep_zero_frame(&self, compression: Compression, window_bytes: usize, frame: Bytes) {
        let mut kept = self.lock();
        if kept.streams == 0 {
            return;
        }
        if kept.zero_frames.len() >= MAX_ZERO_FRAMES {
            kept.zero_frames.clear();
        }
        kept.zero_frames.insert((compression, window_bytes), frame);
    }

    /// No code panics while it holds the lock.
    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::formats::frames::Codec;

    #[test]
    fn what_is_kept_is_bounded_and_goes_with_the_last_stream() {
        let pool = ComputePool::new(NonZeroUsize::new(2).unwrap()).unwrap();
        let stream = pool.register();
        let levels = |level| Compression::new(Codec::Zstd, level).unwrap();
        for level in 1..=9 {
            pool.compress(levels(level), b"content").unwrap();
            pool.keep_buffer(pool.buffer(100));
        }
        (0..9).for_each(|_| pool.keep_buffer(Vec::new()));
        for len in 0..200 {
            pool.keep_zero_frame(levels(1), len, Bytes::new());
        }
        {
            let kept = pool.lock();
            assert!(kept.encoders.len() <= 2 && kept.buffers.len() == 2 && kept.zero_frames.len() <= 64);
        }
        assert!(pool.zero_frame(levels(1), 199).is_some());
        drop(stream);
        // Work that was under way keeps nothing afterwards.
        pool.compress(levels(1), b"content").unwrap();
        pool.keep_buffer(Vec::new());
        pool.keep_zero_frame(levels(1), 1, Bytes::new());
        let kept = pool.lock();
        assert!(kept.encoders.is_empty() && kept.buffers.is_empty() && kept.zero_frames.is_empty());
    }
}
