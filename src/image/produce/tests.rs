use std::num::NonZeroUsize;
use std::sync::Condvar;
use std::sync::Mutex;

use proptest::prelude::*;

use super::*;
use crate::disk::map::AllocationMap;
use crate::image::budget::Budget;
use crate::image::raw_layout::RawLayout;
use crate::image::vhd_layout::VhdImageLayout;

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

fn byte_at(offset: u64) -> u8 {
    ((offset.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 32) as u8) | 1
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
        for (at, byte) in (offset..).zip(buf) {
            *byte = if self.map.is_data(at) { byte_at(at) } else { 0 };
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
        if !as_vhd {
            prop_assert!(image == disk.content());
        }
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
        prop_assert!((0..).zip(&bytes).all(|(at, byte)| *byte == byte_at(at)));
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
    while disk.reads.load(Ordering::Relaxed) < 8 || transfer.stream.pool.in_flight() > 0 {
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
    let pool = Arc::clone(&transfer.stream.pool);
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
    let pool = Arc::clone(&transfer.stream.pool);
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
