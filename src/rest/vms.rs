//! VMs of the local store: making, snapshots, deleting, their disks.
//!
//! A token that is limited to objects or SRs sees a VM when its id is listed, or when every SR is that one of its disks
//! lies in; a VBD or VIF also when its VM is listed. Beyond that, it needs to see each disk that a VM is made of, and
//! each that goes with a VM which it deletes.

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Value, json};

use super::JSON;
use crate::auth::Capability;
use crate::backends::local::NewVm;
use crate::ids::{VdiId, VmId};
use crate::inventory::Collection;
use crate::transfers::recipe::ExportObject;
use crate::transfers::snapshot::{NewSnapshot, submit};

use super::App;
use super::answers::{accepted, created};
use super::caller::Caller;
use super::collections::{Listing, linked, readable_or_any, seen, sees};
use super::error::ApiError;
use super::idempotency::Made;
use super::query::{Params, Query, required};
use super::vdis::check_text;

/// What a VM has unless it is said.
const DEFAULT_CPUS: u64 = 1;
const DEFAULT_MEMORY: u64 = 1 << 30;
/// Most virtual processors of a VM; no hypervisor that takes its archive gives more.
const MAX_CPUS: u64 = 1024;
/// Least and most memory of a VM, bytes.
const MEMORY: std::ops::RangeInclusive<u64> = 1 << 20..=1 << 46;

/// The actions on VMs.
const ACTIONS: [&str; 1] = ["snapshot"];
/// Why there are no others.
const ONLY_KEPT: &str = "the local store keeps VMs and does not run them: a VM can be snapshot";
const NO_ACTIONS: &str = "the local store keeps VMs and does not run them: nothing can be done to a snapshot or a \
                          template but reading, renaming and deleting it";

/// `POST /vms`: a halted VM of disks that are there.
///
/// # Errors
/// 404 for a disk, 422.
pub async fn create(
    app: web::Data<App>,
    caller: Caller,
    mut params: Params,
) -> Result<HttpResponse, ApiError> {
    caller.require(Capability::Import, None, "vm")?;
    let name_label = params.required_text("name_label")?;
    let name_description = params.text("name_description")?.unwrap_or_default();
    check_text("name_label", Some(&name_label))?;
    check_text("name_description", Some(&name_description))?;
    let cpus = params.number("cpus")?.unwrap_or(DEFAULT_CPUS);
    let cpus = u32::try_from(cpus).ok().filter(|_| (1..=MAX_CPUS).contains(&cpus)).ok_or_else(|| {
        ApiError::invalid("body.cpus", format!("a number from 1 to {MAX_CPUS} is needed"), Some(cpus.into()))
    })?;
    let memory = params.number("memory")?.unwrap_or(DEFAULT_MEMORY);
    if !MEMORY.contains(&memory) {
        let message = format!("from {} to {} bytes are needed", MEMORY.start(), MEMORY.end());
        return Err(ApiError::invalid("body.memory", message, Some(memory.into())));
    }
    let texts = params.texts("vdis")?.ok_or_else(|| required("vdis"))?;
    params.nothing_else()?;
    let mut vdis = Vec::with_capacity(texts.len());
    for text in texts {
        vdis.push(disk(&app, &caller, &text).await?);
    }
    let id = VmId::random();
    caller.makes(Made::Vm(id), None, || created("vms", id)).await?;
    app.store.create_vm(NewVm { id, name_label, name_description, cpus, memory, vdis }).await?;
    Ok(created("vms", id))
}

/// A disk that somebody wants to give to a VM: the token has to see it. Whether it is there, the store says.
///
/// # Errors
/// 403, and 404 for what is no id.
pub async fn disk(app: &App, caller: &Caller, id: &str) -> Result<VdiId, ApiError> {
    let vdi = id.parse().map_err(|_| ApiError::NoSuchObject { kind: "VDI", id: id.to_owned() })?;
    if caller.principal().is_limited() {
        seen(app, caller, Collection::Vdis, id, "use").await?;
    }
    Ok(vdi)
}

fn parsed(collection: Collection, id: &str) -> Result<VmId, ApiError> {
    id.parse().map_err(|_| ApiError::NoSuchObject { kind: collection.kind(), id: id.to_owned() })
}

