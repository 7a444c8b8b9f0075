//! The jobs: what is exported, what is imported. Each composes formats, disks and backends, and runs under the
//! engine's supervision.

pub mod admission;
pub mod digest;
pub mod export;
pub mod frames;
pub mod grow;
pub mod import;
mod intervals;
pub mod journal;
pub mod ova;
pub mod recipe;
pub mod representation;
pub mod resume;
pub mod scan;
pub mod snapshot;
pub mod store_job;
pub mod stream;
