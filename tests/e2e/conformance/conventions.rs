//! §1 Conventions.

use std::io::Read;

use flate2::read::GzDecoder;
use serde_json::{Value, json};

use super::{NOBODY, Site};
use crate::support::server::Server;

/// Every string below a value.
fn strings(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::String(text) => found.push(text.clone()),
        Value::Array(list) => list.iter().for_each(|item| strings(item, found)),
        Value::Object(members) => members.values().for_each(|item| strings(item, found)),
        _ => {}
    }
}

/// "base path: `/rest/v0`; links are absolute paths, never with scheme or host". "Links never end with a slash."
#[test]
fn links_are_absolute_paths_without_a_host_or_a_slash_at_the_end() {
    let site = Site::new();
    let mut found = Vec::new();
    strings(&site.get(""), &mut found);
    for (collection, _, id) in site.kinds() {
        strings(&site.get(&format!("{collection}/?fields=href")), &mut found);
        strings(&site.get(collection), &mut found);
        if !matches!(collection, "vbds" | "vifs") {
            strings(&site.get(&format!("{collection}/{id}/actions/")), &mut found);
        }
    }
    assert!(found.len() > 20, "{found:?}");
    for link in found {
        assert!(link.starts_with("/rest/v0/") && !link.ends_with('/'), "{link}");
    }
}

/// "JSON bodies → objects with `Content-Length`, collections chunked"; `application/json; charset=utf-8`.
#[test]
fn objects_have_a_length_and_collections_come_in_chunks() {
    let site = Site::new();
    for (collection, _, id) in site.kinds() {
        let object = site.send("GET", &format!("{collection}/{id}")).expect(200);
        assert_eq!(object.head.length(), object.body.len() as u64, "{collection}");
        assert_eq!(object.head.need("Content-Type"), "application/json; charset=utf-8");
        let all = site.send("GET", collection).expect(200);
        assert!(all.head.header("Content-Length").is_none(), "{collection}");
        assert_eq!(all.head.need("Transfer-Encoding"), "chunked");
        assert_eq!(all.head.need("Content-Type"), "application/json; charset=utf-8");
    }
}

/// "undefined members are omitted, never `null`; `null` only where the table in §13 says so": `os_version`, a VBD's
/// `device`, a host's times and licence.
#[test]
fn what_is_not_known_is_left_out_and_not_null() {
    let site = Site::new();
    let nullable = ["os_version", "device", "startTime", "agentStartTime", "license_expiry", "installTime"];
    for (collection, _, id) in site.kinds() {
        let object = site.get(&format!("{collection}/{id}"));
        for (name, value) in object.as_object().expect("an object") {
            assert!(!value.is_null() || nullable.contains(&name.as_str()), "{collection}: {name}");
        }
    }
}

/// "trailing slash: ignored, `/vms/` = `/vms`, `/vms/<id>/` = `/vms/<id>`".
#[test]
fn a_slash_at_the_end_is_ignored_everywhere() {
    let site = Site::new();
    assert_eq!(site.server.json("/rest/v0"), site.server.json("/rest/v0/"));
    let mut targets = vec!["tasks".into(), "users".into(), "ping".into()];
    for (collection, _, id) in site.kinds() {
        targets.push(format!("{collection}/{id}"));
        for below in ["tasks", "messages", "alarms", "actions"] {
            targets.push(format!("{collection}/{id}/{below}"));
        }
        targets.push(collection.to_owned());
    }
    targets.push(format!("vms/{}/vdis", site.vm));
    targets.push(format!("vdis/{}/extents", site.vdi));
    for target in targets {
        let with = site.send("GET", &format!("{target}/")).expect(200);
        let without = site.send("GET", &target).expect(200);
        if target != "ping" && !target.starts_with("hosts") && !target.starts_with("srs") {
            assert!(with.body == without.body, "{target}");
        }
    }
    site.send("PUT", &format!("vdis/{}/tags/a/", site.vdi)).expect(204);
    site.send_json("PATCH", &format!("vdis/{}/", site.vdi), &json!({"name_label": "b"})).expect(204);
    site.send("DELETE", &format!("vdis/{}/", site.vdi)).expect(204);
}

