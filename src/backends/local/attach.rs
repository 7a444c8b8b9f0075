//! Making SRs, attaching directories that hold disks already, letting SRs go.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError};

use crate::disk::open::open_disk_with;
use crate::disk::vhd_chain::ParentPlaces;
use crate::formats::xva::Record;
use crate::ids::{ContentId, DiskFormat, SrId, VdiId};
use crate::state::disks::{self, ContentRow, SrRow, VdiRow};
use crate::state::now_ms;

use super::caretaker::Chore;
use super::sr_dir::{KeptVdi, SrDir, SrDirError};
use super::{LocalError, LocalStore, ObjectChange, Sr, recovery};

/// An SR to be made, or a directory to be attached as one.
#[derive(Debug, Clone)]
pub struct NewSr {
    /// The id that it gets, unless its directory has one already.
    pub id: SrId,
    /// Name that people see.
    pub name_label: String,
    /// Description that people see; `None` leaves the one that the directory brings.
    pub name_description: Option<String>,
    /// Where; `None` for a new directory in the data directory.
    pub path: Option<PathBuf>,
    /// The form in which new content is stored; `None` leaves what the directory brings, or the default.
    pub content_format: Option<DiskFormat>,
    /// Whether the directory is left as it stands.
    pub read_only: bool,
}

/// An SR that is there now.
#[derive(Debug)]
pub struct Attached {
    /// Its id.
    pub id: SrId,
    /// Disks in its directory that could not be taken over.
    pub broken: Vec<Broken>,
}

/// A disk that could not be taken over.
#[derive(Debug)]
pub struct Broken {
    /// Its file, relative to the SR's directory.
    pub file: String,
    /// What is wrong with it.
    pub reason: String,
}

/// A disk found in a directory.
pub(super) struct Found {
    pub content: ContentRow,
    map: Vec<u8>,
    parent_file: Option<PathBuf>,
    path: PathBuf,
    /// Those that refer to it: the one whose name the file bears first. None for an internal node of a chain, which is
    /// no disk of its own.
    pub vdis: Vec<VdiRow>,
}

impl LocalStore {
    /// Makes an SR, or attaches a directory as one, with all disks in it.
    ///
    /// # Errors
    /// [`LocalError::BadPath`], [`LocalError::AlreadyKnown`], and trouble with the directory. Nothing is
    /// attached then, and a directory that existed is as it was but for Gantry's own folder in it.
    pub async fn create_sr(&self, new: NewSr) -> Result<Attached, LocalError> {
        let store = self.clone();
        // Reading a directory full of disks takes long: a thread of its own, not one of another SR.
        crate::disk::worker::spawn_worker("attach", move || store.attach_blocking(&new))?.await?
    }

    /// Removes an SR that holds no VDI. Its directory goes with it if it lies in the data directory and nothing
    /// else is in it.
    ///
    /// # Errors
    /// [`LocalError::NoSuchSr`], [`LocalError::SrNotEmpty`].
    pub async fn delete_sr(&self, id: SrId) -> Result<(), LocalError> {
        self.remove_sr(id, true).await
    }

    /// Lets an SR go without touching its files.
    ///
    /// # Errors
    /// [`LocalError::NoSuchSr`].
    pub async fn forget_sr(&self, id: SrId) -> Result<(), LocalError> {
        self.remove_sr(id, false).await
    }

    async fn remove_sr(&self, id: SrId, only_empty: bool) -> Result<(), LocalError> {
        let is_default = id == self.inner.site.default_sr;
        let data = self.inner.data.join("srs");
        let row = self
            .inner
            .db
            .transaction(move |tx| {
                let Some(row) = disks::find_sr(tx, id)? else { return Ok(Err(LocalError::NoSuchSr(id))) };
                let count = disks::count_vdis(tx, id)?;
                if only_empty && count > 0 {
                    return Ok(Err(LocalError::SrNotEmpty { sr: id, count }));
                }
                if is_default {
                    return Ok(Err(LocalError::BadPath {
                        path: data.clone(),
                        reason: "it is the default storage repository, which stays".into(),
                    }));
                }
                disks::forget_sr(tx, id)?;
                Ok(Ok(row))
            })
            .await??;
        self.inner.unavailable.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
        let taken = self.inner.srs.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
        self.inner.changes.tell(ObjectChange::Many);
        let own = self.inner.data.join("srs");
        if let Some(sr) = taken.filter(|_| only_empty && row.path.starts_with(own)) {
            let io = Arc::clone(&sr.io);
            io.run(move || remove_own_directory(&sr, &row.path)).await?;
        }
        Ok(())
    }

