//! Snapshots of disks: at once, without taking room, and for good, whatever becomes of the disk.

use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::MIB;
use crate::support::disk::{Disk, noise, occupied};
use crate::support::server::{Server, Setup, created, disk_files};
use crate::support::tools::qemu;
use crate::support::wait;

const LEN: usize = 8 * MIB as usize;

/// Takes a snapshot and waits for it.
#[track_caller]
fn snapshot(server: &Server, vdi: &str) -> String {
    let target = format!("/rest/v0/vdis/{vdi}/actions/snapshot?sync");
    created(&server.request("POST", &target).json(&json!({})).send(), "vdi-snapshots")
}

#[track_caller]
fn put(server: &Server, vdi: &str, content: Vec<u8>) {
    server.request("PUT", &format!("/rest/v0/vdis/{vdi}.raw")).body(content).send().expect(204);
}

#[track_caller]
fn delete(server: &Server, target: &str) {
    server.request("DELETE", &format!("/rest/v0/{target}")).send().expect(204);
}

/// The bytes of a snapshot's export.
#[track_caller]
fn bytes_of(server: &Server, snapshot: &str, format: &str) -> Vec<u8> {
    server.get(&format!("/rest/v0/vdi-snapshots/{snapshot}.{format}")).expect(200).body
}

#[track_caller]
fn etag(server: &Server, target: &str) -> String {
    server.request("HEAD", &format!("/rest/v0/{target}")).send().expect(200).head.need("ETag").to_owned()
}

/// Waits until the SR's directory holds these files and nothing else.
#[track_caller]
fn wait_for_files(server: &Server, names: &[String]) {
    let mut expected: Vec<PathBuf> = names.iter().map(|name| server.sr_folder().join(name)).collect();
    expected.sort();
    wait::until(Duration::from_secs(10), || match server.disk_files() {
        files if files == expected => Ok(()),
        files => Err(format!("{files:?}, not {expected:?}")),
    });
}

#[test]
fn a_snapshot_is_an_object_of_its_own_that_takes_no_room() {
    let server = Server::start();
    let vdi = server.import("?raw&name_label=system&name_description=about", noise(LEN, 1));
    let file = server.sr_folder().join(format!("{vdi}.raw"));
    let before = occupied(&file);
    let taken = snapshot(&server, &vdi);
    let object = server.json(&format!("/rest/v0/vdi-snapshots/{taken}"));
    assert_eq!(object["type"], "VDI-snapshot");
    assert_eq!((&object["name_label"], &object["name_description"]), (&json!("system"), &json!("about")));
    assert_eq!((&object["$snapshot_of"], &object["size"]), (&json!(vdi), &json!(LEN)));
    assert!(object["snapshot_time"].as_u64().is_some_and(|time| time > 1_700_000_000), "{object}");
    assert_eq!(server.json(&format!("/rest/v0/vdis/{vdi}"))["snapshots"], json!([taken]));
    assert_eq!(server.vdis(), std::slice::from_ref(&vdi), "it is not among the disks");
    assert_eq!(server.disk_files(), std::slice::from_ref(&file));
    assert_eq!(occupied(&file), before);
    let sr = server.json(&format!("/rest/v0/srs/{}", server.sr()));
    assert_eq!(sr["usage"], json!(LEN), "what both share counts once");
    let named = server
        .request("POST", &format!("/rest/v0/vdis/{vdi}/actions/snapshot?sync"))
        .json(&json!({"name_label": "before the upgrade"}))
        .send();
    let named = created(&named, "vdi-snapshots");
    let object = server.json(&format!("/rest/v0/vdi-snapshots/{named}"));
    assert_eq!(object["name_label"], "before the upgrade");
    // The same content is the same representation, under both addresses.
    for format in ["raw", "vhd"] {
        let of_vdi = etag(&server, &format!("vdis/{vdi}.{format}"));
        assert_eq!(etag(&server, &format!("vdi-snapshots/{taken}.{format}")), of_vdi, "{format}");
    }
    assert!(bytes_of(&server, &taken, "vhd") == server.export_bytes(&vdi, "vhd"));
}