/// "compression: `Accept-Encoding: gzip` compresses JSON; never export streams".
#[test]
fn json_is_compressed_for_those_who_take_gzip_and_exports_never_are() {
    let site = Site::new();
    let coded = |target: &str| {
        let request = site.server.request("GET", &format!("/rest/v0/{target}"));
        request.header("Accept-Encoding", "gzip, deflate").send().expect(200)
    };
    for target in [
        "vms?fields=*",
        "vms?fields=*&ndjson",
        "vdis?fields=*&markdown",
        "tasks?fields=*",
        &format!("vms/{}", site.vm),
    ] {
        let response = coded(target);
        assert_eq!(response.head.need("Content-Encoding"), "gzip", "{target}");
        assert!(response.head.need("Vary").to_lowercase().contains("accept-encoding"), "{target}");
        let mut plain = Vec::new();
        GzDecoder::new(response.body.as_slice()).read_to_end(&mut plain).expect("it is gzip");
        assert!(plain == site.send("GET", target).expect(200).body, "{target}");
        if let Some(length) = response.head.header("Content-Length") {
            assert_eq!(length, response.body.len().to_string());
        }
    }
    for target in [
        format!("vdis/{}.raw", site.vdi),
        format!("vdis/{}.vhd", site.vdi),
        format!("vdi-snapshots/{}.raw", site.vdi_snapshot),
        format!("vms/{}.xva", site.vm),
    ] {
        let response = coded(&target);
        assert!(response.head.header("Content-Encoding").is_none(), "{target}");
        assert_eq!(response.head.length(), response.body.len() as u64, "{target}");
    }
    for refused in ["identity", "gzip;q=0", "br"] {
        let request = site.server.request("GET", "/rest/v0/vms?fields=*").header("Accept-Encoding", refused);
        request.send().expect(200).json();
    }
}

/// A task that is waited for is compressed too, and each piece arrives when it was written: nothing waits in the
/// compressor for more.
#[test]
fn a_compressed_stream_shows_what_has_happened() {
    let site = Site::new();
    let watch = site.server.request("GET", "/rest/v0/tasks?ndjson&watch&fields=id");
    let mut stream = watch.header("Accept-Encoding", "gzip").open();
    assert_eq!(stream.head.need("Content-Encoding"), "gzip");
    let task = site.send("POST", &format!("srs/{}/actions/scan", site.server.sr())).expect(202);
    let task = task.json()["taskId"].as_str().expect("an id").to_owned();
    let mut plain = GzDecoder::new(&mut stream);
    let mut text = String::new();
    while !text.contains(&task) {
        let mut byte = [0];
        plain.read_exact(&mut byte).expect("it goes on");
        text.push(byte[0] as char);
    }
    assert!(text.contains("update"), "{text}");
}

/// "`HEAD`: same as GET without body. On an export → answer headers only, start nothing".
#[test]
fn head_is_get_without_a_body_everywhere() {
    let site = Site::new();
    let mut targets = vec!["".to_owned(), "tasks".into(), "users".into(), "ping".into()];
    for (collection, _, id) in site.kinds() {
        targets.extend([collection.into(), format!("{collection}/{id}"), format!("{collection}/{id}/tasks")]);
        targets.push(format!("{collection}?fields=*&ndjson"));
        targets.push(format!("{collection}?fields=*&markdown"));
        targets.push(format!("{collection}/{id}/actions"));
    }
    targets.extend([format!("vdis/{}.raw", site.vdi), format!("vdis/{}.vhd", site.vdi)]);
    targets.push(format!("vms/{}.xva", site.vm));
    targets.push("vdis?filter=nonsense(".into());
    targets.push(format!("vdis/{NOBODY}"));
    let tasks = || site.get("tasks").as_array().expect("an array").len();
    let before = tasks();
    for target in &targets {
        let head = site.send("HEAD", target);
        assert!(head.body.is_empty(), "{target}");
        if !target.contains('.') {
            let get = site.send("GET", target);
            assert_eq!(head.head.status, get.head.status, "{target}");
            for name in ["Content-Type", "Content-Length", "Transfer-Encoding", "ETag"] {
                let same = head.head.header(name) == get.head.header(name);
                // A timestamp or a number of free bytes may have got another digit.
                assert!(same || name == "Content-Length", "{target}: {name}: {:?}", head.head);
            }
        }
    }
    assert_eq!(tasks(), before, "HEAD starts nothing");
    // A wait answers its head at once.
    let task = site.get("tasks?limit=1&fields=id")[0]["id"].as_str().expect("an id").to_owned();
    site.send("HEAD", &format!("tasks/{task}?wait")).expect(200);
}

