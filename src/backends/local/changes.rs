//! The change bus: whatever changes an object that others see says so here, after its commit point.

use std::sync::Arc;

use tokio::sync::broadcast;

use crate::ids::{NetworkId, SrId, VbdId, VdiId, VifId, VmId};

/// Changes that a listener may lag behind before it is told that it missed some.
const BACKLOG: usize = 4096;

/// Something happened to an object: it is new, different or gone. What it is now is for the listener to look up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ObjectChange {
    /// A VDI, or a snapshot of one.
    Vdi(VdiId),
    /// A storage repository, or something that its object counts: a VDI in it, its file system.
    Sr(SrId),
    /// A VM, a snapshot or a template of one.
    Vm(VmId),
    /// The connection of a disk to a VM.
    Vbd(VbdId),
    /// The connection of a VM to a network.
    Vif(VifId),
    /// A network, or the VIFs that are on it.
    Network(NetworkId),
    /// The label of an object that has no table of its own.
    Label(Arc<str>),
    /// More than is worth naming one by one: an SR came or went with all its disks.
    Many,
}

/// Where changes are told. Telling never waits and nobody has to listen.
#[derive(Debug, Clone)]
pub(super) struct Changes(broadcast::Sender<ObjectChange>);

impl Changes {
    pub(super) fn new() -> Self {
        Self(broadcast::Sender::new(BACKLOG))
    }

    pub(super) fn tell(&self, change: ObjectChange) {
        // An error says that nobody listens.
        let _ = self.0.send(change);
    }

    pub(super) fn listen(&self) -> broadcast::Receiver<ObjectChange> {
        self.0.subscribe()
    }
}
