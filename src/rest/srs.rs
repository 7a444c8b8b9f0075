//! Storage repositories: making, attaching, letting go.

use std::path::PathBuf;

use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Value, json};

use super::JSON;
use crate::auth::Capability;
use crate::backends::local::NewSr;
use crate::ids::SrId;
use crate::inventory::Collection;
use crate::transfers::scan::submit;

use super::App;
use super::answers::{accepted, created, created_with};
use super::caller::Caller;
use super::collections::readable_or_any;
use super::error::ApiError;
use super::idempotency::Made;
use super::query::{Params, Query};

/// `POST /srs`.
///
/// # Errors
/// 409 for what is known already, 422 for a path that may not be used.
pub async fn create(
    app: web::Data<App>,
    caller: Caller,
    mut params: Params,
) -> Result<HttpResponse, ApiError> {
    caller.require(Capability::Administer, None, "sr")?;
    let name_label = params.required_text("name_label")?;
    let name_description = params.text("name_description")?;
    let path = params.text("path")?.map(PathBuf::from);
    let content_format = params.text("content_format")?;
    let content_format = content_format
        .map(|text| {
            let parsed = text.parse();
            parsed.map_err(|_| {
                let message = "Value does not match any allowed schema: \"raw\" or \"vhd\"";
                ApiError::invalid("body.content_format", message, Some(Value::from(text)))
            })
        })
        .transpose()?;
    let read_only = params.flag("read_only")?.unwrap_or(false);
    params.nothing_else()?;
    let id = SrId::random();
    let new = NewSr { id, name_label, name_description, path, content_format, read_only };
    caller.makes(Made::Sr(id), None, || created("srs", id)).await?;
    let made = app.store.create_sr(new).await?;
    let mut body = json!({ "id": made.id });
    if !made.broken.is_empty() {
        let broken: Vec<Value> =
            made.broken.iter().map(|one| json!({ "file": one.file, "reason": one.reason })).collect();
        if let Some(members) = body.as_object_mut() {
            members.insert("broken".into(), broken.into());
        }
    }
    Ok(created_with("srs", made.id, body))
}

/// `DELETE /srs/<id>`: only an empty one.
///
/// # Errors
/// 404; 409 with the number of VDIs.
pub async fn delete(app: web::Data<App>, caller: Caller, id: &str) -> Result<HttpResponse, ApiError> {
    caller.require(Capability::Administer, Some(id), "sr")?;
    app.store.delete_sr(parsed(id)?).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// The actions on SRs. What a directory has freed, its file system has back already: there is nothing to reclaim.
const ACTIONS: [&str; 2] = ["forget", "scan"];
/// Why there are no others.
const NO_OTHERS: &str = "a local SR can be forgotten and scanned";

/// `GET /srs/<id>/actions`, where `_` stands for any SR.
///
/// # Errors
/// 404 for the SR.
pub async fn actions(app: web::Data<App>, caller: Caller, id: &str) -> Result<HttpResponse, ApiError> {
    readable_or_any(&app, &caller, Collection::Srs, id, "sr").await?;
    let link = |name| format!("/rest/v0/srs/{id}/actions/{name}");
    Ok(HttpResponse::Ok().content_type(JSON).json(ACTIONS.map(link)))
}

/// `GET /srs/<id>/actions/<action>`: the parameters that it takes, which are none.
///
/// # Errors
/// 404 for the SR or the action.
pub async fn action(
    app: web::Data<App>,
    caller: Caller,
    id: &str,
    name: String,
) -> Result<HttpResponse, ApiError> {
    readable_or_any(&app, &caller, Collection::Srs, id, "sr").await?;
    if !ACTIONS.contains(&name.as_str()) {
        return Err(ApiError::NoSuchAction { name, reason: NO_OTHERS });
    }
    Ok(HttpResponse::Ok().content_type(JSON).json(json!({ "params": {} })))
}

/// `POST /srs/<id>/actions/<action>`.
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
        "forget" => forget(app, caller, &id, params).await,
        "scan" => scan(app, caller, request, &id, params).await,
        _ => Err(ApiError::NoSuchAction { name: action, reason: NO_OTHERS }),
    }
}

/// `POST /srs/<id>/actions/scan`: looks through its directory again; a task, or with `sync` its end.
///
/// # Errors
/// 404; trouble with the directory.
async fn scan(
    app: web::Data<App>,
    caller: Caller,
    request: HttpRequest,
    id: &str,
    params: Params,
) -> Result<HttpResponse, ApiError> {
    caller.require(Capability::Administer, Some(id), "sr")?;
    let sync = Query::of(&request)?.flag("sync")?;
    params.nothing_else()?;
    let sr = parsed(id)?;
    app.store.sr(sr)?;
    let begun = submit(&app.engine, &app.store, sr, &caller.user().to_string()).await?;
    let task = begun.task();
    caller.began(task).await?;
    if !sync {
        return Ok(accepted(task));
    }
    begun.ended(&app.engine, app.config.transfers.queue_wait.get()).await?;
    Ok(HttpResponse::NoContent().finish())
}

/// `POST /srs/<id>/actions/forget`: leaves the files. Done when it is answered.
///
/// # Errors
/// 404.
async fn forget(
    app: web::Data<App>,
    caller: Caller,
    id: &str,
    params: Params,
) -> Result<HttpResponse, ApiError> {
    caller.require(Capability::Administer, Some(id), "sr")?;
    params.nothing_else()?;
    app.store.forget_sr(parsed(id)?).await?;
    Ok(HttpResponse::NoContent().finish())
}

fn parsed(id: &str) -> Result<SrId, ApiError> {
    id.parse().map_err(|_| ApiError::NoSuchObject { kind: "SR", id: id.to_owned() })
}
