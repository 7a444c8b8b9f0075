//! The object model in Xen Orchestra's shape: what the store knows, as clients of its REST dialect expect it.

mod devices;
pub mod filter;
mod host;
mod objects;
mod place;
pub mod schema;
mod vms;

use std::str::FromStr;

use rusqlite::Connection;

use crate::backends::local::{LocalError, LocalStore, ObjectChange};
use crate::ids::{SrId, VbdId, VdiId, VmId};
use crate::state::disks::{self, Chain, ContentRow, Page, VdiRow};
use crate::state::vms::VmKind;
use crate::state::{networks, vms as vm_rows};

use devices::{NetworkFacts, VbdFacts, VifFacts};
pub use host::HostFacts;
pub use objects::with_reference;
pub use place::{Place, Placed};
use vms::VmFacts;

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
            (Self::Vms | Self::VmSnapshots | Self::VmTemplates, ObjectChange::Vm(id)) => Some(id.to_string()),
            (Self::Vbds, ObjectChange::Vbd(id)) => Some(id.to_string()),
            (Self::Vifs, ObjectChange::Vif(id)) => Some(id.to_string()),
            (Self::Networks, ObjectChange::Network(id)) => Some(id.to_string()),
            (Self::Pools | Self::Hosts, ObjectChange::Label(id)) => Some(id.as_ref().to_owned()),
            _ => None,
        }
    }

    /// Whether its objects have a name, a description and tags.
    pub fn is_labelled(self) -> bool {
        !matches!(self, Self::Vbds | Self::Vifs)
    }

    /// Whether something may be done to its objects beside changing and deleting them; VMs of all kinds are asked.
    pub fn has_actions(self) -> bool {
        self.holds_vms() || matches!(self, Self::Srs | Self::Vdis)
    }

    /// Whether it holds VMs: also snapshots and templates.
    pub fn holds_vms(self) -> bool {
        self.vm_kind().is_some()
    }

    /// The kind of VMs that it holds, if it holds any.
    fn vm_kind(self) -> Option<VmKind> {
        match self {
            Self::Vms => Some(VmKind::Vm),
            Self::VmSnapshots => Some(VmKind::Snapshot),
            Self::VmTemplates => Some(VmKind::Template),
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
    ) -> Result<Vec<Placed>, LocalError> {
        let site = self.store.site();
        let mut few = match collection {
            Collection::Pools => self.pools().await?,
            Collection::Hosts => vec![self.local_host().await?],
            Collection::Srs => self.srs().await?,
            Collection::Vdis | Collection::VdiSnapshots => {
                return self.vdis(collection == Collection::VdiSnapshots, after, rows).await;
            }
            Collection::Vms | Collection::VmSnapshots | Collection::VmTemplates => {
                let Some(kind) = collection.vm_kind() else { return Ok(Vec::new()) };
                let page = self.rows(after, rows, move |db, page| vm_rows::vms(db, kind, page), VmFacts::of);
                return Ok(page.await?.iter().map(|facts| facts.placed(site)).collect());
            }
            Collection::Vbds => {
                let page = self.rows(after, rows, vm_rows::vbds, VbdFacts::of).await?;
                return Ok(page.iter().map(|facts| facts.placed(site)).collect());
            }
            Collection::Vifs => {
                let page = self.rows(after, rows, networks::vifs, VifFacts::of).await?;
                return Ok(page.iter().map(|facts| facts.placed(site)).collect());
            }
            Collection::Networks => {
                let page = self.rows(after, rows, networks::networks, NetworkFacts::of).await?;
                return Ok(page.iter().map(|facts| facts.placed(site)).collect());
            }
        };
        few.retain(|placed| placed.id() > after);
        few.sort_by(|one, other| one.id().cmp(other.id()));
        few.truncate(usize::try_from(rows).unwrap_or(usize::MAX));
        Ok(few)
    }

    /// One object, if it is in the collection.
    ///
    /// # Errors
    /// As [`Self::page`].
    pub async fn object(&self, collection: Collection, id: &str) -> Result<Option<Placed>, LocalError> {
        let site = self.store.site();
        match collection {
            Collection::Vdis | Collection::VdiSnapshots => match id.parse() {
                Ok(id) => self.vdi(id, collection == Collection::VdiSnapshots).await,
                Err(_) => Ok(None),
            },
            Collection::Srs => match id.parse() {
                Ok(id) => self.sr(id).await,
                Err(_) => Ok(None),
            },
            Collection::Vms | Collection::VmSnapshots | Collection::VmTemplates => {
                let found = self.row(id, vm_rows::find_vm, VmFacts::of).await?;
                let of_kind = found.filter(|facts| Some(facts.kind()) == collection.vm_kind());
                Ok(of_kind.map(|facts| facts.placed(site)))
            }
            Collection::Vbds => {
                let found = self.row(id, vm_rows::find_vbd, VbdFacts::of).await?;
                Ok(found.map(|facts| facts.placed(site)))
            }
            Collection::Vifs => {
                let found = self.row(id, networks::find_vif, VifFacts::of).await?;
                Ok(found.map(|facts| facts.placed(site)))
            }
            Collection::Networks => {
                let found = self.row(id, networks::find_network, NetworkFacts::of).await?;
                Ok(found.map(|facts| facts.placed(site)))
            }
            Collection::Pools | Collection::Hosts => {
                let all = self.page(collection, "", u32::MAX).await?;
                Ok(all.into_iter().find(|placed| placed.id().eq_ignore_ascii_case(id)))
            }
        }
    }

    /// The disks of a VM, a snapshot or a template, by position, each with the collection that it is in; what lies in
    /// its CD drives is none.
    ///
    /// # Errors
    /// As [`Self::page`].
    pub async fn disks_of(&self, vm: VmId) -> Result<Vec<(Collection, Placed)>, LocalError> {
        let facts = self.store.db().call(move |db| {
            let mut disks: Vec<VdiFacts> = Vec::new();
            for vbd in vm_rows::vbds_of_vm(db, vm)? {
                let vdi = vbd.vdi.filter(|_| vbd.kind == vm_rows::VbdKind::Disk);
                let Some(row) = vdi.map(|id| disks::find_vdi(db, id)).transpose()?.flatten() else {
                    continue;
                };
                if disks.iter().all(|disk| disk.row.id != row.id) {
                    disks.extend(VdiFacts::of(db, row)?);
                }
            }
            Ok(disks)
        });
        let placed = |facts: &VdiFacts| {
            let snapshot = facts.row.snapshot_of.is_some();
            let collection = if snapshot { Collection::VdiSnapshots } else { Collection::Vdis };
            (collection, self.placed_vdi(facts))
        };
        Ok(facts.await?.iter().map(placed).collect())
    }

    /// A page of rows, each with what belongs to it.
    async fn rows<R: 'static, F: Send + 'static>(
        &self,
        after: &str,
        rows: u32,
        page: impl FnOnce(&Connection, Page<'_>) -> rusqlite::Result<Vec<R>> + Send + 'static,
        of: fn(&Connection, R) -> rusqlite::Result<F>,
    ) -> Result<Vec<F>, LocalError> {
        let after = after.to_owned();
        let read = self.store.db().call(move |db| {
            let rows = page(db, Page { after: &after, rows })?;
            Ok(rows.into_iter().map(|row| of(db, row)).collect::<rusqlite::Result<Vec<F>>>()?)
        });
        Ok(read.await?)
    }

    /// One row, if there is one of that id, with what belongs to it.
    async fn row<I: FromStr + Send + 'static, R: 'static, F: Send + 'static>(
        &self,
        id: &str,
        find: fn(&Connection, I) -> rusqlite::Result<Option<R>>,
        of: fn(&Connection, R) -> rusqlite::Result<F>,
    ) -> Result<Option<F>, LocalError> {
        let Ok(id) = id.parse::<I>() else { return Ok(None) };
        let read = self.store.db().call(move |db| Ok(find(db, id)?.map(|row| of(db, row)).transpose()?));
        Ok(read.await?)
    }

    async fn pools(&self) -> Result<Vec<Placed>, LocalError> {
        let site = self.store.site();
        let label = self.store.label(&site.pool.to_string()).await?;
        let object = objects::pool(site, &label, self.host.cores);
        Ok(vec![Placed { object, place: Place::default() }])
    }

    async fn local_host(&self) -> Result<Placed, LocalError> {
        Ok(Placed { object: self.host.object(&self.store).await?, place: Place::default() })
    }

    async fn srs(&self) -> Result<Vec<Placed>, LocalError> {
        let ids = self.store.db().call(|db| Ok(disks::srs(db)?)).await?;
        let mut list = Vec::with_capacity(ids.len());
        for row in ids {
            list.extend(self.sr(row.id).await?);
        }
        Ok(list)
    }

    async fn sr(&self, id: SrId) -> Result<Option<Placed>, LocalError> {
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
        let object = objects::sr(&row, &vdis, usage, space, self.store.site());
        Ok(Some(Placed { object, place: Place::default() }))
    }

    async fn vdi(&self, id: VdiId, snapshot: bool) -> Result<Option<Placed>, LocalError> {
        let read = self.store.db().call(move |db| {
            let Some(row) = disks::find_vdi(db, id)? else { return Ok(None) };
            Ok(VdiFacts::of(db, row)?)
        });
        let found = read.await?.filter(|facts| facts.row.snapshot_of.is_some() == snapshot);
        Ok(found.map(|facts| self.placed_vdi(&facts)))
    }

    async fn vdis(&self, snapshots: bool, after: &str, rows: u32) -> Result<Vec<Placed>, LocalError> {
        let page =
            self.rows(after, rows, move |db, page| disks::vdis(db, snapshots, page), VdiFacts::with_content);
        Ok(page.await?.iter().map(|facts| self.placed_vdi(facts)).collect())
    }

    fn placed_vdi(&self, facts: &VdiFacts) -> Placed {
        let VdiFacts { row, content, chain, vbds, snapshots } = facts;
        let missing = self.store.sr(row.sr).map_or(true, |sr| sr.is_missing(content.id));
        let object = objects::vdi(row, content, chain, vbds, snapshots, missing, self.store.site());
        Placed { object, place: Place::in_sr(row.sr) }
    }
}

/// A VDI with all that its object counts.
struct VdiFacts {
    row: VdiRow,
    content: ContentRow,
    chain: Chain,
    vbds: Vec<VbdId>,
    snapshots: Vec<VdiId>,
}

impl VdiFacts {
    fn of(db: &Connection, row: VdiRow) -> rusqlite::Result<Option<Self>> {
        let Some(content) = disks::find_content(db, row.content)? else { return Ok(None) };
        Self::with_content(db, (row, content)).map(Some)
    }

    fn with_content(db: &Connection, (row, content): (VdiRow, ContentRow)) -> rusqlite::Result<Self> {
        Ok(Self {
            chain: disks::chain(db, content.id)?,
            vbds: vm_rows::vbds_of_vdi(db, row.id)?.into_iter().map(|vbd| vbd.id).collect(),
            snapshots: disks::snapshots_of(db, row.id)?,
            row,
            content,
        })
    }
}
