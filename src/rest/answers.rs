//! Answers that several addresses give.

use std::fmt::Display;

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::http::header::LOCATION;
use gantry_actors::JobId;
use serde_json::{Value, json};

use super::JSON;

/// 201: an object was made in a collection.
pub fn created(collection: &str, id: impl Display) -> HttpResponse {
    let body = json!({ "id": id.to_string() });
    created_with(collection, id, body)
}

/// The same with more to say than its id.
pub fn created_with(collection: &str, id: impl Display, body: Value) -> HttpResponse {
    HttpResponse::build(StatusCode::CREATED)
        .insert_header((LOCATION, format!("/rest/v0/{collection}/{id}")))
        .content_type(JSON)
        .json(body)
}

/// 202: an action goes on by itself, as a task.
pub fn accepted(task: JobId) -> HttpResponse {
    HttpResponse::build(StatusCode::ACCEPTED)
        .insert_header((LOCATION, format!("/rest/v0/tasks/{task}")))
        .content_type(JSON)
        .json(json!({ "taskId": task.to_string() }))
}
