//! `POST /srs/<id>/vdis`: every way in which clients send a disk, and every way in which a transfer breaks.

use serde_json::Value;

use crate::support::MIB;
use crate::support::disk::{Disk, noise};
use crate::support::http::Upload;
use crate::support::server::{Server, created};
use crate::support::vhd::Vhd;
use crate::support::wait;
use std::io::{BufRead, BufReader, Write};
use std::time::Duration;

const LEN: usize = 24 * MIB as usize;

fn object(server: &Server, vdi: &str) -> Value {
    server.json(&format!("/rest/v0/vdis/{vdi}"))
}

#[test]
fn the_documented_curl_line_imports_a_raw_disk() {
    let server = Server::start();
    let disk = Disk::lively(24 * MIB, 1);
    let file = server.path("disk.raw");
    disk.write_raw(&file);
    let target = server.import_target("?raw&name_label=x&name_description=from%20curl");
    let done = server.curl().post_file(&file).arg("-v").run(&server.url(&target));
    assert_eq!((done.exit, done.status, done.uploaded), (0, 201, disk.size), "{done:?}");
    // curl asks before it sends that much, and is told to go on.
    assert!(done.stderr.contains("> Expect: 100-continue"), "{}", done.stderr);
    assert!(done.stderr.contains("< HTTP/1.1 100 Continue"), "{}", done.stderr);
    let id = done.json()["id"].as_str().expect("an id").to_owned();
    assert_eq!(done.head.need("Location"), format!("/rest/v0/vdis/{id}"));
    let object = object(&server, &id);
    assert_eq!(object["name_label"], "x");
    assert_eq!(object["name_description"], "from curl");
    assert_eq!(object["size"], disk.size);
    assert_eq!(object["$SR"], server.sr());
    assert!(server.export_bytes(&id, "raw") == disk.whole());
}

#[test]
fn the_body_is_asked_for_and_then_taken() {
    let server = Server::start();
    let request = server.request("POST", &server.import_target("?raw")).header("Expect", "100-continue");
    let upload = request.begin(Some(4096));
    // Reads the interim answer by itself before anything of the body is out.
    let mut stream = BufReader::new(upload.stream);
    let mut line = String::new();
    stream.read_line(&mut line).expect("it answers");
    assert_eq!(line, "HTTP/1.1 100 Continue\r\n");
    line.clear();
    stream.read_line(&mut line).expect("it answers");
    assert_eq!(line, "\r\n");
    stream.get_mut().write_all(&noise(4096, 1)).expect("it takes the body");
    stream.read_line(&mut line).expect("it answers");
    assert!(line.contains("HTTP/1.1 201"), "{line}");
}

#[test]
fn chunked_bodies_are_taken_in_any_cut() {
    let server = Server::start();
    let raw = noise(300_032, 1);
    let vhd = Vhd::dynamic(6 * MIB, &[(1, &noise(5000, 2)), (2, &noise(9000, 3))]).bytes();
    for piece in [1_000_000, 70_001, 4096, 513, 37] {
        let response = server.request("POST", &server.import_target("?raw")).send_chunked(&raw, piece);
        let id = created(&response, "vdis");
        assert!(server.export_bytes(&id, "raw") == raw, "raw in chunks of {piece}");
        if piece > 40 {
            let response = server.request("POST", &server.import_target("")).send_chunked(&vhd, piece);
            let id = created(&response, "vdis");
            assert_eq!(object(&server, &id)["size"], 6 * MIB, "VHD in chunks of {piece}");
            assert!(server.slice(&id, "raw", 4 * MIB, 9000) == noise(9000, 3), "VHD in chunks of {piece}");
        }
    }
}

#[test]
fn curl_sends_from_a_pipe_without_knowing_the_length() {
    let server = Server::start();
    let disk = Disk::lively(24 * MIB, 2);
    let file = server.path("disk.raw");
    disk.write_raw(&file);
    let curl = server.curl().stdin(&file).args(["-X", "POST", "-T", "-"]);
    let done = curl.run(&server.url(&server.import_target("?raw=true")));
    assert_eq!((done.exit, done.status), (0, 201), "{done:?}");
    let id = done.json()["id"].as_str().expect("an id").to_owned();
    assert_eq!(object(&server, &id)["size"], disk.size, "the size is what arrived");
    assert!(server.export_bytes(&id, "raw") == disk.whole());
}

