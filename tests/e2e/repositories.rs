//! Local SRs: where they may lie, what an existing directory brings with it, and what binds a directory to a server.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::support::MIB;
use crate::support::disk::{Disk, noise};
use crate::support::http::Response;
use crate::support::server::{Server, Setup, created, disk_files, files_under, gantry_run};
use crate::support::tools::qemu;

/// A server that may attach what lies under `<scratch>/roots`.
fn with_roots() -> Server {
    let server = Setup::default().config("[storage]\nsr_roots = [\"{scratch}/roots\"]").start();
    std::fs::create_dir_all(server.path("roots")).expect("it can be made");
    server
}

fn post(server: &Server, body: &Value) -> Response {
    server.request("POST", "/rest/v0/srs").json(body).send()
}

fn attach(server: &Server, name: &str, path: &Path) -> String {
    created(&post(server, &json!({"name_label": name, "path": path})), "srs")
}

fn import(server: &Server, sr: &str, query: &str, content: &[u8]) -> String {
    let target = format!("/rest/v0/srs/{sr}/vdis{query}");
    created(&server.request("POST", &target).body(content).send(), "vdis")
}

#[test]
fn a_new_sr_is_made_under_a_root_and_holds_disks() {
    let server = with_roots();
    let folder = server.path("roots/new");
    let sr = attach(&server, "new one", &folder);
    let object = server.json(&format!("/rest/v0/srs/{sr}"));
    assert_eq!(object["name_label"], "new one");
    assert_eq!(object["VDIs"], json!([]));
    let content = noise(MIB as usize, 1);
    let vdi = import(&server, &sr, "?raw", &content);
    assert_eq!(server.json(&format!("/rest/v0/vdis/{vdi}"))["$SR"], sr);
    assert_eq!(disk_files(&folder), [folder.join(format!("{vdi}.raw"))]);
    assert!(server.export_bytes(&vdi, "raw") == content);
    assert!(folder.join(".gantry/sr.json").is_file());
}

#[test]
fn an_sr_without_a_path_lies_in_the_data_directory() {
    let server = Server::start();
    let sr = created(&post(&server, &json!({"name_label": "second"})), "srs");
    let vdi = import(&server, &sr, "?raw", &noise(512, 1));
    assert!(server.data().join("srs").join(&sr).join(format!("{vdi}.raw")).is_file());
    assert!(server.disk_files().is_empty(), "the SR named local is another");
}

#[test]
fn an_sr_of_vhds_keeps_its_disks_as_vhds_that_a_stranger_can_read() {
    let server = Server::start();
    let sr = created(&post(&server, &json!({"name_label": "vhds", "content_format": "vhd"})), "srs");
    let disk = Disk::lively(40 * MIB + 1536, 1);
    let vdi = import(&server, &sr, "?raw", &disk.whole());
    let file = server.data().join("srs").join(&sr).join(format!("{vdi}.vhd"));
    let raw = server.path("read.raw");
    qemu::vhd_to_raw(&file, &raw);
    disk.assert_is(&raw);
    assert!(server.export_bytes(&vdi, "raw") == disk.whole());
    let new = Disk::lively(40 * MIB + 1536, 2);
    server.request("PUT", &format!("/rest/v0/vdis/{vdi}.raw")).body(new.whole()).send().expect(204);
    assert!(server.export_bytes(&vdi, "raw") == new.whole());
    let exported = server.path("exported.vhd");
    server.export(&vdi, "vhd", &exported);
    let again = import(&server, &sr, "", &std::fs::read(&exported).expect("it is there"));
    assert!(server.export_bytes(&again, "raw") == new.whole());
    post(&server, &json!({"name_label": "x", "content_format": "qcow2"})).refused(422..=422);
}

#[test]
fn a_path_outside_the_roots_is_refused() {
    let server = with_roots();
    let outside = server.path("outside");
    std::fs::create_dir_all(&outside).expect("it can be made");
    std::os::unix::fs::symlink(&outside, server.path("roots/link")).expect("it can be made");
    let beside = server.path("roots-beside");
    std::fs::create_dir_all(&beside).expect("it can be made");
    for path in [
        outside.clone(),
        server.path("roots/../outside"),
        server.path("roots/link"),
        server.path("roots/link/deeper"),
        beside,
        PathBuf::from("/"),
        PathBuf::from("relative"),
        PathBuf::from(""),
    ] {
        let refusal = post(&server, &json!({"name_label": "x", "path": path})).refused(400..=499);
        assert!(matches!(refusal.status, 403 | 422), "{}: {}", path.display(), refusal.body);
    }
    assert_eq!(files_under(&outside), Vec::<PathBuf>::new());
    assert_eq!(server.json("/rest/v0/srs").as_array().expect("an array").len(), 1);
    // Without roots there is no path at all.
    let server = Server::start();
    post(&server, &json!({"name_label": "x", "path": server.path("any")})).refused(400..=499);
}

