//! §3 Errors. `401`, `403` of rights: `authentication`; `409` of states: `objects`.

use serde_json::json;

use super::{NOBODY, Site};

/// "Body: `{"error": <message>, "data"?: …}`". 400 for a bad filter, with the whole of it in `data.stringToParse`, and
/// for `watch` without `ndjson`.
#[test]
fn a_bad_request_says_what_is_bad() {
    let site = Site::new();
    let refusal = site.send("GET", "vms?filter=(").refused(400..=400);
    assert_eq!(refusal.body["error"], "parse error: expected end of input at position 0");
    assert_eq!(refusal.body["data"], json!({"stringToParse": "("}));
    let refusal = site.send("GET", "tasks?watch=true").refused(400..=400);
    assert_eq!(refusal.body["error"], "watch=true requires ndjson=true");
}

/// "404: object missing or of another type: `no such VM <id>`, `data: {id, type}`, `task`, `user`, `event` likewise".
#[test]
fn a_missing_object_is_named_with_its_type() {
    let site = Site::new();
    let more = [("vm-templates", "VM-template", ""), ("tasks", "task", ""), ("users", "user", "")];
    for (collection, kind, _) in site.kinds().into_iter().chain(more) {
        for (method, below) in [("GET", ""), ("GET", "/tasks"), ("GET", "/messages"), ("GET", "/actions")] {
            if !below.is_empty() && matches!(collection, "tasks" | "users") {
                continue;
            }
            let refusal = site.send(method, &format!("{collection}/{NOBODY}{below}")).refused(404..=404);
            assert_eq!(refusal.body["error"], format!("no such {kind} {NOBODY}"), "{collection}{below}");
            assert_eq!(refusal.body["data"], json!({"id": NOBODY, "type": kind}));
        }
    }
    let body = json!({"collection": "VDI"});
    let refusal = site.send_json("POST", &format!("events/{NOBODY}/subscriptions"), &body).refused(404..=404);
    assert_eq!(refusal.body["data"]["type"], "event");
    // "or of another type"
    for (collection, kind, id) in [
        ("vms", "VM", &site.vm_snapshot),
        ("vm-snapshots", "VM-snapshot", &site.vm),
        ("vdis", "VDI", &site.vdi_snapshot),
        ("vdi-snapshots", "VDI-snapshot", &site.vdi),
        ("networks", "network", &site.vif),
    ] {
        let refusal = site.send("GET", &format!("{collection}/{id}")).refused(404..=404);
        assert_eq!(refusal.body["error"], format!("no such {kind} {id}"));
    }
}

/// "422: `{"error": {"limit": {message, value}}, "data": {}}`; keys of body members are `body.<name>`; enum mismatch:
/// `Value does not match any allowed schema`; extra member: `"x" is an excess property …`".
#[test]
fn what_is_not_valid_is_keyed_by_parameter() {
    let site = Site::new();
    let vdi = format!("vdis/{}", site.vdi);
    for (method, target, body, key) in [
        ("GET", "vms?limit=abc", json!({}), "limit"),
        ("GET", "vms?filter=a&filter=b", json!({}), "filter"),
        ("GET", "vms?ndjson=x", json!({}), "ndjson"),
        ("PATCH", vdi.as_str(), json!({"name_label": 5}), "body.name_label"),
        ("PATCH", vdi.as_str(), json!({"tags": "x"}), "body.tags"),
        ("PATCH", vdi.as_str(), json!({"x": 1}), "body.x"),
        ("POST", "vdis", json!({"virtual_size": 1_048_576}), "body.srId"),
        ("POST", "vbds", json!({"VM": site.vm, "VDI": site.vdi, "mode": "XX"}), "body.mode"),
    ] {
        let refusal = site.send_json(method, target, &body).refused(422..=422);
        let message = refusal.error[key]["message"].as_str();
        assert!(message.is_some(), "{method} {target}: {}", refusal.body);
        assert_eq!(refusal.body["data"], json!({}), "{method} {target}");
        if key == "body.mode" {
            assert!(message.is_some_and(|text| text.starts_with("Value does not match any allowed schema")));
        }
    }
    let refusal = site.send("GET", "vms?filter=a&filter=b").refused(422..=422);
    assert_eq!(refusal.error["filter"], json!({"message": "invalid string value", "value": ["a", "b"]}));
    let refusal = site.send_json("PATCH", &vdi, &json!({"size": 512})).refused(422..=422);
    assert_eq!(refusal.body["error"], "cannot set new size (512) below the current size (4096)");
    assert_eq!(refusal.body["data"], json!({}));
}
