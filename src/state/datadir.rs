//! The data directory and the lock by which one server owns it.

use std::fs::{DirBuilder, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another server owns it.
    #[error("the data directory {} is in use by another gantry{}", path.display(), holder(*pid))]
    Locked {
        /// The directory.
        path: PathBuf,
        /// The process that owns it, if it has said so.
        pid: Option<u32>,
    },
    /// It, or its lock, cannot be made or opened.
    #[error("cannot use {}: {source}", path.display())]
    Io {
        /// The file or directory.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
}

fn holder(pid: Option<u32>) -> String {
    pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
}

/// A data directory that exists. A server holds its lock for as long as this value lives.
#[derive(Debug)]
pub struct DataDir {
    path: PathBuf,
    /// Open for the lock that goes with it.
    _lock: Option<File>,
}

impl DataDir {
    /// For the server: makes the directory (mode 0700) where it is missing and takes its lock.
    ///
    /// # Errors
    /// [`DataDirError::Locked`] with the process that holds it, or [`DataDirError::Io`].
    pub fn open_exclusive(path: &Path) -> Result<Self, DataDirError> {
        let shared = Self::open_shared(path)?;
        let lock_path = path.join("lock");
        let io = |source| DataDirError::Io { path: lock_path.clone(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .map_err(io)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(DataDirError::Locked { path: shared.path, pid: read_pid(&mut file) });
            }
            Err(TryLockError::Error(source)) => return Err(io(source)),
        }
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| writeln!(file, "{}", std::process::id()))
            .map_err(io)?;
        Ok(Self { path: shared.path, _lock: Some(file) })
    }

    /// For commands that work beside a running server: makes the directory where it is missing, takes no lock.
    ///
    /// # Errors
    /// [`DataDirError::Io`].
    pub fn open_shared(path: &Path) -> Result<Self, DataDirError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|source| DataDirError::Io { path: path.to_owned(), source })?;
        Ok(Self { path: path.to_owned(), _lock: None })
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The state database's file.
    pub fn database_path(&self) -> PathBuf {
        self.path.join("gantry.db")
    }

    /// Where the password lies that the first start has made up.
    pub fn admin_password_path(&self) -> PathBuf {
        self.path.join("admin-password")
    }
}

/// The process that the holder of a lock has written into it.
fn read_pid(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    // ten digits and a line feed
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_second_server_is_refused_and_told_who_holds_the_directory() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data");
        let first = DataDir::open_exclusive(&path).unwrap();
        match DataDir::open_exclusive(&path) {
            Err(DataDirError::Locked { path: found, pid }) => {
                assert_eq!((found, pid), (path.clone(), Some(std::process::id())));
            }
            other => panic!("{other:?}"),
        }
        DataDir::open_shared(&path).unwrap();
        drop(first);
        DataDir::open_exclusive(&path).unwrap();
    }

    #[test]
    fn a_new_data_directory_is_closed_to_others() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a/b");
        let data = DataDir::open_exclusive(&path).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(data.path()), 0o700);
        assert_eq!(mode(&path.join("lock")), 0o600);
    }

    #[test]
    fn a_file_in_the_way_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "").unwrap();
        let error = DataDir::open_exclusive(&path).unwrap_err();
        assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    }
}
