//! The object model in Xen Orchestra's shape: what the store knows, as clients of its REST dialect expect it.

pub mod filter;
mod host;
mod objects;

use serde_json::Value;

use crate::backends::local::{LocalError, LocalStore, ObjectChange};
use crate::ids::{SrId, VdiId};
use crate::state::disks::{self, Page};

pub use host::HostFacts;
pub use objects::with_reference;

/// A collection of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Collection {
    /// Hosts.
    Hosts,
    /// Networks.
    Networks,
    /// Pools.
    Pools,
    /// Storage repositories.
    Srs,
    /// Connections of disks to VMs.
    Vbds,
    /// Snapshots of disks.
    VdiSnapshots,
    /// Disks.
    Vdis,
    /// Connections of VMs to networks.
    Vifs,
    /// Snapshots of VMs.
    VmSnapshots,
    /// Templates of VMs.
    VmTemplates,
    /// VMs.
    Vms,
}

impl Collection {
    /// All of them, in the order in which the root index has always listed them.
    pub const ALL: [Self; 11] = [
        Self::Hosts,
        Self::Networks,
        Self::Pools,
        Self::Srs,
        Self::Vbds,
        Self::VdiSnapshots,
        Self::Vdis,
        Self::Vifs,
        Self::VmSnapshots,
        Self::VmTemplates,
        Self::Vms,
    ];

    /// The name in addresses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hosts => "hosts",
            Self::Networks => "networks",
            Self::Pools => "pools",
            Self::Srs => "srs",
            Self::Vbds => "vbds",
            Self::VdiSnapshots => "vdi-snapshots",
            Self::Vdis => "vdis",
            Self::Vifs => "vifs",
            Self::VmSnapshots => "vm-snapshots",
            Self::VmTemplates => "vm-templates",
            Self::Vms => "vms",
        }
    }

    /// The type of its objects.
    pub fn kind(self) -> &'static str {
        match self {
            Self::Hosts => "host",
            Self::Networks => "network",
            Self::Pools => "pool",
            Self::Srs => "SR",
            Self::Vbds => "VBD",
            Self::VdiSnapshots => "VDI-snapshot",
            Self::Vdis => "VDI",
            Self::Vifs => "VIF",
            Self::VmSnapshots => "VM-snapshot",
            Self::VmTemplates => "VM-template",
            Self::Vms => "VM",
        }
    }

    /// The id that an object of this collection has if a change may be about it. `None`: it is about none.
    pub fn concerned(self, change: &ObjectChange) -> Option<String> {
        match (self, change) {
            (Self::Vdis | Self::VdiSnapshots, ObjectChange::Vdi(id)) => Some(id.to_string()),
            (Self::Srs, ObjectChange::Sr(id)) => Some(id.to_string()),
            (Self::Pools | Self::Hosts, ObjectChange::Label(id)) => Some(id.as_ref().to_owned()),
            _ => None,
        }
    }

    /// The collection of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|one| one.name() == name)
    }
}

/// What is there to see.
#[derive(Debug, Clone)]
pub struct Inventory {
    store: LocalStore,
    host: HostFacts,
}

impl Inventory {
    /// An inventory of a store on this machine.
    pub fn new(store: LocalStore) -> Self {
        Self { store, host: HostFacts::gather() }
    }

    /// Changes of objects from now on; see [`LocalStore::changes`].
    pub fn changes(&self) -> tokio::sync::broadcast::Receiver<ObjectChange> {
        self.store.changes()
    }

    /// A page of a collection, in the order of ids; an empty one is the last.
    ///
    /// # Errors
    /// When the state database or a file system does not answer.
    pub async fn page(
        &self,
        collection: Collection,
        after: &str,
        rows: u32,
    ) -> Result<Vec<Value>, LocalError> {
        let mut objects = match collection {
            Collection::Pools => self.pools().await?,
            Collection::Hosts => vec![self.host.object(&self.store).await?],
            Collection::Srs => self.srs().await?,
            Collection::Vdis | Collection::VdiSnapshots => {
                return self.vdis(collection == Collection::VdiSnapshots, after, rows).await;
            }
            // The local store knows none of these.
            Collection::Networks
            | Collection::Vbds
            | Collection::Vifs
            | Collection::VmSnapshots
            | Collection::VmTemplates
            | Collection::Vms => Vec::new(),
        };
        objects.retain(|object| objects::id_of(object) > after);
        objects.sort_by(|one, other| objects::id_of(one).cmp(objects::id_of(other)));
        objects.truncate(usize::try_from(rows).unwrap_or(usize::MAX));
        Ok(objects)
    }

