//! Slow readers in numbers: what they cost in memory and in reads, and what they leave to a fast one.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::MIB;
use crate::support::disk::noise;
use crate::support::http::Download;
use crate::support::server::{Server, Setup};

const SLOW_READERS: usize = 64;
/// One that reads so much every tenth of a second reads a megabyte a second.
const SIP: u64 = 100_000;

/// A download that is read at a megabyte a second, with what it has read.
struct Slow {
    download: Download,
    read: Vec<u8>,
}

fn begin_slow(server: &Server, target: &str) -> Vec<Slow> {
    let open = |_| {
        let download = server.request("GET", target).open();
        // What the systems between hold for a reader is then no large part of what was sent to it.
        rustix::net::sockopt::set_socket_recv_buffer_size(download.socket(), 64 << 10)
            .expect("it can be set");
        Slow { download, read: Vec::new() }
    };
    (0..SLOW_READERS).map(open).collect()
}

/// Reads from all of them at their pace for `time`, and calls `meanwhile` each tenth of a second.
fn sip(readers: &mut [Slow], time: Duration, mut meanwhile: impl FnMut()) {
    let tenth = Duration::from_millis(100);
    let began = Instant::now();
    while began.elapsed() < time {
        let round = Instant::now();
        for slow in readers.iter_mut() {
            let sip = slow.download.take_bytes(SIP);
            slow.read.extend_from_slice(&sip);
        }
        meanwhile();
        // This is the readers' pace, not a wait for something.
        std::thread::sleep(tenth.saturating_sub(round.elapsed()));
    }
}

#[test]
fn sixty_four_readers_at_a_megabyte_a_second_keep_to_the_budget_and_cost_few_reads_more() {
    const BUDGET: u64 = 64 * MIB;
    let server = Setup::default().config("[transfers]\nmemory_budget = \"64MiB\"").start();
    let content = noise(48 << 20, 1);
    let vdi = server.import("?raw", content.clone());
    let target = format!("/rest/v0/vdis/{vdi}.raw");
    let read_before = server.bytes_read();
    let mut readers = begin_slow(&server, &target);

    let mut most = 0;
    sip(&mut readers, Duration::from_secs(3), || most = most.max(server.memory("VmRSS")));
    let fast = server.export_bytes(&vdi, "raw");
    sip(&mut readers, Duration::from_secs(3), || most = most.max(server.memory("VmRSS")));
    most = most.max(server.memory("VmHWM"));
    println!("{} MiB of memory at most", most / MIB);
    assert!(most < BUDGET + 150 * MIB, "{} MiB", most / MIB);

    // What the readers have, was read from the disk; what was given back for them was read again.
    let read = server.bytes_read() - read_before;
    let taken = content.len() as u64 + readers.iter().map(|slow| slow.read.len() as u64).sum::<u64>();
    println!("read {} MiB for {} MiB taken", read / MIB, taken / MIB);
    // 4 MiB for each are what sockets and the first read-ahead hold.
    let held = SLOW_READERS as u64 * 4 * MIB;
    assert!(read <= taken * 3 / 2 + held, "{} MiB read for {} MiB taken", read / MIB, taken / MIB);

    assert!(fast == content, "the fast one's bytes");
    for slow in &readers {
        assert!(content.starts_with(&slow.read), "a slow one's bytes, the first {}", slow.read.len());
    }
    // Some go on to the end, over all that was given back and read again.
    for mut slow in readers.drain(..).step_by(16) {
        slow.read.extend(slow.download.rest().expect("the body goes on to its end"));
        assert!(slow.read == content, "a slow one's bytes to the end");
    }
}

/// Prints how much of its speed a fast reader keeps beside the slow ones. A figure depends on what else the machine
/// does, so this is for people: `cargo test --release --test e2e beside_64 -- --ignored --nocapture`.
#[test]
#[ignore = "a measurement"]
fn a_fast_reader_beside_64_slow_ones_in_numbers() {
    let server = Setup::default().config("[transfers]\nmemory_budget = \"64MiB\"").start();
    let content = noise(128 << 20, 1);
    let vdi = server.import("?raw", content);
    let target = format!("/rest/v0/vdis/{vdi}.raw");
    let fast = || {
        let times = (0..5).map(|_| {
            let began = Instant::now();
            let mut download = server.request("GET", &target).open();
            std::io::copy(&mut download, &mut std::io::sink()).expect("the body goes on to its end");
            began.elapsed()
        });
        let mut times: Vec<_> = times.collect();
        times.sort();
        128.0 / times[2].as_secs_f64()
    };
    let alone = fast();
    let mut readers = begin_slow(&server, &target);
    sip(&mut readers, Duration::from_secs(3), || {});
    let done = AtomicBool::new(false);
    let beside = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                sip(&mut readers, Duration::from_millis(100), || {});
            }
        });
        let beside = fast();
        done.store(true, Ordering::Relaxed);
        beside
    });
    println!(
        "alone {alone:.0} MiB/s, beside {SLOW_READERS} slow ones {beside:.0} MiB/s: {:.2}",
        beside / alone
    );
}
