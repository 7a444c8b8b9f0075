//! §4 Root, and §5 Collections with all their parameters.

use serde_json::{Value, json};

use super::{NOBODY, Site, texts};
use crate::support::disk::noise;
use crate::support::server::Server;

/// The seed era's collections "in that order".
const SEED: [&str; 11] = [
    "hosts",
    "networks",
    "pools",
    "srs",
    "vbds",
    "vdi-snapshots",
    "vdis",
    "vifs",
    "vm-snapshots",
    "vm-templates",
    "vms",
];

/// §4: "→ with credentials, the S answer plus our other collections": links, or with `?fields=id,type` objects.
#[test]
fn the_root_is_the_collection_of_collections() {
    let server = Server::start();
    let links = texts(&server.json("/rest/v0"));
    let seed = links.iter().filter_map(|link| link.strip_prefix("/rest/v0/"));
    let seed: Vec<&str> = seed.filter(|name| SEED.contains(name)).collect();
    assert_eq!(seed, SEED);
    assert!(links.contains(&"/rest/v0/tasks".to_owned()));
    for object in server.json("/rest/v0/?fields=id,type").as_array().expect("an array") {
        assert_eq!(object["href"], format!("/rest/v0/{}", object["id"].as_str().expect("an id")));
    }
    server.request("GET", "/rest/v0").anonymous().send().refused(401..=401);
    assert_eq!(server.json("/rest/v0?limit=2").as_array().map(Vec::len), Some(2));
}

/// §5, the table of collections: what each holds has its type, and is found there alone.
#[test]
fn each_collection_holds_the_objects_of_its_type() {
    let site = Site::new();
    for (collection, kind, id) in site.kinds() {
        let all = site.get(&format!("{collection}?fields=id,type"));
        let all = all.as_array().expect("an array");
        assert!(all.iter().all(|object| object["type"] == kind), "{collection}: {all:?}");
        assert!(all.iter().any(|object| object["id"] == id), "{collection}");
        for (other, _, _) in site.kinds().iter().filter(|(other, _, _)| *other != collection) {
            site.send("GET", &format!("{other}/{id}")).refused(404..=404);
        }
    }
    assert_eq!(site.get("vm-templates"), json!([]), "Empty collection: `[]`, status 200");
}

fn keys(object: &Value) -> Vec<&str> {
    object.as_object().expect("an object").keys().map(String::as_str).collect()
}

/// §5, `fields`: absent, `*`, comma list, path, empty, unknown.
#[test]
fn fields_has_its_five_forms_in_every_collection() {
    let site = Site::new();
    for (collection, _, id) in site.kinds() {
        let href = format!("/rest/v0/{collection}/{id}");
        let one = |query: &str| {
            let list = site.get(&format!("{collection}?{query}&filter=id:{id}"));
            assert_eq!(list.as_array().map(Vec::len), Some(1), "{collection} {query}: {list}");
            list[0].clone()
        };
        assert_eq!(one(""), json!(href), "absent: link strings");
        let mut whole = site.get(&format!("{collection}/{id}"));
        whole["href"] = json!(href);
        assert_eq!(keys(&one("fields=*")), keys(&whole), "`*`: whole objects plus `href`");
        assert_eq!(one("fields=uuid,id"), json!({"id": id, "uuid": id, "href": href}), "a comma list");
        assert_eq!(
            one("fields=uuid,nonsense,%20type"),
            json!({"uuid": id, "href": href}),
            "names are not trimmed"
        );
        assert_eq!(one("fields="), json!({"href": href}), "empty: only the link");
        assert_eq!(one("fields=,"), json!({"href": href}));
        assert_eq!(one("fields=nonsense.of.it,id.x"), json!({"href": href}), "unknown names are dropped");
    }
}

/// "A name may be a path (`CPUs.number` gives `{"CPUs": {"number": 2}}`)".
#[test]
fn a_field_may_be_a_path() {
    let site = Site::new();
    let vm = |fields: &str| site.get(&format!("vms?filter=id:{}&fields={fields}", site.vm))[0].clone();
    let href = format!("/rest/v0/vms/{}", site.vm);
    assert_eq!(vm("CPUs.number"), json!({"CPUs": {"number": 2}, "href": href}));
    assert_eq!(vm("CPUs.number,CPUs.max"), json!({"CPUs": {"number": 2, "max": 4}, "href": href}));
    assert_eq!(vm("CPUs.number,CPUs.nothing,memory.size.x"), json!({"CPUs": {"number": 2}, "href": href}));
    let both = vm("boot.firmware,name_label");
    assert_eq!(both, json!({"boot": {"firmware": "uefi"}, "name_label": "from an archive", "href": href}));
}

/// "`filter`: applied first"; "`limit`: applied after `filter` → non-negative integer, else 422".
#[test]
fn the_filter_comes_before_the_limit_and_the_limit_is_a_whole_number() {
    let server = Server::start();
    for name in ["a1", "b1", "a2", "b2", "a3"] {
        server.import(&format!("?raw&name_label={name}"), noise(512, 1));
    }
    let count = |query: &str| server.json(&format!("/rest/v0/vdis?{query}")).as_array().map(Vec::len);
    assert_eq!(count("filter=name_label:a&limit=2"), Some(2));
    assert_eq!(count("filter=name_label:b&limit=9&fields=id"), Some(2), "by a member that is not shown");
    assert_eq!(count("limit=0"), Some(0));
    assert_eq!(count("filter="), Some(5), "a blank filter matches everything");
    assert_eq!(count("filter=%20"), Some(5));
    for query in ["limit=", "limit=-1", "limit=x", "limit=1.0", "limit=0x1", "limit=1&limit=2"] {
        let refusal = server.get(&format!("/rest/v0/vdis?{query}")).refused(422..=422);
        assert!(refusal.error["limit"]["message"].is_string(), "{query}");
    }
}