#[test]
fn a_body_with_the_content_type_of_a_form_is_the_disk_all_the_same() {
    let server = Server::start();
    let file = server.path("disk.raw");
    std::fs::write(&file, noise(65_536, 3)).expect("it can be written");
    for kind in [None, Some("application/json"), Some("application/octet-stream"), Some("text/plain")] {
        let mut curl = server.curl().args(["-X", "POST", "--data-binary", &format!("@{}", file.display())]);
        if let Some(kind) = kind {
            curl = curl.args(["-H", &format!("Content-Type: {kind}")]);
        }
        let done = curl.run(&server.url(&server.import_target("?raw")));
        assert_eq!((done.exit, done.status), (0, 201), "{kind:?}: {done:?}");
        let id = done.json()["id"].as_str().expect("an id").to_owned();
        assert!(server.export_bytes(&id, "raw") == noise(65_536, 3), "{kind:?}");
    }
}

#[test]
fn each_spelling_of_raw_is_understood() {
    let server = Server::start();
    let vhd = Vhd::dynamic(2 * MIB, &[]).bytes();
    for query in ["?raw", "?raw=", "?raw=true", "?raw=TRUE", "?raw=1"] {
        let id = server.import(query, vhd.clone());
        assert_eq!(object(&server, &id)["size"], vhd.len(), "{query} is raw");
    }
    for query in ["", "?raw=false", "?raw=0", "?raw=False"] {
        let id = server.import(query, vhd.clone());
        assert_eq!(object(&server, &id)["size"], 2 * MIB, "{query} is a VHD");
    }
    for query in ["?raw=perhaps", "?raw=2"] {
        let refusal =
            server.request("POST", &server.import_target(query)).body(vhd.clone()).send().refused(422..=422);
        assert!(refusal.error["raw"].is_object(), "it names the parameter: {}", refusal.body);
    }
}

#[test]
fn the_answer_is_a_bare_uuid_where_plain_text_is_wanted() {
    let server = Server::start();
    let request = server.request("POST", &server.import_target("?raw")).header("Accept", "text/plain");
    let response = request.body(noise(512, 1)).send().expect(201);
    assert!(response.head.need("Content-Type").starts_with("text/plain"));
    let id = response.text();
    assert_eq!(response.head.need("Location"), format!("/rest/v0/vdis/{id}"));
    assert_eq!(server.vdis(), [id]);
}

#[test]
fn a_disk_without_a_name_gets_one() {
    let server = Server::start();
    let id = server.import("?raw", noise(512, 1));
    let object = object(&server, &id);
    let name = object["name_label"].as_str().expect("a name");
    let date = name.strip_prefix("[XO] Imported disk - ").unwrap_or_else(|| panic!("{name}"));
    assert!(date.len() >= 20 && date.starts_with("20") && date.contains('T'), "{name}");
    assert_eq!(object["name_description"], "");
}

#[test]
fn a_raw_size_that_is_no_multiple_of_512_is_refused() {
    let server = Server::start();
    for length in [1, 511, 513, 100_000] {
        let target = server.import_target("?raw");
        server.request("POST", &target).body(noise(length, 1)).send().refused(422..=422);
        server.request("POST", &target).send_chunked(&noise(length, 1), 10_000).refused(422..=422);
    }
    server.assert_empty("raw disks of odd sizes");
}

#[test]
fn size_pads_with_a_hole_and_refuses_what_is_more() {
    let server = Server::start();
    let data = noise(100_352, 1);
    for chunked in [false, true] {
        let send = |query: &str| {
            let request = server.request("POST", &server.import_target(query));
            if chunked { request.send_chunked(&data, 9_999) } else { request.body(data.clone()).send() }
        };
        let id = created(&send("?raw&size=1048576"), "vdis");
        let mut disk = data.clone();
        disk.resize(MIB as usize, 0);
        assert!(server.export_bytes(&id, "raw") == disk);
        let id = created(&send("?raw&size=100352"), "vdis");
        assert!(server.export_bytes(&id, "raw") == data);
        let before = server.disk_files();
        send("?raw&size=99840").refused(422..=422);
        send("?raw&size=1048575").refused(422..=422);
        send("?raw&size=-512").refused(422..=422);
        send("?raw&size=much").refused(422..=422);
        wait::until(Duration::from_secs(10), || {
            let now = server.disk_files();
            if now == before { Ok(()) } else { Err(format!("{now:?}")) }
        });
    }
}

