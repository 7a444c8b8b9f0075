//! Watching over an answer that is being sent: a client that takes nothing for too long is cut off, one that
//! is merely slow is not, and one that waits for us is not either. What was made ahead for a connection that
//! does not ask for more goes back long before.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use gantry_actors::Pace;
use tokio_util::sync::CancellationToken;

use super::connection::Connection;
use super::revocation::Cut;

/// After so long without being asked for more, an answer's body gives back what it holds ready.
const BLOCKED: Duration = Duration::from_secs(1);
/// How late that may be noticed.
const TICK: Duration = Duration::from_millis(250);

/// What an answer's body tells about itself.
#[derive(Debug, Default)]
pub struct Flow {
    given_bytes: AtomicU64,
    waits_for_client: AtomicBool,
}

impl Flow {
    /// The body handed bytes to the connection; the next move is the client's.
    pub fn gave(&self, bytes: u64) {
        self.given_bytes.fetch_add(bytes, Ordering::AcqRel);
        self.waits_for_client.store(true, Ordering::Release);
    }

    /// The connection asked for more, and the source has nothing yet.
    pub fn waits_for_source(&self) {
        self.waits_for_client.store(false, Ordering::Release);
    }

    /// Changes whenever the client has taken something.
    fn mark(&self, connection: &Connection) -> (u64, Option<u64>) {
        (self.given_bytes.load(Ordering::Acquire), connection.unsent_bytes())
    }
}

/// Calls `give_back` whenever the connection has not asked for more for a second, and when the transfer is paused:
/// the body's own polls stop then, so that it cannot do it by itself. Cuts the connection when its client has taken
/// nothing for `silence`, or when `stop` is cancelled or the sender's token was `revoked` while the client is the one
/// who is waited for. Time in which the transfer is paused or waits for its place does not count. Ends with the answer.
pub async fn watch(
    flow: Weak<Flow>,
    connection: Weak<Connection>,
    silence: Duration,
    stop: CancellationToken,
    revoked: Cut,
    pace: Pace,
    give_back: impl Fn(),
) {
    let tick = (silence / 8).clamp(Duration::from_millis(50), TICK);
    let mut last = None;
    let mut since = Instant::now();
    let mut asked = (0, Instant::now());
    let mut was_held = false;
    loop {
        let told = tokio::time::timeout(tick, stop.cancelled()).await.is_ok();
        let stopped = told || revoked.is_over();
        let (Some(flow), Some(connection)) = (flow.upgrade(), connection.upgrade()) else { return };
        let waits_for_client = flow.waits_for_client.load(Ordering::Acquire);
        let mark = Some(flow.mark(&connection));
        let is_held = !pace.is_open();
        if is_held && !was_held {
            give_back();
        }
        was_held = is_held;
        if is_held || !waits_for_client || mark != last {
            last = mark;
            since = Instant::now();
        }
        // Unlike the silence, this does not look at the socket: bytes that the system still has to send do not
        // make the ones behind them wanted.
        let given = flow.given_bytes.load(Ordering::Acquire);
        if !waits_for_client || given != asked.0 {
            asked = (given, Instant::now());
        } else if asked.1.elapsed() >= BLOCKED {
            give_back();
            asked.1 = Instant::now();
        }
        if stopped || since.elapsed() >= silence {
            if !stopped {
                tracing::info!(?silence, "a client has taken nothing for too long: its connection is cut");
            }
            if waits_for_client {
                connection.cut();
            }
            return;
        }
    }
}

/// Begins to watch on the executor of the connection.
pub fn begin_watch(
    flow: &Arc<Flow>,
    connection: Option<Weak<Connection>>,
    silence: Duration,
    stop: CancellationToken,
    revoked: Cut,
    pace: Pace,
    give_back: impl Fn() + 'static,
) {
    if let Some(connection) = connection {
        actix_web::rt::spawn(watch(
            Arc::downgrade(flow),
            connection,
            silence,
            stop,
            revoked,
            pace,
            give_back,
        ));
    }
}
