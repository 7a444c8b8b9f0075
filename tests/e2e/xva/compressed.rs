//! Compressed exports: of unknown length at first, and seekable once their frames are known.

use std::time::Duration;

use super::{export, vm_of};
use crate::support::disk::{Disk, next, noise};
use crate::support::server::{Server, Setup};
use crate::support::tools::{program, run};
use crate::support::{MIB, wait};

/// Disks of some frames that compress a little.
fn many_frames(server: &Server) -> String {
    let disk = Disk::empty(96 * MIB).noise(0, 40 << 20, 1).noise(60 * MIB, 10 << 20, 2).whole();
    vm_of(server, &[disk, noise(12 << 20, 3)])
}

#[test]
fn a_compressed_export_has_a_length_and_takes_ranges_once_it_was_made() {
    let server = Server::start();
    let vm = many_frames(&server);
    for (extension, codec) in [("xva", "zstd"), ("xva", "gzip")] {
        let target = format!("/rest/v0/vms/{vm}.{extension}?compress={codec}");
        let before = server.request("HEAD", &target).send().expect(200);
        assert_eq!(before.head.header("Content-Length"), None, "{codec}");
        assert_eq!(before.head.need("Accept-Ranges"), "none", "{codec}");
        let whole = server.get(&target).expect(200);
        assert_eq!(whole.head.header("Content-Length"), None, "{codec}");
        let after = server.request("HEAD", &target).send().expect(200);
        assert_eq!(after.head.length(), whole.body.len() as u64, "{codec}");
        assert_eq!(after.head.need("Accept-Ranges"), "bytes", "{codec}");
        assert_eq!(after.head.need("ETag"), whole.head.need("ETag"), "{codec}");
        assert!(export(&server, &target) == whole.body, "{codec}");
        let mut state = 3;
        for _ in 0..20 {
            let start = next(&mut state) % whole.body.len() as u64;
            let end = (start + 1 + next(&mut state) % (9 << 20)).min(whole.body.len() as u64);
            let range = format!("bytes={start}-{}", end - 1);
            let part = server.request("GET", &target).header("Range", &range).send().expect(206);
            assert!(part.body == whole.body[start as usize..end as usize], "{codec} {range}");
        }
        let last = format!("bytes={}-", whole.body.len() - 5);
        let part = server.request("GET", &target).header("Range", &last).send().expect(206);
        assert!(part.body == whole.body[whole.body.len() - 5..], "{codec}");
        let past = format!("bytes={}-", whole.body.len());
        server.request("GET", &target).header("Range", &past).send().expect(416);
    }
}

#[test]
fn a_compressed_disk_is_named_so_and_unpacks_to_the_disk() {
    let server = Server::start();
    let content = noise(10 << 20, 5);
    let vdi = server.import("?raw", content.clone());
    for (format, codec, ending, kind) in [
        ("raw", "zstd", "raw.zst", "application/zstd"),
        ("raw", "gzip", "raw.gz", "application/gzip"),
        ("vhd", "zstd", "vhd.zst", "application/zstd"),
        ("vhd", "gzip", "vhd.gz", "application/gzip"),
    ] {
        let answer = server.get(&format!("/rest/v0/vdis/{vdi}.{format}?compress={codec}")).expect(200);
        assert_eq!(answer.head.need("Content-Disposition"), format!("attachment; filename={vdi}.{ending}"));
        assert_eq!(answer.head.need("Content-Type"), kind);
        let packed = server.path(ending);
        std::fs::write(&packed, answer.body).expect("room");
        let unpacked = run(&program(codec, codec), ["-dc".as_ref(), packed.as_os_str()]);
        assert!(unpacked == server.export_bytes(&vdi, format), "{ending}");
    }
}

#[test]
fn a_cut_compressed_download_is_told_to_wait_and_then_goes_on() {
    let server = Server::start();
    let vm = many_frames(&server);
    let target = format!("/rest/v0/vms/{vm}.xva?compress=zstd");
    let mut cut = server.request("GET", &target).open();
    let task = cut.head.need("Gantry-Task").to_owned();
    let mut have = cut.take_bytes(5 << 20);
    drop(cut);
    let mut waits = 0;
    let rest = wait::until(Duration::from_secs(60), || {
        let range = format!("bytes={}-", have.len());
        let answer = server.request("GET", &target).header("Range", &range).send();
        match answer.head.status {
            206 => Ok(answer),
            503 => {
                waits += 1;
                assert_eq!(answer.json()["code"], "not_final_yet");
                assert_eq!(answer.json()["data"]["taskId"], task.as_str());
                assert!(answer.head.need("Retry-After").parse::<u64>().is_ok_and(|seconds| seconds > 0));
                Err("it is not final yet".into())
            }
            status => panic!("{status}: {}", answer.text()),
        }
    });
    assert_eq!(rest.head.need("Gantry-Task"), task, "the same transfer");
    have.extend(rest.body);
    assert!(have == export(&server, &target));
    assert_eq!(server.task_ended(&task)["status"], "success");
}

