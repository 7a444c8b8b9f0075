//! An SR's directory: what lies where, its identity, its lock, and the names of its disks.
//!
//! ```text
//! <sr>/<vdi>.raw, <vdi>.vhd     the disks, readable by any other tool
//! <sr>/.gantry/sr.json          identity
//! <sr>/.gantry/objects.ndjson   names, descriptions, tags: what makes VDIs of files in a fresh data directory
//! <sr>/.gantry/lock             held while a server has the SR
//! <sr>/.gantry/work/            imports in progress
//! <sr>/.gantry/pinned/          replaced or deleted content that somebody still reads
//! ```

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::ids::{ContentId, DiskFormat, SrId, VdiId};

use super::fuse::Fuse;

/// The version of `sr.json` and `objects.ndjson` that this program writes; a newer one is refused.
pub const SR_FORMAT_VERSION: u32 = 1;
/// Most bytes that are read of an identity file, and of one line of the names.
const MAX_RECORD_BYTES: u64 = 1 << 20;

/// What is wrong with an SR's directory.
#[derive(Debug, thiserror::Error)]
pub enum SrDirError {
    /// The file system refused something.
    #[error("{action} {path} failed: {source}", path = path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which path.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Another server has it.
    #[error("the storage repository at {} is in use by another server (lock {})", path.display(), lock.display())]
    Locked {
        /// The SR's directory.
        path: PathBuf,
        /// The lock that is held.
        lock: PathBuf,
    },
    /// Its identity cannot be understood.
    #[error("{} is not an SR identity: {reason}", path.display())]
    BadIdentity {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
    /// It was written by a later version.
    #[error(
        "{} has format version {found}, this program knows up to {SR_FORMAT_VERSION}: use the version that wrote it",
        path.display()
    )]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: u32,
    },
}

/// Identity of an SR, kept in its directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SrIdentity {
    /// Version of this record and of `objects.ndjson` beside it.
    pub format_version: u32,
    /// The SR's uuid.
    pub uuid: SrId,
    /// Name that people see.
    #[serde(default)]
    pub name_label: String,
    /// Description that people see.
    #[serde(default)]
    pub name_description: String,
    /// Tags.
    #[serde(default)]
    pub tags: Vec<String>,
    /// The form in which new content is stored.
    pub content_format: DiskFormat,
}

/// What `objects.ndjson` keeps of a VDI, one line each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptVdi {
    /// Always `VDI` or `VDI-snapshot`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The VDI's uuid.
    pub id: VdiId,
    /// The file that holds its content, relative to the SR's directory.
    pub file: String,
    /// Identity of its content: VDIs with the same one share it.
    pub content: String,
    /// Name that people see.
    pub name_label: String,
    /// Description that people see.
    pub name_description: String,
    /// Tags.
    pub tags: Vec<String>,
    /// `user`, `system`, …
    pub vdi_type: String,
    /// When it was made, Unix milliseconds.
    pub created_ms: i64,
    /// The VDI that it is a snapshot of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_of: Option<VdiId>,
    /// When the snapshot was taken, Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub snapshot_ms: Option<i64>,
}

/// The directory of an SR, locked for as long as this lives.
#[derive(Debug)]
pub struct SrDir {
    path: PathBuf,
    read_only: bool,
    _lock: Option<File>,
    fuse: Fuse,
}

