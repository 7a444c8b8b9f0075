//! Memory for chunks in flight: one budget for all transfers, and each transfer's share of it.
//!
//! A share is `min(window, budget / (n + 1))` with n transfers, and never less than two chunks of 64 KiB.
//! Chunks become smaller as transfers multiply. The first two chunks of a transfer are always granted, so
//! that no transfer waits for another; what it reads ahead beyond them needs room in its share and in the
//! budget. A chunk's permit is taken with its buffer and given back when the last `Bytes` of it is dropped,
//! wherever that happens. Buffers go back to a pool of bounded size.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

mod windows;

pub(super) use windows::{WindowRoom, WindowShare};

/// Smallest chunk.
pub const MIN_CHUNK_BYTES: usize = 64 << 10;
/// Largest chunk.
pub const MAX_CHUNK_BYTES: usize = 1 << 20;
/// Bytes that a chunk may have beyond its length, so that an archive's block is in one chunk with its headers. Buffers
/// have them only when they are needed.
pub const CHUNK_ROOM_BYTES: usize = 2 << 10;
/// Chunks that every transfer gets whatever the budget says.
const GRANTED_CHUNKS: usize = 2;
/// Largest number of chunks that one transfer reads ahead.
const MAX_READ_AHEAD: u64 = 8;
/// Number of chunks below which they are made shorter.
const LEAST_READ_AHEAD: u64 = 4;
/// Memory that unused buffers may keep, in bytes; none is kept when there is no transfer.
const POOL_BYTES: usize = 16 << 20;

/// The memory for all transfers' chunks.
#[derive(Debug)]
pub struct Budget {
    limit_bytes: u64,
    window_bytes: u64,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    used_bytes: u64,
    /// Windows that are being made though there was no room for them.
    beyond_budget: usize,
    next_share: u64,
    shares: HashMap<u64, Held>,
    /// Number of shares that have a waker.
    waiting: usize,
    /// Unused buffers, each of a [`buffer_bytes`] in length.
    pool: Vec<Vec<u8>>,
    pool_bytes: usize,
}

/// What one share's chunks take.
#[derive(Debug, Default)]
struct Held {
    bytes: u64,
    chunks: usize,
    /// Windows that are being compressed, or wait to be handed out.
    windows: usize,
    /// Compressed windows that the transfer's sink holds.
    handed_out: usize,
    waker: Option<Waker>,
    /// The waker waits for room in the budget, and not only in the share.
    waits_for_budget: bool,
}

impl Budget {
    /// A budget of `limit_bytes` for all, of which one transfer takes `window_bytes` at most.
    pub fn new(limit_bytes: u64, window_bytes: u64) -> Arc<Self> {
        Arc::new(Self { limit_bytes, window_bytes, state: Mutex::default() })
    }

    /// Adds a transfer; the others' shares become smaller.
    pub fn register(self: &Arc<Self>) -> Share {
        let mut state = self.lock();
        let id = state.next_share;
        state.next_share += 1;
        state.shares.insert(id, Held::default());
        Share { id, budget: Arc::clone(self) }
    }

    /// Memory in bytes that chunks take now, wherever they are. More than the limit only by what is granted
    /// to every transfer.
    pub fn used_bytes(&self) -> u64 {
        self.lock().used_bytes
    }

    /// The limit in bytes.
    pub fn limit_bytes(&self) -> u64 {
        self.limit_bytes
    }

    /// Number of transfers that have a share.
    pub fn transfers(&self) -> usize {
        self.lock().shares.len()
    }

    /// No code panics while it holds the lock.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The part of the budget that each of so many transfers may take, and one more.
    fn fair_part(&self, transfers: usize) -> u64 {
        self.limit_bytes / (transfers as u64 + 1)
    }

    fn window_of(&self, transfers: usize) -> u64 {
        self.fair_part(transfers).min(self.window_bytes).max((GRANTED_CHUNKS * MIN_CHUNK_BYTES) as u64)
    }

    fn give_back(&self, room: &Room, buffer: Option<Vec<u8>>) {
        let mut guard = self.lock();
        let state = &mut *guard;
        state.used_bytes -= room.bytes;
        if let Some(held) = state.shares.get_mut(&room.share) {
            held.bytes -= room.bytes;
            held.chunks -= 1;
        }
        if let Some(buffer) = buffer
            && !state.shares.is_empty()
            && state.pool_bytes + buffer.len() <= POOL_BYTES
        {
            state.pool_bytes += buffer.len();
            state.pool.push(buffer);
        }
        let woken = state.take_wakers_of(room.share);
        drop(guard);
        woken.into_iter().for_each(Waker::wake);
    }
}

