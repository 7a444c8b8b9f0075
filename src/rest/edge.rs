//! The outermost layer of the HTTP service: what has to be done for every request because the HTTP library
//! does not do it.
//!
//! - The body of a request that was answered early is read and discarded for up to a second after the answer,
//!   so that the client can read why it was refused; dropped at once, the answer would be lost (HTTP/2), or a
//!   chunked body would be drained without limit (HTTP/1.1).
//! - On HTTP/2 the body is discarded before the answer where the answer is an early success.
//! - Requests are counted per connection.
//! - What a token has begun ends when it is revoked.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use actix_http::error::PayloadError;
use actix_http::{HttpMessage, Payload};
use actix_web::body::{BodySize, BoxBody, MessageBody};
use actix_web::dev::ServiceRequest;
use bytes::Bytes;
use futures_util::Stream;
use tokio::time::{Instant, Sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::access::Line;
use super::connection::InFlight;
use super::revocation::Cut;

/// How long an unread request body is discarded after the answer is out.
const DISCARD: Duration = Duration::from_secs(1);

/// How long nothing may come of a body that is discarded to its end.
const SILENCE: Duration = Duration::from_secs(10);

/// How many pieces of such a body are discarded before others have a turn.
const PIECES_AT_ONCE: u32 = 64;

/// An answer up to that length is not broken off.
const SHORT_BYTES: u64 = 32 << 10;

/// A request's body that outlives the handler which may or may not read it.
#[derive(Clone)]
pub struct SharedPayload {
    inner: Rc<RefCell<Option<Payload>>>,
    /// Ends it as if it had broken off.
    cut: Option<Rc<RefCell<Pin<Box<WaitForCancellationFutureOwned>>>>>,
}

impl SharedPayload {
    /// Takes over a body.
    pub fn new(payload: Payload) -> Self {
        let inner = if matches!(payload, Payload::None) { None } else { Some(payload) };
        Self { inner: Rc::new(RefCell::new(inner)), cut: None }
    }

    /// Puts itself into a request in place of its body. `None` when the request has none.
    pub fn install(request: &mut ServiceRequest, cut: &Cut) -> Option<Self> {
        let mut shared = Self::new(request.take_payload());
        if shared.is_done() {
            return None;
        }
        shared.cut = Some(Rc::new(RefCell::new(Box::pin(cut.ended()))));
        let stream: Pin<Box<dyn Stream<Item = Result<Bytes, PayloadError>>>> = Box::pin(shared.clone());
        request.set_payload(Payload::Stream { payload: stream });
        Some(shared)
    }

    fn is_done(&self) -> bool {
        self.inner.borrow().is_none()
    }

    fn forget(&self) {
        self.inner.borrow_mut().take();
    }
}

impl Stream for SharedPayload {
    type Item = Result<Bytes, PayloadError>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut inner = self.inner.borrow_mut();
        let Some(payload) = inner.as_mut() else { return Poll::Ready(None) };
        if let Some(cut) = &self.cut
            && cut.borrow_mut().as_mut().poll(cx).is_ready()
        {
            inner.take();
            let revoked = std::io::Error::new(std::io::ErrorKind::ConnectionAborted, Revoked);
            return Poll::Ready(Some(Err(PayloadError::Io(revoked))));
        }
        let polled = Pin::new(payload).poll_next(cx);
        if matches!(polled, Poll::Ready(None | Some(Err(_)))) {
            inner.take();
        }
        polled
    }
}

/// An answer's body that keeps the request's body, and the request's place on its connection, until it is out.
pub struct Held {
    body: BoxBody,
    ended: bool,
    unread: Option<SharedPayload>,
    until: Option<Pin<Box<Sleep>>>,
    discard_first: bool,
    /// Ends the answer, if it is long enough to matter.
    cut: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    /// Known by its sender for as long as the answer lasts.
    _cut: Option<Cut>,
    http2: bool,
    _in_flight: Option<InFlight>,
    line: Option<Box<Line>>,
}

