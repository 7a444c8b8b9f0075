//! What the local store refuses, and what can go wrong in it.

use std::path::PathBuf;

use serde::Serialize;

use crate::disk::error::DiskError;
use crate::disk::io_pool::IoPoolError;
use crate::disk::map_blob::MapError;
use crate::ids::{ContentId, NetworkId, SrId, VbdId, VdiId, VifId, VmId};
use crate::state::StateError;

use super::sr_dir::SrDirError;

/// What is missing on the file system of an SR.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, thiserror::Error)]
#[error(
    "not enough space on storage repository {id}: {needed} bytes needed, {free} free, of which running jobs have \
     reserved {reserved} and {reserve} are kept in reserve: free some, or use another storage repository"
)]
pub struct Shortage {
    /// The SR.
    pub id: SrId,
    /// Bytes that must be written at least.
    pub needed: u64,
    /// Bytes that are free.
    pub free: u64,
    /// Bytes of these that other running jobs have reserved.
    pub reserved: u64,
    /// Bytes of these that stay free whatever comes.
    pub reserve: u64,
}

/// An operation on the local store that did not happen.
#[derive(Debug, thiserror::Error)]
pub enum LocalError {
    /// No such VDI.
    #[error("no such VDI {0}")]
    NoSuchVdi(VdiId),
    /// No such SR.
    #[error("no such SR {0}")]
    NoSuchSr(SrId),
    /// No such VM, snapshot or template.
    #[error("no such VM {0}")]
    NoSuchVm(VmId),
    /// No such VBD.
    #[error("no such VBD {0}")]
    NoSuchVbd(VbdId),
    /// No such network.
    #[error("no such network {0}")]
    NoSuchNetwork(NetworkId),
    /// No such VIF.
    #[error("no such VIF {0}")]
    NoSuchVif(VifId),
    /// VMs are on a network.
    #[error("the network {network} has {vifs} VIFs: delete these first")]
    NetworkInUse {
        /// The network.
        network: NetworkId,
        /// How many VIFs are on it.
        vifs: usize,
    },
    /// A snapshot of a VM stays as it was taken.
    #[error("the VM {0} is a snapshot: its disks stay as they are, and it has no snapshots of its own")]
    VmIsSnapshot(VmId),
    /// A snapshot of a disk stays as it was taken.
    #[error("the VDI {0} is a snapshot: a VM that writes to it would change it")]
    VdiIsSnapshot(VdiId),
    /// A VM has a disk once.
    #[error("the VM {vm} would have the VDI {vdi} twice")]
    VdiTwice {
        /// The VM.
        vm: VmId,
        /// The disk.
        vdi: VdiId,
    },
    /// A position in a VM that is taken, or none that is left.
    #[error(
        "the VM {vm} has no free position {position}: positions are numbers from 0 to {last}, each taken once"
    )]
    NoPosition {
        /// The VM.
        vm: VmId,
        /// The position that was asked for; empty for any.
        position: String,
        /// The last one that there is.
        last: u32,
    },
    /// The SR's directory could not be taken when the server started.
    #[error("the storage repository {sr} is not available: {reason}")]
    SrUnavailable {
        /// The SR.
        sr: SrId,
        /// Why, as it was found at the start.
        reason: String,
    },
    /// The SR is read-only.
    #[error("the storage repository {0} is read-only")]
    SrReadOnly(SrId),
    /// The SR still holds VDIs.
    #[error("the storage repository {sr} still holds {count} VDIs: delete or move them, or forget the SR")]
    SrNotEmpty {
        /// The SR.
        sr: SrId,
        /// How many VDIs.
        count: u64,
    },
    /// Another operation is writing this VDI.
    #[error("the VDI {0} is being written by another operation: try again when that has ended")]
    VdiBusy(VdiId),
    /// A snapshot is to be taken of a snapshot.
    #[error("{0} is a snapshot itself: a snapshot can be taken of the VDI that it is one of")]
    IsSnapshot(VdiId),
    /// Other disks build on this VDI's content.
    #[error("the VDI {vdi} is the parent of other disks ({}): changing it would change them", children.join(", "))]
    VdiHasChildren {
        /// The VDI.
        vdi: VdiId,
        /// The files of the disks that build on it.
        children: Vec<String>,
    },
    /// The content of a VDI was replaced by somebody else meanwhile.
    #[error("the content of VDI {0} was replaced meanwhile")]
    ContentReplaced(VdiId),
    /// The file of a disk is not where it was left.
    #[error(
        "the disk's file {file} is missing from storage repository {sr}: bring it back, or delete the VDI"
    )]
    FileMissing {
        /// The SR.
        sr: SrId,
        /// The file, relative to the SR's directory.
        file: String,
    },
    /// The content is gone.
    #[error("the content {0} is gone")]
    ContentGone(ContentId),
    /// The path of an SR is not one that may be used.
    #[error("the path {} cannot hold a storage repository: {reason}", path.display())]
    BadPath {
        /// The path.
        path: PathBuf,
        /// Why not.
        reason: String,
    },
    /// What is to be attached is known already.
    #[error("{what} {uuid} is already known at {}, it cannot be attached again from {}", known.display(), offered.display())]
    AlreadyKnown {
        /// `SR` or `VDI`.
        what: &'static str,
        /// Its uuid.
        uuid: String,
        /// Where it is.
        known: PathBuf,
        /// Where it was found again.
        offered: PathBuf,
    },
    /// There is not enough room.
    #[error(transparent)]
    NoSpace(Shortage),
    /// The SR's directory.
    #[error(transparent)]
    SrDir(#[from] SrDirError),
    /// A disk.
    #[error(transparent)]
    Disk(#[from] DiskError),
    /// A stored allocation map.
    #[error("the stored allocation map cannot be used: {0}")]
    Map(#[from] MapError),
    /// The state database.
    #[error(transparent)]
    State(#[from] StateError),
    /// A thread that works on the SR.
    #[error(transparent)]
    Pool(#[from] IoPoolError),
}

impl LocalError {
    /// The numbers, when it is a matter of room.
    pub fn shortage(&self) -> Option<&Shortage> {
        match self {
            Self::NoSpace(shortage) => Some(shortage),
            _ => None,
        }
    }
}
