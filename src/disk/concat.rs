//! Several disks as one: behind each other, each beginning at a multiple of some length, zeros between them.

use std::num::NonZeroU64;
use std::sync::Arc;

use super::DiskReader;
use super::error::DiskError;

/// Several disks, read as one.
pub struct ConcatReader {
    /// Where each disk begins, and the disk.
    disks: Vec<(u64, Arc<dyn DiskReader>)>,
    virtual_size: u64,
}

impl std::fmt::Debug for ConcatReader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let starts: Vec<_> = self.disks.iter().map(|(start, _)| start).collect();
        let size = &self.virtual_size;
        f.debug_struct("ConcatReader").field("starts", &starts).field("virtual_size", size).finish()
    }
}

impl ConcatReader {
    /// The disks in this order. Each takes its size rounded up to a multiple of `alignment` bytes; together they have
    /// less than 2^64.
    pub fn new(disks: Vec<Arc<dyn DiskReader>>, alignment: NonZeroU64) -> Self {
        let mut virtual_size = 0u64;
        let placed = disks.into_iter().map(|disk| {
            let start = virtual_size;
            let rounded = disk.virtual_size().div_ceil(alignment.get()).saturating_mul(alignment.get());
            virtual_size = start.saturating_add(rounded);
            (start, disk)
        });
        Self { disks: placed.collect(), virtual_size }
    }

    /// Where each disk begins.
    pub fn starts(&self) -> impl Iterator<Item = u64> {
        self.disks.iter().map(|(start, _)| *start)
    }
}

impl DiskReader for ConcatReader {
    fn virtual_size(&self) -> u64 {
        self.virtual_size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        let (mut at, mut rest) = (offset, buf);
        let mut next = self.disks.partition_point(|(start, _)| *start <= offset);
        while !rest.is_empty() {
            let until_next = self.disks.get(next).map_or(u64::MAX, |(start, _)| start.saturating_sub(at));
            let len = usize::try_from(until_next).unwrap_or(usize::MAX).min(rest.len());
            let (part, after) = rest.split_at_mut_checked(len).unwrap_or_default();
            match next.checked_sub(1).and_then(|before| self.disks.get(before)) {
                // A disk gives zeros past its end, which are what lies between it and the next one.
                Some((start, disk)) if at < self.virtual_size => disk.read_at(at - start, part)?,
                _ => part.fill(0),
            }
            at = at.saturating_add(len as u64);
            rest = after;
            next += 1;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::raw::RawDisk;

    use proptest::prelude::*;

    fn disks(dir: &std::path::Path, sectors: &[u8]) -> (Vec<Arc<dyn DiskReader>>, Vec<u8>) {
        let (mut disks, mut all): (Vec<Arc<dyn DiskReader>>, _) = (Vec::new(), Vec::new());
        for (at, &sectors) in sectors.iter().enumerate() {
            let content: Vec<u8> =
                (0..usize::from(sectors) * 512).map(|byte| (byte % 251 + at) as u8 | 1).collect();
            let path = dir.join(at.to_string());
            std::fs::write(&path, &content).unwrap();
            disks.push(Arc::new(RawDisk::open(&path).unwrap()));
            all.extend(content);
            all.resize(all.len().next_multiple_of(4096), 0);
        }
        (disks, all)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn any_read_gives_the_disks_in_their_places_and_zeros_between_and_behind(
            sectors in prop::collection::vec(1..20u8, 0..5),
            reads in prop::collection::vec((0..60_000u64, 0..30_000usize), 1..10),
        ) {
            let dir = tempfile::tempdir().unwrap();
            let (disks, mut all) = disks(dir.path(), &sectors);
            let reader = ConcatReader::new(disks, NonZeroU64::new(4096).unwrap());
            prop_assert_eq!(reader.virtual_size(), all.len() as u64);
            all.resize(100_000, 0);
            for (offset, len) in reads {
                let mut found = vec![0xEE; len];
                reader.read_at(offset, &mut found).unwrap();
                prop_assert!(found == all[offset as usize..][..len], "{} {}", offset, len);
            }
        }
    }

    #[test]
    fn reads_far_behind_the_end_are_zeros() {
        let dir = tempfile::tempdir().unwrap();
        let reader = ConcatReader::new(disks(dir.path(), &[3, 9]).0, NonZeroU64::new(4096).unwrap());
        let mut found = [0xEE; 100];
        reader.read_at(u64::MAX - 50, &mut found).unwrap();
        assert_eq!(found, [0; 100]);
    }
}
