//! Room on the file systems that SRs lie on, and who has been promised some of it.
//!
//! A job that knows what it will write reserves that at its beginning; what it has written, it takes off. What is
//! reserved is nobody else's: neither a job that comes later nor one that did not know its need may use it. The
//! account is kept for each file system, not for each SR, because two SRs may lie on one.

use std::collections::HashMap;
use std::os::unix::fs::MetadataExt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::disk::io_pool::IoPoolError;

use super::sr_dir::SrDirError;
use super::{LocalError, LocalStore, Shortage, Sr};

/// How full the file system of an SR is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// All of it, bytes.
    pub capacity: u64,
    /// What an unprivileged writer may still take, bytes.
    pub free: u64,
    /// What running jobs have reserved and not written yet, bytes.
    pub reserved: u64,
    /// What stays free whatever comes, bytes: the configured reserve, or 2 % of a smaller file system.
    pub reserve: u64,
}

impl Space {
    /// What may still be written by somebody who has reserved nothing, bytes.
    pub fn available(&self) -> u64 {
        self.free.saturating_sub(self.reserve).saturating_sub(self.reserved)
    }
}

/// How long a file system may take to say how full it is, before its SR is shown without.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);

/// A file system, by the number that the system gives it.
type Device = u64;

/// What running jobs have reserved on each file system, bytes.
#[derive(Debug, Default)]
pub(super) struct Reservations {
    promised: Mutex<HashMap<Device, u64>>,
}

impl Reservations {
    fn promised(&self) -> MutexGuard<'_, HashMap<Device, u64>> {
        // Every change under the lock is a single step.
        self.promised.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn on(&self, device: Device) -> u64 {
        self.promised().get(&device).copied().unwrap_or(0)
    }
}

/// Room that is promised to a job. What is left of it goes back with this.
#[derive(Debug)]
pub struct Reservation {
    store: LocalStore,
    sr: Arc<Sr>,
    device: Device,
    left: u64,
}

impl Reservation {
    /// So many bytes are no longer to come: the file system counts them now. More than is left counts as that.
    pub fn wrote(&mut self, bytes: u64) {
        let bytes = bytes.min(self.left);
        self.left -= bytes;
        let mut promised = self.store.inner.reservations.promised();
        if let Some(all) = promised.get_mut(&self.device) {
            *all = all.saturating_sub(bytes);
            if *all == 0 {
                promised.remove(&self.device);
            }
        }
    }

    /// Bytes that are reserved and not written yet.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Refuses when the file system has no room left but what is reserved for others and kept in reserve: somebody
    /// else has filled it, or nothing was reserved. Blocks.
    ///
    /// # Errors
    /// [`LocalError::NoSpace`].
    pub fn check(&self) -> Result<(), LocalError> {
        let mut space = self.store.space(&self.sr)?;
        space.reserved = space.reserved.saturating_sub(self.left);
        if space.available() == 0 { Err(shortage(&self.sr, space, self.left)) } else { Ok(()) }
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        self.wrote(self.left);
    }
}

impl LocalStore {
    /// Looks at the file system of an SR. Blocks.
    ///
    /// # Errors
    /// When the file system does not answer.
    pub fn space(&self, sr: &Sr) -> Result<Space, LocalError> {
        self.space_on(device(sr)?, sr)
    }

    /// Looks at the file system of an SR, for showing it. `None` when it does not answer soon: its storage hangs,
    /// and what is said of the other SRs does not wait for it.
    ///
    /// # Errors
    /// When the file system answers with an error.
    pub async fn space_at_once(&self, sr: &Arc<Sr>) -> Result<Option<Space>, LocalError> {
        let (store, place) = (self.clone(), Arc::clone(sr));
        match tokio::time::timeout(ANSWER_WITHIN, sr.io.run(move || store.space(&place))).await {
            Ok(Ok(space)) => space.map(Some),
            Err(_) | Ok(Err(IoPoolError::Stuck)) => Ok(None),
            Ok(Err(error)) => Err(error.into()),
        }
    }

    fn space_on(&self, device: Device, sr: &Sr) -> Result<Space, LocalError> {
        let path = sr.dir.path();
        // Looked at before and after: what is written in between is missing from one or the other.
        let before = self.inner.reservations.on(device);
        let stat = rustix::fs::statvfs(path).map_err(|errno| SrDirError::Io {
            action: "asking for the free space of",
            path: path.into(),
            source: errno.into(),
        })?;
        let capacity = stat.f_blocks.saturating_mul(stat.f_frsize);
        Ok(Space {
            capacity,
            free: stat.f_bavail.saturating_mul(stat.f_frsize),
            reserved: before.max(self.inner.reservations.on(device)),
            reserve: self.inner.options.reserve_on(capacity),
        })
    }

    /// Refuses when fewer than `needed` bytes may still be written to an SR. Blocks.
    ///
    /// # Errors
    /// [`LocalError::NoSpace`].
    pub fn require_space(&self, sr: &Sr, needed: u64) -> Result<(), LocalError> {
        require(sr, self.space(sr)?, needed)
    }

