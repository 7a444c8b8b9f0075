//! Snapshots of VMs: taken, kept, told of, and what else could be done to a VM: rest-v0.md §10.

use serde_json::{Value, json};

use super::{NOBODY, delete, disk, get, gone, has, has_every_member_of_a_vm, post, snapshot, texts, vm};
use crate::support::MIB;
use crate::support::disk::noise;
use crate::support::server::{Server, Setup, created};
use crate::support::stream::{events, subscribe};

#[test]
fn a_snapshot_is_taken_at_once_with_its_disks_and_survives_a_restart() {
    let mut server = Server::start();
    let (first, second) = (disk(&server, "one", 1), disk(&server, "two", 2));
    let id = vm(&server, "vm", &[&first, &second]);
    let taken = snapshot(&server, &id, "before");
    let object = get(&server, &format!("vm-snapshots/{taken}"));
    has_every_member_of_a_vm(&object);
    has(&object, "snapshot_time", Value::is_u64);
    assert_eq!((&object["type"], &object["$snapshot_of"]), (&json!("VM-snapshot"), &json!(id)));
    assert_eq!((&object["name_label"], &object["snapshots"]), (&json!("before"), &json!([])));
    assert_eq!(get(&server, &format!("vms/{id}"))["snapshots"], json!([taken]));
    let links = texts(&get(&server, &format!("vm-snapshots/{taken}/vdis")));
    assert_eq!(links.len(), 2);
    let check = |server: &Server| {
        for (link, (origin, seed)) in links.iter().zip([(&first, 1), (&second, 2)]) {
            let shown = server.json(link);
            assert_eq!((&shown["type"], &shown["$snapshot_of"]), (&json!("VDI-snapshot"), &json!(origin)));
            assert_eq!(get(server, &format!("vdis/{origin}"))["snapshots"], json!([shown["id"]]));
            let bytes = server.get(&format!("{link}.raw")).expect(200).body;
            assert!(bytes == noise(MIB as usize, seed), "the disk as it was");
        }
    };
    check(&server);
    server.kill();
    server.start_again();
    check(&server);
    assert_eq!(get(&server, &format!("vm-snapshots/{taken}")), object);
}

#[test]
fn a_snapshot_keeps_the_disks_as_they_were_when_the_vm_gets_others() {
    let server = Server::start();
    let vdi = disk(&server, "d", 1);
    let id = vm(&server, "vm", &[&vdi]);
    let taken = snapshot(&server, &id, "before");
    let frozen = texts(&get(&server, &format!("vm-snapshots/{taken}/vdis")))[0].clone();
    let target = format!("/rest/v0/vdis/{vdi}.raw");
    server.request("PUT", &target).body(noise(MIB as usize, 2)).send().expect(204);
    assert!(server.export_bytes(&vdi, "raw") == noise(MIB as usize, 2));
    assert!(server.get(&format!("{frozen}.raw")).expect(200).body == noise(MIB as usize, 1));
    delete(&server, &format!("vms/{id}"));
    server.assert_empty("a VM that was deleted with its snapshot");
}

#[test]
fn a_snapshot_is_a_task_unless_its_end_is_waited_for() {
    let server = Server::start();
    let id = vm(&server, "vm", &[&disk(&server, "d", 1)]);
    let target = format!("/rest/v0/vms/{id}/actions/snapshot");
    let answer = server.request("POST", &target).send().expect(202);
    let task = answer.json()["taskId"].as_str().expect("a task").to_owned();
    assert_eq!(answer.head.need("Location"), format!("/rest/v0/tasks/{task}"));
    assert_eq!(answer.json(), json!({"taskId": task}));
    let ended = server.task_ended(&task);
    assert_eq!(ended["status"], "success", "{ended:#}");
    assert_eq!(
        (&ended["properties"]["type"], &ended["properties"]["objectId"]),
        (&json!("vm.snapshot"), &json!(id))
    );
    let taken = ended["result"]["id"].as_str().expect("an id").to_owned();
    let name = get(&server, &format!("vm-snapshots/{taken}"))["name_label"].clone();
    let date =
        name.as_str().and_then(|name| name.strip_prefix("vm_")).expect("the VM's name and a date").to_owned();
    assert!(date.len() == 24 && date.ends_with('Z') && date.as_bytes()[10] == b'T', "{date}");
    let form = server.request("POST", &format!("{target}?sync=true"));
    let form = form.header("Content-Type", "application/x-www-form-urlencoded").body("name_label=by+form");
    let by_form = created(&form.send(), "vm-snapshots");
    assert_eq!(get(&server, &format!("vm-snapshots/{by_form}"))["name_label"], "by form");
    assert_eq!(get(&server, &format!("vms/{id}"))["snapshots"], json!([taken, by_form]), "oldest first");
    let tasks = get(&server, &format!("vms/{id}/tasks?fields=id"));
    assert_eq!(tasks.as_array().map(Vec::len), Some(2));
}

