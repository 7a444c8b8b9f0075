use crate::disk::io_pool::IoPool;
use std::num::{NonZeroU64, NonZeroUsize};
use std::sync::Condvar;
use std::sync::Mutex;

use proptest::prelude::*;

use super::*;
use crate::disk::map::AllocationMap;
use crate::formats::Piece;
use crate::formats::vhd::{BlockSet, VhdLayout};
use crate::formats::xva::Checksum;
use crate::image::budget::Budget;
use crate::image::raw_layout::RawLayout;
use crate::image::vhd_layout::VhdImageLayout;

mod xva;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;

/// A disk of which each byte can be told from its address, zero where the map has holes.
struct Computed {
    map: Arc<AllocationMap>,
    fails_at: Option<u64>,
    gate: Option<Arc<Gate>>,
    reads: AtomicU64,
}

/// Holds readers back until it is opened.
#[derive(Default)]
struct Gate {
    open: Mutex<bool>,
    opened: Condvar,
}

impl Gate {
    fn wait(&self) {
        let open = self.open.lock().unwrap();
        drop(self.opened.wait_while(open, |open| !*open).unwrap());
    }

    fn open(&self) {
        *self.open.lock().unwrap() = true;
        self.opened.notify_all();
    }
}

/// A sector's content: its number, then a byte that follows from it.
fn sector_content(sector: u64) -> [u8; 512] {
    let mut content = [(sector * 7) as u8 | 1; 512];
    content[..8].copy_from_slice(&(sector + 1).to_be_bytes());
    content
}

/// Fills `buf` with what the disk has from `offset` on where it has data.
fn fill_with_data(offset: u64, buf: &mut [u8]) {
    let (mut at, mut rest) = (offset, buf);
    while !rest.is_empty() {
        let within = (at % 512) as usize;
        let (part, after) = rest.split_at_mut(rest.len().min(512 - within));
        part.copy_from_slice(&sector_content(at / 512)[within..][..part.len()]);
        at += part.len() as u64;
        rest = after;
    }
}

impl Computed {
    fn new(map: &Arc<AllocationMap>) -> Self {
        Self { map: Arc::clone(map), fails_at: None, gate: None, reads: AtomicU64::new(0) }
    }

    fn content(&self) -> Vec<u8> {
        let mut content = vec![0; self.map.virtual_size() as usize];
        self.read_at(0, &mut content).unwrap();
        content
    }
}

impl DiskReader for Computed {
    fn virtual_size(&self) -> u64 {
        self.map.virtual_size()
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        if let Some(gate) = &self.gate {
            gate.wait();
        }
        let end = offset + buf.len() as u64;
        if let Some(at) = self.fails_at.filter(|at| (offset..end).contains(at)) {
            return Err(DiskError::ShortFile { path: "computed".into(), offset, expected: end, found: at });
        }
        buf.fill(0);
        let mut at = offset;
        while let Some(extent) = self.map.extent_at(at).filter(|extent| extent.start < end) {
            if extent.data {
                let range = (at - offset) as usize..(extent.end().min(end) - offset) as usize;
                fill_with_data(at, &mut buf[range]);
            }
            at = extent.end();
        }
        Ok(())
    }
}

fn map(size: u64, sets: &[(u64, u64)]) -> Arc<AllocationMap> {
    let mut map = AllocationMap::new(size);
    sets.iter().for_each(|&(start, length)| map.set_range(start, length));
    Arc::new(map)
}

fn pool(threads: usize) -> Arc<IoPool> {
    let count = |n| NonZeroUsize::new(n).unwrap();
    Arc::new(IoPool::new("produce-test", count(threads), count(64), 0).unwrap())
}

fn vhd(map: &Arc<AllocationMap>) -> Arc<dyn Layout> {
    Arc::new(VhdImageLayout::new(Arc::clone(map), [0x11; 16], 700_000_000).unwrap())
}