/// Sends the first half of an import, breaks the connection in the given way, and insists that nothing is left.
fn broken(chunked: bool, how: impl FnOnce(Upload)) {
    let server = Server::start();
    let request = server.request("POST", &server.import_target("?raw&name_label=broken"));
    let mut upload = if chunked { request.begin_chunked() } else { request.begin(Some(LEN as u64)) };
    let half = noise(LEN / 2, 1);
    if chunked { upload.chunk(&half) } else { upload.write(&half) }.expect("it takes the first half");
    wait::until(Duration::from_secs(10), || {
        if server.disk_files().is_empty() { Err("nothing is staged".to_owned()) } else { Ok(()) }
    });
    how(upload);
    server.assert_empty("a broken upload");
    let task = wait::until(Duration::from_secs(10), || {
        let tasks = server.json("/rest/v0/tasks?fields=*");
        let failed =
            tasks.as_array().and_then(|tasks| tasks.iter().find(|task| task["status"] == "failure").cloned());
        failed.ok_or_else(|| format!("no failed task in {tasks}"))
    });
    let result = &task["result"];
    assert!(result["message"].as_str().is_some_and(|text| !text.is_empty()), "it says why: {task}");
    assert!(result["code"].as_str().is_some_and(|text| !text.is_empty()), "it says why: {task}");
    assert!(task["end"].as_u64().is_some(), "it ended: {task}");
}

#[test]
fn an_upload_that_is_cut_leaves_nothing_and_its_task_has_failed() {
    broken(false, drop);
}

#[test]
fn a_chunked_upload_that_is_cut_leaves_nothing_and_its_task_has_failed() {
    broken(true, drop);
}

/// What may come back after a broken body: no answer, or one that is no success.
fn no_success(upload: Upload) {
    upload.close_sending();
    if let Ok(answer) = upload.try_answer() {
        assert!(answer.head.status >= 400, "{:?}", answer.head);
    }
}

#[test]
fn fewer_bytes_than_announced_are_a_failure_and_never_a_smaller_disk() {
    broken(false, no_success);
}

#[test]
fn a_missing_last_chunk_is_a_failure_and_never_a_success() {
    broken(true, no_success);
}

#[test]
fn a_chunk_that_is_no_chunk_is_a_failure() {
    broken(true, |mut upload| {
        let _ = upload.write(b"this is no chunk size\r\n");
        no_success(upload);
    });
}

#[test]
fn an_upload_may_pause() {
    let server = Server::start();
    let content = noise(1_048_576, 4);
    let mut upload = server.request("POST", &server.import_target("?raw")).begin(Some(content.len() as u64));
    for part in content.chunks(content.len() / 4) {
        std::thread::sleep(Duration::from_millis(1500));
        upload.write(part).expect("it waits");
    }
    let answer = upload.answer();
    assert_eq!(answer.head.status, 201, "{:?}", answer.head);
}

#[test]
fn an_upload_that_has_fallen_silent_is_ended() {
    use crate::support::server::Setup;
    let server = Setup::default().config("[transfers]\nupload_idle = \"2s\"").start();
    let mut upload = server.request("POST", &server.import_target("?raw")).begin(Some(LEN as u64));
    upload.write(&noise(LEN / 2, 5)).expect("it takes the first half");
    if let Ok(answer) = upload.try_answer() {
        assert!(answer.head.status >= 400, "{:?}", answer.head);
    }
    server.assert_empty("an upload that fell silent");
}

#[test]
fn many_imports_at_once_do_not_disturb_each_other() {
    let server = Server::start();
    std::thread::scope(|scope| {
        let imports: Vec<_> = (0..8_u64)
            .map(|seed| {
                let server = &server;
                scope.spawn(move || {
                    let content = noise(4 * MIB as usize, 50 + seed);
                    let id = server.import("?raw", content.clone());
                    assert!(server.export_bytes(&id, "raw") == content, "{seed}");
                    id
                })
            })
            .collect();
        let ids: std::collections::BTreeSet<String> =
            imports.into_iter().map(|import| import.join().expect("it went well")).collect();
        assert_eq!(ids.len(), 8);
    });
}
