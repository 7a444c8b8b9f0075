//! The root, collections and their parameters, single objects: rest-v0.md §1, §3 to §6 and §13.

use serde_json::{Value, json};

use crate::support::disk::noise;
use crate::support::server::Server;

/// The seed era's collections in its order, and the type of their objects.
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

/// A server with three disks of known names.
fn three_disks() -> (Server, Vec<String>) {
    let server = Server::start();
    let import = |name: &str| server.import(&format!("?raw&name_label={name}"), noise(4096, 1));
    let ids = ["one", "two", "three"].map(import).to_vec();
    (server, ids)
}

fn array(value: &Value) -> &Vec<Value> {
    value.as_array().unwrap_or_else(|| panic!("no array: {value}"))
}

#[test]
fn the_root_lists_the_collections() {
    let server = Server::start();
    for target in ["/rest/v0", "/rest/v0/"] {
        let links = server.json(target);
        for collection in SEED.iter().chain(&["tasks", "users"]) {
            assert!(
                array(&links).contains(&json!(format!("/rest/v0/{collection}"))),
                "{collection} in {links}"
            );
        }
    }
    let objects = server.json("/rest/v0?fields=id,type");
    let vdis = array(&objects).iter().find(|object| object["id"] == "vdis").expect("vdis");
    assert_eq!(vdis["href"], "/rest/v0/vdis", "{vdis}");
    for object in array(&objects) {
        let href = object["href"].as_str().expect("a link");
        server.get(href).expect(200);
    }
}

#[test]
fn every_collection_of_the_seed_answers_and_the_unused_ones_are_empty() {
    let server = Server::start();
    for collection in SEED {
        let links = server.json(&format!("/rest/v0/{collection}"));
        let filled = matches!(collection, "hosts" | "pools" | "srs");
        assert_eq!(array(&links).len(), usize::from(filled), "{collection}: {links}");
        let body = server.get(&format!("/rest/v0/{collection}?ndjson")).expect(200);
        assert_eq!(body.body.is_empty(), !filled, "{collection}");
    }
}

#[test]
fn without_fields_the_elements_are_links() {
    let (server, ids) = three_disks();
    let links = server.json("/rest/v0/vdis");
    let mut expected: Vec<String> = ids.iter().map(|id| format!("/rest/v0/vdis/{id}")).collect();
    let mut found: Vec<String> =
        array(&links).iter().map(|link| link.as_str().expect("a string").to_owned()).collect();
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
}

#[test]
fn fields_choose_members_and_drop_unknown_ones() {
    let (server, ids) = three_disks();
    let objects = server.json("/rest/v0/vdis?fields=name_label,size,nonsense,%20id");
    for object in array(&objects) {
        let mut keys: Vec<&String> = object.as_object().expect("an object").keys().collect();
        keys.sort();
        // Names are not trimmed, so " id" is an unknown one.
        assert_eq!(keys, ["href", "name_label", "size"], "{object}");
        assert_eq!(object["size"], 4096);
    }
    let whole = server.json("/rest/v0/vdis?fields=*");
    for object in array(&whole) {
        let id = object["id"].as_str().expect("an id").to_owned();
        assert!(ids.contains(&id));
        let mut alone = server.json(&format!("/rest/v0/vdis/{id}"));
        assert!(alone.get("href").is_none(), "a single object has no href");
        alone["href"] = json!(format!("/rest/v0/vdis/{id}"));
        assert_eq!(*object, alone);
    }
    for object in array(&server.json("/rest/v0/vdis?fields=")) {
        assert_eq!(object.as_object().expect("an object").len(), 1, "{object}");
        assert!(object["href"].is_string());
    }
    let hosts = server.json("/rest/v0/hosts?fields=memory.size,cpus.cores.nothing");
    let host = &array(&hosts)[0];
    assert_eq!(host["memory"].as_object().expect("an object").keys().collect::<Vec<_>>(), ["size"], "{host}");
}

#[test]
fn limit_takes_a_non_negative_integer_and_nothing_else() {
    let (server, _) = three_disks();
    for (limit, count) in [("0", 0), ("1", 1), ("2", 2), ("3", 3), ("100", 3)] {
        assert_eq!(array(&server.json(&format!("/rest/v0/vdis?limit={limit}"))).len(), count, "{limit}");
    }
    for limit in ["abc", "", "-1", "1.5", "1e2", "99999999999999999999999x"] {
        let refusal = server.get(&format!("/rest/v0/vdis?limit={limit}")).refused(422..=422);
        assert!(refusal.error["limit"]["message"].is_string(), "{limit}: {}", refusal.body);
        assert_eq!(refusal.error["limit"]["value"], limit);
        assert!(refusal.body["data"].is_object(), "{}", refusal.body);
    }
}

