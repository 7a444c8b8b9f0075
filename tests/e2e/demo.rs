//! `gantry demo`: the main job in a minute, with nothing left behind.

use std::process::{Output, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::server::{files_under, gantry, scratch};
use crate::support::wait;
use std::time::Duration;

fn told(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[test]
fn the_demo_moves_a_disk_and_a_vm_compares_digests_and_leaves_nothing() {
    let folder = scratch();
    let output =
        gantry(["demo"]).env("TMPDIR", folder.path()).current_dir(folder.path()).output().expect("it runs");
    let told = told(&output);
    assert_eq!(output.status.code(), Some(0), "{told}");
    for word in [".vhd", ".raw", ".xva", "zstd", "VM", "curl", "resum", "SHA-256"] {
        assert!(told.to_lowercase().contains(&word.to_lowercase()), "{word} in {told}");
    }
    // A digest is told, and told more than once because it came out the same.
    let digests: Vec<&str> = told
        .split_whitespace()
        .filter(|word| word.len() == 64 && word.bytes().all(|b| b.is_ascii_hexdigit()))
        .collect();
    let again = digests.iter().any(|digest| digests.iter().filter(|other| *other == digest).count() > 1);
    assert!(again, "digests {digests:?} in {told}");
    // Of the disk: exported, copied as VHD, resumed, and back from the VM; of the XVA: resumed.
    assert_eq!(told.matches("  equal\n").count(), 5, "{told}");
    assert_eq!(told.matches("connection dropped at byte ").count(), 2, "{told}");
    assert!(
        std::fs::read_dir(folder.path()).expect("it is there").next().is_none(),
        "{:?}",
        files_under(folder.path())
    );
}

#[test]
fn the_demo_with_a_data_directory_keeps_it() {
    let folder = scratch();
    let data = folder.path().join("demo");
    let output =
        gantry(["demo", "--data"]).arg(&data).env("TMPDIR", folder.path()).output().expect("it runs");
    assert_eq!(output.status.code(), Some(0), "{}", told(&output));
    assert!(data.join("gantry.db").is_file());
}

/// Interrupts the demo when it has made a file with that name.
fn interrupted_at(made: &str) {
    let folder = scratch();
    let mut command = gantry(["demo"]);
    command.env("TMPDIR", folder.path()).stdout(Stdio::null()).stderr(Stdio::null());
    let mut child = command.spawn().expect("it runs");
    wait::until(Duration::from_secs(60), || {
        let is_there = files_under(folder.path()).iter().any(|file| file.ends_with(made));
        if is_there { Ok(()) } else { Err(format!("there is no {made}")) }
    });
    kill_process(Pid::from_child(&child), Signal::INT).expect("it takes signals");
    wait::until(Duration::from_secs(20), || match child.try_wait() {
        Ok(Some(_)) => Ok(()),
        _ => Err("it still runs".to_owned()),
    });
    assert!(
        std::fs::read_dir(folder.path()).expect("it is there").next().is_none(),
        "{made}: {:?}",
        files_under(folder.path())
    );
}

#[test]
fn the_demo_cleans_up_when_it_is_interrupted_at_its_start() {
    interrupted_at("gantry.db");
}

#[test]
fn the_demo_cleans_up_when_it_is_interrupted_in_the_download_of_a_vm() {
    interrupted_at("export.xva");
}
