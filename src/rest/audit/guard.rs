//! Where requests pass that are written down: once it is known who sends them, before anything is done.

use actix_http::HttpMessage;
use actix_web::body::BoxBody;
use actix_web::dev::{Payload, ServiceRequest, ServiceResponse};
use actix_web::http::{Method, StatusCode};
use actix_web::middleware::Next;
use actix_web::{Error, FromRequest, HttpResponse, ResponseError, web};
use gantry_actors::{EngineHandle, JobId, TaskStatus};

use crate::auth::audit::{Intent, Object, Outcome};
use crate::inventory::Collection;
use crate::transfers::recipe::ExportObject;

use super::super::App;
use super::super::caller::Caller;
use super::super::error::{ApiError, ErrorCode};
use super::action::{Action, object_name};

/// Lets requests pass; those that are written down with a record before and one after.
///
/// # Errors
/// Those of the route.
pub async fn guard(request: ServiceRequest, next: Next<BoxBody>) -> Result<ServiceResponse<BoxBody>, Error> {
    // As the router reads it: what is written with percent signs is no other address.
    let action = Action::of(request.method(), request.match_info().as_str());
    let app = request.app_data::<web::Data<App>>().cloned();
    let (Some(action), Some(app)) = (action, app) else { return next.call(request).await };
    if action.reads {
        let response = next.call(request).await?;
        if response.status() == StatusCode::FORBIDDEN {
            refused_reading(&app, action, &response).await;
        }
        return Ok(response);
    }
    let caller = match Caller::from_request(request.request(), &mut Payload::None).await {
        Ok(caller) => caller,
        Err(refused) => return Ok(request.into_response(refused.error_response())),
    };
    let action = action.named(&app, request.query_string()).await;
    let intent = match app.audit.intend(caller.actor(), &action.name, Some(action.object)).await {
        Ok(intent) => intent,
        Err(error) => return Ok(request.into_response(ApiError::Audit(error).error_response())),
    };
    let mut watched = Watched { intent: Some(intent), caller, engine: app.engine.clone() };
    let response = next.call(request).await?;
    watched.answered(response.response()).await;
    Ok(response)
}

/// An intent whose request is at work.
struct Watched {
    intent: Option<Intent>,
    caller: Caller,
    engine: EngineHandle,
}

impl Watched {
    fn task(&self) -> Option<JobId> {
        self.caller.audited().task
    }

    /// Takes the intent, with all that has turned out since.
    fn take(&mut self) -> Option<Intent> {
        let mut intent = self.intent.take()?;
        let audited = self.caller.audited();
        if let Some(task) = audited.task {
            intent.runs_as(task.to_string());
        }
        intent.found(audited.id, audited.name);
        Some(intent)
    }

    async fn answered(&mut self, response: &HttpResponse<BoxBody>) {
        let status = response.status();
        let location = response.headers().get("location").and_then(|value| value.to_str().ok());
        let task = location.and_then(|location| location.strip_prefix("/rest/v0/tasks/")?.parse().ok());
        let Some(intent) = self.take() else { return };
        // What goes on after the answer is written down when it has ended. An abort is done when it is answered.
        if let (StatusCode::ACCEPTED, Some(task), true) = (status, task, self.task().is_some()) {
            follow(self.engine.clone(), task, intent);
            return;
        }
        let code = response.extensions().get::<ErrorCode>().map(|code| code.0.to_owned());
        let outcome = match status {
            status if status.is_client_error() => Outcome::Refused,
            status if status.is_server_error() => Outcome::Failure,
            _ => Outcome::Success,
        };
        intent.end(outcome, code).await;
    }
}

impl Drop for Watched {
    /// The client has hung up before the answer: what its task comes to is still seen.
    fn drop(&mut self) {
        if let Some(intent) = self.take()
            && let Some(task) = self.task()
        {
            follow(self.engine.clone(), task, intent);
        }
    }
}

/// Writes down what a task comes to, when it has.
fn follow(engine: EngineHandle, task: JobId, intent: Intent) {
    let followed = async move {
        let Some(view) = engine.wait_end(task).await else { return };
        let code = view.result().and_then(|result| Some(result.get("code")?.as_str()?.to_owned()));
        match view.status() {
            TaskStatus::Success => intent.end(Outcome::Success, None).await,
            _ => intent.end(Outcome::Failure, code).await,
        }
    };
    // At the end of the server there may be no runtime left; the outcome is unknown then.
    if let Ok(runtime) = tokio::runtime::Handle::try_current() {
        runtime.spawn(followed);
    }
}

async fn refused_reading(app: &App, action: Action, response: &ServiceResponse<BoxBody>) {
    let Some(caller) = response.request().extensions().get::<Caller>().cloned() else { return };
    let code = response.response().extensions().get::<ErrorCode>().map(|code| code.0);
    let action = action.named(app, "").await;
    let noted =
        app.audit.note(caller.actor(), &action.name, Some(action.object), Outcome::Refused, code).await;
    if let Err(error) = noted {
        tracing::error!(%error, "a refused export is not in the audit");
    }
}

/// Writes down that an upload was refused before its body was asked for.
pub async fn upload_refused(
    app: &App,
    caller: &Caller,
    (method, path, query): (&Method, &str, &str),
    refused: &ApiError,
) {
    let Some(action) = Action::of(method, path) else { return };
    let action = action.named(app, query).await;
    let (code, outcome) = (refused.code(), Outcome::Refused);
    let noted = app.audit.note(caller.actor(), &action.name, Some(action.object), outcome, Some(code)).await;
    if let Err(error) = noted {
        tracing::error!(%error, "a refused upload is not in the audit");
    }
}

/// Writes down that somebody begins to read a disk or a VM: once for a transfer, however many requests it has.
///
/// # Errors
/// 503: it must not be read.
pub async fn export_begun(
    app: &App,
    caller: &Caller,
    object: ExportObject,
    task: JobId,
) -> Result<(), ApiError> {
    let task = task.to_string();
    if app.audit.has_begun(&task) {
        return Ok(());
    }
    let id = object.to_string();
    let collections: &[Collection] = match object {
        ExportObject::Vdi(_) => &[Collection::Vdis, Collection::VdiSnapshots],
        ExportObject::Vm(_) => &[Collection::Vms, Collection::VmSnapshots, Collection::VmTemplates],
    };
    let (mut kind, mut name) = (collections.first().map_or("", |one| one.kind()), None);
    for collection in collections {
        name = object_name(app, *collection, &id).await;
        if name.is_some() {
            kind = collection.kind();
            break;
        }
    }
    let action = format!("{}.export", kind.to_ascii_lowercase());
    let object = Object { kind: kind.to_owned(), id: Some(id), name };
    app.audit.begun_once(caller.actor(), &action, object, task).await.map_err(ApiError::Audit)
}