impl State {
    /// Everybody who waits for room. To be woken without the lock: a waker may drop what it wakes.
    fn take_wakers(&mut self) -> Vec<Waker> {
        if self.waiting == 0 {
            return Vec::new();
        }
        self.waiting = 0;
        self.shares.values_mut().filter_map(|held| held.waker.take()).collect()
    }

    /// Those who may go on because a share has given something back: who waits for room in it, and who waits for room
    /// in the budget. The others wait for their own: waking them with each chunk of a fast transfer would cost it
    /// more than they move.
    fn take_wakers_of(&mut self, share: u64) -> Vec<Waker> {
        if self.waiting == 0 {
            return Vec::new();
        }
        let may_go_on = |(id, held): (&u64, &mut Held)| {
            if *id == share || held.waits_for_budget { held.waker.take() } else { None }
        };
        let woken: Vec<Waker> = self.shares.iter_mut().filter_map(may_go_on).collect();
        self.waiting -= woken.len();
        woken
    }
}

/// The window, cut into at least four chunks of a power of two in length: length is worth more than number, as a
/// chunk costs the same whatever its length.
fn chunk_bytes(window: u64) -> usize {
    let part = (window / LEAST_READ_AHEAD).clamp(MIN_CHUNK_BYTES as u64, MAX_CHUNK_BYTES as u64);
    1 << part.ilog2()
}

/// What is allocated for a chunk of `len` bytes: a power of two, or one and the room beyond it. So few lengths that
/// buffers are found again.
fn buffer_bytes(len: usize) -> usize {
    let power = len.next_power_of_two().max(MIN_CHUNK_BYTES);
    let with_room = power / 2 + CHUNK_ROOM_BYTES;
    if power > MIN_CHUNK_BYTES && len <= with_room { with_room } else { power }
}

/// One transfer's part of the budget.
#[derive(Debug)]
pub struct Share {
    id: u64,
    budget: Arc<Budget>,
}

impl Share {
    /// Memory in bytes that this transfer's chunks may take now.
    pub fn window_bytes(&self) -> u64 {
        self.budget.window_of(self.budget.transfers())
    }

    /// Length in bytes of a chunk now: a power of two.
    pub fn chunk_bytes(&self) -> usize {
        chunk_bytes(self.window_bytes())
    }

    /// Number of chunks to have under way now, 2 to 8.
    pub fn read_ahead(&self) -> usize {
        let window = self.window_bytes();
        (window / chunk_bytes(window) as u64).clamp(GRANTED_CHUNKS as u64, MAX_READ_AHEAD) as usize
    }

    /// A buffer of `len` bytes with its permit, of unspecified content. `None`: there is no room, and the
    /// task is woken when a chunk was given back.
    pub(super) fn poll_buffer(&self, cx: &Context<'_>, len: usize) -> Option<ChunkBuffer> {
        let capacity = buffer_bytes(len);
        let mut state = self.budget.lock();
        let room = self.poll_room(&mut state, cx, capacity as u64)?;
        let pooled = state.pool.iter().rposition(|buffer| buffer.len() == capacity);
        let data = match pooled.map(|at| state.pool.swap_remove(at)) {
            Some(buffer) => {
                state.pool_bytes -= capacity;
                buffer
            }
            None => vec![0; capacity],
        };
        Some(ChunkBuffer { data, len, room: Some(room) })
    }

