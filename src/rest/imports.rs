//! `POST /srs/<id>/vdis` and `PUT /vdis/<id>.vhd|.raw`: uploads of whole disks; `POST /pools/<id>/vms`: of whole VMs.
//!
//! What can be refused is refused before the body is asked for: [`plan`] is called by the hook for
//! `Expect: 100-continue`, and by the handler when there was no such hook to call.

use actix_web::http::header::{CONTENT_LENGTH, HeaderMap, LOCATION};
use actix_web::http::{Method, StatusCode};
use actix_web::{HttpRequest, HttpResponse, web};
use futures_util::StreamExt;
use serde_json::json;

use super::JSON;
use crate::auth::Capability;
use crate::backends::local::LocalError;
use crate::formats::vhd::MAX_VIRTUAL_SIZE;
use crate::ids::{DiskFormat, PoolId, SrId, VdiId, VmId};
use crate::inventory::Collection;
use crate::state::vms::VmKind;
use crate::transfers::digest;
use crate::transfers::import::{
    self, ImportError, ImportFormat, ImportPlan, ImportTarget, Imported, RunningImport,
};

use super::App;
use super::caller::Caller;
use super::error::ApiError;
use super::idempotency::Made;
use super::query::Query;

/// The bytes of a VHD besides those of its disk: footer, header, the largest table, map, bitmaps.
const VHD_OVERHEAD_DIVISOR: u64 = 1024;

/// The head of a request, as far as the admission of an upload needs it.
#[derive(Debug, Clone, Copy)]
pub struct Head<'a> {
    /// The query, percent-encoded.
    pub query: &'a str,
    /// The headers.
    pub headers: &'a HeaderMap,
}

/// Where an upload may go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum UploadAddress {
    /// `POST /srs/<id>/vdis`
    NewVdi(String),
    /// `POST /pools/<id>/vms`
    NewVm(String),
    /// `PUT /vdis/<id>.<extension>`
    Content {
        /// The VDI, as it was written.
        id: String,
        /// The extension, as it was written.
        extension: String,
    },
}

impl UploadAddress {
    /// The upload that a method and a path stand for, if they stand for one.
    pub fn of(method: &Method, path: &str) -> Option<Self> {
        let segments: Vec<&str> = path.trim_end_matches('/').strip_prefix("/rest/v0/")?.split('/').collect();
        match (method.as_str(), segments.as_slice()) {
            ("POST", ["srs", id, "vdis"]) => Some(Self::NewVdi((*id).to_owned())),
            ("POST", ["pools", id, "vms"]) => Some(Self::NewVm((*id).to_owned())),
            ("PUT", ["vdis", file]) => {
                let (id, extension) = file.rsplit_once('.')?;
                Some(Self::Content { id: id.into(), extension: extension.into() })
            }
            _ => None,
        }
    }
}