fn raw(map: &Arc<AllocationMap>) -> Arc<dyn Layout> {
    Arc::new(RawLayout::new(Arc::clone(map)))
}

/// One transfer and what is needed to look at it.
struct Transfer {
    stream: ChunkStream,
    counters: Arc<ProduceCounters>,
    budget: Arc<Budget>,
}

fn begin(layout: &Arc<dyn Layout>, disk: Arc<dyn DiskReader>, range: Range<u64>, window: u64) -> Transfer {
    let budget = Budget::new(512 * MIB, window);
    let counters = Arc::new(ProduceCounters::default());
    let share = budget.register();
    let stream = produce(Arc::clone(layout), disk, range, pool(2), share, Arc::clone(&counters));
    Transfer { stream, counters, budget }
}

async fn collect(mut stream: ChunkStream) -> (Vec<u8>, Option<ProduceError>) {
    let mut all = Vec::new();
    while let Some(chunk) = stream.next().await {
        match chunk {
            Ok(chunk) => all.extend_from_slice(&chunk),
            Err(error) => {
                assert!(stream.next().await.is_none(), "an error is the end");
                return (all, Some(error));
            }
        }
    }
    (all, None)
}

/// The format's own layout, which reads all of a block that holds any data.
struct WithoutHoles(VhdLayout);

impl Layout for WithoutHoles {
    fn len(&self) -> u64 {
        self.0.len()
    }

    fn virtual_size(&self) -> u64 {
        self.0.virtual_size()
    }

    fn piece_at(&self, at: u64, limit: u64) -> Piece {
        self.0.piece_at(at, limit)
    }
}

fn without_holes(map: &AllocationMap) -> WithoutHoles {
    let mut blocks = BlockSet::builder(map.virtual_size().div_ceil(2 * MIB) as u32);
    let block_bytes = NonZeroU64::new(2 * MIB).unwrap();
    map.blocks_with_data(block_bytes).for_each(|block| blocks.insert(block as u32));
    let (id, timestamp) = ([0x11; 16], 700_000_000);
    WithoutHoles(VhdLayout::new(map.virtual_size(), blocks.finish(), id, timestamp).unwrap())
}

/// The image made piece by piece, without the producer.
fn plain(layout: &dyn Layout, disk: &dyn DiskReader) -> Vec<u8> {
    let mut image = Vec::new();
    while (image.len() as u64) < layout.len() {
        match layout.piece_at(image.len() as u64, u64::MAX) {
            Piece::Bytes(bytes) => image.extend_from_slice(&bytes),
            Piece::Zeros(zeros) => image.resize(image.len() + zeros as usize, 0),
            Piece::Disk { offset, len } => {
                let mut bytes = vec![0; len as usize];
                disk.read_at(offset, &mut bytes).unwrap();
                image.extend_from_slice(&bytes);
            }
            Piece::Digest { start, len, kind, skip, take } => {
                let mut checksum = Checksum::new(kind);
                checksum.update(&image[start as usize..][..len as usize]);
                image.extend_from_slice(&checksum.text().as_bytes()[skip as usize..][..take as usize]);
            }
        }
    }
    image
}

