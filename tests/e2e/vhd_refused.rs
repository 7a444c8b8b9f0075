//! Every malformation of the format's list is refused over HTTP with a code and a text that says what and where,
//! and leaves nothing behind: no VDI, no file. Each goes in with a length and in chunks.

use crate::support::MIB;
use crate::support::disk::noise;
use crate::support::server::Server;
use crate::support::vhd::{
    BLOCK, BLOCK_ON_DISK, Locator, Parent, Vhd, edit_footer_at, edit_footers, edit_header, fixed, put32,
    put64,
};

/// A sound dynamic VHD of four blocks, two of them there. Table at 1536, blocks at 2048 and 2 099 712, last footer
/// at 4 197 376.
fn sound() -> Vec<u8> {
    Vhd::dynamic(8 * MIB, &[(0, &noise(5000, 1)), (2, &noise(5000, 2))]).bytes()
}

const TABLE: usize = 1536;
const BLOCK_0: u64 = 2048;
const BLOCK_2: u64 = BLOCK_0 + BLOCK_ON_DISK;
const LAST_FOOTER: usize = (BLOCK_2 + BLOCK_ON_DISK) as usize;

/// A malformed image: what is wrong with it, its bytes, and the offset that the refusal has to name, where the
/// malformation has one place.
struct Case {
    what: &'static str,
    image: Vec<u8>,
    offset: Option<u64>,
}

fn case(what: &'static str, offset: impl Into<Option<u64>>, edit: impl FnOnce(&mut Vec<u8>)) -> Case {
    let mut image = sound();
    edit(&mut image);
    Case { what, image, offset: offset.into() }
}