    /// Waits for room for bytes that somebody else has made: those of an upload. One task at a time may wait for a
    /// share.
    pub async fn room(&self, bytes: u64) -> Room {
        std::future::poll_fn(|cx| {
            let mut state = self.budget.lock();
            self.poll_room(&mut state, cx, bytes).map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }

    fn poll_room(&self, state: &mut State, cx: &Context<'_>, bytes: u64) -> Option<Room> {
        let window = self.budget.window_of(state.shares.len());
        let budget_has_room = state.used_bytes + bytes <= self.budget.limit_bytes;
        let held = state.shares.get_mut(&self.id)?;
        if held.chunks >= GRANTED_CHUNKS && !(budget_has_room && held.bytes + bytes <= window) {
            held.waits_for_budget = !budget_has_room;
            if held.waker.replace(cx.waker().clone()).is_none() {
                state.waiting += 1;
            }
            return None;
        }
        held.bytes += bytes;
        held.chunks += 1;
        state.used_bytes += bytes;
        Some(Room { bytes, share: self.id, budget: Arc::clone(&self.budget) })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut guard = self.budget.lock();
        let state = &mut *guard;
        if state.shares.remove(&self.id).is_some_and(|held| held.waker.is_some()) {
            state.waiting -= 1;
        }
        if state.shares.is_empty() {
            state.pool = Vec::new();
            state.pool_bytes = 0;
        }
        // The others' shares have grown.
        let woken = state.take_wakers();
        drop(guard);
        woken.into_iter().for_each(Waker::wake);
    }
}

/// The permit of some bytes. Given back when it is dropped.
#[derive(Debug)]
pub struct Room {
    bytes: u64,
    share: u64,
    budget: Arc<Budget>,
}

impl Drop for Room {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.budget.give_back(self, None);
        }
    }
}

/// A chunk being made, and its permit.
#[derive(Debug)]
pub(super) struct ChunkBuffer {
    /// As long as what the permit is for.
    data: Vec<u8>,
    len: usize,
    room: Option<Room>,
}

impl ChunkBuffer {
    /// The chunk's bytes, to be written.
    pub(super) fn bytes_mut(&mut self) -> &mut [u8] {
        self.data.get_mut(..self.len).unwrap_or_default()
    }

    /// All memory of the chunk, 64 KiB at least: for work that is done before the chunk's bytes are written.
    pub(super) fn room_mut(&mut self) -> &mut [u8] {
        &mut self.data
    }

