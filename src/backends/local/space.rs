//! Room on the file systems that SRs lie on.

use super::{LocalError, LocalStore, Sr};

/// How full the file system of an SR is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// All of it, bytes.
    pub capacity: u64,
    /// What an unprivileged writer may still take, bytes.
    pub free: u64,
    /// What stays free whatever comes, bytes: the configured reserve, or 2 % of a smaller file system.
    pub reserve: u64,
}

impl Space {
    /// What may still be written, bytes.
    pub fn available(&self) -> u64 {
        self.free.saturating_sub(self.reserve)
    }
}

impl LocalStore {
    /// Looks at the file system of an SR. Blocks.
    ///
    /// # Errors
    /// When the file system does not answer.
    pub fn space(&self, sr: &Sr) -> Result<Space, LocalError> {
        let path = sr.dir.path();
        let stat = rustix::fs::statvfs(path).map_err(|errno| super::sr_dir::SrDirError::Io {
            action: "asking for the free space of",
            path: path.into(),
            source: errno.into(),
        })?;
        let capacity = stat.f_blocks.saturating_mul(stat.f_frsize);
        Ok(Space {
            capacity,
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
            reserve: self.inner.options.reserve.min(capacity / 50),
        })
    }

    /// Refuses when fewer than `needed` bytes may still be written to an SR. Blocks.
    ///
    /// # Errors
    /// [`LocalError::NoSpace`].
    pub fn require_space(&self, sr: &Sr, needed: u64) -> Result<(), LocalError> {
        let space = self.space(sr)?;
        if needed > space.available() || space.available() == 0 {
            return Err(LocalError::NoSpace {
                sr: sr.id,
                needed: needed.max(1),
                free: space.free,
                reserve: space.reserve,
            });
        }
        Ok(())
    }
}