    fn attach_blocking(&self, new: &NewSr) -> Result<Attached, LocalError> {
        let fresh = new.id;
        let path = match &new.path {
            None => self.inner.data.join("srs").join(fresh.to_string()),
            Some(path) => self.allowed(path)?,
        };
        if new.read_only && !path.is_dir() {
            let reason = "only an existing directory can be attached read-only".into();
            return Err(LocalError::BadPath { path, reason });
        }
        let kept = SrDir::identity(&path)?;
        let id = kept.as_ref().map_or(fresh, |kept| kept.uuid);
        self.refuse_known_sr(id, &path)?;
        let dir = SrDir::take(&path, new.read_only)?;
        if !new.read_only {
            recovery::sweep(&dir, &HashSet::new())?;
        }
        let mut row = SrRow {
            id,
            name_label: new.name_label.clone(),
            name_description: new
                .name_description
                .clone()
                .or_else(|| kept.as_ref().map(|kept| kept.name_description.clone()))
                .unwrap_or_default(),
            tags: kept.as_ref().map(|kept| kept.tags.clone()).unwrap_or_default(),
            content_format: new
                .content_format
                .or(kept.as_ref().map(|kept| kept.content_format))
                .unwrap_or(self.inner.options.content_format),
            path,
            read_only: new.read_only,
            created_ms: now_ms(),
        };
        let names = SrDir::kept_vdis(&row.path)?;
        let (found, broken) = scan(&dir, &row, names, || Ok(HashSet::new()))?;
        // New content lies in the form of what lies there already, unless somebody has said otherwise.
        let undecided = new.content_format.is_none() && kept.is_none();
        if undecided && found.iter().any(|disk| disk.content.format == DiskFormat::Vhd) {
            row.content_format = DiskFormat::Vhd;
        }
        self.refuse_known_vdis(&found, &row)?;
        let sr = Sr::new(&row, dir)?;
        let stored = row.clone();
        self.inner.db.transaction_blocking(move |tx| {
            disks::insert_sr(tx, &stored)?;
            Ok(store_found(tx, &found.iter().collect::<Vec<_>>(), &HashMap::new())?)
        })?;
        self.inner.srs.write().unwrap_or_else(PoisonError::into_inner).insert(id, sr);
        self.inner.changes.tell(ObjectChange::Many);
        self.attend(Chore::WriteNames(id));
        Ok(Attached { id, broken })
    }

    /// The path of an SR, with links resolved, if it lies under one of the configured roots.
    fn allowed(&self, path: &Path) -> Result<PathBuf, LocalError> {
        let bad = |reason: String| LocalError::BadPath { path: path.to_path_buf(), reason };
        if !path.is_absolute() {
            return Err(bad("it is not absolute".into()));
        }
        if path.to_str().is_none_or(|text| text.contains('\0')) {
            return Err(bad("it is not valid UTF-8".into()));
        }
        // The part that exists is resolved, so that neither `..` nor a link leads out of the roots.
        let mut existing = path;
        let mut rest = Vec::new();
        let resolved = loop {
            match fs::canonicalize(existing) {
                Ok(resolved) => break resolved,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    let (Some(parent), Some(name)) = (existing.parent(), existing.file_name()) else {
                        return Err(bad("it does not exist and cannot be made".into()));
                    };
                    rest.push(name);
                    existing = parent;
                }
                Err(error) => return Err(bad(error.to_string())),
            }
        };
        let full = rest.iter().rev().fold(resolved, |path, name| path.join(name));
        let roots: Vec<PathBuf> =
            self.inner.options.sr_roots.iter().filter_map(|root| fs::canonicalize(root).ok()).collect();
        if roots.iter().any(|root| full.starts_with(root)) {
            return Ok(full);
        }
        let roots: Vec<String> =
            self.inner.options.sr_roots.iter().map(|root| root.display().to_string()).collect();
        Err(bad(if roots.is_empty() {
            "no folder is allowed: name some in storage.sr_roots of the configuration".into()
        } else {
            format!("it does not lie under one of storage.sr_roots ({})", roots.join(", "))
        }))
    }

    fn refuse_known_sr(&self, id: SrId, path: &Path) -> Result<(), LocalError> {
        let known = self.inner.db.call_blocking(|db| Ok(disks::srs(db)?))?;
        let same = |row: &&SrRow| {
            row.id == id || row.path == path || fs::canonicalize(&row.path).is_ok_and(|known| known == path)
        };
        let nested = |row: &&SrRow| row.path.starts_with(path) || path.starts_with(&row.path);
        if let Some(row) = known.iter().filter(|row| !same(row)).find(nested) {
            return Err(LocalError::BadPath {
                path: path.to_path_buf(),
                reason: format!(
                    "it and the storage repository {} at {} would lie in each other",
                    row.id,
                    row.path.display()
                ),
            });
        }
        match known.iter().find(same) {
            None => Ok(()),
            Some(row) => Err(LocalError::AlreadyKnown {
                what: "SR",
                uuid: row.id.to_string(),
                known: row.path.clone(),
                offered: path.to_path_buf(),
            }),
        }
    }

    fn refuse_known_vdis(&self, found: &[Found], row: &SrRow) -> Result<(), LocalError> {
        let ids: Vec<VdiId> = found.iter().flat_map(|found| &found.vdis).map(|vdi| vdi.id).collect();
        let known = self.inner.db.call_blocking(move |db| {
            let Some(vdi) = disks::known_vdis(db, &ids)?.into_iter().next() else { return Ok(None) };
            let Some(sr) = disks::find_sr(db, vdi.sr)? else { return Ok(None) };
            let file = disks::find_content(db, vdi.content)?.map(|content| content.file).unwrap_or_default();
            Ok(Some((vdi.id, sr.path.join(file))))
        })?;
        let Some((id, known)) = known else { return Ok(()) };
        let offered = found.iter().find(|found| found.vdis.iter().any(|vdi| vdi.id == id));
        Err(LocalError::AlreadyKnown {
            what: "VDI",
            uuid: id.to_string(),
            known,
            offered: offered.map_or_else(|| row.path.clone(), |found| found.path.clone()),
        })
    }
}