/// "unknown path or method → `404` JSON `{"error": "no such route …"}` after authentication"; never 405.
#[test]
fn what_has_no_route_is_404_in_json_after_authentication() {
    let site = Site::new();
    for (method, target) in [
        ("GET", "/rest/v0/nothing"),
        ("GET", "/rest/v1"),
        ("GET", "/"),
        ("PUT", "/rest/v0/vdis"),
        ("POST", "/rest/v0"),
        ("POST", "/rest/v0/hosts"),
        ("DELETE", "/rest/v0/vdis"),
        ("BREW", "/rest/v0/vms"),
        ("get", "/rest/v0/vms"),
        ("OPTIONS", "/rest/v0/nothing"),
    ] {
        let refusal = site.server.request(method, target).send().refused(404..=404);
        assert!(refusal.text.starts_with("no such route"), "{method} {target}: {}", refusal.text);
        site.server.request(method, target).anonymous().send().refused(401..=401);
    }
}

/// "`OPTIONS`: `200`, `Allow`, text body".
#[test]
fn options_tells_the_methods_and_these_are_the_ones_that_there_are() {
    let site = Site::new();
    let (vdi, task) = (&site.vdi, "tasks/none");
    let mut targets: Vec<String> = vec![
        "".into(),
        "ping".into(),
        "users".into(),
        "users/x".into(),
        "users/authentication_tokens".into(),
        "users/x/authentication_tokens".into(),
        "users/x/authentication_tokens/y".into(),
        "tasks".into(),
        task.into(),
        format!("{task}/actions"),
        format!("{task}/actions/abort"),
        "events".into(),
        "events/x/subscriptions".into(),
        "events/x/subscriptions/VDI".into(),
        format!("pools/{NOBODY}/vms"),
        format!("srs/{NOBODY}/vdis"),
        format!("srs/{NOBODY}/actions/none"),
        format!("vdis/{NOBODY}/actions/none"),
        format!("vdis/{NOBODY}/extents"),
        format!("vdis/{NOBODY}.raw"),
        format!("vdi-snapshots/{NOBODY}.raw"),
        format!("vm-snapshots/{NOBODY}/vdis"),
        format!("vms/{NOBODY}.xva"),
        format!("vms/{NOBODY}/actions/none"),
    ];
    for (collection, _, _) in site.kinds() {
        targets.push(collection.into());
        for below in ["", "/tasks", "/actions", "/messages", "/alarms", "/tags/x"] {
            if below != "/tags/x" || !matches!(collection, "vbds" | "vifs") {
                targets.push(format!("{collection}/{NOBODY}{below}"));
            }
        }
    }
    for target in &targets {
        let options = site.send("OPTIONS", target).expect(200);
        let allowed: Vec<String> =
            options.head.need("Allow").split(',').map(|method| method.trim().to_owned()).collect();
        assert!(options.head.need("Content-Type").starts_with("text/plain"), "{target}");
        for method in ["GET", "POST", "PUT", "PATCH", "DELETE"] {
            // What these would do is not undone.
            if (method, target.as_str()) == ("DELETE", "tasks") || target == "events" && method == "GET" {
                continue;
            }
            let response = site.send_json(method, target, &json!({"nonsense": 1}));
            let no_route = response.head.status == 404 && response.text().contains("no_such_route");
            assert_eq!(!no_route, allowed.iter().any(|one| one == method), "{method} {target}");
        }
    }
    site.send("GET", &format!("vdis/{vdi}")).expect(200);
}

