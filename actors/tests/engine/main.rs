//! The engine's promises, each as a test, on a clock that the tests own.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail the test")]

mod bandwidth;
mod control;
mod lifecycle;
mod pausing;
mod queueing;
mod recovery;
mod resuming;
mod retrying;
mod support;
mod threads;
