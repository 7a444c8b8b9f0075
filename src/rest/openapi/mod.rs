//! The API's description: OpenAPI 3.1, made of one table of operations per subject. A test compares it with the
//! router's own list (`router`) in both directions, so a route cannot be added without its description; objects are
//! described by `inventory`, which makes them.

mod accounts;
mod components;
mod errors;
mod objects;
mod operation;
mod service;
mod tasks;
mod transfers;

use std::sync::LazyLock;

use actix_web::HttpResponse;
use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::JSON;
use operation::Operation;

const ABOUT: &str = "Exports, imports and everything around them, in the REST dialect of Xen Orchestra.\n\n\
    - `HEAD` is `GET` without a body, everywhere.\n\
    - A slash at the end of a path changes nothing; what has no route is 404, never 405.\n\
    - Query parameters that nobody asks for are ignored; members of bodies are not.\n\
    - A flag in a query is true when it is there without a value, and for `true` and `1`.\n\
    - Bodies of parameters may be JSON or forms; numbers and booleans may come as texts.\n\
    - Errors have a stable `code`.";

fn operations() -> Vec<Operation> {
    let mut all = service::operations();
    all.extend(objects::operations());
    all.extend(objects::actions());
    all.extend(transfers::operations());
    all.extend(tasks::operations());
    all.extend(accounts::operations());
    all
}

/// The document.
pub fn document() -> Value {
    let mut paths = Map::new();
    for operation in operations() {
        let (path, method, roots) = (operation.path.clone(), operation.method, operation.roots);
        let item = paths.entry(path).or_insert_with(|| match roots {
            operation::REST => json!({}),
            roots => {
                let url = |root: &&str| json!({ "url": if root.is_empty() { "/" } else { *root } });
                json!({ "servers": roots.iter().map(url).collect::<Vec<_>>() })
            }
        });
        if let Some(item) = item.as_object_mut() {
            item.insert(method.into(), operation.into_json());
        }
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Gantry",
            "version": env!("CARGO_PKG_VERSION"),
            "description": ABOUT,
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "/rest/v0" }],
        "security": [{ "cookie": [] }, { "bearer": [] }, { "basic": [] }],
        "tags": tags(),
        "paths": paths,
        "components": components::components(),
    })
}

fn tags() -> Value {
    let mut named = vec![
        ("collections", "What there is."),
        ("events", "What happens, as it happens."),
        ("service", "The service itself."),
        ("tasks", "Transfers and other work."),
        ("users", "Users and their tokens."),
        ("audit", "Who has done what."),
    ];
    for collection in crate::inventory::Collection::ALL {
        named.push((collection.name(), collection.kind()));
    }
    named.sort_unstable();
    named.into_iter().map(|(name, text)| json!({ "name": name, "description": text })).collect()
}

/// `GET /docs/swagger.json`.
pub async fn serve() -> HttpResponse {
    static TEXT: LazyLock<Bytes> = LazyLock::new(|| document().to_string().into());
    HttpResponse::Ok().content_type(JSON).body(TEXT.clone())
}

#[cfg(test)]
mod tests;
