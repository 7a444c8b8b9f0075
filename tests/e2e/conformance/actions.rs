//! §10 Actions: how they are begun, answered and listed.

use std::path::PathBuf;

use serde_json::{Value, json};

use super::{NOBODY, Site, texts};
use crate::support::disk::noise;
use crate::support::http::Response;

/// Actions with the schemas of their parameters.
type Actions<'a> = &'a [(&'a str, &'a Value)];

fn task_of(site: &Site, response: Response) -> Value {
    assert_eq!(response.head.status, 202, "{}", response.text());
    let task = response.json()["taskId"].as_str().expect("an id").to_owned();
    assert_eq!(response.head.need("Location"), format!("/rest/v0/tasks/{task}"));
    site.server.task_ended(&task)
}

/// "C: `202`, `Location: /rest/v0/tasks/<task id>`, JSON `{"taskId"}`"; "with `sync` the action's status: `204` without
/// result, `201` + `Location` + `{"id"}` when something was created".
#[test]
fn an_action_is_a_task_or_with_sync_its_end() {
    let site = Site::new();
    for (collection, id, made) in [("vms", &site.vm, "vm-snapshots"), ("vdis", &site.vdi, "vdi-snapshots")] {
        let target = format!("{collection}/{id}/actions/snapshot");
        let task = task_of(&site, site.send("POST", &target));
        assert_eq!(task["status"], "success", "{task}");
        let snapshot = task["result"]["id"].as_str().expect("an id");
        site.send("GET", &format!("{made}/{snapshot}")).expect(200);
        for sync in ["?sync", "?sync=true", "?sync="] {
            let response = site.send("POST", &format!("{target}{sync}")).expect(201);
            let id = response.json()["id"].as_str().expect("an id").to_owned();
            assert_eq!(response.head.need("Location"), format!("/rest/v0/{made}/{id}"));
        }
        task_of(&site, site.send("POST", &format!("{target}?sync=false")));
        site.send("POST", &format!("{collection}/{NOBODY}/actions/snapshot")).refused(404..=404);
    }
    let scan = format!("srs/{}/actions/scan", site.server.sr());
    let task = task_of(&site, site.send("POST", &scan));
    assert_eq!((&task["status"], &task["result"]["added"]), (&json!("success"), &json!(0)), "{task}");
    assert!(site.send("POST", &format!("{scan}?sync")).expect(204).body.is_empty());
    site.send("POST", &format!("srs/{NOBODY}/actions/scan")).refused(404..=404);
}