/// Removes the directory of an SR in the data directory, as far as it is empty.
fn remove_own_directory(sr: &Sr, path: &Path) {
    let own = path.join(".gantry");
    for name in ["sr.json", "objects.ndjson", "lock"] {
        drop(sr.dir.unlink(&format!(".gantry/{name}")));
    }
    for folder in [own.join("work"), own.join("pinned"), own, path.to_path_buf()] {
        if let Err(error) = fs::remove_dir(&folder) {
            tracing::warn!(folder = %folder.display(), %error, "a folder of a removed SR stays");
            return;
        }
    }
}

/// Looks at every file of a directory that is named as a disk, but for those that are known: which these are is asked
/// when all names were read.
pub(super) fn scan(
    dir: &SrDir,
    row: &SrRow,
    names: Vec<KeptVdi>,
    known: impl FnOnce() -> Result<HashSet<String>, LocalError>,
) -> Result<(Vec<Found>, Vec<Broken>), LocalError> {
    let io = |source| SrDirError::Io { action: "reading", path: row.path.clone(), source };
    let mut files: HashMap<VdiId, (String, DiskFormat)> = HashMap::new();
    let (mut found, mut broken) = (Vec::new(), Vec::new());
    for entry in fs::read_dir(dir.path()).map_err(io)? {
        let name = entry.map_err(io)?.file_name();
        let Some((id, format)) = name.to_str().and_then(SrDir::disk_of) else { continue };
        let name = name.to_string_lossy().into_owned();
        if let Some((other, _)) = files.get(&id) {
            broken.push(Broken { file: name, reason: format!("{other} beside it has the same uuid") });
        } else {
            files.insert(id, (name, format));
        }
    }
    let known = known()?;
    files.retain(|_, (name, _)| !known.contains(name));
    broken.retain(|one: &Broken| !known.contains(&one.file));
    let names: HashMap<VdiId, KeptVdi> = names.into_iter().map(|kept| (kept.id, kept)).collect();
    let mut shared = sharers(&names, &files);
    for (id, (file, format)) in files {
        match look_at(dir, row, id, &file, format, names.get(&id)) {
            Ok(mut disk) => {
                let others = shared.remove(&id).unwrap_or_default();
                // Whoever has made it a node of a chain meanwhile has not kept it as a disk.
                if !disk.vdis.is_empty() {
                    disk.vdis.extend(others.into_iter().map(|kept| vdi(kept.id, &disk.content, Some(kept))));
                }
                found.push(disk);
            }
            // It was on its way out.
            Err(_) if !dir.exists(&file) => {}
            Err(error) => {
                tracing::warn!(%file, %error, "a disk could not be taken over");
                broken.push(Broken { file, reason: whole(&error) });
            }
        }
    }
    found.sort_by(|one, other| one.content.file.cmp(&other.content.file));
    broken.sort_by(|one, other| one.file.cmp(&other.file));
    Ok((found, broken))
}

