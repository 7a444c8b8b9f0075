//! "`actors/` depends on actix and tokio, never on actix-web or a format": read from the manifest and from
//! every `use` and path in the sources, and for what is further away from the lock file.
#![expect(clippy::unwrap_used, reason = "a test's helpers fail the test")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

const ALLOWED: [&str; 9] = [
    "actix",
    "actix-rt",
    "futures-util",
    "serde",
    "serde_json",
    "thiserror",
    "tokio",
    "tokio-util",
    "tracing",
];
const FORBIDDEN_PATHS: [&str; 6] =
    ["actix_web", "actix_http", "actix_server", "gantry::", "rusqlite", "reqwest"];

fn crate_dir() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Names in the manifest's `[dependencies]` and `[dev-dependencies]`, with any way to write the heading.
fn manifest_dependencies(manifest: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut inside = false;
    for line in manifest.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
        if let Some(heading) = line.strip_prefix('[') {
            let heading = heading.trim_end_matches(']');
            inside = heading.ends_with("dependencies");
            if let Some((_, name)) = heading.split_once("dependencies.") {
                names.push(name.to_owned());
            }
        } else if inside {
            let end = line.find(['=', '.', ' ']).unwrap_or(line.len());
            names.push(line[..end].trim_matches('"').to_owned());
        }
    }
    names
}

fn sources(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            found.push(path);
        }
    }
    found
}

#[test]
fn the_manifest_names_only_what_the_engine_may_use() {
    let names = manifest_dependencies(&fs::read_to_string(crate_dir().join("Cargo.toml")).unwrap());
    assert!(names.iter().any(|name| name == "actix"), "the manifest was understood: {names:?}");
    let others: Vec<_> = names.iter().filter(|name| !ALLOWED.contains(&name.as_str())).collect();
    assert!(others.is_empty(), "{others:?}");
}

/// Names of all packages that `root` needs, however far away.
fn closure(lock: &str, root: &str) -> BTreeSet<String> {
    let mut needs: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let mut name = "";
    for line in lock.lines().map(str::trim) {
        if let Some(found) = line.strip_prefix("name = ") {
            name = found.trim_matches('"');
            needs.entry(name).or_default();
        } else if let Some(found) = line.strip_prefix('"') {
            // `"name"`, or `"name version"` where there are several.
            let end = found.find([' ', '"']).unwrap_or(found.len());
            needs.entry(name).or_default().push(&found[..end]);
        }
    }
    let (mut found, mut left) = (BTreeSet::new(), vec![root]);
    while let Some(next) = left.pop() {
        if found.insert(next.to_owned()) {
            left.extend(needs.get(next).into_iter().flatten());
        }
    }
    found
}

#[test]
fn nothing_that_it_needs_needs_the_web_or_a_store() {
    let places = [crate_dir().join("Cargo.lock"), crate_dir().join("../Cargo.lock")];
    let lock = places.iter().find_map(|place| fs::read_to_string(place).ok()).unwrap();
    let all = closure(&lock, "gantry-actors");
    assert!(all.contains("tokio") && all.contains("actix_derive"), "the lock file was understood: {all:?}");
    for forbidden in ["actix-web", "actix-http", "actix-server", "gantry", "hyper", "rusqlite", "reqwest"] {
        assert!(!all.contains(forbidden), "{forbidden}");
    }
}

#[test]
fn no_source_names_the_web_a_format_or_a_store() {
    let all: Vec<_> = ["src", "examples"].iter().flat_map(|dir| sources(&crate_dir().join(dir))).collect();
    assert!(all.len() > 10, "the sources were found");
    for path in all {
        let text = fs::read_to_string(&path).unwrap();
        for (number, line) in text.lines().enumerate() {
            let code = line.split("//").next().unwrap_or_default();
            let found = FORBIDDEN_PATHS.iter().find(|name| code.contains(**name));
            assert_eq!(found, None, "{}:{}", path.display(), number + 1);
        }
    }
}

#[test]
fn a_forbidden_dependency_would_be_noticed() {
    let manifest = "[dependencies]\nactix-web = \"4\"\nserde.workspace = true\n[dev-dependencies.gantry]\npath = \"..\"\n";
    assert_eq!(manifest_dependencies(manifest), ["actix-web", "serde", "gantry"]);
}