/// Checks rights, target, parameters and space of an upload; asks for no byte of it.
///
/// # Errors
/// As the contract lists them.
pub async fn plan(
    app: &App,
    caller: &Caller,
    address: &UploadAddress,
    head: Head<'_>,
) -> Result<ImportPlan, ApiError> {
    let query = Query::parse(head.query)?;
    let length = announced_length(head.headers)?;
    if head.headers.contains_key("content-range") {
        return Err(ApiError::BadRequest {
            code: "content_range",
            message: "an upload here replaces the whole disk: parts of it (Content-Range) are not taken"
                .into(),
        });
    }
    if let Some(coding) = head.headers.get("content-encoding").filter(|coding| *coding != "identity") {
        return Err(ApiError::Unprocessable {
            code: "content_encoding",
            message: format!("the body must be the image itself, not a {coding:?} coding of it"),
        });
    }
    let digests = declared_digests(head.headers)?;
    let (target, sr) = match address {
        UploadAddress::NewVdi(id) => {
            let no_such = || ApiError::NoSuchObject { kind: "SR", id: id.clone() };
            let sr: SrId = id.parse().map_err(|_| no_such())?;
            caller.require(Capability::Import, Some(id), "vdi")?;
            caller.require_sr(sr, id)?;
            let name_label = match query.text("name_label")? {
                Some(name) => name.to_owned(),
                None => format!("[XO] Imported disk - {}", jiff::Timestamp::now()),
            };
            let name_description = query.text("name_description")?.unwrap_or_default().to_owned();
            let format = if query.flag("raw")? {
                ImportFormat::Raw { size: query.number("size")? }
            } else {
                ImportFormat::Vhd
            };
            let sr_handle = app.store.writable_sr(sr)?;
            check_format(format, length, sr_handle.content_format)?;
            let vdi = VdiId::random();
            (ImportTarget::NewVdi { vdi, sr, name_label, name_description, format }, sr_handle)
        }
        UploadAddress::NewVm(id) => {
            let no_such = || ApiError::NoSuchObject { kind: "pool", id: id.clone() };
            let pool: PoolId = id.parse().map_err(|_| no_such())?;
            caller.require(Capability::Import, Some(id), "vm")?;
            let site = app.store.site();
            if pool != site.pool {
                return Err(no_such());
            }
            let sr = match query.text("sr")? {
                None => site.default_sr,
                Some(sr) => {
                    sr.parse().map_err(|_| ApiError::NoSuchObject { kind: "SR", id: sr.to_owned() })?
                }
            };
            caller.require_sr(sr, &sr.to_string())?;
            let restore = query.flag("restore")?;
            let sr_handle = app.store.writable_sr(sr)?;
            (ImportTarget::NewVm { vm: VmId::random(), pool, sr, restore }, sr_handle)
        }
        UploadAddress::Content { id, extension } => {
            let no_such = || ApiError::NoSuchObject { kind: "VDI", id: id.clone() };
            let vdi: VdiId = id.parse().map_err(|_| no_such())?;
            let format = extension.parse().map_err(|_| unknown_format(extension))?;
            caller.require(Capability::Import, Some(id), "vdi")?;
            caller.require(Capability::Change, Some(id), "vdi")?;
            let (row, _, pin) = app.store.pin_vdi(vdi).await?;
            if row.snapshot_of.is_some() {
                return Err(no_such());
            }
            caller.require_sr(row.sr, id)?;
            let sr_handle = app.store.writable_sr(row.sr)?;
            app.store.require_replaceable(vdi).await?;
            app.store.open_content(&pin).await?;
            let format = match format {
                DiskFormat::Raw => ImportFormat::Raw { size: query.number("size")? },
                DiskFormat::Vhd => ImportFormat::Vhd,
            };
            if let (ImportFormat::Raw { size }, Some(announced)) = (format, length) {
                let found = size.unwrap_or(announced);
                if found != row.virtual_size {
                    return Err(ImportError::WrongSize { expected: row.virtual_size, found }.into());
                }
            }
            check_format(format, length, sr_handle.content_format)?;
            (ImportTarget::Content { vdi, sr: row.sr, size: row.virtual_size, format }, sr_handle)
        }
    };
    let sparse = query.flag("sparse")?;
    let needed = length.filter(|_| !sparse).unwrap_or(0);
    let (store, io) = (app.store.clone(), sr.io.clone());
    let room = io.run(move || store.require_space(&sr, needed)).await.map_err(LocalError::from)?;
    room.map_err(|error| match error {
        LocalError::NoSpace(shortage) if needed > 0 => ApiError::NoRoomForUpload(shortage),
        error => error.into(),
    })?;
    Ok(ImportPlan { target, length, sparse, digests, idempotency_key: caller.idempotency_key() })
}