impl Held {
    /// Wraps the body of an answer.
    pub fn new(
        body: BoxBody,
        unread: Option<SharedPayload>,
        http2: bool,
        in_flight: Option<InFlight>,
    ) -> Self {
        Self {
            body,
            ended: false,
            unread,
            until: None,
            discard_first: false,
            cut: None,
            _cut: None,
            http2,
            _in_flight: in_flight,
            line: None,
        }
    }

    /// Has the request's line in the log written when the answer is over.
    pub fn logged(mut self, line: Option<Box<Line>>) -> Self {
        self.line = line;
        self
    }

    /// Breaks the answer off at `cut`, unless it is so short that it is out with its head.
    pub fn until(mut self, cut: Cut) -> Self {
        let short = match self.body.size() {
            BodySize::None => true,
            BodySize::Sized(bytes) => bytes <= SHORT_BYTES,
            BodySize::Stream => false,
        };
        self.cut = (!short).then(|| Box::pin(cut.ended()));
        self._cut = Some(cut);
        self
    }

    /// Has the request's body discarded before the answer's is sent, and for as long as it comes. For an early
    /// success on HTTP/2: some clients, once they have read one whole, do not look at the stream again while they
    /// still send, and others take a reset for a failure. All understand an answer after what they have sent.
    pub fn discard_first(mut self) -> Self {
        self.discard_first = true;
        self
    }
}

/// The token with which the request was sent was revoked.
#[derive(Debug, thiserror::Error)]
#[error("the token of this request was revoked")]
struct Revoked;

/// The request's body was longer than anybody wants to read.
#[derive(Debug, thiserror::Error)]
#[error("the request's body was not read to its end")]
struct Unread;

impl MessageBody for Held {
    type Error = Box<dyn std::error::Error>;

    fn size(&self) -> BodySize {
        self.body.size()
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let this = self.get_mut();
        let polled = this.poll(cx);
        if let (Poll::Ready(piece), Some(line)) = (&polled, &mut this.line) {
            match piece {
                Some(Ok(bytes)) => line.sent(bytes.len()),
                Some(Err(_)) => {}
                None => line.ended(),
            }
        }
        polled
    }
}

impl Held {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Box<dyn std::error::Error>>>> {
        let this = self;
        if let Some(cut) = &mut this.cut
            && cut.as_mut().poll(cx).is_ready()
        {
            return Poll::Ready(Some(Err(Box::new(Revoked))));
        }
        if this.discard_first {
            if this.discard(cx).is_pending() {
                return Poll::Pending;
            }
            this.discard_first = false;
        }
        if !this.ended {
            match Pin::new(&mut this.body).poll_next(cx) {
                Poll::Ready(None) => this.ended = true,
                other => return other,
            }
        }
        match this.discard(cx) {
            Poll::Pending => Poll::Pending,
            // HTTP/1.1 would go on draining a chunked body: an error closes the connection. On HTTP/2 the stream
            // ends here, and what the client still sends is refused.
            Poll::Ready(Discarded::Part) if !this.http2 => Poll::Ready(Some(Err(Box::new(Unread)))),
            Poll::Ready(_) => Poll::Ready(None),
        }
    }
}

/// How much of a request's body was discarded.
enum Discarded {
    All,
    Part,
}

impl Held {
    /// Reads what is left of the request's body for as long as that is done.
    fn discard(&mut self, cx: &mut Context<'_>) -> Poll<Discarded> {
        let Some(unread) = &mut self.unread else { return Poll::Ready(Discarded::All) };
        let until = self.until.get_or_insert_with(|| Box::pin(tokio::time::sleep(DISCARD)));
        for piece in 1.. {
            match Pin::new(&mut *unread).poll_next(cx) {
                Poll::Ready(Some(Ok(_))) => {}
                Poll::Ready(None | Some(Err(_))) => return Poll::Ready(Discarded::All),
                Poll::Pending => break,
            }
            if self.discard_first {
                until.as_mut().reset(Instant::now() + SILENCE);
                if piece == PIECES_AT_ONCE {
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
            // A client that sends without a pause must not keep the loop from looking at the clock.
            if until.is_elapsed() {
                break;
            }
        }
        match until.as_mut().poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => {
                unread.forget();
                Poll::Ready(Discarded::Part)
            }
        }
    }
}
