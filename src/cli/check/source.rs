//! A file that is being checked.

use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::formats::vhd::VhdError;

/// Why a file cannot be checked.
#[derive(Debug, thiserror::Error)]
pub(super) enum CheckError {
    /// It cannot be opened or read.
    #[error("cannot read {file}: {source}")]
    Io { file: String, source: io::Error },
    /// It is a directory, a pipe, a terminal…
    #[error("cannot read {file}: it is neither a file nor a disk")]
    NotAFile { file: String },
    /// Nothing says what it is.
    #[error(
        "cannot tell what {file} is: it is no VHD and no XVA, and its name ends neither in .vhd nor in .raw nor in .xva"
    )]
    Unknown { file: String },
    /// A VHD that means nothing without other files, or without seeking.
    #[error("cannot check {file} without decompressing it first: {reason}")]
    NeedsFile { file: String, reason: VhdError },
}

/// A file that is open for reading at any place.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) path: PathBuf,
    /// Length in bytes when it was opened.
    pub(super) len: u64,
    /// Bytes that the file takes on its file system.
    pub(super) stored: u64,
    file: File,
}

/// What stops the opener of a VHD.
#[derive(Debug)]
pub(super) enum Stop {
    Image(VhdError),
    File(CheckError),
}

impl From<VhdError> for Stop {
    fn from(error: VhdError) -> Self {
        Self::Image(error)
    }
}

impl From<CheckError> for Stop {
    fn from(error: CheckError) -> Self {
        Self::File(error)
    }
}

impl Source {
    pub(super) fn open(path: &Path) -> Result<Self, CheckError> {
        let failed = |source| CheckError::Io { file: path.display().to_string(), source };
        // Looked at before it is opened: opening a pipe would wait for somebody to write to it.
        let kind = std::fs::metadata(path).map_err(failed)?.file_type();
        if !kind.is_file() && !kind.is_block_device() {
            return Err(CheckError::NotAFile { file: path.display().to_string() });
        }
        let mut file = File::open(path).map_err(failed)?;
        // A block device has its length only here.
        let len = file.seek(SeekFrom::End(0)).map_err(failed)?;
        let stored = file.metadata().map_err(failed)?.blocks().saturating_mul(512);
        Ok(Self { path: path.to_owned(), len, stored, file })
    }

    /// Fills `buffer` with the bytes from `offset` on.
    pub(super) fn read(&self, offset: u64, buffer: &mut [u8]) -> Result<(), CheckError> {
        self.file
            .read_exact_at(buffer, offset)
            .map_err(|source| CheckError::Io { file: self.path.display().to_string(), source })
    }
}