fn run<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn any_range_of_any_layout_equals_the_slice_of_the_whole(
        sectors in 1..9000_u64,
        sets in prop::collection::vec((0..5 * MIB, 0..600 * KIB), 0..8),
        as_vhd in any::<bool>(),
        small_window in any::<bool>(),
        ranges in prop::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..4),
    ) {
        let map = map(sectors * 512, &sets);
        let layout = if as_vhd { vhd(&map) } else { raw(&map) };
        let disk = Arc::new(Computed::new(&map));
        let image = plain(&*layout, &*disk);
        prop_assert_eq!(image.len() as u64, layout.len());
        // Holes or not, the image is what the disk and the format say.
        let wanted = if as_vhd { plain(&without_holes(&map), &*disk) } else { disk.content() };
        prop_assert!(image == wanted);
        let window = if small_window { 128 * KIB } else { 32 * MIB };
        let mut wanted = vec![(0, image.len())];
        wanted.extend(ranges.iter().map(|(a, b)| (a.index(image.len() + 1), b.index(image.len() + 1))));
        for (a, b) in wanted {
            let (start, end) = (a.min(b), a.max(b));
            let transfer = begin(&layout, disk.clone(), start as u64..end as u64, window);
            let (bytes, error) = run(collect(transfer.stream));
            prop_assert!(error.is_none(), "{error:?}");
            prop_assert!(bytes == image[start..end], "{start}..{end}");
            prop_assert_eq!(transfer.counters.produced_bytes(), (end - start) as u64);
            prop_assert_eq!(transfer.budget.used_bytes(), 0);
        }
    }

    #[test]
    fn a_read_error_comes_at_its_place_and_is_never_a_quiet_end(at in 0..6 * MIB) {
        let map = map(6 * MIB, &[(0, 6 * MIB)]);
        let disk = Arc::new(Computed { fails_at: Some(at), ..Computed::new(&map) });
        let transfer = begin(&raw(&map), disk, 0..6 * MIB, 32 * MIB);
        let (bytes, error) = run(collect(transfer.stream));
        prop_assert!(matches!(error, Some(ProduceError::Disk(DiskError::ShortFile { .. }))), "{error:?}");
        prop_assert_eq!(bytes.len() as u64, at / MIB * MIB);
        let mut wanted = vec![0; bytes.len()];
        fill_with_data(0, &mut wanted);
        prop_assert!(bytes == wanted);
        // Reads that had begun keep their memory until they return.
        while transfer.budget.used_bytes() > 0 {
            std::thread::yield_now();
        }
    }
}

#[test]
fn a_vhd_of_the_smallest_map_is_laid_out_as_the_rules_say() {
    // §6 of the format's rules: 4 MiB disk with its second block allocated. T = 1536, B = 512.
    let map = map(4 * MIB, &[(3 * MIB, 1)]);
    let layout = vhd(&map);
    let disk = Computed::new(&map);
    let image = plain(&*layout, &disk);
    assert_eq!(&image[..8], b"conectix");
    assert_eq!(image[..512], image[image.len() - 512..]);
    assert_eq!(&image[512..520], b"cxsparse");
    let data = image.len() - 512 - (2 << 20);
    assert_eq!(image[data - 512..data], [0xFF; 512]);
    assert!(image[data..][..2 << 20] == disk.content()[2 << 20..]);
}

#[tokio::test]
async fn holes_cost_no_reads_and_no_memory() {
    let map = map(1 << 30, &[(100 * MIB, MIB), (700 * MIB, 3 * MIB)]);
    for layout in [raw(&map), vhd(&map)] {
        let disk = Arc::new(Computed::new(&map));
        let mut transfer = begin(&layout, disk.clone(), 0..layout.len(), 32 * MIB);
        let (mut produced, mut most) = (0, 0);
        while let Some(chunk) = transfer.stream.next().await {
            produced += chunk.unwrap().len() as u64;
            most = most.max(transfer.budget.used_bytes());
        }
        assert_eq!(produced, layout.len());
        assert_eq!(transfer.counters.disk_bytes(), 4 * MIB);
        assert_eq!(transfer.counters.reads(), disk.reads.load(Ordering::Relaxed));
        assert!(transfer.counters.reads() <= 10, "{} reads", transfer.counters.reads());
        assert!(most <= 8 * MIB, "{most}");
    }
    let counters = {
        let disk = Arc::new(Computed::new(&map));
        let transfer = begin(&raw(&map), disk, 0..1 << 30, 32 * MIB);
        run_to_end(transfer).await
    };
    assert_eq!(counters.zero_bytes(), (1 << 30) - 4 * MIB);
}

async fn run_to_end(mut transfer: Transfer) -> Arc<ProduceCounters> {
    while let Some(chunk) = transfer.stream.next().await {
        chunk.unwrap();
    }
    transfer.counters
}

