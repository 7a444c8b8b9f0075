//! The embedded default: SR directories on this machine's file systems, described by the state database.
//!
//! Content is committed by intent, rename and one transaction (`commit`), recovered by following the intents
//! (`recovery`), stays for as long as somebody reads it (`pins`), and may be shared by several VDIs (`snapshots`), one
//! of which gives its file the name (`moves`).

mod attach;
mod caretaker;
mod changes;
mod commit;
mod content;
mod delete;
mod error;
mod fuse;
mod labels;
mod moves;
mod networks;
mod pins;
mod recovery;
mod replace;
mod scan;
mod snapshots;
mod space;
pub mod sr_dir;
mod staging;
#[cfg(test)]
mod test_support;
mod vbds;
mod vm_archive;
mod vm_records;
mod vms;

use std::collections::{HashMap, HashSet};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::sync::broadcast;

use crate::config::Storage;
use crate::disk::error::DiskError;
use crate::disk::io_pool::{IoPool, IoPoolError};
use crate::disk::map::AllocationMap;
use crate::disk::open::open_disk_with;
use crate::disk::vhd_chain::ParentPlaces;
use crate::disk::worker::GivenUp;
use crate::ids::{ContentId, DiskFormat, HostId, PoolId, SrId, VdiId};
use crate::state::disks::{self, ContentRow, SrRow, VdiRow};
use crate::state::{Db, StateError, meta, now_ms};

pub use attach::{Attached, Broken, NewSr};
use caretaker::{Caretaker, Chore};
use changes::Changes;
pub use changes::ObjectChange;
pub use commit::{Committed, Destination, NewDisk, NewVdi};
pub use content::OpenContent;
pub use error::{LocalError, Shortage};
pub use labels::Label;
pub use pins::{Pin, Pins};
pub use scan::Scanned;
use space::Reservations;
pub use space::{Reservation, Space};
use sr_dir::{KeptVdi, SrDir, SrIdentity};
pub use staging::Staging;
pub use vbds::NewVbd;
pub use vm_archive::{PinnedDisk, PinnedVm, VDI_REFERENCE};
pub use vms::NewVm;

/// Threads that read from one SR at the same time.
const READERS_PER_SR: NonZeroUsize = NonZeroUsize::new(8).unwrap();
/// Reads that may wait for a thread; each is at most one chunk of a transfer's share of the budget.
const WAITING_READS: NonZeroUsize = NonZeroUsize::new(16_384).unwrap();
/// Threads that may be set aside because their storage hangs, for each SR.
const ABANDONED_READERS: usize = 64;

/// How often the SRs' threads are looked at for operations that hang.
const LOOK_FOR_STUCK: Duration = Duration::from_secs(1);

/// Who this installation is: its pool, its host and its default SR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Site {
    /// The local pool.
    pub pool: PoolId,
    /// The one host in it.
    pub host: HostId,
    /// Where imports go that name no SR.
    pub default_sr: SrId,
}

/// An SR that is attached and locked.
#[derive(Debug)]
pub struct Sr {
    /// Its id.
    pub id: SrId,
    /// Its directory.
    pub dir: SrDir,
    /// The form in which new content is stored.
    pub content_format: DiskFormat,
    /// The threads that work on it.
    pub io: Arc<IoPool>,
    /// Threads of single jobs on it that hang.
    pub given_up: Arc<GivenUp>,
    missing: Mutex<HashSet<ContentId>>,
    turns: Arc<tokio::sync::Mutex<()>>,
}

impl Sr {
    fn new(row: &SrRow, dir: SrDir) -> Result<Arc<Self>, LocalError> {
        let name = format!("sr-{}", row.id.to_string().get(..8).unwrap_or_default());
        let io = IoPool::new(&name, READERS_PER_SR, WAITING_READS, ABANDONED_READERS)?;
        Ok(Arc::new(Self {
            id: row.id,
            dir,
            content_format: row.content_format,
            io: Arc::new(io),
            given_up: Arc::default(),
            missing: Mutex::default(),
            turns: Arc::default(),
        }))
    }

    /// The right to move files whose content others may share, which one has at a time. It is needed for moments only:
    /// who does not get it within `patience` waits for storage that hangs.
    pub(super) async fn turn(
        &self,
        patience: Duration,
    ) -> Result<tokio::sync::OwnedMutexGuard<()>, LocalError> {
        let turn = tokio::time::timeout(patience, Arc::clone(&self.turns).lock_owned()).await;
        turn.map_err(|_| LocalError::Pool(IoPoolError::Stuck))
    }

