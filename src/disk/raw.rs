//! A disk that lies in a file as the guest sees it.

use std::path::Path;

use super::DiskReader;
use super::error::DiskError;
use super::file::DiskFile;
use super::map::AllocationMap;

/// A raw disk. Its size is the file's length when it was opened; if the file becomes shorter, reads fail.
#[derive(Debug)]
pub struct RawDisk {
    file: DiskFile,
    virtual_size: u64,
}

impl RawDisk {
    /// Opens the file at `path`.
    ///
    /// # Errors
    ///
    /// [`DiskError::BadSize`] for a length that is 0 or not a multiple of 512, else what opening says.
    pub fn open(path: &Path) -> Result<Self, DiskError> {
        let file = DiskFile::open(path)?;
        let virtual_size = file.len()?;
        if virtual_size == 0 || !virtual_size.is_multiple_of(512) {
            return Err(DiskError::BadSize { size: virtual_size });
        }
        Ok(Self { file, virtual_size })
    }

    /// Bytes that the file takes on its file system.
    ///
    /// # Errors
    ///
    /// When the file cannot be examined.
    pub fn physical_bytes(&self) -> Result<u64, DiskError> {
        self.file.physical_bytes()
    }

    /// The parts that the file system holds data for.
    ///
    /// # Errors
    ///
    /// When the file system cannot say for a reason other than not knowing about holes.
    pub fn capture_map(&self) -> Result<AllocationMap, DiskError> {
        let mut map = AllocationMap::new(self.virtual_size);
        self.file.for_each_data(self.virtual_size, |start, length| map.set_range(start, length))?;
        Ok(map)
    }
}

impl DiskReader for RawDisk {
    fn virtual_size(&self) -> u64 {
        self.virtual_size
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        let inside = self.virtual_size.saturating_sub(offset).min(buf.len() as u64) as usize;
        let (inside, past_end) = buf.split_at_mut_checked(inside).unwrap_or_default();
        past_end.fill(0);
        self.file.read_exact_at(inside, offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::FileExt as _;

    fn sparse(path: &Path, size: u64, data: &[(u64, &[u8])]) -> File {
        let file = File::create_new(path).unwrap();
        file.set_len(size).unwrap();
        data.iter().for_each(|(at, bytes)| file.write_all_at(bytes, *at).unwrap());
        file
    }

    #[test]
    fn the_map_follows_holes_up_to_the_end_and_reads_give_the_bytes() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.raw");
        let size = (3 << 40) + 512;
        sparse(&path, size, &[(1 << 20, &[7; 4096]), (size - 512, &[9; 512])]);
        let disk = RawDisk::open(&path).unwrap();
        let map = disk.capture_map().unwrap();
        let data: Vec<_> = map.extents().filter(|extent| extent.data).collect();
        assert_eq!(data.len(), 2, "{data:?}");
        assert_eq!(data[0].start, 1 << 20);
        assert!(data[0].length < 1 << 20);
        assert_eq!(data[1].end(), size);
        let mut buf = [1; 2048];
        disk.read_at(size - 1024, &mut buf).unwrap();
        assert_eq!(buf[..512], [0; 512]);
        assert_eq!(buf[512..1024], [9; 512]);
        assert_eq!(buf[1024..], [0; 1024]);
        disk.read_at(u64::MAX - 10, &mut buf).unwrap();
        assert_eq!(buf, [0; 2048]);
    }

    #[test]
    fn a_wholly_sparse_and_a_wholly_full_file_are_told_apart() {
        let dir = tempfile::tempdir().unwrap();
        sparse(&dir.path().join("holes"), 1 << 30, &[]);
        sparse(&dir.path().join("full"), 1 << 20, &[(0, &vec![1; 1 << 20])]);
        let map = |name: &str| RawDisk::open(&dir.path().join(name)).unwrap().capture_map().unwrap();
        assert_eq!(map("holes").data_bytes(), 0);
        assert_eq!(map("full").data_bytes(), 1 << 20);
    }

    #[test]
    fn a_file_that_was_cut_after_opening_is_an_error_and_never_zeros() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("d.raw");
        let file = sparse(&path, 8192, &[(0, &[5; 8192])]);
        let disk = RawDisk::open(&path).unwrap();
        file.set_len(5000).unwrap();
        let mut buf = [0; 4096];
        let found = disk.read_at(4096, &mut buf);
        assert!(
            matches!(found, Err(DiskError::ShortFile { offset: 4096, expected: 8192, found: 5000, .. })),
            "{found:?}"
        );
    }

    #[test]
    fn a_size_that_is_no_whole_number_of_sectors_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        for size in [0, 1, 511, 513] {
            let path = dir.path().join(format!("{size}.raw"));
            sparse(&path, size, &[]);
            assert!(matches!(RawDisk::open(&path), Err(DiskError::BadSize { size: found }) if found == size));
        }
    }
}
