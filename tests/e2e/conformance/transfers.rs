//! §9 Exports and imports.

use serde_json::json;

use super::{NOBODY, Site};
use crate::support::MIB;
use crate::support::curl::Curl;
use crate::support::disk::{Disk, noise};
use crate::support::server::{Server, created};
use crate::support::vhd::{Vhd, fixed};

/// VM export, the table of `compress`: absent none, `zstd`, `gzip`, `true` gzip, `false` none, other and empty 422.
#[test]
fn compress_has_the_values_of_its_table() {
    let site = Site::new();
    let gzip: &[u8] = &[0x1f, 0x8b];
    let zstd: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];
    for (collection, id) in [("vms", &site.vm), ("vm-snapshots", &site.vm_snapshot)] {
        for (query, magic) in [
            ("", b"ova.xml".as_slice()),
            ("?compress=false", b"ova.xml"),
            ("?compress=zstd", zstd),
            ("?compress=gzip", gzip),
            ("?compress=true", gzip),
        ] {
            let response = site.send("GET", &format!("{collection}/{id}.xva{query}")).expect(200);
            assert!(response.body.starts_with(magic), "{collection} {query}");
            assert_eq!(response.head.need("Content-Type"), "application/octet-stream");
            let disposition = response.head.need("Content-Disposition").replace('"', "");
            assert_eq!(disposition, format!("attachment; filename={id}.xva"), "{query}");
        }
        for query in ["?compress=", "?compress", "?compress=lzma", "?compress=zstd&compress=gzip"] {
            let refusal = site.send("GET", &format!("{collection}/{id}.xva{query}")).refused(422..=422);
            assert!(refusal.error.get("compress").is_some(), "{query}: {}", refusal.body);
        }
        site.send("GET", &format!("{collection}/{id}.qcow2")).refused(422..=422);
        site.send("GET", &format!("{collection}/{NOBODY}.xva")).refused(404..=404);
    }
}

/// VDI export: "accept and validate `preferNbd`, `nbdConcurrency`; send `Content-Length` whenever the size is known"; the
/// headers of C; unknown formats 422.
#[test]
fn a_disk_is_exported_with_its_headers_and_its_length() {
    let site = Site::new();
    for (collection, id) in [("vdis", &site.vdi), ("vdi-snapshots", &site.vdi_snapshot)] {
        for format in ["raw", "vhd"] {
            for query in ["", "?preferNbd", "?preferNbd=true&nbdConcurrency=4"] {
                let response = site.send("GET", &format!("{collection}/{id}.{format}{query}")).expect(200);
                assert_eq!(response.head.need("Content-Type"), "application/octet-stream");
                let disposition = response.head.need("Content-Disposition").replace('"', "");
                assert_eq!(disposition, format!("attachment; filename={id}.{format}"));
                assert_eq!(response.head.length(), response.body.len() as u64, "{format}");
            }
        }
        let raw = site.send("GET", &format!("{collection}/{id}.raw")).expect(200);
        assert!(raw.body == noise(4096, 1));
        for query in ["?nbdConcurrency=many", "?preferNbd=perhaps", "?nbdConcurrency="] {
            site.send("GET", &format!("{collection}/{id}.vhd{query}")).refused(422..=422);
        }
        for format in ["qcow2", "vmdk", "RAW"] {
            site.send("GET", &format!("{collection}/{id}.{format}")).refused(422..=422);
        }
        site.send("GET", &format!("{collection}/{NOBODY}.raw")).refused(404..=404);
    }
}

