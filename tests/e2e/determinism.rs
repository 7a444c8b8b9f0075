//! Exports of the same content are the same bytes, whoever asks and whenever.

use crate::support::MIB;
use crate::support::disk::Disk;
use crate::support::server::Server;
use crate::support::vhd::{allocated, get64};

/// ETag and bytes of an export.
fn seen(server: &Server, vdi: &str, format: &str) -> (String, Vec<u8>) {
    let response = server.get(&format!("/rest/v0/vdis/{vdi}.{format}")).expect(200);
    (response.head.need("ETag").to_owned(), response.body)
}

#[test]
fn two_exports_of_the_same_content_are_equal_to_the_last_byte_also_across_a_restart() {
    let mut server = Server::start();
    let vdi = server.import("?raw", Disk::lively(40 * MIB + 512, 1).whole());
    let before = ["raw", "vhd"].map(|format| seen(&server, &vdi, format));
    assert!(before == ["raw", "vhd"].map(|format| seen(&server, &vdi, format)), "a second time");
    server.kill();
    server.start_again();
    assert!(before == ["raw", "vhd"].map(|format| seen(&server, &vdi, format)), "after kill -9");
    assert!(server.terminate().success());
    server.start_again();
    assert!(before == ["raw", "vhd"].map(|format| seen(&server, &vdi, format)), "after a clean stop");
}

#[test]
fn names_and_tags_do_not_change_an_export() {
    let server = Server::start();
    let vdi = server.import("?raw", Disk::lively(24 * MIB, 2).whole());
    let before = seen(&server, &vdi, "vhd");
    let target = format!("/rest/v0/vdis/{vdi}");
    let change = serde_json::json!({"name_label": "another", "name_description": "text", "tags": ["a"]});
    server.request("PATCH", &target).json(&change).send().expect(204);
    assert!(seen(&server, &vdi, "vhd") == before);
}

#[test]
fn a_file_that_loses_its_holes_behind_the_servers_back_gives_the_same_export() {
    // What SEEK_HOLE answers changes with copies and writeback: lengths and block sets come from the stored map.
    let mut server = Server::start();
    let disk = Disk::empty(24 * MIB).noise(0, 4096, 3).noise(20 * MIB, 4096, 4);
    let vdi = server.import("?raw", disk.whole());
    let before = seen(&server, &vdi, "vhd");
    let file = server.sr_folder().join(format!("{vdi}.raw"));
    server.kill();
    let dense = std::fs::read(&file).expect("it is there");
    std::fs::write(&file, dense).expect("it can be written");
    server.start_again();
    assert!(seen(&server, &vdi, "vhd") == before);
}

#[test]
fn contents_of_their_own_have_ids_of_their_own() {
    let server = Server::start();
    let disk = Disk::lively(24 * MIB, 5).whole();
    let exports = [(); 2].map(|()| {
        let vdi = server.import("?raw", disk.clone());
        server.export_bytes(&vdi, "vhd")
    });
    // The unique id in the footer names the content: two contents must not be taken for one in a chain.
    assert_ne!(exports[0][68..84], exports[1][68..84]);
    assert_eq!(exports[0].len(), exports[1].len());
    assert!(exports[0][2048..exports[0].len() - 512] == exports[1][2048..exports[1].len() - 512]);
}

#[test]
fn an_exported_vhd_holds_the_blocks_that_hold_data_and_says_so_in_its_footer() {
    let server = Server::start();
    let size = 40 * MIB + 1536;
    let disk = Disk::empty(size).noise(0, 512, 6).noise(7 * MIB, 512, 7).noise(size - 512, 512, 8);
    let vdi = server.import("?raw", disk.whole());
    let vhd = server.export_bytes(&vdi, "vhd");
    assert_eq!(allocated(&vhd), [0, 3, 20]);
    assert_eq!(get64(&vhd, 48), size, "current size");
    assert_eq!(get64(&vhd, 40), size, "original size");
    assert_eq!(vhd[..512], vhd[vhd.len() - 512..], "head copy and last footer");
}
