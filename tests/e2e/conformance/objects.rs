//! §6 Single objects, and §8 DELETE.

use serde_json::json;

use super::{NOBODY, Site};
use crate::support::disk::noise;

/// §6: "`200` the whole object, **without `href`**; `fields` is ignored. An existing id of another type: 404 as if missing".
#[test]
fn a_single_object_is_whole_and_has_no_link() {
    let site = Site::new();
    for (collection, kind, id) in site.kinds() {
        let whole = site.get(&format!("{collection}/{id}"));
        assert_eq!((&whole["id"], &whole["type"]), (&json!(id), &json!(kind)));
        assert!(whole.as_object().is_some_and(|members| !members.keys().any(|name| name.ends_with("href"))));
        let few = site.get(&format!("{collection}/{id}?fields=id"));
        assert_eq!(
            few.as_object().map(|one| one.len()),
            whole.as_object().map(|one| one.len()),
            "{collection}"
        );
        assert_eq!(whole["uuid"], id, "Ids are UUIDs");
    }
}

/// §8, all rows: 204, and what has gone is 404, also for a second DELETE.
#[test]
fn what_is_deleted_is_204_and_then_404() {
    let site = Site::new();
    let sr = site.send_json("POST", "srs", &json!({"name_label": "empty"})).expect(201).json();
    let sr = sr["id"].as_str().expect("an id").to_owned();
    let task = site.get("tasks?fields=id&filter=status:success&limit=1")[0]["id"].as_str().map(str::to_owned);
    let empty_drive = site.get(&format!("vbds?fields=id&filter=VM:{}%20is_cd_drive?", site.vm));
    let empty_drive = empty_drive[0]["id"].as_str().expect("a CD drive").to_owned();
    site.send("DELETE", &format!("networks/{}", site.network)).refused(409..=409);
    for (collection, id) in [
        ("tasks", task.as_deref().expect("a task")),
        ("vbds", &empty_drive),
        ("vifs", &site.vif),
        ("vdi-snapshots", &site.vdi_snapshot),
        ("vdis", &site.vdi),
        ("srs", &sr),
    ] {
        let target = format!("{collection}/{id}");
        assert!(site.send("DELETE", &target).expect(204).body.is_empty(), "{target}");
        site.send("GET", &target).refused(404..=404);
        site.send("DELETE", &target).refused(404..=404);
    }
    // The snapshot has a VIF on the network as well.
    site.send("DELETE", &format!("vms/{}", site.vm)).expect(204);
    site.send("GET", &format!("vm-snapshots/{}", site.vm_snapshot)).refused(404..=404);
    site.send("DELETE", &format!("networks/{}", site.network)).expect(204);
    for (collection, _, _) in site.kinds() {
        if !matches!(collection, "hosts" | "pools") {
            site.send("DELETE", &format!("{collection}/{NOBODY}")).refused(404..=404);
        }
    }
    site.send("DELETE", "tasks").expect(204);
    assert_eq!(site.get("tasks"), json!([]));
}

/// §8: "Deleting a VM destroys it, then its snapshots, then its disks that no other VM uses".
#[test]
fn a_vm_goes_with_its_snapshots_and_the_disks_that_no_other_vm_uses() {
    let site = Site::new();
    let shared = site.server.import("?raw&name_label=shared", noise(4096, 3));
    let vm = |name: &str, vdis: &[&str]| {
        let made = site.send_json("POST", "vms", &json!({"name_label": name, "vdis": vdis})).expect(201);
        made.json()["id"].as_str().expect("an id").to_owned()
    };
    let (one, other) = (vm("one", &[&site.vdi, &shared]), vm("other", &[&shared]));
    site.send("DELETE", &format!("vms/{one}")).expect(204);
    site.send("GET", &format!("vdis/{}", site.vdi)).refused(404..=404);
    site.send("GET", &format!("vdis/{shared}")).expect(200);
    site.send("DELETE", &format!("vms/{other}")).expect(204);
    site.send("GET", &format!("vdis/{shared}")).refused(404..=404);
    site.send("GET", &format!("vdi-snapshots/{}", site.vdi_snapshot)).expect(200);
}
