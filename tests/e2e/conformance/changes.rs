//! §7 PATCH and tags.

use serde_json::json;

use super::{NOBODY, Site};

/// "→ every collection: accept both spellings of label and description, plus `tags`; apply, wait, `204`". VBDs and VIFs
/// have no name in §13: they take an empty object and nothing else.
#[test]
fn names_and_tags_change_in_both_spellings_in_every_collection() {
    let site = Site::new();
    for (collection, _, id) in site.kinds() {
        let target = format!("{collection}/{id}");
        let patch = |body| site.send_json("PATCH", &target, &body);
        patch(json!({})).expect(204);
        if matches!(collection, "vbds" | "vifs") {
            patch(json!({"name_label": "x"})).refused(422..=422);
            continue;
        }
        for (body, label, description) in [
            (json!({"name_label": "one"}), "one", None),
            (json!({"nameDescription": "two"}), "one", Some("two")),
            (
                json!({"nameLabel": "three", "name_description": "four", "tags": ["a", "b"]}),
                "three",
                Some("four"),
            ),
            (json!({"name_label": ""}), "", Some("four")),
            (json!({"name_label": "läbel \"<|>"}), "läbel \"<|>", Some("four")),
        ] {
            let response = patch(body.clone()).expect(204);
            assert!(response.body.is_empty());
            let object = site.get(&target);
            // An empty name of a pool or a host falls back to what it is called by itself.
            if !label.is_empty() || !matches!(collection, "pools" | "hosts") {
                assert_eq!(object["name_label"], label, "{target} {body}");
            }
            if let Some(description) = description {
                assert_eq!(object["name_description"], description, "{target} {body}");
            }
        }
        assert_eq!(site.get(&target)["tags"], json!(["a", "b"]), "{target}");
    }
}

/// "wrong JSON type 422; unknown member 422"; "404 for a missing object".
#[test]
fn what_cannot_be_patched_is_refused_and_changes_nothing() {
    let site = Site::new();
    for (collection, _, id) in site.kinds() {
        let target = format!("{collection}/{id}");
        let before = site.get(&target);
        for body in [
            json!({"name_label": 5}),
            json!({"name_description": null}),
            json!({"tags": "a"}),
            json!({"tags": [1]}),
            json!({"power_state": "Running"}),
            json!([]),
        ] {
            site.send_json("PATCH", &target, &body).refused(422..=422);
        }
        let after = site.get(&target);
        for member in ["name_label", "name_description", "tags"] {
            assert_eq!(after.get(member), before.get(member), "{target}");
        }
        let body = json!({"name_label": "x"});
        site.send_json("PATCH", &format!("{collection}/{NOBODY}"), &body).refused(404..=404);
    }
}

/// "on vdis `size` (bytes, grow only: 422 below the current size)".
#[test]
fn a_disk_grows_and_does_not_shrink() {
    let site = Site::new();
    let target = format!("vdis/{}", site.vdi);
    let size = || site.get(&target)["size"].as_u64();
    site.send_json("PATCH", &target, &json!({"size": 8192})).expect(204);
    assert_eq!(size(), Some(8192));
    site.send_json("PATCH", &target, &json!({"size": 8192})).expect(204);
    let refusal = site.send_json("PATCH", &target, &json!({"size": 4096})).refused(422..=422);
    assert_eq!(refusal.text, "cannot set new size (4096) below the current size (8192)");
    let size_of_vm = site.send_json("PATCH", &format!("vms/{}", site.vm), &json!({"size": 1}));
    size_of_vm.refused(422..=422);
    assert_eq!(size(), Some(8192));
}

/// "Tags: `PUT`/`DELETE /<collection>/<id>/tags/<tag>` (percent-decoded) → `204`, idempotent".
#[test]
fn tags_are_put_and_deleted_in_every_collection_that_has_them() {
    let site = Site::new();
    for (collection, _, id) in site.kinds() {
        if matches!(collection, "vbds" | "vifs") {
            continue;
        }
        let tags = || site.get(&format!("{collection}/{id}"))["tags"].clone();
        for _ in 0..2 {
            site.send("PUT", &format!("{collection}/{id}/tags/caf%C3%A9%20%2F%20bar")).expect(204);
            assert_eq!(tags(), json!(["café / bar"]), "{collection}");
        }
        site.send("PUT", &format!("{collection}/{id}/tags/b")).expect(204);
        for _ in 0..2 {
            site.send("DELETE", &format!("{collection}/{id}/tags/caf%C3%A9%20%2F%20bar")).expect(204);
            assert_eq!(tags(), json!(["b"]), "{collection}");
        }
        site.send("PUT", &format!("{collection}/{NOBODY}/tags/b")).refused(404..=404);
        site.send("DELETE", &format!("{collection}/{NOBODY}/tags/b")).refused(404..=404);
    }
}
