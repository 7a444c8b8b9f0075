//! The engine's promises, each as a test, on a clock that the tests own.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail the test")]

mod control;
mod lifecycle;
mod recovery;
mod support;
mod threads;
