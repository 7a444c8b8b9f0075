//! An allocation map as a blob, to be stored beside the content that it describes.
//!
//! Version 1: version (1 byte), granule as a power of two (1 byte), virtual size (8 bytes, little-endian),
//! then the bitmap as one zstd frame; unpacked it is little-endian 64-bit words, one bit per granule, least
//! significant first, as many words as the size asks for. Bits past the last granule are clear.

use super::map::{AllocationMap, MAX_WORDS, MIN_SHIFT, words_for};

const VERSION: u8 = 1;
const HEAD_BYTES: usize = 10;
/// Largest size of a disk: what a file's length can be.
const MAX_SIZE: u64 = i64::MAX as u64;
/// Maps are mostly runs; a higher level would only cost time.
const ZSTD_LEVEL: i32 = 3;

/// A blob that is not an allocation map, or not one of this version.
#[derive(Debug, thiserror::Error)]
pub enum MapError {
    /// Shorter than the fixed part.
    #[error("allocation map of {found} bytes, expected {HEAD_BYTES} at least")]
    TooShort {
        /// The blob's length in bytes.
        found: usize,
    },
    /// Written by another version of the program.
    #[error("allocation map of version {found}, expected {VERSION}")]
    UnknownVersion {
        /// The version byte.
        found: u8,
    },
    /// Size and granule do not go together, or are out of range.
    #[error("allocation map of {virtual_size} bytes in granules of 2^{shift}")]
    BadGranule {
        /// The size that the blob tells, in bytes.
        virtual_size: u64,
        /// The granule that it tells.
        shift: u8,
    },
    /// The bitmap could not be packed or unpacked.
    #[error("bitmap of the allocation map cannot be (un)packed")]
    Zstd(#[source] std::io::Error),
    /// The bitmap is not as long as the size asks for.
    #[error("bitmap of the allocation map has {found} bytes, expected {expected}")]
    BadLength {
        /// Bytes that the size asks for.
        expected: usize,
        /// Bytes that were unpacked.
        found: usize,
    },
    /// A granule past the disk's end is marked.
    #[error("allocation map marks data past the end of the disk")]
    DataBeyondEnd,
}

impl AllocationMap {
    /// The map as a blob for storing.
    ///
    /// # Errors
    ///
    /// [`MapError::Zstd`] when there is no memory to pack it.
    pub fn encode(&self) -> Result<Vec<u8>, MapError> {
        let bits: Vec<u8> = self.words.iter().flat_map(|word| word.to_le_bytes()).collect();
        let packed = zstd::bulk::compress(&bits, ZSTD_LEVEL).map_err(MapError::Zstd)?;
        let mut blob = Vec::with_capacity(HEAD_BYTES + packed.len());
        blob.push(VERSION);
        blob.extend(u8::try_from(self.shift)); // at most 63
        blob.extend(self.virtual_size.to_le_bytes());
        blob.extend(packed);
        Ok(blob)
    }

    /// Reads a blob that [`encode`](Self::encode) made. Takes 4 MiB and a little, whatever the blob says.
    ///
    /// # Errors
    ///
    /// Any blob that is not exactly an encoded map is refused.
    pub fn decode(blob: &[u8]) -> Result<Self, MapError> {
        let too_short = MapError::TooShort { found: blob.len() };
        let Some((&[version, shift], rest)) = blob.split_first_chunk() else { return Err(too_short) };
        if version != VERSION {
            return Err(MapError::UnknownVersion { found: version });
        }
        let Some((&size, packed)) = rest.split_first_chunk() else { return Err(too_short) };
        let virtual_size = u64::from_le_bytes(size);
        let granule = u32::from(shift);
        let sound = (MIN_SHIFT..u64::BITS).contains(&granule) && virtual_size <= MAX_SIZE;
        if !sound || words_for(virtual_size, granule) > MAX_WORDS {
            return Err(MapError::BadGranule { virtual_size, shift });
        }
        let expected = words_for(virtual_size, granule) as usize * size_of::<u64>();
        let bits = zstd::bulk::decompress(packed, expected).map_err(MapError::Zstd)?;
        if bits.len() != expected {
            return Err(MapError::BadLength { expected, found: bits.len() });
        }
        let (words, _) = bits.as_chunks();
        let words = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
        let map = Self { virtual_size, shift: granule, words };
        if map.marks_past_end() {
            return Err(MapError::DataBeyondEnd);
        }
        Ok(map)
    }

