//! A disk's content: which parts hold data, positional reads and writes, and the threads that do them.
//!
//! Everything here that touches a file blocks; it runs on an [`io_pool::IoPool`] or on a thread of its
//! own ([`worker::spawn_worker`]), never on an executor's.

use error::DiskError;

pub mod concat;
pub mod error;
mod file;
pub mod io_pool;
pub mod map;
pub mod map_blob;
pub mod open;
pub mod raw;
pub mod retry;
pub mod vhd_chain;
mod vhd_file;
mod vhd_placement;
#[cfg(test)]
mod vhd_tests;
pub mod worker;
pub mod writer;

/// Guest-visible bytes of a disk, read by position. Calls block, and may come from many threads at once.
pub trait DiskReader: Send + Sync {
    /// The disk's size in bytes. Fixed when the disk was opened.
    fn virtual_size(&self) -> u64;

    /// Fills `buf` with the bytes from `offset` on. Bytes past the disk's end are zero, so that a format
    /// which pads its last block needs no case of its own.
    ///
    /// # Errors
    ///
    /// When a file cannot be read, or ends before a byte that it must hold: missing bytes are never
    /// taken for zeros. `buf`'s content is unspecified then.
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError>;
}