#[test]
fn a_wrong_body_is_refused() {
    let server = with_roots();
    let path = server.path("roots/x");
    for body in [
        json!({}),
        json!({"name_label": 5}),
        json!({"name_label": "x", "path": 5}),
        json!({"name_label": "x", "path": path, "read_only": "perhaps"}),
        json!({"name_label": "x", "path": path, "nonsense": true}),
    ] {
        post(&server, &body).refused(422..=422);
    }
    assert!(!path.exists(), "nothing was made");
}

#[test]
fn a_directory_of_disks_made_by_others_is_attached_as_it_stands() {
    let server = with_roots();
    let folder = server.path("roots/xcp");
    std::fs::create_dir_all(&folder).expect("it can be made");
    let names = [
        "6a1c27c1-6a3f-4b6e-9d3b-2f2f0f6b7a01",
        "6a1c27c1-6a3f-4b6e-9d3b-2f2f0f6b7a02",
        "6a1c27c1-6a3f-4b6e-9d3b-2f2f0f6b7a03",
    ];
    let disks = [1, 2, 3].map(|seed| Disk::lively(40 * MIB + 1536, seed));
    let raw = server.path("made.raw");
    disks[0].write_raw(&raw);
    qemu::raw_to_vhd(&raw, &folder.join(format!("{}.vhd", names[0])), "subformat=dynamic,force_size=on");
    disks[1].write_raw(&raw);
    qemu::raw_to_vhd(&raw, &folder.join(format!("{}.vhd", names[1])), "subformat=fixed,force_size=on");
    disks[2].write_raw(&folder.join(format!("{}.raw", names[2])));
    std::fs::write(folder.join("notes.txt"), "not a disk").expect("it can be written");
    let bytes = |name: &String| std::fs::read(folder.join(name)).expect("it is there");
    let files = [format!("{}.vhd", names[0]), format!("{}.vhd", names[1]), format!("{}.raw", names[2])];
    let before = files.each_ref().map(bytes);

    let sr = attach(&server, "xcp", &folder);
    let mut vdis = server.vdis();
    vdis.sort();
    assert_eq!(vdis, names);
    for (name, disk) in names.iter().zip(&disks) {
        let vdi = server.json(&format!("/rest/v0/vdis/{name}"));
        assert_eq!((&vdi["size"], &vdi["$SR"]), (&json!(disk.size), &json!(sr)), "{vdi}");
        assert!(server.export_bytes(name, "raw") == disk.whole(), "{name}");
        let exported = server.path("exported.vhd");
        server.export(name, "vhd", &exported);
        let read = server.path("read.raw");
        qemu::vhd_to_raw(&exported, &read);
        disk.assert_is(&read);
    }
    assert!(files.each_ref().map(bytes) == before, "reading changed a file");
}

#[test]
fn a_uuid_that_is_known_already_is_a_conflict_that_names_both_paths() {
    let server = with_roots();
    let vdi = server.import("?raw", noise(4096, 1));
    let known = server.sr_folder().join(format!("{vdi}.raw"));
    let folder = server.path("roots/copy");
    std::fs::create_dir_all(&folder).expect("it can be made");
    let copy = folder.join(format!("{vdi}.raw"));
    std::fs::copy(&known, &copy).expect("it can be copied");
    let refusal = post(&server, &json!({"name_label": "copy", "path": folder})).refused(409..=409);
    for path in [&known, &copy] {
        assert!(refusal.text.contains(&path.display().to_string()), "{} in {}", path.display(), refusal.text);
    }
    assert_eq!(server.vdis(), [vdi]);
    assert_eq!(server.json("/rest/v0/srs").as_array().expect("an array").len(), 1);
}

#[test]
fn an_sr_goes_only_when_it_is_empty() {
    let server = with_roots();
    let folder = server.path("roots/going");
    let sr = attach(&server, "going", &folder);
    let target = format!("/rest/v0/srs/{sr}");
    let vdis = [1, 2, 3].map(|seed| import(&server, &sr, "?raw", &noise(512, seed)));
    let refusal = server.request("DELETE", &target).send().refused(409..=409);
    assert!(refusal.text.contains('3'), "it names the count: {}", refusal.text);
    for vdi in vdis {
        server.request("DELETE", &format!("/rest/v0/vdis/{vdi}")).send().expect(204);
    }
    server.request("DELETE", &target).send().expect(204);
    server.get(&target).refused(404..=404);
    assert_eq!(server.json("/rest/v0/srs").as_array().expect("an array").len(), 1);
}