/// VDI import on an SR, the table: spellings of `raw`, `name_label` with its default, `name_description`, any
/// `Content-Type`, chunked bodies, the answer.
#[test]
fn a_disk_is_imported_as_each_row_says() {
    let server = Server::start();
    let raw = noise(4096, 1);
    let vhd = fixed(&raw);
    let dynamic = Vhd::dynamic(4 * MIB, &[(0, &raw)]).bytes();
    for (query, image, size) in [
        ("?raw", &raw, 4096),
        ("?raw=", &raw, 4096),
        ("?raw=true", &raw, 4096),
        ("?raw=1&name_label=x&name_description=y%20z", &raw, 4096),
        ("", &vhd, 4096),
        ("?raw=false", &vhd, 4096),
        ("?raw=0", &dynamic, 4 * MIB),
        ("?raw&size=8192", &raw, 8192),
    ] {
        for kind in ["", "application/octet-stream", "application/x-www-form-urlencoded", "application/json"]
        {
            let mut request = server.request("POST", &server.import_target(query));
            if !kind.is_empty() {
                request = request.header("Content-Type", kind);
            }
            let chunked = request.clone().send_chunked(image, 1000);
            for response in [request.body(image.as_slice()).send(), chunked] {
                let id = created(&response, "vdis");
                assert!(response.head.need("Content-Type").starts_with("application/json"));
                let vdi = server.json(&format!("/rest/v0/vdis/{id}"));
                assert_eq!(vdi["size"], size, "{query} {kind}");
                let label = vdi["name_label"].as_str().expect("a name");
                if query.contains("name_label") {
                    assert_eq!((label, &vdi["name_description"]), ("x", &json!("y z")));
                } else {
                    assert!(label.starts_with("[XO] Imported disk - 2"), "{label}");
                }
            }
        }
    }
    let plain = server
        .request("POST", &server.import_target("?raw"))
        .header("Accept", "text/plain")
        .body(raw.clone());
    let plain = plain.send().expect(201);
    assert_eq!(plain.text().trim().len(), 36, "bare UUID with `Accept: text/plain`: {}", plain.text());
    server.request("POST", &server.import_target("?raw=perhaps")).body(raw.clone()).send().refused(422..=422);
    server.request("POST", &server.import_target("")).body(raw.clone()).send().refused(422..=422);
    let nowhere = format!("/rest/v0/srs/{NOBODY}/vdis?raw");
    server.request("POST", &nowhere).body(raw).send().refused(404..=404);
}

/// "`PUT /vdis/<id>.vhd`, `.raw`: overwrite the content; image size must equal the VDI's: `204`; 404; 422 unknown format".
#[test]
fn the_content_of_a_disk_is_overwritten() {
    let site = Site::new();
    let put = |target: &str, image: Vec<u8>| {
        site.server.request("PUT", &format!("/rest/v0/vdis/{target}")).body(image).send()
    };
    put(&format!("{}.raw", site.vdi), noise(4096, 5)).expect(204);
    assert!(site.server.export_bytes(&site.vdi, "raw") == noise(4096, 5));
    put(&format!("{}.vhd", site.vdi), fixed(&noise(4096, 6))).expect(204);
    assert!(site.server.export_bytes(&site.vdi, "raw") == noise(4096, 6));
    put(&format!("{}.raw", site.vdi), noise(8192, 5)).refused(422..=422);
    put(&format!("{}.vhd", site.vdi), fixed(&noise(8192, 6))).refused(422..=422);
    put(&format!("{}.qcow2", site.vdi), noise(4096, 5)).refused(422..=422);
    put(&format!("{NOBODY}.raw"), noise(4096, 5)).refused(404..=404);
    assert!(site.server.export_bytes(&site.vdi, "raw") == noise(4096, 6));
    // "`Accept-Ranges` and ranges as our extension", and the snapshot has the old content.
    assert!(
        site.send("GET", &format!("vdi-snapshots/{}.raw", site.vdi_snapshot)).expect(200).body
            == noise(4096, 1)
    );
}

/// "`POST /pools/<id>/vms[?sr=<sr id>]`: body = XVA, plain or compressed: `201`, `Location: /rest/v0/vms/<uuid>`, `{"id"}`;
/// 404 pool or SR". "importers detect the compression".
#[test]
fn a_vm_is_imported_from_its_own_export() {
    let site = Site::new();
    for compress in ["", "?compress=gzip", "?compress=zstd"] {
        let archive = site.send("GET", &format!("vms/{}.xva{compress}", site.vm)).expect(200).body;
        for query in ["".to_owned(), format!("?sr={}", site.server.sr())] {
            let target = format!("/rest/v0/pools/{}/vms{query}", site.pool);
            let vm = created(&site.server.request("POST", &target).body(archive.clone()).send(), "vms");
            assert_ne!(vm, site.vm);
            assert_eq!(site.get(&format!("vms/{vm}"))["name_label"], "from an archive");
            assert_eq!(site.get(&format!("vms/{vm}/vdis")).as_array().map(Vec::len), Some(1));
        }
    }
    for target in [format!("pools/{NOBODY}/vms"), format!("pools/{}/vms?sr={NOBODY}", site.pool)] {
        site.server
            .request("POST", &format!("/rest/v0/{target}"))
            .body(noise(512, 1))
            .send()
            .refused(404..=404);
    }
    let target = format!("/rest/v0/pools/{}/vms", site.pool);
    site.server.request("POST", &target).body(noise(4096, 1)).send().refused(422..=422);
}

