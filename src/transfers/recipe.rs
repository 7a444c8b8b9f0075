//! What an export is made of: from it the same bytes come out again, whatever becomes of the object meanwhile.

use std::fmt;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::backends::local::{LocalError, LocalStore, Pin};
use crate::formats::frames::{Codec, Compression};
use crate::formats::vhd::VhdError;
use crate::formats::xva::{ChecksumKind, Document, XvaError, XvaLayoutError};
use crate::ids::{ContentId, DiskFormat, VdiId, VmId};

use super::representation::Representation;

/// What is exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExportObject {
    /// A disk, or a snapshot of one.
    Vdi(VdiId),
    /// A VM, a snapshot or a template of one.
    Vm(VmId),
}

impl ExportObject {
    /// Its type, as tasks name it.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Vdi(_) => "VDI",
            Self::Vm(_) => "VM",
        }
    }
}

impl fmt::Display for ExportObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Vdi(id) => id.fmt(f),
            Self::Vm(id) => id.fmt(f),
        }
    }
}

/// The form of an export, before it is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Form {
    /// One disk.
    Disk(DiskFormat),
    /// A VM with its disks, each block with its checksum.
    Xva(ChecksumKind),
}

/// In which shape something is exported.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shape {
    /// Its form.
    pub form: Form,
    /// How it is compressed as a whole.
    pub compression: Option<Compression>,
}

impl Shape {
    /// The ending of the file's name, without the first dot. An XVA is called that however it is compressed, since
    /// importers look at its first bytes.
    pub fn extension(self) -> &'static str {
        match (self.form, self.compression.map(|compression| compression.codec())) {
            (Form::Xva(_), _) => "xva",
            (Form::Disk(DiskFormat::Raw), None) => "raw",
            (Form::Disk(DiskFormat::Raw), Some(Codec::Zstd)) => "raw.zst",
            (Form::Disk(DiskFormat::Raw), Some(Codec::Gzip)) => "raw.gz",
            (Form::Disk(DiskFormat::Vhd), None) => "vhd",
            (Form::Disk(DiskFormat::Vhd), Some(Codec::Zstd)) => "vhd.zst",
            (Form::Disk(DiskFormat::Vhd), Some(Codec::Gzip)) => "vhd.gz",
        }
    }
}

/// Why an export cannot be described.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// A content cannot be opened.
    #[error(transparent)]
    Store(#[from] LocalError),
    /// The disk is none that a VHD can hold.
    #[error(transparent)]
    Vhd(#[from] VhdError),
    /// The disks are none that an XVA can hold.
    #[error(transparent)]
    Xva(#[from] XvaLayoutError),
    /// The kept `ova.xml` cannot be read.
    #[error("the ova.xml of the export cannot be used: {0}")]
    Document(#[from] XvaError),
    /// The kept `ova.xml` does not fit the kept contents.
    #[error("the ova.xml of the export names {named} disks, {pinned} are there")]
    Disks {
        /// How many it names.
        named: usize,
        /// How many are pinned.
        pinned: usize,
    },
}

/// An object in a shape, with a hold on everything that its bytes depend on. Holds no file open.
#[derive(Debug)]
pub struct Recipe {
    /// What is exported.
    pub object: ExportObject,
    /// In which shape.
    pub shape: Shape,
    /// Its contents: of an XVA in the order of the archive.
    pub pins: Vec<Pin>,
    /// The `ova.xml` of an XVA.
    pub document: Option<Bytes>,
}

impl Recipe {
    /// The contents that it is made of.
    pub fn contents(&self) -> Vec<ContentId> {
        self.pins.iter().map(Pin::content).collect()
    }

    /// Opens its contents and describes its bytes; reads none of them.
    ///
    /// # Errors
    /// [`RecipeError`].
    pub async fn represent(&self, store: &LocalStore) -> Result<Representation, RecipeError> {
        let mut contents = Vec::with_capacity(self.pins.len());
        for pin in &self.pins {
            contents.push(store.open_content(pin).await?);
        }
        let (shape, document) = (self.shape, self.document.clone());
        // Counting the blocks of a large map takes a moment; an executor must not spend it.
        let made = tokio::task::spawn_blocking(move || match (shape.form, document) {
            (Form::Disk(format), _) => {
                let pinned = contents.len();
                let content = contents.pop().ok_or(RecipeError::Disks { named: 1, pinned })?;
                Ok(Representation::of_disk(content, format, shape)?)
            }
            (Form::Xva(checksum), document) => {
                let xml = document.unwrap_or_default();
                let disks = Document::parse(&xml)?.disks();
                if disks.len() != contents.len() {
                    return Err(RecipeError::Disks { named: disks.len(), pinned: contents.len() });
                }
                let disks = disks.into_iter().map(|disk| disk.id).zip(contents).collect();
                Ok(Representation::of_vm(xml, disks, checksum, shape)?)
            }
        });
        made.await.map_err(|error| {
            LocalError::from(crate::disk::io_pool::IoPoolError::Panicked { message: error.to_string() })
        })?
    }
}
