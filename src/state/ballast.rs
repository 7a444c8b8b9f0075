//! A file that holds nothing but its place: it is given up when the disk is full, so that the journal can
//! still write down what failed, and made again when there is room.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FallocateFlags, fallocate, statvfs};
use rustix::io::Errno;

/// How much it holds. A journal entry takes a few pages; the write-ahead log and its index come on top.
const BALLAST_BYTES: u64 = 4 << 20;

/// It is made again when the file system has this many times its size to spare.
const ROOM_FACTOR: u64 = 4;

/// At most that often it is tried to make it again.
const RETRY_EVERY: Duration = Duration::from_secs(10);

/// The ballast of one data directory.
#[derive(Debug)]
pub(super) struct Ballast {
    path: PathBuf,
    present: bool,
    tried: Option<Instant>,
}

impl Ballast {
    /// The ballast beside the database, made if there is room for it.
    pub(super) fn beside(database: &Path) -> Self {
        let mut ballast = Self { path: database.with_file_name("ballast"), present: false, tried: None };
        ballast.restore(Instant::now());
        ballast
    }

    /// Gives up the space. Whether there was any to give up.
    pub(super) fn release(&mut self) -> bool {
        self.present = false;
        match std::fs::remove_file(&self.path) {
            Ok(()) => {
                tracing::warn!("disk full: gave up the ballast to write down state");
                true
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => {
                tracing::error!(%error, path = %self.path.display(), "cannot give up the ballast");
                false
            }
        }
    }

    /// Makes it again where it is missing, unless that was tried just now or there is no room.
    pub(super) fn restore(&mut self, now: Instant) {
        let recently = self.tried.is_some_and(|tried| now.saturating_duration_since(tried) < RETRY_EVERY);
        if self.present || recently {
            return;
        }
        self.tried = Some(now);
        match self.make() {
            Ok(present) => self.present = present,
            Err(error) => tracing::warn!(%error, path = %self.path.display(), "cannot make the ballast"),
        }
    }

    /// Allocates the file. `false` when there is no room.
    fn make(&self) -> io::Result<bool> {
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.path)?;
        if file.metadata()?.blocks() * 512 >= BALLAST_BYTES {
            return Ok(true);
        }
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let room = statvfs(folder.unwrap_or(Path::new(".")))?;
        if room.f_bavail.saturating_mul(room.f_frsize) < BALLAST_BYTES * ROOM_FACTOR {
            drop(file);
            std::fs::remove_file(&self.path)?;
            return Ok(false);
        }
        let made = allocate(&file).and_then(|()| file.sync_all());
        if made.is_err() {
            // half a ballast would only take the place that is missing
            std::fs::remove_file(&self.path)?;
        }
        made.map(|()| true)
    }
}

/// Gives the file real blocks.
fn allocate(file: &File) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), 0, BALLAST_BYTES) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
            // random, because a file system that compresses would store zeros in no blocks at all
            let mut chunk = vec![0; 1 << 16];
            let mut writer = file;
            for _ in 0..BALLAST_BYTES >> 16 {
                getrandom::fill(&mut chunk).map_err(io::Error::other)?;
                writer.write_all(&chunk)?;
            }
            Ok(())
        }
        other => Ok(other?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ballast_is_really_allocated_given_up_and_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let mut ballast = Ballast::beside(&dir.path().join("gantry.db"));
        let path = dir.path().join("ballast");
        assert!(std::fs::metadata(&path).unwrap().blocks() * 512 >= BALLAST_BYTES);
        assert!(ballast.release());
        assert!(!path.exists());
        assert!(!ballast.release());
        ballast.restore(Instant::now());
        assert!(!path.exists(), "tried again at once");
        ballast.restore(Instant::now() + RETRY_EVERY * 2);
        assert!(std::fs::metadata(&path).unwrap().blocks() * 512 >= BALLAST_BYTES);
    }
}