/// "parameters come as JSON or as a form (what PowerShell sends by default, all values strings); another type counts as
/// `{}`. Malformed JSON → `400` JSON".
#[test]
fn bodies_come_as_json_or_as_forms_wherever_there_are_any() {
    let site = Site::new();
    let id = |response: crate::support::http::Response| {
        response.expect(201).json()["id"].as_str().expect("an id").to_owned()
    };
    let sr = site.server.sr();
    let vdi = id(site.send_form("POST", "vdis", &format!("srId={sr}&virtual_size=1048576&name_label=f")));
    let vm = id(site.send_form("POST", "vms", &format!("name_label=f&cpus=2&memory=1073741824&vdis={vdi}")));
    let vms = format!("name_label=g&vdis={vdi}&vdis={}", site.vdi);
    assert_eq!(
        site.get(&format!("vms/{}/vdis", id(site.send_form("POST", "vms", &vms)))).as_array().map(Vec::len),
        Some(2)
    );
    let vbd = format!("VM={vm}&VDI={}&bootable=True&mode=RO&userdevice=3", site.vdi);
    let vbd = site.get(&format!("vbds/{}", id(site.send_form("POST", "vbds", &vbd))));
    assert_eq!((&vbd["bootable"], &vbd["position"]), (&json!(true), &json!("3")), "{vbd}");
    id(site.send_form("POST", &format!("vms/{vm}/actions/snapshot?sync"), "name_label=s"));
    id(site.send_form("POST", &format!("vdis/{vdi}/actions/snapshot?sync"), "name_label=s"));
    site.send_form("PATCH", &format!("vdis/{vdi}"), "nameLabel=of+a+form&size=2097152&tags=a&tags=b")
        .expect(204);
    let object = site.get(&format!("vdis/{vdi}"));
    assert_eq!((&object["name_label"], &object["size"]), (&json!("of a form"), &json!(2_097_152)));
    assert_eq!(object["tags"], json!(["a", "b"]));
    let token = site.send_form("POST", "users/authentication_tokens", "description=f&expiresIn=3600000");
    assert_eq!(token.expect(201).json()["token"]["description"], "f");
    // xo-cli sends every value of a JSON body as a string.
    site.send_json("PATCH", &format!("vdis/{vdi}"), &json!({"size": "4194304"})).expect(204);
    let body = json!({"srId": sr, "virtual_size": "1048576"});
    id(site.send_json("POST", "vdis", &body));
    let body = json!({"name_label": "x", "cpus": "3", "memory": "2147483648", "vdis": []});
    assert_eq!(site.get(&format!("vms/{}", id(site.send_json("POST", "vms", &body))))["CPUs"]["number"], 3);

    let target = format!("/rest/v0/vdis/{vdi}");
    let request = || site.server.request("PATCH", &target);
    request().header("Content-Type", "text/plain").body(r#"{"name_label": "no"}"#).send().expect(204);
    assert_eq!(site.get(&format!("vdis/{vdi}"))["name_label"], "of a form", "another type counts as nothing");
    request().header("Content-Type", "application/json").body("{").send().refused(400..=400);
}

/// "unknown body property: `422`"; "unknown query parameter: ignored".
#[test]
fn unknown_members_are_refused_and_unknown_parameters_ignored() {
    let site = Site::new();
    for (method, target) in [
        ("PATCH", format!("vdis/{}", site.vdi)),
        ("PATCH", format!("vms/{}", site.vm)),
        ("PATCH", format!("pools/{}", site.pool)),
        ("POST", format!("vms/{}/actions/snapshot", site.vm)),
        ("POST", format!("vdis/{}/actions/snapshot", site.vdi)),
        ("POST", format!("srs/{}/actions/scan", site.server.sr())),
    ] {
        let refusal = site.send_json(method, &target, &json!({"colour": "red"})).refused(422..=422);
        let message = "\"colour\" is an excess property and therefore is not allowed";
        assert_eq!(refusal.error["body.colour"]["message"], message, "{method} {target}");
        assert_eq!(refusal.body["data"], json!({}));
    }
    for target in ["?x=1", "vms?x", "tasks?colour=red"] {
        site.send("GET", target).expect(200);
    }
}

/// "boolean query parameters → accept bare presence and empty value as true; `true`/`1` true; `false`/`0` false (any
/// letter case); else 422".
#[test]
fn booleans_of_a_query_have_the_spellings_of_all_eras() {
    let server = Server::start();
    let table = [
        ("ndjson", true),
        ("ndjson=", true),
        ("ndjson=true", true),
        ("ndjson=TRUE", true),
        ("ndjson=1", true),
        ("ndjson=false", false),
        ("ndjson=False", false),
        ("ndjson=0", false),
    ];
    for (query, set) in table {
        let response = server.get(&format!("/rest/v0/srs?{query}")).expect(200);
        let lines = response.head.need("Content-Type") == "application/x-ndjson";
        assert_eq!(lines, set, "{query}");
        let response = server.get(&format!("/rest/v0/srs?{}", query.replace("ndjson", "markdown")));
        let table = response.expect(200).head.need("Content-Type").starts_with("text/markdown");
        assert_eq!(table, set, "{query}");
    }
    for query in ["ndjson=yes", "markdown=2", "ndjson=null"] {
        server.get(&format!("/rest/v0/srs?{query}")).refused(422..=422);
    }
}

/// "methods are case-sensitive; one xo-cli generation sends `patch` in lower case → treat `patch` as PATCH".
#[test]
fn patch_in_lower_case_is_patch_and_nothing_else_is() {
    let site = Site::new();
    site.send_json("patch", &format!("vdis/{}", site.vdi), &json!({"name_label": "p"})).expect(204);
    assert_eq!(site.get(&format!("vdis/{}", site.vdi))["name_label"], "p");
    site.send("delete", &format!("vdis/{}", site.vdi)).refused(404..=404);
}
