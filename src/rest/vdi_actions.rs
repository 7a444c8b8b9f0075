//! What may be done to a VDI beside changing it: `/vdis/<id>/actions`.

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Value, json};

use crate::auth::Capability;
use crate::ids::VdiId;
use crate::inventory::Collection;
use crate::transfers::snapshot::{NewSnapshot, submit};

use super::App;
use super::JSON;
use super::answers::{accepted, created};
use super::caller::Caller;
use super::collections::{readable_or_any, seen};
use super::error::ApiError;
use super::idempotency::Made;
use super::query::{Params, Query};
use super::vdis::check_text;

/// The actions, with their parameters.
const ACTIONS: [&str; 1] = ["snapshot"];
/// Why there are no others.
const NO_OTHERS: &str = "a snapshot can be taken of a VDI of the local store";

/// `GET /vdis/<id>/actions`, where `_` stands for any VDI.
///
/// # Errors
/// 404 for the VDI.
pub async fn list(app: web::Data<App>, caller: Caller, id: &str) -> Result<HttpResponse, ApiError> {
    readable_or_any(&app, &caller, Collection::Vdis, id, "vdi").await?;
    let link = |name| Value::from(format!("/rest/v0/vdis/{id}/actions/{name}"));
    Ok(HttpResponse::Ok().content_type(JSON).json(ACTIONS.map(link)))
}

/// `GET /vdis/<id>/actions/<action>`: the parameters that it takes.
///
/// # Errors
/// 404 for the VDI or the action.
pub async fn describe(
    app: web::Data<App>,
    caller: Caller,
    id: &str,
    action: String,
) -> Result<HttpResponse, ApiError> {
    readable_or_any(&app, &caller, Collection::Vdis, id, "vdi").await?;
    match action.as_str() {
        "snapshot" => {
            let params = json!({ "params": { "name_label": { "type": "string", "optional": true } } });
            Ok(HttpResponse::Ok().content_type(JSON).json(params))
        }
        _ => Err(ApiError::NoSuchAction { name: action, reason: NO_OTHERS }),
    }
}

/// `POST /vdis/<id>/actions/<action>`.
///
/// # Errors
/// As the action; 404 when there is none of that name.
pub async fn act(
    app: web::Data<App>,
    caller: Caller,
    request: HttpRequest,
    (id, action): (String, String),
    params: Params,
) -> Result<HttpResponse, ApiError> {
    match action.as_str() {
        "snapshot" => snapshot(app, caller, request, &id, params).await,
        _ => Err(ApiError::NoSuchAction { name: action, reason: NO_OTHERS }),
    }
}

/// `POST /vdis/<id>/actions/snapshot`.
///
/// # Errors
/// 404, also for what is a snapshot itself; 409 when the SR is read-only.
async fn snapshot(
    app: web::Data<App>,
    caller: Caller,
    request: HttpRequest,
    id: &str,
    mut params: Params,
) -> Result<HttpResponse, ApiError> {
    caller.require(Capability::Import, Some(id), "vdi")?;
    let sync = Query::of(&request)?.flag("sync")?;
    let name_label = params.text("name_label")?;
    check_text("name_label", name_label.as_deref())?;
    params.nothing_else()?;
    seen(&app, &caller, Collection::Vdis, id, "snapshot").await?;
    let no_such = |_| ApiError::NoSuchObject { kind: "VDI", id: id.to_owned() };
    let (vdi, taken): (VdiId, _) = (id.parse().map_err(no_such)?, VdiId::random());
    let new = NewSnapshot::Vdi { vdi, id: taken, name_label };
    let submitted = submit(&app.engine, &app.store, new, &caller.user().to_string()).await?;
    let task = submitted.task();
    let answer = || if sync { created("vdi-snapshots", taken) } else { accepted(task) };
    caller.makes(Made::Vdi(taken), Some(task), answer).await?;
    let begun = submitted.go();
    if sync {
        begun.ended(&app.engine, app.config.transfers.queue_wait.get()).await?;
    }
    Ok(answer())
}
