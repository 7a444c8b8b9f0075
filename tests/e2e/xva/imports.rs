//! Archives of other people: all that they write goes in, and what is no archive leaves nothing behind.

use std::io::Write;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::{disks_of, export, import, pool, some_disks};
use crate::support::MIB;
use crate::support::disk::{Disk, noise};
use crate::support::http::Response;
use crate::support::server::{Server, Setup};
use crate::support::tools::program;
use crate::support::xva::{self, Builder, document, folder};

/// What a tool writes for what it is given.
fn filter(tool: &str, arguments: &[&str], input: &[u8]) -> Vec<u8> {
    let mut child = Command::new(program(tool, tool))
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut stdin = child.stdin.take().expect("a pipe");
    let input = input.to_vec();
    let writer = std::thread::spawn(move || stdin.write_all(&input).expect("it reads all"));
    let output = child.wait_with_output().expect("it ends");
    writer.join().expect("all was written");
    assert!(output.status.success(), "{tool}");
    output.stdout
}

fn archive_of(disks: &[Vec<u8>]) -> Vec<u8> {
    let sizes: Vec<u64> = disks.iter().map(|disk| disk.len() as u64).collect();
    let mut builder = Builder::new(&document("of hand", &sizes));
    for (at, disk) in disks.iter().enumerate() {
        builder.disk(&folder(at), disk);
    }
    builder.finish()
}

#[track_caller]
fn refused(server: &Server, archive: &[u8]) -> Value {
    let target = format!("/rest/v0/pools/{}/vms", pool(server));
    let answer: Response = server.request("POST", &target).body(archive).send();
    assert_eq!(answer.head.status, 422, "{}", answer.text());
    let task = server.task_ended(answer.head.need("Gantry-Task"));
    assert_eq!(task["status"], "failure", "{task}");
    assert_eq!(server.json("/rest/v0/vms"), json!([]), "no VM is left");
    assert_eq!(server.json("/rest/v0/networks"), json!([]), "no network is left");
    server.assert_empty("a refused archive");
    let body = answer.json();
    assert_eq!(body["code"], task["result"]["code"], "{task}");
    body
}

#[test]
fn archives_are_taken_plain_and_in_whatever_frames_they_are_compressed() {
    let server = Server::start();
    let disks = some_disks();
    let plain = archive_of(&disks);
    let half = plain.len() / 2;
    let (head, tail) = plain.split_at(half);
    let gzip = |bytes: &[u8]| filter("gzip", &["-c"], bytes);
    let zstd = |bytes: &[u8]| filter("zstd", &["-c"], bytes);
    for (what, archive) in [
        ("plain", plain.clone()),
        ("gzip", gzip(&plain)),
        ("gzip members", [gzip(head), gzip(tail)].concat()),
        ("gzip and zeros", [gzip(&plain), vec![0; 700]].concat()),
        ("zstd", zstd(&plain)),
        ("zstd frames", [zstd(head), zstd(tail)].concat()),
        ("zstd long", filter("zstd", &["-c", "--long=27", "-1"], &plain)),
        (
            "a skippable frame",
            [zstd(head), vec![0x50, 0x2A, 0x4D, 0x18, 3, 0, 0, 0, 1, 2, 3], zstd(tail)].concat(),
        ),
    ] {
        let vm = import(&server, "", archive);
        assert!(disks_of(&server, &vm) == disks, "{what}");
        server.request("DELETE", &format!("/rest/v0/vms/{vm}")).send().expect(204);
    }
    server.assert_empty("deleted VMs");
}

