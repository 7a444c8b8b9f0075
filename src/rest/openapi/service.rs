//! The service itself: what anybody may ask.

use serde_json::{Value, json};

use super::operation::{Exposure, Operation, REST};

/// All of it.
pub fn operations() -> Vec<Operation> {
    let status =
        json!({ "type": "object", "properties": { "status": { "type": "string" } }, "required": ["status"] });
    let mut not_ready = status.clone();
    if let Some(properties) = not_ready.get_mut("properties").and_then(Value::as_object_mut) {
        properties.insert("reason".into(), json!({ "type": "string" }));
    }
    let pong = json!({
        "type": "object",
        "properties": { "result": { "const": "pong" }, "timestamp": { "type": "integer", "description": "ms" } },
        "required": ["result", "timestamp"],
    });
    let enabled = json!({
        "type": "object", "properties": { "enabled": { "type": "boolean" } }, "required": ["enabled"],
    });
    let text = |kind: &str, meaning: &str| json!({ "description": meaning, "content": { kind: { "schema": { "type": "string" } } } });
    vec![
        Operation::public("get", "/ping", "GetPing", "service")
            .at(&["/rest/v0", ""])
            .summary("Whether the server answers, and what time it has.")
            .answers_json(
                200,
                "It does.",
                &pong,
                &json!({ "result": "pong", "timestamp": 1_764_000_000_000_u64 }),
            ),
        Operation::public("get", "/health/live", "GetLive", "service")
            .at(&[""])
            .exposed(Exposure::Deny)
            .summary("Whether the process answers.")
            .answers_json(200, "It does.", &status, &json!({ "status": "live" })),
        Operation::public("get", "/health/ready", "GetReady", "service")
            .at(&[""])
            .exposed(Exposure::Deny)
            .summary("Whether new work is welcome.")
            .answers_json(200, "It is.", &status, &json!({ "status": "ready" }))
            .answers_json(
                503,
                "It is not, or not yet.",
                &not_ready,
                &json!({ "status": "not ready", "reason": "starting or draining" }),
            ),
        Operation::public("get", "/mcp/status", "GetMcpStatus", "service")
            .at(REST)
            .summary("Whether programs that let a language model act are welcome.")
            .answers_json(200, "They are.", &enabled, &json!({ "enabled": true })),
        Operation::public("get", "/gui-routes", "GetGuiRoutes", "service")
            .summary("Addresses of pages; there are none.")
            .answers_json(200, "None.", &json!({ "type": "object" }), &json!({})),
        Operation::public("get", "/docs/swagger.json", "GetOpenApi", "service")
            .exposed(Exposure::Deny)
            .summary("This document.")
            .answers(
                200,
                json!({
                    "description": "The document.",
                    "content": { "application/json": { "schema": { "type": "object" } } },
                }),
            ),
        Operation::public("get", "/docs", "GetDocs", "service")
            .exposed(Exposure::Deny)
            .summary("This document, to be read and tried in a browser.")
            .refused(&[501])
            .answers(200, text("text/html", "The page.")),
        Operation::public("get", "/docs/{file}", "GetDocsFile", "service")
            .exposed(Exposure::Deny)
            .summary("What the page consists of.")
            .segment("file", &json!({ "type": "string", "minLength": 1 }), "The file's name.")
            .refused(&[400, 401, 404, 429, 500, 501, 503])
            .answers(
                200,
                json!({
                    "description": "The file.",
                    "content": {
                        "text/html": { "schema": { "type": "string" } },
                        "text/css": { "schema": { "type": "string" } },
                        "text/javascript": { "schema": { "type": "string" } },
                        "image/png": { "schema": { "type": "string", "format": "binary" } },
                    },
                }),
            ),
    ]
}
