//! Headers of tar members in the dialect of xapi: V7, without a magic, so that nothing has to be understood but name,
//! size and checksum.

/// Bytes of a header, and what members are padded to.
pub(super) const RECORD_BYTES: u64 = 512;
/// Longest name: one byte is left for a NUL.
pub(super) const MAX_NAME_BYTES: usize = 99;

/// Bytes that a member's `len` bytes take with their padding.
pub(super) const fn padded(len: u64) -> u64 {
    len.next_multiple_of(RECORD_BYTES)
}

/// The header of a regular file, readable by its owner and as old as time. The name has at most [`MAX_NAME_BYTES`], the
/// size 33 bits; the caller has seen to that.
pub(super) fn file_header(name: &str, size: u64) -> [u8; RECORD_BYTES as usize] {
    debug_assert!(name.len() <= MAX_NAME_BYTES && size < 1 << 33, "{name:?} of {size} bytes");
    let mut header = [0; RECORD_BYTES as usize];
    put(&mut header, 0, name.as_bytes());
    put(&mut header, 100, b"0000400\0"); // mode
    put(&mut header, 108, b"0000000\0"); // uid
    put(&mut header, 116, b"0000000\0"); // gid
    put(&mut header, 124, format!("{size:011o}\0").as_bytes());
    put(&mut header, 136, b"00000000000\0"); // mtime
    // The sum is that of the header with spaces in its place; the type after it stays NUL: a regular file.
    put(&mut header, 148, b"        ");
    let sum: u32 = header.iter().map(|&byte| u32::from(byte)).sum();
    put(&mut header, 148, format!("{sum:06o}\0 ").as_bytes());
    header
}

fn put(header: &mut [u8], at: usize, bytes: &[u8]) {
    if let Some(field) = header.get_mut(at..).and_then(|rest| rest.get_mut(..bytes.len())) {
        field.copy_from_slice(bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_has_what_xapi_writes_and_nothing_else() {
        let header = file_header("Ref:4/00000000", 1 << 20);
        assert_eq!(&header[..15], b"Ref:4/00000000\0");
        assert_eq!(&header[100..136], b"0000400\x000000000\x000000000\x0000004000000\0");
        assert_eq!(&header[136..148], b"00000000000\0");
        assert_eq!(header[156..], [0; 356]);
    }

    #[test]
    fn another_reader_finds_name_size_mode_and_type() {
        for (name, size) in
            [("ova.xml", 0), (&"x".repeat(99) as &str, (1 << 33) - 1), ("Ref:0/99999999.checksum", 40)]
        {
            let bytes = file_header(name, size);
            let header = tar::Header::from_byte_slice(&bytes);
            assert_eq!(header.path().unwrap().to_str(), Some(name));
            assert_eq!((header.size().unwrap(), header.mode().unwrap()), (size, 0o400));
            assert_eq!((header.uid().unwrap(), header.gid().unwrap(), header.mtime().unwrap()), (0, 0, 0));
            assert!(
                header.entry_type().is_file() && header.as_ustar().is_none() && header.as_gnu().is_none()
            );
            let sum = bytes
                .iter()
                .enumerate()
                .map(|(at, &byte)| if (148..156).contains(&at) { 32 } else { u32::from(byte) });
            assert_eq!(header.cksum().unwrap(), sum.sum::<u32>());
        }
    }
}
