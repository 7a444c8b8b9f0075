//! What goes out over a WebSocket: one answer after the other, each only when its client has taken the one before, so
//! that nobody makes the server keep answers by not reading them.

use std::cell::Cell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_ws::{CloseCode, CloseReason, Session};
use bytes::Bytes;
use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::rest::connection::Connection;

/// Bytes that are handed to the connection at once.
const PIECE_BYTES: usize = 32 << 10;

/// How long a client may take nothing of an answer, and how long one may take altogether.
const SILENCE: Duration = Duration::from_secs(60);
const MAX_TIME: Duration = Duration::from_secs(600);

/// How far the body has come.
#[derive(Debug, Default)]
struct Meter {
    /// Whether all that was handed over is on its way.
    idle: Cell<bool>,
    /// Told with each piece, and when idle.
    moved: Notify,
}

/// The body of the answer to an upgrade, handed out in pieces.
pub struct Metered {
    body: BoxBody,
    rest: Bytes,
    meter: Rc<Meter>,
}

impl MessageBody for Metered {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let this = self.get_mut();
        if this.rest.is_empty() {
            match Pin::new(&mut this.body).poll_next(cx) {
                Poll::Ready(Some(Ok(bytes))) => this.rest = bytes,
                Poll::Pending => {
                    this.meter.idle.set(true);
                    this.meter.moved.notify_one();
                    return Poll::Pending;
                }
                other => return other,
            }
        }
        this.meter.moved.notify_one();
        let piece = this.rest.split_to(PIECE_BYTES.min(this.rest.len()));
        Poll::Ready(Some(Ok(piece)))
    }
}

/// The connection takes nothing more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gone;

/// The outgoing half of a connection.
pub struct Outlet {
    session: Session,
    meter: Rc<Meter>,
    connection: Option<Weak<Connection>>,
    closing: CancellationToken,
}

impl Outlet {
    /// Of a connection whose answer has this body.
    pub fn new(
        session: Session,
        body: BoxBody,
        connection: Option<&Arc<Connection>>,
        closing: CancellationToken,
    ) -> (Self, Metered) {
        let meter = Rc::<Meter>::default();
        let body = Metered { body, rest: Bytes::new(), meter: Rc::clone(&meter) };
        (Self { session, meter, connection: connection.map(Arc::downgrade), closing }, body)
    }

    /// Sends an answer and waits until its client has taken it, but for what the system keeps.
    ///
    /// # Errors
    /// [`Gone`], also when the client takes too long (it is cut off then) and when the server stops meanwhile.
    pub async fn text(&mut self, text: String) -> Result<(), Gone> {
        self.meter.idle.set(false);
        self.session.text(text).await.map_err(|_| Gone)?;
        self.taken().await
    }

    /// Answers a ping.
    ///
    /// # Errors
    /// As [`Self::text`].
    pub async fn pong(&mut self, bytes: &[u8]) -> Result<(), Gone> {
        self.meter.idle.set(false);
        self.session.pong(bytes).await.map_err(|_| Gone)?;
        self.taken().await
    }

    /// Asks whether the client is there: if it is not, the system ends the connection in time.
    ///
    /// # Errors
    /// As [`Self::text`].
    pub async fn ping(&mut self) -> Result<(), Gone> {
        self.meter.idle.set(false);
        self.session.ping(b"").await.map_err(|_| Gone)?;
        self.taken().await
    }

    /// Ends the connection, saying why.
    pub async fn close(self, code: CloseCode, why: &str) {
        let reason = CloseReason { code, description: (!why.is_empty()).then(|| why.to_owned()) };
        // One that has gone needs no reason.
        drop(self.session.close(Some(reason)).await);
    }

    async fn taken(&self) -> Result<(), Gone> {
        let end = Instant::now() + MAX_TIME;
        while !self.meter.idle.get() {
            let until = end.min(Instant::now() + SILENCE);
            tokio::select! {
                moved = timeout_at(until, self.meter.moved.notified()) => if moved.is_err() {
                    tracing::info!("a client takes no answers over its WebSocket: it is cut off");
                    self.cut();
                    return Err(Gone);
                },
                () = self.closing.cancelled() => return Err(Gone),
            }
            if self.is_gone() {
                return Err(Gone);
            }
        }
        Ok(())
    }

    /// Whether the body was dropped, with its connection.
    fn is_gone(&self) -> bool {
        Rc::strong_count(&self.meter) == 1
    }

    fn cut(&self) {
        if let Some(connection) = self.connection.as_ref().and_then(Weak::upgrade) {
            connection.cut();
        }
    }
}

impl Drop for Metered {
    fn drop(&mut self) {
        // Whoever waits shall see that it has gone: told before it is, looked at after.
        self.meter.moved.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_util::stream;

    use super::*;

    fn metered(chunks: Vec<Vec<u8>>) -> Metered {
        let chunks = chunks.into_iter().map(|chunk| Ok::<_, std::io::Error>(Bytes::from(chunk)));
        let body = actix_web::body::BodyStream::new(stream::iter(chunks)).boxed();
        Metered { body, rest: Bytes::new(), meter: Rc::default() }
    }

    #[tokio::test]
    async fn a_long_answer_leaves_in_pieces_and_whole() {
        let sent: Vec<u8> = (0..PIECE_BYTES * 2 + 7).map(|n| n as u8).collect();
        let (mut body, mut got, mut pieces) = (metered(vec![sent.clone(), vec![1]]), Vec::new(), Vec::new());
        while let Some(piece) = poll_fn(|cx| Pin::new(&mut body).poll_next(cx)).await {
            let piece = piece.unwrap();
            pieces.push(piece.len());
            got.extend_from_slice(&piece);
        }
        assert_eq!(pieces, [PIECE_BYTES, PIECE_BYTES, 7, 1]);
        assert_eq!(got, [sent, vec![1]].concat());
    }
}
