//! VMs travel as XVA: archives go in and come out, and other people's readers take what comes out.

mod compressed;
mod imports;

use serde_json::{Value, json};

use crate::support::MIB;
use crate::support::disk::{Disk, noise};
use crate::support::server::{Server, created};
use crate::support::tools::{program, run};
use crate::support::xva;

/// A VM with these disks, made by `POST /vms`.
fn vm_of(server: &Server, disks: &[Vec<u8>]) -> String {
    let vdis: Vec<String> = disks.iter().map(|disk| server.import("?raw", disk.clone())).collect();
    let body = json!({ "name_label": "a VM", "name_description": "of <three> disks", "cpus": 2, "memory": 1 << 30, "vdis": vdis });
    created(&server.request("POST", "/rest/v0/vms").json(&body).send().expect(201), "vms")
}

/// Disks as they come: dense, sparse, empty, smaller than a block; sizes that are no multiples of a block.
fn some_disks() -> Vec<Vec<u8>> {
    let sparse = Disk::empty(40 * MIB + 512).noise(0, 700, 2).noise(21 * MIB - 5, 3000, 3).whole();
    vec![noise((9 << 20) + 1536, 1), sparse, vec![0; 5 << 20], noise(70_144, 4)]
}

/// The whole of an export, by its address.
fn export(server: &Server, target: &str) -> Vec<u8> {
    server.get(target).expect(200).body
}

fn import(server: &Server, query: &str, archive: Vec<u8>) -> String {
    let pool = pool(server);
    let target = format!("/rest/v0/pools/{pool}/vms{query}");
    created(&server.request("POST", &target).body(archive).send().expect(201), "vms")
}

fn pool(server: &Server) -> String {
    server.json("/rest/v0/pools?fields=id")[0]["id"].as_str().expect("a pool").to_owned()
}

/// The bytes of a VM's disks, in the order of their positions.
fn disks_of(server: &Server, vm: &str) -> Vec<Vec<u8>> {
    let vbds = server.json(&format!("/rest/v0/vbds?fields=VDI,position,is_cd_drive&filter=VM:{vm}"));
    let mut vbds: Vec<Value> = vbds.as_array().expect("a list").clone();
    vbds.retain(|vbd| vbd["is_cd_drive"] == false);
    vbds.sort_by_key(|vbd| vbd["position"].as_str().expect("text").to_owned());
    vbds.iter().map(|vbd| server.export_bytes(vbd["VDI"].as_str().expect("a VDI"), "raw")).collect()
}

#[test]
fn a_vm_goes_out_and_comes_in_again_with_equal_disks_in_every_compression() {
    let server = Server::start();
    let disks = some_disks();
    let vm = vm_of(&server, &disks);
    for query in
        ["", "?checksum=sha1", "?compress=zstd", "?compress=gzip", "?compress=true", "?compress=zstd&level=1"]
    {
        let archive = export(&server, &format!("/rest/v0/vms/{vm}.xva{query}"));
        let again = import(&server, "", archive);
        assert_ne!(again, vm);
        assert!(disks_of(&server, &again) == disks, "the disks, {query}");
        let object = server.json(&format!("/rest/v0/vms/{again}"));
        assert_eq!(object["name_label"], "a VM", "{query}");
        assert_eq!(object["name_description"], "of <three> disks", "{query}");
        assert_eq!(object["CPUs"]["number"], 2, "{query}");
        server.request("DELETE", &format!("/rest/v0/vms/{again}")).send().expect(204);
    }
}

#[test]
fn an_archive_is_what_importers_expect() {
    let server = Server::start();
    let disks = some_disks();
    let vm = vm_of(&server, &disks);
    for query in ["", "?checksum=sha1"] {
        let (document, found) = xva::disks(&export(&server, &format!("/rest/v0/vms/{vm}.xva{query}")));
        // Whatever order they are in: small ones may come last.
        let mut found: Vec<Vec<u8>> = found.into_iter().map(|(_, disk)| disk).collect();
        let mut expected = disks.clone();
        found.sort();
        expected.sort();
        assert!(found == expected, "{query}");
        assert!(document.starts_with("<value><struct>"), "{document}");
        assert!(document.contains("<member><name>export_vsn</name><value>2</value></member>"), "{document}");
    }
    let archive = export(&server, &format!("/rest/v0/vms/{vm}.xva"));
    // The header of ova.xml as the oldest importers know it: V7, no magic.
    assert_eq!(&archive[..8], b"ova.xml\0");
    assert_eq!((archive[156], &archive[257..263]), (0, [0; 6].as_slice()));
    assert!(archive[archive.len() - 1024..].iter().all(|byte| *byte == 0));
}

