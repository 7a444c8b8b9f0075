//! A disk as it lies in a storage repository, opened whatever its format.

use std::path::Path;
use std::sync::Arc;

use super::DiskReader;
use super::error::DiskError;
use super::map::AllocationMap;
use super::raw::RawDisk;
use super::vhd_chain::{ParentFile, ParentPlaces, VhdChain};
use crate::formats::vhd;
use crate::ids::DiskFormat;

/// What kind of file a disk lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskKind {
    /// The guest's bytes.
    Raw,
    /// The guest's bytes and a footer.
    FixedVhd,
    /// Blocks that are allocated as they are written.
    DynamicVhd,
    /// Blocks that differ from a parent's.
    DifferencingVhd,
}

/// An open disk.
#[derive(Debug, Clone)]
pub struct OpenDisk {
    content: Content,
    parents: Vec<ParentFile>,
}

#[derive(Debug, Clone)]
enum Content {
    Raw(Arc<RawDisk>),
    Vhd(Arc<VhdChain>),
}

/// Opens the disk at `path`; the parents of a differencing VHD are looked for beside it. Blocks.
///
/// # Errors
///
/// See [`RawDisk::open`] and [`VhdChain::open`].
pub fn open_disk(path: &Path, format: DiskFormat) -> Result<OpenDisk, DiskError> {
    let beside = path.parent().map(Path::to_path_buf);
    open_disk_with(
        path,
        format,
        &ParentPlaces { known: Vec::new(), directories: beside.into_iter().collect() },
    )
}

/// Opens the disk at `path`; the parents of a differencing VHD are looked for at `places` only. Blocks.
///
/// # Errors
///
/// See [`RawDisk::open`] and [`VhdChain::open`].
pub fn open_disk_with(path: &Path, format: DiskFormat, places: &ParentPlaces) -> Result<OpenDisk, DiskError> {
    match format {
        DiskFormat::Raw => {
            let content = Content::Raw(Arc::new(RawDisk::open(path)?));
            Ok(OpenDisk { content, parents: Vec::new() })
        }
        DiskFormat::Vhd => {
            let chain = VhdChain::open(path, places)?;
            let parents = chain.parents();
            Ok(OpenDisk { content: Content::Vhd(Arc::new(chain)), parents })
        }
    }
}

impl OpenDisk {
    /// The disk's bytes.
    pub fn reader(&self) -> Arc<dyn DiskReader> {
        match &self.content {
            Content::Raw(disk) => Arc::clone(disk) as _,
            Content::Vhd(disk) => Arc::clone(disk) as _,
        }
    }

    /// Size in bytes as the guest sees it.
    pub fn virtual_size(&self) -> u64 {
        self.reader().virtual_size()
    }

    /// The kind of file.
    pub fn kind(&self) -> DiskKind {
        match &self.content {
            Content::Raw(_) => DiskKind::Raw,
            Content::Vhd(chain) => match chain.kind() {
                vhd::DiskKind::Fixed => DiskKind::FixedVhd,
                vhd::DiskKind::Dynamic => DiskKind::DynamicVhd,
                vhd::DiskKind::Differencing => DiskKind::DifferencingVhd,
            },
        }
    }

    /// The VHD's own id, by which children name it; a raw disk has none.
    pub fn unique_id(&self) -> Option<[u8; 16]> {
        match &self.content {
            Content::Raw(_) => None,
            Content::Vhd(chain) => chain.top().map(|index| index.unique_id),
        }
    }

    /// Whether the file is marked as an inner node of a snapshot tree (XenServer's flag).
    pub fn hidden(&self) -> bool {
        match &self.content {
            Content::Raw(_) => false,
            Content::Vhd(chain) => chain.top().is_some_and(|index| index.hidden),
        }
    }

    /// The files that this one builds on, nearest first.
    pub fn parents(&self) -> &[ParentFile] {
        &self.parents
    }

    /// Bytes that the file takes on its file system, its parents not counted. Blocks.
    ///
    /// # Errors
    ///
    /// When it cannot be examined.
    pub fn physical_bytes(&self) -> Result<u64, DiskError> {
        match &self.content {
            Content::Raw(disk) => disk.physical_bytes(),
            Content::Vhd(chain) => chain.physical_bytes(),
        }
    }

    /// Finds out which parts may hold data: from the file system for what lies as the guest sees it, from
    /// the block tables of the whole chain for the rest. Blocks.
    ///
    /// # Errors
    ///
    /// When the file system cannot say.
    pub fn capture_map(&self) -> Result<AllocationMap, DiskError> {
        match &self.content {
            Content::Raw(disk) => disk.capture_map(),
            Content::Vhd(chain) => chain.capture_map(),
        }
    }
}
