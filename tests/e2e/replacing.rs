//! PUT and DELETE: content is replaced whole or not at all, and whoever reads the old one reads it to its end.

use std::time::{Duration, Instant};

use crate::support::MIB;
use crate::support::disk::{Disk, noise};
use crate::support::server::Server;
use crate::support::tools::qemu;
use crate::support::wait;

const LEN: usize = 48 * MIB as usize;

/// Waits until the SR holds exactly this many files: what was pinned goes with its last reader, within a minute.
fn wait_for_files(server: &Server, count: usize) {
    wait::until(Duration::from_secs(75), || {
        let files = server.disk_files();
        if files.len() == count { Ok(()) } else { Err(format!("{files:?}")) }
    });
}

#[test]
fn put_replaces_the_content_as_raw_and_as_vhd() {
    let server = Server::start();
    let (old, new) = (Disk::lively(40 * MIB + 1536, 1), Disk::lively(40 * MIB + 1536, 2));
    let vdi = server.import("?raw&name_label=kept", old.whole());
    let put = |format: &str| server.request("PUT", &format!("/rest/v0/vdis/{vdi}.{format}"));

    put("raw").body(new.whole()).send().expect(204);
    assert!(server.export_bytes(&vdi, "raw") == new.whole());

    let (raw, vhd) = (server.path("old.raw"), server.path("old.vhd"));
    old.write_raw(&raw);
    qemu::raw_to_vhd(&raw, &vhd, "subformat=dynamic,force_size=on");
    let url = server.url(&format!("/rest/v0/vdis/{vdi}.vhd"));
    let done = server.curl().arg("-T").arg(&vhd).run(&url);
    assert_eq!((done.exit, done.status), (0, 204), "{done:?}");
    assert!(server.export_bytes(&vdi, "raw") == old.whole());

    put("raw").send_chunked(&new.whole(), 300_000).expect(204);
    assert!(server.export_bytes(&vdi, "raw") == new.whole());

    let object = server.json(&format!("/rest/v0/vdis/{vdi}"));
    assert_eq!(object["name_label"], "kept");
    assert_eq!(server.vdis(), [vdi]);
    wait_for_files(&server, 1);
}

#[test]
fn an_image_of_another_size_is_refused_and_the_old_content_stays() {
    let server = Server::start();
    let disk = Disk::lively(24 * MIB, 3);
    let vdi = server.import("?raw", disk.whole());
    let put = |format: &str| server.request("PUT", &format!("/rest/v0/vdis/{vdi}.{format}"));
    for size in [24 * MIB as usize - 512, 24 * MIB as usize + 512, 512, 0] {
        put("raw").body(noise(size, 1)).send().refused(422..=422);
        put("raw").send_chunked(&noise(size, 1), 100_000).refused(422..=422);
    }
    let other = server.import("?raw", noise(MIB as usize, 4));
    put("vhd").body(server.export_bytes(&other, "vhd")).send().refused(422..=422);
    put("vhd").body(noise(100_000, 5)).send().refused(422..=422);
    assert!(server.export_bytes(&vdi, "raw") == disk.whole());
    assert_eq!(server.disk_files().len(), 2, "{:?}", server.disk_files());
}

#[test]
fn put_with_content_range_is_refused() {
    let server = Server::start();
    let vdi = server.import("?raw", noise(8192, 1));
    let request = server.request("PUT", &format!("/rest/v0/vdis/{vdi}.raw"));
    request.header("Content-Range", "bytes 0-4095/8192").body(noise(4096, 2)).send().refused(400..=400);
    let request = server.request("PUT", &format!("/rest/v0/vdis/{vdi}.raw"));
    request.header("Content-Range", "bytes 0-8191/8192").body(noise(8192, 2)).send().refused(400..=400);
    assert!(server.export_bytes(&vdi, "raw") == noise(8192, 1));
}

#[test]
fn put_to_nothing_is_not_found_and_in_an_unknown_format_refused() {
    let server = Server::start();
    let vdi = server.import("?raw", noise(8192, 1));
    let none = "/rest/v0/vdis/00000000-0000-4000-8000-000000000000.raw";
    server.request("PUT", none).body(noise(8192, 2)).send().refused(404..=404);
    server
        .request("PUT", &format!("/rest/v0/vdis/{vdi}.qcow2"))
        .body(noise(8192, 2))
        .send()
        .refused(422..=422);
}

#[test]
fn a_cut_replacement_leaves_the_old_content() {
    let server = Server::start();
    let vdi = server.import("?raw", noise(LEN, 1));
    let target = format!("/rest/v0/vdis/{vdi}.raw");
    for chunked in [false, true] {
        let request = server.request("PUT", &target);
        let mut upload = if chunked { request.begin_chunked() } else { request.begin(Some(LEN as u64)) };
        let half = &noise(LEN, 2)[..LEN / 2];
        if chunked { upload.chunk(half) } else { upload.write(half) }.expect("it takes the first half");
        drop(upload);
        wait_for_files(&server, 1);
        assert!(server.export_bytes(&vdi, "raw") == noise(LEN, 1));
    }
}

