//! Content as its readers have it open.

use std::fmt;
use std::sync::Arc;

use crate::disk::DiskReader;
use crate::disk::io_pool::IoPool;
use crate::disk::map::AllocationMap;
use crate::state::disks::ContentRow;

/// An open content: shared by all who read it at the same time, closed when the last of them leaves.
pub struct OpenContent {
    /// What is known of it.
    pub row: ContentRow,
    /// Which parts of it hold data, as captured when it was committed.
    pub map: Arc<AllocationMap>,
    /// Its bytes.
    pub reader: Arc<dyn DiskReader>,
    /// The threads that read from its SR.
    pub io: Arc<IoPool>,
}

impl fmt::Debug for OpenContent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenContent").field("row", &self.row).finish_non_exhaustive()
    }
}
