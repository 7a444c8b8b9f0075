//! The audit over HTTP: what is written down of requests, and who may read it.

mod action;
mod guard;
mod listing;

pub use guard::{export_begun, guard, upload_refused};
pub use listing::{list, one};
