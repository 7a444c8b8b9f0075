//! VBDs: attaching disks to VMs of the local store, and detaching them.

use actix_web::{HttpResponse, web};
use serde_json::Value;

use crate::auth::Capability;
use crate::backends::local::NewVbd;
use crate::ids::{VbdId, VmId};
use crate::inventory::Collection;
use crate::state::vms::VbdMode;

use super::App;
use super::answers::created;
use super::caller::Caller;
use super::collections::{seen, sees};
use super::error::ApiError;
use super::idempotency::Made;
use super::query::Params;
use super::vms;

/// `POST /vbds`: attaches a disk.
///
/// # Errors
/// 404 for the VM or the disk; 409 for a snapshot and for a position that is taken; 422.
pub async fn create(
    app: web::Data<App>,
    caller: Caller,
    mut params: Params,
) -> Result<HttpResponse, ApiError> {
    caller.require(Capability::Change, None, "vbd")?;
    let vm_text = params.required_text("VM")?;
    let vdi_text = params.required_text("VDI")?;
    let mode = params.text("mode")?.unwrap_or_else(|| VbdMode::ReadWrite.to_string());
    let mode = mode.parse().map_err(|_| {
        let message = "Value does not match any allowed schema: \"RW\" or \"RO\"";
        ApiError::invalid("body.mode", message, Some(mode.into()))
    })?;
    let bootable = params.flag("bootable")?.unwrap_or(false);
    // The contract calls it by its name in the object, xapi by its own.
    let mut position = None;
    for name in ["userdevice", "position"] {
        if let Some(value) = params.any(name) {
            position = at(name, &value)?;
        }
    }
    params.nothing_else()?;
    let no_such = |_| ApiError::NoSuchObject { kind: "VM", id: vm_text.clone() };
    let vm: VmId = vm_text.parse().map_err(no_such)?;
    require_vm(&app, &caller, &vm_text).await?;
    let vdi = vms::disk(&app, &caller, &vdi_text).await?;
    let id = VbdId::random();
    caller.makes(Made::Vbd(id), None, || created("vbds", id)).await?;
    app.store.create_vbd(NewVbd { id, vm, vdi, mode, bootable, position }).await?;
    Ok(created("vbds", id))
}

/// A position; none for the first that is free.
fn at(name: &str, value: &Value) -> Result<Option<u32>, ApiError> {
    if value.as_str() == Some("autodetect") {
        return Ok(None);
    }
    let digits = |text: &&str| text.bytes().all(|byte| byte.is_ascii_digit());
    let number = value.as_u64().or_else(|| value.as_str().filter(digits)?.parse().ok());
    let position = number.and_then(|number| u32::try_from(number).ok());
    position.map(Some).ok_or_else(|| {
        ApiError::invalid(format!("body.{name}"), "invalid number: a position is needed", Some(value.clone()))
    })
}

/// Refuses a VM that the token does not see. Whether it is there, the store says.
async fn require_vm(app: &App, caller: &Caller, id: &str) -> Result<(), ApiError> {
    if !caller.principal().is_limited() {
        return Ok(());
    }
    for collection in [Collection::Vms, Collection::VmTemplates, Collection::VmSnapshots] {
        match app.inventory.object(collection, id).await? {
            Some(placed) if !sees(caller.principal(), &placed) => {
                let resource = collection.kind();
                return Err(ApiError::Forbidden { object: Some(id.into()), action: "change", resource });
            }
            Some(_) => return Ok(()),
            None => {}
        }
    }
    Ok(())
}

/// `DELETE /vbds/<id>`: detaches a disk, which stays.
///
/// # Errors
/// 404; 409 for a snapshot's.
pub async fn delete(app: web::Data<App>, caller: Caller, id: &str) -> Result<HttpResponse, ApiError> {
    caller.require(Capability::Change, Some(id), "VBD")?;
    seen(&app, &caller, Collection::Vbds, id, "delete").await?;
    let vbd = id.parse().map_err(|_| ApiError::NoSuchObject { kind: "VBD", id: id.to_owned() })?;
    app.store.delete_vbd(vbd).await?;
    Ok(HttpResponse::NoContent().finish())
}