#[test]
fn a_compressed_download_that_is_cut_twenty_times_over_three_restarts_is_equal() {
    let mut server = Server::start();
    let vm = many_frames(&server);
    let target = format!("/rest/v0/vms/{vm}.xva?compress=zstd");
    let mut have: Vec<u8> = Vec::new();
    let mut state = 11;
    let mut etag = String::new();
    for cut in 0..20 {
        let step = 1 + next(&mut state) % (4 << 20);
        let mut download = wait::until(Duration::from_secs(60), || {
            let mut request = server.request("GET", &target);
            if !have.is_empty() {
                request =
                    request.header("Range", &format!("bytes={}-", have.len())).header("If-Range", &etag);
            }
            let download = request.open();
            match download.head.status {
                200 | 206 => Ok(download),
                503 => Err("it is not final yet".into()),
                status => panic!("{status} at cut {cut}"),
            }
        });
        assert_eq!(download.head.status, if have.is_empty() { 200 } else { 206 });
        etag = download.head.need("ETag").to_owned();
        have.extend(download.take_bytes(step));
        drop(download);
        if cut % 6 == 5 {
            if cut % 2 == 1 {
                server.kill()
            } else {
                let _ended = server.terminate();
            }
            server.start_again();
        }
    }
    let range = format!("bytes={}-", have.len());
    let rest = wait::until(Duration::from_secs(60), || {
        let answer = server.request("GET", &target).header("Range", &range).header("If-Range", &etag).send();
        if answer.head.status == 206 { Ok(answer) } else { Err(answer.text()) }
    });
    have.extend(rest.body);
    assert!(have == export(&server, &target));
}

#[test]
fn curl_goes_on_with_a_compressed_export_by_itself() {
    let server = Server::start();
    let vm = many_frames(&server);
    let target = format!("/rest/v0/vms/{vm}.xva?compress=gzip");
    let file = server.path("resumed.xva");
    let mut cut = server.request("GET", &target).open();
    std::fs::write(&file, cut.take_bytes(3 << 20)).expect("room");
    drop(cut);
    let done = server
        .curl()
        .args(["-f", "-C", "-", "--retry", "30", "--retry-delay", "1", "-o"])
        .arg(&file)
        .run(&server.url(&target));
    assert_eq!(done.exit, 0, "{done:?}");
    assert!(std::fs::read(&file).expect("it is there") == export(&server, &target));
}

#[test]
fn an_abort_ends_the_making_of_frames_that_nobody_reads() {
    let server = Setup::default().start();
    let vm = vm_of(&server, &[noise(192 << 20, 1)]);
    let mut cut = server.request("GET", &format!("/rest/v0/vms/{vm}.xva?compress=zstd&level=19")).open();
    let task = cut.head.need("Gantry-Task").to_owned();
    drop(cut.take_bytes(1000));
    drop(cut);
    server.task_in(&task, &["detached"]);
    server.act(&task, "abort");
    let ended = server.task_ended(&task);
    assert_eq!(ended["result"]["code"], "aborted", "{ended}");
}

#[test]
fn the_frames_of_a_replaced_disk_are_not_those_of_its_new_content() {
    let server = Server::start();
    let (old, new) = (noise(9 << 20, 1), noise(9 << 20, 2));
    let vdi = server.import("?raw", old);
    let target = format!("/rest/v0/vdis/{vdi}.raw?compress=zstd");
    let first = server.get(&target).expect(200);
    server.request("PUT", &format!("/rest/v0/vdis/{vdi}.raw")).body(new).send().expect(204);
    let second = server.get(&target).expect(200);
    assert_ne!(first.head.need("ETag"), second.head.need("ETag"));
    assert!(first.body != second.body);
    let range = server.request("GET", &target).header("Range", "bytes=1000-").send();
    assert_eq!(range.head.status, 409);
}

#[test]
fn a_first_compressed_export_shows_its_progress_though_nobody_knows_its_length() {
    let server = Server::start();
    let vm = many_frames(&server);
    let mut download = server.request("GET", &format!("/rest/v0/vms/{vm}.xva?compress=zstd")).open();
    let task = download.head.need("Gantry-Task").to_owned();
    drop(download.take_bytes(30 << 20));
    let shown = wait::until(Duration::from_secs(20), || {
        let properties = server.task(&task)["properties"].clone();
        match properties["progress"].as_u64() {
            Some(progress) if progress > 20 => Ok(properties),
            _ => Err(properties.to_string()),
        }
    });
    assert!(shown["progress"].as_u64() < Some(100), "{shown}");
    assert_eq!(shown.get("totalBytes"), None, "{shown}");
    download.rest().expect("the body goes on to its end");
    assert_eq!(server.task_ended(&task)["properties"]["progress"], 100);
}