#[tokio::test]
async fn a_consumer_that_pauses_has_eight_chunks_under_way_and_no_more() {
    let map = map(64 * MIB, &[(0, 64 * MIB)]);
    let disk = Arc::new(Computed::new(&map));
    let mut transfer = begin(&raw(&map), disk.clone(), 0..64 * MIB, 32 * MIB);
    assert_eq!(transfer.budget.used_bytes(), 0, "nothing happens before the first poll");
    let first = transfer.stream.next().await.unwrap().unwrap();
    assert_eq!(first.len(), 1 << 20);
    // All eight reads of the first poll finish; nobody polls again.
    while disk.reads.load(Ordering::Relaxed) < 8 || transfer.stream.pools.first().in_flight() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(disk.reads.load(Ordering::Relaxed), 8);
    assert_eq!(transfer.budget.used_bytes(), 8 * MIB, "the one handed out is one of them");
    drop(first);
    assert_eq!(transfer.budget.used_bytes(), 7 * MIB);
    drop(transfer.stream);
    assert_eq!(transfer.budget.used_bytes(), 0);
}

#[tokio::test]
async fn the_smallest_share_still_moves_with_two_small_chunks() {
    let map = map(3 * MIB, &[(0, 3 * MIB)]);
    let budget = Budget::new(1, 1);
    let start = || {
        let (disk, counters) = (Arc::new(Computed::new(&map)), Arc::new(ProduceCounters::default()));
        produce(raw(&map), disk, 0..3 * MIB, pool(1), budget.register(), counters)
    };
    let (mut one, mut two) = (start(), start());
    let mut total = 0;
    while let Some(chunk) = one.next().await {
        total += chunk.unwrap().len();
        total += two.next().await.unwrap().unwrap().len();
        assert!(budget.used_bytes() <= 4 * 64 * KIB);
    }
    assert!(two.next().await.is_none());
    assert_eq!(total as u64, 6 * MIB);
}

#[tokio::test]
async fn a_consumer_that_keeps_its_chunks_waits_until_it_gives_one_back() {
    let map = map(3 * MIB, &[(0, 3 * MIB)]);
    let mut transfer = begin(&raw(&map), Arc::new(Computed::new(&map)), 0..3 * MIB, 128 * KIB);
    let mut kept = Vec::new();
    kept.push(transfer.stream.next().await.unwrap().unwrap());
    kept.push(transfer.stream.next().await.unwrap().unwrap());
    assert!(futures_util::poll!(transfer.stream.next()).is_pending());
    assert_eq!(transfer.budget.used_bytes(), 128 * KIB);
    let next = tokio::spawn(async move { transfer.stream.next().await.unwrap().unwrap().len() });
    tokio::task::yield_now().await;
    kept.pop();
    assert_eq!(next.await.unwrap(), 64 << 10);
}

#[tokio::test]
async fn dropping_the_stream_skips_reads_that_have_not_begun_and_gives_all_memory_back() {
    let map = map(64 * MIB, &[(0, 64 * MIB)]);
    let gate = Arc::new(Gate::default());
    let disk = Arc::new(Computed { gate: Some(Arc::clone(&gate)), ..Computed::new(&map) });
    let mut transfer = begin(&raw(&map), disk.clone(), 0..64 * MIB, 32 * MIB);
    assert!(futures_util::poll!(transfer.stream.next()).is_pending());
    let pool = Arc::clone(transfer.stream.pools.first());
    while pool.in_flight() < 2 {
        tokio::task::yield_now().await;
    }
    assert_eq!(pool.queued(), 6);
    drop(transfer.stream);
    gate.open();
    while transfer.budget.used_bytes() > 0 {
        tokio::task::yield_now().await;
    }
    assert!(disk.reads.load(Ordering::Relaxed) <= 2);
}

