//! The bodies of exports' answers.

use std::cell::RefCell;
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, MessageBody};
use actix_web::{HttpMessage, HttpRequest};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use gantry_actors::{JobFailure, Stage, StageClock, Stopped};
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::image::produce::ProduceCounters;
use crate::transfers::export::Reader;
use crate::transfers::frames::Recorded;
use crate::transfers::recipe::Recipe;
use crate::transfers::representation::Representation;
use crate::transfers::stream::{ExportStream, SourceError};

use super::super::App;
use super::super::connection::Connection;
use super::super::error::ApiError;
use super::super::flow::{self, Flow};
use super::super::revocation::Cut;

/// What an answer's bytes come from.
pub(super) struct Source {
    /// Holds the contents.
    pub(super) recipe: Arc<Recipe>,
    pub(super) export: Representation,
    pub(super) recorded: Option<Arc<Recorded>>,
}

/// Opens the stream and waits for its first chunk, so that a source that cannot be read is a status and not a
/// broken answer.
pub(super) async fn begin(
    app: &App,
    request: &HttpRequest,
    source: Source,
    reader: Reader,
    range: Range<u64>,
    is_sized: bool,
) -> Result<TransferBody, ApiError> {
    let counters = Arc::new(ProduceCounters::default());
    let means = app.exports.means(reader.stop().clone(), Arc::clone(&counters));
    let mut chunks = ExportStream::open(&source.export, source.recorded.as_ref(), range.clone(), means);
    let clock = reader.progress().stage_clock(Stage::Source);
    let first = tokio::select! {
        first = chunks.next() => first,
        // Storage that hangs does not hold up an abort.
        () = reader.stop().cancelled() => return Err(ApiError::Aborted),
    };
    let first = match first {
        Some(Ok(chunk)) => chunk,
        Some(Err(error)) => {
            reader.failed(JobFailure::new("ExportError", error.code(), error.to_string()));
            return Err(match error {
                SourceError::Produce(error) => ApiError::Source(error),
                SourceError::Frame(_) => ApiError::EncoderChanged,
            });
        }
        None => Bytes::new(),
    };
    let flow = Arc::new(Flow::default());
    let connection = request.conn_data::<Arc<Connection>>().map(Arc::downgrade);
    let silence = app.config.transfers.download_idle().get();
    let chunks = Rc::new(RefCell::new(chunks));
    let given_back = Rc::downgrade(&chunks);
    let task = reader.task();
    let (stop, pace) = (reader.stop().clone(), reader.pace().clone());
    let revoked = request.extensions().get::<Cut>().cloned().unwrap_or_default();
    flow::begin_watch(&flow, connection, silence, stop, revoked, pace, move || {
        let given_back = given_back.upgrade().map_or(0, |chunks| chunks.borrow_mut().give_back());
        if given_back > 0 {
            tracing::debug!(%task, chunks = given_back, "a reader takes nothing: gave back what was read ahead for it");
        }
    });
    Ok(TransferBody {
        ready: first,
        chunks,
        passing: None,
        clock,
        counters,
        counted: (0, 0),
        at: range.start,
        end: is_sized.then_some(range.end),
        given: None,
        stop: Box::pin(reader.stop().clone().cancelled_owned()),
        reader,
        flow,
        recorded: source.recorded.filter(|_| !is_sized),
        _held: source.recipe,
        _open: source.export,
    })
}

/// The headers of a body, without the body: for HEAD.
pub(super) struct HeadBody(pub(super) Option<u64>);

impl MessageBody for HeadBody {
    type Error = std::convert::Infallible;

    fn size(&self) -> BodySize {
        self.0.map_or(BodySize::Stream, BodySize::Sized)
    }

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Poll::Ready(None)
    }
}

/// A part of a representation on its way to a client.
pub(super) struct TransferBody {
    /// The rest of the last chunk that was made.
    ready: Bytes,
    /// Shared with the watch over the connection, on the same executor.
    chunks: Rc<RefCell<ExportStream>>,
    /// Waits until so many bytes may move.
    passing: Option<(usize, Passing)>,
    clock: StageClock,
    counters: Arc<ProduceCounters>,
    /// What of the counters is in the transfer's progress: bytes read, bytes of zeros.
    counted: (u64, u64),
    at: u64,
    /// Where it ends, unless that is only known when it has.
    end: Option<u64>,
    /// What the connection was given last. It counts as sent when the connection asks for more.
    given: Option<Range<u64>>,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
    reader: Reader,
    flow: Arc<Flow>,
    recorded: Option<Arc<Recorded>>,
    _held: Arc<Recipe>,
    _open: Representation,
}

