//! Changing objects: PATCH in both spellings, tags, POST of an empty disk: rest-v0.md §1, §7, §9.

use serde_json::{Value, json};

use crate::support::MIB;
use crate::support::disk::noise;
use crate::support::server::{Server, created};
use crate::support::tools::qemu;
use crate::support::vhd::allocated;

/// A server with a disk, and the addresses of an object of each collection that has any.
fn objects() -> (Server, Vec<String>) {
    let server = Server::start();
    let vdi = server.import("?raw", noise(4096, 1));
    let mut targets = vec![format!("/rest/v0/vdis/{vdi}")];
    for collection in ["srs", "pools", "hosts"] {
        let links = server.json(&format!("/rest/v0/{collection}"));
        targets.push(links[0].as_str().expect("a link").to_owned());
    }
    (server, targets)
}

fn patch(server: &Server, target: &str, change: &Value) -> u16 {
    let response = server.request("PATCH", target).json(change).send();
    if response.head.status == 204 {
        assert!(response.body.is_empty());
    } else {
        response.refused(400..=499);
    }
    response.head.status
}

#[test]
fn label_and_description_change_in_both_spellings_on_every_kind_of_object() {
    let (server, targets) = objects();
    for target in targets {
        assert_eq!(
            patch(&server, &target, &json!({"name_label": "snake", "name_description": "first"})),
            204,
            "{target}"
        );
        let object = server.json(&target);
        assert_eq!((&object["name_label"], &object["name_description"]), (&json!("snake"), &json!("first")));
        assert_eq!(patch(&server, &target, &json!({"nameLabel": "camel"})), 204, "{target}");
        let object = server.json(&target);
        assert_eq!((&object["name_label"], &object["name_description"]), (&json!("camel"), &json!("first")));
        assert_eq!(
            patch(&server, &target, &json!({"nameDescription": "Größe 中 \" \\ \n"})),
            204,
            "{target}"
        );
        assert_eq!(server.json(&target)["name_description"], "Größe 中 \" \\ \n");
        assert_eq!(patch(&server, &target, &json!({"tags": ["b", "a"]})), 204, "{target}");
        let tags = server.json(&target)["tags"].clone();
        assert!(tags == json!(["b", "a"]) || tags == json!(["a", "b"]), "{tags}");
        assert_eq!(patch(&server, &target, &json!({})), 204, "{target}");
        assert_eq!(server.json(&target)["name_label"], "camel");
    }
}

#[test]
fn what_cannot_be_patched_is_refused_and_changes_nothing() {
    let (server, targets) = objects();
    for target in targets {
        let before = server.json(&target);
        for change in [
            json!({"nonsense": 1}),
            json!({"id": "x"}),
            json!({"name_label": 5}),
            json!({"name_label": null}),
            json!({"name_description": ["x"]}),
            json!({"tags": "x"}),
            json!({"tags": [1]}),
        ] {
            assert_eq!(patch(&server, &target, &change), 422, "{target}: {change}");
        }
        let now = server.json(&target);
        for member in ["id", "name_label", "name_description", "tags"] {
            assert_eq!(now[member], before[member], "{target}: {member}");
        }
        for change in [json!([]), json!("x"), json!(null)] {
            assert!(matches!(patch(&server, &target, &change), 400 | 422), "{target}: {change}");
        }
        let refusal =
            server.request("PATCH", &target).json(&json!({"nonsense": 1})).send().refused(422..=422);
        assert!(refusal.error["body.nonsense"]["message"].is_string(), "{}", refusal.body);
    }
}

#[test]
fn malformed_json_is_a_bad_request() {
    let (server, targets) = objects();
    for body in ["{", "{\"name_label\": \"x\"", "nonsense"] {
        let request = server.request("PATCH", &targets[0]).header("Content-Type", "application/json");
        request.body(body).send().refused(400..=400);
    }
}

