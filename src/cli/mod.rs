//! (filled by its own commit)

pub mod token;
pub mod user;
