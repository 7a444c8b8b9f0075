//! The answers' headers, and preconditions in their order: resume.md 1.2, 1.3, 1.5 and 1.6.

use serde_json::json;

use crate::support::MIB;
use crate::support::disk::noise;
use crate::support::http::{Head, Response};
use crate::support::server::Server;

const LEN: usize = 5 * MIB as usize;

/// A server with one disk of noise.
fn one_disk() -> (Server, String) {
    let server = Server::start();
    let vdi = server.import("?raw", noise(LEN, 1));
    (server, vdi)
}

fn etag(server: &Server, vdi: &str, format: &str) -> String {
    let head = server.request("HEAD", &format!("/rest/v0/vdis/{vdi}.{format}")).send().expect(200).head;
    head.need("ETag").to_owned()
}

fn get(server: &Server, vdi: &str, headers: &[(&str, &str)]) -> Response {
    let request = server.request("GET", &format!("/rest/v0/vdis/{vdi}.raw"));
    headers.iter().fold(request, |request, (name, value)| request.header(name, value)).send()
}

#[test]
fn an_etag_is_strong_and_differs_between_formats_and_contents() {
    let (server, vdi) = one_disk();
    let other = server.import("?raw", noise(LEN, 2));
    let mut tags = Vec::new();
    for vdi in [&vdi, &other] {
        for format in ["raw", "vhd"] {
            let tag = etag(&server, vdi, format);
            assert!(tag.starts_with('"') && tag.ends_with('"') && tag.len() > 10, "{tag}");
            assert!(!tags.contains(&tag), "{tag} twice");
            tags.push(tag);
        }
    }
}

#[test]
fn the_answers_carry_the_headers_of_an_export() {
    let (server, vdi) = one_disk();
    for format in ["raw", "vhd"] {
        let target = format!("/rest/v0/vdis/{vdi}.{format}");
        let whole = server.get(&target).expect(200);
        let part = server.request("GET", &target).header("Range", "bytes=5-9").send().expect(206);
        for head in [&whole.head, &part.head] {
            assert_eq!(head.need("Content-Type"), "application/octet-stream");
            assert_eq!(head.need("Accept-Ranges"), "bytes");
            let disposition = head.need("Content-Disposition").replace('"', "");
            assert_eq!(disposition, format!("attachment; filename={vdi}.{format}"));
            let control: Vec<&str> = head.need("Cache-Control").split(',').map(str::trim).collect();
            assert!(control.contains(&"no-transform") && control.contains(&"private"), "{control:?}");
            assert!(head.header("Content-Encoding").is_none());
            assert!(head.header("Transfer-Encoding").is_none());
        }
        assert_eq!(whole.head.length(), whole.body.len() as u64);
        assert_eq!(part.head.need("ETag"), whole.head.need("ETag"));
        assert!(part.body == whole.body[5..=9]);
        let past = server.request("GET", &target).header("Range", "bytes=999999999-").send();
        past.refused(416..=416);
        assert_eq!(past.head.need("ETag"), whole.head.need("ETag"));
        assert_eq!(past.head.need("Content-Range"), format!("bytes */{}", whole.body.len()));
    }
}

#[test]
fn head_says_what_get_says() {
    let (server, vdi) = one_disk();
    for format in ["raw", "vhd"] {
        let target = format!("/rest/v0/vdis/{vdi}.{format}");
        // What names the moment or the transfer and not the representation may differ.
        let stable = |head: &Head| {
            let mut headers: Vec<(String, String)> =
                head.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value.clone())).collect();
            headers.retain(|(name, _)| !matches!(name.as_str(), "date" | "gantry-task" | "connection"));
            headers.sort();
            headers
        };
        let head = server.request("HEAD", &target).send().expect(200);
        let whole = server.get(&target).expect(200);
        assert!(head.body.is_empty());
        assert_eq!(stable(&head.head), stable(&whole.head), "{format}");
    }
}

