//! The `gantry` program: reads the command line, runs the command, exits with its code.

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    ExitCode::from(gantry::cli::run(gantry::cli::Cli::parse()))
}
