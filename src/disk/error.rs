//! What can go wrong with a disk's files.

use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use crate::formats::vhd::VhdError;

/// Why a disk could not be opened, read or written.
#[derive(Debug, thiserror::Error)]
pub enum DiskError {
    /// Nothing lies at the path.
    #[error("{path:?} does not exist")]
    NotFound {
        /// The path that was tried.
        path: PathBuf,
    },
    /// A symbolic link, FIFO, device, socket or folder where a disk's file was expected.
    #[error("{path:?} is not a regular file")]
    NotARegularFile {
        /// The path that was tried.
        path: PathBuf,
    },
    /// A new file was to be made where something lies already.
    #[error("{path:?} exists already")]
    AlreadyExists {
        /// The path that was tried.
        path: PathBuf,
    },
    /// The system refused an operation for a reason that no other variant names.
    #[error("cannot {action} {path:?}{}", at_offset(*offset))]
    Io {
        /// What was tried: `open`, `read`, `write`…
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Byte offset in the file, where there is one.
        offset: Option<u64>,
        /// The system's answer.
        source: io::Error,
    },
    /// A file ends before bytes that it must hold: it was cut after it was opened, or by its storage.
    #[error("{path:?} ends at byte {found}, expected {expected} bytes at least (reading at {offset})")]
    ShortFile {
        /// The file.
        path: PathBuf,
        /// Where in the file the read began, in bytes.
        offset: u64,
        /// First byte after the ones that were wanted.
        expected: u64,
        /// Where the file ended.
        found: u64,
    },
    /// The file system, or the writer's quota on it, is full.
    #[error("no space left for {needed} bytes of {path:?}{}", at_offset(*offset))]
    NoSpace {
        /// The file.
        path: PathBuf,
        /// Byte offset in the file; `None` when the system said it only at the sync.
        offset: Option<u64>,
        /// Bytes that the failed operation wanted to write; 0 when it is not known.
        needed: u64,
    },
    /// The file would be larger than the file system or the process's limit allows.
    #[error("{path:?} cannot grow to {size} bytes on this file system")]
    FileTooLarge {
        /// The file.
        path: PathBuf,
        /// The size in bytes that was refused.
        size: u64,
    },
    /// A size that no disk can have: zero, not a multiple of 512, or beyond what a file can be.
    #[error("virtual size {size} is not a positive multiple of 512 below 2^63")]
    BadSize {
        /// The size in bytes.
        size: u64,
    },
    /// Bytes past the disk's end were to be written.
    #[error("{len} bytes at {offset} go past the end of the disk at {size}")]
    BeyondEnd {
        /// First byte's address on the disk.
        offset: u64,
        /// Number of bytes.
        len: u64,
        /// The disk's size in bytes.
        size: u64,
    },
    /// The disk was begun with one size and is to be finished with another.
    #[error("the disk was begun with {expected} bytes and ends with {found}")]
    SizeMismatch {
        /// Size in bytes that was announced.
        expected: u64,
        /// Size in bytes at the end.
        found: u64,
    },
    /// The file is not the VHD that it should be.
    #[error("{path:?} is not a sound VHD")]
    Vhd {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        source: VhdError,
    },
    /// A VHD was asked for that the format cannot express.
    #[error(transparent)]
    VhdLimit {
        /// Which limit.
        source: VhdError,
    },
    /// A differencing VHD without a parent's id (rule P1): its parent would be a raw file, which nothing
    /// identifies.
    #[error("{path:?} is a differencing VHD that names no parent id")]
    RawParent {
        /// The child.
        path: PathBuf,
    },
    /// More VHDs stand on each other than is allowed (rule P3).
    #[error("the chain of {path:?} is deeper than {limit}")]
    ChainTooDeep {
        /// The file that was opened.
        path: PathBuf,
        /// The largest number of files in a chain.
        limit: usize,
    },
    /// A VHD is its own ancestor (rule P5).
    #[error("the chain of {path:?} comes back to {unique_id}")]
    ChainCycle {
        /// The file that was opened.
        path: PathBuf,
        /// Unique id of the VHD that was met twice.
        unique_id: uuid::Uuid,
    },
    /// No file of the names that a child gives for its parent lies where parents are looked for (rule P6).
    #[error("the parent {parent_id} of {path:?} is missing, tried {names:?}")]
    ParentNotFound {
        /// The child.
        path: PathBuf,
        /// Unique id of the parent that it wants.
        parent_id: uuid::Uuid,
        /// Base names that were tried.
        names: Vec<String>,
    },
    /// A file of the parent's name is another disk (rule P4).
    #[error("{parent:?}, named as parent of {path:?}, has the id {found}, expected {expected}")]
    ParentMismatch {
        /// The child.
        path: PathBuf,
        /// The file that was found.
        parent: PathBuf,
        /// Unique id that the child wants.
        expected: uuid::Uuid,
        /// Unique id that the file has.
        found: uuid::Uuid,
    },
}

fn at_offset(offset: Option<u64>) -> String {
    offset.map(|offset| format!(" at byte {offset}")).unwrap_or_default()
}

impl DiskError {
    /// Whether room would help: the caller may free some and try again.
    pub fn is_no_space(&self) -> bool {
        matches!(self, Self::NoSpace { .. })
    }

    /// Puts a failed read, or another operation that takes no room, in its variant.
    pub(super) fn reading(action: &'static str, path: &Path, offset: Option<u64>, errno: Errno) -> Self {
        let path = path.to_path_buf();
        match errno {
            Errno::NOENT => Self::NotFound { path },
            _ => Self::Io { action, path, offset, source: errno.into() },
        }
    }

    /// Puts a failed write in its variant. `end` is the first byte after what was to be written.
    pub(super) fn writing(action: &'static str, path: &Path, at: Option<(u64, u64)>, errno: Errno) -> Self {
        let path = path.to_path_buf();
        let offset = at.map(|(offset, _)| offset);
        let (needed, size) = at.map_or((0, 0), |(offset, len)| (len, offset.saturating_add(len)));
        match errno {
            Errno::NOSPC | Errno::DQUOT => Self::NoSpace { path, offset, needed },
            Errno::FBIG => Self::FileTooLarge { path, size },
            Errno::EXIST => Self::AlreadyExists { path },
            Errno::NOENT => Self::NotFound { path },
            _ => Self::Io { action, path, offset, source: errno.into() },
        }
    }
}