#[test]
fn head_starts_no_transfer() {
    let (server, vdi) = one_disk();
    let before = server.json("/rest/v0/tasks").as_array().expect("an array").len();
    for _ in 0..5 {
        server.request("HEAD", &format!("/rest/v0/vdis/{vdi}.vhd")).send().expect(200);
    }
    assert_eq!(server.json("/rest/v0/tasks").as_array().expect("an array").len(), before);
}

#[test]
fn an_export_is_never_content_coded() {
    let (server, vdi) = one_disk();
    let plain = server.export_bytes(&vdi, "raw");
    let response = get(&server, &vdi, &[("Accept-Encoding", "gzip, deflate, br, zstd")]).expect(200);
    assert!(response.head.header("Content-Encoding").is_none());
    assert!(response.body == plain);
}

#[test]
fn if_match_is_a_strong_comparison_and_comes_first() {
    let (server, vdi) = one_disk();
    let tag = etag(&server, &vdi, "raw");
    let weak = format!("W/{tag}");
    let several = format!("\"x\", {tag}");
    get(&server, &vdi, &[("If-Match", &tag)]).expect(200);
    get(&server, &vdi, &[("If-Match", "*")]).expect(200);
    get(&server, &vdi, &[("If-Match", &several)]).expect(200);
    get(&server, &vdi, &[("If-Match", &weak)]).refused(412..=412);
    get(&server, &vdi, &[("If-Match", "\"other\"")]).refused(412..=412);
    // It decides before If-None-Match and before Range.
    get(&server, &vdi, &[("If-Match", "\"other\""), ("If-None-Match", &tag)]).refused(412..=412);
    get(&server, &vdi, &[("If-Match", "\"other\""), ("Range", "bytes=0-9")]).refused(412..=412);
    get(&server, &vdi, &[("If-Match", &tag), ("If-None-Match", &tag)]).expect(304);
    get(&server, &vdi, &[("If-Match", &tag), ("Range", "bytes=0-9")]).expect(206);
    get(&server, &vdi, &[("If-Match", &tag), ("Range", "bytes=99999999-")]).refused(416..=416);
}

#[test]
fn if_none_match_is_a_weak_comparison_and_comes_before_ranges() {
    let (server, vdi) = one_disk();
    let tag = etag(&server, &vdi, "raw");
    let weak = format!("W/{tag}");
    for matching in [&tag, &weak, "*"] {
        let response = get(&server, &vdi, &[("If-None-Match", matching)]).expect(304);
        assert_eq!(response.head.need("ETag"), tag, "{matching}");
        get(&server, &vdi, &[("If-None-Match", matching), ("Range", "bytes=0-9")]).expect(304);
        get(&server, &vdi, &[("If-None-Match", matching), ("Range", "bytes=0-9"), ("If-Range", &tag)])
            .expect(304);
        let target = format!("/rest/v0/vdis/{vdi}.raw");
        server.request("HEAD", &target).header("If-None-Match", matching).send().expect(304);
    }
    get(&server, &vdi, &[("If-None-Match", "\"other\"")]).expect(200);
    get(&server, &vdi, &[("If-None-Match", "\"other\""), ("Range", "bytes=0-9")]).expect(206);
}

#[test]
fn if_range_decides_whether_the_range_counts() {
    let (server, vdi) = one_disk();
    let tag = etag(&server, &vdi, "raw");
    let weak = format!("W/{tag}");
    let (bare, open) = (tag.trim_matches('"').to_owned(), tag.trim_end_matches('"').to_owned());
    let range = ("Range", "bytes=10-19");
    let part = get(&server, &vdi, &[range, ("If-Range", &tag)]).expect(206);
    assert!(part.body == noise(LEN, 1)[10..=19]);
    let no_match = [&weak, "\"other\"", &bare, &open, "garbage", "Thu, 01 Jan 1970 00:00:00 GMT", ""];
    for value in no_match {
        let whole = get(&server, &vdi, &[range, ("If-Range", value)]).expect(200);
        assert_eq!(whole.body.len(), LEN, "If-Range: {value}");
    }
    // Without a Range it is ignored.
    get(&server, &vdi, &[("If-Range", "\"other\"")]).expect(200);
    // A range that cannot be satisfied is forgotten where If-Range does not match.
    get(&server, &vdi, &[("Range", "bytes=99999999-"), ("If-Range", "\"other\"")]).expect(200);
    get(&server, &vdi, &[("Range", "bytes=99999999-"), ("If-Range", &tag)]).refused(416..=416);
    // If-Match counts first.
    get(&server, &vdi, &[range, ("If-Match", "\"other\""), ("If-Range", &tag)]).refused(412..=412);
    get(&server, &vdi, &[range, ("If-Match", &tag), ("If-Range", "\"other\"")]).expect(200);
}

