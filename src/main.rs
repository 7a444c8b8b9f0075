//! The `gantry` program: reads the command line, runs the command, exits with its code.

use std::process::ExitCode;

use clap::Parser;
use gantry::cli;

fn main() -> ExitCode {
    ExitCode::from(match cli::Cli::try_parse() {
        Ok(parsed) => cli::run(parsed),
        Err(told) => cli::tell(&told),
    })
}