#[test]
fn a_patch_comes_as_json_or_as_a_form_and_as_nothing_otherwise() {
    let (server, targets) = objects();
    let target = &targets[0];
    let request = server.request("PATCH", target).header("Content-Type", "application/x-www-form-urlencoded");
    request.body("name_label=from+a%20form").send().expect(204);
    assert_eq!(server.json(target)["name_label"], "from a form");
    let request = server.request("PATCH", target).header("Content-Type", "text/plain");
    request.body(r#"{"name_label": "not taken"}"#).send().expect(204);
    assert_eq!(server.json(target)["name_label"], "from a form");
    let request = server.request("PATCH", target).header("Content-Type", "application/json; charset=utf-8");
    request.body(r#"{"name_label": "with a charset"}"#).send().expect(204);
    assert_eq!(server.json(target)["name_label"], "with a charset");
}

#[test]
fn patch_in_lower_case_is_patch() {
    let (server, targets) = objects();
    server.request("patch", &targets[0]).json(&json!({"name_label": "lower"})).send().expect(204);
    assert_eq!(server.json(&targets[0])["name_label"], "lower");
}

#[test]
fn the_documented_curl_line_patches() {
    let (server, targets) = objects();
    let curl = server.curl().args([
        "-X",
        "PATCH",
        "-H",
        "Content-Type: application/json",
        "-d",
        r#"{"name_label":"x"}"#,
    ]);
    let done = curl.run(&server.url(&targets[0]));
    assert_eq!((done.exit, done.status), (0, 204), "{done:?}");
    assert_eq!(server.json(&targets[0])["name_label"], "x");
}

#[test]
fn a_patch_of_nothing_is_not_found() {
    let server = Server::start();
    for collection in ["vdis", "srs", "pools", "hosts", "vms"] {
        let target = format!("/rest/v0/{collection}/00000000-0000-4000-8000-000000000000");
        server.request("PATCH", &target).json(&json!({"name_label": "x"})).send().refused(404..=404);
    }
}

#[test]
fn a_disk_does_not_shrink() {
    let (server, targets) = objects();
    assert_eq!(patch(&server, &targets[0], &json!({"size": 512})), 422);
    assert_eq!(server.json(&targets[0])["size"], 4096);
}

#[test]
fn a_disk_grows_by_a_hole_and_its_readers_do_not_notice() {
    let server = Server::start();
    let content = noise(24 * MIB as usize, 1);
    let vdi = server.import("?raw", content.clone());
    let target = format!("/rest/v0/vdis/{vdi}");
    let mut reader = server.request("GET", &format!("{target}.raw")).open();
    let mut bytes = reader.take_bytes(1000);
    for size in [json!(30 * MIB + 512), json!((40 * MIB).to_string())] {
        assert_eq!(patch(&server, &target, &json!({"size": size})), 204, "numbers may come as strings");
        let size: u64 = size.as_u64().or_else(|| size.as_str()?.parse().ok()).expect("a number");
        assert_eq!(server.json(&target)["size"], size);
        let mut grown = content.clone();
        grown.resize(size as usize, 0);
        assert!(server.export_bytes(&vdi, "raw") == grown);
        let vhd = server.path("grown.vhd");
        server.export(&vdi, "vhd", &vhd);
        assert_eq!(qemu::virtual_size(&vhd), size);
    }
    bytes.extend(reader.rest().expect("it goes on to its end"));
    assert!(bytes == content);
    for size in [json!(40 * MIB - 512), json!(40 * MIB + 1), json!(-1), json!("much"), json!(u64::MAX - 511)]
    {
        let status = patch(&server, &target, &json!({"size": size}));
        assert!(matches!(status, 422 | 507), "{size}: {status}");
    }
    assert_eq!(server.json(&target)["size"], 40 * MIB);
}

#[test]
fn tags_are_put_and_deleted_again_and_again() {
    let (server, targets) = objects();
    for target in targets {
        for _ in 0..2 {
            server.request("PUT", &format!("{target}/tags/one")).send().expect(204);
            server.request("PUT", &format!("{target}/tags/a%20b%2Fc%C3%A9")).send().expect(204);
        }
        let tags = server.json(&target)["tags"].clone();
        let mut tags: Vec<&str> =
            tags.as_array().expect("an array").iter().filter_map(Value::as_str).collect();
        tags.sort_unstable();
        assert_eq!(tags, ["a b/cé", "one"], "{target}");
        for _ in 0..2 {
            server.request("DELETE", &format!("{target}/tags/one")).send().expect(204);
        }
        assert_eq!(server.json(&target)["tags"], json!(["a b/cé"]), "{target}");
    }
    server
        .request("PUT", "/rest/v0/vdis/00000000-0000-4000-8000-000000000000/tags/x")
        .send()
        .refused(404..=404);
}

#[test]
fn changes_survive_a_restart() {
    let (mut server, targets) = objects();
    for target in &targets {
        assert_eq!(patch(&server, target, &json!({"name_label": "kept", "tags": ["t"]})), 204);
    }
    server.kill();
    server.start_again();
    for target in &targets {
        let object = server.json(target);
        assert_eq!((&object["name_label"], &object["tags"]), (&json!("kept"), &json!(["t"])), "{target}");
    }
}

#[test]
fn an_empty_disk_is_made() {
    let server = Server::start();
    let body = json!({"srId": server.sr(), "virtual_size": 40 * MIB, "name_label": "empty", "name_description": "d"});
    let id = created(&server.request("POST", "/rest/v0/vdis").json(&body).send(), "vdis");
    let vdi = server.json(&format!("/rest/v0/vdis/{id}"));
    assert_eq!(
        (&vdi["size"], &vdi["name_label"], &vdi["$SR"]),
        (&json!(40 * MIB), &json!("empty"), &json!(server.sr()))
    );
    assert!(server.export_bytes(&id, "raw") == vec![0; 40 * MIB as usize]);
    let vhd = server.path("empty.vhd");
    server.export(&id, "vhd", &vhd);
    assert_eq!(qemu::virtual_size(&vhd), 40 * MIB);
    assert!(allocated(&std::fs::read(&vhd).expect("it is there")).is_empty());
    server
        .request("PUT", &format!("/rest/v0/vdis/{id}.raw"))
        .body(noise(40 * MIB as usize, 1))
        .send()
        .expect(204);
    assert!(server.export_bytes(&id, "raw") == noise(40 * MIB as usize, 1));
}

#[test]
fn an_empty_disk_that_cannot_be_is_refused() {
    let server = Server::start();
    let post = |body: Value| server.request("POST", "/rest/v0/vdis").json(&body).send();
    let sr = server.sr();
    for body in [
        json!({"srId": sr}),
        json!({"virtual_size": 512}),
        json!({}),
        json!({"srId": sr, "virtual_size": 1000}),
        json!({"srId": sr, "virtual_size": 0}),
        json!({"srId": sr, "virtual_size": -512}),
        json!({"srId": sr, "virtual_size": "much"}),
        json!({"srId": sr, "virtual_size": 512, "nonsense": 1}),
        json!({"srId": sr, "virtual_size": 512, "name_label": 7}),
    ] {
        let text = body.to_string();
        assert_eq!(post(body).refused(422..=422).status, 422, "{text}");
    }
    post(json!({"srId": "00000000-0000-4000-8000-000000000000", "virtual_size": 512})).refused(404..=404);
    server.assert_empty("disks that cannot be");
}

#[test]
fn a_json_body_has_a_limit() {
    let server = Server::start();
    let huge = json!({"srId": server.sr(), "virtual_size": 512, "name_label": "x".repeat(2 * MIB as usize)});
    server.request("POST", "/rest/v0/vdis").json(&huge).send().refused(400..=499);
    server.assert_empty("a huge name");
}