#[test]
fn ndjson_is_one_value_on_each_line() {
    let (server, ids) = three_disks();
    for query in ["?ndjson", "?ndjson=", "?ndjson=true", "?ndjson=1"] {
        let response = server.get(&format!("/rest/v0/vdis{query}")).expect(200);
        assert_eq!(response.head.need("Content-Type"), "application/x-ndjson", "{query}");
        assert!(response.head.header("Content-Length").is_none(), "{query}");
        let text = response.text();
        assert!(text.ends_with('\n'), "{query}");
        let mut links: Vec<String> =
            text.lines().map(|line| serde_json::from_str(line).expect("a string")).collect();
        links.sort();
        let mut expected: Vec<String> = ids.iter().map(|id| format!("/rest/v0/vdis/{id}")).collect();
        expected.sort();
        assert_eq!(links, expected, "{query}");
    }
    let text = server.get("/rest/v0/vdis?ndjson&fields=id,name_label&limit=2").expect(200).text();
    assert_eq!(text.lines().count(), 2);
    for line in text.lines() {
        let object: Value = serde_json::from_str(line).expect("an object");
        assert!(object["href"].is_string() && object["name_label"].is_string(), "{line}");
    }
    server.get("/rest/v0/vdis?ndjson=false").expect(200).json();
    server.get("/rest/v0/vdis?ndjson=perhaps").refused(422..=422);
}

#[test]
fn a_slash_at_the_end_changes_nothing() {
    let (server, ids) = three_disks();
    assert_eq!(array(&server.json("/rest/v0/vdis/")).len(), 3);
    assert_eq!(server.json(&format!("/rest/v0/vdis/{}/", ids[0]))["id"], ids[0]);
    for link in array(&server.json("/rest/v0/vdis/?limit=9")) {
        assert!(!link.as_str().expect("a string").ends_with('/'), "{link}");
    }
}

#[test]
fn an_id_that_is_none_or_of_another_type_is_not_found() {
    let (server, ids) = three_disks();
    let none = "00000000-0000-4000-8000-000000000000";
    for (collection, kind) in
        [("vdis", "VDI"), ("srs", "SR"), ("pools", "pool"), ("hosts", "host"), ("vms", "VM")]
    {
        let refusal = server.get(&format!("/rest/v0/{collection}/{none}")).refused(404..=404);
        assert_eq!(refusal.body["data"], json!({"id": none, "type": kind}), "{}", refusal.body);
        assert_eq!(refusal.text, format!("no such {kind} {none}"));
    }
    server.get(&format!("/rest/v0/srs/{}", ids[0])).refused(404..=404);
    server.get(&format!("/rest/v0/vms/{}", ids[0])).refused(404..=404);
    server.get(&format!("/rest/v0/vdis/{}", server.sr())).refused(404..=404);
    server.get("/rest/v0/vdis/not-an-id").refused(404..=404);
}

#[test]
fn an_unknown_route_is_not_found_in_json() {
    let server = Server::start();
    for (method, target) in [
        ("GET", "/rest/v0/nothing"),
        ("GET", "/rest/v0/vdis/a/b/c"),
        ("POST", "/rest/v0/pools"),
        ("DELETE", "/rest/v0"),
        ("BREW", "/rest/v0/vdis"),
        ("GET", "/rest/v1/vdis"),
    ] {
        server.request(method, target).send().refused(404..=404);
    }
}

#[test]
fn unknown_parameters_are_ignored() {
    let (server, _) = three_disks();
    assert_eq!(array(&server.json("/rest/v0/vdis?colour=blue&x")).len(), 3);
}

#[test]
fn head_is_get_without_a_body() {
    let (server, ids) = three_disks();
    for target in ["/rest/v0/vdis".to_owned(), format!("/rest/v0/vdis/{}", ids[0]), "/rest/v0".to_owned()] {
        let response = server.request("HEAD", &target).send().expect(200);
        assert!(response.body.is_empty());
        assert!(response.head.need("Content-Type").starts_with("application/json"), "{target}");
    }
}

/// Insists that a member is there and of a kind.
#[track_caller]
fn has(object: &Value, members: &str, kind: fn(&Value) -> bool) {
    for member in members.split(' ') {
        assert!(object.get(member).is_some_and(kind), "{member} in {object:#}");
    }
}

