//! What many operations refer to: schemas, parameters, ways to sign in.

use serde_json::{Map, Value, json};

use super::{errors, objects};

/// All of it.
pub fn components() -> Value {
    let mut schemas: Map<String, Value> = objects::schemas().collect();
    schemas.extend(others());
    json!({
        "schemas": schemas,
        "parameters": parameters(),
        "responses": errors::components(),
        "securitySchemes": {
            "cookie": {
                "type": "apiKey", "in": "cookie", "name": "authenticationToken",
                "description": "A token; the cookie `token` is read too.",
            },
            "basic": { "type": "http", "scheme": "basic", "description": "Name and password." },
            "bearer": { "type": "http", "scheme": "bearer", "description": "A token." },
        },
    })
}

fn parameters() -> Value {
    let flag = json!({ "type": "boolean", "default": false });
    let query = |name: &str, schema: Value, meaning: &str| json!({ "name": name, "in": "query", "description": meaning, "schema": schema });
    json!({
        "fields": query(
            "fields",
            json!({ "type": "string" }),
            "The members to show: `*` for all, or names with commas between; a name may be a path \
             (`CPUs.number`). Without it, links are listed.",
        ),
        "filter": query(
            "filter",
            json!({ "type": "string" }),
            "Shows only what matches, in the language of Xen Orchestra's search field (`name_label:web size:>1e9`).",
        ),
        "limit": query("limit", json!({ "type": "integer", "minimum": 0 }), "The most elements to show."),
        "ndjson": query("ndjson", flag.clone(), "One JSON value per line."),
        "markdown": query("markdown", flag, "A table in Markdown; not together with `ndjson`."),
        "IdempotencyKey": {
            "name": "Idempotency-Key", "in": "header",
            "description": "The same request again, with the same key, gets the same answer and is done once.",
            "schema": { "type": "string", "minLength": 1, "maxLength": 255, "pattern": "^[!#-~][!-~]*$" },
        },
    })
}

fn others() -> [(String, Value); 9] {
    let text = json!({ "type": "string" });
    let count = json!({ "type": "integer", "minimum": 0 });
    let texts = json!({ "type": "array", "items": { "type": "string" } });
    [
        ("Error", error()),
        (
            "Created",
            json!({
                "type": "object",
                "properties": {
                    "id": text,
                    "broken": {
                        "type": "array", "items": { "type": "object" },
                        "description": "files of an attached SR that are no disks",
                    },
                },
                "required": ["id"],
            }),
        ),
        (
            "Accepted",
            json!({
                "type": "object",
                "properties": { "taskId": text, "success": { "type": "boolean" } },
                "required": ["taskId"],
            }),
        ),
        ("Links", texts.clone()),
        (
            "Elements",
            json!({
                "type": "array",
                "items": { "anyOf": [
                    { "type": "string", "description": "without `fields`: a link" },
                    {
                        "type": "object",
                        "description": "with `fields`: the members that were asked for",
                        "properties": { "href": { "type": "string" } },
                        "required": ["href"],
                    },
                ] },
            }),
        ),
        (
            "Extent",
            json!({
                "type": "object",
                "properties": { "start": count, "length": count, "data": { "type": "boolean" } },
                "required": ["start", "length", "data"],
            }),
        ),
        ("task", task()),
        (
            "user",
            json!({
                "type": "object",
                "properties": {
                    "id": text, "email": text, "name": text,
                    "permission": { "type": "string", "enum": ["admin", "none"] },
                    "role": { "type": "string", "enum": ["admin", "operator", "viewer"] },
                    "groups": texts.clone(), "preferences": { "type": "object" },
                    "pw_hash": { "const": "***obfuscated***" },
                },
                "required": ["id", "email", "permission", "role", "groups", "preferences"],
            }),
        ),
        (
            "authentication_token",
            json!({
                "type": "object",
                "properties": {
                    "id": text, "user_id": text,
                    "created_at": { "type": "integer", "description": "ms" },
                    "expiration": { "type": "integer", "description": "ms" },
                    "description": text, "client": { "type": "object" },
                    "last_uses": { "type": "object", "additionalProperties": {
                        "type": "object", "properties": { "timestamp": { "type": "integer" } },
                    } },
                    "objects": texts.clone(), "srs": texts.clone(), "scope": texts,
                    "renewable": { "type": "boolean" },
                },
                "required": ["id", "user_id", "created_at", "expiration"],
            }),
        ),
    ]
    .map(|(name, schema)| (name.to_owned(), schema))
}

fn error() -> Value {
    json!({
        "type": "object",
        "properties": {
            "error": {
                "oneOf": [
                    { "type": "string" },
                    {
                        "type": "object",
                        "description": "by parameter; members of a body are `body.<name>`",
                        "additionalProperties": {
                            "type": "object",
                            "properties": { "message": { "type": "string" }, "value": {} },
                            "required": ["message"],
                        },
                    },
                ],
            },
            "code": { "type": "string", "description": "a stable word" },
            "data": { "type": "object" },
            "info": { "type": "string" },
        },
        "required": ["error", "code"],
    })
}

fn task() -> Value {
    let text = json!({ "type": "string" });
    let ms = json!({ "type": "integer", "description": "ms" });
    let number = json!({ "type": "number", "minimum": 0 });
    json!({
        "type": "object",
        "properties": {
            "id": { "type": "string", "pattern": "^[0-9a-z]+$" },
            "properties": {
                "type": "object",
                "properties": {
                    "name": text, "type": text, "userId": text, "objectId": text, "objectType": text,
                    "progress": { "type": "number", "minimum": 0, "maximum": 100 },
                    "state": { "type": "string", "description": "the engine's own word" },
                    "bytes": number, "totalBytes": number, "bytesPerSecond": number, "etaSeconds": number,
                    "startedAt": { "type": "integer", "description": "ms; when it began to run" },
                    "stage": { "type": "string", "description": "what limits it while it runs" },
                    "waiting": { "type": "string", "description": "why it waits" },
                    "place": { "type": "integer", "description": "its place in the queue" },
                    "bandwidth": number, "priority": { "type": "integer" },
                },
            },
            "start": ms, "end": ms, "updatedAt": ms, "abortionRequestedAt": ms,
            "status": { "type": "string", "enum": ["pending", "success", "failure", "interrupted"] },
            "result": {
                "type": "object",
                "description": "what it made (`id`), or what went wrong",
                "properties": { "id": text, "name": text, "message": text, "code": text },
            },
            "tasks": { "type": "array", "items": { "$ref": "#/components/schemas/task" } },
        },
        "required": ["id", "properties", "start", "status"],
    })
}
