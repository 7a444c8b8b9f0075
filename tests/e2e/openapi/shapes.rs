//! Real objects of every collection against their schemas, and actions against what is described of them.

use serde_json::{Value, json};

use crate::support::server::{Server, created};
use crate::support::xva;

/// What a schema says of a value, and what a value has that the schema knows nothing of: members of objects too,
/// which JSON Schema itself would let pass. Knows the words that the description uses, and no others.
fn faults(value: &Value, schema: &Value, place: &str, found: &mut Vec<String>) {
    let length = |list: &Value| list.as_array().map(|list| list.len() as u64);
    for (word, wanted) in schema.as_object().expect("a schema") {
        let fits = match word.as_str() {
            "description" | "properties" | "additionalProperties" | "items" => true,
            "type" => match wanted {
                Value::Array(kinds) => kinds.iter().any(|kind| is(value, kind)),
                kind => is(value, kind),
            },
            "enum" => wanted.as_array().unwrap().contains(value),
            "const" => value == wanted,
            "minimum" => value.as_f64().is_none_or(|number| number >= wanted.as_f64().unwrap()),
            "minItems" => length(value).is_none_or(|length| length >= wanted.as_u64().unwrap()),
            "maxItems" => length(value).is_none_or(|length| length <= wanted.as_u64().unwrap()),
            "required" => {
                wanted.as_array().unwrap().iter().all(|name| value.get(name.as_str().unwrap()).is_some())
            }
            other => panic!("{place}: the test does not know {other}"),
        };
        if !fits {
            found.push(format!("{place}: {word} {wanted} does not fit {value}"));
        }
    }
    let free = schema["type"] == "object" && schema.get("properties").is_none();
    for (name, member) in value.as_object().into_iter().flatten() {
        let place = format!("{place}.{name}");
        match (schema["properties"].get(name), schema.get("additionalProperties")) {
            (Some(schema), _) | (None, Some(schema @ Value::Object(_))) => {
                faults(member, schema, &place, found);
            }
            _ if free => {}
            _ => found.push(format!("{place} is not described")),
        }
    }
    if let (Some(list), Some(schema)) = (value.as_array(), schema.get("items")) {
        for (at, item) in list.iter().enumerate() {
            faults(item, schema, &format!("{place}[{at}]"), found);
        }
    }
}

fn is(value: &Value, kind: &Value) -> bool {
    match kind.as_str().unwrap() {
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        "null" => value.is_null(),
        other => panic!("{other} is no type"),
    }
}

/// Puts something into every collection that can have something, and returns the pool.
fn furnish(server: &Server) -> String {
    let disk = vec![7; 2 << 20];
    let vdi = server.import("?raw&name_label=a", disk.clone());
    let body = json!({"name_label": "w", "vdis": [vdi]});
    let vm = created(&server.request("POST", "/rest/v0/vms").json(&body).send(), "vms");
    let mut archive = xva::Builder::new(&xva::document("guest", &[disk.len() as u64]));
    archive.disk(&xva::folder(0), &disk);
    let pool = server.json("/rest/v0/pools?fields=id")[0]["id"].as_str().unwrap().to_owned();
    let target = format!("/rest/v0/pools/{pool}/vms");
    created(&server.request("POST", &target).body(archive.finish()).send(), "vms");
    for owner in [format!("vms/{vm}"), format!("vdis/{vdi}")] {
        server.request("POST", &format!("/rest/v0/{owner}/actions/snapshot?sync")).send().expect(201);
    }
    pool
}

#[test]
fn objects_of_every_collection_are_what_their_schemas_say() {
    let server = Server::start();
    furnish(&server);
    let document = server.json("/rest/v0/docs/swagger.json");
    let mut seen = Vec::new();
    for entry in server.json("/rest/v0?fields=id,type").as_array().unwrap() {
        let (name, kind) = (entry["id"].as_str().unwrap(), entry["type"].as_str().unwrap());
        // Each sort of tasks has members of its own.
        if kind == "task" {
            continue;
        }
        let schema = &document["components"]["schemas"][kind];
        for object in server.json(&format!("/rest/v0/{name}?fields=*")).as_array().unwrap() {
            let whole = server.json(object["href"].as_str().unwrap());
            let mut found = Vec::new();
            faults(&whole, schema, kind, &mut found);
            assert!(found.is_empty(), "{found:#?}");
            seen.push(name.to_owned());
        }
    }
    seen.dedup();
    // An import makes no template.
    let all = "hosts networks pools srs users vbds vdi-snapshots vdis vifs vm-snapshots vms";
    for name in all.split(' ') {
        assert!(seen.iter().any(|one| one == name), "no object of {name} was seen");
    }
}

#[test]
fn the_actions_that_are_listed_are_those_that_are_described() {
    let server = Server::start();
    let document = server.json("/rest/v0/docs/swagger.json");
    for collection in ["vms", "vdis", "srs", "tasks"] {
        let listed = server.json(&format!("/rest/v0/{collection}/_/actions"));
        let links = listed.as_array().unwrap().iter();
        let mut listed: Vec<&str> = links.filter_map(|link| link.as_str()?.rsplit('/').next()).collect();
        let prefix = format!("/{collection}/{{id}}/actions/");
        let paths = document["paths"].as_object().unwrap();
        let described = paths.iter().filter(|(_, item)| item.get("post").is_some());
        let mut described: Vec<&str> = described.filter_map(|(path, _)| path.strip_prefix(&prefix)).collect();
        listed.sort_unstable();
        described.sort_unstable();
        assert_eq!(listed, described, "{collection}");
    }
}
