//! What the README tells people to paste works when it is pasted.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::support::disk::noise;
use crate::support::server::{Server, scratch};
use crate::support::tools::qemu;

fn readme() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md"))
        .expect("there is a README")
}

/// The first block of shell lines after a heading.
fn block<'a>(readme: &'a str, heading: &str) -> &'a str {
    let section = readme.split(heading).nth(1).unwrap_or_else(|| panic!("no {heading:?} in the README"));
    let block = section.split("```sh\n").nth(1).and_then(|rest| rest.split("```").next());
    block.unwrap_or_else(|| panic!("no shell lines after {heading:?}"))
}

#[test]
fn the_tour_with_curl_works_when_it_is_pasted() {
    let readme = readme();
    let tour = block(&readme, "## A tour with curl");
    assert!(tour.lines().count() <= 12, "about ten lines");
    // A port that is free, for the one that the README shows; and the program that is being tested.
    let free = std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    let free = free.expect("there is a free port").to_string();
    let script = tour
        .replace("cargo build --release\n", "")
        .replace("target/release/gantry", env!("CARGO_BIN_EXE_gantry"))
        .replace("127.0.0.1:8080", &free);
    let folder = scratch();
    // As at a prompt: a line that fails does not end it. At the end the server is stopped as the README says.
    let script = format!("set -m\n{script}\nstatus=$?\nkill %1\nwait %1\necho server=$? tour=$status");
    let mut command = Command::new("bash");
    command.args(["-c", &script]).current_dir(folder.path()).env("GANTRY_LISTEN", &free).stdin(Stdio::null());
    let output = command.output().expect("bash runs");
    let told =
        format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(told.contains("server=0 tour=0"), "{told}");
    let (raw, vhd) = (folder.path().join("disk.raw"), folder.path().join("disk.vhd"));
    qemu::same("raw", &raw, "vpc", &vhd);
    assert!(std::fs::metadata(&vhd).expect("it was downloaded").len() < 4 << 20, "{told}");
    assert!(told.contains("\"success\""), "the tasks are shown: {told}");
}

#[test]
fn the_lines_about_vms_work_when_they_are_pasted() {
    let readme = readme();
    let server = Server::start();
    let disk = noise(3 << 20, 1);
    let vdi = server.import("?raw&name_label=first", disk.clone());
    let folder = scratch();
    let output = Command::new("bash")
        .args(["-ec", block(&readme, "## VMs")])
        .current_dir(folder.path())
        .env("TOKEN", server.token())
        .env("GANTRY", server.url("/rest/v0"))
        .env("VDI", &vdi)
        .output()
        .expect("bash runs");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(told.matches("\"web\"").count(), 2, "the VM and its copy: {told}");
    assert!(told.contains("\"before the update\""), "its snapshot: {told}");
    let file = folder.path().join("web.xva");
    assert!(std::fs::read(&file).expect("it was downloaded").starts_with(&[0x28, 0xb5, 0x2f, 0xfd]));
    let copies = server.json("/rest/v0/vdis?fields=id");
    let copies = copies.as_array().expect("a list").iter().map(|copy| copy["id"].as_str().expect("an id"));
    assert_eq!(copies.clone().count(), 2);
    for copy in copies {
        assert!(server.export_bytes(copy, "raw") == disk, "{copy}");
    }
}

#[test]
fn the_filters_work_when_they_are_pasted() {
    let readme = readme();
    let server = Server::start();
    server.import("?raw&name_label=first&size=1073741824", vec![1; 512]);
    let section = readme.split("## Filters").nth(1).expect("there is a section on filters");
    let section = section.split("\n## ").next().unwrap_or_default();
    let blocks = section.split("```sh\n").skip(1).filter_map(|rest| rest.split("```").next());
    let lines =
        blocks.collect::<String>().replace("\ngantry ", &format!("\n{} ", env!("CARGO_BIN_EXE_gantry")));
    let folder = scratch();
    let output = Command::new("bash")
        .args(["-ec", &lines])
        .current_dir(folder.path())
        .env("TOKEN", server.token())
        .env("GANTRY", server.url("/rest/v0"))
        .output()
        .expect("bash runs");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    // By its name, by its name and size, and in the file.
    assert_eq!(told.matches("\"first\"").count(), 3, "{told}");
    assert!(!told.contains("error"), "{told}");
}

#[test]
fn the_lines_about_the_description_work_when_they_are_pasted() {
    let readme = readme();
    let server = Server::start();
    let output = Command::new("bash")
        .args(["-ec", block(&readme, "## The API described")])
        .env("GANTRY", server.url("/rest/v0"))
        .output()
        .expect("bash runs");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && output.stderr.is_empty(), "{output:?}");
    assert!(
        told.contains("allow get /vms - Lists the VMs.") && told.contains("deny delete /vms/{id} - "),
        "{told}"
    );
}

#[test]
fn the_readme_has_no_blanks_left_to_fill_in() {
    let readme = readme();
    let blank = readme.split('@').skip(1).step_by(2).find(|word| {
        !word.is_empty() && word.len() < 20 && word.bytes().all(|byte| byte.is_ascii_uppercase())
    });
    assert_eq!(blank, None);
    for word in ["TODO", "FIXME", "XXX"] {
        assert!(!readme.contains(word), "{word}");
    }
}

#[test]
fn the_lines_about_users_work_when_they_are_pasted() {
    let readme = readme();
    let server = Server::start();
    let output = Command::new("bash")
        .args(["-ec", block(&readme, "## Users and tokens")])
        .env("TOKEN", server.token())
        .env("GANTRY", server.url("/rest/v0"))
        .output()
        .expect("bash runs");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && told.contains("\"backup\"") && !told.contains("error"), "{output:?}");
    server.request("GET", "/rest/v0").basic("ann", "open sesame").send().expect(200);
}
