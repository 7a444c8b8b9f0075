//! A block's bitmap: one bit for each sector, most significant bit first, 1 = the sector is here.

/// The bitmap of a 2 MiB block all of whose sectors are there.
pub const ALL_SECTORS: [u8; 512] = [0xFF; 512];

/// Whether `sector`'s bit is set. Sectors that the bitmap does not reach are not there.
pub fn is_set(bitmap: &[u8], sector: u32) -> bool {
    bitmap.get(sector as usize / 8).is_some_and(|byte| byte & (0x80 >> (sector % 8)) != 0)
}

/// The run of equal bits that begins at `sector` and ends at `end` (exclusive) at the latest: whether they are
/// set, and how many. Zero only when `sector >= end`.
pub fn run_at(bitmap: &[u8], sector: u32, end: u32) -> (bool, u32) {
    let set = is_set(bitmap, sector);
    let uniform = if set { 0xFF } else { 0 };
    let mut next = sector;
    while next < end {
        if next.is_multiple_of(8) && bitmap.get(next as usize / 8).copied().unwrap_or(0) == uniform {
            next = next.saturating_add(8);
        } else if is_set(bitmap, next) == set {
            next = next.saturating_add(1);
        } else {
            break;
        }
    }
    (set, next.min(end).saturating_sub(sector))
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    #[test]
    fn the_most_significant_bit_is_the_first_sector() {
        assert!(is_set(&[0x80], 0) && !is_set(&[0x80], 1));
        assert!(is_set(&[0, 0x01], 15) && !is_set(&[0, 0x01], 16));
        assert_eq!(run_at(&ALL_SECTORS, 0, 4096), (true, 4096));
        assert_eq!(run_at(&ALL_SECTORS, 5, 9), (true, 4));
        assert_eq!(run_at(&[0x0F, 0xFF, 0x80], 0, 24), (false, 4));
        assert_eq!(run_at(&[0x0F, 0xFF, 0x80], 4, 24), (true, 13));
        assert_eq!(run_at(&[0x0F], 9, 9), (false, 0));
    }

    proptest! {
        #[test]
        fn runs_cover_the_bitmap_and_say_what_each_bit_says(bitmap in prop::collection::vec(prop_oneof![Just(0u8), Just(255), any::<u8>()], 0..64), end in 0u32..600) {
            let mut at = 0;
            while at < end {
                let (set, len) = run_at(&bitmap, at, end);
                prop_assert!(len > 0);
                for sector in at..at + len {
                    prop_assert_eq!(is_set(&bitmap, sector), set);
                }
                prop_assert!(at + len == end || is_set(&bitmap, at + len) != set);
                at += len;
            }
            prop_assert_eq!(at, end);
        }
    }
}
