//! Where VMs and disks live.

pub mod local;
