//! Tests of the whole reader: archives that are built by hand and by another program, broken one rule at a time, cut in
//! every way.

mod archive;
mod documents;
mod malformed;
mod model;
mod seeds;
mod streams;
mod tools;
