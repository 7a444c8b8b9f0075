//! File systems that are full or fill up: the disk of the SR, and of the state database beside it.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::MIB;
use crate::support::disk::noise;
use crate::support::http::Upload;
use crate::support::server::{Server, Setup};
use crate::support::tools::qemu;
use crate::support::wait;

/// Takes all that is free on the server's file system, to the last byte; gives it back when it is dropped.
struct Filler {
    path: std::path::PathBuf,
}

impl Filler {
    fn on(server: &Server) -> Self {
        let filler = Self { path: server.data().join("filler") };
        filler.fill();
        filler
    }

    fn fill(&self) {
        let mut file = File::options().append(true).create(true).open(&self.path).expect("it can be opened");
        let mut piece = vec![1; MIB as usize];
        while !piece.is_empty() {
            if file.write_all(&piece).is_err() {
                piece.truncate(piece.len() / 2);
            }
        }
    }
}

impl Drop for Filler {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Insists on the numbers of a full file system.
#[track_caller]
fn numbers(data: &Value, sr: &str) {
    assert_eq!(data["id"], sr, "{data}");
    for number in ["needed", "free", "reserved", "reserve"] {
        assert!(data[number].is_u64(), "{number} in {data}");
    }
    assert!(data["needed"].as_u64() > Some(0), "{data}");
}

/// Insists on 507 with numbers, and on a task that says the same.
#[track_caller]
fn refused_for_space(server: &Server, upload: Upload) -> Value {
    let answer = upload.answer();
    let head = answer.head.clone();
    let body = answer.rest().expect("the whole answer");
    let text = String::from_utf8_lossy(&body).into_owned();
    assert_eq!(head.status, 507, "{text}");
    let body: Value = serde_json::from_slice(&body).expect("JSON");
    assert_eq!(body["code"], "insufficient_storage", "{text}");
    assert!(body["error"].as_str().is_some_and(|error| error.contains("bytes needed")), "{text}");
    numbers(&body["data"], server.sr());
    let task = server.task_ended(head.need("Gantry-Task"));
    assert_eq!(task["status"], "failure", "{task}");
    let result = &task["result"];
    assert_eq!((&result["code"], &result["data"]["kind"]), (&json!("insufficient_storage"), &json!("space")));
    numbers(&result["data"], server.sr());
    body
}

#[test]
fn a_disk_that_fills_up_during_an_import_ends_it_and_harms_nothing() {
    let (old, new) = (noise(64 << 20, 1), noise(64 << 20, 2));
    for (percent, replaces) in [(1, false), (50, false), (99, false), (1, true), (50, true), (99, true)] {
        let what = format!("full at {percent} %");
        let server = Setup::default().limited(200).start();
        let vdi = server.import("?raw", old.clone());
        let (method, target) = match replaces {
            true => ("PUT", format!("/rest/v0/vdis/{vdi}.raw")),
            false => ("POST", server.import_target("?raw")),
        };
        let (before, after) = new.split_at(new.len() * percent / 100);
        let mut upload = server.request(method, &target).begin(Some(new.len() as u64));
        upload.write(before).expect("it takes the first part");
        let filler = Filler::on(&server);
        // It may refuse before all has come.
        let _ = upload.write(after);
        refused_for_space(&server, upload);
        assert_eq!(server.disk_files(), [server.sr_folder().join(format!("{vdi}.raw"))], "{what}");

        // The state database lies on the same full disk. It has written that down, and takes more.
        assert!(!server.log().contains("not journalled"), "{what}");
        let (address, note) = (format!("/rest/v0/vdis/{vdi}"), json!({ "name_description": what }));
        server.request("PATCH", &address).json(&note).send().expect(204);
        assert_eq!(server.json(&address)["name_description"], what);
        assert!(server.export_bytes(&vdi, "raw") == old, "the old content, {what}");

        drop(filler);
        let small = server.import("?raw", noise(1 << 20, 4));
        assert!(server.export_bytes(&small, "raw") == noise(1 << 20, 4), "a small import, {what}");
    }
}

#[test]
fn a_full_disk_is_refused_before_the_body_and_what_lies_there_is_served() {
    let server = Setup::default().limited(64).start();
    let content = noise(4 << 20, 1);
    let vdi = server.import("?raw", content.clone());
    let _filler = Filler::on(&server);
    let request = server.request("POST", &server.import_target("?raw")).header("Expect", "100-continue");
    let answer = request.begin(Some(8 * MIB)).answer();
    assert_eq!(answer.head.status, 507);
    let body: Value = serde_json::from_slice(&answer.rest().expect("the whole answer")).expect("JSON");
    numbers(&body["data"], server.sr());
    assert!(server.export_bytes(&vdi, "raw") == content);
}

/// Insists that an upload of so many bytes is refused before it is sent; how much others have reserved.
#[track_caller]
fn refused_before_its_body(server: &Server, target: &str, length: u64) -> u64 {
    let request = server.request("POST", target).header("Expect", "100-continue");
    let answer = request.begin(Some(length)).answer();
    assert_eq!(answer.head.status, 507);
    let body: Value = serde_json::from_slice(&answer.rest().expect("the whole answer")).expect("JSON");
    numbers(&body["data"], server.sr());
    assert_eq!(body["data"]["needed"], length, "{body}");
    assert!(body["error"].as_str().is_some_and(|error| error.contains("?sparse=true")), "{body}");
    body["data"]["reserved"].as_u64().expect("a number")
}

#[test]
fn what_is_still_to_come_of_a_raw_upload_is_reserved_for_it() {
    let server = Setup::default().limited(200).start();
    let content = noise(110 << 20, 7);
    let target = server.import_target("?raw");
    let mut first = server.request("POST", &target).begin(Some(content.len() as u64));
    first.write(&content[..30 << 20]).expect("it takes the first part");
    wait::until(Duration::from_secs(20), || {
        let files = server.disk_files();
        let staged: u64 =
            files.iter().map(|file| file.metadata().map_or(0, |metadata| metadata.blocks() * 512)).sum();
        if staged < 28 * MIB { Err(format!("{staged} bytes are staged")) } else { Ok(()) }
    });
    let reserved = refused_before_its_body(&server, &target, 100 * MIB);
    assert!((60 * MIB..=82 * MIB).contains(&reserved), "{reserved}");
    // One that fits beside it does, and so does one that is long and says that it holds little.
    server.import("?raw", noise(8 << 20, 8));
    let mut sparse = vec![0; 150 << 20];
    sparse[70 << 20..][..4096].copy_from_slice(&noise(4096, 9));
    let vdi = server.import("?raw&sparse=true", sparse.clone());
    first.write(&content[30 << 20..]).expect("it takes the rest");
    let answer = first.answer();
    assert_eq!(answer.head.status, 201);
    drop(answer);
    assert!(server.export_bytes(&vdi, "raw") == sparse);
}

#[test]
fn an_import_that_would_not_fit_beside_a_running_one_is_refused_at_its_beginning() {
    let server = Setup::default().limited(200).start();
    let (raw, vhd) = (server.path("disk.raw"), server.path("disk.vhd"));
    std::fs::write(&raw, noise(110 << 20, 5)).expect("there is room");
    qemu::raw_to_vhd(&raw, &vhd, "subformat=dynamic,force_size=on");
    let vhd = std::fs::read(vhd).expect("it was made");
    let target = server.import_target("");
    let mut first = server.request("POST", &target).begin(Some(vhd.len() as u64));
    // Its tables, and a little of its data.
    first.write(&vhd[..8 << 20]).expect("it takes the first part");
    wait::until(Duration::from_secs(20), || match server.disk_files() {
        files if files.is_empty() => Err("nothing is staged".to_owned()),
        _ => Ok(()),
    });
    let reserved = refused_before_its_body(&server, &target, vhd.len() as u64);
    assert!(reserved > 90 * MIB, "{reserved}");
    // The first one has what it was promised.
    first.write(&vhd[8 << 20..]).expect("it takes the rest");
    let answer = first.answer();
    assert_eq!(answer.head.status, 201);
    drop(answer);
    // And when it has ended, nothing of its promise is left.
    let small = server.import("?raw", noise(64 << 20, 6));
    server.request("DELETE", &format!("/rest/v0/vdis/{small}")).send().expect(204);
}