/// `DELETE /vms|vm-snapshots|vm-templates/<id>`: with its snapshots, and the disks that no other VM uses.
///
/// # Errors
/// 404; 403, also when a disk that would go is not the token's to see.
pub async fn delete(
    app: web::Data<App>,
    caller: Caller,
    collection: Collection,
    id: &str,
) -> Result<HttpResponse, ApiError> {
    caller.require(Capability::Change, Some(id), collection.kind())?;
    let object = seen(&app, &caller, collection, id, "delete").await?;
    let vm = parsed(collection, id)?;
    if caller.principal().is_limited() {
        let snapshots = object.get("snapshots").and_then(Value::as_array);
        let snapshots = snapshots.into_iter().flatten().filter_map(|id| id.as_str()?.parse().ok());
        for vm in std::iter::once(vm).chain(snapshots) {
            let disks = app.inventory.disks_of(vm).await?;
            if let Some((_, hidden)) = disks.iter().find(|(_, disk)| !sees(caller.principal(), disk)) {
                let object = Some(hidden.id().to_owned());
                return Err(ApiError::Forbidden { object, action: "delete", resource: "VDI" });
            }
        }
    }
    for vdi in app.store.delete_vm(vm).await? {
        app.exports.release(ExportObject::Vdi(vdi));
    }
    app.exports.release(ExportObject::Vm(vm));
    Ok(HttpResponse::NoContent().finish())
}

/// `GET /vms|vm-snapshots|vm-templates/<id>/vdis`: its disks, as links to the collections that they are in.
///
/// # Errors
/// 404; 422 for parameters that cannot be taken, 400 for a filter that is none.
pub async fn disks(
    app: web::Data<App>,
    caller: Caller,
    request: HttpRequest,
    collection: Collection,
    id: &str,
) -> Result<HttpResponse, ApiError> {
    caller.require(Capability::Read, Some(id), collection.kind())?;
    let listing = Listing::of(&Query::of(&request)?).await?;
    seen(&app, &caller, collection, id, "read").await?;
    let disks = app.inventory.disks_of(parsed(collection, id)?).await?;
    let shown = disks.into_iter().filter(|(_, disk)| sees(caller.principal(), disk));
    listing.answer(shown.map(|(collection, disk)| linked(collection, disk)).collect()).await
}

/// `GET /vms|vm-snapshots|vm-templates/<id>/actions`, of one object or of any (`_`).
///
/// # Errors
/// 404.
pub async fn actions(
    app: web::Data<App>,
    caller: Caller,
    collection: Collection,
    id: &str,
) -> Result<HttpResponse, ApiError> {
    readable_or_any(&app, &caller, collection, id, collection.kind()).await?;
    let names: &[&str] = if collection == Collection::Vms { &ACTIONS } else { &[] };
    let link = |name: &&str| format!("/rest/v0/{}/{id}/actions/{name}", collection.name());
    Ok(HttpResponse::Ok().content_type(JSON).json(names.iter().map(link).collect::<Vec<_>>()))
}

/// `GET …/<id>/actions/<name>`: which parameters an action takes.
///
/// # Errors
/// 404.
pub async fn action(
    app: web::Data<App>,
    caller: Caller,
    collection: Collection,
    id: &str,
    name: &str,
) -> Result<HttpResponse, ApiError> {
    readable_or_any(&app, &caller, collection, id, collection.kind()).await?;
    require_action(collection, name)?;
    let params = json!({ "name_label": { "type": "string", "optional": true } });
    Ok(HttpResponse::Ok().content_type(JSON).json(json!({ "params": params })))
}

fn require_action(collection: Collection, name: &str) -> Result<(), ApiError> {
    let reason = match collection {
        Collection::Vms if ACTIONS.contains(&name) => return Ok(()),
        Collection::Vms => ONLY_KEPT,
        _ => NO_ACTIONS,
    };
    Err(ApiError::NoSuchAction { name: name.to_owned(), reason })
}

/// `POST /vms/<id>/actions/snapshot`: a task, or with `sync` its end.
///
/// # Errors
/// 404, also for any other action; 409 when an SR of one of its disks is read-only.
pub async fn act(
    app: web::Data<App>,
    caller: Caller,
    request: HttpRequest,
    collection: Collection,
    (id, name): (&str, &str),
    mut params: Params,
) -> Result<HttpResponse, ApiError> {
    require_action(collection, name)?;
    // Nothing is changed that is there: who may make VMs may make snapshots.
    caller.require(Capability::Import, Some(id), collection.kind())?;
    let sync = Query::of(&request)?.flag("sync")?;
    let object = seen(&app, &caller, collection, id, "snapshot").await?;
    let name_label = params.text("name_label")?;
    check_text("name_label", name_label.as_deref())?;
    params.nothing_else()?;
    let name_label = name_label.unwrap_or_else(|| {
        let name = object.get("name_label").and_then(Value::as_str).unwrap_or_default();
        format!("{name}_{:.3}", jiff::Timestamp::now())
    });
    let snapshot = VmId::random();
    let new = NewSnapshot::Vm { vm: parsed(collection, id)?, id: snapshot, name_label };
    let submitted = submit(&app.engine, &app.store, new, &caller.user().to_string()).await?;
    let task = submitted.task();
    let answer = || if sync { created("vm-snapshots", snapshot) } else { accepted(task) };
    caller.makes(Made::Vm(snapshot), Some(task), answer).await?;
    let begun = submitted.go();
    if sync {
        let patience = app.config.transfers.queue_wait.get();
        begun.ended(&app.engine, patience).await?;
    }
    Ok(answer())
}
