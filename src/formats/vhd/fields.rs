//! Big-endian fields of fixed structures, at offsets that the compiler checks.

/// The `N` bytes from `AT` on.
pub(super) fn get<const AT: usize, const N: usize, const LEN: usize>(bytes: &[u8; LEN]) -> [u8; N] {
    const { assert!(AT + N <= LEN, "the field lies outside of the structure") };
    let mut field = [0; N];
    field.iter_mut().zip(bytes.iter().skip(AT)).for_each(|(to, from)| *to = *from);
    field
}

/// Writes the `N` bytes from `AT` on.
pub(super) fn put<const AT: usize, const N: usize, const LEN: usize>(bytes: &mut [u8; LEN], field: [u8; N]) {
    const { assert!(AT + N <= LEN, "the field lies outside of the structure") };
    bytes.iter_mut().skip(AT).zip(field).for_each(|(to, from)| *to = from);
}

/// The 16-bit number at `AT`.
pub(super) fn u16_at<const AT: usize, const LEN: usize>(bytes: &[u8; LEN]) -> u16 {
    u16::from_be_bytes(get::<AT, 2, LEN>(bytes))
}

/// The 32-bit number at `AT`.
pub(super) fn u32_at<const AT: usize, const LEN: usize>(bytes: &[u8; LEN]) -> u32 {
    u32::from_be_bytes(get::<AT, 4, LEN>(bytes))
}

/// The 64-bit number at `AT`.
pub(super) fn u64_at<const AT: usize, const LEN: usize>(bytes: &[u8; LEN]) -> u64 {
    u64::from_be_bytes(get::<AT, 8, LEN>(bytes))
}