    fn marks_past_end(&self) -> bool {
        let used = self.virtual_size.div_ceil(self.granule_bytes()) % 64;
        used != 0 && self.words.last().is_some_and(|word| word >> used != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn map(size: u64, sets: &[(u64, u64)]) -> AllocationMap {
        let mut map = AllocationMap::new(size);
        sets.iter().for_each(|&(start, length)| map.set_range(start, length));
        map
    }

    proptest! {
        #[test]
        fn what_was_encoded_decodes_to_the_same(
            size in prop_oneof![0..1_u64 << 24, 0..i64::MAX as u64],
            sets in prop::collection::vec((any::<u64>(), any::<u64>()), 0..6),
        ) {
            let map = map(size, &sets.iter().map(|(s, l)| (s % size.max(1), l % size.max(1))).collect::<Vec<_>>());
            prop_assert_eq!(AllocationMap::decode(&map.encode().unwrap()).unwrap(), map);
        }

        #[test]
        fn noise_is_an_error_or_a_sound_map_and_never_a_panic(blob in prop::collection::vec(any::<u8>(), 0..64), valid_head in any::<bool>()) {
            let mut blob = blob;
            if valid_head && blob.len() >= 2 { blob[0] = 1; blob[1] = 16 + blob[1] % 48; }
            if let Ok(map) = AllocationMap::decode(&blob) {
                prop_assert!(map.memory_bytes() <= 4 << 20);
            }
        }

        #[test]
        fn a_cut_blob_is_refused(cut in any::<prop::sample::Index>()) {
            let blob = map(10 << 20, &[(0, 5 << 20), (9 << 20, 1)]).encode().unwrap();
            prop_assert!(AllocationMap::decode(&blob[..cut.index(blob.len())]).is_err());
        }
    }

    fn blob(version: u8, shift: u8, size: u64, bits: &[u8]) -> Vec<u8> {
        let mut blob = vec![version, shift];
        blob.extend(size.to_le_bytes());
        blob.extend(zstd::bulk::compress(bits, 1).unwrap());
        blob
    }

    #[test]
    fn each_kind_of_nonsense_has_its_own_error() {
        assert!(AllocationMap::decode(&blob(1, 16, 65536, &[1, 0, 0, 0, 0, 0, 0, 0])).is_ok());
        assert!(matches!(AllocationMap::decode(&[]), Err(MapError::TooShort { found: 0 })));
        assert!(matches!(
            AllocationMap::decode(&blob(2, 16, 0, &[])),
            Err(MapError::UnknownVersion { found: 2 })
        ));
        for (shift, size) in [(15, 65536), (64, 65536), (200, 65536), (16, 1 << 45), (60, 1 << 63)] {
            let found = AllocationMap::decode(&blob(1, shift, size, &[0; 8]));
            assert!(matches!(found, Err(MapError::BadGranule { .. })), "{shift} {size}: {found:?}");
        }
        assert!(matches!(
            AllocationMap::decode(&blob(1, 16, 65536, &[0; 7])),
            Err(MapError::BadLength { expected: 8, found: 7 })
        ));
        assert!(matches!(AllocationMap::decode(&blob(1, 16, 65536, &[0; 9])), Err(MapError::Zstd(_))));
        assert!(matches!(
            AllocationMap::decode(&blob(1, 16, 65536, &[2, 0, 0, 0, 0, 0, 0, 0])),
            Err(MapError::DataBeyondEnd)
        ));
    }

    #[test]
    fn a_bomb_takes_no_more_than_the_size_asks_for() {
        let bomb = blob(1, 16, 65536, &vec![0; 64 << 20]);
        assert!(matches!(AllocationMap::decode(&bomb), Err(MapError::Zstd(_))));
    }
}
