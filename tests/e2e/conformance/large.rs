//! Large collections: "Collections stream: a collection of 100,000 objects answers its first byte at once and takes
//! constant memory."

use std::io::{BufRead, BufReader, Read};
use std::time::{Duration, Instant};

use flate2::read::GzDecoder;
use serde_json::{Value, json};

use crate::support::MIB;
use crate::support::disk::noise;
use crate::support::http::Download;
use crate::support::server::Server;
use crate::support::wait;

const COUNT: usize = 10_000;
/// What the server may take beside what it had before. All the objects at once would be several times that.
const ROOM: u64 = 24 * MIB;

/// A server with 10,000 disks beside the one that it imported: rows that share its content, as clones would.
fn crowded() -> Server {
    let mut server = Server::start();
    let first = server.import("?raw&name_label=first", noise(4096, 1));
    assert!(server.terminate().success());
    let db = rusqlite::Connection::open(server.data().join("gantry.db")).expect("it is a database");
    db.execute(
        "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?2)
         INSERT INTO vdis (id, sr_id, content_id, name_label, name_description, tags, vdi_type, virtual_size, created_ms)
         SELECT printf('%08x-0000-4000-8000-000000000000', i), sr_id, content_id, 'disk ' || i || '!',
                hex(zeroblob(512)), '[\"many\"]', vdi_type, virtual_size, created_ms
         FROM vdis, n WHERE id = ?1",
        rusqlite::params![first, COUNT as i64],
    )
    .expect("the rows fit");
    drop(db);
    server.start_again();
    server
}

/// How much memory it takes beyond what it had, at most, while something is done.
#[track_caller]
fn bounded<R>(server: &Server, what: impl FnOnce() -> R) -> R {
    // The most that it ever had is set back to what it has now.
    let clear = format!("/proc/{}/clear_refs", server.process_id());
    std::fs::write(clear, "5").expect("it is ours");
    let before = server.memory("VmRSS:");
    let result = what();
    let most = server.memory("VmHWM:");
    assert!(most < before + ROOM, "{} MiB more than before", (most.saturating_sub(before)) / MIB);
    result
}

#[test]
fn ten_thousand_disks_come_at_once_whole_and_in_bounded_memory() {
    let server = crowded();
    let open = |query: &str| -> Download {
        let download = server.request("GET", &format!("/rest/v0/vdis?{query}")).open();
        assert_eq!(download.head.status, 200, "{query}");
        assert!(download.head.header("Content-Length").is_none(), "{query}");
        download
    };
    // Whatever the first request makes once belongs to no collection.
    server.json("/rest/v0/vdis?limit=300&fields=*");

    // Filter and fields, an array and lines.
    let query = "filter=name_label:disk%20tags:many&fields=id,name_label,size";
    let array = bounded(&server, || open(query).rest().expect("it is whole"));
    let array: Vec<Value> = serde_json::from_slice(&array).expect("it is JSON");
    let mut ids: Vec<&str> = array.iter().map(|disk| disk["id"].as_str().expect("an id")).collect();
    assert!(array.iter().all(|disk| disk["size"] == 4096 && disk["href"].is_string()));
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), COUNT, "each of them, and each once");

    bounded(&server, || {
        let begun = Instant::now();
        let mut lines = BufReader::new(open("ndjson&fields=*&filter=tags:many"));
        let mut line = String::new();
        lines.read_line(&mut line).expect("it is there");
        let first = begun.elapsed();
        assert_eq!(1 + lines.lines().map_while(Result::ok).count(), COUNT);
        let all = begun.elapsed();
        assert!(first < all / 5 || first < Duration::from_millis(100), "{first:?} of {all:?}");
    });

    // Only the last one: the whole collection is looked through.
    let last = bounded(&server, || {
        server.json(&format!("/rest/v0/vdis?fields=id&filter=name_label:%22disk%20{COUNT}!%22"))
    });
    assert_eq!(last.as_array().map(Vec::len), Some(1), "{last}");

    // As a table, compressed.
    bounded(&server, || {
        let request = server.request("GET", "/rest/v0/vdis?markdown=true&fields=*&filter=tags:many");
        let mut text = String::new();
        let mut plain = GzDecoder::new(request.header("Accept-Encoding", "gzip").open());
        plain.read_to_string(&mut text).expect("it is whole");
        assert_eq!(text.lines().count(), COUNT + 2);
    });
    let links = server.json("/rest/v0/vdis");
    assert_eq!(links.as_array().map(Vec::len), Some(COUNT + 1));
}

/// What a limit or a client that has gone makes needless is not read: the server's own reads tell.
#[test]
fn a_limit_and_a_client_that_has_gone_end_the_work_early() {
    let server = crowded();
    let time = |query: &str| {
        let begun = Instant::now();
        let response = server.get(&format!("/rest/v0/vdis?{query}")).expect(200);
        (begun.elapsed(), response.body.len())
    };
    let (all, _) = time("fields=*&filter=tags:many");
    let (few, _) = time("fields=*&filter=tags:many&limit=3");
    assert!(few < all / 4, "{few:?} of {all:?}");
    assert_eq!(server.json("/rest/v0/vdis?filter=tags:many&limit=3").as_array().map(Vec::len), Some(3));
    let head = Instant::now();
    server.request("HEAD", "/rest/v0/vdis?fields=*").send().expect(200);
    assert!(head.elapsed() < all / 4, "{:?} of {all:?}", head.elapsed());

    // The client reads the beginning and goes; what would follow is more than what fits into the sockets.
    let mut download = server.request("GET", "/rest/v0/vdis?fields=*").open();
    download.take_bytes(100);
    drop(download);
    wait::until(Duration::from_secs(10), || {
        let before = server.processor_time();
        std::thread::sleep(Duration::from_millis(300));
        let spent = server.processor_time() - before;
        if spent < Duration::from_millis(60) { Ok(()) } else { Err(format!("it still works: {spent:?}")) }
    });
    assert_eq!(server.json("/rest/v0/ping")["result"], json!("pong"));
}