/// Sizes that are known to be wrong before a byte has come.
fn check_format(format: ImportFormat, length: Option<u64>, stored: DiskFormat) -> Result<(), ApiError> {
    // What a decoder refuses without having seen a byte is what the announced numbers do not allow.
    format.decoder(length).next_event()?;
    match format {
        ImportFormat::Raw { size } => {
            let virtual_size = size.or(length).unwrap_or(0);
            check_stored_size(virtual_size, stored)?;
        }
        ImportFormat::Vhd => {
            // No VHD of a disk that may exist is longer than this, whatever its tables.
            let longest = MAX_VIRTUAL_SIZE + MAX_VIRTUAL_SIZE / VHD_OVERHEAD_DIVISOR + (64 << 20);
            if let Some(length) = length.filter(|length| *length > longest) {
                return Err(ApiError::Unprocessable {
                    code: "vhd_too_large",
                    message: format!(
                        "a VHD ends at {MAX_VIRTUAL_SIZE} bytes (2040 GiB), {length} bytes are announced: send larger \
                         disks raw (?raw)"
                    ),
                });
            }
        }
    }
    Ok(())
}

/// Refuses a disk that an SR cannot hold in the form in which it stores disks.
///
/// # Errors
/// 422 `vhd_too_large`.
pub fn check_stored_size(virtual_size: u64, stored: DiskFormat) -> Result<(), ApiError> {
    if stored == DiskFormat::Raw || virtual_size <= MAX_VIRTUAL_SIZE {
        return Ok(());
    }
    Err(ApiError::Unprocessable {
        code: "vhd_too_large",
        message: format!(
            "this SR stores disks as VHD, which ends at {MAX_VIRTUAL_SIZE} bytes (2040 GiB); the disk has \
             {virtual_size}: use an SR that stores disks as .raw"
        ),
    })
}

/// The refusal of a format that is not known.
pub fn unknown_format(extension: &str) -> ApiError {
    ApiError::invalid("format", "invalid format: vhd or raw is needed", Some(extension.into()))
}

fn announced_length(headers: &HeaderMap) -> Result<Option<u64>, ApiError> {
    let Some(value) = headers.get(CONTENT_LENGTH) else { return Ok(None) };
    let length = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    length.map(Some).ok_or_else(|| ApiError::BadRequest {
        code: "content_length",
        message: "Content-Length is not a number of bytes".into(),
    })
}

fn declared_digests(headers: &HeaderMap) -> Result<Vec<digest::Declared>, ApiError> {
    let mut list = Vec::new();
    for name in ["content-digest", "repr-digest"] {
        for value in headers.get_all(name) {
            let text = value.to_str().unwrap_or("?");
            list.extend(digest::declared(text).map_err(|error| ApiError::BadRequest {
                code: "bad_digest",
                message: format!("{name}: {error}"),
            })?);
        }
    }
    Ok(list)
}

/// Takes an upload in.
///
/// # Errors
/// As the contract lists them; nothing is left of the upload then.
pub async fn receive(
    app: web::Data<App>,
    caller: Caller,
    request: HttpRequest,
    mut payload: web::Payload,
    address: UploadAddress,
) -> Result<HttpResponse, ApiError> {
    let plan = match caller.take_plan() {
        Some(plan) => plan,
        None => {
            let head = Head { query: request.query_string(), headers: request.headers() };
            plan(&app, &caller, &address, head).await?
        }
    };
    let new = match plan.target {
        ImportTarget::NewVdi { vdi, .. } => Some(Made::Vdi(vdi)),
        // One that is restored brings its id.
        ImportTarget::NewVm { vm, restore: false, .. } => Some(Made::Vm(vm)),
        ImportTarget::NewVm { .. } | ImportTarget::Content { .. } => None,
    };
    let replaces = matches!(plan.target, ImportTarget::Content { .. });
    let owner = Some(caller.user().to_string());
    let queued = import::begin(&app.engine, &app.store, &app.windows, plan, owner).await?;
    let task = queued.task();
    match new {
        Some(made) => caller.makes(made, Some(task), || created(made, &request, task)).await?,
        None => caller.began(task).await?,
    }
    let patience = app.config.transfers.queue_wait.get();
    let running = queued.turn(&app.engine, &app.budget, patience).await?;
    if let Some(refused) = feed(&app, &running, &mut payload).await {
        drop(running);
        return Ok(with_task(actix_web::ResponseError::error_response(&refused), task));
    }
    match running.outcome().await {
        Ok(Imported::Disk(_)) if replaces => Ok(with_task(HttpResponse::NoContent().finish(), task)),
        Ok(Imported::Disk(vdi)) => Ok(created(Made::Vdi(vdi), &request, task)),
        Ok(Imported::Vm(vm, kind)) => {
            let mut response = created(Made::Vm(vm), &request, task);
            let collection = match kind {
                VmKind::Vm => Collection::Vms,
                VmKind::Snapshot => Collection::VmSnapshots,
                VmKind::Template => Collection::VmTemplates,
            };
            if let Ok(location) = format!("/rest/v0/{}/{vm}", collection.name()).parse() {
                response.headers_mut().insert(LOCATION, location);
            }
            Ok(response)
        }
        Err(error) => {
            let refused = ApiError::from(error);
            Ok(with_task(actix_web::ResponseError::error_response(&refused), task))
        }
    }
}

