//! Who goes on with the jobs of a former server.

use gantry_actors::{JobRecord, Resume, Resumption};

use crate::backends::local::LocalStore;

use super::export::{self, ExportDesk};
use super::grow;

/// Knows the kinds of jobs that outlive a server: downloads wait for their clients, copies begin anew. Uploads
/// end with their connection.
pub struct Resumer {
    /// Where downloads are taken up again.
    pub exports: ExportDesk,
    /// The store.
    pub store: LocalStore,
}

impl Resume for Resumer {
    fn resume(&self, record: &JobRecord) -> Option<Resumption> {
        match record.kind.as_str() {
            export::KIND | export::VM_KIND => self.exports.resume(record),
            grow::KIND => grow::resume(&self.store, record),
            _ => None,
        }
    }

    fn can_resume(&self, kind: &str) -> bool {
        matches!(kind, export::KIND | export::VM_KIND | grow::KIND)
    }
}
