//! Differencing VHDs beside their parents, as they lie in a file SR: vhd.md §3.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::MIB;
use crate::support::disk::{Disk, noise};
use crate::support::server::{Server, Setup, created};
use crate::support::tools::qemu;
use crate::support::vhd::{BLOCK, Block, Locator, Parent, Vhd};

const BASE: &str = "aaaaaaaa-0000-4000-8000-000000000001";
const MIDDLE: &str = "aaaaaaaa-0000-4000-8000-000000000002";
const LEAF: &str = "aaaaaaaa-0000-4000-8000-000000000003";
const SIZE: u64 = 8 * MIB;

fn server() -> Server {
    let server = Setup::default().config("[storage]\nsr_roots = [\"{scratch}/roots\"]").start();
    std::fs::create_dir_all(server.path("roots/chain")).expect("it can be made");
    server
}

fn attach(server: &Server) -> String {
    let body = json!({"name_label": "chain", "path": server.path("roots/chain")});
    created(&server.request("POST", "/rest/v0/srs").json(&body).send(), "srs")
}

fn file(server: &Server, name: &str) -> std::path::PathBuf {
    server.path("roots/chain").join(format!("{name}.vhd"))
}

fn id_of(vhd: &Path) -> [u8; 16] {
    let bytes = std::fs::read(vhd).expect("it is there");
    bytes[bytes.len() - 512 + 68..][..16].try_into().expect("sixteen bytes")
}

/// A child with sectors 3 to 10 and 4000 to 4095 of block 1 and the whole of block 2, and what it makes of a disk.
fn child(id: [u8; 16], seed: u64, size: u64, parent: Parent) -> (Vhd, impl Fn(&mut Vec<u8>)) {
    let (some, all) = (noise(BLOCK as usize, seed), noise(BLOCK as usize, seed + 1));
    let present = [3..11, 4000..4096];
    let mut vhd = Vhd::dynamic(size, &[]);
    vhd.id = id;
    vhd.parent = Some(parent);
    vhd.blocks = vec![(2, Block::full(&all)), (1, Block::sectors(&some, &present))];
    let overlay = move |disk: &mut Vec<u8>| {
        disk.resize(size as usize, 0);
        for range in present.clone() {
            let (from, to) = (range.start * 512, range.end * 512);
            disk[BLOCK as usize + from..BLOCK as usize + to].copy_from_slice(&some[from..to]);
        }
        disk[2 * BLOCK as usize..3 * BLOCK as usize].copy_from_slice(&all);
    };
    (vhd, overlay)
}

/// A parent whose name is told in both kinds of locator, as blktap does.
fn named(vhd: &Path, name: &str) -> Parent {
    let name = format!("{name}.vhd");
    Parent { id: id_of(vhd), locators: vec![Locator::macx(&name), Locator::w2ru(&name)], name }
}

/// Has qemu make the base of the chain.
fn base(server: &Server, options: &str) -> Vec<u8> {
    let disk = Disk::empty(SIZE).noise(0, 4096, 1).noise(2 * MIB, 3 * MIB, 2).noise(SIZE - 512, 512, 3);
    let raw = server.path("base.raw");
    disk.write_raw(&raw);
    qemu::raw_to_vhd(&raw, &file(server, BASE), options);
    disk.whole()
}

