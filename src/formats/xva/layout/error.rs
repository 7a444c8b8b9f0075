//! Why there is no archive of what was given.

use super::{MAX_BLOCKS, MAX_ID_BYTES, MAX_OVA_XML_BYTES};

/// Why there is no archive of what was given.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum XvaLayoutError {
    /// The document is longer than importers take.
    #[error("ova.xml has {found} bytes, an importer takes {MAX_OVA_XML_BYTES} at most")]
    OvaXmlTooLong {
        /// Its length in bytes.
        found: usize,
    },
    /// An id cannot be the name of a folder in an archive.
    #[error(
        "disk id {id:?} is not 1 to {MAX_ID_BYTES} visible ASCII characters without a slash, or is a name that means something else"
    )]
    BadId {
        /// The id.
        id: String,
    },
    /// The disks do not come in the order of their ids as text, or one comes twice.
    #[error("disk {id:?} comes after {before:?}, expected the order of their ids as text")]
    Order {
        /// The id that comes first.
        before: String,
        /// The one after it.
        id: String,
    },
    /// An id begins another one: importers look only at how names begin.
    #[error("disk id {id:?} is the beginning of {longer:?}")]
    Prefix {
        /// The shorter id.
        id: String,
        /// The longer one.
        longer: String,
    },
    /// A disk without a byte.
    #[error("disk {id:?} has no byte")]
    EmptyDisk {
        /// Its id.
        id: String,
    },
    /// A disk has more blocks than can be counted with eight digits.
    #[error("disk {id:?} has {found} blocks of 1 MiB, an archive can number {MAX_BLOCKS}")]
    TooManyBlocks {
        /// Its id.
        id: String,
        /// Number of its blocks.
        found: u64,
    },
    /// The blocks are not those of a disk of that size.
    #[error("the set of blocks of disk {id:?} is one of {found}, expected {expected}")]
    OtherBlocks {
        /// Its id.
        id: String,
        /// Number of blocks that its size makes.
        expected: u32,
        /// Number of blocks that the set is for.
        found: u32,
    },
    /// All disks together are longer than can be said in 64 bits.
    #[error("the archive would be longer than 2^64 bytes")]
    TooLong,
}

impl XvaLayoutError {
    /// A stable name in snake case for programs.
    pub fn code(&self) -> &'static str {
        match self {
            Self::OvaXmlTooLong { .. } => "xva_document_too_large",
            Self::BadId { .. } => "xva_disk_id",
            Self::Order { .. } => "xva_disk_order",
            Self::Prefix { .. } => "xva_disk_id_prefix",
            Self::EmptyDisk { .. } => "xva_disk_empty",
            Self::TooManyBlocks { .. } => "xva_disk_too_large",
            Self::OtherBlocks { .. } => "xva_disk_blocks",
            Self::TooLong => "xva_too_large",
        }
    }
}
