//! Networks, and the connections of VMs to them. They come with archives; here they go.

use crate::ids::{NetworkId, VifId};
use crate::state::networks;
use crate::state::vms::{self, VmKind};

use super::{LocalError, LocalStore, ObjectChange};

impl LocalStore {
    /// Removes a VIF from its VM.
    ///
    /// # Errors
    /// [`LocalError::NoSuchVif`], [`LocalError::VmIsSnapshot`].
    pub async fn delete_vif(&self, id: VifId) -> Result<(), LocalError> {
        self.change(move |tx| {
            let Some(row) = networks::find_vif(tx, id)? else { return Ok(Err(LocalError::NoSuchVif(id))) };
            if vms::find_vm(tx, row.vm)?.is_some_and(|vm| vm.kind == VmKind::Snapshot) {
                return Ok(Err(LocalError::VmIsSnapshot(row.vm)));
            }
            networks::delete_vif(tx, id)?;
            let network = row.network.map(ObjectChange::Network);
            let changes = [ObjectChange::Vm(row.vm), ObjectChange::Vif(id)].into_iter().chain(network);
            Ok(Ok(((), changes.collect())))
        })
        .await
    }

    /// Removes a network that no VM is on.
    ///
    /// # Errors
    /// [`LocalError::NoSuchNetwork`], [`LocalError::NetworkInUse`].
    pub async fn delete_network(&self, id: NetworkId) -> Result<(), LocalError> {
        self.change(move |tx| {
            if networks::find_network(tx, id)?.is_none() {
                return Ok(Err(LocalError::NoSuchNetwork(id)));
            }
            let vifs = networks::vifs_of_network(tx, id)?.len();
            if vifs > 0 {
                return Ok(Err(LocalError::NetworkInUse { network: id, vifs }));
            }
            networks::delete_network(tx, id)?;
            Ok(Ok(((), vec![ObjectChange::Network(id)])))
        })
        .await
    }
}