#[test]
fn a_snapshot_that_nobody_waits_for_is_a_task_with_the_snapshot_as_its_result() {
    let server = Server::start();
    let vdi = server.import("?raw", noise(4096, 1));
    let answer = server.request("POST", &format!("/rest/v0/vdis/{vdi}/actions/snapshot")).send().expect(202);
    let task = answer.json()["taskId"].as_str().expect("a task").to_owned();
    assert_eq!(answer.head.need("Location"), format!("/rest/v0/tasks/{task}"));
    let task = server.task_ended(&task);
    assert_eq!(task["status"], "success", "{task}");
    assert_eq!(
        (&task["properties"]["type"], &task["properties"]["objectId"]),
        (&json!("vdi.snapshot"), &json!(vdi))
    );
    let taken = task["result"]["id"].as_str().expect("an id");
    assert!(bytes_of(&server, taken, "raw") == noise(4096, 1));
}

#[test]
fn a_snapshot_keeps_its_bytes_when_its_disk_gets_others_and_goes() {
    let mut server = Server::start();
    let vdi = server.import("?raw", noise(LEN, 1));
    let first = snapshot(&server, &vdi);
    put(&server, &vdi, noise(LEN, 2));
    let second = snapshot(&server, &vdi);
    for restart in [false, true] {
        if restart {
            server.kill();
            server.start_again();
        }
        assert!(server.export_bytes(&vdi, "raw") == noise(LEN, 2));
        assert!(bytes_of(&server, &first, "raw") == noise(LEN, 1));
        assert!(bytes_of(&server, &second, "raw") == noise(LEN, 2));
        wait_for_files(&server, &[format!("{vdi}.raw"), format!("{first}.raw")]);
    }
    delete(&server, &format!("vdis/{vdi}"));
    server.get(&format!("/rest/v0/vdis/{vdi}.raw")).refused(404..=410);
    for restart in [false, true] {
        if restart {
            server.kill();
            server.start_again();
        }
        wait_for_files(&server, &[format!("{first}.raw"), format!("{second}.raw")]);
        for (snapshot, seed) in [(&first, 1), (&second, 2)] {
            assert!(bytes_of(&server, snapshot, "raw") == noise(LEN, seed));
            let file = server.sr_folder().join(format!("{snapshot}.raw"));
            assert!(std::fs::read(&file).expect("it is there") == noise(LEN, seed));
        }
    }
    delete(&server, &format!("vdi-snapshots/{first}"));
    wait_for_files(&server, &[format!("{second}.raw")]);
    delete(&server, &format!("vdi-snapshots/{second}"));
    server.assert_empty("the deletion of a disk and its snapshots");
}

#[test]
fn a_stranger_reads_a_snapshot_under_its_name() {
    let server = Server::start();
    let body = json!({"name_label": "vhds", "content_format": "vhd"});
    let sr = created(&server.request("POST", "/rest/v0/srs").json(&body).send(), "srs");
    let folder = server.data().join("srs").join(&sr);
    let disks = [1, 2].map(|seed| Disk::lively(40 * MIB + 1536, seed));
    let target = format!("/rest/v0/srs/{sr}/vdis?raw");
    let vdi = created(&server.request("POST", &target).body(disks[0].whole()).send(), "vdis");
    let taken = snapshot(&server, &vdi);
    put(&server, &vdi, disks[1].whole());
    let raw = server.path("read.raw");
    for (id, disk) in [(&taken, &disks[0]), (&vdi, &disks[1])] {
        qemu::vhd_to_raw(&folder.join(format!("{id}.vhd")), &raw);
        disk.assert_is(&raw);
    }
    // A growth replaces content too.
    let grown = snapshot(&server, &vdi);
    let size = json!({"size": 48 * MIB});
    server.request("PATCH", &format!("/rest/v0/vdis/{vdi}")).json(&size).send().expect(204);
    qemu::vhd_to_raw(&folder.join(format!("{grown}.vhd")), &raw);
    disks[1].assert_is(&raw);
    delete(&server, &format!("vdis/{vdi}"));
    wait::until(Duration::from_secs(10), || match disk_files(&folder) {
        files if files.len() == 2 => Ok(()),
        files => Err(format!("{files:?}")),
    });
    qemu::vhd_to_raw(&folder.join(format!("{taken}.vhd")), &raw);
    disks[0].assert_is(&raw);
}

