//! What a block's checksum is computed from.

use bytes::Bytes;
use sha1::{Digest, Sha1};
use xxhash_rust::xxh64::Xxh64;

use super::super::ChecksumKind;

/// Slices shorter than this are copied together: each one kept costs memory too.
const MIN_SLICE: usize = 4096;

/// The bytes of a block, kept until the name of the next member tells which checksum it has: xapi has changed the kind,
/// and to compute both would make each import pay for SHA-1. At most 1 MiB, mostly slices of the input.
#[derive(Debug, Default)]
pub(super) struct BlockBytes {
    slices: Vec<Bytes>,
    /// Bytes behind the last slice.
    tail: Vec<u8>,
}

impl BlockBytes {
    pub(super) fn add(&mut self, bytes: &Bytes) {
        if bytes.len() < MIN_SLICE {
            self.tail.extend_from_slice(bytes);
            return;
        }
        if !self.tail.is_empty() {
            self.slices.push(std::mem::take(&mut self.tail).into());
        }
        self.slices.push(bytes.clone());
    }

    /// The text of their checksum.
    pub(super) fn checksum(&self, kind: ChecksumKind) -> String {
        let parts = || self.slices.iter().map(Bytes::as_ref).chain([self.tail.as_slice()]);
        match kind {
            ChecksumKind::Xxh64 => {
                let mut hash = Xxh64::new(0);
                parts().for_each(|part| hash.update(part));
                format!("{:016X}", hash.digest())
            }
            ChecksumKind::Sha1 => {
                let mut hash = Sha1::new();
                parts().for_each(|part| hash.update(part));
                hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_xapi() {
        let empty = BlockBytes::default();
        assert_eq!(empty.checksum(ChecksumKind::Xxh64), "EF46DB3751D8E999");
        assert_eq!(empty.checksum(ChecksumKind::Sha1), "da39a3ee5e6b4b0d3255bfef95601890afd80709");
        let mut block = BlockBytes::default();
        block.add(&Bytes::from_static(b"ab"));
        block.add(&Bytes::from_static(b"c"));
        assert_eq!(block.checksum(ChecksumKind::Xxh64), "44BC2CF5AD770999");
        assert_eq!(block.checksum(ChecksumKind::Sha1), "a9993e364706816aba3e25717850c26c9cd0d89d");
    }

    #[test]
    fn many_short_slices_are_kept_as_few() {
        let mut block = BlockBytes::default();
        let bytes = Bytes::from(vec![7; 1 << 20]);
        let mut at = 0;
        for len in (0..).map(|nth| if nth % 2 == 0 { 1 } else { MIN_SLICE }) {
            let end = (at + len).min(bytes.len());
            block.add(&bytes.slice(at..end));
            at = end;
            if at == bytes.len() {
                break;
            }
        }
        assert!(block.slices.len() <= 512);
        let mut whole = BlockBytes::default();
        whole.add(&bytes);
        for kind in [ChecksumKind::Xxh64, ChecksumKind::Sha1] {
            assert_eq!(block.checksum(kind), whole.checksum(kind));
        }
    }
}
