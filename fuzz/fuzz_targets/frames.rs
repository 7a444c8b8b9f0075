#![no_main]

extern crate gantry;

#[path = "../frames_harness.rs"]
mod harness;

libfuzzer_sys::fuzz_target!(|input: &[u8]| harness::frames(input));
