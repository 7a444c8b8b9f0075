//! Users and tokens.

use serde_json::{Value, json};

use super::objects::listed;
use super::operation::{Exposure, Operation, schema};

const USER: &str = "c1a0cbe4-7ed5-4f6e-8d7c-9f3a1f0e2b11";

/// All operations on users.
pub fn operations() -> Vec<Operation> {
    let user = json!({
        "id": USER, "email": "admin", "name": "admin", "permission": "admin", "role": "admin",
        "groups": [], "preferences": {}, "pw_hash": "***obfuscated***",
    });
    let element = json!({
        "id": USER, "email": "admin", "permission": "admin", "href": format!("/rest/v0/users/{USER}"),
    });
    let list = Operation::new("get", "/users", "GetUsers", "users");
    let mut all = vec![
        listed(list.summary("Lists the users; oneself only, unless an administrator asks."), &element),
        Operation::new("get", "/users/{id}", "GetUser", "users")
            .summary("One user.")
            .refused(&[404])
            .answers_json(200, "The user.", &schema("user"), &user),
    ];
    all.extend(changes_of_users());
    all.extend(own_address());
    all.extend(tokens());
    all.extend(audit());
    all
}

fn changes_of_users() -> Vec<Operation> {
    let text = json!({ "type": "string" });
    let role = json!({ "type": "string", "enum": ["admin", "operator", "viewer"] });
    let permission = json!({ "type": "string", "enum": ["admin", "none"] });
    let new = json!({
        "type": "object",
        "properties": {
            "name": text, "email": text, "password": text, "role": role, "permission": permission,
        },
        "required": ["password"], "additionalProperties": false,
    });
    let change = json!({
        "type": "object",
        "properties": {
            "password": text, "currentPassword": text, "role": role, "permission": permission,
        },
        "additionalProperties": false,
    });
    vec![
        Operation::new("post", "/users", "CreateUser", "users")
            .summary("Makes a user; administrators only.")
            .exposed(Exposure::Deny)
            .takes(true, &new, &json!({ "name": "backup", "password": "a long one", "role": "operator" }))
            .repeatable()
            .refused(&[413])
            .makes("user", "users"),
        Operation::new("patch", "/users/{id}", "UpdateUser", "users")
            .summary("Changes one's own password, or as an administrator somebody's password or role.")
            .exposed(Exposure::Deny)
            .takes(
                true,
                &change,
                &json!({ "password": "another long one", "currentPassword": "the old one" }),
            )
            .refused(&[404, 409, 413, 422])
            .done(),
        Operation::new("delete", "/users/{id}", "DeleteUser", "users")
            .summary("Removes a user with his tokens; administrators only.")
            .exposed(Exposure::Deny)
            .refused(&[404, 409])
            .done(),
    ]
}

fn audit() -> Vec<Operation> {
    let record = json!({
        "id": "17", "time": 1_764_280_000_000_i64, "action": "vdi.delete", "outcome": "success",
    });
    let element = json!({ "id": "17", "action": "vdi.delete", "href": "/rest/v0/audit/17" });
    let list = Operation::new("get", "/audit", "GetAudit", "audit").exposed(Exposure::Deny);
    vec![
        listed(list.summary("Who has done what, newest first; administrators only."), &element),
        Operation::new("get", "/audit/{id}", "GetAuditRecord", "audit")
            .summary("One record of the audit; administrators only.")
            .exposed(Exposure::Deny)
            .refused(&[404])
            .answers_json(200, "The record.", &json!({ "type": "object" }), &record),
    ]
}

