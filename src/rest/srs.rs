//! Storage repositories: making, attaching, letting go.

use std::path::PathBuf;

use actix_web::http::StatusCode;
use actix_web::http::header::LOCATION;
use actix_web::{HttpResponse, web};
use serde_json::{Value, json};

use super::JSON;
use crate::auth::Capability;
use crate::backends::local::NewSr;
use crate::ids::SrId;

use super::App;
use super::caller::Caller;
use super::error::ApiError;
use super::idempotency::Made;
use super::query::Params;

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
    caller.makes(Made::Sr(id), None, || created(id, json!({ "id": id }))).await?;
    let made = app.store.create_sr(new).await?;
    let mut body = json!({ "id": made.id });
    if !made.broken.is_empty() {
        let broken: Vec<Value> =
            made.broken.iter().map(|one| json!({ "file": one.file, "reason": one.reason })).collect();
        if let Some(members) = body.as_object_mut() {
            members.insert("broken".into(), broken.into());
        }
    }
    Ok(created(made.id, body))
}

fn created(id: SrId, body: Value) -> HttpResponse {
    HttpResponse::build(StatusCode::CREATED)
        .insert_header((LOCATION, format!("/rest/v0/srs/{id}")))
        .content_type(JSON)
        .json(body)
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

/// `POST /srs/<id>/actions/forget`: leaves the files. Done when it is answered.
///
/// # Errors
/// 404.
pub async fn forget(app: web::Data<App>, caller: Caller, id: &str) -> Result<HttpResponse, ApiError> {
    caller.require(Capability::Administer, Some(id), "sr")?;
    app.store.forget_sr(parsed(id)?).await?;
    Ok(HttpResponse::NoContent().finish())
}

fn parsed(id: &str) -> Result<SrId, ApiError> {
    id.parse().map_err(|_| ApiError::NoSuchObject { kind: "SR", id: id.to_owned() })
}
