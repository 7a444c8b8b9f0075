//! `Range`: the table of resume.md 1.4, and any range of any export equals the slice of the whole.

use crate::support::disk::{Disk, next};
use crate::support::http::Download;
use crate::support::server::Server;
use crate::support::tools::qemu;
use crate::support::{GIB, MIB};

/// What the answer to a `Range` has to be.
enum Answer {
    Whole,
    Part(u64, u64),
    Unsatisfiable,
    /// Several ranges, of which some can be satisfied: as multipart, or the whole (the feature is optional).
    Several,
    /// Several ranges, none of which can be satisfied.
    NoneOfSeveral,
}

fn ask(server: &Server, vdi: &str, format: &str, range: &str) -> Download {
    server.request("GET", &format!("/rest/v0/vdis/{vdi}.{format}")).header("Range", range).open()
}

fn holds(server: &Server, vdi: &str, disk: &Disk, range: &str, answer: &Answer) {
    let len = disk.size;
    let mut download = ask(server, vdi, "raw", range);
    let head = download.head.clone();
    let told = format!("{range:?} of {len}: {head:?}");
    head.need("ETag");
    let whole = |download: &mut Download| {
        assert_eq!((head.status, head.length()), (200, len), "{told}");
        assert!(download.take_bytes(512) == disk.bytes(0, 512), "{told}");
    };
    match *answer {
        Answer::Whole => whole(&mut download),
        Answer::Part(first, last) => {
            assert_eq!(head.status, 206, "{told}");
            assert_eq!(head.need("Content-Range"), format!("bytes {first}-{last}/{len}"), "{told}");
            assert_eq!(head.length(), last - first + 1, "{told}");
            let some = (last - first + 1).min(65_536);
            assert!(download.take_bytes(some) == disk.bytes(first, some), "{told}");
        }
        Answer::Unsatisfiable => {
            assert_eq!(head.status, 416, "{told}");
            assert_eq!(head.need("Content-Range"), format!("bytes */{len}"), "{told}");
        }
        Answer::Several if head.status == 206 => {
            assert!(head.need("Content-Type").starts_with("multipart/byteranges; boundary="), "{told}");
            assert!(head.header("Content-Range").is_none(), "{told}");
        }
        Answer::Several => whole(&mut download),
        Answer::NoneOfSeveral if head.status == 416 => {
            assert_eq!(head.need("Content-Range"), format!("bytes */{len}"), "{told}");
        }
        Answer::NoneOfSeveral => whole(&mut download),
    }
}

fn table(server: &Server, disk: &Disk) {
    let vdi = &server.import_disk(disk);
    let len = disk.size;
    let last = len - 1;
    let huge = "99999999999999999999999";
    let seventeen: Vec<String> = (0..17).map(|n| format!("{}-{}", 20 * n, 20 * n)).collect();
    let rows = [
        // Unknown unit: ignored.
        ("items=0-5".to_owned(), Answer::Whole),
        // Malformed: ignored.
        ("bytes=abc".to_owned(), Answer::Whole),
        ("bytes=5-2".to_owned(), Answer::Whole),
        ("bytes=--1".to_owned(), Answer::Whole),
        ("bytes=1-2-3".to_owned(), Answer::Whole),
        ("bytes=".to_owned(), Answer::Whole),
        ("bytes=-".to_owned(), Answer::Whole),
        ("bytes=+1-2".to_owned(), Answer::Whole),
        ("bytes=0x1-2".to_owned(), Answer::Whole),
        ("bytes 0-1".to_owned(), Answer::Whole),
        ("bytes".to_owned(), Answer::Whole),
        // first-last.
        ("bytes=0-0".to_owned(), Answer::Part(0, 0)),
        ("bytes=1-1".to_owned(), Answer::Part(1, 1)),
        ("bytes=0-511".to_owned(), Answer::Part(0, 511)),
        (format!("bytes=0-{last}"), Answer::Part(0, last)),
        (format!("bytes=0-{len}"), Answer::Part(0, last)),
        (format!("bytes={last}-{last}"), Answer::Part(last, last)),
        (format!("bytes=7-{huge}"), Answer::Part(7, last)),
        ("BYTES=0-9".to_owned(), Answer::Part(0, 9)),
        ("bytes=0-9 ,".to_owned(), Answer::Part(0, 9)),
        ("bytes=0-9,".to_owned(), Answer::Part(0, 9)),
        ("bytes=,,0-9".to_owned(), Answer::Part(0, 9)),
        // first-.
        ("bytes=0-".to_owned(), Answer::Part(0, last)),
        ("bytes=100-".to_owned(), Answer::Part(100, last)),
        (format!("bytes={last}-"), Answer::Part(last, last)),
        // -suffix.
        ("bytes=-1".to_owned(), Answer::Part(last, last)),
        ("bytes=-512".to_owned(), Answer::Part(len - 512, last)),
        (format!("bytes=-{len}"), Answer::Part(0, last)),
        (format!("bytes=-{huge}"), Answer::Part(0, last)),
        ("bytes=-0".to_owned(), Answer::Unsatisfiable),
        // At or past the end.
        (format!("bytes={len}-"), Answer::Unsatisfiable),
        (format!("bytes={len}-{len}"), Answer::Unsatisfiable),
        (format!("bytes={huge}-"), Answer::Unsatisfiable),
        (format!("bytes={huge}-{huge}9"), Answer::Unsatisfiable),
        // Several.
        ("bytes=0-1,300-301".to_owned(), Answer::Several),
        (format!("bytes={len}-,-0"), Answer::NoneOfSeveral),
        // A flood.
        (format!("bytes={}", seventeen.join(",")), Answer::Whole),
        ("bytes=0-100,50-150,100-200".to_owned(), Answer::Whole),
        (format!("bytes={}", vec!["0-"; 1000].join(",")), Answer::Whole),
    ];
    for (range, answer) in rows {
        holds(server, vdi, disk, &range, &answer);
    }
}