#[track_caller]
fn common(object: &Value, kind: &str) {
    assert_eq!(object["type"], kind);
    has(object, "id uuid $pool $poolId _xapiRef", Value::is_string);
    assert_eq!(object["uuid"], object["id"]);
    assert_eq!(object["$pool"], object["$poolId"]);
    assert!(
        object.as_object().expect("an object").iter().all(|(name, value)| {
            !value.is_null() || matches!(name.as_str(), "startTime" | "agentStartTime" | "license_expiry")
        }),
        "undefined members are omitted: {object:#}"
    );
}

#[test]
fn a_vdi_has_its_members() {
    let server = Server::start();
    let id = server.import("?raw&name_label=a&name_description=b", noise(70_144, 1));
    let vdi = server.json(&format!("/rest/v0/vdis/{id}"));
    common(&vdi, "VDI");
    has(&vdi, "name_label name_description VDI_type $SR", Value::is_string);
    has(&vdi, "size usage chainPhysicalUsage", Value::is_u64);
    has(&vdi, "$VBDs snapshots tags", Value::is_array);
    has(&vdi, "current_operations other_config", Value::is_object);
    has(&vdi, "missing cbt_enabled", Value::is_boolean);
    assert_eq!(
        (&vdi["size"], &vdi["VDI_type"], &vdi["missing"]),
        (&json!(70_144), &json!("user"), &json!(false))
    );
    let usage = vdi["usage"].as_u64().expect("bytes");
    assert!((70_144..200_000).contains(&usage), "{usage}");
}

#[test]
fn an_sr_a_pool_and_a_host_have_their_members() {
    let server = Server::start();
    let vdi = server.import("?raw", noise(70_144, 1));
    let sr = server.json(&format!("/rest/v0/srs/{}", server.sr()));
    common(&sr, "SR");
    has(&sr, "name_label name_description SR_type content_type $container", Value::is_string);
    has(&sr, "size physical_usage usage", Value::is_u64);
    has(&sr, "shared inMaintenanceMode", Value::is_boolean);
    has(&sr, "tags VDIs $PBDs", Value::is_array);
    has(&sr, "current_operations other_config sm_config", Value::is_object);
    assert_eq!(sr["VDIs"], json!([vdi]));
    assert_eq!(sr["usage"], 70_144, "the sum of virtual sizes");
    assert!(sr["size"].as_u64() > sr["physical_usage"].as_u64(), "{sr:#}");

    let pools = server.json("/rest/v0/pools?fields=*");
    let pool = &array(&pools)[0];
    common(pool, "pool");
    has(pool, "name_label name_description master default_SR", Value::is_string);
    has(pool, "HA_enabled auto_poweron zstdSupported vtpmSupported", Value::is_boolean);
    has(pool, "tags haSrs", Value::is_array);
    has(pool, "cpus current_operations otherConfig", Value::is_object);
    assert_eq!(pool["default_SR"], server.sr());
    assert_eq!(pool["id"], sr["$pool"]);

    let hosts = server.json("/rest/v0/hosts?fields=*");
    let host = &array(&hosts)[0];
    common(host, "host");
    has(
        host,
        "name_label name_description hostname address power_state version build productBrand",
        Value::is_string,
    );
    has(host, "enabled multipathing hvmCapable zstdSupported rebootRequired", Value::is_boolean);
    has(
        host,
        "memory cpus CPUs license_params license_server logging otherConfig bios_strings",
        Value::is_object,
    );
    has(
        host,
        "residentVms $PBDs PIFs $PIFs PCIs $PCIs PGPUs $PGPUs patches supplementalPacks tags",
        Value::is_array,
    );
    has(&host["memory"], "size usage", Value::is_u64);
    has(&host["cpus"], "cores sockets", Value::is_u64);
    assert_eq!(host["power_state"], "Running");
    assert_eq!(host["id"], pool["master"]);
    assert_eq!(host["id"], sr["$container"], "an SR that is not shared belongs to its host");
}

#[test]
fn ids_of_the_pool_the_host_and_the_sr_stay_across_a_restart() {
    let mut server = Server::start();
    let ids =
        |server: &Server| ["pools", "hosts", "srs"].map(|name| server.json(&format!("/rest/v0/{name}")));
    let before = ids(&server);
    assert!(server.terminate().success());
    server.start_again();
    assert_eq!(ids(&server), before);
}