#[test]
fn requests_with_a_key_make_a_vm_and_a_snapshot_once() {
    let server = Server::start();
    let vdi = disk(&server, "d", 1);
    let with_key = |target: &str, body: &Value| {
        server.request("POST", target).header("Idempotency-Key", "once").json(body).send()
    };
    let body = json!({"name_label": "vm", "vdis": [vdi]});
    let made = || created(&with_key("/rest/v0/vms", &body), "vms");
    let id = made();
    assert_eq!(made(), id);
    let target = format!("/rest/v0/vms/{id}/actions/snapshot");
    let asked = || with_key(&target, &json!({})).expect(202).json()["taskId"].clone();
    let task = asked();
    server.task_ended(task.as_str().expect("a task"));
    assert_eq!(asked(), task);
    assert_eq!(texts(&get(&server, "vms")).len(), 1);
    assert_eq!(texts(&get(&server, "vm-snapshots")).len(), 1);
}

#[test]
fn what_cannot_be_done_to_a_vm_is_not_listed_and_says_why() {
    let server = Server::start();
    let id = vm(&server, "vm", &[]);
    let taken = snapshot(&server, &id, "s");
    for name in [id.as_str(), "_"] {
        let links = texts(&get(&server, &format!("vms/{name}/actions")));
        assert_eq!(links, [format!("/rest/v0/vms/{name}/actions/snapshot")]);
        let schema = get(&server, &format!("vms/{name}/actions/snapshot"));
        assert_eq!(schema["params"]["name_label"], json!({"type": "string", "optional": true}));
    }
    assert_eq!(get(&server, &format!("vm-snapshots/{taken}/actions")), json!([]));
    gone(&server, &format!("vms/{NOBODY}/actions"));
    gone(&server, "vms/_/actions/start");
    for (target, why) in [
        (format!("vms/{id}/actions/start"), "does not run"),
        (format!("vms/{id}/actions/clean_shutdown"), "does not run"),
        (format!("vm-snapshots/{taken}/actions/snapshot"), "snapshot or a template"),
    ] {
        let refusal = post(&server, &target, &json!({})).refused(404..=404);
        assert_eq!(refusal.code, "no_such_action");
        assert!(refusal.text.contains(why), "{}", refusal.text);
    }
    post(&server, &format!("vms/{NOBODY}/actions/snapshot"), &json!({})).refused(404..=404);
    post(&server, &format!("vms/{taken}/actions/snapshot"), &json!({})).refused(404..=404);
    post(&server, &format!("vms/{id}/actions/snapshot"), &json!({"name_label": 5})).refused(422..=422);
    post(&server, &format!("vms/{id}/actions/snapshot"), &json!({"nonsense": 5})).refused(422..=422);
    assert_eq!(get(&server, &format!("vms/{id}"))["snapshots"], json!([taken]));
}

#[test]
fn deleting_a_snapshot_leaves_the_vm_and_its_disks() {
    let server = Server::start();
    let vdi = disk(&server, "d", 1);
    let id = vm(&server, "vm", &[&vdi]);
    let taken = snapshot(&server, &id, "s");
    delete(&server, &format!("vm-snapshots/{taken}"));
    assert_eq!(get(&server, "vdi-snapshots"), json!([]));
    assert_eq!(get(&server, &format!("vms/{id}"))["snapshots"], json!([]));
    assert_eq!(get(&server, &format!("vdis/{vdi}"))["snapshots"], json!([]));
    assert!(server.export_bytes(&vdi, "raw") == noise(MIB as usize, 1));
}

#[test]
fn disks_of_a_read_only_sr_are_not_snapshot_and_go_with_the_sr_when_it_is_forgotten() {
    let server = Setup::default().config("[storage]\nsr_roots = [\"{scratch}/roots\"]").start();
    let (folder, there) = (server.path("roots/sr"), "11111111-2222-4333-8444-555555555555");
    std::fs::create_dir_all(&folder).expect("a folder can be made");
    std::fs::write(folder.join(format!("{there}.raw")), noise(MIB as usize, 3)).expect("there is room");
    let body = json!({"name_label": "attached", "path": folder, "read_only": true});
    let sr = post(&server, "srs", &body).expect(201).json()["id"].as_str().expect("an id").to_owned();
    let own = disk(&server, "own", 1);
    let id = vm(&server, "vm", &[&own, there]);
    let target = format!("vms/{id}/actions/snapshot");
    let refusal = post(&server, &format!("{target}?sync"), &json!({})).refused(409..=409);
    assert_eq!(refusal.code, "sr_read_only");
    let task = post(&server, &target, &json!({})).expect(202).json()["taskId"].clone();
    let ended = server.task_ended(task.as_str().expect("a task"));
    assert_eq!(ended["status"], "failure", "{ended:#}");
    assert!(ended["result"]["message"].as_str().is_some_and(|text| text.contains("read-only")), "{ended:#}");
    assert_eq!((get(&server, "vm-snapshots"), get(&server, "vdi-snapshots")), (json!([]), json!([])));

    let (mut stream, connection) = events(&server);
    subscribe(&server, &connection, json!({"collection": "VM", "fields": ["$VBDs"]}));
    let vbds = texts(&get(&server, &format!("vms/{id}"))["$VBDs"]);
    post(&server, &format!("srs/{sr}/actions/forget"), &json!({})).expect(204);
    stream.event_where("update", "VM", |vm| vm["$VBDs"] == json!(vbds[..1]));
    gone(&server, &format!("vbds/{}", vbds[1]));
    delete(&server, &format!("vms/{id}"));
    server.assert_empty("a VM that was deleted");
}