#[test]
fn a_chain_of_three_reads_as_one_disk_with_its_sector_bitmaps_honoured() {
    for options in ["subformat=dynamic,force_size=on", "subformat=fixed,force_size=on"] {
        let server = server();
        let of_base = base(&server, options);
        let (middle, change) = child([2; 16], 10, SIZE, named(&file(&server, BASE), BASE));
        std::fs::write(file(&server, MIDDLE), middle.bytes()).expect("it can be written");
        let mut of_middle = of_base.clone();
        change(&mut of_middle);
        // The leaf is larger than its parents: past their end they are zero.
        let (mut leaf, change) = child([3; 16], 20, SIZE + 3 * MIB, named(&file(&server, MIDDLE), MIDDLE));
        leaf.blocks.remove(0);
        std::fs::write(file(&server, LEAF), leaf.bytes()).expect("it can be written");
        let mut of_leaf = of_middle.clone();
        change(&mut of_leaf);
        of_leaf[2 * BLOCK as usize..3 * BLOCK as usize]
            .copy_from_slice(&of_middle[2 * BLOCK as usize..3 * BLOCK as usize]);

        attach(&server);
        for (name, disk) in [(BASE, &of_base), (MIDDLE, &of_middle), (LEAF, &of_leaf)] {
            assert!(server.export_bytes(name, "raw") == *disk, "{name} as raw, base {options}");
            let exported = server.path("exported.vhd");
            server.export(name, "vhd", &exported);
            let read = server.path("read.raw");
            qemu::vhd_to_raw(&exported, &read);
            assert!(std::fs::read(&read).expect("it is there") == *disk, "{name} as VHD, base {options}");
            let part = server.slice(name, "raw", BLOCK + 1000, 300_001);
            assert!(part == disk[BLOCK as usize + 1000..][..300_001], "{name}, a range of it");
        }
    }
}

#[test]
fn the_parent_is_found_by_any_name_that_is_readable_and_only_beside_its_child() {
    let absolute = |name: &str| Locator {
        code: *b"W2ku",
        data: format!("C:\\elsewhere\\{name}").encode_utf16().flat_map(u16::to_le_bytes).collect(),
        space: 512,
    };
    let base_file = format!("{BASE}.vhd");
    let ways: [(&str, String, Vec<Locator>); 6] = [
        ("only MacX", String::new(), vec![Locator::macx(&base_file)]),
        ("only W2ru, space in sectors", String::new(), vec![Locator::w2ru(&base_file)]),
        ("only W2ku, an absolute path", String::new(), vec![absolute(&base_file)]),
        ("only the unicode name", base_file.clone(), vec![]),
        ("a unicode name with a host's path", format!("/var/run/sr-mount/x/{base_file}"), vec![]),
        (
            "a wrong locator first",
            base_file.clone(),
            vec![Locator::macx("other.vhd"), Locator::macx(&base_file)],
        ),
    ];
    for (way, name, locators) in ways {
        let server = server();
        let mut disk = base(&server, "subformat=dynamic,force_size=on");
        let parent = Parent { id: id_of(&file(&server, BASE)), name, locators };
        let (vhd, change) = child([2; 16], 10, SIZE, parent);
        std::fs::write(file(&server, LEAF), vhd.bytes()).expect("it can be written");
        change(&mut disk);
        attach(&server);
        assert!(server.export_bytes(LEAF, "raw") == disk, "{way}");
    }
}

