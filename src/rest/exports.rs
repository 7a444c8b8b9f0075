//! `GET|HEAD /vdis/<id>.vhd|.raw` and `/vms/<id>.xva`: exports, as seekable files that do not exist.

use std::cell::RefCell;
use std::ops::Range;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

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
use crate::formats::frames::{Codec, Compression};
use crate::formats::xva::{ChecksumKind, write_document};
use crate::ids::{DiskFormat, SrId, VdiId, VmId};
use crate::image::produce::ProduceCounters;
use crate::inventory::Collection;
use crate::state::now_ms;
use crate::transfers::export::{ExportRequest, Reader};
use crate::transfers::frames::Recorded;
use crate::transfers::ova;
use crate::transfers::recipe::{ExportObject, Form, Recipe, Shape};
use crate::transfers::representation::Representation;
use crate::transfers::stream::{ExportStream, SourceError};

use super::App;
use super::caller::Caller;
use super::connection::Connection;
use super::error::ApiError;
use super::flow::{self, Flow};
use super::preconditions::{self, Verdict};
use super::query::Query;
use super::ranges::{self, Selection};
use super::revocation::Cut;

/// When to ask again for a compressed export whose length is only beginning to be found out.
const FIRST_SIZING: Duration = Duration::from_secs(2);
/// For how long a replaced content makes bare ranges dangerous.
const RECENT_CHANGE_MS: i64 = 24 * 60 * 60 * 1000;

/// Answers a request for a disk's content.
///
/// # Errors
/// As the contract lists them; all before the first byte.
pub async fn serve_disk(
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
    let shape = Shape { form: Form::Disk(format), compression: compression(&query)? };
    let (row, _, pin) = app.store.pin_vdi(vdi).await?;
    if row.snapshot_of.is_some() != snapshot {
        return Err(no_such());
    }
    caller.require_sr(row.sr, &vdi.to_string())?;
    let recipe = Recipe { object: ExportObject::Vdi(vdi), shape, pins: vec![pin], document: None };
    let changed = row.content_changed_ms.is_some_and(changed_lately);
    serve(app, caller, request, Wanted { recipe, srs: vec![row.sr], changed }).await
}

/// Answers a request for a VM as an XVA.
///
/// # Errors
/// As the contract lists them; all before the first byte.
pub async fn serve_vm(
    app: web::Data<App>,
    caller: Caller,
    request: HttpRequest,
    id: String,
    collection: Collection,
) -> Result<HttpResponse, ApiError> {
    let no_such = || ApiError::NoSuchObject { kind: collection.kind(), id: id.clone() };
    let vm: VmId = id.parse().map_err(|_| no_such())?;
    caller.require(Capability::Export, Some(&vm.to_string()), "vm")?;
    let query = Query::of(&request)?;
    let checksum = match query.text("checksum")? {
        None | Some("xxhash") => ChecksumKind::Xxh64,
        Some("sha1") => ChecksumKind::Sha1,
        Some(other) => {
            let message = "invalid checksum: xxhash or sha1 is needed";
            return Err(ApiError::invalid("checksum", message, Some(other.into())));
        }
    };
    let shape = Shape { form: Form::Xva(checksum), compression: compression(&query)? };
    let pinned = app.store.pin_vm(vm).await?;
    if pinned.vm.kind.as_str() != collection.kind() {
        return Err(no_such());
    }
    let srs = pinned.srs();
    srs.iter().try_for_each(|sr| caller.require_sr(*sr, &vm.to_string()))?;
    let changed = pinned.last_changed_ms().is_some_and(changed_lately);
    let (document, pins) = ova::document(pinned);
    let xml = write_document(&document);
    let recipe = Recipe { object: ExportObject::Vm(vm), shape, pins, document: Some(xml.into()) };
    serve(app, caller, request, Wanted { recipe, srs, changed }).await
}

/// How an export is to be compressed.
fn compression(query: &Query) -> Result<Option<Compression>, ApiError> {
    let codec = match query.text("compress")? {
        None | Some("none" | "false") => None,
        Some("zstd") => Some(Codec::Zstd),
        Some("gzip" | "true") => Some(Codec::Gzip),
        Some(other) => {
            let message = "invalid compression: none, zstd or gzip is needed";
            return Err(ApiError::invalid("compress", message, Some(other.into())));
        }
    };
    let level = query.number("level")?;
    let Some(codec) = codec else { return Ok(None) };
    let compression = match level {
        None => Ok(Compression::default_of(codec)),
        Some(level) => Compression::new(codec, i32::try_from(level).unwrap_or(i32::MAX)),
    };
    compression
        .map(Some)
        .map_err(|error| ApiError::invalid("level", error.to_string(), level.map(|level| level.into())))
}

/// What a request is about, as it is at the moment.
struct Wanted {
    recipe: Recipe,
    srs: Vec<SrId>,
    /// Its bytes were others a while ago.
    changed: bool,
}

