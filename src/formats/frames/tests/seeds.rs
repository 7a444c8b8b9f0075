//! The fuzz target's function over the kept inputs, and over changed ones.

use std::path::Path;

use super::*;
use crate as gantry;

#[path = "../../../../fuzz/frames_harness.rs"]
mod harness;

fn seeds() -> Vec<(String, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus/frames");
    let entry = |entry: std::io::Result<std::fs::DirEntry>| {
        let path = entry.unwrap().path();
        (path.file_name().unwrap().to_string_lossy().into_owned(), std::fs::read(path).unwrap())
    };
    std::fs::read_dir(folder).unwrap().map(entry).collect()
}

#[test]
fn every_seed_keeps_the_rules() {
    let seeds = seeds();
    assert!(seeds.len() >= 12);
    for (name, seed) in seeds {
        println!("{name}");
        harness::frames(&seed);
    }
}

#[test]
fn changed_seeds_keep_the_rules() {
    let mut dice = Dice(0xF8A3_0019_7733_4411);
    for (name, seed) in seeds() {
        for _ in 0..60 {
            let mut changed = seed.clone();
            for _ in 0..1 + dice.roll() % 3 {
                let at = dice.roll() as usize % changed.len();
                changed[at] = dice.roll() as u8;
            }
            println!("{name}: {changed:02x?}");
            harness::frames(&changed);
        }
    }
}
