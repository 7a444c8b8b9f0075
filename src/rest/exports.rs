//! `GET|HEAD /vdis/<id>.vhd|.raw` and `/vms/<id>.xva`: exports, as seekable files that do not exist.

mod body;

use std::sync::Arc;
use std::time::Duration;

use actix_web::http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_RANGE, CONTENT_TYPE, ETAG, HeaderValue,
};
use actix_web::http::{Method, StatusCode};
use actix_web::{HttpRequest, HttpResponse, HttpResponseBuilder, web};

use gantry_actors::JobFailure;

use crate::auth::Capability;
use crate::formats::frames::{Codec, Compression};
use crate::formats::xva::{ChecksumKind, write_document};
use crate::ids::{DiskFormat, SrId, VdiId, VmId};
use crate::inventory::Collection;
use crate::state::now_ms;
use crate::transfers::export::ExportRequest;
use crate::transfers::ova;
use crate::transfers::recipe::{ExportObject, Form, Recipe, Shape};

use super::App;
use super::audit;
use super::caller::Caller;
use super::error::ApiError;
use super::preconditions::{self, Verdict};
use super::query::Query;
use super::ranges::{self, Selection};
use body::{HeadBody, Source};

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
    if let Err(error) = audit::export_begun(&app, &caller, recipe.object, reader.task()).await {
        reader.failed(JobFailure::new("ExportError", error.code(), error.to_string()));
        return Err(error);
    }
    response.insert_header(("Gantry-Task", reader.task().to_string()));
    let source = Source { recipe, export, recorded };
    let body = body::begin(&app, &request, source, reader, range, len.is_some()).await?;
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