#[test]
fn an_export_is_not_disturbed_by_snapshots_and_replacements() {
    let server = Server::start();
    let len = 3 * LEN;
    let vdi = server.import("?raw", noise(len, 1));
    let mut early = server.request("GET", &format!("/rest/v0/vdis/{vdi}.raw")).open();
    let mut early_bytes = early.take_bytes(100_000);
    let taken = snapshot(&server, &vdi);
    let mut of_snapshot = server.request("GET", &format!("/rest/v0/vdi-snapshots/{taken}.raw")).open();
    let mut snapshot_bytes = of_snapshot.take_bytes(100_000);
    put(&server, &vdi, noise(len, 2));
    delete(&server, &format!("vdis/{vdi}"));
    delete(&server, &format!("vdi-snapshots/{taken}"));
    early_bytes.extend(early.rest().expect("it goes on to its end"));
    snapshot_bytes.extend(of_snapshot.rest().expect("it goes on to its end"));
    assert!(early_bytes == noise(len, 1) && snapshot_bytes == noise(len, 1));
    server.assert_empty("the last reader");
}

#[test]
fn only_the_address_whose_bytes_have_changed_asks_which_bytes_are_meant() {
    let server = Server::start();
    let vdi = server.import("?raw", noise(LEN, 1));
    let taken = snapshot(&server, &vdi);
    let old = etag(&server, &format!("vdis/{vdi}.raw"));
    put(&server, &vdi, noise(LEN, 2));
    let range = |target: &str| server.request("GET", target).header("Range", "bytes=100-199").send();
    let refusal = range(&format!("/rest/v0/vdis/{vdi}.raw")).refused(409..=409);
    assert_eq!(refusal.code, "content_changed");
    let of_snapshot = format!("/rest/v0/vdi-snapshots/{taken}.raw");
    let part = range(&of_snapshot).expect(206);
    assert!(part.body == noise(LEN, 1)[100..200]);
    assert_eq!(part.head.need("ETag"), old);
    // Nor does a snapshot of changed content: nobody has seen other bytes under its name.
    let later = snapshot(&server, &vdi);
    assert!(
        range(&format!("/rest/v0/vdi-snapshots/{later}.raw")).expect(206).body == noise(LEN, 2)[100..200]
    );
}

#[test]
fn what_can_be_done_to_a_disk_is_listed_and_nothing_else_is_done() {
    let server = Server::start();
    let vdi = server.import("?raw", noise(512, 1));
    let taken = snapshot(&server, &vdi);
    for id in [vdi.as_str(), "_"] {
        let base = format!("/rest/v0/vdis/{id}/actions");
        assert_eq!(server.json(&base), json!([format!("{base}/snapshot")]));
        let params = server.json(&format!("{base}/snapshot"));
        assert_eq!(params["params"]["name_label"]["type"], "string", "{params}");
        let refusal = server.get(&format!("{base}/nonsense")).refused(404..=404);
        assert_eq!(refusal.code, "no_such_action");
    }
    let post = |id: &str, action: &str, body: Value| {
        server.request("POST", &format!("/rest/v0/vdis/{id}/actions/{action}")).json(&body).send()
    };
    let refusal = post(&vdi, "start", json!({})).refused(404..=404);
    assert!(refusal.code == "no_such_action" && refusal.text.contains("snapshot"), "{}", refusal.text);
    post(&taken, "snapshot", json!({})).refused(404..=404);
    post("6a1c27c1-6a3f-4b6e-9d3b-2f2f0f6b7a01", "snapshot", json!({})).refused(404..=404);
    post("_", "snapshot", json!({})).refused(404..=404);
    post(&vdi, "snapshot", json!({"name_label": 5})).refused(422..=422);
    post(&vdi, "snapshot", json!({"nonsense": true})).refused(422..=422);
    server
        .request("PUT", &format!("/rest/v0/vdi-snapshots/{taken}.raw"))
        .body(noise(512, 2))
        .send()
        .refused(404..=404);
    server
        .request("PUT", &format!("/rest/v0/vdis/{taken}.raw"))
        .body(noise(512, 2))
        .send()
        .refused(404..=422);
    assert_eq!(server.json(&format!("/rest/v0/vdis/{vdi}"))["snapshots"], json!([taken]));
    assert!(bytes_of(&server, &taken, "raw") == noise(512, 1));
}