#[test]
fn readers_of_the_old_content_are_not_disturbed_by_put() {
    let server = Server::start();
    let vdi = server.import("?raw", noise(LEN, 1));
    let old_vhd = server.export_bytes(&vdi, "vhd");
    let open = |format: &str| server.request("GET", &format!("/rest/v0/vdis/{vdi}.{format}")).open();
    let (mut raw, mut vhd) = (open("raw"), open("vhd"));
    let mut raw_bytes = raw.take_bytes(100_000);
    let mut vhd_bytes = vhd.take_bytes(100_000);

    let asked = Instant::now();
    server.request("PUT", &format!("/rest/v0/vdis/{vdi}.raw")).body(noise(LEN, 2)).send().expect(204);
    assert!(asked.elapsed() < Duration::from_secs(20), "it waited for readers: {:?}", asked.elapsed());
    assert!(server.export_bytes(&vdi, "raw") == noise(LEN, 2), "new readers see the new content");

    // The old bytes are reachable by their tag while they are pinned.
    let tag = raw.head.need("ETag").to_owned();
    let pinned = server.request("GET", &format!("/rest/v0/vdis/{vdi}.raw")).header("Range", "bytes=100-4099");
    let part = pinned.header("If-Range", &tag).send();
    if part.head.status == 206 {
        assert!(part.body == noise(LEN, 1)[100..4100], "the old tag never brings new bytes");
    } else {
        assert_eq!(part.head.status, 200, "{}", part.text());
        assert!(part.body == noise(LEN, 2), "no match brings the whole of the new content");
    }

    raw_bytes.extend(raw.rest().expect("it goes on to its end"));
    vhd_bytes.extend(vhd.rest().expect("it goes on to its end"));
    assert!(raw_bytes == noise(LEN, 1), "the raw reader's bytes");
    assert!(vhd_bytes == old_vhd, "the VHD reader's bytes");
    assert!(server.export_bytes(&vdi, "raw") == noise(LEN, 2));
    wait_for_files(&server, 1);
}

#[test]
fn readers_of_a_deleted_disk_read_it_to_its_end() {
    let server = Server::start();
    let vdi = server.import("?raw", noise(LEN, 1));
    let target = format!("/rest/v0/vdis/{vdi}.raw");
    let mut reader = server.request("GET", &target).open();
    let mut bytes = reader.take_bytes(100_000);
    let asked = Instant::now();
    server.request("DELETE", &format!("/rest/v0/vdis/{vdi}")).send().expect(204);
    assert!(asked.elapsed() < Duration::from_secs(5), "it waited for the reader: {:?}", asked.elapsed());
    let gone = server.get(&target);
    gone.refused(404..=410);
    assert_eq!(server.vdis(), Vec::<String>::new());
    bytes.extend(reader.rest().expect("it goes on to its end"));
    assert!(bytes == noise(LEN, 1));
    wait_for_files(&server, 0);
}

#[test]
fn delete_frees_the_file() {
    let server = Server::start();
    let vdi = server.import("?raw", noise(LEN, 1));
    assert_eq!(server.disk_files().len(), 1);
    let target = format!("/rest/v0/vdis/{vdi}");
    let response = server.request("DELETE", &target).send().expect(204);
    assert!(response.body.is_empty());
    server.assert_empty("DELETE");
    server.request("DELETE", &target).send().refused(404..=404);
    server.get(&target).refused(404..=404);
}

#[test]
fn a_second_writer_waits_for_the_first_and_does_not_mix_with_it() {
    let server = Server::start();
    let vdi = server.import("?raw", noise(LEN, 1));
    let target = format!("/rest/v0/vdis/{vdi}.raw");
    let mut first = server.request("PUT", &target).begin(Some(LEN as u64));
    first.write(&noise(LEN, 2)[..LEN / 2]).expect("it takes the first half");
    let writer = server.wait_for_task(|task| task["properties"]["state"] == "running");
    std::thread::scope(|scope| {
        let second = scope.spawn(|| server.request("PUT", &target).body(noise(LEN, 3)).send());
        let waits = server.wait_for_task(|task| task["properties"]["state"] == "queued");
        let expected = format!("task {} has VDI {vdi}", writer["id"].as_str().unwrap());
        assert_eq!(waits["properties"]["waiting"], expected.as_str());
        assert_eq!(waits["properties"]["place"], 1);
        first.write(&noise(LEN, 2)[LEN / 2..]).expect("it takes the second half");
        assert_eq!(first.answer().head.status, 204);
        second.join().unwrap().expect(204);
    });
    assert!(server.export_bytes(&vdi, "raw") == noise(LEN, 3));
    wait_for_files(&server, 1);
}

/// The two contents hold data in different places, so that one's allocation map laid over the other's file would
/// show as zeros.
#[test]
fn whoever_reads_while_content_is_replaced_gets_one_content_or_the_other_and_never_a_mixture() {
    let server = Server::start();
    let (len, part) = (8 * MIB as usize, 4 * MIB as usize);
    let mut contents = [vec![0; len], vec![0; len]];
    contents[0][..part].fill(1);
    contents[1][part..].fill(2);
    let vdi = server.import("?raw", contents[0].clone());
    let target = format!("/rest/v0/vdis/{vdi}.raw");
    let done = std::sync::atomic::AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                let mut reads = 0;
                while !done.load(std::sync::atomic::Ordering::Relaxed) || reads == 0 {
                    let answer = server.request("GET", &target).send().expect(200);
                    assert!(contents.contains(&answer.body), "neither content, after {reads} reads");
                    reads += 1;
                }
            });
        }
        for round in 1..60 {
            server.request("PUT", &target).body(contents[round % 2].clone()).send().expect(204);
        }
        done.store(true, std::sync::atomic::Ordering::Relaxed);
    });
    wait_for_files(&server, 1);
}