/// The answer to an upload that has become a new object.
fn created(made: Made, request: &HttpRequest, task: gantry_actors::JobId) -> HttpResponse {
    let id = made.id();
    let mut response = HttpResponse::build(StatusCode::CREATED);
    response.insert_header((LOCATION, format!("/rest/v0/{made}")));
    let text = request.headers().get("accept").is_some_and(|accept| accept == "text/plain");
    let response = if text {
        response.content_type("text/plain").body(id)
    } else {
        response.content_type(JSON).json(json!({ "id": id }))
    };
    with_task(response, task)
}

/// Hands the body over to the import. `Some` when the upload ends here, because it broke off, fell silent or
/// was aborted; an import that takes no more says why itself.
async fn feed(app: &App, running: &RunningImport, payload: &mut web::Payload) -> Option<ApiError> {
    let idle = app.config.transfers.upload_idle.get();
    loop {
        let waiting = running.waits_for_source();
        let next = tokio::select! {
            next = payload.next() => next,
            () = running.silence(idle) => {
                running.silent(idle).await;
                return None;
            }
            () = running.stop().cancelled() => return Some(ApiError::Aborted),
            // It has failed already, and says why.
            () = running.ended() => return None,
        };
        drop(waiting);
        match next {
            None => {
                let _ended = running.end().await;
                return None;
            }
            Some(Err(error)) => {
                return Some(ApiError::BadRequest {
                    code: "upload_broken_off",
                    message: format!("the upload broke off: {error}"),
                });
            }
            Some(Ok(bytes)) => {
                if running.piece(bytes).await.is_err() {
                    return None;
                }
            }
        }
    }
}

fn with_task(mut response: HttpResponse, task: gantry_actors::JobId) -> HttpResponse {
    if let Ok(value) = task.to_string().parse() {
        response.headers_mut().insert(actix_web::http::header::HeaderName::from_static("gantry-task"), value);
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uploads_are_known_by_method_and_path() {
        let of = |method: &str, path| UploadAddress::of(&method.parse().unwrap(), path);
        assert_eq!(of("POST", "/rest/v0/srs/x/vdis"), Some(UploadAddress::NewVdi("x".into())));
        assert_eq!(of("POST", "/rest/v0/srs/x/vdis/"), Some(UploadAddress::NewVdi("x".into())));
        assert_eq!(of("POST", "/rest/v0/pools/x/vms"), Some(UploadAddress::NewVm("x".into())));
        assert_eq!(
            of("PUT", "/rest/v0/vdis/x.vhd"),
            Some(UploadAddress::Content { id: "x".into(), extension: "vhd".into() })
        );
        assert_eq!(of("GET", "/rest/v0/vdis/x.vhd"), None);
        assert_eq!(of("POST", "/rest/v0/vdis"), None);
        assert_eq!(of("POST", "/elsewhere/srs/x/vdis"), None);
    }
}