impl SrDir {
    /// Takes a directory: makes it when it is missing, locks it, makes the rooms that are Gantry's. A
    /// read-only one is left as it stands.
    ///
    /// # Errors
    /// [`SrDirError::Locked`] when another server has it.
    pub fn take(path: &Path, read_only: bool) -> Result<Self, SrDirError> {
        if read_only {
            fs::read_dir(path).map_err(|source| SrDirError::Io {
                action: "reading",
                path: path.into(),
                source,
            })?;
            let lock = lock_shared_directory(path)?;
            return Ok(Self { path: path.into(), read_only, _lock: lock, fuse: Fuse::default() });
        }
        let own = path.join(".gantry");
        for folder in [path.to_path_buf(), own.clone(), own.join("work"), own.join("pinned")] {
            fs::create_dir_all(&folder).map_err(|source| SrDirError::Io {
                action: "making folder",
                path: folder,
                source,
            })?;
        }
        let name = own.join("lock");
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .mode(0o600)
            .custom_flags(not_waiting())
            .open(&name)
            .map_err(|source| SrDirError::Io { action: "opening lock", path: name.clone(), source })?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { path: path.into(), read_only, _lock: Some(lock), fuse: Fuse::default() }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(SrDirError::Locked { path: path.into(), lock: name }),
            Err(errno) => Err(SrDirError::Io { action: "locking", path: name, source: errno.into() }),
        }
    }

    /// The directory itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Where a test stops its changes.
    #[cfg(test)]
    pub fn fuse(&self) -> &Fuse {
        &self.fuse
    }

    /// Whether nothing in it may be changed.
    pub fn read_only(&self) -> bool {
        self.read_only
    }

    /// The absolute path of a file that is named relative to the directory.
    pub fn file(&self, relative: &str) -> PathBuf {
        self.path.join(relative)
    }

    /// Where a VDI's content lies, relative to the directory.
    pub fn disk_file(vdi: VdiId, format: DiskFormat) -> String {
        format!("{vdi}.{format}")
    }

    /// The VDI whose name a file in the directory bears, and the form of its content: `<uuid>.vhd` or `<uuid>.raw`.
    pub fn disk_of(file: &str) -> Option<(VdiId, DiskFormat)> {
        let (stem, extension) = file.rsplit_once('.')?;
        Some((stem.parse().ok()?, extension.parse().ok()?))
    }

    /// Where content in the making lies, relative to the directory.
    pub fn work_file(content: ContentId, format: DiskFormat) -> String {
        format!(".gantry/work/{content}.{format}")
    }

    /// Where content lies that only its readers still know, relative to the directory.
    pub fn pinned_file(content: ContentId, format: DiskFormat) -> String {
        format!(".gantry/pinned/{content}.{format}")
    }

    /// Reads the identity; `None` when the directory has none.
    pub fn identity(path: &Path) -> Result<Option<SrIdentity>, SrDirError> {
        let name = path.join(".gantry/sr.json");
        let file = match open_regular(&name) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(SrDirError::Io { action: "opening", path: name, source }),
        };
        let bad = |reason: String| SrDirError::BadIdentity { path: name.clone(), reason };
        let value: serde_json::Value =
            serde_json::from_reader(file.take(MAX_RECORD_BYTES)).map_err(|error| bad(error.to_string()))?;
        // The version first: a newer record may not have the members that this one needs.
        let found = value.get("format_version").and_then(serde_json::Value::as_u64);
        match found.and_then(|number| u32::try_from(number).ok()) {
            None => return Err(bad("no format_version in it".into())),
            Some(found) if found > SR_FORMAT_VERSION => return Err(SrDirError::Newer { path: name, found }),
            Some(_) => {}
        }
        serde_json::from_value(value).map(Some).map_err(|error| bad(error.to_string()))
    }

    /// Writes the identity, durably.
    pub fn write_identity(&self, identity: &SrIdentity) -> Result<(), SrDirError> {
        let mut text = serde_json::to_vec_pretty(identity).unwrap_or_default();
        text.push(b'\n');
        self.replace(".gantry/sr.json", |file| file.write_all(&text))
    }

    /// Reads what is kept of the VDIs. Lines that cannot be understood are skipped: names are a convenience,
    /// the disks themselves are found without them.
    pub fn kept_vdis(path: &Path) -> Result<Vec<KeptVdi>, SrDirError> {
        let name = path.join(".gantry/objects.ndjson");
        let file = match open_regular(&name) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(SrDirError::Io { action: "opening", path: name, source }),
        };
        let (mut kept, mut reader, mut line) = (Vec::new(), BufReader::new(file), Vec::new());
        loop {
            line.clear();
            let read = (&mut reader)
                .take(MAX_RECORD_BYTES)
                .read_until(b'\n', &mut line)
                .map_err(|source| SrDirError::Io { action: "reading", path: name.clone(), source })?;
            if read == 0 {
                return Ok(kept);
            }
            match serde_json::from_slice::<KeptVdi>(&line) {
                Ok(vdi) => kept.push(vdi),
                Err(error) => tracing::warn!(file = %name.display(), %error, "skipped a line of names"),
            }
        }
    }

    /// Writes what is kept of the VDIs, durably.
    pub fn write_kept_vdis(&self, vdis: &[KeptVdi]) -> Result<(), SrDirError> {
        self.replace(".gantry/objects.ndjson", |file| {
            let mut out = io::BufWriter::new(file);
            for vdi in vdis {
                serde_json::to_writer(&mut out, vdi)?;
                out.write_all(b"\n")?;
            }
            out.flush()
        })
    }

    /// Makes the names in one of the directory's folders durable. `relative` names a file in that folder.
    pub fn sync_folder_of(&self, relative: &str) -> Result<(), SrDirError> {
        let path = self.file(relative);
        let folder = path.parent().unwrap_or(&self.path);
        File::open(folder).and_then(|folder| folder.sync_all()).map_err(|source| SrDirError::Io {
            action: "syncing folder",
            path: folder.into(),
            source,
        })
    }

    /// Gives a file another name in the directory; both names are relative.
    pub fn rename(&self, from: &str, to: &str) -> Result<(), SrDirError> {
        let from = self.file(from);
        self.fuse.run(|| {
            fs::rename(&from, self.file(to)).map_err(|source| SrDirError::Io {
                action: "renaming",
                path: from.clone(),
                source,
            })
        })
    }

    /// Gives a file a second name in the directory, so that it stays when its first one is taken by another
    /// file. An older file of that name is replaced. Where the file system knows no second names, the file is
    /// moved.
    pub fn keep_as(&self, from: &str, to: &str) -> Result<(), SrDirError> {
        if from == to {
            return Ok(());
        }
        self.unlink(to)?;
        let (path, other) = (self.file(from), self.file(to));
        self.fuse.run(|| match fs::hard_link(&path, &other) {
            Ok(()) => Ok(()),
            Err(source) if source.kind() == io::ErrorKind::NotFound => {
                Err(SrDirError::Io { action: "linking", path: path.clone(), source })
            }
            Err(_) => fs::rename(&path, &other).map_err(|source| SrDirError::Io {
                action: "renaming",
                path: path.clone(),
                source,
            }),
        })
    }

    /// Removes a file; one that is gone already is fine.
    pub fn unlink(&self, relative: &str) -> Result<(), SrDirError> {
        let path = self.file(relative);
        self.fuse.run(|| match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(SrDirError::Io { action: "removing", path: path.clone(), source })
            }
            _ => Ok(()),
        })
    }

    /// Whether a file is there.
    pub fn exists(&self, relative: &str) -> bool {
        fs::symlink_metadata(self.file(relative)).is_ok()
    }

    /// Whether two names are those of one file.
    pub fn is_one_file(&self, one: &str, other: &str) -> bool {
        let file = |name| fs::symlink_metadata(self.file(name)).map(|found| (found.dev(), found.ino()));
        matches!((file(one), file(other)), (Ok(one), Ok(other)) if one == other)
    }

    /// The names of the files in one of Gantry's own folders (`work` or `pinned`), relative to the directory.
    pub fn own_files(&self, folder: &str) -> Result<Vec<String>, SrDirError> {
        let path = self.path.join(".gantry").join(folder);
        let io = |source| SrDirError::Io { action: "reading", path: path.clone(), source };
        let mut names = Vec::new();
        for entry in fs::read_dir(&path).map_err(io)? {
            if let Some(name) = entry.map_err(io)?.file_name().to_str() {
                names.push(format!(".gantry/{folder}/{name}"));
            }
        }
        Ok(names)
    }

    fn replace(
        &self,
        relative: &str,
        write: impl FnOnce(&mut File) -> io::Result<()>,
    ) -> Result<(), SrDirError> {
        let fresh = format!("{relative}.new");
        let path = self.file(&fresh);
        // One that a crash left, or whatever else has that name.
        self.unlink(&fresh)?;
        File::create_new(&path)
            .and_then(|mut file| {
                write(&mut file)?;
                file.sync_all()
            })
            .map_err(|source| SrDirError::Io { action: "writing", path, source })?;
        self.rename(&fresh, relative)?;
        self.sync_folder_of(relative)
    }
}

