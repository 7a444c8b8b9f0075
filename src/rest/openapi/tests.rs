use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::rest::router::Endpoint;
use crate::rest::routes;

/// What the router answers.
fn routed() -> BTreeSet<Endpoint> {
    let mut endpoints = Vec::new();
    drop(actix_web::App::new().configure(|config| endpoints = routes::endpoints(config)));
    endpoints.into_iter().collect()
}

/// What the document describes, with the paths as the router has them.
fn described() -> BTreeSet<Endpoint> {
    let document = document();
    let mut endpoints = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let servers = item.get("servers").unwrap_or(&document["servers"]).as_array().unwrap();
        let roots = servers.iter().map(|server| server["url"].as_str().unwrap().trim_end_matches('/'));
        for root in roots {
            let path = format!("{root}{path}").trim_end_matches('/').to_owned();
            for method in ["get", "put", "post", "patch", "delete", "options", "head"] {
                if item.get(method).is_some() {
                    endpoints.insert(Endpoint { path: path.clone(), method });
                }
            }
        }
    }
    endpoints
}

/// Actions are described one by one where the router has a parameter for their name.
fn of_the_router(endpoint: &Endpoint, routed: &BTreeSet<Endpoint>) -> Endpoint {
    if let Some((owner, _)) = endpoint.path.rsplit_once("/actions/") {
        let general = Endpoint { path: format!("{owner}/actions/{{action}}"), method: endpoint.method };
        if routed.contains(&general) {
            return general;
        }
    }
    endpoint.clone()
}

#[test]
fn every_route_is_described_and_nothing_else() {
    let routed = routed();
    let described: BTreeSet<Endpoint> =
        described().iter().map(|endpoint| of_the_router(endpoint, &routed)).collect();
    let missing: Vec<_> = routed.difference(&described).collect();
    let invented: Vec<_> = described.difference(&routed).collect();
    assert!(missing.is_empty(), "routes that openapi/ does not describe: {missing:#?}");
    assert!(invented.is_empty(), "described, and no route: {invented:#?}");
    assert!(routed.len() > 80, "{}", routed.len());
}

#[test]
fn every_operation_says_what_clients_and_people_need() {
    let all = operations();
    let mut ids = BTreeMap::new();
    for operation in &all {
        let place = format!("{} {}", operation.method, operation.path);
        if let Some(other) = ids.insert(operation.id().to_owned(), place.clone()) {
            panic!("{} is {place} and {other}", operation.id());
        }
    }
    let document = document();
    let tags = document["tags"].as_array().unwrap().iter();
    let tags: BTreeSet<_> = tags.map(|tag| tag["name"].as_str().unwrap()).collect();
    for operation in all {
        let place = format!("{} {}", operation.method, operation.path);
        let (method, value) = (operation.method, operation.into_json());
        for member in ["operationId", "summary", "tags", "x-mcp-exposure", "responses"] {
            assert!(value.get(member).is_some(), "{place} has no {member}");
        }
        assert!(value["tags"].as_array().unwrap().iter().all(|tag| tags.contains(tag.as_str().unwrap())));
        let exposure = value["x-mcp-exposure"].as_str().unwrap();
        let fits = match method {
            "get" => ["allow", "deny"].contains(&exposure),
            "delete" => exposure == "deny",
            _ => ["confirm", "deny"].contains(&exposure),
        };
        assert!(fits, "{place} is exposed as {exposure}");
        let public = value["security"] == json!([]);
        assert!(public || value["responses"].get("401").is_some(), "{place}");
    }
}

#[test]
fn every_reference_leads_somewhere_and_every_component_is_used() {
    fn references(value: &Value, found: &mut BTreeSet<String>) {
        match value {
            Value::Object(members) => {
                if let Some(Value::String(target)) = members.get("$ref") {
                    found.insert(target.clone());
                }
                members.values().for_each(|value| references(value, found));
            }
            Value::Array(list) => list.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let document = document();
    let mut found = BTreeSet::new();
    references(&document, &mut found);
    for target in &found {
        let pointer = target.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{target}");
    }
    for kind in ["schemas", "parameters", "responses"] {
        for name in document["components"][kind].as_object().unwrap().keys() {
            let target = format!("#/components/{kind}/{name}");
            assert!(found.contains(&target), "{target} is used by nothing");
        }
    }
}

/// The hook for `Expect: 100-continue` decides before any route does whether a body is asked for.
#[test]
fn a_body_that_is_described_is_asked_for() {
    for operation in operations() {
        let method = operation.method.to_uppercase().parse().unwrap();
        let path = format!("/rest/v0{}", operation.path.replace("{format}", "raw").replace(['{', '}'], ""));
        if operation.into_json().get("requestBody").is_some() {
            assert!(routes::takes_body(&method, &path), "{method} {path}");
        }
    }
}

/// A change of the API shows as a change of this file. `GANTRY_BLESS=1 cargo test openapi` writes it.
#[test]
fn the_document_is_the_one_in_tests_openapi_json() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/openapi.json");
    let now = format!("{:#}\n", document());
    if std::env::var_os("GANTRY_BLESS").is_some() {
        std::fs::write(file, &now).unwrap();
    }
    let golden = std::fs::read_to_string(file).unwrap_or_default();
    if let Some((at, (old, new))) =
        golden.lines().zip(now.lines()).enumerate().find(|(_, (old, new))| old != new)
    {
        panic!(
            "line {} of tests/openapi.json is {old:?}, and now {new:?}: if that is meant, run GANTRY_BLESS=1 cargo \
             test openapi",
            at + 1
        );
    }
    assert_eq!(
        golden.len(),
        now.len(),
        "tests/openapi.json ends elsewhere: run GANTRY_BLESS=1 cargo test openapi"
    );
}
