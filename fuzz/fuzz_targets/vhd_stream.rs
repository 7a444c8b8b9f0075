#![no_main]

extern crate gantry;

#[path = "../harness.rs"]
mod harness;

libfuzzer_sys::fuzz_target!(|input: &[u8]| harness::vhd_stream(input));
