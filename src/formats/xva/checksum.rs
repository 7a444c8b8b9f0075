//! The checksums that stand beside blocks.

use sha1::{Digest as _, Sha1};
use xxhash_rust::xxh64::Xxh64;

use super::ChecksumKind;

/// The checksum of bytes that come one part after the other.
#[derive(Clone)]
pub struct Checksum(State);

#[derive(Clone)]
enum State {
    Xxh64(Box<Xxh64>),
    Sha1(Box<Sha1>),
}

impl std::fmt::Debug for Checksum {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Checksum").field(&self.kind()).finish()
    }
}

impl Checksum {
    /// That of no byte.
    pub fn new(kind: ChecksumKind) -> Self {
        Self(match kind {
            ChecksumKind::Xxh64 => State::Xxh64(Box::new(Xxh64::new(0))),
            ChecksumKind::Sha1 => State::Sha1(Box::default()),
        })
    }

    /// Which one it is.
    pub fn kind(&self) -> ChecksumKind {
        match self.0 {
            State::Xxh64(_) => ChecksumKind::Xxh64,
            State::Sha1(_) => ChecksumKind::Sha1,
        }
    }

    /// Adds bytes at the end.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Xxh64(hash) => hash.update(bytes),
            State::Sha1(hash) => hash.update(bytes),
        }
    }

    /// Its text as it stands in an archive, [`ChecksumKind::text_len`] bytes long.
    pub fn text(self) -> String {
        match self.0 {
            State::Xxh64(hash) => format!("{:016X}", hash.digest()),
            State::Sha1(hash) => hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_those_that_readers_compare_with() {
        for (kind, empty, abc) in [
            (ChecksumKind::Xxh64, "EF46DB3751D8E999", "44BC2CF5AD770999"),
            (
                ChecksumKind::Sha1,
                "da39a3ee5e6b4b0d3255bfef95601890afd80709",
                "a9993e364706816aba3e25717850c26c9cd0d89d",
            ),
        ] {
            assert_eq!(Checksum::new(kind).text(), empty);
            let mut parts = Checksum::new(kind);
            parts.update(b"a");
            parts.update(b"bc");
            assert_eq!(parts.kind(), kind);
            assert_eq!(parts.text(), abc);
            assert_eq!(abc.len() as u64, kind.text_len());
        }
    }
}
