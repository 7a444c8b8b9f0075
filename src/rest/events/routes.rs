//! `GET /events`, and what a stream is subscribed to.

use std::sync::Arc;

use actix_web::http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::{HttpRequest, HttpResponse, web};
use serde_json::{Value, json};
use uuid::Uuid;

use crate::auth::Capability;

use super::super::App;
use super::super::JSON;
use super::super::caller::Caller;
use super::super::connection::Connection;
use super::super::error::ApiError;
use super::super::query::Params;
use super::frame::{self, Fields};
use super::{Form, HEARTBEAT, Heartbeat, Kind, NoBody};

fn no_such(connection: &str) -> ApiError {
    ApiError::NoSuchObject { kind: "event", id: connection.chars().take(64).collect() }
}

/// `GET /events`: a stream of server-sent events. It begins with its own id, by which it is subscribed to
/// something. What a client missed while it had no stream is not sent again, whatever `Last-Event-ID` it names.
///
/// # Errors
/// 403; 503 when there are too many.
pub async fn stream(
    app: web::Data<App>,
    caller: Caller,
    request: HttpRequest,
) -> Result<HttpResponse, ApiError> {
    caller.require(Capability::Read, None, "event")?;
    let mut response = HttpResponse::Ok();
    response.insert_header((CONTENT_TYPE, HeaderValue::from_static("text/event-stream")));
    response.insert_header((CACHE_CONTROL, HeaderValue::from_static("no-cache, no-transform")));
    if request.method() == Method::HEAD {
        return Ok(response.body(NoBody));
    }
    let connection = request.conn_data::<Arc<Connection>>().map(Arc::downgrade);
    let opened = app.events.open(caller.principal(), connection).await?;
    // Nothing waits yet, so there is room for it.
    opened.outlet.push(frame::init(&opened.id.to_string()), u64::MAX);
    Ok(response.body(opened.into_body(Heartbeat { every: HEARTBEAT, frame: frame::ping })))
}

/// `POST /events/<connection>/subscriptions`. Objects that are there already are not sent; to subscribe again
/// chooses other members.
///
/// # Errors
/// 404 for a connection that is not this user's; 422 for a type or members that are none.
pub async fn subscribe(
    app: web::Data<App>,
    caller: Caller,
    connection: &str,
    mut params: Params,
) -> Result<HttpResponse, ApiError> {
    caller.require(Capability::Read, None, "event")?;
    let id = known(&app, &caller, connection)?;
    let name = params.required_text("collection")?;
    let Some(kind) = Kind::named(&name) else {
        let message =
            "Value does not match any allowed schema: the type of an object, such as VDI, SR or task";
        return Err(ApiError::invalid("body.collection", message, Some(Value::from(name))));
    };
    let fields = fields(&mut params)?;
    params.nothing_else()?;
    if !app.events.subscribe(id, caller.user(), kind, Form::Events(Arc::new(fields))).await? {
        return Err(no_such(connection));
    }
    Ok(HttpResponse::build(StatusCode::CREATED).content_type(JSON).json(json!({ "id": kind.name() })))
}

/// `DELETE /events/<connection>/subscriptions/<type>`; what is not subscribed to needs no ending.
///
/// # Errors
/// 404 for a connection that is not this user's.
pub async fn unsubscribe(
    app: web::Data<App>,
    caller: Caller,
    connection: &str,
    name: &str,
) -> Result<HttpResponse, ApiError> {
    caller.require(Capability::Read, None, "event")?;
    let id = known(&app, &caller, connection)?;
    if let Some(kind) = Kind::named(name) {
        app.events.unsubscribe(id, caller.user(), kind);
    }
    Ok(HttpResponse::NoContent().finish())
}

fn known(app: &App, caller: &Caller, connection: &str) -> Result<Uuid, ApiError> {
    let id = Uuid::try_parse(connection).ok().filter(|id| app.events.is_of(*id, caller.user()));
    id.ok_or_else(|| no_such(connection))
}

/// The members that are chosen: all, unless they are named.
fn fields(params: &mut Params) -> Result<Fields, ApiError> {
    match params.any("fields") {
        None => Ok(Fields::All),
        Some(Value::String(text)) if text == "*" => Ok(Fields::All),
        Some(Value::Array(names)) => {
            let texts: Option<Vec<String>> =
                names.iter().map(|one| one.as_str().map(str::to_owned)).collect();
            let texts = texts.ok_or_else(|| bad_fields(Value::Array(names)))?;
            Ok(Fields::named(&texts))
        }
        Some(other) => Err(bad_fields(other)),
    }
}

fn bad_fields(value: Value) -> ApiError {
    let message = "Value does not match any allowed schema: \"*\" or an array of names";
    ApiError::invalid("body.fields", message, Some(value))
}
