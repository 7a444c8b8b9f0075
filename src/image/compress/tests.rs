use crate::disk::io_pool::IoPool;
use std::num::NonZeroUsize;
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use proptest::prelude::*;

use super::*;
use crate::disk::error::DiskError;
use crate::disk::map::AllocationMap;
use crate::formats::Piece;
use crate::formats::frames::{Codec, Decompressor, FrameEncoder, Next, Sniffed};
use crate::image::budget::Budget;
use crate::image::raw_layout::RawLayout;
use crate::image::vhd_layout::VhdImageLayout;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// A disk whose content repeats itself from 64 KiB to the next, but for each sector's number; zero where it says so.
struct Computed {
    size: u64,
    zero: Range<u64>,
    fails_at: Mutex<Option<u64>>,
    read_bytes: AtomicU64,
}

impl Computed {
    fn new(size: u64) -> Arc<Self> {
        let (zero, fails_at) = (0..0, Mutex::default());
        Arc::new(Self { size, zero, fails_at, read_bytes: AtomicU64::new(0) })
    }
}

impl DiskReader for Computed {
    fn virtual_size(&self) -> u64 {
        self.size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        self.read_bytes.fetch_add(buf.len() as u64, Ordering::Relaxed);
        let end = offset + buf.len() as u64;
        if let Some(at) = self.fails_at.lock().unwrap().filter(|at| (offset..end).contains(at)) {
            return Err(DiskError::ShortFile { path: "computed".into(), offset, expected: end, found: at });
        }
        for (at, sector) in (offset / 512..).zip(buf.chunks_mut(512)) {
            sector.fill((at % 128) as u8);
            sector[..8].copy_from_slice(&(at + 1).to_be_bytes());
            if self.zero.contains(&(at * 512)) {
                sector.fill(0);
            }
        }
        Ok(())
    }
}

fn count(n: usize) -> NonZeroUsize {
    NonZeroUsize::new(n).unwrap()
}

fn zstd(level: i32) -> Compression {
    Compression::new(Codec::Zstd, level).unwrap()
}

fn map(size: u64, sets: &[(u64, u64)]) -> Arc<AllocationMap> {
    let mut map = AllocationMap::new(size);
    sets.iter().for_each(|&(start, length)| map.set_range(start, length));
    Arc::new(map)
}

fn raw(map: &Arc<AllocationMap>) -> Arc<dyn Layout> {
    Arc::new(RawLayout::new(Arc::clone(map)))
}

/// One transfer and what is needed to look at it.
struct Transfer {
    stream: CompressedStream,
    counters: Arc<ProduceCounters>,
    budget: Arc<Budget>,
    compute: Arc<ComputePool>,
}

fn begin(
    layout: &Arc<dyn Layout>,
    disk: Arc<dyn DiskReader>,
    compression: Compression,
    frames: Range<u64>,
    budget: &Arc<Budget>,
) -> Transfer {
    let counters = Arc::new(ProduceCounters::default());
    let pool = Arc::new(IoPool::new("compress-test", count(2), count(64), 0).unwrap());
    let compute = ComputePool::new(count(2)).unwrap();
    let range = FrameRange { compression, frames };
    let share = budget.register();
    let stream = compress(Arc::clone(layout), disk, range, pool, &compute, share, Arc::clone(&counters));
    Transfer { stream, counters, budget: Arc::clone(budget), compute }
}

fn budget() -> Arc<Budget> {
    Budget::new(512 * MIB, 64 * MIB)
}

/// All frames, in order, and how it ended.
async fn collect(stream: &mut CompressedStream, first: u64) -> (Vec<Bytes>, Option<ProduceError>) {
    let mut frames = Vec::new();
    while let Some(frame) = stream.next().await {
        match frame {
            Ok(frame) => {
                assert_eq!(frame.number, first + frames.len() as u64);
                // Copied, as what is held back counts.
                frames.push(Bytes::copy_from_slice(&frame.bytes));
            }
            Err(error) => {
                assert!(stream.next().await.is_none(), "an error is the end");
                return (frames, Some(error));
            }
        }
    }
    assert!(stream.next().await.is_none());
    (frames, None)
}

/// The image, made by the producer alone.
async fn image(layout: &Arc<dyn Layout>, disk: Arc<dyn DiskReader>) -> Vec<u8> {
    let pool = Arc::new(IoPool::new("compress-test", count(2), count(64), 0).unwrap());
    let mut chunks =
        produce(Arc::clone(layout), disk, 0..layout.len(), pool, budget().register(), Arc::default());
    let mut image = Vec::new();
    while let Some(chunk) = chunks.next().await {
        image.extend_from_slice(&chunk.unwrap());
    }
    image
}

