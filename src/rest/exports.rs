//! `GET|HEAD /vdis/<id>.vhd|.raw`: a disk's content as a seekable file that does not exist.

use std::cell::RefCell;
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, MessageBody};
use actix_web::http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderValue,
};
use actix_web::http::{Method, StatusCode};
use actix_web::{HttpMessage, HttpRequest, HttpResponse, HttpResponseBuilder, web};
use bytes::Bytes;
use futures_util::{Stream, StreamExt};
use gantry_actors::{JobFailure, Stage, StageClock, Stopped};
use tokio_util::sync::WaitForCancellationFutureOwned;

use crate::auth::Capability;
use crate::backends::local;
use crate::disk::retry::RetryingReader;
use crate::ids::{DiskFormat, VdiId};
use crate::image::produce::{ChunkStream, ProduceCounters, produce};
use crate::state::disks::VdiRow;
use crate::state::now_ms;
use crate::transfers::export::{ExportRequest, Reader};
use crate::transfers::representation::Representation;

use super::App;
use super::caller::Caller;
use super::connection::Connection;
use super::error::ApiError;
use super::flow::{self, Flow};
use super::preconditions::{self, Verdict};
use super::query::Query;
use super::ranges::{self, Selection};
use super::revocation::Cut;

/// For how long a replaced content makes bare ranges dangerous.
const RECENT_CHANGE_MS: i64 = 24 * 60 * 60 * 1000;

/// Answers a request for a disk's content.
///
/// # Errors
/// As the contract lists them; all before the first byte.
pub async fn serve(
    app: web::Data<App>,
    caller: Caller,
    request: HttpRequest,
    id: String,
    format: DiskFormat,
    snapshot: bool,
) -> Result<HttpResponse, ApiError> {
    let kind = if snapshot { "VDI-snapshot" } else { "VDI" };
    let no_such = || ApiError::NoSuchObject { kind, id: id.clone() };
    let vdi: VdiId = id.parse().map_err(|_| no_such())?;
    caller.require(Capability::Export, Some(&vdi.to_string()), "vdi")?;
    let query = Query::of(&request)?;
    query.flag("preferNbd")?;
    query.number("nbdConcurrency")?;

    let (row, _, pin) = app.store.pin_vdi(vdi).await?;
    if row.snapshot_of.is_some() != snapshot {
        return Err(no_such());
    }
    caller.require_sr(row.sr, &vdi.to_string())?;
    let mut pin = Arc::new(pin);
    let mut representation = represent(&app, &pin, format).await?;
    let headers = request.headers();
    // Bytes that were replaced can still be had by who names them, for as long as his transfer holds them.
    if let Some(tag) = named_tag(&request).filter(|tag| *tag != representation.etag)
        && let Some((held, its_format)) = app.exports.held(vdi, &tag)
        && its_format == format
    {
        pin = held;
        representation = represent(&app, &pin, format).await?;
    }
    let (etag, len) = (representation.etag.clone(), representation.len());
    let get = request.method() == Method::GET;
    let verdict = preconditions::evaluate(headers, &etag, get);
    match verdict {
        Verdict::Failed => return Err(ApiError::PreconditionFailed { etag }),
        Verdict::NotModified => {
            let mut response = HttpResponse::build(StatusCode::NOT_MODIFIED);
            common_headers(&mut response, &etag);
            return Ok(response.finish());
        }
        Verdict::Proceed | Verdict::ProceedWhole => {}
    }
    let range_header = headers.get("range").filter(|_| get && verdict == Verdict::Proceed);
    let selection = match range_header.map(HeaderValue::to_str) {
        Some(Ok(text)) => {
            if ranges::continues(text) && !preconditions::names_its_content(headers) && changed_lately(&row) {
                return Err(ApiError::ContentChanged { etag });
            }
            ranges::select(text, len)
        }
        _ => Selection::Whole,
    };
    let (status, range) = match selection {
        Selection::Whole => (StatusCode::OK, 0..len),
        Selection::Part(range) => (StatusCode::PARTIAL_CONTENT, range),
        Selection::Unsatisfiable => return Err(ApiError::RangeNotSatisfiable { len, etag }),
    };
    let mut response = HttpResponse::build(status);
    common_headers(&mut response, &etag);
    response.insert_header((CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")));
    response.insert_header((CONTENT_DISPOSITION, format!("attachment; filename={vdi}.{format}")));
    if status == StatusCode::PARTIAL_CONTENT {
        response.insert_header((
            CONTENT_RANGE,
            format!("bytes {}-{}/{len}", range.start, range.end.saturating_sub(1)),
        ));
    }
    if !get {
        return Ok(response.body(HeadBody(range.end - range.start)));
    }
    let content = representation.content.row.id;
    let is_part = status == StatusCode::PARTIAL_CONTENT;
    let (sr, user) = (representation.content.row.sr, caller.user());
    let range_wanted = range.clone();
    let wanted = ExportRequest { user, vdi, sr, content, format, etag, len, range: range_wanted, is_part };
    let reader = app.exports.join(&wanted, &pin).await?;
    response.insert_header(("Gantry-Task", reader.task().to_string()));
    let body = begin(&app, &request, representation, pin, reader, range).await?;
    Ok(response.body(body))
}

fn named_tag(request: &HttpRequest) -> Option<String> {
    let value = request.headers().get("if-match").or_else(|| request.headers().get("if-range"))?;
    value.to_str().ok().map(|tag| tag.trim().to_owned())
}

fn changed_lately(row: &VdiRow) -> bool {
    row.content_changed_ms.is_some_and(|changed| now_ms().saturating_sub(changed) < RECENT_CHANGE_MS)
}

async fn represent(app: &App, pin: &local::Pin, format: DiskFormat) -> Result<Representation, ApiError> {
    let content = app.store.open_content(pin).await?;
    // Counting the blocks of a large map takes a moment; an executor must not spend it.
    let made = content.io.clone().run(move || Representation::new(content, format)).await;
    made.map_err(local::LocalError::from)?.map_err(ApiError::Vhd)
}

fn common_headers(response: &mut HttpResponseBuilder, etag: &str) {
    response.insert_header((ETAG, etag));
    response.insert_header((ACCEPT_RANGES, HeaderValue::from_static("bytes")));
    response.insert_header((CACHE_CONTROL, HeaderValue::from_static("no-transform, private")));
}

/// Opens the stream and waits for its first chunk, so that a source that cannot be read is a status and not a
/// broken answer.
async fn begin(
    app: &App,
    request: &HttpRequest,
    representation: Representation,
    pin: Arc<local::Pin>,
    reader: Reader,
    range: Range<u64>,
) -> Result<TransferBody, ApiError> {
    let counters = Arc::new(ProduceCounters::default());
    let mut chunks = produce(
        Arc::clone(&representation.layout),
        Arc::new(RetryingReader::new(Arc::clone(&representation.content.reader), reader.stop().clone())),
        range.clone(),
        Arc::clone(&representation.content.io),
        app.budget.register(),
        Arc::clone(&counters),
    );
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
            return Err(ApiError::Source(error));
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
        end: range.end,
        given: None,
        stop: Box::pin(reader.stop().clone().cancelled_owned()),
        reader,
        flow,
        _pin: pin,
        _representation: representation,
    })
}

