//! XVA archives: a tar stream of an `ova.xml` and the blocks of a VM's disks. Facts: xen-api's `export.ml`, `import.ml`
//! and `stream_vdi.ml`, checked against archives of XCP-ng and Xen Orchestra.

mod checksum;
mod document;
mod layout;
mod tar_write;
mod value;
mod xml_write;

pub use checksum::Checksum;
pub use document::{ArchivedDisk, Document, NULL_REFERENCE, Object};
pub use layout::{
    MAX_BLOCKS, MAX_OVA_XML_BYTES, SLOT_BYTES, XvaDisk, XvaLayout, XvaLayoutError, declared_sizes,
};
pub use value::{Record, Value};
pub use xml_write::write_document;

/// Bytes of a block: every block of a disk but its last one.
pub const BLOCK_BYTES: u64 = 1 << 20;

/// What stands beside each block of an archive for checking it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
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
