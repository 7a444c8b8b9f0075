//! The checksum of footer and header: one's complement of the sum of all bytes, with the checksum's own four
//! bytes taken as zero (VHD image format specification, "Checksum").

/// The checksum of `bytes` whose checksum field is the four bytes from `field` on.
pub fn checksum(bytes: &[u8], field: usize) -> u32 {
    let own = bytes.iter().skip(field).take(4);
    !byte_sum(bytes).wrapping_sub(own.map(|&b| u32::from(b)).sum())
}

/// The wrapping sum of all bytes, each unsigned.
pub fn byte_sum(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0u32, |sum, &b| sum.wrapping_add(u32::from(b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_leaves_out_its_own_field() {
        assert_eq!(checksum(&[1, 2, 3, 9, 9, 9, 9, 4], 3), !10);
        assert_eq!(checksum(&[1, 2, 3, 0, 0, 0, 0, 4], 3), !10);
        assert_eq!(checksum(&[], 0), u32::MAX);
    }
}
