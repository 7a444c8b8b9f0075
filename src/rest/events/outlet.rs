//! What a stream has not sent yet: whole frames, bounded in bytes, between those who have something to say and
//! the connection that asks for it when it has room.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use actix_web::body::{BodySize, MessageBody};
use bytes::Bytes;
use tokio::time::{Instant, Sleep};

/// What a waiting frame takes besides its bytes.
const FRAME_OVERHEAD_BYTES: u64 = 64;

/// The frames of one stream that wait to be sent.
#[derive(Debug, Default)]
pub struct Outlet {
    queue: Mutex<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    frames: VecDeque<Bytes>,
    /// Of all frames, with their overhead.
    bytes: u64,
    ended: bool,
    waker: Option<Waker>,
}

impl Outlet {
    /// Adds a frame unless more than `limit` bytes would wait then; answers whether it did. To one that has ended
    /// nothing is added, and that is fine.
    pub fn push(&self, frame: Bytes, limit: u64) -> bool {
        let mut queue = self.queue();
        if queue.ended {
            return true;
        }
        let bytes = (frame.len() as u64).saturating_add(FRAME_OVERHEAD_BYTES).saturating_add(queue.bytes);
        if bytes > limit {
            return false;
        }
        queue.bytes = bytes;
        queue.frames.push_back(frame);
        wake(queue);
        true
    }

    /// Takes nothing more. What waits is still sent.
    pub fn finish(&self) {
        let mut queue = self.queue();
        queue.ended = true;
        wake(queue);
    }

    /// Takes nothing more, and forgets what waits.
    pub fn discard(&self) {
        let mut queue = self.queue();
        queue.ended = true;
        queue.frames = VecDeque::new();
        queue.bytes = 0;
        wake(queue);
    }

    /// Bytes that wait.
    pub fn waiting_bytes(&self) -> u64 {
        self.queue().bytes
    }

    fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Option<Bytes>> {
        let mut queue = self.queue();
        match queue.frames.pop_front() {
            Some(frame) => {
                let taken = (frame.len() as u64).saturating_add(FRAME_OVERHEAD_BYTES);
                queue.bytes = queue.bytes.saturating_sub(taken);
                Poll::Ready(Some(frame))
            }
            None if queue.ended => Poll::Ready(None),
            None => {
                queue.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        // Nothing under the lock can panic half way.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Wakes the body after the lock is given back.
fn wake(mut queue: MutexGuard<'_, Queue>) {
    let waker = queue.waker.take();
    drop(queue);
    if let Some(waker) = waker {
        waker.wake();
    }
}

/// What is sent from time to time, so that neither side nor anybody between them takes the connection for
/// dead, and a client that has gone is noticed.
pub struct Heartbeat {
    /// How often.
    pub every: Duration,
    /// What.
    pub frame: fn() -> Bytes,
}

/// The body of a stream's answer. `P` is the stream's place among the open ones, which goes with it.
pub struct OutletBody<P> {
    outlet: Arc<Outlet>,
    heartbeat: Heartbeat,
    beat: Pin<Box<Sleep>>,
    _place: P,
}

impl<P> OutletBody<P> {
    /// The body of what goes into `outlet`.
    pub fn new(outlet: Arc<Outlet>, heartbeat: Heartbeat, place: P) -> Self {
        let beat = Box::pin(tokio::time::sleep(heartbeat.every));
        Self { outlet, heartbeat, beat, _place: place }
    }
}

impl<P: Unpin> MessageBody for OutletBody<P> {
    type Error = std::convert::Infallible;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        let this = self.get_mut();
        // The beat goes first, so that a busy stream does not starve it.
        if this.beat.as_mut().poll(cx).is_ready() {
            this.beat.as_mut().reset(Instant::now() + this.heartbeat.every);
            return Poll::Ready(Some(Ok((this.heartbeat.frame)())));
        }
        this.outlet.poll_frame(cx).map(|frame| frame.map(Ok))
    }
}

/// The body of an answer to HEAD: such an answer's stream would be polled to its end, and this has none.
pub struct NoBody;

impl MessageBody for NoBody {
    type Error = std::convert::Infallible;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Poll::Ready(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    const FRAME: Bytes = Bytes::from_static(b"0123456789");

    fn body(outlet: &Arc<Outlet>, every: Duration) -> OutletBody<()> {
        let frame = || Bytes::from_static(b"beat");
        OutletBody::new(Arc::clone(outlet), Heartbeat { every, frame }, ())
    }

    async fn next(body: &mut (impl MessageBody + Unpin)) -> Option<Bytes> {
        poll_fn(|cx| Pin::new(&mut *body).poll_next(cx)).await.and_then(Result::ok)
    }

    #[tokio::test]
    async fn frames_come_out_in_order_and_give_back_their_bytes() {
        let outlet = Arc::new(Outlet::default());
        let mut body = body(&outlet, Duration::from_secs(60));
        for letter in [b"a", b"b"] {
            assert!(outlet.push(Bytes::from_static(letter), 1000));
        }
        assert_eq!(outlet.waiting_bytes(), 2 * (1 + FRAME_OVERHEAD_BYTES));
        assert_eq!(next(&mut body).await.unwrap(), "a");
        outlet.finish();
        assert!(outlet.push(FRAME, 1000), "what has ended is not full");
        assert_eq!(next(&mut body).await.unwrap(), "b");
        assert_eq!(outlet.waiting_bytes(), 0);
        assert!(next(&mut body).await.is_none());
    }

    #[tokio::test]
    async fn an_outlet_takes_no_byte_more_than_its_limit() {
        let outlet = Arc::new(Outlet::default());
        let limit = 10 * (FRAME.len() as u64 + FRAME_OVERHEAD_BYTES);
        for _ in 0..10 {
            assert!(outlet.push(FRAME, limit));
        }
        assert!(!outlet.push(Bytes::new(), limit));
        assert_eq!(outlet.waiting_bytes(), limit);
        outlet.discard();
        assert_eq!(outlet.waiting_bytes(), 0);
        assert!(next(&mut body(&outlet, Duration::from_secs(60))).await.is_none());
    }

    #[tokio::test]
    async fn a_silent_stream_beats_and_a_frame_wakes_it() {
        let outlet = Arc::new(Outlet::default());
        let mut silent = body(&outlet, Duration::from_millis(5));
        for _ in 0..3 {
            assert_eq!(next(&mut silent).await.unwrap(), "beat");
        }
        let mut waiting = body(&outlet, Duration::from_secs(60));
        let (frame, ()) = tokio::join!(next(&mut waiting), async { assert!(outlet.push(FRAME, 1000)) });
        assert_eq!(frame.unwrap(), FRAME);
    }
}
