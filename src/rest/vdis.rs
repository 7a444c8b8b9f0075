//! VDIs and what may be done to any object: labels, tags, deletion, extents, empty disks.

use actix_web::http::header::{CONTENT_TYPE, ETAG};
use actix_web::{HttpResponse, web};
use bytes::Bytes;
use futures_util::stream;
use serde_json::Value;

use super::JSON;
use crate::auth::Capability;
use crate::ids::{DiskFormat, NetworkId, SrId, VdiId, VmId};
use crate::inventory::Collection;
use crate::transfers::grow::{GrowError, grow};
use crate::transfers::import::create_empty;
use crate::transfers::recipe::ExportObject;
use crate::transfers::representation::entity_tag;

use super::App;
use super::answers::created;
use super::caller::Caller;
use super::collections::seen;
use super::error::ApiError;
use super::idempotency::Made;
use super::imports::check_stored_size;
use super::query::{Params, Query, required};

/// Most tags on an object, and most bytes in one of them.
const MAX_TAGS: usize = 1000;
const MAX_TEXT_BYTES: usize = 64 << 10;
/// Extents that are written between two looks at whether the client takes them.
const EXTENTS_PER_CHUNK: usize = 1000;

/// What a PATCH changes; the same for every kind of object.
#[derive(Debug, Clone, Default)]
struct Change {
    label: Option<String>,
    description: Option<String>,
    tags: Option<Vec<String>>,
}

impl Change {
    fn apply(&self, label: &mut String, description: &mut String, tags: &mut Vec<String>) {
        if let Some(text) = &self.label {
            label.clone_from(text);
        }
        if let Some(text) = &self.description {
            description.clone_from(text);
        }
        if let Some(list) = &self.tags {
            tags.clone_from(list);
        }
    }
}

