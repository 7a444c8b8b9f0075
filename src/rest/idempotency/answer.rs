//! Which answers are kept, what is kept of them, and how they are given again.

use actix_web::HttpResponse;
use actix_web::body::MessageBody;
use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderMap, LOCATION};
use serde_json::{Value, json};

use super::super::JSON;
use crate::rest::error::ApiError;
use crate::state::idempotency::Answer;

/// The longest body that is kept.
const MAX_BODY_BYTES: usize = 64 << 10;

/// The headers that are kept. Others are the matter of the connection, or of the moment.
const HEADERS: [&str; 4] = ["content-type", "etag", "gantry-task", "location"];

/// Says that an answer was given before.
const REPLAYED: &str = "idempotent-replayed";

/// Whether an answer was given before.
pub fn is_replayed(headers: &HeaderMap) -> bool {
    headers.contains_key(REPLAYED)
}

/// What is kept of an answer, and the answer. A secret body, one that is too long, and one that is streamed are not
/// kept.
pub fn kept(response: HttpResponse, secret: bool) -> (Answer, HttpResponse) {
    let status = response.status().as_u16();
    let headers = kept_headers(response.headers());
    let (head, body) = response.into_parts();
    match body.try_into_bytes() {
        Ok(bytes) => {
            let keep = !secret && bytes.len() <= MAX_BODY_BYTES;
            let body = keep.then(|| bytes.to_vec());
            (Answer { status, headers, body }, head.set_body(bytes).map_into_boxed_body())
        }
        Err(body) => (Answer { status, headers, body: None }, head.set_body(body).map_into_boxed_body()),
    }
}

fn kept_headers(headers: &HeaderMap) -> Vec<(String, String)> {
    let value = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
    HEADERS.iter().filter_map(|name| Some(((*name).to_owned(), value(name)?))).collect()
}

/// Whether the same request would be answered the same for good. What a moment's state has caused, and an upload
/// that broke off, may be tried again.
pub fn is_final(answer: &Answer) -> bool {
    match answer.status {
        401 | 403 | 408 | 409 | 429 => false,
        200..=299 => true,
        400..=499 => {
            let body: Option<Value> =
                answer.body.as_deref().and_then(|body| serde_json::from_slice(body).ok());
            let code = body.as_ref().and_then(|body| body.get("code"));
            code.is_none_or(|code| code != "upload_broken_off")
        }
        _ => false,
    }
}

/// The answer again.
///
/// # Errors
/// 409 when its body is not kept.
pub fn replay(answer: Answer) -> Result<HttpResponse, ApiError> {
    let Answer { status, headers, body } = answer;
    let location =
        headers.iter().find(|(name, _)| *name == LOCATION.as_str()).map(|(_, value)| value.clone());
    let (Ok(code), Some(body)) = (StatusCode::from_u16(status), body) else {
        return Err(ApiError::AnswerNotKept { status, location });
    };
    let mut response = HttpResponse::build(code);
    for header in &headers {
        response.insert_header((header.0.as_str(), header.1.as_str()));
    }
    response.insert_header((REPLAYED, "true"));
    Ok(if body.is_empty() { response.finish() } else { response.body(body) })
}

/// The answer to a request whose own was lost, and whose job has succeeded: in the form in which the contract names
/// tasks.
pub fn of_task(task: gantry_actors::JobId) -> Answer {
    let pair = |name: &str, value: String| (name.to_owned(), value);
    Answer {
        status: 202,
        headers: vec![
            pair("content-type", JSON.to_owned()),
            pair("gantry-task", task.to_string()),
            pair("location", format!("/rest/v0/tasks/{task}")),
        ],
        body: Some(json!({ "taskId": task.to_string(), "success": true }).to_string().into_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(status: u16, code: &str) -> Answer {
        let body = json!({ "error": "x", "code": code }).to_string().into_bytes();
        Answer { status, headers: Vec::new(), body: Some(body) }
    }

    #[test]
    fn what_may_be_tried_again_is_not_kept() {
        for status in [200, 201, 202, 204, 400, 404, 410, 413, 422] {
            assert!(is_final(&answer(status, "x")), "{status}");
        }
        for status in [307, 401, 403, 408, 409, 429, 500, 501, 503, 507] {
            assert!(!is_final(&answer(status, "x")), "{status}");
        }
        assert!(!is_final(&answer(400, "upload_broken_off")));
        assert!(is_final(&Answer { body: None, ..answer(422, "x") }));
    }

    #[test]
    fn an_answer_is_given_again_as_it_was() {
        let given = HttpResponse::Created()
            .insert_header(("Location", "/rest/v0/vdis/x"))
            .insert_header(("Set-Cookie", "of=the moment"))
            .content_type(JSON)
            .body("{}");
        let (answer, given) = kept(given, false);
        assert_eq!((given.status(), given.headers().contains_key("set-cookie")), (StatusCode::CREATED, true));
        assert_eq!(given.into_body().try_into_bytes().unwrap(), "{}");
        let again = replay(answer).unwrap();
        assert_eq!(again.status(), StatusCode::CREATED);
        let mut names: Vec<_> = again.headers().iter().map(|(name, _)| name.as_str().to_owned()).collect();
        names.sort();
        assert_eq!(names, ["content-type", "idempotent-replayed", "location"]);
        assert_eq!(again.into_body().try_into_bytes().unwrap(), "{}");
    }

    #[test]
    fn of_a_secret_or_long_answer_only_the_head_is_kept() {
        for (body, secret) in [("x".repeat(MAX_BODY_BYTES + 1), false), ("x".to_owned(), true)] {
            let (answer, given) = kept(HttpResponse::Created().body(body.clone()), secret);
            assert_eq!(given.into_body().try_into_bytes().unwrap(), body);
            assert_eq!((answer.status, &answer.body), (201, &None));
            assert!(matches!(replay(answer), Err(ApiError::AnswerNotKept { status: 201, .. })));
        }
        let (answer, _) = kept(HttpResponse::Ok().body("x".repeat(MAX_BODY_BYTES)), false);
        assert!(answer.body.is_some());
    }
}
