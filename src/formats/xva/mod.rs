//! XVA archives: a tar stream of an `ova.xml` and the blocks of a VM's disks. Facts: xen-api's `export.ml`, `import.ml`
//! and `stream_vdi.ml`, checked against archives of XCP-ng and Xen Orchestra.

use serde::{Deserialize, Serialize};

mod archive;
mod checksum;
mod decoder;
mod document;
mod document_read;
mod error;
mod layout;
mod tar_read;
mod tar_write;
#[cfg(test)]
mod tests;
mod value;
mod xml_read;
mod xml_write;

pub use archive::{ArchiveDecoder, ArchiveError, ArchiveNext};
pub use checksum::Checksum;
pub use decoder::{XvaDecoder, XvaEvent, XvaLimits, XvaSummary};
pub use document::{ArchivedDisk, Document, NULL_REFERENCE, Object};
pub use document_read::MAX_DOCUMENT_BYTES;
pub use error::{Quoted, Rule, XvaError};
pub use layout::{
    MAX_BLOCKS, MAX_OVA_XML_BYTES, SLOT_BYTES, XvaDisk, XvaLayout, XvaLayoutError, declared_sizes,
};
pub use tar_read::looks_like_tar;
pub use value::{Record, Value};
pub use xml_write::write_document;

/// Bytes of a block: every block of a disk but its last one.
pub const BLOCK_BYTES: u64 = 1 << 20;

/// What stands beside each block of an archive for checking it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChecksumKind {
    /// `.xxhash`: XXH64 with seed 0, 16 upper-case hex digits. Read by xapi from 1.170 on.
    Xxh64,
    /// `.checksum`: SHA-1, 40 lower-case hex digits. Read by every version.
    Sha1,
}

impl ChecksumKind {
    /// The ending of the member's name.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Xxh64 => ".xxhash",
            Self::Sha1 => ".checksum",
        }
    }

    /// Length of its text in bytes.
    pub fn text_len(self) -> u64 {
        match self {
            Self::Xxh64 => 16,
            Self::Sha1 => 40,
        }
    }
}