type Passing = Pin<Box<dyn Future<Output = Result<(), Stopped>>>>;

/// Why an answer was broken off.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("the transfer was aborted")]
    Aborted,
    #[error("the source could not be read: {0}")]
    Source(#[from] SourceError),
    #[error("the source ended {missing} bytes early")]
    Short { missing: u64 },
}

impl TransferBody {
    fn broken(&self, error: Broken) -> Poll<Option<Result<Bytes, Broken>>> {
        if !matches!(error, Broken::Aborted) {
            tracing::error!(task = %self.reader.task(), %error, "an export was broken off");
            let code = match &error {
                Broken::Source(error) => error.code(),
                Broken::Aborted | Broken::Short { .. } => "storage_error",
            };
            self.reader.failed(JobFailure::new("ExportError", code, error.to_string()));
        }
        Poll::Ready(Some(Err(error)))
    }

    /// Asks the transfer's pace how many of the bytes that are ready may move now.
    fn poll_pace(&mut self, cx: &mut Context<'_>) -> Poll<Result<usize, Stopped>> {
        let pace = self.reader.pace();
        if self.passing.is_none() {
            let quantum = pace.quantum().and_then(|quantum| usize::try_from(quantum).ok());
            let len = quantum.unwrap_or(usize::MAX).min(self.ready.len());
            if quantum.is_none() && pace.is_open() {
                return Poll::Ready(Ok(len));
            }
            if !pace.is_open() {
                // It may be long.
                self.chunks.borrow_mut().give_back();
            }
            let pace = pace.clone();
            self.passing = Some((len, Box::pin(async move { pace.take(len as u64).await })));
        }
        let Some((len, passing)) = &mut self.passing else { return Poll::Pending };
        let len = *len;
        passing.as_mut().poll(cx).map(|passed| {
            self.passing = None;
            passed.map(|()| len)
        })
    }

    fn count(&mut self) {
        let (read, zero) = (self.counters.disk_bytes(), self.counters.zero_bytes());
        let progress = self.reader.progress();
        progress.add_read(read.saturating_sub(self.counted.0));
        progress.add_zero(zero.saturating_sub(self.counted.1));
        if let Some(expected) = self.recorded.as_ref().and_then(|recorded| recorded.expected_len()) {
            progress.expect_total(expected);
        }
        self.counted = (read, zero);
    }
}

impl MessageBody for TransferBody {
    type Error = Broken;

    fn size(&self) -> BodySize {
        let given = self.given.as_ref().map_or(0, |given| given.end - given.start);
        self.end.map_or(BodySize::Stream, |end| BodySize::Sized((end - self.at).saturating_add(given)))
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        let this = self.get_mut();
        if let Some(given) = this.given.take() {
            this.reader.sent(given);
        }
        if this.end.is_some_and(|end| this.at >= end) {
            return Poll::Ready(None);
        }
        if std::future::Future::poll(this.stop.as_mut(), cx).is_ready() {
            return this.broken(Broken::Aborted);
        }
        if this.ready.is_empty() {
            let made = Pin::new(&mut *this.chunks.borrow_mut()).poll_next(cx);
            match made {
                Poll::Ready(Some(Ok(chunk))) => this.ready = chunk,
                Poll::Ready(Some(Err(error))) => return this.broken(error.into()),
                Poll::Ready(None) => match this.end {
                    Some(end) => return this.broken(Broken::Short { missing: end - this.at }),
                    None => {
                        this.reader.ended_at(this.at);
                        return Poll::Ready(None);
                    }
                },
                Poll::Pending => {
                    this.clock.enter(Stage::Source);
                    this.flow.waits_for_source();
                    return Poll::Pending;
                }
            }
            this.count();
        }
        let chunk = match this.poll_pace(cx) {
            Poll::Ready(Ok(len)) => this.ready.split_to(len),
            Poll::Ready(Err(Stopped)) => return this.broken(Broken::Aborted),
            Poll::Pending => {
                this.clock.enter(Stage::Limit);
                this.flow.waits_for_source();
                return Poll::Pending;
            }
        };
        this.clock.enter(Stage::Sink);
        let len = chunk.len() as u64;
        let next = this.at.saturating_add(len);
        if this.end.is_some_and(|end| next > end) {
            return this.broken(Broken::Short { missing: 0 });
        }
        this.given = Some(this.at..next);
        this.at = next;
        this.flow.gave(len);
        Poll::Ready(Some(Ok(chunk)))
    }
}