fn own_address() -> Vec<Operation> {
    let mut all = Vec::new();
    for (method, word) in
        [("get", "Get"), ("post", "Post"), ("put", "Put"), ("patch", "Patch"), ("delete", "Delete")]
    {
        for (path, id, summary) in [
            ("/users/me", format!("{word}Me"), "Leads to one's own user."),
            ("/users/me/{rest}", format!("{word}MyRest"), "Leads to what is below one's own user."),
        ] {
            // It cannot be followed by those who show answers of 200.
            let exposure = if id == "GetMe" { Exposure::Allow } else { Exposure::Deny };
            let operation = Operation::new(method, path, id, "users").summary(summary).exposed(exposure);
            let operation = match path.contains("rest") {
                true => {
                    operation.segment("rest", &json!({ "type": "string" }), "Any path, slashes included.")
                }
                false => operation,
            };
            let operation = match method {
                "post" => operation.refused(&[409, 413, 422]),
                _ => operation,
            };
            all.push(operation.answers(
                307,
                json!({
                    "description": "The same below `/rest/v0/users/<own id>`; method and body are kept.",
                    "headers": {
                        "Location": { "description": "Where it is.", "schema": { "type": "string" } },
                    },
                    "content": { "text/plain": { "schema": { "type": "string" } } },
                }),
            ));
        }
    }
    all
}

fn token_request() -> Value {
    let texts = json!({ "type": "array", "items": { "type": "string" }, "uniqueItems": true });
    json!({
        "type": "object",
        "properties": {
            "client": {
                "type": "object", "properties": { "id": { "type": "string" } },
                "description": "with an id, the token of the same client is renewed",
            },
            "description": { "type": "string" },
            "expiresIn": {
                "oneOf": [{ "type": "integer" }, { "type": "string" }],
                "description": "milliseconds, or a duration such as `2 weeks`; from a minute to half a year",
            },
            "scope": {
                "type": "array",
                "items": { "type": "string", "enum": ["read", "export", "import", "admin"] },
                "description": "the parts of the role; all, unless they are said",
            },
            "objects": texts, "srs": texts,
            "renewable": { "type": "boolean" },
        },
        "additionalProperties": false,
    })
}

fn tokens() -> Vec<Operation> {
    let token = json!({
        "id": "8d1f6f6a1d2f4a11", "user_id": USER,
        "created_at": 1_764_000_000_000_u64, "expiration": 1_766_592_000_000_u64, "description": "nightly",
    });
    let mut issued = token.clone();
    if let Some(members) = issued.as_object_mut() {
        members.insert("id".into(), "Jm3-8BOnVxJ4zQ0bJt8b7e4Qm8wz9cYyW6vT5sR4qP0".into());
    }
    let create = |path: &str, id: &str| {
        Operation::new("post", path, id, "users")
            .exposed(Exposure::Deny)
            .takes(false, &token_request(), &json!({ "description": "nightly", "expiresIn": "2 weeks" }))
            .repeatable()
            .answers_json(
                201,
                "The token; `id` is its secret, which is never shown again.",
                &json!({
                    "type": "object", "properties": { "token": schema("authentication_token") },
                    "required": ["token"],
                }),
                &json!({ "token": issued }),
            )
    };
    vec![
        create("/users/{id}/authentication_tokens", "CreateAuthenticationToken")
            .summary("Makes a token for oneself."),
        create("/users/authentication_tokens", "CreateOwnAuthenticationToken")
            .summary("Makes a token for oneself, at the address of old.")
            .deprecated(),
        Operation::new("get", "/users/{id}/authentication_tokens", "GetAuthenticationTokens", "users")
            .summary("Lists one's own tokens, without their secrets.")
            .exposed(Exposure::Deny)
            .shared(&["fields", "filter", "limit", "ndjson", "markdown"])
            .refused(&[422])
            .answers_json(
                200,
                "The tokens, whole, whatever `fields` says.",
                &json!({ "type": "array", "items": schema("authentication_token") }),
                &json!([token]),
            ),
        Operation::new(
            "delete",
            "/users/{id}/authentication_tokens/{token}",
            "DeleteAuthenticationToken",
            "users",
        )
        .summary("Revokes a token, and cuts what it has begun.")
        .segment("token", &json!({ "type": "string", "minLength": 1 }), "Its public id, or its secret.")
        .refused(&[404])
        .done(),
    ]
}