/// "listing like L: `GET …/<id>/actions` or `…/_/actions`: links; `GET …/_/actions/<name>`: `{params}` schema". "An unknown
/// action: 404".
#[test]
fn actions_are_listed_with_their_parameters_and_others_are_404() {
    let site = Site::new();
    let task = site.get("tasks?fields=id&limit=1")[0]["id"].as_str().expect("an id").to_owned();
    let labelled = json!({"params": {"name_label": {"type": "string", "optional": true}}});
    let none = json!({"params": {}});
    let table: [(&str, &str, Actions<'_>); 11] = [
        ("vms", &site.vm, &[("snapshot", &labelled)]),
        ("vdis", &site.vdi, &[("snapshot", &labelled)]),
        ("srs", site.server.sr(), &[("forget", &none), ("scan", &none)]),
        ("tasks", &task, &[("abort", &none), ("pause", &none), ("resume", &none)]),
        ("vm-snapshots", &site.vm_snapshot, &[]),
        ("vdi-snapshots", &site.vdi_snapshot, &[]),
        ("vbds", &site.vbd, &[]),
        ("vifs", &site.vif, &[]),
        ("networks", &site.network, &[]),
        ("pools", &site.pool, &[]),
        ("hosts", &site.host, &[]),
    ];
    for (collection, id, actions) in table {
        for id in [id, "_"] {
            let base = format!("{collection}/{id}/actions");
            let names = actions.iter().map(|(name, _)| format!("/rest/v0/{base}/{name}"));
            assert_eq!(texts(&site.get(&base)), names.collect::<Vec<_>>(), "{base}");
            for (name, schema) in actions {
                assert_eq!(site.get(&format!("{base}/{name}")), **schema, "{base}/{name}");
            }
            site.send("GET", &format!("{base}/nonsense")).refused(404..=404);
            site.send("POST", &format!("{base}/nonsense")).refused(404..=404);
        }
        site.send("GET", &format!("{collection}/{NOBODY}/actions")).refused(404..=404);
    }
    for action in ["start", "clean_shutdown", "hard_reboot", "suspend", "revert_snapshot", "migrate"] {
        let refusal = site.send("POST", &format!("vms/{}/actions/{action}", site.vm)).refused(404..=404);
        assert_eq!(refusal.code, "no_such_action", "{action}");
    }
}

/// The SR action `scan`: what was put into the directory becomes a disk, what was taken from it is missing, and is there
/// again with its file.
#[test]
fn a_scan_finds_what_has_come_what_has_gone_and_what_is_back() {
    let site = Site::new();
    let folder: PathBuf = site.server.sr_folder();
    let scan = || task_of(&site, site.send("POST", &format!("srs/{}/actions/scan", site.server.sr())));
    let disks = site.server.vdis();
    let new = "6a1b4a4e-0d7f-4b0e-9d53-2f0c6ee0a111";
    let content = noise(8192, 9);
    std::fs::write(folder.join(format!("{new}.raw")), &content).expect("it fits");
    std::fs::write(folder.join("7b1b4a4e-0d7f-4b0e-9d53-2f0c6ee0a222.vhd"), b"no VHD").expect("it fits");
    std::fs::write(folder.join("notes.txt"), b"mine").expect("it fits");
    site.send("GET", &format!("vdis/{new}")).refused(404..=404);

    let found = scan()["result"].clone();
    assert_eq!((&found["added"], &found["missing"]), (&json!(1), &json!(0)), "{found}");
    assert_eq!(found["broken"][0]["file"], "7b1b4a4e-0d7f-4b0e-9d53-2f0c6ee0a222.vhd", "{found}");
    assert_eq!(found["broken"].as_array().map(Vec::len), Some(1), "{found}");
    assert_eq!(site.get(&format!("vdis/{new}"))["size"], 8192);
    assert!(site.server.export_bytes(new, "raw") == content);
    assert_eq!(scan()["result"]["added"], 0, "a second look finds nothing new");
    assert_eq!(site.server.vdis().len(), disks.len() + 1, "and what was there is there once");

    let (file, aside) = (folder.join(format!("{new}.raw")), site.server.path("aside"));
    std::fs::rename(&file, &aside).expect("it moves");
    assert_eq!(scan()["result"]["missing"], 1);
    assert_eq!(site.get(&format!("vdis/{new}"))["missing"], true);
    std::fs::rename(&aside, &file).expect("it moves");
    assert_eq!(scan()["result"]["missing"], 0);
    assert_eq!(site.get(&format!("vdis/{new}"))["missing"], false);
    assert!(site.server.export_bytes(new, "raw") == content);
    site.send("DELETE", &format!("vdis/{new}")).expect(204);
    assert!(!file.exists());
    assert_eq!(scan()["result"]["added"], 0, "what was deleted does not come back");
}

/// A scan takes nothing of what is just being imported or deleted for something new.
#[test]
fn scans_beside_imports_and_deletions_find_nothing_new() {
    let site = Site::new();
    let sr = site.server.sr().to_owned();
    let before = site.server.vdis().len();
    std::thread::scope(|scope| {
        let worker = scope.spawn(|| {
            for seed in 0..30 {
                let id = site.server.import("?raw", noise(4096, seed));
                site.server
                    .request("PUT", &format!("/rest/v0/vdis/{id}.raw"))
                    .body(noise(4096, seed + 1))
                    .send()
                    .expect(204);
                if seed % 2 == 0 {
                    site.send("DELETE", &format!("vdis/{id}")).expect(204);
                }
            }
        });
        while !worker.is_finished() {
            let result =
                task_of(&site, site.send("POST", &format!("srs/{sr}/actions/scan")))["result"].clone();
            assert_eq!(result, json!({"added": 0, "missing": 0, "broken": []}));
        }
        worker.join().expect("all of it succeeds");
    });
    assert_eq!(site.server.vdis().len(), before + 15);
}
