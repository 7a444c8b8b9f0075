//! Tests of the whole codec: images that are built by hand, broken one rule at a time, cut in every way, and
//! judged by other programs.

mod layouts;
mod malformed;
mod sample;
mod seeds;
mod streams;
mod tools;