#[tokio::test]
async fn a_reader_that_panics_or_hangs_fails_its_own_stream() {
    struct Panics;
    impl DiskReader for Panics {
        fn virtual_size(&self) -> u64 {
            MIB
        }
        fn read_at(&self, _: u64, _: &mut [u8]) -> Result<(), DiskError> {
            panic!("bad reader")
        }
    }
    let map = map(MIB, &[(0, MIB)]);
    let (bytes, error) = collect(begin(&raw(&map), Arc::new(Panics), 0..MIB, MIB).stream).await;
    assert!(bytes.is_empty());
    assert!(matches!(error, Some(ProduceError::Pool(IoPoolError::Panicked { .. }))), "{error:?}");

    let gate = Arc::new(Gate::default());
    let disk = Arc::new(Computed { gate: Some(Arc::clone(&gate)), ..Computed::new(&map) });
    let mut transfer = begin(&raw(&map), disk, 0..MIB, MIB);
    assert!(futures_util::poll!(transfer.stream.next()).is_pending());
    let pool = Arc::clone(transfer.stream.pools.first());
    while pool.abandon_stuck(std::time::Duration::ZERO) == 0 {
        tokio::task::yield_now().await;
    }
    let found = transfer.stream.next().await;
    assert!(matches!(found, Some(Err(ProduceError::Pool(IoPoolError::Stuck)))), "{found:?}");
    assert!(transfer.stream.next().await.is_none());
    gate.open();
}

#[tokio::test]
async fn a_range_that_is_not_in_the_image_and_another_disk_are_refused() {
    let map = map(MIB, &[]);
    for (start, end) in [(0, MIB + 1), (MIB + 1, MIB + 1), (5, 4)] {
        let disk = Arc::new(Computed::new(&map));
        let (bytes, error) = collect(begin(&raw(&map), disk, Range { start, end }, MIB).stream).await;
        assert!(bytes.is_empty());
        assert!(matches!(error, Some(ProduceError::BadRange { len: MIB, .. })), "{error:?}");
    }
    let grown = Arc::new(Computed::new(&self::map(2 * MIB, &[])));
    let (_, error) = collect(begin(&raw(&map), grown, 0..MIB, MIB).stream).await;
    let wanted =
        matches!(error, Some(ProduceError::SizeChanged { expected: MIB, found }) if found == 2 * MIB);
    assert!(wanted, "{error:?}");
}

/// The map with the most runs that a disk of the largest VHD can have blocks for: every second one.
fn largest_vhd() -> Arc<AllocationMap> {
    let size = 2040 << 30;
    let mut map = AllocationMap::new(size);
    for block in (0..size / (2 * MIB)).step_by(2) {
        map.set_range(block * 2 * MIB, 1);
    }
    Arc::new(map)
}

/// Most memory that the process has had, in bytes.
fn peak_memory() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() * KIB
}