    /// The finished chunk. The permit goes with it.
    pub(super) fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for ChunkBuffer {
    fn as_ref(&self) -> &[u8] {
        self.data.get(..self.len).unwrap_or_default()
    }
}

impl Drop for ChunkBuffer {
    fn drop(&mut self) {
        if let Some(mut room) = self.room.take() {
            // Buffer and permit in one go.
            room.budget.give_back(&room, Some(std::mem::take(&mut self.data)));
            room.bytes = 0;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    const MIB: u64 = 1 << 20;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn take(share: &Share, len: usize) -> Option<ChunkBuffer> {
        share.poll_buffer(&Context::from_waker(Waker::noop()), len)
    }

    #[test]
    fn a_share_is_the_window_or_its_part_of_the_budget_and_never_under_two_small_chunks() {
        let budget = Budget::new(512 * MIB, 32 * MIB);
        let mut shares = vec![budget.register()];
        let first =
            |shares: &[Share]| (shares[0].window_bytes(), shares[0].chunk_bytes(), shares[0].read_ahead());
        assert_eq!(first(&shares), (32 * MIB, 1 << 20, 8));
        shares.extend((1..63).map(|_| budget.register()));
        assert_eq!(first(&shares), (8 * MIB, 1 << 20, 8));
        shares.extend((63..1000).map(|_| budget.register()));
        assert_eq!(first(&shares), (512 * MIB / 1001, 128 << 10, 4));
        shares.extend((1000..9000).map(|_| budget.register()));
        assert_eq!(first(&shares), (128 << 10, 64 << 10, 2));
        assert_eq!(budget.transfers(), 9000);
        drop(shares);
        assert_eq!((budget.transfers(), budget.used_bytes()), (0, 0));
    }

    #[test]
    fn two_chunks_are_granted_to_everyone_and_more_only_while_there_is_room() {
        let budget = Budget::new(3 * MIB, 32 * MIB);
        let (one, two) = (budget.register(), budget.register());
        let mut held: Vec<_> = (0..2).map(|_| take(&one, 1 << 20).unwrap()).collect();
        assert!(take(&one, 64 << 10).is_none(), "its share is 1 MiB");
        held.extend((0..2).map(|_| take(&two, 1 << 20).unwrap()));
        assert_eq!(budget.used_bytes(), 4 * MIB);
        drop(two);
        assert!(take(&one, 64 << 10).is_none(), "the budget is used up");
        held.truncate(1);
        assert_eq!(budget.used_bytes(), MIB);
        assert!(take(&one, 512 << 10).is_some());
    }

    #[test]
    fn a_permit_travels_with_its_bytes_and_comes_back_with_the_last_of_them() {
        let budget = Budget::new(8 * MIB, 8 * MIB);
        let share = budget.register();
        let mut chunk = take(&share, 100_000).unwrap();
        chunk.bytes_mut().fill(7);
        let bytes = chunk.freeze();
        assert_eq!(bytes, vec![7; 100_000]);
        assert_eq!(budget.used_bytes(), 128 << 10);
        let slice = bytes.slice(5..6);
        drop((bytes, share));
        assert_eq!(budget.used_bytes(), 128 << 10);
        drop(slice);
        assert_eq!(budget.used_bytes(), 0);
    }

    #[tokio::test]
    async fn bytes_of_others_count_with_the_same_rules() {
        let budget = Budget::new(2 * MIB, 2 * MIB);
        let share = budget.register();
        let mut held = vec![share.room(MIB).await, share.room(MIB).await];
        assert_eq!(budget.used_bytes(), 2 * MIB);
        let mut third = Box::pin(share.room(1));
        assert!(futures_util::poll!(&mut third).is_pending());
        held.pop();
        drop(third.await);
        drop(held);
        assert_eq!(budget.used_bytes(), 0);
    }

    #[test]
    fn who_waits_for_room_is_woken_when_a_chunk_or_a_share_goes() {
        let budget = Budget::new(2 * MIB, 2 * MIB);
        let (one, two) = (budget.register(), budget.register());
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut held: Vec<_> = (0..2).map(|_| take(&one, 1 << 20).unwrap()).collect();
        let wait = || assert!(one.poll_buffer(&Context::from_waker(&waker), 1 << 20).is_none());
        wait();
        wait();
        assert_eq!(woken.0.load(Ordering::Relaxed), 0);
        drop(take(&two, 1).unwrap());
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
        wait();
        drop(two);
        assert_eq!(woken.0.load(Ordering::Relaxed), 2);
        wait();
        held.pop();
        assert_eq!(woken.0.load(Ordering::Relaxed), 3);
    }

    #[test]
    fn a_chunk_with_a_few_bytes_more_takes_little_more_memory() {
        const KIB: usize = 1 << 10;
        for (len, wanted) in [
            (1, 64 * KIB),
            (64 * KIB, 64 * KIB),
            (64 * KIB + 1, 66 * KIB),
            (66 * KIB, 66 * KIB),
            (66 * KIB + 1, 128 * KIB),
            (1024 * KIB, 1024 * KIB),
            (1026 * KIB, 1026 * KIB),
        ] {
            assert_eq!(buffer_bytes(len), wanted, "{len}");
        }
        let budget = Budget::new(8 * MIB, 8 * MIB);
        let share = budget.register();
        let first = take(&share, (1 << 20) + 1536).unwrap();
        let address = first.data.as_ptr();
        assert_eq!(budget.used_bytes(), MIB + 2048);
        assert_eq!(first.data.capacity(), (1 << 20) + 2048);
        drop(first);
        assert_eq!(take(&share, (1 << 20) + 5).unwrap().data.as_ptr(), address);
    }

    #[test]
    fn who_waits_for_room_in_his_share_is_not_woken_by_what_others_give_back() {
        let budget = Budget::new(64 * MIB, 2 * MIB);
        let (slow, fast) = (budget.register(), budget.register());
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut held: Vec<_> = (0..2).map(|_| take(&slow, 1 << 20).unwrap()).collect();
        assert!(slow.poll_buffer(&Context::from_waker(&waker), 1 << 20).is_none());
        drop((0..2).map(|_| take(&fast, 1 << 20).unwrap()).collect::<Vec<_>>());
        assert_eq!(woken.0.load(Ordering::Relaxed), 0);
        held.pop();
        assert_eq!(woken.0.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn buffers_are_used_again_and_the_pool_is_bounded_and_empty_without_transfers() {
        let budget = Budget::new(512 * MIB, 512 * MIB);
        let share = budget.register();
        let first = take(&share, 1 << 20).unwrap();
        let address = first.data.as_ptr();
        drop(first);
        assert_eq!(take(&share, 1 << 20).unwrap().data.as_ptr(), address);
        drop((0..64).map(|_| take(&share, 1 << 20).unwrap()).collect::<Vec<_>>());
        assert_eq!(budget.lock().pool_bytes, POOL_BYTES);
        drop(share);
        assert_eq!(budget.lock().pool_bytes, 0);
        assert!(budget.lock().pool.is_empty());
    }
}