/// "`POST /vdis` JSON `{srId, virtual_size, name_label?, …}`: empty disk"; "`POST /vbds` `{VM, VDI, mode?, bootable?…}`":
/// `201`, `Location`, `{"id"}`.
#[test]
fn an_empty_disk_is_made_and_attached() {
    let site = Site::new();
    let body = json!({"srId": site.server.sr(), "virtual_size": MIB, "name_label": "empty"});
    let vdi = created(&site.send_json("POST", "vdis", &body), "vdis");
    assert_eq!(site.get(&format!("vdis/{vdi}"))["size"], MIB);
    assert!(site.server.export_bytes(&vdi, "raw").iter().all(|byte| *byte == 0));
    let body = json!({"VM": site.vm, "VDI": vdi, "mode": "RO", "bootable": true});
    let vbd = created(&site.send_json("POST", "vbds", &body), "vbds");
    let vbd = site.get(&format!("vbds/{vbd}"));
    assert_eq!((&vbd["VM"], &vbd["VDI"]), (&json!(site.vm), &json!(vdi)), "{vbd}");
    assert_eq!((&vbd["read_only"], &vbd["bootable"]), (&json!(true), &json!(true)));
    for body in [json!({"VM": site.vm, "VDI": NOBODY}), json!({"VM": NOBODY, "VDI": vdi})] {
        site.send_json("POST", "vbds", &body).refused(404..=404);
    }
    let body = json!({"srId": NOBODY, "virtual_size": MIB});
    site.send_json("POST", "vdis", &body).refused(404..=404);
}

/// "Documentation curl forms that must work", as they are printed but for host, ids and token.
#[test]
fn the_curl_lines_of_the_documentation_work_as_printed() {
    let site = Site::new();
    let folder = crate::support::server::scratch();
    let disk = Disk::lively(24 * MIB, 1);
    disk.write_raw(&folder.path().join("disk.raw"));
    let script = format!(
        "set -e -o pipefail\n\
         curl -sS -b authenticationToken={token} -T disk.raw -X POST '{url}/srs/{sr}/vdis?raw&name_label=x' | cat > made\n\
         curl -sS -b authenticationToken={token} '{url}/vms/{vm}.xva?compress=zstd' > f\n\
         curl -sS -b authenticationToken={token} -X PATCH -H 'Content-Type: application/json' -d '{{\"name_label\":\"x\"}}' {url}/vms/{vm}\n\
         curl -sS -b authenticationToken={token} '{url}/vdis/{vdi}.vhd' > disk.vhd\n\
         curl -sS -b authenticationToken={token} -X DELETE {url}/vdis/{vdi}\n",
        token = site.server.token(),
        url = site.server.url("/rest/v0"),
        sr = site.server.sr(),
        vm = site.vm,
        vdi = site.vdi,
    );
    drop(Curl::anonymous());
    let output = std::process::Command::new("bash").arg("-c").arg(script).current_dir(folder.path()).output();
    let output = output.expect("a shell runs");
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    let read = |name: &str| std::fs::read(folder.path().join(name)).expect("it was written");
    let made: serde_json::Value = serde_json::from_slice(&read("made")).expect("JSON");
    let made = made["id"].as_str().expect("an id");
    assert_eq!(site.get(&format!("vdis/{made}"))["name_label"], "x");
    assert!(site.server.export_bytes(made, "raw") == disk.whole());
    assert!(read("f").starts_with(&[0x28, 0xb5, 0x2f, 0xfd]));
    assert_eq!(site.get(&format!("vms/{}", site.vm))["name_label"], "x");
    assert!(read("disk.vhd").ends_with(&read("disk.vhd")[..512]) || read("disk.vhd").len() > 4096);
    site.send("GET", &format!("vdis/{}", site.vdi)).refused(404..=404);
}