#[test]
fn keep_alives_padded_last_blocks_and_both_kinds_of_checksums_are_read() {
    let server = Server::start();
    let disk =
        Disk::empty(6 * MIB + 1024).noise(0, 10, 1).noise(4 * MIB, 100, 2).noise(6 * MIB, 1024, 3).whole();
    let block = |at: usize| &disk[at << 20..disk.len().min((at + 1) << 20)];
    let mut builder = Builder::new(&document("odd", &[disk.len() as u64]));
    builder.block(&folder(0), 0, block(0));
    // Two that only keep the connection alive: they count, and move nothing.
    builder.block(&folder(0), 1, b"").block(&folder(0), 2, b"");
    // Three blocks of zeros are left out.
    let name = format!("{}/{:08}", folder(0), 6);
    builder.member(&name, block(4)).member(&format!("{name}.checksum"), xva::sha1(block(4)).as_bytes());
    builder.block(&folder(0), 7, block(5));
    let mut padded = block(6).to_vec();
    padded.resize(1 << 20, 0);
    builder.block(&folder(0), 8, &padded);
    let vm = import(&server, "", builder.finish());
    assert!(disks_of(&server, &vm) == [disk]);
}

#[test]
fn what_an_archive_says_of_its_vm_is_shown_kept_and_written_back() {
    let server = Server::start();
    let disk = noise(3 << 20, 1);
    let vm = import(&server, "", archive_of(&[disk]));
    let object = server.json(&format!("/rest/v0/vms/{vm}"));
    assert_eq!(object["name_label"], "of hand");
    assert_eq!(object["name_description"], "made <by> hand & kept");
    assert_eq!(object["CPUs"], json!({ "max": 4, "number": 2 }));
    assert_eq!(object["memory"]["dynamic"], json!([1_u64 << 30, 1_u64 << 31]));
    assert_eq!(object["boot"]["firmware"], "uefi");
    assert_eq!(object["other"]["XenCenter.Key"], "kept");
    let vifs = server.json(&format!("/rest/v0/vifs?fields=MAC,$network&filter=$VM:{vm}"));
    assert_ne!(vifs[0]["MAC"], "aa:bb:cc:dd:ee:ff", "a copy has other addresses");
    let network =
        server.json(&format!("/rest/v0/networks/{}", vifs[0]["$network"].as_str().expect("a network")));
    assert_eq!(
        (&network["name_label"], &network["bridge"], &network["MTU"]),
        (&json!("network of hand"), &json!("xenbr7"), &json!(9000))
    );
    let vbds = server.json(&format!("/rest/v0/vbds?fields=*&filter=VM:{vm}"));
    assert_eq!(vbds.as_array().map(Vec::len), Some(2), "{vbds}");
    let (written, _) = xva::disks(&export(&server, &format!("/rest/v0/vms/{vm}.xva")));
    for kept in [
        "<member><name>a_member_of_the_future</name><value><array><data><value>1</value><value><boolean>1</boolean></value></data></array></value></member>",
        "<member><name>HVM_shadow_multiplier</name><value><double>1.5</double></value></member>",
        "<member><name>snapshot_time</name><value><dateTime.iso8601>19700101T00:00:00Z</dateTime.iso8601></value></member>",
        "<member><name>XenCenter.Key</name><value>kept</value></member>",
        "<member><name>of disk</name><value>0</value></member>",
        "<value>VM_metrics</value>",
        "<member><name>of the SR</name><value>kept</value></member>",
        "made &lt;by&gt; hand &amp; kept",
    ] {
        assert!(written.contains(kept), "{kept} in {written}");
    }
    assert!(!written.contains("aaaa"), "the seed of the addresses is another");
    // A second one finds the network that is there.
    let second = import(&server, "", archive_of(&[]));
    let networks = server.json("/rest/v0/networks?fields=id");
    assert_eq!(networks.as_array().map(Vec::len), Some(1));
    let network = format!("/rest/v0/networks/{}", networks[0]["id"].as_str().expect("an id"));
    assert_eq!(server.request("DELETE", &network).send().expect(409).json()["code"], "network_in_use");
    for vm in [vm, second] {
        server.request("DELETE", &format!("/rest/v0/vms/{vm}")).send().expect(204);
    }
    server.request("DELETE", &network).send().expect(204);
    server.get(&network).expect(404);
}

