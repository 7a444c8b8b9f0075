//! Gantry moves virtual-machine disks: exports, imports and migrations as supervised, resumable,
//! verified pipelines behind Xen Orchestra's REST dialect. `ARCHITECTURE.md` is the map.

pub mod auth;
pub mod backends;
pub mod cli;
pub mod config;
pub mod disk;
pub mod formats;
pub mod ids;
pub mod image;
pub mod inventory;
pub mod rest;
pub mod server;
pub mod state;
pub mod telemetry;
pub mod tls;
pub mod transfers;