    /// Whether the file of a content was not there when the SR was last looked through.
    pub fn is_missing(&self, content: ContentId) -> bool {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner).contains(&content)
    }

    /// Notes whether the file of a content is there. Answers whether that is news.
    pub(super) fn set_missing(&self, content: ContentId, missing: bool) -> bool {
        let mut list = self.missing.lock().unwrap_or_else(PoisonError::into_inner);
        if missing { list.insert(content) } else { list.remove(&content) }
    }
}

/// The local store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LocalStore {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    db: Db,
    site: Site,
    options: Storage,
    data: PathBuf,
    srs: RwLock<HashMap<SrId, Arc<Sr>>>,
    unavailable: RwLock<HashMap<SrId, String>>,
    claims: Mutex<HashSet<VdiId>>,
    reservations: Reservations,
    pins: Arc<Pins>,
    /// Pins of contents that somebody may go on reading after a restart.
    kept: Mutex<Vec<Pin>>,
    caretaker: Caretaker,
    changes: Changes,
}

/// Excludes other writers from a VDI for as long as it lives.
#[derive(Debug)]
pub struct WriteClaim {
    store: LocalStore,
    vdi: VdiId,
}

impl Drop for WriteClaim {
    fn drop(&mut self) {
        self.store.inner.claims.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.vdi);
    }
}

impl LocalStore {
    /// Opens the store: makes pool, host and the first SR when the database is new, takes the directories of
    /// all SRs, finishes or undoes what was interrupted. Blocks; for the start of the server.
    ///
    /// # Errors
    /// When the database or the data directory cannot be used. An SR elsewhere that cannot be taken is
    /// reported and left out, so that one lost mount does not keep the others from working.
    ///
    /// Contents in `needed` that nothing refers to any more are kept until [`Self::release_kept`].
    pub fn open(
        db: Db,
        data: &Path,
        options: Storage,
        needed: &HashSet<ContentId>,
    ) -> Result<Self, LocalError> {
        let (caretaker, chores) = Caretaker::new();
        let data = std::path::absolute(data).unwrap_or_else(|_| data.to_path_buf());
        let site = site(&db, &data, &options)?;
        let inner = Inner {
            db,
            site,
            options,
            data,
            srs: RwLock::default(),
            unavailable: RwLock::default(),
            claims: Mutex::default(),
            reservations: Reservations::default(),
            pins: Pins::new(caretaker.clone()),
            kept: Mutex::default(),
            caretaker,
            changes: Changes::new(),
        };
        let store = Self { inner: Arc::new(inner) };
        for row in store.inner.db.call_blocking(|db| Ok(disks::srs(db)?))? {
            match store.take(&row, needed) {
                Ok(()) => {}
                Err(error) if row.id == site.default_sr => return Err(error),
                Err(error) => {
                    tracing::error!(sr = %row.id, path = %row.path.display(), %error, "storage repository left out");
                    let mut unavailable =
                        store.inner.unavailable.write().unwrap_or_else(PoisonError::into_inner);
                    unavailable.insert(row.id, error.to_string());
                }
            }
        }
        let weak = Arc::downgrade(&store.inner);
        std::thread::Builder::new()
            .name("caretaker".into())
            .spawn(move || {
                caretaker::attend(&chores, |chore| {
                    if let Some(inner) = weak.upgrade() {
                        Self { inner }.attend(chore);
                    }
                });
            })
            .map_err(|source| sr_dir::SrDirError::Io {
                action: "starting a thread for",
                path: "caretaker".into(),
                source,
            })?;
        store.begin_to_watch()?;
        Ok(store)
    }

    /// Starts the thread that gives up operations which hang, for as long as somebody holds the store.
    fn begin_to_watch(&self) -> Result<(), LocalError> {
        let weak = Arc::downgrade(&self.inner);
        let stuck_after = self.stuck_after();
        let watch = move || {
            while let Some(inner) = weak.upgrade() {
                let srs: Vec<_> =
                    inner.srs.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect();
                drop(inner);
                for sr in srs {
                    let given_up = sr.io.abandon_stuck(stuck_after);
                    if given_up > 0 {
                        tracing::error!(sr = %sr.id, operations = given_up, "storage does not answer: given up");
                    }
                }
                std::thread::sleep(LOOK_FOR_STUCK);
            }
        };
        std::thread::Builder::new()
            .name("sr-watch".into())
            .spawn(watch)
            .map_err(|source| IoPoolError::Spawn { source })?;
        Ok(())
    }

    /// How long one operation on an SR's storage may take before it counts as hanging.
    pub fn stuck_after(&self) -> Duration {
        self.inner.options.stuck_after.get()
    }

    /// Who this installation is.
    pub fn site(&self) -> Site {
        self.inner.site
    }

