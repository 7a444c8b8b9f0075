//! A chunk that is put together in a buffer.

use std::ops::Range;
use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::{ProduceCounters, ZEROS};
use crate::disk::DiskReader;
use crate::disk::error::DiskError;
use crate::formats::xva::{Checksum, ChecksumKind};
use crate::image::budget::ChunkBuffer;

/// A run of bytes of a chunk.
#[derive(Debug)]
pub(super) enum Part {
    Bytes(Bytes),
    Disk { offset: u64, len: u64 },
    Zeros(u64),
    Digest(DigestPart),
}

/// Part of a checksum's text.
#[derive(Debug)]
pub(super) struct DigestPart {
    /// What is checked and lies before the chunk: it has to be made again. No checksum is among it.
    pub(super) before: Vec<Part>,
    /// What is checked after that: the place in the chunk, before the checksum.
    pub(super) within: Range<usize>,
    pub(super) kind: ChecksumKind,
    /// Bytes of the text before those that are meant.
    pub(super) skip: usize,
    /// Number of bytes of the text.
    pub(super) take: usize,
}

impl Part {
    fn len(&self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Disk { len, .. } | Self::Zeros(len) => *len as usize,
            Self::Digest(digest) => digest.take,
        }
    }

    /// The first byte of the disk that it takes.
    fn place(&self) -> Option<u64> {
        match self {
            Self::Bytes(_) | Self::Zeros(_) => None,
            Self::Disk { offset, .. } => Some(*offset),
            Self::Digest(digest) => digest.before.iter().find_map(Self::place),
        }
    }

    /// Bytes of the disk that it takes.
    fn disk_bytes(&self) -> u64 {
        match self {
            Self::Bytes(_) | Self::Zeros(_) => 0,
            Self::Disk { len, .. } => *len,
            Self::Digest(digest) => digest.before.iter().map(Self::disk_bytes).sum(),
        }
    }
}

/// A chunk to be put together.
#[derive(Debug)]
pub(super) struct Assembly {
    parts: Vec<Part>,
    len: usize,
}

impl Assembly {
    /// A chunk of `len` bytes.
    pub(super) fn new(parts: Vec<Part>, len: usize) -> Self {
        Self { parts, len }
    }

    /// Length of the chunk in bytes.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Bytes of the disk that it takes.
    pub(super) fn disk_bytes(&self) -> u64 {
        self.parts.iter().map(Part::disk_bytes).sum()
    }

    /// A byte of the disk whose threads are to make it; `None` when that is nothing that takes time.
    pub(super) fn place(&self) -> Option<u64> {
        let of_disk = self.parts.iter().find_map(Part::place);
        of_disk.or_else(|| self.parts.iter().any(|part| matches!(part, Part::Digest(_))).then_some(0))
    }

    /// Makes the chunk's bytes.
    pub(super) fn fill(
        &self,
        buffer: &mut ChunkBuffer,
        disk: &dyn DiskReader,
        counters: &ProduceCounters,
    ) -> Result<(), DiskError> {
        // First what has to be made again for checksums: the buffer has room for it now.
        let mut checksums = Vec::new();
        for part in &self.parts {
            if let Part::Digest(digest) = part {
                checksums.push(digest.begin(buffer.room_mut(), disk, counters)?);
            }
        }
        let mut checksums = checksums.into_iter();
        let bytes = buffer.bytes_mut();
        let mut at = 0;
        for part in &self.parts {
            let (made, rest) = bytes.split_at_mut_checked(at).unwrap_or_default();
            let into = rest.get_mut(..part.len()).unwrap_or_default();
            match part {
                Part::Bytes(bytes) => into.copy_from_slice(bytes),
                Part::Zeros(zeros) => {
                    into.fill(0);
                    counters.zero_bytes.fetch_add(*zeros, Ordering::Relaxed);
                }
                Part::Disk { offset, .. } => read(disk, *offset, into, counters)?,
                Part::Digest(digest) => {
                    let begun = checksums.next().unwrap_or_else(|| Checksum::new(digest.kind));
                    digest.finish(begun, made, into);
                }
            }
            at += part.len();
        }
        Ok(())
    }
}

impl DigestPart {
    /// The checksum of what lies before the chunk, which is made in steps of as much as `room` holds.
    fn begin(
        &self,
        room: &mut [u8],
        disk: &dyn DiskReader,
        counters: &ProduceCounters,
    ) -> Result<Checksum, DiskError> {
        let mut checksum = Checksum::new(self.kind);
        for part in &self.before {
            match part {
                Part::Bytes(bytes) => checksum.update(bytes),
                Part::Zeros(zeros) => {
                    for step in steps(*zeros, ZEROS.len()) {
                        checksum.update(ZEROS.get(..(step.end - step.start) as usize).unwrap_or_default());
                    }
                }
                Part::Disk { offset, len } => {
                    for step in steps(*len, room.len()) {
                        let into = room.get_mut(..(step.end - step.start) as usize).unwrap_or_default();
                        read(disk, offset + step.start, into, counters)?;
                        counters.reread_bytes.fetch_add(into.len() as u64, Ordering::Relaxed);
                        checksum.update(into);
                    }
                }
                // The plan refuses it.
                Part::Digest(_) => {}
            }
        }
        Ok(checksum)
    }

    /// Adds what is checked in the chunk itself, and writes the text.
    fn finish(&self, mut checksum: Checksum, made: &[u8], into: &mut [u8]) {
        checksum.update(made.get(self.within.clone()).unwrap_or_default());
        let text = checksum.text();
        let text = text.as_bytes().get(self.skip..).and_then(|text| text.get(..self.take));
        into.copy_from_slice(text.unwrap_or_default());
    }
}

/// The ranges that `len` bytes are in steps of `step`.
fn steps(len: u64, step: usize) -> impl Iterator<Item = Range<u64>> {
    let step = step.max(1) as u64;
    (0..len.div_ceil(step)).map(move |nth| nth * step..((nth + 1) * step).min(len))
}

fn read(
    disk: &dyn DiskReader,
    offset: u64,
    into: &mut [u8],
    counters: &ProduceCounters,
) -> Result<(), DiskError> {
    disk.read_at(offset, into)?;
    counters.reads.fetch_add(1, Ordering::Relaxed);
    counters.disk_bytes.fetch_add(into.len() as u64, Ordering::Relaxed);
    Ok(())
}
