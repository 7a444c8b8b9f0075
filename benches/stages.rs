//! How fast single stages are, each alone and in memory: `cargo bench --bench stages`.
//!
//! Decoding is measured with the 64 KiB pieces in which uploads come, laying out with the pieces that a producer
//! asks for. Neither copies a disk's data, so the figures say how many bytes a second the arithmetic keeps up with.
#![expect(clippy::expect_used, reason = "a benchmark of images that cannot be read is worth nothing")]

use std::hint::black_box;
use std::time::Duration;

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use gantry::formats::raw::RawDecoder;
use gantry::formats::vhd::{BLOCK_BYTES, BlockSet, MAX_VIRTUAL_SIZE, StreamDecoder, VhdLayout};
use gantry::formats::{ImageDecoder, ImageEvent, Piece};

/// Bytes in a piece of an upload.
const PIECE_BYTES: usize = 64 << 10;

fn layout(virtual_size: u64, data: impl IntoIterator<Item = std::ops::Range<u64>>) -> VhdLayout {
    let blocks = BlockSet::from_extents(virtual_size, data);
    VhdLayout::new(virtual_size, blocks, [1; 16], 0).expect("a size that a VHD can have")
}

/// The bytes of a layout, with each sector of the disk holding something.
fn image(layout: &VhdLayout) -> Bytes {
    let mut bytes = Vec::new();
    while (bytes.len() as u64) < layout.len() {
        match layout.piece_at(bytes.len() as u64, u64::MAX) {
            Piece::Bytes(piece) => bytes.extend_from_slice(&piece),
            Piece::Disk { len, .. } => bytes.resize(bytes.len() + len as usize, 0x5A),
            Piece::Zeros(len) => bytes.resize(bytes.len() + len as usize, 0),
            Piece::Digest { .. } => unreachable!("only archives have digests"),
        }
    }
    bytes.into()
}

/// Reads a whole image; the number of its data bytes.
fn decode(mut decoder: ImageDecoder, image: &Bytes) -> u64 {
    let mut data_bytes = 0;
    for start in (0..image.len()).step_by(PIECE_BYTES) {
        decoder.push(image.slice(start..(start + PIECE_BYTES).min(image.len())));
        while let Some(event) = decoder.next_event().expect("a sound image") {
            if let ImageEvent::Data { data, .. } = black_box(event) {
                data_bytes += data.len() as u64;
            }
        }
    }
    decoder.finish().expect("a whole image");
    data_bytes
}

fn decoding(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode");
    let size = 128 * BLOCK_BYTES;
    let dynamic = image(&layout(size, std::iter::once(0..size)));
    group.throughput(Throughput::Bytes(dynamic.len() as u64));
    let vhd = || ImageDecoder::Vhd(StreamDecoder::new(Some(dynamic.len() as u64)));
    group.bench_function("vhd, 256 MiB in whole blocks", |b| {
        b.iter_batched(vhd, |decoder| decode(decoder, &dynamic), BatchSize::SmallInput);
    });

    // Every other sector is missing: the worst that a bitmap can be.
    let mut striped = dynamic.to_vec();
    let first = dynamic.len() - 512 - 128 * (BLOCK_BYTES as usize + 512);
    for slot in striped.get_mut(first..).unwrap_or_default().chunks_exact_mut(BLOCK_BYTES as usize + 512) {
        slot.iter_mut().take(512).for_each(|byte| *byte = 0xAA);
    }
    let striped = Bytes::from(striped);
    group.bench_function("vhd, 256 MiB in single sectors", |b| {
        b.iter_batched(vhd, |decoder| decode(decoder, &striped), BatchSize::SmallInput);
    });

    let raw = || ImageDecoder::Raw(RawDecoder::new(None, Some(dynamic.len() as u64)));
    group.bench_function("raw, 256 MiB", |b| {
        b.iter_batched(raw, |decoder| decode(decoder, &dynamic), BatchSize::SmallInput);
    });

    // All of the BAT and no block: what sorting and checking a full table costs is in the next one.
    let empty = image(&layout(MAX_VIRTUAL_SIZE, []));
    group.throughput(Throughput::Bytes(empty.len() as u64));
    group.bench_function("vhd, BAT of 2040 GiB", |b| {
        let decoder = || ImageDecoder::Vhd(StreamDecoder::new(Some(empty.len() as u64)));
        b.iter_batched(decoder, |decoder| decode(decoder, &empty), BatchSize::SmallInput);
    });
    group.finish();
}

fn full_table(c: &mut Criterion) {
    // The front of a full 2040 GiB disk: a million blocks are sorted and checked before the first one comes.
    let full = layout(MAX_VIRTUAL_SIZE, std::iter::once(0..MAX_VIRTUAL_SIZE));
    let mut front = Vec::new();
    while let Piece::Bytes(piece) = full.piece_at(front.len() as u64, u64::MAX) {
        front.extend_from_slice(&piece);
    }
    let front = Bytes::from(front);
    c.bench_function("decode/vhd, full BAT of 2040 GiB", |b| {
        b.iter(|| {
            let mut decoder = StreamDecoder::new(Some(full.len()));
            decoder.push(front.clone());
            while let Some(event) = decoder.next_event().expect("a sound front") {
                black_box(event);
            }
            decoder
        });
    });
}

fn laying_out(c: &mut Criterion) {
    let mut group = c.benchmark_group("layout");
    group.bench_function("make, 2040 GiB full", |b| {
        b.iter(|| layout(MAX_VIRTUAL_SIZE, std::iter::once(0..MAX_VIRTUAL_SIZE)));
    });
    let full = layout(MAX_VIRTUAL_SIZE, std::iter::once(0..MAX_VIRTUAL_SIZE));
    let front = full.len() - 512 - 1_044_480 * (BLOCK_BYTES + 512);
    group.throughput(Throughput::Bytes(front));
    group.bench_function("walk, front of 2040 GiB", |b| {
        b.iter(|| {
            let mut at = 0;
            while at < front {
                at += black_box(full.piece_at(at, front - at)).len();
            }
        });
    });
    // 64 GiB of blocks in the middle, in chunks of 1 MiB.
    let (from, to) = (full.len() / 2, full.len() / 2 + (64 << 30));
    group.throughput(Throughput::Bytes(to - from));
    group.bench_function("walk, 64 GiB of blocks", |b| {
        b.iter(|| {
            let mut at = from;
            while at < to {
                at += black_box(full.piece_at(at, 1 << 20)).len();
            }
        });
    });
    group.finish();
}

criterion_group! {
    name = stages;
    config = Criterion::default().sample_size(10).measurement_time(Duration::from_secs(2)).warm_up_time(Duration::from_millis(300));
    targets = decoding, full_table, laying_out
}
criterion_main!(stages);