    /// The state database.
    pub fn db(&self) -> &Db {
        &self.inner.db
    }

    /// Changes of objects from now on. Bounded: a listener that lags behind is told how many it missed, and has
    /// to look at all objects again.
    pub fn changes(&self) -> broadcast::Receiver<ObjectChange> {
        self.inner.changes.listen()
    }

    /// An SR that is attached.
    ///
    /// # Errors
    /// [`LocalError::NoSuchSr`], or [`LocalError::SrUnavailable`] when it is known but could not be taken.
    pub fn sr(&self, id: SrId) -> Result<Arc<Sr>, LocalError> {
        if let Some(sr) = self.inner.srs.read().unwrap_or_else(PoisonError::into_inner).get(&id) {
            return Ok(Arc::clone(sr));
        }
        match self.inner.unavailable.read().unwrap_or_else(PoisonError::into_inner).get(&id) {
            Some(reason) => Err(LocalError::SrUnavailable { sr: id, reason: reason.clone() }),
            None => Err(LocalError::NoSuchSr(id)),
        }
    }

    /// An SR that may be written to.
    ///
    /// # Errors
    /// As [`Self::sr`], and [`LocalError::SrReadOnly`].
    pub fn writable_sr(&self, id: SrId) -> Result<Arc<Sr>, LocalError> {
        let sr = self.sr(id)?;
        if sr.dir.read_only() { Err(LocalError::SrReadOnly(id)) } else { Ok(sr) }
    }

    /// Keeps other writers from a VDI.
    ///
    /// # Errors
    /// [`LocalError::VdiBusy`] when somebody writes it already.
    pub fn claim(&self, vdi: VdiId) -> Result<WriteClaim, LocalError> {
        let mut claims = self.inner.claims.lock().unwrap_or_else(PoisonError::into_inner);
        if claims.insert(vdi) {
            Ok(WriteClaim { store: self.clone(), vdi })
        } else {
            Err(LocalError::VdiBusy(vdi))
        }
    }

    /// Looks a VDI up and pins the content that it refers to, in one step.
    ///
    /// # Errors
    /// [`LocalError::NoSuchVdi`].
    pub async fn pin_vdi(&self, id: VdiId) -> Result<(VdiRow, ContentRow, Pin), LocalError> {
        let pins = Arc::clone(&self.inner.pins);
        let found = self
            .inner
            .db
            .call(move |db| {
                let Some(vdi) = disks::find_vdi(db, id)? else { return Ok(None) };
                let Some(content) = disks::find_content(db, vdi.content)? else { return Ok(None) };
                let pin = pins.pin(vdi.content);
                Ok(Some((vdi, content, pin)))
            })
            .await?;
        found.ok_or(LocalError::NoSuchVdi(id))
    }

    /// Pins content that a VDI refers to, or that somebody has pinned already.
    ///
    /// # Errors
    /// [`LocalError::ContentGone`].
    pub async fn pin_content(&self, content: ContentId) -> Result<Pin, LocalError> {
        let pins = Arc::clone(&self.inner.pins);
        let found = self.inner.db.call(move |db| {
            let row = disks::find_content(db, content)?;
            Ok(row.filter(|row| !row.dropped || pins.is_pinned(content)).map(|_| pins.pin(content)))
        });
        found.await?.ok_or(LocalError::ContentGone(content))
    }

    /// The server stops: replaced content whose last reader leaves now is left to the next start, for those who go
    /// on reading it then.
    pub fn leave_replaced(&self) {
        self.inner.pins.leave();
    }

    /// A pin on a content that was kept at the start for those who might go on reading it.
    pub fn pin_kept(&self, content: ContentId) -> Option<Pin> {
        let kept = self.inner.kept.lock().unwrap_or_else(PoisonError::into_inner);
        // It is pinned already, and so cannot go meanwhile: no turn of the database is needed.
        kept.iter().any(|pin| pin.content() == content).then(|| self.inner.pins.pin(content))
    }

    /// Lets go of the contents that were kept at the start: whoever goes on reading has them pinned by now.
    pub fn release_kept(&self) {
        let kept = std::mem::take(&mut *self.inner.kept.lock().unwrap_or_else(PoisonError::into_inner));
        drop(kept);
    }

