//! Waiting for something that has no event of its own to wait on: asked again until it holds or the time is up.

use std::time::{Duration, Instant};

/// Asks `holds` every 20 ms until it says `Ok`; panics with its last complaint after `limit`.
pub fn until<T>(limit: Duration, mut holds: impl FnMut() -> Result<T, String>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        match holds() {
            Ok(value) => return value,
            Err(complaint) if Instant::now() >= deadline => panic!("after {limit:?} still: {complaint}"),
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}
