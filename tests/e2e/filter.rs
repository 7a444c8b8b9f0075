//! The filter language: `?filter=` on every collection, and `gantry filter` on a file of objects.

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use std::process::{Output, Stdio};
use std::time::Duration;

use serde_json::{Value, json};

use crate::support::MIB;
use crate::support::disk::noise;
use crate::support::server::{Server, gantry, gantry_run, scratch};
use crate::support::wait;

/// A filter as a value in a query.
fn encoded(filter: &str) -> String {
    filter.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

/// What a collection shows of its objects' names, in order, with this filter and more parameters.
#[track_caller]
fn names(server: &Server, collection: &str, filter: &str, more: &str) -> Vec<String> {
    let target = format!("/rest/v0/{collection}?fields=name_label&filter={}{more}", encoded(filter));
    let objects = server.json(&target);
    let name = |object: &Value| object["name_label"].as_str().expect("a name").to_owned();
    let mut names: Vec<String> = objects.as_array().expect("an array").iter().map(name).collect();
    names.sort();
    names
}

fn disks() -> Server {
    let server = Server::start();
    for (name, len) in [("Debian%20root", 8192), ("debian%20data", 4096), ("windows", 12_288)] {
        server.import(&format!("?raw&name_label={name}"), noise(len, 1));
    }
    server
}

#[test]
fn a_filter_chooses_disks_by_what_is_in_them() {
    let server = disks();
    for (filter, expected) in [
        ("", &["Debian root", "debian data", "windows"][..]),
        ("  ", &["Debian root", "debian data", "windows"]),
        ("debian", &["Debian root", "debian data"]),
        ("debian !root", &["debian data"]),
        ("name_label:|(root windows)", &["Debian root", "windows"]),
        ("name_label:/^debian/", &["debian data"]),
        ("name_label:/^(?!debian)/i", &["windows"]),
        ("name_label:\"n d\"", &["debian data"]),
        ("name_label:*i*a*t*", &["Debian root", "debian data"]),
        ("size:>4096 size:<=8192", &["Debian root"]),
        ("type:VDI size:12288", &["windows"]),
        ("missing?", &[]),
        ("!missing?", &["Debian root", "debian data", "windows"]),
        ("snapshots:length:0", &["Debian root", "debian data", "windows"]),
        ("nothing_of_that_name", &[]),
    ] {
        assert_eq!(names(&server, "vdis", filter, ""), expected, "{filter}");
    }
    assert_eq!(names(&server, "srs", "name_label:local", ""), ["local"]);
    assert_eq!(names(&server, "srs", "!local", ""), [""; 0]);
    assert_eq!(names(&server, "vms", "x", ""), [""; 0]);
    assert_eq!(
        server.json("/rest/v0/vdis?filter=type:VDI+windows").as_array().map(Vec::len),
        Some(1),
        "+ is a space"
    );
}

#[test]
fn the_limit_counts_what_the_filter_has_left_and_the_filter_sees_more_than_the_fields() {
    let server = disks();
    assert_eq!(names(&server, "vdis", "debian", "&limit=2").len(), 2);
    assert_eq!(names(&server, "vdis", "windows", "&limit=1"), ["windows"]);
    assert_eq!(names(&server, "vdis", "windows", "&limit=0"), [""; 0]);
    let links = server.json(&format!("/rest/v0/vdis?filter={}", encoded("size:12288")));
    assert!(links[0].as_str().is_some_and(|link| link.starts_with("/rest/v0/vdis/")), "{links}");
    let query = format!("/rest/v0/vdis?ndjson&fields=name_label&filter={}", encoded("debian"));
    let lines = server.get(&query).expect(200);
    assert_eq!(lines.head.need("Content-Type"), "application/x-ndjson");
    let lines = lines.text();
    assert_eq!(lines.lines().filter(|line| line.contains("ebian")).count(), 2, "{lines}");
    assert_eq!(lines.lines().count(), 2, "{lines}");
    let table =
        server.get(&format!("/rest/v0/vdis?markdown=true&fields=name_label&filter={}", encoded("data")));
    assert_eq!(table.expect(200).text(), "| name_label |\n| --- |\n| debian data |\n");
}

#[test]
fn the_root_users_and_tokens_are_filtered_too() {
    let server = Server::start();
    assert_eq!(server.json("/rest/v0?filter=id:/^vdis$/"), json!(["/rest/v0/vdis"]));
    assert_eq!(server.json("/rest/v0?filter=type:VDI").as_array().map(Vec::len), Some(2), "and snapshots");
    let admins = server.json("/rest/v0/users?fields=email&filter=role:admin");
    assert_eq!(admins[0]["email"], "admin");
    assert_eq!(server.json("/rest/v0/users?filter=role:viewer"), json!([]));
    let user = server.json("/rest/v0/users?fields=id")[0]["id"].as_str().expect("an id").to_owned();
    let tokens = format!("/rest/v0/users/{user}/authentication_tokens");
    let body = json!({"description": "for the filter"});
    server.request("POST", &tokens).json(&body).send().expect(201);
    let found = server.json(&format!("{tokens}?filter=description:filter&limit=1"));
    assert_eq!(found.as_array().map(Vec::len), Some(1));
    assert_eq!(found[0]["description"], "for the filter");
    assert_eq!(server.json(&format!("{tokens}?filter=description:nothing")), json!([]));
}

#[test]
fn pending_tasks_are_found_by_their_status() {
    let server = Server::start();
    let done = server.import("?raw&name_label=done", noise(4096, 1));
    let len = 24 * MIB;
    let mut upload = server.request("POST", &server.import_target("?raw&name_label=slow")).begin(Some(len));
    upload.write(&noise(4096, 1)).expect("it takes the beginning");
    let pending = || match server.json("/rest/v0/tasks?fields=*&filter=status:pending") {
        tasks if tasks.as_array().is_some_and(|tasks| tasks.len() == 1) => Ok(tasks[0].clone()),
        tasks => Err(format!("not one pending task: {tasks}")),
    };
    let task = wait::until(Duration::from_secs(10), pending);
    assert!(task["properties"]["name"].as_str().is_some_and(|name| name.contains("slow")), "{task}");
    let ended = server.json("/rest/v0/tasks?fields=status&filter=status:success");
    assert_eq!(ended.as_array().map(Vec::len), Some(1), "{ended}");
    let of_disk = format!("/rest/v0/vdis/{done}/tasks?filter=");
    assert_eq!(server.json(&format!("{of_disk}status:failure")), json!([]));
    assert_eq!(
        server.json(&format!("{of_disk}progress:100")).as_array().map(Vec::len),
        Some(0),
        "not a top-level one"
    );
    let all = server.json(&format!("/rest/v0/vdis/{done}/tasks")).as_array().map(Vec::len);
    assert_eq!(server.json(&format!("{of_disk}status:success")).as_array().map(Vec::len), all);
}

#[test]
fn a_filter_that_is_none_is_refused_with_the_place_of_the_error() {
    let server = Server::start();
    for target in ["/rest/v0", "/rest/v0/vdis", "/rest/v0/tasks", "/rest/v0/users", "/rest/v0/vms"] {
        for (filter, message) in [
            ("(", "parse error: expected end of input at position 0"),
            ("a b)", "parse error: expected end of input at position 3"),
            ("size:>1GiB", "value must be a number"),
        ] {
            let refusal = server.get(&format!("{target}?filter={}", encoded(filter))).refused(400..=400);
            assert_eq!(refusal.error, message, "{target} {filter}");
            assert_eq!(refusal.body["data"], json!({"stringToParse": filter}), "{target}");
            assert_eq!(refusal.code, "bad_filter");
        }
    }
    for filter in ["/(/", "/a{2,1}/", "/(?:(a)|b)*\\1/"] {
        let refusal =
            server.get(&format!("/rest/v0/vdis?ndjson&filter={}", encoded(filter))).refused(400..=400);
        assert!(refusal.text.starts_with("Invalid regular expression: "), "{}", refusal.text);
        assert_eq!(refusal.body["data"]["stringToParse"], filter);
    }
    let twice = server.get("/rest/v0/vdis?filter=a&filter=b").refused(422..=422);
    assert_eq!(twice.error, json!({"filter": {"message": "invalid string value", "value": ["a", "b"]}}));
    assert_eq!(twice.body["data"], json!({}));
    for hostile in ["(".repeat(20_000), "!".repeat(20_000), "a:".repeat(10_000)] {
        server.get(&format!("/rest/v0/vdis?filter={hostile}")).refused(400..=400);
    }
    server.get("/health/ready").expect(200);
}

#[test]
fn a_regular_expression_that_tries_too_many_ways_is_refused_and_a_regular_one_is_not() {
    let server = Server::start();
    server.import(&format!("?raw&name_label={}!", "a".repeat(40)), noise(4096, 1));
    assert_eq!(server.json(&format!("/rest/v0/vdis?filter={}", encoded("name_label:/(a+)+$/"))), json!([]));
    let target = format!("/rest/v0/vdis?filter={}", encoded("name_label:/(a+a+)+(?!z)y/"));
    let refusal = server.get(&target).refused(400..=400);
    assert!(refusal.text.contains("steps"), "{}", refusal.text);
}

fn filter(objects: &Path, expression: &str) -> Output {
    gantry_run([Path::new("filter"), Path::new("--objects"), objects, Path::new("--"), Path::new(expression)])
}

#[test]
fn the_command_and_the_reference_agree_on_every_vector() {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/filter/vectors.json");
    let vectors: Vec<Value> =
        serde_json::from_slice(&std::fs::read(corpus).expect("it is there")).expect("they are JSON");
    let mut by_filter: BTreeMap<&str, Vec<&Value>> = BTreeMap::new();
    for vector in &vectors {
        by_filter.entry(vector["filter"].as_str().expect("a filter")).or_default().push(vector);
    }
    let folder = scratch();
    let file = folder.path().join("objects");
    for (expression, vectors) in by_filter {
        let lines: String = vectors.iter().map(|vector| vector["object"].to_string() + "\n").collect();
        std::fs::write(&file, lines).expect("it can be written");
        let output = filter(&file, expression);
        let (out, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        if vectors.iter().any(|vector| vector["error"] == true) {
            assert_eq!(output.status.code(), Some(2), "{expression}: {told}");
            let message = vectors[0]["message"].as_str().unwrap_or("Invalid regular expression");
            assert!(told.contains(message) && out.is_empty(), "{expression}: {told}");
        } else {
            let matching = vectors.iter().filter(|vector| vector["matches"] == true);
            let expected: String = matching.map(|vector| vector["object"].to_string() + "\n").collect();
            assert_eq!(output.status.code(), Some(0), "{expression}: {told}");
            assert_eq!(out, expected, "{expression}");
        }
    }
}

#[test]
fn lines_that_match_are_printed_as_they_are() {
    let folder = scratch();
    let file = folder.path().join("objects");
    let lines = "{ \"a\" : \"x\",\"a\":\"foo\" }\r\n\n[1, \"FOO\"]\n\"foo\\u0021\"\n42\n  null\n{\"n\":1.0e0, \"f\":\"foo\"}";
    std::fs::write(&file, lines).expect("it can be written");
    let output = filter(&file, "foo");
    let expected =
        "{ \"a\" : \"x\",\"a\":\"foo\" }\r\n[1, \"FOO\"]\n\"foo\\u0021\"\n{\"n\":1.0e0, \"f\":\"foo\"}\n";
    assert_eq!(String::from_utf8_lossy(&output.stdout), expected);
    assert_eq!(output.status.code(), Some(0));
    let nothing = filter(&file, "nothing");
    assert!(nothing.status.success() && nothing.stdout.is_empty() && nothing.stderr.is_empty());
    assert_eq!(filter(&file, "-5").status.code(), Some(0));
    // Without the two hyphens, where the expression begins with none.
    let plain = gantry_run([Path::new("filter"), Path::new("--objects"), &file, Path::new("!foo")]);
    assert_eq!(String::from_utf8_lossy(&plain.stdout), "42\n  null\n");
}

#[test]
fn a_bad_expression_is_2_and_a_file_that_cannot_be_read_is_1() {
    let folder = scratch();
    let file = folder.path().join("objects");
    let told = |output: &Output| String::from_utf8_lossy(&output.stderr).into_owned();
    let bad = filter(&file, "a b)");
    assert_eq!(bad.status.code(), Some(2));
    assert!(told(&bad).contains("expected end of input at position 3"), "{}", told(&bad));
    let missing = filter(&file, "a");
    assert_eq!(missing.status.code(), Some(1));
    assert!(told(&missing).contains("objects"), "{}", told(&missing));
    std::fs::write(&file, "\"a\"\n{\"a\":\n\"a\"\n").expect("it can be written");
    let broken = filter(&file, "a");
    assert_eq!((broken.status.code(), broken.stdout.as_slice()), (Some(1), b"\"a\"\n".as_slice()));
    assert!(told(&broken).contains("line 2"), "{}", told(&broken));
    assert_eq!(gantry_run(["filter", "a"]).status.code(), Some(2));
    assert_eq!(gantry_run([Path::new("filter"), Path::new("--objects"), &file]).status.code(), Some(2));
}

#[test]
fn a_reader_that_has_had_enough_is_no_failure_and_a_full_device_is() {
    let folder = scratch();
    let file = folder.path().join("objects");
    std::fs::write(&file, "\"foo\"\n".repeat(200_000)).expect("it can be written");
    let arguments = [Path::new("filter"), Path::new("--objects"), &file, Path::new("foo")];
    let mut child =
        gantry(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it can be started");
    let mut few = [0; 6];
    child.stdout.take().expect("it is piped").read_exact(&mut few).expect("there is a line");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), b"".as_slice()));

    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").expect("there is one");
    let output = gantry(arguments).stdout(full).stderr(Stdio::piped()).output().expect("it runs");
    assert_eq!(output.status.code(), Some(1));
    assert!(!output.stderr.is_empty());
}