/// The VDIs that have no file of their own name, but share the content of one that has, by the latter's id. A file of
/// its own name is a VDI's own, whatever the names say.
fn sharers<'a>(
    names: &'a HashMap<VdiId, KeptVdi>,
    files: &HashMap<VdiId, (String, DiskFormat)>,
) -> HashMap<VdiId, Vec<&'a KeptVdi>> {
    let mut shared: HashMap<VdiId, Vec<&KeptVdi>> = HashMap::new();
    for kept in names.values().filter(|kept| !files.contains_key(&kept.id)) {
        let Some((owner, _)) = SrDir::disk_of(&kept.file) else { continue };
        let is_there = files.get(&owner).is_some_and(|(file, _)| *file == kept.file);
        let is_same = names.get(&owner).is_none_or(|owner| owner.content == kept.content);
        if is_there && is_same {
            shared.entry(owner).or_default().push(kept);
        }
    }
    shared
}

/// An error with all that it says of its causes.
fn whole(error: &dyn std::error::Error) -> String {
    let (mut text, mut next) = (error.to_string(), error.source());
    while let Some(cause) = next {
        let more = cause.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        next = cause.source();
    }
    text
}

fn look_at(
    dir: &SrDir,
    row: &SrRow,
    id: VdiId,
    file: &str,
    format: DiskFormat,
    kept: Option<&KeptVdi>,
) -> Result<Found, LocalError> {
    let path = dir.file(file);
    let places = ParentPlaces { directories: vec![dir.path().to_path_buf()], known: Vec::new() };
    let disk = open_disk_with(&path, format, &places)?;
    let content = ContentRow {
        id: ContentId::random(),
        sr: row.id,
        file: file.into(),
        format,
        virtual_size: disk.virtual_size(),
        physical_bytes: disk.physical_bytes()?,
        map_version: 1,
        parent: None,
        created_ms: now_ms(),
        dropped: false,
    };
    let map = disk.capture_map()?.encode()?;
    let parent_file = disk.parents().first().map(|parent| parent.path.clone());
    let vdis = if disk.hidden() { Vec::new() } else { vec![vdi(id, &content, kept)] };
    Ok(Found { content, map, parent_file, path, vdis })
}

/// A VDI as it comes back, with what the directory keeps of it.
fn vdi(id: VdiId, content: &ContentRow, kept: Option<&KeptVdi>) -> VdiRow {
    VdiRow {
        id,
        sr: content.sr,
        content: content.id,
        name_label: kept.map_or_else(|| id.to_string(), |kept| kept.name_label.clone()),
        name_description: kept.map(|kept| kept.name_description.clone()).unwrap_or_default(),
        tags: kept.map(|kept| kept.tags.clone()).unwrap_or_default(),
        vdi_type: kept.map_or_else(|| "user".into(), |kept| kept.vdi_type.clone()),
        virtual_size: content.virtual_size,
        created_ms: kept.map_or_else(now_ms, |kept| kept.created_ms),
        content_changed_ms: None,
        snapshot_of: kept.and_then(|kept| kept.snapshot_of),
        snapshot_ms: kept.and_then(|kept| kept.snapshot_ms),
        record: Record::new(),
    }
}

/// Stores disks, each with its parent if that is among them or among the `known` contents of the SR, by their files.
pub(super) fn store_found(
    db: &rusqlite::Connection,
    found: &[&Found],
    known: &HashMap<String, ContentId>,
) -> rusqlite::Result<()> {
    let by_name: HashMap<&std::ffi::OsStr, ContentId> =
        found.iter().filter_map(|found| Some((found.path.file_name()?, found.content.id))).collect();
    for disk in found {
        disks::insert_content(db, &disk.content, &disk.map)?;
        for vdi in &disk.vdis {
            disks::insert_vdi(db, vdi)?;
        }
    }
    for disk in found {
        let name = disk.parent_file.as_ref().and_then(|path| path.file_name());
        let parent = name.and_then(|name| by_name.get(name).or_else(|| known.get(name.to_str()?)));
        if let Some(parent) = parent {
            disks::set_parent(db, disk.content.id, *parent)?;
        }
    }
    Ok(())
}
