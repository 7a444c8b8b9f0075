#![no_main]

extern crate gantry;

#[path = "../xva_harness.rs"]
mod harness;

libfuzzer_sys::fuzz_target!(|input: &[u8]| harness::archive(input));