fn refused(cases: impl IntoIterator<Item = Case>) {
    let server = Server::start();
    let mut wrong = Vec::new();
    for Case { what, image, offset } in cases {
        let target = server.import_target("");
        for (way, response) in [
            ("with a length", server.request("POST", &target).body(image.clone()).send()),
            ("in chunks", server.request("POST", &target).send_chunked(&image, 60_000)),
        ] {
            if response.head.status < 300 {
                wrong.push(format!("{what} ({way}): accepted with {}", response.head.status));
                let id = response.json()["id"].as_str().expect("an id").to_owned();
                server.request("DELETE", &format!("/rest/v0/vdis/{id}")).send();
                continue;
            }
            let refusal = response.refused(400..=499);
            let named = |offset: u64| {
                let hex = [format!("0x{offset:x}"), format!("0x{offset:X}")];
                let words: Vec<&str> = refusal.text.split(|c: char| !c.is_ascii_alphanumeric()).collect();
                words.iter().any(|word| *word == offset.to_string() || hex.iter().any(|hex| word == hex))
            };
            if !offset.is_none_or(named) {
                wrong.push(format!("{what} ({way}): offset {offset:?} is not in {:?}", refusal.text));
            }
        }
        server.assert_empty(what);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let tasks = server.json("/rest/v0/tasks?fields=status");
    let statuses: Vec<&str> =
        tasks.as_array().expect("an array").iter().filter_map(|t| t["status"].as_str()).collect();
    assert!(statuses.iter().all(|status| *status == "failure"), "{statuses:?}");
    // And the server is as well as before.
    server.import("", sound());
}

#[test]
fn a_malformed_footer_is_refused_and_leaves_nothing() {
    refused([
        Case { what: "F1: shorter than a footer", image: sound()[..511].to_vec(), offset: None },
        Case { what: "F1: one byte", image: vec![0x63], offset: None },
        Case { what: "F1: nothing at all", image: Vec::new(), offset: None },
        Case { what: "no VHD at all", image: noise(100_000, 9), offset: None },
        case("F2: no cookie in the last footer", LAST_FOOTER as u64, |v| v[LAST_FOOTER] = b'C'),
        case("F2: bytes after the last footer", None, |v| v.extend([0; 512])),
        case("F2: one byte after the last footer", None, |v| v.push(0)),
        case("F2: a poisoned disk", 0, |v| edit_footers(v, |f| f[..8].copy_from_slice(b"v_poison"))),
        case("F3: checksum of the first footer", 0x40, |v| v[100] ^= 1),
        case("F3: checksum of the last footer", LAST_FOOTER as u64 + 64, |v| v[LAST_FOOTER + 100] ^= 1),
        case("F4: file format version", 12, |v| edit_footers(v, |f| put32(f, 12, 0x0002_0000))),
        case("F5: type 0", 60, |v| edit_footers(v, |f| put32(f, 60, 0))),
        case("F5: type 1", 60, |v| edit_footers(v, |f| put32(f, 60, 1))),
        case("F5: type 5", 60, |v| edit_footers(v, |f| put32(f, 60, 5))),
        case("F5: type 0x01000003", 60, |v| edit_footers(v, |f| put32(f, 60, 0x0100_0003))),
        case("F6: size 0", 48, |v| edit_footers(v, |f| put64(f, 48, 0))),
        case("F7: size not in sectors", 48, |v| edit_footers(v, |f| put64(f, 48, 8 * MIB - 1))),
        case("F8: size above 2040 GiB", 48, |v| edit_footers(v, |f| put64(f, 48, 2040 * 1024 * MIB + 512))),
        case("F8: size near 2^64", 48, |v| edit_footers(v, |f| put64(f, 48, u64::MAX - 511))),
        case("F11: another id in the last footer", None, |v| edit_footer_at(v, LAST_FOOTER, |f| f[70] ^= 1)),
        case("F11: another size in the last footer", None, |v| {
            edit_footer_at(v, LAST_FOOTER, |f| put64(f, 48, 6 * MIB));
        }),
        case("F11: the first footer wiped", None, |v| v[..512].fill(0)),
        case("F11: a second image appended", None, |v| {
            let mut second = Vhd::dynamic(8 * MIB, &[(1, b"second")]);
            second.id = *b"the second image";
            v.extend(second.bytes());
        }),
    ]);
}

#[test]
fn a_malformed_fixed_vhd_is_refused_and_leaves_nothing() {
    let disk = noise(64 * 512, 3);
    let with = |what, offset: Option<u64>, edit: &dyn Fn(&mut Vec<u8>)| {
        let mut image = fixed(&disk);
        edit(&mut image);
        Case { what, image, offset }
    };
    let at = disk.len();
    refused([
        with("F9: a fixed disk with a data offset", None, &|v| edit_footer_at(v, at, |f| put64(f, 16, 512))),
        with("F10: a sector is missing", None, &|v| drop(v.drain(..512))),
        with("F10: a sector too much", None, &|v| drop(v.splice(..0, [0; 512]))),
        with("F10: half a sector is missing", None, &|v| drop(v.drain(..256))),
        with("F3: checksum of a fixed disk's footer", Some(at as u64 + 64), &|v| v[at + 90] ^= 4),
        with("F5: type of a fixed disk's footer", None, &|v| edit_footer_at(v, at, |f| put32(f, 60, 7))),
        with("F2: bytes after a fixed disk's footer", None, &|v| v.extend([7; 512])),
        with("F2: a fixed disk's footer is cut", None, &|v| v.truncate(at + 511)),
        with("T: a fixed disk without its footer", None, &|v| v.truncate(at)),
    ]);
}

#[test]
fn a_malformed_header_is_refused_and_leaves_nothing() {
    refused([
        case("H1: header inside the footer", 16, |v| edit_footers(v, |f| put64(f, 16, 256))),
        case("H1: header not aligned", 16, |v| edit_footers(v, |f| put64(f, 16, 700))),
        case("H1: no header on a dynamic disk", 16, |v| edit_footers(v, |f| put64(f, 16, u64::MAX))),
        case("H2: header past the end", None, |v| edit_footers(v, |f| put64(f, 16, 64 * MIB))),
        case("H2: header offset near 2^64", None, |v| edit_footers(v, |f| put64(f, 16, u64::MAX - 511))),
        case("H3: header cookie", 512, |v| edit_header(v, |h| h[0] = b'C')),
        case("H4: header checksum", 512 + 36, |v| v[512 + 800] ^= 1),
        case("H5: header version", 512 + 24, |v| edit_header(v, |h| put32(h, 24, 0x0001_0001))),
        case("H6: data offset of the header", 512 + 8, |v| edit_header(v, |h| put64(h, 8, 0))),
        case("H7: block size 0", 512 + 32, |v| edit_header(v, |h| put32(h, 32, 0))),
        case("H7: block size no power of two", 512 + 32, |v| edit_header(v, |h| put32(h, 32, 3 << 20))),
        case("H8: block size of 1 GiB", 512 + 32, |v| edit_header(v, |h| put32(h, 32, 1 << 30))),
        case("H8: block size of 256 bytes", 512 + 32, |v| edit_header(v, |h| put32(h, 32, 256))),
        case("H9: too few entries", 512 + 28, |v| edit_header(v, |h| put32(h, 28, 3))),
        case("H9: no entries", 512 + 28, |v| edit_header(v, |h| put32(h, 28, 0))),
        case("H10: an absurd number of entries", 512 + 28, |v| edit_header(v, |h| put32(h, 28, 0x7FFF_FFFF))),
        case("H10: the largest number of entries", 512 + 28, |v| {
            edit_header(v, |h| put32(h, 28, 0xFFFF_FFFF))
        }),
    ]);
}

#[test]
fn a_malformed_table_is_refused_and_leaves_nothing() {
    let sector = |offset: u64| (offset / 512) as u32;
    refused([
        case("B1: table not aligned", 512 + 16, |v| edit_header(v, |h| put64(h, 16, 1537))),
        case("B2: table over the footer", 512 + 16, |v| edit_header(v, |h| put64(h, 16, 0))),
        case("B2: table over the header", 512 + 16, |v| edit_header(v, |h| put64(h, 16, 1024))),
        case("B3: table past the end", None, |v| edit_header(v, |h| put64(h, 16, 64 * MIB))),
        case("B3: table whose end wraps around 2^64", None, |v| {
            edit_header(v, |h| put64(h, 16, u64::MAX - 511))
        }),
        case("B5: a block past the end", None, |v| put32(v, TABLE + 8, sector(64 * MIB))),
        case("B5: a block over the last footer", None, |v| put32(v, TABLE + 8, sector(BLOCK_2) + 1)),
        case("B5: a block whose end wraps around 2^32", None, |v| put32(v, TABLE + 8, 0xFFFF_FFFE)),
        case("B6: two entries for one block", None, |v| put32(v, TABLE + 8, sector(BLOCK_0))),
        case("B6: a third entry for one block", None, |v| put32(v, TABLE + 4, sector(BLOCK_2))),
        case("B6: blocks that overlap by a sector", None, |v| put32(v, TABLE + 8, sector(BLOCK_2) - 1)),
        case("B6: blocks that overlap by half", None, |v| put32(v, TABLE + 4, sector(BLOCK_0) + 2048)),
        case("B6: entry 0 is a block over the first footer", None, |v| put32(v, TABLE + 4, 0)),
        case("B6: a block over the header", None, |v| put32(v, TABLE, 1)),
        case("B6: a block over the table", None, |v| put32(v, TABLE, 3)),
    ]);
}

#[test]
fn a_stream_that_ends_anywhere_before_its_end_is_refused_and_leaves_nothing() {
    let ends = [
        ("T: after the first footer", 512),
        ("T: in the header", 1000),
        ("T: after the header", 1536),
        ("T: in the table", 1600),
        ("T: after the table", 2048),
        ("T: in a bitmap", 2048 + 100),
        ("T: after a bitmap", 2048 + 512),
        ("T: in a block", 2048 + 512 + 70_001),
        ("T: between two blocks", BLOCK_2 as usize),
        ("T: one byte before the last footer", LAST_FOOTER - 1),
        ("T: before the last footer", LAST_FOOTER),
        ("T: in the last footer", LAST_FOOTER + 100),
        ("T: one byte before the end", LAST_FOOTER + 511),
    ];
    refused(ends.map(|(what, end)| case(what, None, |v| v.truncate(end))));
}

#[test]
fn a_differencing_stream_without_its_parent_is_refused_and_leaves_nothing() {
    let child = |id: [u8; 16], locators: Vec<Locator>| {
        let mut vhd = Vhd::dynamic(8 * MIB, &[(1, b"child")]);
        vhd.parent = Some(Parent { id, name: "parent.vhd".into(), locators });
        vhd.bytes()
    };
    let own = Vhd::dynamic(8 * MIB, &[]).id;
    let named = || vec![Locator::macx("parent.vhd"), Locator::w2ru("parent.vhd")];
    let edited = |edit: &dyn Fn(&mut [u8])| {
        let mut image = child([7; 16], named());
        edit_header(&mut image, edit);
        image
    };
    let image = |what, image| Case { what, image, offset: None };
    refused([
        image("P1: null parent id", child([0; 16], named())),
        image("P2: parent id = own id", child(own, named())),
        image("P6: parent not found", child([7; 16], named())),
        image(
            "P6: parent's name leaves the store",
            child([7; 16], vec![Locator::macx("../../../etc/passwd")]),
        ),
        image("L1: unknown locator code", edited(&|h| h[576..580].copy_from_slice(b"Xxxx"))),
        image("L2: space not in sectors", edited(&|h| put32(h, 580, 700))),
        image("L3: length 0", edited(&|h| put32(h, 584, 0))),
        image("L3: length above space", edited(&|h| put32(h, 584, 513))),
        image(
            "L3: absurd length",
            edited(&|h| {
                put32(h, 580, 0xFFFF_FE00);
                put32(h, 584, 0xFFFF_FE00);
            }),
        ),
        image("L4: data past the end", edited(&|h| put64(h, 592, 64 * MIB))),
        image("L4: data whose end wraps around 2^64", edited(&|h| put64(h, 592, u64::MAX - 511))),
    ]);
}

#[test]
fn a_malformed_image_sent_to_replace_a_disk_leaves_the_old_content() {
    let server = Server::start();
    let old = sound();
    let vdi = server.import("", old);
    let before = server.export_bytes(&vdi, "raw");
    let mut bad = sound();
    bad[LAST_FOOTER + 100] ^= 1;
    let mut twice = sound();
    put32(&mut twice, TABLE + 8, (BLOCK_0 / 512) as u32);
    for image in [bad, twice, sound()[..BLOCK as usize].to_vec()] {
        let target = format!("/rest/v0/vdis/{vdi}.vhd");
        server.request("PUT", &target).body(image.clone()).send().refused(400..=499);
        server.request("PUT", &target).send_chunked(&image, 10_000).refused(400..=499);
    }
    assert_eq!(server.export_bytes(&vdi, "raw"), before);
    assert_eq!(server.disk_files().len(), 1, "{:?}", server.disk_files());
}
