//! Tasks: the jobs of the engine as the contract shows them.

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::http::header::CONTENT_TYPE;
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use futures_util::stream;
use gantry_actors::{EngineError, JobId, TaskView};
use serde_json::{Value, json};

use crate::auth::{Capability, Principal};

use super::App;
use super::JSON;
use super::caller::Caller;
use super::collections::Listing;
use super::error::ApiError;
use super::query::Query;

/// How often a connection that waits for a task is kept alive with a space.
const KEEP_ALIVE: std::time::Duration = std::time::Duration::from_secs(15);

fn no_such(id: &str) -> ApiError {
    ApiError::NoSuchObject { kind: "task", id: id.chars().take(64).collect() }
}

/// A token that is limited to some objects sees the tasks of these.
fn sees(principal: &Principal, task: &TaskView) -> bool {
    !principal.is_limited() || task.object_id().is_some_and(|object| principal.sees(object, Some(object)))
}

fn find(app: &App, caller: &Caller, id: &str) -> Result<TaskView, ApiError> {
    let job: JobId = id.parse().map_err(|_| no_such(id))?;
    app.engine.task(job).filter(|task| sees(caller.principal(), task)).ok_or_else(|| no_such(id))
}

/// `GET /tasks`; with an object, the tasks of that object.
///
/// # Errors
/// 422 for parameters that cannot be taken; 400 for `watch` without `ndjson` and for a filter that is none.
pub async fn list(
    app: web::Data<App>,
    caller: Caller,
    request: HttpRequest,
    object: Option<String>,
) -> Result<HttpResponse, ApiError> {
    caller.require(Capability::Read, None, "task")?;
    let query = Query::of(&request)?;
    if query.flag("watch")? {
        return Err(if query.flag("ndjson")? {
            ApiError::NotImplemented("watching the list of tasks")
        } else {
            ApiError::BadRequest {
                code: "watch_without_ndjson",
                message: "watch=true requires ndjson=true".into(),
            }
        });
    }
    let listing = Listing::of(&query).await?;
    let tasks = app.engine.tasks();
    let visible = tasks.iter().filter(|task| sees(caller.principal(), task)).filter(|task| match &object {
        Some(object) => task.object_id() == Some(object.as_str()),
        None => true,
    });
    let linked = visible.map(|task| (task.to_json(), format!("/rest/v0/tasks/{}", task.id())));
    listing.answer(linked.collect()).await
}

/// `GET /tasks/<id>`, which may wait for its end (`wait=true`, `wait=result`) or its next change (`wait`).
///
/// # Errors
/// 404; 422 for another way of waiting.
pub async fn one(
    app: web::Data<App>,
    caller: Caller,
    request: HttpRequest,
    id: &str,
) -> Result<HttpResponse, ApiError> {
    caller.require(Capability::Read, Some(id), "task")?;
    let task = find(&app, &caller, id)?;
    let query = Query::of(&request)?;
    let to_end = match query.text("wait")? {
        None => return Ok(HttpResponse::Ok().content_type(JSON).json(task.to_json())),
        Some("") => false,
        Some(text) if text == "result" || text.eq_ignore_ascii_case("true") => true,
        Some(text) if text.eq_ignore_ascii_case("false") => {
            return Ok(HttpResponse::Ok().content_type(JSON).json(task.to_json()));
        }
        Some(text) => {
            return Err(ApiError::invalid("wait", "true, result or no value is needed", Some(text.into())));
        }
    };
    // The head goes out at once and spaces keep the connection alive: JSON may begin with them.
    let engine = app.engine.clone();
    let job = task.id();
    let last = Arc::new(task);
    let waited = async move {
        let seen = if to_end { engine.wait_end(job).await } else { engine.wait_change(job).await };
        seen.unwrap_or_else(|| Arc::unwrap_or_clone(last))
    };
    let state = Some(Box::pin(waited));
    let body = stream::unfold((state, true), |(state, first)| async move {
        let mut waiting = state?;
        if first {
            return Some((Bytes::from_static(b" "), (Some(waiting), false)));
        }
        match tokio::time::timeout(KEEP_ALIVE, &mut waiting).await {
            Ok(task) => Some((Bytes::from(task.to_json().to_string()), (None, false))),
            Err(_) => Some((Bytes::from_static(b" "), (Some(waiting), false))),
        }
    });
    let body = futures_util::StreamExt::map(body, Ok::<_, std::convert::Infallible>);
    Ok(HttpResponse::Ok().insert_header((CONTENT_TYPE, JSON)).streaming(body))
}

/// `POST /tasks/<id>/actions/abort`.
///
/// # Errors
/// 404, also for a task that does not run when `sync` asks for it.
pub async fn abort(
    app: web::Data<App>,
    caller: Caller,
    request: HttpRequest,
    id: &str,
) -> Result<HttpResponse, ApiError> {
    caller.require(Capability::Control, Some(id), "task")?;
    let task = find(&app, &caller, id)?;
    let sync = Query::of(&request)?.flag("sync")?;
    match app.engine.abort(task.id()).await {
        Ok(()) => {}
        Err(EngineError::NotFound(_)) => return Err(no_such(id)),
        Err(EngineError::NotRunning { .. }) if sync => return Err(no_such(id)),
        Err(EngineError::NotRunning { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    if sync {
        app.engine.wait_end(task.id()).await;
        return Ok(HttpResponse::NoContent().finish());
    }
    Ok(HttpResponse::build(StatusCode::ACCEPTED)
        .insert_header(("Location", format!("/rest/v0/tasks/{}", task.id())))
        .content_type(JSON)
        .json(json!({ "taskId": task.id().to_string(), "success": true })))
}

/// `DELETE /tasks/<id>`: forgets a task that has ended.
///
/// # Errors
/// 404; 409 for one that runs.
pub async fn forget(app: web::Data<App>, caller: Caller, id: &str) -> Result<HttpResponse, ApiError> {
    caller.require(Capability::Control, Some(id), "task")?;
    let task = find(&app, &caller, id)?;
    match app.engine.forget(task.id()).await {
        Ok(()) => Ok(HttpResponse::NoContent().finish()),
        Err(EngineError::NotFound(_)) => Err(no_such(id)),
        Err(EngineError::StillRunning(_)) => Err(ApiError::TaskRunning { id: id.to_owned() }),
        Err(error) => Err(error.into()),
    }
}

/// `DELETE /tasks`: forgets all that have ended.
///
/// # Errors
/// When the journal does not answer.
pub async fn forget_all(app: web::Data<App>, caller: Caller) -> Result<HttpResponse, ApiError> {
    caller.require(Capability::Administer, None, "task")?;
    app.engine.forget_ended().await?;
    Ok(HttpResponse::NoContent().finish())
}

/// `GET /tasks/<id>/actions`: what may be done to a task.
///
/// # Errors
/// 404.
pub async fn actions(app: web::Data<App>, caller: Caller, id: &str) -> Result<HttpResponse, ApiError> {
    caller.require(Capability::Read, Some(id), "task")?;
    if id != "_" {
        find(&app, &caller, id)?;
    }
    let links: Vec<Value> = vec![format!("/rest/v0/tasks/{id}/actions/abort").into()];
    Ok(HttpResponse::Ok().content_type(JSON).json(links))
}