#[test]
fn an_sr_attached_to_a_fresh_data_directory_brings_its_names_back() {
    let mut first = with_roots();
    let folder = first.path("roots/moving");
    let sr = attach(&first, "moving", &folder);
    let content = noise(100_352, 1);
    let vdi = import(&first, &sr, "?raw&name_label=famous&name_description=about", &content);
    let plain = import(&first, &sr, "?raw&name_label=another", &noise(512, 2));
    let gone = import(&first, &sr, "?raw&name_label=gone", &noise(512, 3));
    let change = json!({"name_label": "renamed", "tags": ["t1", "t2"]});
    first.request("PATCH", &format!("/rest/v0/vdis/{vdi}")).json(&change).send().expect(204);
    first.request("DELETE", &format!("/rest/v0/vdis/{gone}")).send().expect(204);
    assert!(first.terminate().success());

    let setup = Setup::default().config(&format!("[storage]\nsr_roots = [{:?}]", first.path("roots")));
    let second = setup.start();
    assert_eq!(attach(&second, "moving", &folder), sr, "it is the same SR");
    let object = second.json(&format!("/rest/v0/vdis/{vdi}"));
    assert_eq!(object["name_label"], "renamed");
    assert_eq!(object["name_description"], "about");
    let mut tags: Vec<&str> =
        object["tags"].as_array().expect("an array").iter().filter_map(Value::as_str).collect();
    tags.sort_unstable();
    assert_eq!(tags, ["t1", "t2"]);
    assert_eq!(second.json(&format!("/rest/v0/vdis/{plain}"))["name_label"], "another");
    assert_eq!(second.vdis().len(), 2);
    assert!(second.export_bytes(&vdi, "raw") == content);
}

#[test]
fn two_servers_never_share_an_sr_directory() {
    let first = with_roots();
    let folder = first.path("roots/shared");
    let sr = attach(&first, "shared", &folder);
    let setup = Setup::default().config(&format!("[storage]\nsr_roots = [{:?}]", first.path("roots")));
    let second = setup.start();
    let refusal = post(&second, &json!({"name_label": "mine", "path": folder})).refused(400..=499);
    assert!(refusal.text.contains("lock"), "it says why: {}", refusal.text);
    assert_eq!(second.json("/rest/v0/srs").as_array().expect("an array").len(), 1);
    import(&first, &sr, "?raw", &noise(512, 1));
    drop(first);
}

#[test]
fn one_directory_is_not_attached_twice() {
    let server = with_roots();
    let folder = server.path("roots/once");
    attach(&server, "once", &folder);
    post(&server, &json!({"name_label": "twice", "path": folder})).refused(409..=409);
    std::os::unix::fs::symlink(&folder, server.path("roots/alias")).expect("it can be made");
    post(&server, &json!({"name_label": "twice", "path": server.path("roots/alias")})).refused(400..=499);
}

#[test]
fn nothing_is_written_into_an_sr_that_is_read_only() {
    let server = with_roots();
    let folder = server.path("roots/ro");
    std::fs::create_dir_all(&folder).expect("it can be made");
    let name = "6a1c27c1-6a3f-4b6e-9d3b-2f2f0f6b7a09";
    let disk = Disk::lively(24 * MIB, 1);
    disk.write_raw(&folder.join(format!("{name}.raw")));
    let before = files_under(&folder);
    let sr = created(&post(&server, &json!({"name_label": "ro", "path": folder, "read_only": true})), "srs");
    assert!(server.export_bytes(name, "raw") == disk.whole());
    let target = format!("/rest/v0/srs/{sr}/vdis?raw");
    server.request("POST", &target).body(noise(512, 1)).send().refused(400..=499);
    server.request("PUT", &format!("/rest/v0/vdis/{name}.raw")).body(disk.whole()).send().refused(400..=499);
    server.request("DELETE", &format!("/rest/v0/vdis/{name}")).send().refused(400..=499);
    assert_eq!(files_under(&folder), before);
    for body in [json!({}), json!({"path": server.path("roots/nowhere")})] {
        let mut body = body;
        body["name_label"] = "none".into();
        body["read_only"] = true.into();
        assert_eq!(post(&server, &body).expect(422).json()["code"], "bad_path");
    }
}

#[test]
fn attached_srs_are_there_again_after_a_restart() {
    let mut server = with_roots();
    let sr = attach(&server, "stays", &server.path("roots/stays"));
    let vdi = import(&server, &sr, "?raw", &noise(4096, 1));
    server.kill();
    server.start_again();
    assert_eq!(server.json(&format!("/rest/v0/srs/{sr}"))["name_label"], "stays");
    assert!(server.export_bytes(&vdi, "raw") == noise(4096, 1));
    import(&server, &sr, "?raw", &noise(512, 2));
}

#[test]
fn a_disk_that_gantry_keeps_is_sound_by_its_own_check() {
    let server = Server::start();
    let vdi = server.import("?raw", Disk::lively(24 * MIB, 1).whole());
    let vhd = server.path("exported.vhd");
    server.export(&vdi, "vhd", &vhd);
    for file in [vhd, server.sr_folder().join(format!("{vdi}.raw"))] {
        let output = gantry_run([Path::new("check"), &file]);
        assert_eq!(output.status.code(), Some(0), "{output:?}");
    }
}