/// Weighs the conditions and ranges of a request for an export, and answers it.
async fn serve(
    app: web::Data<App>,
    caller: Caller,
    request: HttpRequest,
    wanted: Wanted,
) -> Result<HttpResponse, ApiError> {
    let Wanted { recipe, srs, changed } = wanted;
    let mut recipe = Arc::new(recipe);
    let mut export = recipe.represent(&app.store).await?;
    // Bytes that were replaced can still be had by who names them, for as long as his transfer holds them.
    if let Some(tag) = named_tag(&request).filter(|tag| *tag != export.etag)
        && let Some(held) = app.exports.held(recipe.object, &tag)
        && held.shape == recipe.shape
    {
        recipe = held;
        export = recipe.represent(&app.store).await?;
    }
    let recorded = app.exports.frames().of(&export).await?;
    if recorded.as_ref().is_some_and(|recorded| recorded.has_changed()) {
        return Err(ApiError::EncoderChanged);
    }
    let etag = export.etag.clone();
    let len = export.len().or_else(|| recorded.as_ref()?.len());
    let headers = request.headers();
    let get = request.method() == Method::GET;
    let verdict = preconditions::evaluate(headers, &etag, get);
    match verdict {
        Verdict::Failed => return Err(ApiError::PreconditionFailed { etag }),
        Verdict::NotModified => {
            let mut response = HttpResponse::build(StatusCode::NOT_MODIFIED);
            common_headers(&mut response, &etag, len);
            return Ok(response.finish());
        }
        Verdict::Proceed | Verdict::ProceedWhole => {}
    }
    let range_header = headers.get("range").filter(|_| get && verdict == Verdict::Proceed);
    let range_header = range_header.and_then(|header| header.to_str().ok());
    let continues = range_header.is_some_and(ranges::continues);
    if continues && !preconditions::names_its_content(headers) {
        let other = changed || app.exports.has_older(caller.user(), &recipe, &etag);
        if other {
            return Err(ApiError::ContentChanged { etag });
        }
    }
    let selection = match (range_header, len) {
        (Some(text), Some(len)) => ranges::select(text, len),
        _ => Selection::Whole,
    };
    let (status, range) = match (selection, len) {
        (Selection::Whole, len) => (StatusCode::OK, 0..len.unwrap_or(u64::MAX)),
        (Selection::Part(range), _) => (StatusCode::PARTIAL_CONTENT, range),
        (Selection::Unsatisfiable, len) => {
            return Err(ApiError::RangeNotSatisfiable { len: len.unwrap_or(0), etag });
        }
    };
    let mut response = HttpResponse::build(status);
    common_headers(&mut response, &etag, len);
    response.insert_header((CONTENT_TYPE, HeaderValue::from_static(media_type(recipe.shape))));
    let name = format!("{}.{}", recipe.object, recipe.shape.extension());
    response.insert_header((CONTENT_DISPOSITION, format!("attachment; filename={name}")));
    if let (StatusCode::PARTIAL_CONTENT, Some(len)) = (status, len) {
        response.insert_header((
            CONTENT_RANGE,
            format!("bytes {}-{}/{len}", range.start, range.end.saturating_sub(1)),
        ));
    }
    if !get {
        return Ok(response.body(HeadBody(len.map(|_| range.end - range.start))));
    }
    let waits_for_frames = continues && len.is_none();
    let asked = ExportRequest {
        user: caller.user(),
        srs,
        recipe: Arc::clone(&recipe),
        etag,
        plain_etag: export.plain_etag.clone(),
        len: export.len(),
        recorded: recorded.clone(),
        range: range.clone(),
        is_part: status == StatusCode::PARTIAL_CONTENT || waits_for_frames,
    };
    if waits_for_frames {
        let (task, left) = app.exports.find_length(&asked).await?;
        let retry_after = left.unwrap_or(FIRST_SIZING);
        return Err(ApiError::NotFinalYet { task: task.to_string(), retry_after });
    }
    let reader = app.exports.join(&asked).await?;
    response.insert_header(("Gantry-Task", reader.task().to_string()));
    let source = Source { _recipe: recipe, export, recorded };
    let body = begin(&app, &request, source, reader, range, len.is_some()).await?;
    Ok(response.body(body))
}

fn named_tag(request: &HttpRequest) -> Option<String> {
    let value = request.headers().get("if-match").or_else(|| request.headers().get("if-range"))?;
    value.to_str().ok().map(|tag| tag.trim().to_owned())
}

fn changed_lately(changed_ms: i64) -> bool {
    now_ms().saturating_sub(changed_ms) < RECENT_CHANGE_MS
}

/// An XVA stays one however it is compressed: its readers look at its first bytes.
fn media_type(shape: Shape) -> &'static str {
    match (shape.form, shape.compression.map(|compression| compression.codec())) {
        (Form::Disk(_), Some(Codec::Zstd)) => "application/zstd",
        (Form::Disk(_), Some(Codec::Gzip)) => "application/gzip",
        _ => "application/octet-stream",
    }
}

fn common_headers(response: &mut HttpResponseBuilder, etag: &str, len: Option<u64>) {
    response.insert_header((ETAG, etag));
    let ranges = if len.is_some() { "bytes" } else { "none" };
    response.insert_header((ACCEPT_RANGES, HeaderValue::from_static(ranges)));
    response.insert_header((CACHE_CONTROL, HeaderValue::from_static("no-transform, private")));
}

/// What an answer's bytes come from.
struct Source {
    /// Holds the contents.
    _recipe: Arc<Recipe>,
    export: Representation,
    recorded: Option<Arc<Recorded>>,
}

/// Opens the stream and waits for its first chunk, so that a source that cannot be read is a status and not a
/// broken answer.
async fn begin(
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
        _source: source,
    })
}

/// The headers of a body, without the body: for HEAD.
struct HeadBody(Option<u64>);

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
struct TransferBody {
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
    _source: Source,
}

type Passing = Pin<Box<dyn Future<Output = Result<(), Stopped>>>>;

/// Why an answer was broken off.
#[derive(Debug, thiserror::Error)]
enum Broken {
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