    /// Opens pinned content, or joins those who have it open.
    ///
    /// # Errors
    /// When its file cannot be read or is not what the database says.
    pub async fn open_content(&self, pin: &Pin) -> Result<Arc<OpenContent>, LocalError> {
        if let Some(open) = pin.opened() {
            return Ok(open);
        }
        let mut tries = 0;
        loop {
            let content = pin.content();
            let found = self
                .inner
                .db
                .call(move |db| {
                    let Some(row) = disks::find_content(db, content)? else { return Ok(None) };
                    Ok(disks::content_map(db, content)?.map(|map| (row, map)))
                })
                .await?;
            let (row, map) = found.ok_or(LocalError::ContentGone(content))?;
            let (sr, file) = (self.sr(row.sr)?, row.file.clone());
            let (from, io) = (Arc::clone(&sr), Arc::clone(&sr.io));
            let opened = sr.io.run(move || open_file(&from, row, &map, io)).await?;
            // A commit says in the database where the old file is before the new one takes its name: if that
            // is still what was opened, it is the content's own file.
            let now = self.inner.db.call(move |db| Ok(disks::find_content(db, content)?)).await?;
            let unmoved = now.is_some_and(|now| now.file == file);
            match opened {
                Ok(open) if unmoved => {
                    let open = Arc::new(open);
                    self.note_missing(&sr, content, false).await;
                    pin.share(&open);
                    return Ok(open);
                }
                // It is just being moved: its new place is in the database now or in a moment.
                _ if !unmoved && tries < 100 => tries += 1,
                Err(LocalError::Disk(DiskError::NotFound { .. })) if tries < 5 => {
                    tries += 1;
                    tokio::time::sleep(Duration::from_millis(20 << tries)).await;
                }
                Err(LocalError::Disk(DiskError::NotFound { .. })) => {
                    self.note_missing(&sr, content, true).await;
                    return Err(LocalError::FileMissing { sr: sr.id, file });
                }
                Err(error) => return Err(error),
                Ok(_) => return Err(LocalError::ContentGone(content)),
            }
        }
    }

    /// Notes whether the file of a content is there, and tells of the VDIs that show it.
    async fn note_missing(&self, sr: &Sr, content: ContentId, missing: bool) {
        if !sr.set_missing(content, missing) {
            return;
        }
        match self.inner.db.call(move |db| Ok(disks::vdis_of_content(db, content)?)).await {
            Ok(vdis) => vdis.into_iter().for_each(|vdi| self.inner.changes.tell(ObjectChange::Vdi(vdi))),
            Err(error) => tracing::warn!(%error, "nobody is told that a file is missing or there again"),
        }
    }

    /// Stores a VDI's name, description and tags anew.
    ///
    /// # Errors
    /// [`LocalError::NoSuchVdi`].
    pub async fn edit_vdi(
        &self,
        id: VdiId,
        edit: impl Fn(&mut VdiRow) + Send + 'static,
    ) -> Result<(), LocalError> {
        let found = self
            .inner
            .db
            .transaction(move |tx| {
                let Some(mut row) = disks::find_vdi(tx, id)? else { return Ok(None) };
                edit(&mut row);
                disks::update_vdi(tx, &row)?;
                Ok(Some(row.sr))
            })
            .await?;
        let sr = found.ok_or(LocalError::NoSuchVdi(id))?;
        self.inner.changes.tell(ObjectChange::Vdi(id));
        self.inner.caretaker.ask(Chore::WriteNames(sr));
        Ok(())
    }

    /// Stores an SR's name, description and tags anew.
    ///
    /// # Errors
    /// [`LocalError::NoSuchSr`].
    pub async fn edit_sr(
        &self,
        id: SrId,
        edit: impl Fn(&mut SrRow) + Send + 'static,
    ) -> Result<(), LocalError> {
        let found = self
            .inner
            .db
            .transaction(move |tx| {
                let Some(mut row) = disks::find_sr(tx, id)? else { return Ok(false) };
                edit(&mut row);
                disks::update_sr(tx, &row)?;
                Ok(true)
            })
            .await?;
        if !found {
            return Err(LocalError::NoSuchSr(id));
        }
        self.inner.changes.tell(ObjectChange::Sr(id));
        self.inner.caretaker.ask(Chore::WriteNames(id));
        Ok(())
    }

    /// Writes all names that have changed into the SRs' directories. Blocks; for the end of the server.
    pub fn settle(&self) {
        let srs: Vec<_> =
            self.inner.srs.read().unwrap_or_else(PoisonError::into_inner).keys().copied().collect();
        for sr in srs {
            self.attend(Chore::WriteNames(sr));
        }
    }

    fn attend(&self, chore: Chore) {
        let done = match chore {
            Chore::Remove(content) => self.remove_dropped(content),
            Chore::WriteNames(sr) => self.write_names(sr),
        };
        if let Err(error) = done {
            tracing::error!(?chore, %error, "a chore failed; the next start does it again");
        }
    }

