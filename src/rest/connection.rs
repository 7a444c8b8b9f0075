//! Connections, seen from below HTTP: which of them wait for nothing, how to end one, and how many bytes its
//! client has not taken yet.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

/// A client's connection. Lives as long as the connection does; others hold it weakly, because the duplicate
/// of the socket in here keeps it open.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
    requests: AtomicUsize,
    since: Instant,
    idle_since_ms: AtomicU64,
}

impl Connection {
    /// Remembers a connection.
    ///
    /// # Errors
    /// When the system has no descriptor left.
    pub fn new(socket: impl AsFd) -> std::io::Result<Arc<Self>> {
        Ok(Arc::new(Self {
            socket: socket.as_fd().try_clone_to_owned()?,
            requests: AtomicUsize::new(0),
            since: Instant::now(),
            idle_since_ms: AtomicU64::new(0),
        }))
    }

    /// Notes that a request runs on it, until the guard goes.
    pub fn enter(self: &Arc<Self>) -> InFlight {
        self.requests.fetch_add(1, Ordering::AcqRel);
        InFlight { connection: Arc::downgrade(self) }
    }

    /// Ends the connection in both directions, whatever is still on its way.
    pub fn cut(&self) {
        if let Err(error) = rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both) {
            tracing::debug!(%error, "a connection that was to be cut had ended");
        }
    }

    /// Bytes that the system holds for the client and the client has not acknowledged. `None` when the system
    /// does not say.
    pub fn unsent_bytes(&self) -> Option<u64> {
        /// `SIOCOUTQ`, which Linux gives the number of `TIOCOUTQ`.
        const SIOCOUTQ: rustix::ioctl::Opcode = 0x5411;
        #[expect(
            unsafe_code,
            reason = "the request takes no input and writes one int, which is what Getter reads"
        )]
        // SAFETY: SIOCOUTQ on a socket writes exactly one C int; on anything else it fails.
        let unsent = unsafe {
            let getter = rustix::ioctl::Getter::<SIOCOUTQ, std::ffi::c_int>::new();
            rustix::ioctl::ioctl(&self.socket, getter)
        };
        unsent.ok().and_then(|bytes| u64::try_from(bytes).ok())
    }

    fn idle_for(&self) -> Option<Duration> {
        if self.requests.load(Ordering::Acquire) > 0 {
            return None;
        }
        let since = Duration::from_millis(self.idle_since_ms.load(Ordering::Acquire));
        Some(self.since.elapsed().saturating_sub(since))
    }
}

/// A request that runs on a connection.
#[derive(Debug)]
pub struct InFlight {
    connection: Weak<Connection>,
}

impl Drop for InFlight {
    fn drop(&mut self) {
        if let Some(connection) = self.connection.upgrade() {
            let now = u64::try_from(connection.since.elapsed().as_millis()).unwrap_or(u64::MAX);
            connection.idle_since_ms.store(now, Ordering::Release);
            connection.requests.fetch_sub(1, Ordering::AcqRel);
        }
    }
}

/// All connections of a server.
#[derive(Debug, Default, Clone)]
pub struct Connections {
    list: Arc<Mutex<Vec<Weak<Connection>>>>,
}

impl Connections {
    /// Adds a connection.
    pub fn add(&self, connection: &Arc<Connection>) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that have ended are cleared away whenever the list would have to grow.
        if list.len() == list.capacity() {
            list.retain(|connection| connection.strong_count() > 0);
        }
        list.push(Arc::downgrade(connection));
    }

    /// Ends those on which nothing has run for longer than `limit`: the HTTP library has no time-out for a
    /// connection that was used before and then sends half a request head.
    pub fn sweep(&self, limit: Duration) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        list.retain(|connection| {
            let Some(connection) = connection.upgrade() else { return false };
            if connection.idle_for().is_some_and(|idle| idle > limit) {
                connection.cut();
            }
            true
        });
    }
}
