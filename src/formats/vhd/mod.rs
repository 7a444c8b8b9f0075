//! Virtual hard disks in Microsoft's VHD format, with the habits of XenServer.
//!
//! Nothing here reads or writes files. [`StreamDecoder`] reads a stream that cannot be sought, [`VhdOpener`]
//! asks for the pieces of a file that it needs, [`VhdLayout`] describes an image that is being sent, and
//! [`WriterGeometry`] one that is being written block by block.
//!
//! All numbers in a VHD are big-endian, a sector is 512 bytes. Facts come from Microsoft's "Virtual Hard Disk
//! Image Format Specification" and from the readers that Gantry's images meet: blktap's libvhd, xen-api's
//! vhd-tool, Xen Orchestra's vhd-lib, QEMU's vpc driver, libvhdi and 7-Zip.

pub mod batmap;
pub mod bitmap;
mod blocks;
mod checksum;
mod error;
mod fields;
mod footer;
mod geometry;
mod header;
mod index;
mod layout;
mod locator;
mod open;
mod placement;
mod stream;
mod writer;

#[cfg(test)]
mod tests;

pub use bitmap::ALL_SECTORS;
pub use blocks::{BLOCK_BYTES, BlockSet, BlockSetBuilder};
pub use checksum::checksum;
pub use error::{Fact, MAX_VIRTUAL_SIZE, Rule, VhdError};
pub use footer::{DiskKind, FOOTER_COOKIE, FOOTER_LEN, Footer, vhd_time};
pub use geometry::Geometry;
pub use header::{DynamicHeader, HEADER_COOKIE, HEADER_LEN};
pub use index::{BlockLocation, VhdIndex};
pub use layout::VhdLayout;
pub use locator::{Locator, ParentRef, Platform};
pub use open::{MAX_NEED, OpenStep, VhdOpener, open};
pub use placement::UNUSED_ENTRY;
pub use stream::{StreamDecoder, VhdSummary};
pub use writer::WriterGeometry;

/// Size of a sector in bytes.
pub const SECTOR_BYTES: u64 = 512;
