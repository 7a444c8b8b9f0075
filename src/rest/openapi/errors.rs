//! Refusals: every status with which something is refused, described once.

use serde_json::{Map, Value, json};

/// Status, name, meaning.
const REFUSALS: [(u16, &str, &str); 17] = [
    (
        400,
        "BadRequest",
        "What was sent makes no sense: a filter, a body, credentials, a query that cannot be read.",
    ),
    (401, "Unauthenticated", "No credentials, or wrong ones."),
    (403, "Forbidden", "Role or token do not allow it."),
    (404, "NotFound", "There is no such object, or no such action."),
    (408, "Silent", "Nothing of the upload came for too long."),
    (409, "Conflict", "As things are it cannot be done."),
    (410, "Gone", "The content is not there any more."),
    (412, "PreconditionFailed", "`If-Match` names other content."),
    (413, "TooLong", "The body of parameters is longer than `http.max_json`."),
    (416, "RangeNotSatisfiable", "No byte of the range exists."),
    (422, "Unprocessable", "A parameter, a member of the body or the image cannot be taken."),
    (429, "TooFast", "Too many failed logins."),
    (500, "InternalError", "The storage failed."),
    (501, "NotImplemented", "Not in this build."),
    (
        503,
        "Unavailable",
        "Not now: there is no turn within `transfers.queue_wait`, or something does not answer.",
    ),
    (505, "HttpVersion", "The answer has no length, which HTTP/1.0 needs."),
    (507, "NoRoom", "The SR has not enough room."),
];

/// The name of the description of a status.
pub fn component(status: u16) -> &'static str {
    REFUSALS.iter().find(|(one, ..)| *one == status).map_or("InternalError", |(_, name, _)| name)
}

fn example(status: u16) -> Value {
    match status {
        400 => json!({
            "error": "parse error: expected end of input at position 0", "code": "bad_filter",
            "data": { "stringToParse": "(" },
        }),
        401 => json!({ "error": "invalid credentials", "code": "unauthenticated" }),
        403 => json!({
            "error": "not enough privileges", "code": "not_enough_privileges",
            "data": { "missingPrivileges": [{ "action": "change", "resource": "VDI" }] },
        }),
        404 => json!({
            "error": "no such VDI 6f2c8a4e-93d1-4d0b-a7a5-1f0f5a3c9b10", "code": "no_such_object",
            "data": { "id": "6f2c8a4e-93d1-4d0b-a7a5-1f0f5a3c9b10", "type": "VDI" },
        }),
        409 => json!({ "error": "incorrect state", "code": "incorrect_state" }),
        416 => {
            json!({ "error": "no byte of the range exists: the whole has 512 bytes", "code": "range_not_satisfiable" })
        }
        422 => json!({
            "error": { "limit": {
                "message": "invalid number: a whole number from 0 on is needed", "value": "abc",
            } },
            "code": "invalid_parameters", "data": {},
        }),
        429 => json!({
            "error": "too fast authentication tries: try again in 2 s", "code": "too_many_failed_logins",
        }),
        507 => json!({ "error": "the SR has not enough room", "code": "insufficient_storage" }),
        _ => json!({ "error": "what was wrong", "code": "stable_word" }),
    }
}

/// All of them, by name.
pub fn components() -> Value {
    let mut all = Map::new();
    for (status, name, meaning) in REFUSALS {
        let media = json!({
            "schema": { "$ref": "#/components/schemas/Error" },
            "examples": { "example": { "value": example(status) } },
        });
        let mut response = json!({ "description": meaning, "content": { "application/json": media } });
        let header = match status {
            401 => Some(("WWW-Authenticate", "`Basic realm=\"xo\"`")),
            429 | 503 => Some(("Retry-After", "Seconds after which it makes sense to try again.")),
            416 => Some(("Content-Range", "`bytes */<length>`")),
            _ => None,
        };
        if let (Some((header, text)), Some(members)) = (header, response.as_object_mut()) {
            let header = json!({ header: { "description": text, "schema": { "type": "string" } } });
            members.insert("headers".into(), header);
        }
        all.insert(name.into(), response);
    }
    all.into()
}