    /// One object, if it is in the collection.
    ///
    /// # Errors
    /// As [`Self::page`].
    pub async fn object(&self, collection: Collection, id: &str) -> Result<Option<Value>, LocalError> {
        match collection {
            Collection::Vdis | Collection::VdiSnapshots => match id.parse() {
                Ok(id) => self.vdi(id, collection == Collection::VdiSnapshots).await,
                Err(_) => Ok(None),
            },
            Collection::Srs => match id.parse() {
                Ok(id) => self.sr(id).await,
                Err(_) => Ok(None),
            },
            _ => {
                let all = self.page(collection, "", u32::MAX).await?;
                Ok(all.into_iter().find(|object| objects::id_of(object).eq_ignore_ascii_case(id)))
            }
        }
    }

    async fn pools(&self) -> Result<Vec<Value>, LocalError> {
        let site = self.store.site();
        let label = self.store.label(&site.pool.to_string()).await?;
        Ok(vec![objects::pool(site, &label, self.host.cores)])
    }

    async fn srs(&self) -> Result<Vec<Value>, LocalError> {
        let ids = self.store.db().call(|db| Ok(disks::srs(db)?)).await?;
        let mut list = Vec::with_capacity(ids.len());
        for row in ids {
            list.extend(self.sr(row.id).await?);
        }
        Ok(list)
    }

    async fn sr(&self, id: SrId) -> Result<Option<Value>, LocalError> {
        let found = self
            .store
            .db()
            .call(move |db| {
                let Some(row) = disks::find_sr(db, id)? else { return Ok(None) };
                Ok(Some((row, disks::vdi_ids(db, id)?, disks::virtual_bytes(db, id)?)))
            })
            .await?;
        let Some((row, vdis, usage)) = found else { return Ok(None) };
        let space = match self.store.sr(id) {
            Ok(sr) => self.store.space_at_once(&sr).await?,
            Err(_) => None,
        };
        Ok(Some(objects::sr(&row, &vdis, usage, space, self.store.site())))
    }

    async fn vdi(&self, id: VdiId, snapshot: bool) -> Result<Option<Value>, LocalError> {
        let found = self
            .store
            .db()
            .call(move |db| {
                let Some(row) = disks::find_vdi(db, id)? else { return Ok(None) };
                let content = disks::find_content(db, row.content)?;
                let chain = disks::chain(db, row.content)?;
                let snapshots = disks::snapshots_of(db, id)?;
                Ok(content.map(|content| (row, content, chain, snapshots)))
            })
            .await?;
        let Some((row, content, chain, snapshots)) = found else { return Ok(None) };
        if row.snapshot_of.is_some() != snapshot {
            return Ok(None);
        }
        let missing = self.store.sr(row.sr).map_or(true, |sr| sr.is_missing(content.id));
        Ok(Some(objects::vdi(&row, &content, &chain, &snapshots, missing, self.store.site())))
    }

    async fn vdis(&self, snapshots: bool, after: &str, rows: u32) -> Result<Vec<Value>, LocalError> {
        let after = after.to_owned();
        let page = self
            .store
            .db()
            .call(move |db| {
                let mut page = Vec::new();
                for (row, content) in disks::vdis(db, snapshots, Page { after: &after, rows })? {
                    let chain = disks::chain(db, content.id)?;
                    let of_it = disks::snapshots_of(db, row.id)?;
                    page.push((row, content, chain, of_it));
                }
                Ok(page)
            })
            .await?;
        let shape =
            |(row, content, chain, of_it): (disks::VdiRow, disks::ContentRow, disks::Chain, Vec<VdiId>)| {
                let missing = self.store.sr(row.sr).map_or(true, |sr| sr.is_missing(content.id));
                objects::vdi(&row, &content, &chain, &of_it, missing, self.store.site())
            };
        Ok(page.into_iter().map(shape).collect())
    }
}