#[test]
fn a_template_is_found_where_the_answer_says_and_what_it_went_through_is_kept_once() {
    let server = Server::start();
    let text = document("template", &[1 << 20]);
    let text = text.replacen(
        "<member><name>is_a_template</name><value><boolean>0",
        "<member><name>is_a_template</name><value><boolean>1",
        1,
    );
    let mut builder = Builder::new(&text);
    builder.disk(&folder(0), &noise(1 << 20, 1));
    let target = format!("/rest/v0/pools/{}/vms", pool(&server));
    let made = server.request("POST", &target).body(builder.finish()).send().expect(201);
    let location = made.head.need("Location").to_owned();
    assert!(location.starts_with("/rest/v0/vm-templates/"), "{location}");
    assert_eq!(server.json(&location)["name_label"], "template");
    // Out and in again and again: nothing is added on the way.
    let mut length = None;
    let mut from = format!("{location}.xva");
    for _ in 0..3 {
        let archive = export(&server, &from);
        assert_eq!(*length.get_or_insert(archive.len()), archive.len());
        let again = server.request("POST", &target).body(archive).send().expect(201);
        from = format!("{}.xva", again.head.need("Location"));
    }
}

#[test]
fn a_restored_vm_keeps_its_id_and_addresses_and_is_not_restored_twice() {
    let server = Server::start();
    let archive = archive_of(&[noise(2 << 20, 1)]);
    let vm = import(&server, "?restore=true", archive.clone());
    assert_eq!(vm, "11111111-2222-4333-8444-555555555555");
    let vifs = server.json(&format!("/rest/v0/vifs?fields=MAC&filter=$VM:{vm}"));
    assert_eq!(vifs[0]["MAC"], "aa:bb:cc:dd:ee:ff");
    let target = format!("/rest/v0/pools/{}/vms?restore=true", pool(&server));
    let again = server.request("POST", &target).body(archive.clone()).send().expect(409).json();
    assert_eq!(again["code"], "already_exists");
    assert_ne!(import(&server, "", archive), vm);
}

#[test]
fn the_sr_can_be_named_and_what_does_not_exist_is_refused_before_the_body() {
    let server = Server::start();
    let body = json!({ "name_label": "other" });
    let other = server.request("POST", "/rest/v0/srs").json(&body).send().expect(201).json();
    let other = other["id"].as_str().expect("an id").to_owned();
    let vm = import(&server, &format!("?sr={other}"), archive_of(&[noise(1 << 20, 1)]));
    let vdis = server.json(&format!("/rest/v0/vms/{vm}/vdis?fields=$SR"));
    assert_eq!(vdis[0]["$SR"], other.as_str());
    let nowhere = "00000000-0000-4000-8000-000000000000";
    let pool = pool(&server);
    for target in [format!("/rest/v0/pools/{nowhere}/vms"), format!("/rest/v0/pools/{pool}/vms?sr={nowhere}")]
    {
        let request = server.request("POST", &target).header("Expect", "100-continue");
        assert_eq!(request.begin(Some(1 << 30)).answer().head.status, 404, "{target}");
    }
}

#[test]
fn what_is_no_archive_or_is_damaged_is_refused_with_its_place_and_leaves_nothing() {
    let server = Server::start();
    let disks = [noise(3 << 20, 1), noise(2 << 20, 2)];
    let good = archive_of(&disks);
    let error = refused(
        &server,
        b"this is no archive of any kind, whatever one thinks of it. It goes on for a while.",
    );
    assert!(error["error"].as_str().expect("text").contains("byte 0"), "{error}");
    refused(&server, b"");
    let mut flipped = good.clone();
    let at = flipped.len() - (1 << 20);
    flipped[at] ^= 1;
    let error = refused(&server, &flipped);
    assert!(error["error"].as_str().expect("text").contains("Ref:5/"), "{error}");
    refused(&server, &good[..good.len() - (1 << 20)]);
    let zstd = filter("zstd", &["-c"], &good);
    refused(&server, &zstd[..zstd.len() - 10]);
    refused(&server, &[zstd, b"garbage".to_vec()].concat());
    let gzip = filter("gzip", &["-c"], &good);
    refused(&server, &gzip[..gzip.len() / 2]);
    let bad = document("bad", &[])
        .replace("<value><struct><member><name>version", "<!DOCTYPE x><value><struct><member><name>version");
    refused(&server, &Builder::new(&bad).finish());
    let mut escape = Builder::new(&document("bad", &[1 << 20]));
    escape.block("../../escape", 0, &noise(1 << 20, 1));
    refused(&server, &escape.finish());
}