    /// Reserves room for a job that will write `bytes`; with 0, for one that does not know. Blocks.
    ///
    /// # Errors
    /// [`LocalError::NoSpace`] when that is not there, besides what others have reserved.
    pub fn reserve(&self, sr: &Arc<Sr>, bytes: u64) -> Result<Reservation, LocalError> {
        let device = device(sr)?;
        let mut space = self.space_on(device, sr)?;
        let mut promised = self.inner.reservations.promised();
        // Others may have come since.
        let others = promised.get(&device).copied().unwrap_or(0);
        space.reserved = space.reserved.max(others);
        require(sr, space, bytes)?;
        if bytes > 0 {
            promised.insert(device, others.saturating_add(bytes));
        }
        drop(promised);
        Ok(Reservation { store: self.clone(), sr: Arc::clone(sr), device, left: bytes })
    }

    /// What a full disk is to the user: a matter of the SR, with its numbers. Blocks.
    pub fn out_of_space(&self, sr: &Sr, needed: u64) -> LocalError {
        match self.space(sr) {
            Ok(space) => shortage(sr, space, needed),
            Err(error) => error,
        }
    }
}

fn require(sr: &Sr, space: Space, needed: u64) -> Result<(), LocalError> {
    if needed > space.available() || space.available() == 0 {
        return Err(shortage(sr, space, needed));
    }
    Ok(())
}

fn shortage(sr: &Sr, space: Space, needed: u64) -> LocalError {
    let Space { free, reserved, reserve, .. } = space;
    LocalError::NoSpace(Shortage { id: sr.id, needed: needed.max(1), free, reserved, reserve })
}

fn device(sr: &Sr) -> Result<Device, LocalError> {
    let path = sr.dir.path();
    let metadata = std::fs::metadata(path);
    let metadata =
        metadata.map_err(|source| SrDirError::Io { action: "examining", path: path.into(), source })?;
    Ok(metadata.dev())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backends::local::NewSr;
    use crate::config::{Size, Storage};
    use crate::state::Db;

    /// A store with two SRs on one file system, and no reserve.
    fn two_srs() -> (tempfile::TempDir, LocalStore, [Arc<Sr>; 2]) {
        let folder = tempfile::tempdir().unwrap();
        let db = Db::open(&folder.path().join("gantry.db")).unwrap();
        let options = Storage { reserve: Size(0), ..Storage::default() };
        let store = LocalStore::open(db, folder.path(), options, &Default::default()).unwrap();
        let second = NewSr {
            id: crate::ids::SrId::random(),
            name_label: "second".into(),
            name_description: None,
            path: None,
            content_format: None,
            read_only: false,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let second = runtime.block_on(store.create_sr(second)).unwrap().id;
        let srs = [store.site().default_sr, second].map(|id| store.sr(id).unwrap());
        (folder, store, srs)
    }

    /// What is free changes while other tests run: the numbers here are far above that.
    const MUCH: u64 = 1 << 30;

    #[test]
    fn what_a_job_has_reserved_is_missing_for_others_on_the_same_file_system() {
        let (_folder, store, [one, two]) = two_srs();
        let free = store.space(&one).unwrap().free;
        assert!(free > 8 * MUCH, "the test needs some room");
        let mut first = store.reserve(&one, free - 2 * MUCH).unwrap();
        assert_eq!(store.space(&two).unwrap().reserved, free - 2 * MUCH);
        for refused in [store.reserve(&two, 4 * MUCH).map(drop), store.require_space(&two, 4 * MUCH)] {
            let Err(LocalError::NoSpace(found)) = refused else { panic!("{refused:?}") };
            assert_eq!((found.id, found.needed, found.reserve), (two.id, 4 * MUCH, 0));
            assert_eq!(found.reserved, free - 2 * MUCH);
        }
        // A job may use its own: only what others have reserved is in its way.
        first.check().unwrap();
        // What was written is in the file system's own numbers from then on.
        first.wrote(free - 3 * MUCH);
        assert_eq!(first.left(), MUCH);
        let second = store.reserve(&two, 4 * MUCH).unwrap();
        assert_eq!(store.space(&one).unwrap().reserved, 5 * MUCH);
        drop(first);
        assert_eq!(store.space(&one).unwrap().reserved, 4 * MUCH);
        drop(second);
        assert_eq!(store.space(&one).unwrap().reserved, 0);
        assert!(store.inner.reservations.promised().is_empty());
    }

    #[test]
    fn a_job_that_reserved_nothing_ends_before_it_takes_what_others_reserved() {
        let (_folder, store, [one, two]) = two_srs();
        let unsure = store.reserve(&one, 0).unwrap();
        unsure.check().unwrap();
        let sure = store.reserve(&two, store.space(&two).unwrap().free - MUCH).unwrap();
        unsure.check().unwrap();
        // The file system fills up to what is promised.
        store.inner.reservations.promised().values_mut().for_each(|all| *all += 2 * MUCH);
        assert!(matches!(unsure.check(), Err(LocalError::NoSpace(_))));
        drop(sure);
        unsure.check().unwrap();
    }
}
