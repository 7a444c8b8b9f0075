//! `kill -9` at any moment leaves either the old content or the new, and nothing half done.

use std::time::Duration;

use crate::support::MIB;
use crate::support::disk::{next, noise};
use crate::support::server::Server;
use crate::support::wait;

const LEN: usize = 24 * MIB as usize;

/// Waits until something of an import in progress lies on the disk.
fn wait_for_staging(server: &Server, beside: usize) {
    wait::until(Duration::from_secs(20), || {
        let files = server.disk_files();
        if files.len() > beside { Ok(()) } else { Err(format!("nothing is staged beside {files:?}")) }
    });
}

#[test]
fn kill_9_in_the_middle_of_an_import_leaves_a_clean_store() {
    let mut server = Server::start();
    for chunked in [false, true] {
        let request = server.request("POST", &server.import_target("?raw"));
        let mut upload = if chunked { request.begin_chunked() } else { request.begin(Some(LEN as u64)) };
        let half = noise(LEN / 2, 1);
        if chunked { upload.chunk(&half) } else { upload.write(&half) }.expect("it takes the first half");
        wait_for_staging(&server, 0);
        server.kill();
        server.start_again();
        server.assert_empty("kill -9 in the middle of an import");
        let tasks = server.json("/rest/v0/tasks?fields=status");
        let pending =
            tasks.as_array().expect("an array").iter().filter(|task| task["status"] == "pending").count();
        assert_eq!(pending, 0, "nothing stays pending for ever: {tasks}");
    }
    let vdi = server.import("?raw", noise(LEN, 2));
    assert!(server.export_bytes(&vdi, "raw") == noise(LEN, 2), "and it works as before");
}

#[test]
fn kill_9_in_the_middle_of_a_replacement_leaves_the_old_content() {
    let mut server = Server::start();
    let vdi = server.import("?raw", noise(LEN, 1));
    let target = format!("/rest/v0/vdis/{vdi}.raw");
    let mut upload = server.request("PUT", &target).begin(Some(LEN as u64));
    upload.write(&noise(LEN, 2)[..LEN / 2]).expect("it takes the first half");
    wait_for_staging(&server, 1);
    server.kill();
    server.start_again();
    assert!(server.export_bytes(&vdi, "raw") == noise(LEN, 1));
    assert_eq!(server.vdis(), [vdi]);
    assert_eq!(server.disk_files().len(), 1, "{:?}", server.disk_files());
}

#[test]
fn kill_9_at_random_moments_leaves_the_old_content_or_the_new_and_never_a_mixture() {
    let mut server = Server::start();
    let contents = [0, 1, 2].map(|seed| noise(LEN / 4, 100 + seed));
    let vdi = server.import("?raw", contents[0].clone());
    let mut state = 0xC0FFEE;
    for round in 0..8 {
        let target = format!("/rest/v0/vdis/{vdi}.raw");
        let mut upload = server.request("PUT", &target).begin(Some(contents[0].len() as u64));
        let content = contents[round % 3].clone();
        // Goes on by itself, so that the end, the sync, the rename and the commit all may be hit.
        let writer = std::thread::spawn(move || {
            let _ = upload.write(&content);
            upload.try_answer().is_ok_and(|answer| answer.head.status == 204)
        });
        std::thread::sleep(Duration::from_micros(next(&mut state) % 60_000));
        server.kill();
        let answered = writer.join().expect("the writer ends");
        server.start_again();
        let now = server.export_bytes(&vdi, "raw");
        assert!(contents.contains(&now), "round {round}: a mixture");
        assert!(
            !answered || now == contents[round % 3],
            "round {round}: told that it is done, and it is not"
        );
        assert_eq!(server.vdis(), std::slice::from_ref(&vdi));
        let files = server.disk_files();
        assert_eq!(files.len(), 1, "round {round}: {files:?}");
    }
}

#[test]
fn kill_9_at_random_moments_of_imports_leaves_whole_disks_or_none() {
    let mut server = Server::start();
    let content = noise(LEN / 6, 7);
    let mut state = 0xBEEF;
    let mut told = Vec::new();
    for round in 0..8 {
        let target = server.import_target(&format!("?raw&name_label=round{round}"));
        let mut upload = server.request("POST", &target).begin(Some(content.len() as u64));
        let sent = content.clone();
        let writer = std::thread::spawn(move || {
            let _ = upload.write(&sent);
            let answer = upload.try_answer().ok().filter(|answer| answer.head.status == 201)?;
            serde_json::from_slice::<serde_json::Value>(&answer.rest().ok()?).ok()?["id"]
                .as_str()
                .map(str::to_owned)
        });
        std::thread::sleep(Duration::from_micros(next(&mut state) % 60_000));
        server.kill();
        told.extend(writer.join().expect("the writer ends"));
        server.start_again();
        let vdis = server.vdis();
        assert_eq!(server.disk_files().len(), vdis.len(), "round {round}: {:?}", server.disk_files());
        assert!(
            told.iter().all(|id| vdis.contains(id)),
            "round {round}: {told:?} were told, {vdis:?} are there"
        );
        for vdi in vdis {
            assert!(server.export_bytes(&vdi, "raw") == content, "round {round}: {vdi}");
        }
    }
}

#[test]
fn a_download_goes_on_after_kill_9_where_it_was() {
    let mut server = Server::start();
    let vdi = server.import("?raw", noise(LEN, 8));
    for format in ["raw", "vhd"] {
        let target = format!("/rest/v0/vdis/{vdi}.{format}");
        let whole = server.export_bytes(&vdi, format);
        let mut download = server.request("GET", &target).open();
        let etag = download.head.need("ETag").to_owned();
        let mut have = download.take_bytes(5_000_001);
        server.kill();
        server.start_again();
        let range = format!("bytes={}-", have.len());
        let rest = server.request("GET", &target).header("Range", &range).send().expect(206);
        assert_eq!(rest.head.need("ETag"), etag);
        have.extend(rest.body);
        assert!(have == whole, "{format}");
    }
}

#[test]
fn content_that_a_cut_download_holds_after_kill_9_goes_when_the_download_has_ended() {
    let mut server = Server::start();
    let vdi = server.import("?raw", noise(LEN, 9));
    let target = format!("/rest/v0/vdis/{vdi}.raw");
    let mut download = server.request("GET", &target).open();
    let (etag, task) = (download.head.need("ETag").to_owned(), download.head.need("Gantry-Task").to_owned());
    let mut have = download.take_bytes(1000);
    server.request("PUT", &target).body(noise(LEN, 10)).send().expect(204);
    server.kill();
    server.start_again();
    assert_eq!(server.task(&task)["properties"]["state"], "recovering", "its id is known");
    assert_eq!(server.disk_files().len(), 2, "the old content waits: {:?}", server.disk_files());
    let rest = server.request("GET", &target).header("Range", "bytes=1000-").header("If-Range", &etag);
    have.extend(rest.send().expect(206).body);
    assert!(have == noise(LEN, 9));
    assert_eq!(server.task_ended(&task)["status"], "success");
    wait::until(Duration::from_secs(10), || match server.disk_files() {
        files if files.len() == 1 => Ok(()),
        files => Err(format!("{files:?}")),
    });
}
