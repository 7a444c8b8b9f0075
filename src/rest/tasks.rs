//! Tasks: the jobs of the engine as the contract shows them.

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::http::header::CONTENT_TYPE;
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use futures_util::stream;
use gantry_actors::{Adjustment, EngineError, JobId, TaskView};
use serde_json::{Value, json};

use crate::auth::{Capability, Principal};

use super::App;
use super::JSON;
use super::caller::Caller;
use super::collections::Listing;
use super::error::ApiError;
use super::query::{Params, Query};
use super::watch;

/// How often a connection that waits for a task is kept alive with a space.
const KEEP_ALIVE: std::time::Duration = std::time::Duration::from_secs(15);
/// The most urgent that a task can be made; as much below zero the least.
const MAX_PRIORITY: i32 = 1000;
/// The actions on tasks.
const ACTIONS: [&str; 3] = ["abort", "pause", "resume"];

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
    let watch = query.flag("watch")?;
    if watch && !query.flag("ndjson")? {
        return Err(ApiError::BadRequest {
            code: "watch_without_ndjson",
            message: "watch=true requires ndjson=true".into(),
        });
    }
    let listing = Listing::of(&query).await?;
    if watch {
        return watch::stream(&app, &caller, &request, listing, object).await;
    }
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
    let closing = app.closing.clone();
    let waited = async move {
        let waiting =
            async { if to_end { engine.wait_end(job).await } else { engine.wait_change(job).await } };
        let seen = tokio::select! {
            seen = waiting => seen,
            // Who waits is no transfer: he does not hold up the end of the server.
            () = closing.cancelled() => engine.task(job),
        };
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
        Err(EngineError::NotRunning { .. }) if sync => return Err(no_such(id)),
        Err(EngineError::NotRunning { .. }) => {}
        Err(error) => return Err(refused(id, error)),
    }
    if sync {
        app.engine.wait_end(task.id()).await;
        return Ok(HttpResponse::NoContent().finish());
    }
    Ok(accepted(task.id()))
}

/// `POST /tasks/<id>/actions/pause|resume`. Answered when it is durable; the bytes stop or go on at once.
///
/// # Errors
/// 404; 409 for a task that has ended.
pub async fn pause(
    app: web::Data<App>,
    caller: Caller,
    request: HttpRequest,
    id: &str,
    paused: bool,
) -> Result<HttpResponse, ApiError> {
    caller.require(Capability::Control, Some(id), "task")?;
    let task = find(&app, &caller, id)?;
    let sync = Query::of(&request)?.flag("sync")?;
    let done = if paused { app.engine.pause(task.id()).await } else { app.engine.resume(task.id()).await };
    done.map_err(|error| refused(id, error))?;
    if sync {
        return Ok(HttpResponse::NoContent().finish());
    }
    Ok(accepted(task.id()))
}

/// `PATCH /tasks/<id>`: `bandwidth` (bytes per second, or null) and `priority`.
///
/// # Errors
/// 404; 409 for a task that has ended; 422.
pub async fn adjust(
    app: web::Data<App>,
    caller: Caller,
    id: &str,
    mut params: Params,
) -> Result<HttpResponse, ApiError> {
    caller.require(Capability::Control, Some(id), "task")?;
    let task = find(&app, &caller, id)?;
    let bandwidth = match params.any("bandwidth") {
        None => None,
        Some(Value::Null) => Some(None),
        Some(Value::String(text)) if text == "null" => Some(None),
        Some(value) => {
            let rate = rate(&value).ok_or_else(|| {
                let message = "a whole number of bytes per second, at least 1, or null is needed";
                ApiError::invalid("body.bandwidth", message, Some(value.clone()))
            })?;
            Some(Some(rate))
        }
    };
    let priority = match params.any("priority") {
        None => None,
        Some(value) => Some(priority(&value).ok_or_else(|| {
            let message = format!("a whole number from -{MAX_PRIORITY} to {MAX_PRIORITY} is needed");
            ApiError::invalid("body.priority", message, Some(value.clone()))
        })?),
    };
    params.nothing_else()?;
    let to = Adjustment { priority, bandwidth };
    if to != Adjustment::default() {
        app.engine.adjust(task.id(), to).await.map_err(|error| refused(id, error))?;
    }
    Ok(HttpResponse::NoContent().finish())
}

/// Bodies of forms have texts only.
fn rate(value: &Value) -> Option<u64> {
    let digits = |text: &&str| text.bytes().all(|byte| byte.is_ascii_digit());
    let rate = value.as_u64().or_else(|| value.as_str().filter(digits)?.parse().ok())?;
    (rate > 0).then_some(rate)
}

fn priority(value: &Value) -> Option<i32> {
    let number = value.as_i64().or_else(|| value.as_str()?.parse().ok())?;
    i32::try_from(number).ok().filter(|number| number.abs() <= MAX_PRIORITY)
}

fn refused(id: &str, error: EngineError) -> ApiError {
    match error {
        EngineError::NotFound(_) => no_such(id),
        EngineError::NotRunning { state, .. } => {
            ApiError::TaskState { id: id.to_owned(), actual: state.as_str(), expected: "unfinished" }
        }
        error => error.into(),
    }
}

fn accepted(task: JobId) -> HttpResponse {
    HttpResponse::build(StatusCode::ACCEPTED)
        .insert_header(("Location", format!("/rest/v0/tasks/{task}")))
        .content_type(JSON)
        .json(json!({ "taskId": task.to_string(), "success": true }))
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

/// `GET /tasks/<id>/actions`: what may be done to a task, where `_` stands for any.
///
/// # Errors
/// 404.
pub async fn actions(app: web::Data<App>, caller: Caller, id: &str) -> Result<HttpResponse, ApiError> {
    require_readable(&app, &caller, id)?;
    let link = |name: &str| Value::from(format!("/rest/v0/tasks/{id}/actions/{name}"));
    Ok(HttpResponse::Ok().content_type(JSON).json(ACTIONS.map(link)))
}

/// `GET /tasks/<id>/actions/<action>`: the parameters that it takes, which are none.
///
/// # Errors
/// 404 for the task or the action.
pub async fn action(
    app: web::Data<App>,
    caller: Caller,
    id: &str,
    name: String,
) -> Result<HttpResponse, ApiError> {
    require_readable(&app, &caller, id)?;
    if !ACTIONS.contains(&name.as_str()) {
        return Err(no_such_action(name));
    }
    Ok(HttpResponse::Ok().content_type(JSON).json(json!({ "params": {} })))
}

fn require_readable(app: &App, caller: &Caller, id: &str) -> Result<(), ApiError> {
    caller.require(Capability::Read, Some(id), "task")?;
    if id == "_" { Ok(()) } else { find(app, caller, id).map(drop) }
}

/// What is answered to an action that there is not.
pub fn no_such_action(name: String) -> ApiError {
    ApiError::NoSuchAction { name, reason: "a task can be aborted, paused and resumed" }
}
