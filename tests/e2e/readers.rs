//! Readers that are slow, and readers that have stopped.

use std::io::Read;
use std::time::{Duration, Instant};

use crate::support::disk::{Disk, noise};
use crate::support::server::{Server, Setup};
use crate::support::{GIB, MIB};

/// Waits for a while during which nothing is expected to happen but the passing of time.
fn pass(time: Duration) {
    std::thread::sleep(time);
}

#[test]
fn four_slow_readers_of_4_gib_exports_keep_the_process_under_300_mib() {
    let server = Server::start();
    // More data than the windows hold, then a hole up to 4 GiB.
    let disk = Disk::empty(4 * GIB).noise(0, 128 * MIB, 1);
    let vdi = server.import_disk(&disk);
    let mut readers: Vec<_> = ["raw", "vhd", "raw", "vhd"]
        .map(|format| {
            let target = format!("/rest/v0/vdis/{vdi}.{format}");
            server.request("GET", &target).open()
        })
        .into_iter()
        .collect();
    assert_eq!(readers[0].head.length(), 4 * GIB);
    // Each takes a little now and then, for long enough that whoever reads ahead has read what it will.
    let mut most = 0;
    for _ in 0..60 {
        for reader in &mut readers {
            reader.take_bytes(10_000);
        }
        most = most.max(server.memory("VmRSS"));
        pass(Duration::from_millis(100));
    }
    most = most.max(server.memory("VmHWM"));
    assert!(most < 300 * MIB, "{} MiB", most / MIB);
    // They are slow, not forgotten.
    for reader in &mut readers {
        reader.take_bytes(4 * MIB);
    }
}

#[test]
fn four_exports_of_4_gib_of_data_through_slow_readers_keep_the_process_under_300_mib() {
    let server = Server::start();
    // Data everywhere at the start of the disk: readers get real blocks, at a pace that fills every buffer.
    let disk = Disk::empty(4 * GIB).noise(0, 160 * MIB, 1);
    let vdi = server.import_disk(&disk);
    let mut readers: Vec<_> = (0..4)
        .map(|number| {
            // Each somewhere else, all of them within 4 GiB.
            let range = format!("bytes={}-", number * 30 * MIB);
            server.request("GET", &format!("/rest/v0/vdis/{vdi}.raw")).header("Range", &range).open()
        })
        .collect();
    let began = Instant::now();
    let mut most = 0;
    while began.elapsed() < Duration::from_secs(6) {
        for reader in &mut readers {
            reader.take_bytes(300_000);
        }
        most = most.max(server.memory("VmRSS"));
        pass(Duration::from_millis(50));
    }
    most = most.max(server.memory("VmHWM"));
    assert!(most < 300 * MIB, "{} MiB", most / MIB);
}

#[test]
fn a_reader_that_stops_reading_is_cut_while_one_of_20_kb_a_second_is_not() {
    const SILENCE: Duration = Duration::from_secs(5);
    let server = Setup::default().config("[transfers]\ndownload_idle = \"5s\"").start();
    let vdi = server.import_disk(&Disk::empty(GIB).noise(0, 64 * MIB, 3));
    let target = format!("/rest/v0/vdis/{vdi}.raw");

    let mut slow = server.curl().args(["--limit-rate", "20k"]).spawn(&server.url(&target));
    let mut patient = server.request("GET", &target).open();
    rustix::net::sockopt::set_socket_recv_buffer_size(patient.socket(), 16 * 1024).expect("it can be set");
    let mut stopped = server.request("GET", &target).open();
    let task = stopped.head.need("Gantry-Task").to_owned();
    stopped.take_bytes(1000);

    let began = Instant::now();
    // For five times the silence: one reads 20 kB a second by small pieces, curl does as it does.
    while began.elapsed() < SILENCE * 5 {
        let piece = patient.take_bytes(2_000);
        assert_eq!(piece.len(), 2_000);
        pass(Duration::from_millis(100));
    }
    assert!(slow.try_wait().expect("curl can be asked").is_none(), "curl at 20 kB/s was cut");
    let _ = slow.kill();
    let _ = slow.wait();
    patient.take_bytes(100_000);

    // What the kernel still held arrives; then the end comes, and it is no clean one.
    let mut rest = Vec::new();
    let error = stopped.read_to_end(&mut rest).expect_err("it was cut");
    assert!(rest.len() < 64 * MIB as usize, "{} bytes after the cut: {error}", rest.len());
    let record = server.task(&task);
    assert_ne!(record["status"], "success", "{record}");
}

#[test]
fn a_reader_that_never_reads_is_cut_soon_after_the_silence() {
    let server = Setup::default().config("[transfers]\ndownload_idle = \"2s\"").start();
    let vdi = server.import_disk(&Disk::empty(GIB).noise(0, 64 * MIB, 4));
    let target = format!("/rest/v0/vdis/{vdi}.raw");
    let stopped = server.request("GET", &target).open();
    // The peer's end of the connection is gone from the kernel's table once the server has cut it.
    let local = stopped.socket().local_addr().expect("it is connected").port();
    let needle = format!(":{local:04X} ");
    crate::support::wait::until(Duration::from_secs(20), || {
        let table = std::fs::read_to_string("/proc/net/tcp").expect("there is a table");
        // Columns: number, local address, remote address, state. 01 is an open connection.
        let open = table.lines().any(|line| {
            let columns: Vec<&str> = line.split_whitespace().collect();
            columns.get(2).is_some_and(|remote| format!("{remote} ").ends_with(&needle))
                && columns.get(3) == Some(&"01")
        });
        if open { Err("the server still holds the connection".to_owned()) } else { Ok(()) }
    });
}

#[test]
fn slow_readers_do_not_hold_up_a_fast_one() {
    let server = Server::start();
    let disk = Disk::lively(48 * MIB, 5);
    let vdi = server.import("?raw", disk.whole());
    let target = format!("/rest/v0/vdis/{vdi}.raw");
    let held: Vec<_> = (0..16)
        .map(|_| {
            let mut reader = server.request("GET", &target).open();
            reader.take_bytes(10);
            reader
        })
        .collect();
    let began = Instant::now();
    assert!(server.export_bytes(&vdi, "raw") == disk.whole());
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    drop(held);
}

#[test]
fn a_reader_that_leaves_harms_nobody() {
    let server = Server::start();
    let disk = Disk::empty(64 * MIB).noise(0, 64 * MIB, 6);
    let vdi = server.import("?raw", disk.whole());
    for number in 0..20 {
        let format = ["raw", "vhd"][number % 2];
        let mut reader = server.request("GET", &format!("/rest/v0/vdis/{vdi}.{format}")).open();
        reader.take_bytes(1 + 100_000 * number as u64);
    }
    assert!(server.export_bytes(&vdi, "raw") == disk.whole());
}

#[test]
fn an_all_zero_disk_of_a_tebibyte_flows_at_once_and_without_a_pause() {
    let server = Server::start();
    let vdi = server.import_disk(&Disk::empty(1024 * GIB).noise(0, 512, 7));
    let began = Instant::now();
    let mut reader = server.request("GET", &format!("/rest/v0/vdis/{vdi}.raw")).open();
    assert!(reader.take_bytes(512) == noise(512, 7));
    assert!(began.elapsed() < Duration::from_secs(2), "first byte after {:?}", began.elapsed());
    let mut longest = Duration::ZERO;
    for _ in 0..256 {
        let asked = Instant::now();
        reader.take_bytes(MIB);
        longest = longest.max(asked.elapsed());
    }
    assert!(longest < Duration::from_secs(5), "a pause of {longest:?}");
}