/// `PATCH /<collection>/<id>`.
///
/// # Errors
/// 404, 422.
pub async fn patch(
    app: web::Data<App>,
    caller: Caller,
    collection: Collection,
    id: &str,
    mut params: Params,
) -> Result<HttpResponse, ApiError> {
    require_change(&caller, collection, id)?;
    let object = seen(&app, &caller, collection, id, "change").await?;
    if !collection.is_labelled() {
        params.nothing_else()?;
        return Ok(HttpResponse::NoContent().finish());
    }
    let mut change = Change::default();
    for (modern, old, field) in [
        ("nameLabel", "name_label", &mut change.label),
        ("nameDescription", "name_description", &mut change.description),
    ] {
        let text = match params.text(modern)? {
            Some(text) => {
                params.any(old);
                Some(text)
            }
            None => params.text(old)?,
        };
        check_text(old, text.as_deref())?;
        *field = text;
    }
    change.tags = params.texts("tags")?;
    if let Some(tags) = &mut change.tags {
        let mut seen = std::collections::HashSet::new();
        tags.retain(|tag| seen.insert(tag.clone()));
        if tags.len() > MAX_TAGS {
            return Err(ApiError::invalid("body.tags", format!("more than {MAX_TAGS} tags"), None));
        }
        if tags.iter().any(String::is_empty) {
            return Err(ApiError::invalid("body.tags", "an empty tag", None));
        }
        tags.iter().try_for_each(|tag| check_text("tags", Some(tag)))?;
    }
    let size = if collection == Collection::Vdis { params.number("size")? } else { None };
    params.nothing_else()?;
    if let Some(size) = size {
        resize(&app, &caller, id, &object, size).await?;
    }
    apply(&app, collection, id, move |label, description, tags| change.apply(label, description, tags))
        .await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Gives a disk more room; the size that it has changes nothing.
async fn resize(app: &App, caller: &Caller, id: &str, object: &Value, size: u64) -> Result<(), ApiError> {
    let current = object.get("size").and_then(Value::as_u64).unwrap_or(0);
    if size < current {
        return Err(ApiError::Unprocessable {
            code: "size_below_current",
            message: format!("cannot set new size ({size}) below the current size ({current})"),
        });
    }
    check_size("size", size)?;
    if size > current {
        let sr = object.get("$SR").and_then(Value::as_str).and_then(|sr| sr.parse().ok());
        if let Some(sr) = sr {
            check_stored_size(size, app.store.writable_sr(sr)?.content_format)?;
        }
        let vdi: VdiId = id.parse().map_err(|_| ApiError::NoSuchObject { kind: "VDI", id: id.to_owned() })?;
        let patience = app.config.transfers.queue_wait.get();
        let owner = Some(caller.user().to_string());
        grow(&app.engine, &app.store, vdi, size, owner, patience).await.map_err(|error| match error {
            GrowError::Turn(error) => ApiError::from(error),
            GrowError::Failed(error) => ApiError::from(error),
        })?;
    }
    Ok(())
}

fn check_size(name: &str, size: u64) -> Result<(), ApiError> {
    // What a decoder refuses without having seen a byte is what the number does not allow.
    let refused = crate::formats::raw::RawDecoder::new(Some(size), None).next_event();
    refused
        .map(drop)
        .map_err(|error| ApiError::invalid(format!("body.{name}"), error.to_string(), Some(size.into())))
}

/// Refuses a text that is too long to be kept.
///
/// # Errors
/// 422.
pub fn check_text(name: &str, text: Option<&str>) -> Result<(), ApiError> {
    match text {
        Some(text) if text.len() > MAX_TEXT_BYTES => Err(ApiError::invalid(
            format!("body.{name}"),
            format!("longer than {MAX_TEXT_BYTES} bytes"),
            None,
        )),
        _ => Ok(()),
    }
}

fn require_change(caller: &Caller, collection: Collection, id: &str) -> Result<(), ApiError> {
    let capability = match collection {
        Collection::Srs | Collection::Pools | Collection::Hosts | Collection::Networks => {
            Capability::Administer
        }
        _ => Capability::Change,
    };
    caller.require(capability, Some(id), collection.kind())
}

/// Changes label, description and tags of an object that exists.
async fn apply(
    app: &App,
    collection: Collection,
    id: &str,
    edit: impl Fn(&mut String, &mut String, &mut Vec<String>) + Send + 'static,
) -> Result<(), ApiError> {
    let no_such = || ApiError::NoSuchObject { kind: collection.kind(), id: id.to_owned() };
    match collection {
        Collection::Vdis | Collection::VdiSnapshots => {
            let vdi: VdiId = id.parse().map_err(|_| no_such())?;
            app.store
                .edit_vdi(vdi, move |row| edit(&mut row.name_label, &mut row.name_description, &mut row.tags))
                .await?;
        }
        Collection::Srs => {
            let sr: SrId = id.parse().map_err(|_| no_such())?;
            app.store
                .edit_sr(sr, move |row| edit(&mut row.name_label, &mut row.name_description, &mut row.tags))
                .await?;
        }
        Collection::Vms | Collection::VmSnapshots | Collection::VmTemplates => {
            let vm: VmId = id.parse().map_err(|_| no_such())?;
            app.store
                .edit_vm(vm, move |row| edit(&mut row.name_label, &mut row.name_description, &mut row.tags))
                .await?;
        }
        Collection::Networks => {
            let network: NetworkId = id.parse().map_err(|_| no_such())?;
            app.store
                .edit_network(network, move |row| {
                    edit(&mut row.name_label, &mut row.name_description, &mut row.tags);
                })
                .await?;
        }
        Collection::Vbds | Collection::Vifs => {}
        Collection::Pools | Collection::Hosts => {
            app.store
                .edit_label(&id.to_ascii_lowercase(), collection.kind(), move |label| {
                    edit(&mut label.name_label, &mut label.name_description, &mut label.tags);
                })
                .await?;
        }
    }
    Ok(())
}

/// `PUT|DELETE /<collection>/<id>/tags/<tag>`.
///
/// # Errors
/// 404.
pub async fn tag(
    app: web::Data<App>,
    caller: Caller,
    collection: Collection,
    id: &str,
    tag: String,
    present: bool,
) -> Result<HttpResponse, ApiError> {
    require_change(&caller, collection, id)?;
    seen(&app, &caller, collection, id, "change").await?;
    check_text("tags", Some(&tag))?;
    apply(&app, collection, id, move |_, _, tags| match (present, tags.iter().position(|one| *one == tag)) {
        (true, None) if tags.len() < MAX_TAGS => tags.push(tag.clone()),
        (false, Some(at)) => drop(tags.remove(at)),
        _ => {}
    })
    .await?;
    Ok(HttpResponse::NoContent().finish())
}

/// `DELETE /vdis/<id>` and `/vdi-snapshots/<id>`.
///
/// # Errors
/// 404; 409 when it is being written, or others build on it.
pub async fn delete(
    app: web::Data<App>,
    caller: Caller,
    collection: Collection,
    id: &str,
) -> Result<HttpResponse, ApiError> {
    caller.require(Capability::Change, Some(id), collection.kind())?;
    seen(&app, &caller, collection, id, "change").await?;
    let no_such = |_| ApiError::NoSuchObject { kind: collection.kind(), id: id.to_owned() };
    let vdi: VdiId = id.parse().map_err(no_such)?;
    app.store.delete_disk(vdi).await?;
    app.exports.release(ExportObject::Vdi(vdi));
    Ok(HttpResponse::NoContent().finish())
}

/// `POST /vdis`: an empty disk.
///
/// # Errors
/// 404 for the SR, 422 for the size, 507.
pub async fn create(
    app: web::Data<App>,
    caller: Caller,
    mut params: Params,
) -> Result<HttpResponse, ApiError> {
    caller.require(Capability::Import, None, "vdi")?;
    let sr_text = params.required_text("srId")?;
    let size = match params.number("virtual_size")? {
        Some(size) => size,
        None => params.number("virtualSize")?.ok_or_else(|| required("virtual_size"))?,
    };
    let label = params.text("name_label")?.unwrap_or_default();
    let description = params.text("name_description")?.unwrap_or_default();
    check_text("name_label", Some(&label))?;
    check_text("name_description", Some(&description))?;
    params.nothing_else()?;
    let sr: SrId = sr_text.parse().map_err(|_| ApiError::NoSuchObject { kind: "SR", id: sr_text.clone() })?;
    caller.require_sr(sr, &sr_text)?;
    check_size("virtual_size", size)?;
    check_stored_size(size, app.store.writable_sr(sr)?.content_format)?;
    let vdi = VdiId::random();
    caller.makes(Made::Vdi(vdi), None, || created("vdis", vdi)).await?;
    create_empty(&app.store, vdi, sr, size, label, description).await?;
    Ok(created("vdis", vdi))
}

/// `GET /vdis/<id>/extents`: which parts of a disk hold data.
///
/// # Errors
/// 404.
pub async fn extents(
    app: web::Data<App>,
    caller: Caller,
    collection: Collection,
    id: &str,
    query: Query,
) -> Result<HttpResponse, ApiError> {
    caller.require(Capability::Export, Some(id), "vdi")?;
    let lines = query.flag("ndjson")?;
    let no_such = || ApiError::NoSuchObject { kind: collection.kind(), id: id.to_owned() };
    let vdi: VdiId = id.parse().map_err(|_| no_such())?;
    let (row, _, pin) = app.store.pin_vdi(vdi).await?;
    if row.snapshot_of.is_some() != (collection == Collection::VdiSnapshots) {
        return Err(no_such());
    }
    caller.require_sr(row.sr, id)?;
    let content = app.store.open_content(&pin).await?;
    let etag = entity_tag(&content.row, DiskFormat::Raw);
    let kind = if lines { "application/x-ndjson" } else { JSON };
    let state = (content, Some(0_u64), true);
    let chunks = stream::unfold(state, move |(content, at, first)| async move {
        let mut at = at?;
        let mut body = Vec::new();
        let (mut first, mut ended) = (first, false);
        if first && !lines {
            body.push(b'[');
        }
        for _ in 0..EXTENTS_PER_CHUNK {
            let Some(extent) = content.map.extent_at(at) else {
                ended = true;
                break;
            };
            if !first && !lines {
                body.extend_from_slice(b",\n");
            }
            first = false;
            at = extent.start.saturating_add(extent.length);
            drop(serde_json::to_writer(&mut body, &extent));
            if lines {
                body.push(b'\n');
            }
        }
        if ended && !lines {
            body.extend_from_slice(b"]\n");
        }
        let next = if ended { None } else { Some(at) };
        Some((Ok::<_, std::convert::Infallible>(Bytes::from(body)), (content, next, first)))
    });
    Ok(HttpResponse::Ok().insert_header((CONTENT_TYPE, kind)).insert_header((ETAG, etag)).streaming(chunks))
}