/// Opens a file for reading, but nothing else that may lie there: a FIFO would be waited for, for ever, and to open
/// a device may do something.
fn open_regular(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(not_waiting()).open(path)?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")),
    }
}

/// Flags with which opening never waits, and never follows a link out of the directory.
fn not_waiting() -> i32 {
    let flags = rustix::fs::OFlags::NONBLOCK | rustix::fs::OFlags::NOFOLLOW | rustix::fs::OFlags::NOCTTY;
    i32::try_from(flags.bits()).unwrap_or_default()
}

/// Keeps two servers from a directory that neither may write a lock file into. File systems that cannot lock
/// a folder (NFS) leave it unlocked: nothing is ever written there.
fn lock_shared_directory(path: &Path) -> Result<Option<File>, SrDirError> {
    let folder =
        File::open(path).map_err(|source| SrDirError::Io { action: "opening", path: path.into(), source })?;
    match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(Some(folder)),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            Err(SrDirError::Locked { path: path.into(), lock: path.into() })
        }
        Err(_) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fifo_under_a_name_of_ours_is_refused_or_replaced_but_never_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let dir = SrDir::take(folder.path(), false).unwrap();
        let identity = SrIdentity {
            format_version: SR_FORMAT_VERSION,
            uuid: SrId::random(),
            name_label: "one".into(),
            name_description: String::new(),
            tags: Vec::new(),
            content_format: DiskFormat::Raw,
        };
        let fifo = |name: &str| {
            let mode = rustix::fs::Mode::from_raw_mode(0o600);
            let kind = rustix::fs::FileType::Fifo;
            rustix::fs::mknodat(rustix::fs::CWD, dir.file(name), kind, mode, 0).unwrap();
        };
        for name in ["sr.json", "objects.ndjson", "sr.json.new"] {
            fifo(&format!(".gantry/{name}"));
        }
        assert!(matches!(SrDir::identity(dir.path()), Err(SrDirError::Io { action: "opening", .. })));
        assert!(matches!(SrDir::kept_vdis(dir.path()), Err(SrDirError::Io { action: "opening", .. })));
        dir.write_identity(&identity).unwrap();
        assert_eq!(SrDir::identity(dir.path()).unwrap(), Some(identity));
        let path = dir.path().to_path_buf();
        drop(dir);
        std::fs::remove_file(path.join(".gantry/lock")).unwrap();
        let mode = rustix::fs::Mode::from_raw_mode(0o600);
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, path.join(".gantry/lock"), kind, mode, 0).unwrap();
        assert!(SrDir::take(&path, false).is_err());
    }
}