#[test]
fn each_row_of_the_range_table_holds_for_a_disk_of_one_sector() {
    table(&Server::start(), &Disk::empty(512).noise(0, 512, 1));
}

#[test]
fn each_row_of_the_range_table_holds_for_a_disk_of_4096_bytes() {
    table(&Server::start(), &Disk::empty(4096).noise(0, 4096, 2));
}

#[test]
fn each_row_of_the_range_table_holds_for_a_disk_of_4_gib_and_a_sector() {
    table(&Server::start(), &Disk::empty(4 * GIB + 512).noise(0, 200_000, 3));
}

#[test]
fn each_row_of_the_range_table_holds_for_a_disk_of_2_tib() {
    table(&Server::start(), &Disk::empty(2048 * GIB).noise(0, 200_000, 4));
}

#[test]
fn several_ranges_that_merge_into_one_are_answered_as_one_or_as_the_whole() {
    let server = Server::start();
    let disk = Disk::empty(MIB).noise(0, MIB, 5);
    let vdi = server.import_disk(&disk);
    for (range, first, last) in
        [("bytes=0-9,10-19", 0, 19), ("bytes=0-9,5-29", 0, 29), ("bytes=0-9,9999999-", 0, 9)]
    {
        let mut download = ask(&server, &vdi, "raw", range);
        let head = download.head.clone();
        if head.status == 206 {
            assert_eq!(
                head.need("Content-Range"),
                format!("bytes {first}-{last}/{MIB}"),
                "{range}: never multipart"
            );
        } else {
            assert_eq!((head.status, head.length()), (200, MIB), "{range}");
        }
        let length = head.length();
        assert!(download.take_bytes(length) == disk.bytes(0, length));
    }
}

#[test]
fn any_range_of_any_export_equals_the_slice_of_the_whole() {
    let server = Server::start();
    let disk = Disk::lively(40 * MIB + 1536, 6);
    let imported = server.import("?raw", disk.whole());
    let (raw, made) = (server.path("made.raw"), server.path("made.vhd"));
    disk.write_raw(&raw);
    qemu::raw_to_vhd(&raw, &made, "subformat=dynamic,force_size=on");
    let from_vhd = server.import_file("", &made);
    let mut state = 0x5EED;
    for vdi in [imported, from_vhd] {
        for format in ["raw", "vhd"] {
            let whole = server.export_bytes(&vdi, format);
            let len = whole.len() as u64;
            let mut ranges = vec![(0, len - 1), (0, 0), (len - 1, len - 1), (len / 2, len - 1)];
            // Around what a VHD is made of: footer, header, table, bitmaps, blocks, last footer.
            for edge in [512, 1536, 2048, 2560, 3072, 2 * MIB, len - 512, len - 512 - 2 * MIB] {
                ranges.extend([(edge - 1, edge), (edge, edge + 511), (edge - 300, edge + 70_000)]);
            }
            for _ in 0..60 {
                let first = next(&mut state) % len;
                let length = 1 + next(&mut state) % [3, 600, 70_000, 5_000_000][(first % 4) as usize];
                ranges.push((first, first + length - 1));
            }
            for (first, last) in ranges {
                let last = last.min(len - 1);
                let part = server.slice(&vdi, format, first, last - first + 1);
                assert!(part == whole[first as usize..=last as usize], "{vdi}.{format}: {first}-{last}");
            }
        }
    }
}