#[test]
fn if_range_with_a_date_never_lets_two_contents_mix() {
    let (server, vdi) = one_disk();
    let response = get(&server, &vdi, &[]).expect(200);
    if let Some(date) = response.head.header("Last-Modified") {
        // Just made: the date is not a minute old, so it is weak and matches nothing.
        get(&server, &vdi, &[("Range", "bytes=1-2"), ("If-Range", date)]).expect(200);
    }
    get(&server, &vdi, &[("Range", "bytes=1-2"), ("If-Range", "Fri, 01 Jan 2100 00:00:00 GMT")]).expect(200);
}

#[test]
fn preconditions_of_a_request_that_fails_anyway_are_not_evaluated() {
    let (server, vdi) = one_disk();
    let target = "/rest/v0/vdis/00000000-0000-4000-8000-000000000000.raw";
    server.request("GET", target).header("If-Match", "\"other\"").send().refused(404..=404);
    let target = format!("/rest/v0/vdis/{vdi}.raw");
    server.request("GET", &target).anonymous().header("If-None-Match", "*").send().refused(401..=401);
}

#[test]
fn a_bare_range_above_0_is_refused_when_the_bytes_have_changed_lately() {
    let (mut server, vdi) = one_disk();
    let old = etag(&server, &vdi, "raw");
    let target = format!("/rest/v0/vdis/{vdi}.raw");
    server.request("PUT", &target).body(noise(LEN, 2)).send().expect(204);
    let new = etag(&server, &vdi, "raw");
    assert_ne!(old, new);
    for restart in [false, true] {
        if restart {
            server.kill();
            server.start_again();
        }
        let refusal = get(&server, &vdi, &[("Range", "bytes=100-")]).refused(409..=409);
        assert_eq!(refusal.code, "content_changed");
        assert!(refusal.text.contains(new.trim_matches('"')), "it names the current ETag: {}", refusal.text);
        // From 0 on nothing can be mixed; with If-Range or If-Match the client knows what it asks for.
        get(&server, &vdi, &[("Range", "bytes=0-9")]).expect(206);
        get(&server, &vdi, &[]).expect(200);
        let part = get(&server, &vdi, &[("Range", "bytes=100-199"), ("If-Range", &new)]).expect(206);
        assert!(part.body == noise(LEN, 2)[100..200]);
        get(&server, &vdi, &[("Range", "bytes=100-199"), ("If-Match", &new)]).expect(206);
    }
}

#[test]
fn an_export_of_nothing_is_not_found_and_an_unknown_format_is_refused() {
    let (server, vdi) = one_disk();
    let none = "00000000-0000-4000-8000-000000000000";
    let refusal = server.get(&format!("/rest/v0/vdis/{none}.raw")).refused(404..=404);
    assert_eq!(refusal.body["data"], json!({"id": none, "type": "VDI"}));
    server.get(&format!("/rest/v0/vdis/{vdi}.qcow2")).refused(422..=422);
    server.get(&format!("/rest/v0/vdis/{}.vhd", server.sr())).refused(404..=404);
}

#[test]
fn the_parameters_of_old_exports_are_taken_and_checked() {
    let (server, vdi) = one_disk();
    for query in ["?preferNbd", "?preferNbd=true&nbdConcurrency=4", "?unknown=1"] {
        server.request("HEAD", &format!("/rest/v0/vdis/{vdi}.vhd{query}")).send().expect(200);
    }
    for query in ["?nbdConcurrency=many", "?preferNbd=perhaps"] {
        server.get(&format!("/rest/v0/vdis/{vdi}.vhd{query}")).refused(422..=422);
    }
}
