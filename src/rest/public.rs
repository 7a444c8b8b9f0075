//! What anybody may ask: whether the server lives, and whether it is ready.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use gantry_actors::Health;
use serde_json::json;

use super::JSON;
use crate::state::now_ms;

use super::App;
use super::caller::Caller;
use super::error::ApiError;

/// `GET /ping`
pub async fn ping() -> HttpResponse {
    HttpResponse::Ok().content_type(JSON).json(json!({ "result": "pong", "timestamp": now_ms() }))
}

/// `GET /health/live`: the process answers.
pub async fn live() -> HttpResponse {
    HttpResponse::Ok().content_type(JSON).json(json!({ "status": "live" }))
}

/// `GET /health/ready`: state is open, jobs are recovered, the socket is bound, and no drain has begun.
pub async fn ready(app: web::Data<App>) -> HttpResponse {
    let health = app.engine.health();
    if app.is_ready() && health == Health::Ready {
        return HttpResponse::Ok().content_type(JSON).json(json!({ "status": "ready" }));
    }
    let reason = if app.is_ready() {
        format!("engine {health:?}").to_lowercase()
    } else {
        "starting or draining".into()
    };
    HttpResponse::build(StatusCode::SERVICE_UNAVAILABLE)
        .insert_header(("Retry-After", "1"))
        .content_type(JSON)
        .json(json!({ "status": "not ready", "reason": reason }))
}

/// `GET /mcp/status`: whether programs that let a language model act are welcome.
pub async fn mcp_status() -> HttpResponse {
    HttpResponse::Ok().content_type(JSON).json(json!({ "enabled": true }))
}

/// `GET /gui-routes`: the addresses of pages, of which there are none.
pub async fn gui_routes() -> HttpResponse {
    HttpResponse::Ok().content_type(JSON).json(json!({}))
}

/// What no route is for. Only those who may ask learn that.
///
/// # Errors
/// 401 without credentials, 404 with them.
pub async fn no_route(_caller: Caller, request: HttpRequest) -> Result<HttpResponse, ApiError> {
    Err(ApiError::NoSuchRoute {
        method: request.method().to_string(),
        path: request.path().chars().take(200).collect(),
    })
}