#[test]
fn a_broken_chain_is_never_read_as_something_else_and_spoils_no_other_disk() {
    let parent =
        |id: [u8; 16], name: &str| Parent { id, name: name.into(), locators: vec![Locator::macx(name)] };
    let base_file = format!("{BASE}.vhd");
    let leaf_file = format!("{LEAF}.vhd");
    let middle_file = format!("{MIDDLE}.vhd");
    let write = |server: &Server, name: &str, id: [u8; 16], parent: Parent| {
        std::fs::write(file(server, name), child(id, 10, SIZE, parent).0.bytes()).expect("it can be written");
    };
    type Break<'a> = &'a dyn Fn(&Server);
    let breaks: [(&str, Break<'_>); 5] = [
        ("P6: no parent", &|s| write(s, LEAF, [3; 16], parent([9; 16], "nowhere.vhd"))),
        ("P4: another id", &|s| write(s, LEAF, [3; 16], parent([9; 16], &base_file))),
        ("P2: its own parent", &|s| write(s, LEAF, [3; 16], parent([3; 16], &leaf_file))),
        ("P5: a cycle", &|s| {
            write(s, LEAF, [3; 16], parent([2; 16], &middle_file));
            write(s, MIDDLE, [2; 16], parent([3; 16], &leaf_file));
        }),
        ("P6: a name that leaves the store", &|s| {
            std::fs::copy(file(s, BASE), s.path("roots/outside.vhd")).expect("it can be copied");
            let id = id_of(&file(s, BASE));
            write(s, LEAF, [3; 16], parent(id, "../outside.vhd"));
        }),
    ];
    for (what, make) in breaks {
        let server = server();
        let disk = base(&server, "subformat=dynamic,force_size=on");
        make(&server);
        attach(&server);
        let response = server.get(&format!("/rest/v0/vdis/{LEAF}.raw"));
        response.refused(400..=599);
        assert!(server.export_bytes(BASE, "raw") == disk, "{what}: the sound disk beside it");
    }
}

#[test]
fn a_chain_deeper_than_32_is_refused_and_one_of_30_is_read() {
    let server = server();
    let mut disk = base(&server, "subformat=dynamic,force_size=on");
    let name = |level: u64| format!("bbbbbbbb-0000-4000-8000-{level:012}");
    let mut parent = named(&file(&server, BASE), BASE);
    let mut at_30 = Vec::new();
    for level in 2..=40_u64 {
        let mut vhd = Vhd::dynamic(SIZE, &[]);
        vhd.id = [level as u8 + 0x40; 16];
        vhd.parent = Some(parent);
        let sector = level as usize;
        let data = noise(BLOCK as usize, level);
        vhd.blocks = vec![(0, Block::sectors(&data, std::slice::from_ref(&(sector..sector + 1))))];
        std::fs::write(file(&server, &name(level)), vhd.bytes()).expect("it can be written");
        disk[sector * 512..][..512].copy_from_slice(&data[sector * 512..][..512]);
        if level == 30 {
            at_30 = disk.clone();
        }
        parent = named(&file(&server, &name(level)), &name(level));
    }
    attach(&server);
    assert!(server.export_bytes(&name(30), "raw") == at_30);
    server.get(&format!("/rest/v0/vdis/{}.raw", name(40))).refused(400..=599);
}

#[test]
fn a_parent_that_is_deleted_or_replaced_does_not_change_its_children() {
    let server = server();
    let mut disk = base(&server, "subformat=dynamic,force_size=on");
    let (vhd, change) = child([2; 16], 10, SIZE, named(&file(&server, BASE), BASE));
    std::fs::write(file(&server, LEAF), vhd.bytes()).expect("it can be written");
    change(&mut disk);
    attach(&server);
    assert!(server.export_bytes(LEAF, "raw") == disk);

    let replaced =
        server.request("PUT", &format!("/rest/v0/vdis/{BASE}.raw")).body(noise(SIZE as usize, 50)).send();
    assert!(matches!(replaced.head.status, 204 | 409), "{}", replaced.text());
    assert!(server.export_bytes(LEAF, "raw") == disk, "after PUT of the parent: {}", replaced.head.status);
    let deleted = server.request("DELETE", &format!("/rest/v0/vdis/{BASE}")).send();
    assert!(matches!(deleted.head.status, 204 | 409), "{}", deleted.text());
    assert!(server.export_bytes(LEAF, "raw") == disk, "after DELETE of the parent: {}", deleted.head.status);

    // The child itself can be replaced, and then it is a disk of its own.
    server
        .request("PUT", &format!("/rest/v0/vdis/{LEAF}.raw"))
        .body(noise(SIZE as usize, 51))
        .send()
        .expect(204);
    assert!(server.export_bytes(LEAF, "raw") == noise(SIZE as usize, 51));
}

#[test]
fn a_child_names_its_parent_and_counts_what_it_uses() {
    let server = server();
    base(&server, "subformat=dynamic,force_size=on");
    let (vhd, _) = child([2; 16], 10, SIZE, named(&file(&server, BASE), BASE));
    std::fs::write(file(&server, LEAF), vhd.bytes()).expect("it can be written");
    attach(&server);
    let leaf: Value = server.json(&format!("/rest/v0/vdis/{LEAF}"));
    assert_eq!(leaf["parent"], BASE, "{leaf}");
    assert_eq!(leaf["image_format"], "vhd", "{leaf}");
    assert!(leaf["chainPhysicalUsage"].as_u64() > leaf["usage"].as_u64(), "{leaf}");
}