#[test]
fn a_layout_of_2040_gib_takes_under_16_mib() {
    const NAME: &str = "image::produce::tests::a_layout_of_2040_gib_takes_under_16_mib";
    const CHILD: &str = "GANTRY_TEST_MEASURES_LAYOUT";
    if std::env::var_os(CHILD).is_some() {
        let before = peak_memory();
        let layout = vhd(&largest_vhd());
        assert_eq!(layout.piece_at(layout.len() - 512, 512).len(), 512);
        println!("grew by {} bytes", peak_memory() - before);
        return;
    }
    // In a process of its own: other tests take memory as well.
    let child = std::process::Command::new(std::env::current_exe().unwrap())
        .args([NAME, "--exact", "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let told = String::from_utf8(child.stdout).unwrap();
    let grew = told.split_once("grew by ").and_then(|(_, rest)| rest.split_once(" bytes")).unwrap().0;
    let grew: u64 = grew.parse().unwrap();
    assert!((MIB..16 * MIB).contains(&grew), "{grew}");
}

#[tokio::test]
async fn any_part_of_a_2040_gib_layout_is_made_without_the_parts_before() {
    let map = largest_vhd();
    let layout = vhd(&map);
    assert!(layout.len() > 1020 << 30);
    let end = layout.len();
    for start in [0, end / 2, end - 3 * MIB] {
        let disk = Arc::new(Computed::new(&map));
        let transfer = begin(&layout, disk, start..start + 3 * MIB, 32 * MIB);
        let (bytes, error) = collect(transfer.stream).await;
        assert!(error.is_none(), "{error:?}");
        assert_eq!(bytes.len() as u64, 3 * MIB);
        assert!(transfer.counters.disk_bytes() <= 192 * KIB, "{}", transfer.counters.disk_bytes());
    }
}

/// Waits until all reads that nobody wants any more have given their memory back, and just so much is used.
async fn used(budget: &Budget, bytes: u64) {
    while budget.used_bytes() != bytes {
        tokio::task::yield_now().await;
    }
}

/// Waits until no read runs or waits.
async fn reads_done(pool: &IoPool) {
    while pool.in_flight() > 0 || pool.queued() > 0 {
        tokio::task::yield_now().await;
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    /// What a sink takes when, and what it makes the stream give back, must not change what it gets.
    #[test]
    fn giving_back_at_any_moments_changes_no_byte_and_costs_a_bounded_part(
        sets in prop::collection::vec((0..8 * MIB, 0..3 * MIB), 1..6),
        (a, b) in (any::<prop::sample::Index>(), any::<prop::sample::Index>()),
        as_vhd in any::<bool>(),
        bursts in prop::collection::vec(1..12_usize, 1..8),
        small_window in any::<bool>(),
    ) {
        let map = map(8 * MIB, &sets);
        let layout = if as_vhd { vhd(&map) } else { raw(&map) };
        let disk = Arc::new(Computed::new(&map));
        let image = plain(&*layout, &*disk);
        let (a, b) = (a.index(image.len() + 1), b.index(image.len() + 1));
        let (start, end) = (a.min(b), a.max(b));
        let window = if small_window { 128 * KIB } else { 32 * MIB };
        let mut transfer = begin(&layout, disk, start as u64..end as u64, window);
        let mut bytes = Vec::new();
        run(async {
            'all: for burst in bursts.iter().cycle() {
                for _ in 0..*burst {
                    let Some(chunk) = transfer.stream.next().await else { break 'all };
                    bytes.extend_from_slice(&chunk.unwrap());
                }
                transfer.stream.give_back();
                used(&transfer.budget, 0).await;
            }
        });
        prop_assert!(bytes == image[start..end]);
        let (most, first) = (bytes.len() as u64 * 5 / 4, 8 * MIB);
        prop_assert!(transfer.counters.disk_bytes() <= most + first, "{:?}", transfer.counters);
    }
}

/// Takes a whole disk of 64 MiB in bursts of `burst` chunks, gives back after each, and counts the bytes read.
async fn read_in_bursts(burst: usize) -> u64 {
    let map = map(64 * MIB, &[(0, 64 * MIB)]);
    let mut transfer = begin(&raw(&map), Arc::new(Computed::new(&map)), 0..64 * MIB, 32 * MIB);
    let mut taken = 0;
    while let Some(chunk) = transfer.stream.next().await {
        chunk.unwrap();
        taken += 1;
        if taken % burst == 0 {
            reads_done(transfer.stream.pools.first()).await;
            transfer.stream.give_back();
        }
    }
    transfer.counters.disk_bytes()
}

#[tokio::test]
async fn a_sink_that_is_always_blocked_again_costs_at_most_half_more_reads() {
    for burst in [1, 2, 3, 4, 8, 13] {
        let read = read_in_bursts(burst).await;
        assert!(read <= 64 * MIB * 3 / 2, "{} MiB for 64 in bursts of {burst}", read / MIB);
    }
}

#[tokio::test]
async fn after_giving_back_one_chunk_is_under_way_and_a_quick_sink_gets_eight_again() {
    let map = map(64 * MIB, &[(0, 64 * MIB)]);
    let mut transfer = begin(&raw(&map), Arc::new(Computed::new(&map)), 0..64 * MIB, 32 * MIB);
    drop(transfer.stream.next().await.unwrap().unwrap());
    assert_eq!(transfer.stream.under_way.len(), 7);
    assert_eq!(transfer.stream.give_back(), 7);
    used(&transfer.budget, 0).await;
    assert_eq!(transfer.stream.give_back(), 0, "there is nothing left to give back");

    let mut under_way = Vec::new();
    for _ in 0..40 {
        drop(transfer.stream.next().await.unwrap().unwrap());
        under_way.push(transfer.stream.under_way.len());
        assert!(transfer.budget.used_bytes() <= 8 * MIB);
    }
    assert_eq!(under_way[0], 1, "the one after the present one: {under_way:?}");
    assert!(under_way.is_sorted(), "{under_way:?}");
    assert_eq!(under_way[32..], [7; 8], "{under_way:?}");
}

#[tokio::test]
async fn a_chunk_that_somebody_waits_for_is_not_given_back() {
    let map = map(2 * MIB, &[(0, 2 * MIB)]);
    let gate = Arc::new(Gate::default());
    let disk = Arc::new(Computed { gate: Some(Arc::clone(&gate)), ..Computed::new(&map) });
    let mut stream = begin(&raw(&map), disk, 0..2 * MIB, 32 * MIB).stream;
    assert!(futures_util::poll!(stream.next()).is_pending());
    assert_eq!(stream.give_back(), 0);
    gate.open();
    let (bytes, error) = collect(stream).await;
    assert!(error.is_none() && bytes.len() as u64 == 2 * MIB, "{error:?}");
}

#[tokio::test]
async fn beside_64_blocked_streams_that_gave_back_one_has_its_whole_share() {
    const BUDGET: u64 = 64 * MIB;
    let map = map(64 * MIB, &[(0, 64 * MIB)]);
    let budget = Budget::new(BUDGET, 32 * MIB);
    let pool = pool(4);
    let mut streams: Vec<_> = (0..65)
        .map(|_| {
            let counters = Arc::new(ProduceCounters::default());
            let disk = Arc::new(Computed::new(&map));
            produce(raw(&map), disk, 0..64 * MIB, Arc::clone(&pool), budget.register(), counters)
        })
        .collect();
    let mut fast = streams.pop().unwrap();
    // 64 MiB for 65 and one more: 992 KiB each, which is seven chunks of 128 KiB.
    let chunk = 128 * KIB;
    assert_eq!(fast.share.chunk_bytes() as u64, chunk);
    let mut taken = Vec::new();
    for stream in &mut streams {
        taken.push(stream.next().await.unwrap().unwrap());
    }
    reads_done(&pool).await;
    // One that is handed out and six read ahead, for each.
    assert_eq!(budget.used_bytes(), 64 * 7 * chunk);
    let given_back: usize = streams.iter_mut().map(ChunkStream::give_back).sum();
    assert_eq!(given_back, 64 * 6);
    assert_eq!(budget.used_bytes(), 64 * chunk, "only what the sinks themselves hold");
    for _ in 0..64 {
        drop(fast.next().await.unwrap().unwrap());
        assert!(budget.used_bytes() <= (64 + 7) * chunk, "{}", budget.used_bytes());
    }
    // Each goes on where it was, with one chunk read ahead.
    taken.clear();
    for stream in &mut streams {
        let next = stream.next().await.unwrap().unwrap();
        let mut wanted = vec![0; next.len()];
        fill_with_data(chunk, &mut wanted);
        assert!(next == wanted);
        taken.push(next);
    }
    reads_done(&pool).await;
    assert!(budget.used_bytes() <= (64 * 2 + 7) * chunk, "{}", budget.used_bytes());
}
