//! Which threads read which part of a disk that is put together of several.

use std::sync::Arc;

use crate::disk::io_pool::IoPool;

/// The threads of the storage repositories that a disk's parts lie on.
#[derive(Debug, Clone, Default)]
pub struct Pools {
    /// First byte of a part, and who reads it; in order.
    parts: Vec<(u64, Arc<IoPool>)>,
}

impl From<Arc<IoPool>> for Pools {
    fn from(pool: Arc<IoPool>) -> Self {
        Self::one(pool)
    }
}

impl Pools {
    /// Of a disk that lies in one place.
    pub fn one(pool: Arc<IoPool>) -> Self {
        Self { parts: vec![(0, pool)] }
    }

    /// Of one whose parts begin there. One without parts is never read.
    pub fn by_start(mut parts: Vec<(u64, Arc<IoPool>)>) -> Self {
        parts.sort_by_key(|(start, _)| *start);
        Self { parts }
    }

    /// Those of the first part.
    #[cfg(test)]
    pub(super) fn first(&self) -> &Arc<IoPool> {
        &self.parts[0].1
    }

    /// The threads that read what begins at a byte.
    pub fn at(&self, offset: u64) -> Option<&Arc<IoPool>> {
        let after = self.parts.partition_point(|(start, _)| *start <= offset);
        self.parts.get(after.saturating_sub(1)).map(|(_, pool)| pool)
    }
}