    /// Removes a content that nothing refers to and nobody reads.
    fn remove_dropped(&self, content: ContentId) -> Result<(), LocalError> {
        let Some(row) = self.inner.db.call_blocking(move |db| Ok(disks::find_content(db, content)?))? else {
            return Ok(());
        };
        if row.dropped {
            let sr = self.sr(row.sr)?;
            // Under both names: it may be on its way from one to the other.
            let aside = SrDir::pinned_file(row.id, row.format);
            for file in [&row.file, &aside] {
                sr.dir.unlink(file)?;
                sr.dir.sync_folder_of(file)?;
            }
            self.inner.db.transaction_blocking(move |tx| Ok(disks::delete_content(tx, content)?))?;
            self.inner.changes.tell(ObjectChange::Sr(row.sr));
        }
        Ok(())
    }

    fn write_names(&self, id: SrId) -> Result<(), LocalError> {
        let sr = self.sr(id)?;
        if sr.dir.read_only() {
            return Ok(());
        }
        let found = self.inner.db.call_blocking(move |db| {
            let Some(row) = disks::find_sr(db, id)? else { return Ok(None) };
            let mut kept = Vec::new();
            for vdi in disks::vdis_of_sr(db, id)? {
                if let Some(content) = disks::find_content(db, vdi.content)? {
                    kept.push(kept_vdi(vdi, content));
                }
            }
            Ok(Some((row, kept)))
        })?;
        if let Some((row, kept)) = found {
            sr.dir.write_identity(&identity(&row))?;
            sr.dir.write_kept_vdis(&kept)?;
        }
        Ok(())
    }
}

fn open_file(sr: &Sr, row: ContentRow, map: &[u8], io: Arc<IoPool>) -> Result<OpenContent, LocalError> {
    let places = ParentPlaces { directories: vec![sr.dir.path().to_path_buf()], known: Vec::new() };
    let disk = open_disk_with(&sr.dir.file(&row.file), row.format, &places)?;
    if disk.virtual_size() != row.virtual_size {
        return Err(LocalError::Disk(DiskError::SizeMismatch {
            expected: row.virtual_size,
            found: disk.virtual_size(),
        }));
    }
    let map = Arc::new(AllocationMap::decode(map)?);
    Ok(OpenContent { reader: disk.reader(), row, map, io })
}

fn identity(row: &SrRow) -> SrIdentity {
    SrIdentity {
        format_version: sr_dir::SR_FORMAT_VERSION,
        uuid: row.id,
        name_label: row.name_label.clone(),
        name_description: row.name_description.clone(),
        tags: row.tags.clone(),
        content_format: row.content_format,
    }
}

fn kept_vdi(vdi: VdiRow, content: ContentRow) -> KeptVdi {
    KeptVdi {
        kind: if vdi.snapshot_of.is_some() { "VDI-snapshot" } else { "VDI" }.into(),
        id: vdi.id,
        file: content.file,
        content: content.id.to_string(),
        name_label: vdi.name_label,
        name_description: vdi.name_description,
        tags: vdi.tags,
        vdi_type: vdi.vdi_type,
        created_ms: vdi.created_ms,
        snapshot_of: vdi.snapshot_of,
        snapshot_ms: vdi.snapshot_ms,
    }
}

/// Reads who this installation is; decides it, in one transaction, when the database is new.
fn site(db: &Db, data: &Path, options: &Storage) -> Result<Site, LocalError> {
    let fresh = Site { pool: PoolId::random(), host: HostId::random(), default_sr: SrId::random() };
    let first = SrRow {
        id: fresh.default_sr,
        name_label: "local".into(),
        name_description: "Gantry's own storage, in its data directory".into(),
        tags: Vec::new(),
        path: data.join("srs").join(fresh.default_sr.to_string()),
        content_format: options.content_format,
        read_only: false,
        created_ms: now_ms(),
    };
    Ok(db.transaction_blocking(move |tx| {
        if let Some(text) = meta::get(tx, "site")? {
            let bad = || StateError::Corrupt { what: "meta.site", found: text.clone() };
            let mut ids = text.split(' ');
            let mut next = || ids.next().ok_or_else(bad);
            let (pool, host, sr) = (next()?, next()?, next()?);
            return Ok(Site {
                pool: pool.parse().map_err(|_| bad())?,
                host: host.parse().map_err(|_| bad())?,
                default_sr: sr.parse().map_err(|_| bad())?,
            });
        }
        meta::set(tx, "site", &format!("{} {} {}", fresh.pool, fresh.host, fresh.default_sr))?;
        disks::insert_sr(tx, &first)?;
        Ok(fresh)
    })?)
}
