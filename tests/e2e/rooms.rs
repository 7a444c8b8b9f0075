//! The arrows between the rooms point one way, as `ARCHITECTURE.md` draws them: read from the `use` lines.

use std::collections::BTreeSet;
use std::path::Path;

use crate::support::server::files_under;

/// Each room under `src/` and the rooms that it may use. What is not in the list may use everything.
const MAY_USE: [(&str, &[&str]); 8] = [
    ("formats", &[]),
    ("disk", &["formats", "ids"]),
    ("image", &["disk", "formats", "ids"]),
    ("state", &["formats", "ids"]),
    ("backends", &["config", "disk", "formats", "ids", "image", "state"]),
    ("inventory", &["backends", "config", "formats", "ids", "state"]),
    ("auth", &["config", "ids", "state"]),
    ("transfers", &["backends", "config", "disk", "formats", "ids", "image", "state"]),
];

/// The rooms that a text names after `crate::` or `gantry::`.
fn named(text: &str) -> BTreeSet<String> {
    let ends = |c: char| !c.is_ascii_alphanumeric() && c != '_';
    let after = |prefix| text.split(prefix).skip(1).filter_map(move |rest: &str| rest.split(ends).next());
    after("crate::").chain(after("gantry::")).filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn code(file: &Path) -> String {
    let text = std::fs::read_to_string(file).expect("it can be read");
    text.lines().filter(|line| !line.trim_start().starts_with("//")).flat_map(|line| [line, "\n"]).collect()
}

#[test]
fn arrows_between_the_rooms_point_one_way() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for (room, may) in MAY_USE {
        let mut files = files_under(&src.join(room));
        files.push(src.join(format!("{room}.rs")));
        files.retain(|file| file.is_file());
        assert!(!files.is_empty(), "there is no room {room}");
        for file in files {
            for name in named(&code(&file)) {
                let inside = name == room || may.contains(&name.as_str());
                // A room, and not a word that only looks like one.
                let is_room = src.join(&name).is_dir() || src.join(format!("{name}.rs")).is_file();
                assert!(inside || !is_room, "{} uses {name}, which {room} may not know", file.display());
            }
        }
    }
}

#[test]
fn formats_do_no_io_and_know_no_clock() {
    let formats = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/formats");
    for file in files_under(&formats) {
        let code = code(&file);
        let code = code.split("#[cfg(test)]").next().unwrap_or_default();
        for word in ["std::fs", "std::net", "tokio", "actix", "SystemTime", "Instant", "async ", "rustix"] {
            let is_test = file.components().any(|part| part.as_os_str().to_string_lossy().contains("test"));
            assert!(is_test || !code.contains(word), "{word:?} in {}", file.display());
        }
    }
}
