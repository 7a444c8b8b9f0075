//! VHD files read and written through the file system, with qemu-img as maker and judge, and chains, which
//! qemu-img cannot make.

mod chains;
mod qemu;