#[test]
fn the_same_request_again_is_the_same_snapshot() {
    let server = Server::start();
    let vdi = server.import("?raw", noise(512, 1));
    for sync in ["?sync", ""] {
        let target = format!("/rest/v0/vdis/{vdi}/actions/snapshot{sync}");
        let ask = || {
            server
                .request("POST", &target)
                .header("Idempotency-Key", &format!("one{sync}"))
                .json(&json!({}))
                .send()
        };
        let (first, again) = (ask(), ask());
        assert_eq!((first.head.status, first.text()), (again.head.status, again.text()));
        assert_eq!(again.head.need("Idempotent-Replayed"), "true");
        let task = first.json()["taskId"].as_str().map(str::to_owned);
        task.into_iter().for_each(|task| drop(server.task_ended(&task)));
    }
    let taken = server.json(&format!("/rest/v0/vdis/{vdi}"))["snapshots"].as_array().expect("a list").len();
    assert_eq!(taken, 2);
}

#[test]
fn snapshots_come_back_when_their_sr_is_attached_to_a_fresh_data_directory() {
    let with_roots = |folder: &std::path::Path| {
        Setup::default().config(&format!("[storage]\nsr_roots = [{folder:?}]")).start()
    };
    let shared = crate::support::server::scratch();
    let folder = shared.path().join("moving");
    let attach = |server: &Server| {
        let body = json!({"name_label": "moving", "path": folder});
        created(&server.request("POST", "/rest/v0/srs").json(&body).send(), "srs")
    };
    let mut first = with_roots(shared.path());
    let sr = attach(&first);
    let target = format!("/rest/v0/srs/{sr}/vdis?raw&name_label=system");
    let vdi = created(&first.request("POST", &target).body(noise(LEN, 1)).send(), "vdis");
    let old = snapshot(&first, &vdi);
    put(&first, &vdi, noise(LEN, 2));
    let current = snapshot(&first, &vdi);
    assert!(first.terminate().success());

    let second = with_roots(shared.path());
    assert_eq!(attach(&second), sr);
    assert_eq!(second.vdis(), std::slice::from_ref(&vdi));
    let mut listed: Vec<Value> =
        second.json(&format!("/rest/v0/vdis/{vdi}"))["snapshots"].as_array().expect("a list").clone();
    listed.sort_by_key(Value::to_string);
    let mut both = [json!(old), json!(current)];
    both.sort_by_key(Value::to_string);
    assert_eq!(listed, both);
    assert!(bytes_of(&second, &old, "raw") == noise(LEN, 1));
    assert!(bytes_of(&second, &current, "raw") == noise(LEN, 2));
    let of_current = etag(&second, &format!("vdi-snapshots/{current}.raw"));
    assert_eq!(of_current, etag(&second, &format!("vdis/{vdi}.raw")), "they share it again");
    // And from then on as before.
    delete(&second, &format!("vdis/{vdi}"));
    assert!(bytes_of(&second, &current, "raw") == noise(LEN, 2));
    assert!(folder.join(format!("{current}.raw")).is_file());
    assert_eq!(second.json(&format!("/rest/v0/vdi-snapshots/{old}"))["name_label"], "system");
}