/// "`ndjson`: one JSON value per line, `application/x-ndjson`, chunked, no `Content-Length`; link strings are JSON
/// strings". In every collection, also empty ones.
#[test]
fn ndjson_has_a_value_on_each_line_in_every_collection() {
    let site = Site::new();
    let more = ["tasks", "users", "", "vm-templates"];
    for collection in site.kinds().iter().map(|(name, _, _)| *name).chain(more) {
        for query in ["", "fields=id"] {
            let response = site.send("GET", &format!("{collection}?ndjson=true&{query}")).expect(200);
            assert_eq!(response.head.need("Content-Type"), "application/x-ndjson", "{collection}");
            assert!(response.head.header("Content-Length").is_none(), "{collection}");
            let text = String::from_utf8(response.body).expect("it is text");
            let lines: Vec<Value> =
                text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
            assert!(text.is_empty() || text.ends_with('\n'), "{collection}");
            assert_eq!(lines.is_empty(), collection == "vm-templates", "{collection}");
            let right = |line: &Value| if query.is_empty() { line.is_string() } else { line.is_object() };
            assert!(lines.iter().all(right), "{collection}: {text}");
        }
    }
}

/// "`markdown`: `text/markdown; charset=utf-8`, table of the returned members (without `href`), objects as JSON, `|`
/// escaped; without `fields` one link per line; `No results.` when empty. With `ndjson` too: 422".
#[test]
fn markdown_is_a_table_a_list_of_links_or_no_results() {
    let site = Site::new();
    site.send_json("PATCH", &format!("vdis/{}", site.vdi), &json!({"name_label": "a|b\nc", "tags": ["t|u"]}))
        .expect(204);
    let get = |target: &str| {
        let response = site.send("GET", target).expect(200);
        assert_eq!(response.head.need("Content-Type"), "text/markdown; charset=utf-8", "{target}");
        String::from_utf8(response.body).expect("it is text")
    };
    let table =
        get(&format!("vdis?markdown=true&fields=name_label,size,tags,nonsense&filter=id:{}", site.vdi));
    let lines: Vec<&str> = table.lines().collect();
    assert_eq!(lines[..2], ["| name_label | size | tags |", "| --- | --- | --- |"]);
    assert_eq!(lines[2], r#"| a\|b c | 4096 | ["t\|u"] |"#);
    assert_eq!(lines.len(), 3);
    assert_eq!(
        get(&format!("vdis?markdown&filter=id:{}", site.vdi)),
        format!("/rest/v0/vdis/{}\n", site.vdi)
    );
    assert_eq!(get("vm-templates?markdown=true&fields=*").trim(), "No results.");
    assert_eq!(get("vdis?markdown=true&filter=nothing-of-that-name&fields=id").trim(), "No results.");
    assert!(get("vms?fields=CPUs.number&markdown=1").contains(r#"| {"number":2} |"#));
    for collection in site.kinds().iter().map(|(name, _, _)| *name).chain(["tasks", "users", ""]) {
        let whole = get(&format!("{collection}?markdown=true&fields=*"));
        assert!(whole.starts_with("| ") && !whole.contains("| href |"), "{collection}: {whole}");
        site.send("GET", &format!("{collection}?markdown=true&ndjson=true")).refused(422..=422);
    }
}

/// "The link member is `href`"; "sub-collections take the same parameters, links point to the main collection"; §13,
/// "Sub-collections worth having": `vdis`, `tasks`, `messages`, `alarms`, 404 for a missing owner.
#[test]
fn collections_below_an_object_take_the_same_parameters() {
    let site = Site::new();
    let own = |owner: &str, query: &str| site.get(&format!("{owner}/vdis{query}"));
    for (collection, id, disks) in
        [("vms", &site.vm, "/rest/v0/vdis/"), ("vm-snapshots", &site.vm_snapshot, "/rest/v0/vdi-snapshots/")]
    {
        let owner = format!("{collection}/{id}");
        let links = texts(&own(&owner, ""));
        assert!(links.len() == 1 && links[0].starts_with(disks), "{links:?}");
        assert_eq!(own(&owner, "?fields=size,id&limit=5")[0]["href"], links[0]);
        assert_eq!(own(&owner, "?filter=nothing-of-that-name"), json!([]));
        assert_eq!(own(&owner, "?limit=0"), json!([]));
        site.send("GET", &format!("{owner}/vdis?ndjson")).expect(200);
        site.send("GET", &format!("{owner}/vdis?markdown&fields=*")).expect(200);
        site.send("GET", &format!("{collection}/{NOBODY}/vdis")).refused(404..=404);
    }
    for (collection, _, id) in site.kinds() {
        for below in ["messages", "alarms"] {
            assert_eq!(site.get(&format!("{collection}/{id}/{below}?fields=*")), json!([]));
            site.send("GET", &format!("{collection}/{id}/{below}?limit=x")).refused(422..=422);
        }
    }
    let tasks = site.get(&format!("vms/{}/tasks?fields=id,href,properties.objectId", site.vm));
    for task in tasks.as_array().expect("an array") {
        assert_eq!(task["properties"]["objectId"], site.vm.as_str());
        assert_eq!(task["href"], format!("/rest/v0/tasks/{}", task["id"].as_str().expect("an id")));
    }
    assert_ne!(tasks, json!([]), "the snapshot was a task of the VM");
}