#[test]
fn parts_fetched_one_after_the_other_make_the_whole() {
    let server = Server::start();
    let vdi = server.import("?raw", Disk::lively(24 * MIB, 7).whole());
    for format in ["raw", "vhd"] {
        let whole = server.export_bytes(&vdi, format);
        let mut parts = Vec::new();
        while parts.len() < whole.len() {
            let length = 1_234_567.min(whole.len() - parts.len()) as u64;
            parts.extend(server.slice(&vdi, format, parts.len() as u64, length));
        }
        assert!(parts == whole, "{format}");
    }
}

#[test]
fn a_range_is_ignored_on_head() {
    let server = Server::start();
    let vdi = server.import("?raw", vec![7; 8192]);
    let target = format!("/rest/v0/vdis/{vdi}.raw");
    for range in ["bytes=0-9", "bytes=99999-", "bytes=-0"] {
        let head = server.request("HEAD", &target).header("Range", range).send().expect(200).head;
        assert_eq!(head.length(), 8192, "{range}");
        assert!(head.header("Content-Range").is_none(), "{range}");
    }
}

/// A loop of `curl -C -`, each cut short by a limit on its time or by the reader.
fn resumed_by_curl(format: &str) {
    let server = Server::start();
    let vdi = server.import("?raw", Disk::lively(48 * MIB, 8).whole());
    let whole = server.export_bytes(&vdi, format);
    let url = server.url(&format!("/rest/v0/vdis/{vdi}.{format}"));
    let file = server.path("resumed");
    let mut sent = 0;
    let mut runs = 0;
    loop {
        runs += 1;
        let have = std::fs::metadata(&file).map_or(0, |metadata| metadata.len());
        // curl stops with 63 when the announced size is larger, so a cut in the middle needs head's help.
        let script = format!(
            "curl -q -sS -b authenticationToken={} -C {have} -D {head} '{url}' | head -c 5000000 >> {file}",
            server.token(),
            head = server.path("head").display(),
            file = file.display(),
        );
        let mut bash = std::process::Command::new("bash");
        let output = bash.args(["-c", &script]).output().expect("bash runs");
        let now = std::fs::metadata(&file).map_or(0, |metadata| metadata.len());
        assert!(now > have, "no progress: {output:?}");
        sent += now - have;
        if now >= whole.len() as u64 {
            break;
        }
        assert!(runs < 40, "it never ends");
    }
    assert!(runs > whole.len() / 5_000_000, "{runs} runs cut nothing");
    assert_eq!(sent, whole.len() as u64);
    assert!(std::fs::read(&file).expect("it is there") == whole);

    // The file is complete: curl asks from its end on, gets 416, and is content.
    let done = server.curl().args(["-C", "-", "-o"]).arg(&file).run(&url);
    assert_eq!((done.exit, done.status), (0, 416), "{done:?}");
    assert!(std::fs::read(&file).expect("it is there") == whole);
}

#[test]
fn a_download_cut_again_and_again_and_resumed_by_curl_is_equal_as_raw() {
    resumed_by_curl("raw");
}

#[test]
fn a_download_cut_again_and_again_and_resumed_by_curl_is_equal_as_vhd() {
    resumed_by_curl("vhd");
}

#[test]
fn wget_goes_on_where_it_was() {
    let server = Server::start();
    let vdi = server.import("?raw", Disk::lively(24 * MIB, 9).whole());
    let whole = server.export_bytes(&vdi, "vhd");
    let file = server.path("wget");
    std::fs::write(&file, &whole[..3_000_001]).expect("it can be written");
    let wget = crate::support::tools::program("wget", "wget");
    let cookie = format!("--header=Cookie: authenticationToken={}", server.token());
    let url = server.url(&format!("/rest/v0/vdis/{vdi}.vhd"));
    for _ in 0..2 {
        // The second time there is nothing left to do.
        let target = file.display().to_string();
        crate::support::tools::run(
            &wget,
            ["--no-config", "-q", "-t", "1", "-c", &cookie, "-O", &target, &url],
        );
        assert!(std::fs::read(&file).expect("it is there") == whole);
    }
}

#[test]
fn aria2_fetches_an_export_over_several_connections() {
    let server = Server::start();
    let vdi = server.import("?raw", Disk::lively(48 * MIB, 10).whole());
    let aria = crate::support::tools::program("aria2c", "aria2");
    let cookie = format!("--header=Cookie: authenticationToken={}", server.token());
    for format in ["raw", "vhd"] {
        let url = server.url(&format!("/rest/v0/vdis/{vdi}.{format}"));
        let folder = format!("--dir={}", server.path("").display());
        crate::support::tools::run(
            &aria,
            ["--no-conf", "-q", "-x", "8", "-s", "8", "-k", "1M", &cookie, &folder, "-o", format, &url],
        );
        let got = std::fs::read(server.path(format)).expect("it is there");
        assert!(got == server.export_bytes(&vdi, format), "{format}");
    }
}