#[test]
fn a_bomb_costs_neither_memory_nor_disk() {
    let server = Setup::default().limited(200).start();
    let memory = server.memory("VmHWM");
    let mut builder = Builder::new(&document("bomb", &[1 << 20]));
    builder.block(&folder(0), 0, &noise(1 << 20, 1));
    let mut archive = builder.finish();
    // In the place of the end marker: a member of 8 GiB less a byte, all zeros, in some hundred KiB.
    archive.truncate(archive.len() - 1024);
    let mut header = tar::Header::new_old();
    header.set_path("Ref:3/00000001").expect("a short name");
    header.set_size(0o77777777777);
    header.set_mode(0o400);
    header.set_cksum();
    archive.extend_from_slice(header.as_bytes());
    let zeros = filter("zstd", &["-c"], &vec![0; 256 << 20]);
    let mut bomb = filter("zstd", &["-c"], &archive);
    for _ in 0..32 {
        bomb.extend_from_slice(&zeros);
    }
    refused(&server, &bomb);
    // And one whose document never ends.
    let mut document = filter("zstd", &["-c"], &{
        let mut header = tar::Header::new_old();
        header.set_path("ova.xml").expect("a short name");
        header.set_size(0o77777777777);
        header.set_cksum();
        header.as_bytes().to_vec()
    });
    document.extend_from_slice(&zeros);
    refused(&server, &document);
    assert!(server.memory("VmHWM") < memory + 150 * MIB);
}

#[test]
fn an_import_that_is_cut_or_killed_leaves_nothing() {
    let mut server = Server::start();
    let archive = archive_of(&[noise(8 << 20, 1), noise(8 << 20, 2)]);
    let target = format!("/rest/v0/pools/{}/vms", pool(&server));
    let mut cut = server.request("POST", &target).begin(Some(archive.len() as u64));
    cut.write(&archive[..12 << 20]).expect("it takes the first part");
    drop(cut);
    server.assert_empty("a cut upload");
    let mut killed = server.request("POST", &target).begin(Some(archive.len() as u64));
    killed.write(&archive[..12 << 20]).expect("it takes the first part");
    server.kill();
    drop(killed);
    server.start_again();
    server.assert_empty("a killed server");
    assert_eq!(server.json("/rest/v0/vms"), json!([]));
    let began = Instant::now();
    let vm = import(&server, "", archive);
    assert!(began.elapsed() < Duration::from_secs(60));
    assert_eq!(disks_of(&server, &vm).len(), 2);
}

#[test]
fn an_import_is_a_task_that_ends_with_the_vm_and_the_same_key_makes_it_once() {
    let server = Server::start();
    let archive = archive_of(&[noise(1 << 20, 1)]);
    let target = format!("/rest/v0/pools/{}/vms", pool(&server));
    let post = || {
        server
            .request("POST", &target)
            .header("Idempotency-Key", "once")
            .body(archive.clone())
            .send()
            .expect(201)
    };
    let (first, second) = (post(), post());
    let id = first.json()["id"].as_str().expect("an id").to_owned();
    assert_eq!(first.head.need("Location"), format!("/rest/v0/vms/{id}"));
    assert_eq!(second.json()["id"], id.as_str());
    assert_eq!(server.json("/rest/v0/vms").as_array().map(Vec::len), Some(1));
    let task = server.task_ended(first.head.need("Gantry-Task"));
    assert_eq!((&task["status"], &task["result"]["id"]), (&json!("success"), &json!(id)));
}