/// The headers of a body, without the body: for HEAD.
struct HeadBody(u64);

impl MessageBody for HeadBody {
    type Error = std::convert::Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.0)
    }

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Poll::Ready(None)
    }
}

/// A part of a representation on its way to a client.
struct TransferBody {
    /// The rest of the last chunk that was made.
    ready: Bytes,
    /// Shared with the watch over the connection, on the same executor.
    chunks: Rc<RefCell<ChunkStream>>,
    /// Waits until so many bytes may move.
    passing: Option<(usize, Passing)>,
    clock: StageClock,
    counters: Arc<ProduceCounters>,
    /// What of the counters is in the transfer's progress: bytes read, bytes of zeros.
    counted: (u64, u64),
    at: u64,
    end: u64,
    /// What the connection was given last. It counts as sent when the connection asks for more.
    given: Option<Range<u64>>,
    stop: Pin<Box<WaitForCancellationFutureOwned>>,
    reader: Reader,
    flow: Arc<Flow>,
    _pin: Arc<local::Pin>,
    _representation: Representation,
}

type Passing = Pin<Box<dyn Future<Output = Result<(), Stopped>>>>;

/// Why an answer was broken off.
#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("the transfer was aborted")]
    Aborted,
    #[error("the source could not be read: {0}")]
    Source(#[from] crate::image::produce::ProduceError),
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
        self.counted = (read, zero);
    }
}

impl MessageBody for TransferBody {
    type Error = Broken;

    fn size(&self) -> BodySize {
        let given = self.given.as_ref().map_or(0, |given| given.end - given.start);
        BodySize::Sized((self.end - self.at).saturating_add(given))
    }

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Broken>>> {
        let this = self.get_mut();
        if let Some(given) = this.given.take() {
            this.reader.sent(given);
        }
        if this.at >= this.end {
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
                Poll::Ready(None) => return this.broken(Broken::Short { missing: this.end - this.at }),
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
        if next > this.end {
            return this.broken(Broken::Short { missing: 0 });
        }
        this.given = Some(this.at..next);
        this.at = next;
        this.flow.gave(len);
        Poll::Ready(Some(Ok(chunk)))
    }
}