/// The frames of an image, each made by an encoder of its own.
fn frames_of(image: &[u8], compression: Compression) -> Vec<Vec<u8>> {
    let frame = |window| {
        let mut frame = Vec::new();
        FrameEncoder::new(compression).unwrap().compress(window, &mut frame).unwrap();
        frame
    };
    image.chunks(compression.window_bytes() as usize).map(frame).collect()
}

fn run<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

/// Waits until all that nobody wants any more has given its memory back.
async fn all_given_back(budget: &Budget) {
    while budget.used_bytes() > 0 {
        tokio::task::yield_now().await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]
    #[test]
    fn any_frames_of_any_layout_are_those_of_its_windows_whatever_is_given_back(
        sectors in 1..60_000_u64,
        sets in prop::collection::vec((0..30 * MIB, 0..6 * MIB), 0..5),
        as_vhd in any::<bool>(),
        compression in prop::sample::select(vec![zstd(1), zstd(3), zstd(4), Compression::default_of(Codec::Gzip)]),
        small_budget in any::<bool>(),
        bursts in prop::collection::vec(1..4_usize, 0..4),
        (a, b) in (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
    ) {
        let map = map(sectors * 512, &sets);
        let layout: Arc<dyn Layout> = match as_vhd {
            true => Arc::new(VhdImageLayout::new(Arc::clone(&map), [0x11; 16], 700_000_000).unwrap()),
            false => raw(&map),
        };
        let disk = Computed::new(sectors * 512);
        let budget = if small_budget { Budget::new(1, 1) } else { budget() };
        run(async {
            let image = image(&layout, disk.clone()).await;
            let wanted = frames_of(&image, compression);
            prop_assert_eq!(compression.frames_of(layout.len()), wanted.len() as u64);
            let (a, b) = (a.index(wanted.len() + 1), b.index(wanted.len() + 1));
            for (start, end) in [(0, wanted.len()), (a.min(b), a.max(b))] {
                let frames = start as u64..end as u64;
                let mut transfer = begin(&layout, disk.clone(), compression, frames, &budget);
                let mut bursts = bursts.iter().cycle().copied();
                let (mut at, mut left) = (start, bursts.next());
                while let Some(frame) = transfer.stream.next().await {
                    let frame = frame.unwrap();
                    prop_assert_eq!(frame.number, at as u64);
                    prop_assert!(frame.bytes == wanted[at], "frame {}", at);
                    at += 1;
                    left = left.map(|left| left - 1);
                    if left == Some(0) {
                        drop(frame);
                        transfer.stream.give_back();
                        prop_assert_eq!(transfer.stream.in_flight(), 0);
                        all_given_back(&budget).await;
                        left = bursts.next();
                    }
                }
                prop_assert_eq!(at, end);
                let window = compression.window_bytes() as usize;
                let plain = image.chunks(window).skip(start).take(end - start).map(<[u8]>::len).sum::<usize>();
                prop_assert_eq!(transfer.counters.produced_bytes(), plain as u64);
                drop(transfer);
                all_given_back(&budget).await;
            }
            Ok(())
        })?;
    }
}

#[test]
fn the_frames_one_after_the_other_unpack_to_the_image() {
    let map = map(11 * MIB, &[(0, 5 * MIB), (9 * MIB, MIB)]);
    for (codec, sniffed) in [(Codec::Gzip, Sniffed::Gzip), (Codec::Zstd, Sniffed::Zstd)] {
        let (disk, layout) = (Computed::new(11 * MIB), raw(&map));
        let frames = 0..3;
        let mut transfer = begin(&layout, disk.clone(), Compression::default_of(codec), frames, &budget());
        let (frames, image) =
            run(async { (collect(&mut transfer.stream, 0).await.0, image(&layout, disk).await) });
        let mut decompressor = Decompressor::new(sniffed);
        decompressor.push(frames.concat().into());
        let mut plain = Vec::new();
        while let Next::Chunk(chunk) = decompressor.next_chunk().unwrap() {
            plain.extend_from_slice(&chunk);
        }
        decompressor.finish().unwrap();
        assert!(plain == image);
    }
}

#[tokio::test]
async fn a_sparse_disk_takes_cached_frames_and_no_memory() {
    /// A disk, and its layout, that has nothing to be read.
    struct Sparse;
    impl DiskReader for Sparse {
        fn virtual_size(&self) -> u64 {
            1 << 40
        }
        fn read_at(&self, _: u64, _: &mut [u8]) -> Result<(), DiskError> {
            panic!("there is nothing to be read")
        }
    }
    impl Layout for Sparse {
        fn len(&self) -> u64 {
            1 << 40
        }
        fn virtual_size(&self) -> u64 {
            1 << 40
        }
        fn piece_at(&self, at: u64, limit: u64) -> Piece {
            Piece::Zeros(limit.min(self.len() - at))
        }
    }
    let (budget, layout): (_, Arc<dyn Layout>) = (budget(), Arc::new(Sparse));
    let frames = 100_000..116_384;
    let mut transfer = begin(&layout, Arc::new(Sparse), zstd(3), frames, &budget);
    let wanted = frames_of(&vec![0; 4 << 20], zstd(3)).remove(0);
    let mut frames = 0_u64;
    while let Some(frame) = transfer.stream.next().await {
        let frame = frame.unwrap();
        assert_eq!(frame.number, 100_000 + frames);
        assert!(frame.bytes == wanted);
        frames += 1;
        if frames > 8 {
            assert_eq!(budget.used_bytes(), 0);
        }
    }
    assert_eq!((frames, transfer.counters.produced_bytes()), (16_384, 64 << 30));
    assert_eq!(transfer.counters.reads(), 0);
}

#[tokio::test]
async fn zeros_that_are_stored_are_found_and_take_the_same_frame() {
    let map = map(24 * MIB, &[(0, 24 * MIB)]);
    let disk =
        Arc::new(Computed { zero: 4 * MIB..20 * MIB, ..Arc::into_inner(Computed::new(24 * MIB)).unwrap() });
    let mut transfer = begin(&raw(&map), disk, zstd(3), 0..6, &budget());
    let (frames, error) = collect(&mut transfer.stream, 0).await;
    assert!(error.is_none());
    let zeros = transfer.compute.zero_frame(zstd(3), 4 << 20).expect("it was made once");
    assert!(frames[1..5].iter().all(|frame| frame == &zeros));
    assert!(frames[0] != zeros && frames[5] != zeros);
}

#[tokio::test]
async fn there_are_two_windows_for_each_thread_in_flight_and_no_more_also_when_nobody_asks() {
    let map = map(64 * MIB, &[(0, 64 * MIB)]);
    let disk = Computed::new(64 * MIB);
    let budget = Budget::new(512 * MIB, 512 * MIB);
    let mut transfer = begin(&raw(&map), disk.clone(), zstd(1), 0..16, &budget);
    let in_flight = |transfer: &Transfer| (budget.used_bytes(), transfer.stream.in_flight());
    assert_eq!(in_flight(&transfer), (0, 0), "nothing happens before the first poll");
    // Both threads are held up, so that nothing gets done.
    let (open, closed) = std::sync::mpsc::channel::<()>();
    let closed = Arc::new(Mutex::new(closed));
    let held_up: Vec<_> = (0..2)
        .map(|_| {
            let closed = Arc::clone(&closed);
            transfer.compute.start(move || closed.lock().unwrap().recv().is_err())
        })
        .collect();
    while transfer.stream.in_flight() < 4 {
        assert!(futures_util::poll!(transfer.stream.next()).is_pending());
        tokio::task::yield_now().await;
    }
    for _ in 0..100 {
        assert!(futures_util::poll!(transfer.stream.next()).is_pending());
        tokio::task::yield_now().await;
    }
    assert_eq!(transfer.stream.in_flight(), 4);
    assert!(disk.read_bytes.load(Ordering::Relaxed) <= (4 * 4 + 8) * MIB);
    drop(open);
    for gate in held_up {
        assert!(gate.await.unwrap());
    }
    assert_eq!(transfer.stream.next().await.unwrap().unwrap().number, 0);
    // Nobody asks any more: what was begun ends as frames, which are short. One window may not be full.
    while budget.used_bytes() > 22 * MIB {
        tokio::task::yield_now().await;
    }
    assert!(transfer.stream.in_flight() <= 4);
    drop(transfer.stream);
    all_given_back(&budget).await;
}

#[tokio::test]
async fn the_smallest_share_has_one_window_in_flight_and_still_moves() {
    let map = map(24 * MIB, &[(0, 24 * MIB)]);
    let small = Budget::new(1, 1);
    let (disk, layout) = (Computed::new(24 * MIB), raw(&map));
    let mut one = begin(&layout, disk.clone(), zstd(3), 0..6, &small);
    let mut two = begin(&layout, disk, zstd(3), 0..6, &small);
    let window = FrameEncoder::bound(Codec::Zstd, 4 << 20) as u64;
    for _ in 0..6 {
        let (a, b) = (one.stream.next().await.unwrap().unwrap(), two.stream.next().await.unwrap().unwrap());
        assert!(a == b);
        assert!(one.stream.in_flight() <= 1 && two.stream.in_flight() <= 1);
        assert!(small.used_bytes() <= 2 * (2 * window + 2 * 64 * KIB), "{}", small.used_bytes());
    }
    assert!(one.stream.next().await.is_none() && two.stream.next().await.is_none());
}

#[tokio::test]
async fn a_consumer_that_keeps_its_frames_waits_until_it_gives_one_back() {
    let map = map(24 * MIB, &[(0, 24 * MIB)]);
    let small = Budget::new(1, 1);
    let mut transfer = begin(&raw(&map), Computed::new(24 * MIB), zstd(1), 0..6, &small);
    let mut kept = vec![transfer.stream.next().await.unwrap().unwrap()];
    let next = tokio::spawn(async move { transfer.stream.next().await.unwrap().unwrap().number });
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert!(!next.is_finished());
    kept.pop();
    assert_eq!(next.await.unwrap(), 1);
}

#[tokio::test]
async fn a_read_error_comes_once_after_all_frames_before_it() {
    let map = map(24 * MIB, &[(0, 24 * MIB)]);
    let disk = Computed::new(24 * MIB);
    *disk.fails_at.lock().unwrap() = Some(13 * MIB);
    let budget = budget();
    let mut transfer = begin(&raw(&map), disk, zstd(1), 1..6, &budget);
    let (frames, error) = collect(&mut transfer.stream, 1).await;
    assert_eq!(frames.len(), 2);
    assert!(matches!(error, Some(ProduceError::Disk(DiskError::ShortFile { .. }))), "{error:?}");
    assert_eq!(transfer.stream.give_back(), 0);
    all_given_back(&budget).await;
}

#[tokio::test]
async fn frames_that_are_not_in_the_image_and_another_disk_are_refused() {
    let map = map(9 * MIB, &[]);
    for (start, end) in [(0, 4), (4, 4), (2, 1), (0, u64::MAX), (u64::MAX, u64::MAX)] {
        let disk = Computed::new(9 * MIB);
        let mut transfer = begin(&raw(&map), disk, zstd(3), Range { start, end }, &budget());
        let (frames, error) = collect(&mut transfer.stream, 0).await;
        assert!(frames.is_empty());
        assert!(matches!(error, Some(ProduceError::BadFrames { frames: 3, .. })), "{error:?}");
    }
    let mut none = begin(&raw(&map), Computed::new(9 * MIB), zstd(3), 3..3, &budget());
    assert!(none.stream.next().await.is_none());
    let mut other = begin(&raw(&map), Computed::new(MIB), zstd(3), 0..1, &budget());
    let (_, error) = collect(&mut other.stream, 0).await;
    assert!(matches!(error, Some(ProduceError::SizeChanged { .. })), "{error:?}");
}

#[tokio::test]
async fn dropping_the_stream_gives_all_memory_back() {
    let map = map(64 * MIB, &[(0, 64 * MIB)]);
    let budget = budget();
    let mut transfer = begin(&raw(&map), Computed::new(64 * MIB), zstd(9), 0..8, &budget);
    let frame = transfer.stream.next().await.unwrap().unwrap();
    assert!(budget.used_bytes() >= frame.bytes.len() as u64);
    drop((transfer, frame));
    all_given_back(&budget).await;
}

#[tokio::test]
async fn a_sink_that_is_always_blocked_again_costs_a_bounded_part_of_the_work() {
    let map = map(128 * MIB, &[(0, 128 * MIB)]);
    let disk = Computed::new(128 * MIB);
    let mut transfer = begin(&raw(&map), disk.clone(), zstd(1), 0..32, &Budget::new(512 * MIB, 512 * MIB));
    while let Some(frame) = transfer.stream.next().await {
        drop(frame.unwrap());
        let_things_happen(&transfer).await;
        transfer.stream.give_back();
    }
    // A quarter for the windows and what their first credit allows, a quarter of that for the chunks, and theirs.
    let windows = 128 * MIB * 5 / 4 + 4 * 4 * MIB;
    let read = disk.read_bytes.load(Ordering::Relaxed);
    assert!(read <= windows * 5 / 4 + 8 * MIB, "{} MiB", read / MIB);
}

/// Lets what is in flight come to its end, or near to it.
async fn let_things_happen(transfer: &Transfer) {
    for _ in 0..50 {
        tokio::task::yield_now().await;
        if transfer.budget.used_bytes() < 4 * MIB {
            break;
        }
    }
}