#[test]
fn tar_zstd_gzip_and_an_independent_reader_of_xva_take_what_comes_out() {
    let server = Server::start();
    let disks = some_disks();
    let vm = vm_of(&server, &disks);
    let plain = server.path("plain.xva");
    std::fs::write(&plain, export(&server, &format!("/rest/v0/vms/{vm}.xva?checksum=sha1"))).expect("room");
    let listed = run(&program("tar", "tar"), ["tf".as_ref(), plain.as_os_str()]);
    let listed = String::from_utf8(listed).expect("names");
    assert_eq!(listed.lines().next(), Some("ova.xml"));
    for (tool, package, codec) in [("zstd", "zstd", "zstd"), ("gzip", "gzip", "gzip")] {
        let packed = server.path(codec);
        let target = format!("/rest/v0/vms/{vm}.xva?checksum=sha1&compress={codec}");
        std::fs::write(&packed, export(&server, &target)).expect("room");
        let unpacked = run(&program(tool, package), ["-dc".as_ref(), packed.as_os_str()]);
        assert!(unpacked == std::fs::read(&plain).expect("it was written"), "{tool}");
    }
    // xva-img knows the older checksums only.
    let folder = server.path("unpacked");
    std::fs::create_dir(&folder).expect("a new folder");
    run(&program("tar", "tar"), ["xf".as_ref(), plain.as_os_str(), "-C".as_ref(), folder.as_os_str()]);
    let xva_img = program("xva-img", "xva-img");
    let mut found = Vec::new();
    for entry in std::fs::read_dir(&folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            let raw = folder.join("disk.raw");
            // It takes a directory with a slash at its end.
            let directory = format!("{}/", path.display());
            run(&xva_img, ["-p", "disk-export", &directory, raw.to_str().expect("UTF-8")]);
            found.push(std::fs::read(&raw).expect("xva-img wrote it"));
            std::fs::remove_file(&raw).expect("it is there");
        }
    }
    found.sort_by_key(Vec::len);
    let mut expected = disks.clone();
    expected.sort_by_key(Vec::len);
    assert_eq!(found.len(), expected.len());
    for (found, expected) in found.iter().zip(&expected) {
        // xva-img makes whole blocks.
        assert!(found.starts_with(expected) && found[expected.len()..].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn a_plain_export_has_its_length_from_the_start_and_any_range_of_it_is_its_slice() {
    let server = Server::start();
    let vm = vm_of(&server, &some_disks());
    let target = format!("/rest/v0/vms/{vm}.xva");
    let head = server.request("HEAD", &target).send().expect(200);
    let whole = server.get(&target).expect(200);
    assert_eq!(head.head.length(), whole.body.len() as u64);
    assert_eq!(whole.head.need("Accept-Ranges"), "bytes");
    assert_eq!(whole.head.need("Content-Disposition"), format!("attachment; filename={vm}.xva"));
    assert_eq!(whole.head.need("ETag"), head.head.need("ETag"));
    let mut state = 7;
    for _ in 0..40 {
        let start = crate::support::disk::next(&mut state) % whole.body.len() as u64;
        let length = 1 + crate::support::disk::next(&mut state) % (3 << 20);
        let end = (start + length).min(whole.body.len() as u64);
        let range = format!("bytes={start}-{}", end - 1);
        let part = server.request("GET", &target).header("Range", &range).send().expect(206);
        assert!(part.body == whole.body[start as usize..end as usize], "{range}");
    }
}

#[test]
fn the_same_vm_gives_the_same_bytes_again_also_after_a_restart() {
    let mut server = Server::start();
    let vm = vm_of(&server, &some_disks());
    let all = |server: &Server| -> Vec<Vec<u8>> {
        ["", "?compress=zstd", "?compress=gzip"]
            .iter()
            .map(|query| export(server, &format!("/rest/v0/vms/{vm}.xva{query}")))
            .collect()
    };
    let first = all(&server);
    assert!(all(&server) == first);
    server.terminate();
    server.start_again();
    assert!(all(&server) == first, "after a restart");
}

#[test]
fn a_download_goes_on_with_the_old_archive_when_its_vm_is_renamed_and_only_by_its_tag() {
    let server = Server::start();
    let vm = vm_of(&server, &some_disks());
    let target = format!("/rest/v0/vms/{vm}.xva");
    let whole = server.get(&target).expect(200);
    let etag = whole.head.need("ETag").to_owned();
    let mut cut = server.request("GET", &target).open();
    let have = cut.take_bytes(3 << 20);
    drop(cut);
    let rename = json!({ "name_label": "another name" });
    server.request("PATCH", &format!("/rest/v0/vms/{vm}")).json(&rename).send().expect(204);
    let range = format!("bytes={}-", have.len());
    let refused = server.request("GET", &target).header("Range", &range).send().expect(409).json();
    assert_eq!(refused["code"], "content_changed");
    let rest =
        server.request("GET", &target).header("Range", &range).header("If-Range", &etag).send().expect(206);
    assert!([have, rest.body].concat() == whole.body);
    assert_ne!(server.get(&target).expect(200).head.need("ETag"), etag);
}

#[test]
fn a_snapshot_is_exported_like_a_vm_and_stays_what_it_was() {
    let server = Server::start();
    let disks = some_disks();
    let vm = vm_of(&server, &disks);
    let taken =
        server.request("POST", &format!("/rest/v0/vms/{vm}/actions/snapshot?sync")).send().expect(201);
    let snapshot = created(&taken, "vm-snapshots");
    let vbds = server.json(&format!("/rest/v0/vbds?fields=VDI&filter=VM:{vm}"));
    for vbd in vbds.as_array().expect("a list") {
        let vdi = vbd["VDI"].as_str().expect("a VDI");
        let size = server.json(&format!("/rest/v0/vdis/{vdi}"))["size"].as_u64().expect("a size");
        let other = noise(usize::try_from(size).expect("small"), 77);
        server.request("PUT", &format!("/rest/v0/vdis/{vdi}.raw")).body(other).send().expect(204);
    }
    let again = import(&server, "", export(&server, &format!("/rest/v0/vm-snapshots/{snapshot}.xva")));
    assert!(disks_of(&server, &again) == disks);
    server.get(&format!("/rest/v0/vms/{snapshot}.xva")).expect(404);
    server.request("DELETE", &format!("/rest/v0/vm-snapshots/{snapshot}")).send().expect(204);
    server.get(&format!("/rest/v0/vm-snapshots/{snapshot}.xva")).expect(404);
    server.request("DELETE", &format!("/rest/v0/vms/{vm}")).send().expect(204);
    server.request("DELETE", &format!("/rest/v0/vms/{again}")).send().expect(204);
    server.assert_empty("deleted VMs");
}

#[test]
fn wrong_parameters_of_an_export_are_refused_by_name() {
    let server = Server::start();
    let vm = vm_of(&server, &[]);
    let wrong = |query: &str| {
        let target = format!("/rest/v0/vms/{vm}.{query}");
        let refused = server.get(&target).expect(422).json();
        assert_eq!(server.request("HEAD", &target).send().head.status, 422, "{query}");
        refused["error"].as_object().expect("by parameter").keys().next().expect("one").clone()
    };
    assert_eq!(wrong("xva?compress=lzma"), "compress");
    assert_eq!(wrong("xva?compress="), "compress");
    assert_eq!(wrong("xva?compress=zstd&level=99"), "level");
    assert_eq!(wrong("xva?compress=gzip&level=0"), "level");
    assert_eq!(wrong("xva?checksum=md5"), "checksum");
    assert_eq!(wrong("ova"), "format");
    server.get("/rest/v0/vms/00000000-0000-4000-8000-000000000000.xva").expect(404);
}

#[test]
fn a_vm_without_disks_is_an_archive_of_its_document() {
    let server = Server::start();
    let vm = vm_of(&server, &[]);
    let archive = export(&server, &format!("/rest/v0/vms/{vm}.xva"));
    let (_, disks) = xva::disks(&archive);
    assert!(disks.is_empty());
    import(&server, "", archive);
}

#[test]
fn an_export_is_one_task_that_tells_of_the_vm() {
    let server = Server::start();
    let vm = vm_of(&server, &some_disks());
    let answer = server.get(&format!("/rest/v0/vms/{vm}.xva?compress=zstd")).expect(200);
    let task = server.task_ended(answer.head.need("Gantry-Task"));
    assert_eq!(task["status"], "success", "{task}");
    assert_eq!(task["properties"]["objectId"], vm.as_str(), "{task}");
    assert_eq!(task["properties"]["objectType"], "VM", "{task}");
    assert_eq!(task["properties"]["progress"], 100, "{task}");
    assert_eq!(task["properties"]["bytes"], answer.body.len(), "{task}");
}
