//! One file of a disk: opened so that nothing but a regular file is taken, read and written by position,
//! its errors put in our terms.

use std::fs::File;
use std::num::NonZeroU64;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Advice, FallocateFlags, FileType, Mode, OFlags, SeekFrom};
use rustix::io::Errno;

use super::error::DiskError;

/// Mode of new files, before the process's umask: disks are not for everybody.
const NEW_FILE_MODE: u32 = 0o640;

/// An open regular file and the path it was opened at, for error messages.
#[derive(Debug)]
pub(super) struct DiskFile {
    file: File,
    path: PathBuf,
}

/// The system's error number, for calls that answer with `io::Error`.
fn errno(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

impl DiskFile {
    /// Opens for reading. A symbolic link at the last component is not followed, and something that is
    /// not a regular file is refused without waiting for it (a FIFO has no writer yet).
    pub(super) fn open(path: &Path) -> Result<Self, DiskError> {
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let not_regular = || DiskError::NotARegularFile { path: path.to_path_buf() };
        let file = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| match error {
            // NXIO: a socket.
            Errno::LOOP | Errno::NXIO => not_regular(),
            _ => DiskError::reading("open", path, None, error),
        })?;
        let file = Self { file: file.into(), path: path.to_path_buf() };
        match FileType::from_raw_mode(file.stat()?.st_mode) {
            FileType::RegularFile => Ok(file),
            _ => Err(not_regular()),
        }
    }

    /// Makes a new file; one that exists is never touched.
    pub(super) fn create(path: &Path) -> Result<Self, DiskError> {
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mode = Mode::from_raw_mode(NEW_FILE_MODE);
        let file = rustix::fs::open(path, flags, mode)
            .map_err(|error| DiskError::writing("create", path, None, error))?;
        Ok(Self { file: file.into(), path: path.to_path_buf() })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    fn stat(&self) -> Result<rustix::fs::Stat, DiskError> {
        rustix::fs::fstat(&self.file).map_err(|error| DiskError::reading("examine", &self.path, None, error))
    }

    /// Length in bytes.
    pub(super) fn len(&self) -> Result<u64, DiskError> {
        // Negative lengths do not exist.
        Ok(self.stat()?.st_size.unsigned_abs())
    }

    /// Bytes that the file takes on its file system.
    pub(super) fn physical_bytes(&self) -> Result<u64, DiskError> {
        Ok(self.stat()?.st_blocks.unsigned_abs().saturating_mul(512))
    }

    /// Fills `buf` from `offset` on; a file that ends before is an error.
    pub(super) fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> Result<(), DiskError> {
        let expected = offset.saturating_add(buf.len() as u64);
        let (mut rest, mut at) = (buf, offset);
        while !rest.is_empty() {
            match self.file.read_at(rest, at) {
                Ok(0) => {
                    let path = self.path.clone();
                    return Err(DiskError::ShortFile { path, offset, expected, found: at });
                }
                Ok(read) => {
                    at += read as u64;
                    rest = rest.get_mut(read..).unwrap_or_default();
                }
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(DiskError::reading("read", &self.path, Some(at), errno(&error))),
            }
        }
        Ok(())
    }

    /// Writes all of `data` at `offset`.
    pub(super) fn write_all_at(&self, data: &[u8], offset: u64) -> Result<(), DiskError> {
        let at = Some((offset, data.len() as u64));
        self.file
            .write_all_at(data, offset)
            .map_err(|error| DiskError::writing("write", &self.path, at, errno(&error)))
    }

    /// Makes `len` bytes at `offset` zero without taking room, where the file system can; else writes zeros.
    pub(super) fn write_zeros_at(&self, len: u64, offset: u64) -> Result<(), DiskError> {
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(&self.file, flags, offset, len) {
            Ok(()) => return Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {}
            Err(error) => return Err(DiskError::writing("clear", &self.path, Some((offset, len)), error)),
        }
        let zeros = [0; 64 << 10];
        let mut at = offset;
        while at < offset + len {
            let step = zeros.len().min((offset + len - at) as usize);
            self.write_all_at(zeros.get(..step).unwrap_or_default(), at)?;
            at += step as u64;
        }
        Ok(())
    }

    /// Sets the length; what is new is a hole.
    pub(super) fn set_len(&self, len: u64) -> Result<(), DiskError> {
        rustix::fs::ftruncate(&self.file, len)
            .map_err(|error| DiskError::writing("extend", &self.path, Some((0, len)), error))
    }

    /// Waits until everything is on stable storage.
    pub(super) fn sync(&self) -> Result<(), DiskError> {
        rustix::fs::fsync(&self.file).map_err(|error| DiskError::writing("sync", &self.path, None, error))
    }

    /// Asks the kernel to begin writing these bytes back, so that the sync at the end finds little left
    /// and dirty memory stays small. A hint: it may do nothing. (Pages still dirty are not thrown away.)
    pub(super) fn begin_writeback(&self, offset: u64, len: u64) {
        if let Some(len) = NonZeroU64::new(len) {
            let _ = rustix::fs::fadvise(&self.file, offset, Some(len), Advice::DontNeed);
        }
    }

    /// The next run of data at or after `offset`, as the file system knows it: first byte and first byte
    /// after. `None` when there is only a hole up to the end. A file system that cannot tell has one run.
    pub(super) fn next_data(&self, offset: u64, len: u64) -> Result<Option<(u64, u64)>, DiskError> {
        let failed = |error| DiskError::reading("map", &self.path, Some(offset), error);
        let start = match rustix::fs::seek(&self.file, SeekFrom::Data(offset)) {
            Ok(start) => start,
            // Nothing but a hole is left.
            Err(Errno::NXIO) => return Ok(None),
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok((offset < len).then_some((offset, len))),
            Err(error) => return Err(failed(error)),
        };
        match rustix::fs::seek(&self.file, SeekFrom::Hole(start)) {
            Ok(end) => Ok(Some((start, end))),
            // The file was cut between the two questions.
            Err(Errno::NXIO) => Ok(None),
            Err(error) => Err(failed(error)),
        }
    }

    /// Calls `found` with each run of data that lies before `len`, in order.
    pub(super) fn for_each_data(&self, len: u64, mut found: impl FnMut(u64, u64)) -> Result<(), DiskError> {
        let mut at = 0;
        while at < len {
            let Some((start, end)) = self.next_data(at, len)? else { break };
            let end = end.min(len);
            if start >= end {
                break;
            }
            found(start, end - start);
            at = end;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifo_a_link_a_folder_and_a_socket_are_refused_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        rustix::fs::mknodat(rustix::fs::CWD, at("fifo"), FileType::Fifo, Mode::from_raw_mode(0o600), 0)
            .unwrap();
        std::fs::write(at("file"), b"x").unwrap();
        std::os::unix::fs::symlink(at("file"), at("link")).unwrap();
        std::fs::create_dir(at("folder")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
        for name in ["fifo", "link", "folder", "socket"] {
            let found = DiskFile::open(&at(name));
            assert!(matches!(found, Err(DiskError::NotARegularFile { .. })), "{name}: {found:?}");
        }
        let device = DiskFile::open(Path::new("/dev/null"));
        assert!(matches!(device, Err(DiskError::NotARegularFile { .. })), "{device:?}");
        assert!(matches!(DiskFile::open(&at("none")), Err(DiskError::NotFound { .. })));
        assert!(DiskFile::open(&at("file")).is_ok());
        for name in ["file", "link", "fifo"] {
            let found = DiskFile::create(&at(name));
            assert!(matches!(found, Err(DiskError::AlreadyExists { .. })), "{name}: {found:?}");
        }
    }

    #[test]
    fn a_full_device_is_no_space_with_what_was_needed() {
        let full = DiskFile {
            file: File::options().write(true).open("/dev/full").unwrap(),
            path: PathBuf::from("/dev/full"),
        };
        let found = full.write_all_at(&[1; 4096], 8192);
        assert!(
            matches!(found, Err(DiskError::NoSpace { offset: Some(8192), needed: 4096, .. })),
            "{found:?}"
        );
        assert!(found.unwrap_err().is_no_space());
    }
}
