//! What the end-to-end tests share: a server that they start and stop, clients that show every byte on the
//! wire, disks whose content is known without keeping it, and other people's tools.

pub mod curl;
pub mod disk;
pub mod http;
pub mod server;
pub mod stream;
pub mod tools;
pub mod vhd;
pub mod wait;
pub mod xva;

/// One MiB and one GiB in bytes.
pub const MIB: u64 = 1 << 20;
pub const GIB: u64 = 1 << 30;

/// The largest disk that a VHD can hold: sector numbers in its table have 32 bits.
pub const VHD_MAX: u64 = 2040 * GIB;
