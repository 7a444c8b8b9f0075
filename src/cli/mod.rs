//! The command line: one module per command.

mod audited;
pub mod check;
pub mod demo;
pub mod filter;
pub mod serve;
pub mod token;
pub mod user;

use std::io::{ErrorKind, Write};

use clap::{Parser, Subcommand};

/// Gantry moves virtual-machine disks: exports and imports as supervised, resumable, verified transfers behind
/// Xen Orchestra's REST dialect.
#[derive(Debug, Parser)]
#[command(name = "gantry", version, max_term_width = 100)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the service
    Serve(serve::ServeArgs),
    /// Read an image and say what is in it and what is wrong with it
    Check(check::CheckArgs),
    /// Show the main job in one minute: a disk in, out in every form, cut and resumed, every byte compared
    Demo(demo::DemoArgs),
    /// Print the lines of a file whose JSON value matches a filter expression
    Filter(filter::FilterArgs),
    /// Add, change and remove users
    User(user::UserArgs),
    /// Create, list and revoke tokens
    Token(token::TokenArgs),
}

/// Runs a command. Returns the exit code.
pub fn run(cli: Cli) -> u8 {
    match cli.command {
        Command::Serve(args) => serve::run(args),
        Command::Check(args) => check::run(&args),
        Command::Demo(args) => demo::run(args),
        Command::Filter(args) => filter::run(&args),
        Command::User(args) => finish(user::run(&args, &mut std::io::stdout().lock())),
        Command::Token(args) => finish(token::run(&args, &mut std::io::stdout().lock())),
    }
}

fn finish(outcome: Result<(), user::AccessError>) -> u8 {
    match outcome {
        Ok(()) => 0,
        // Whoever reads the output has had enough.
        Err(error) if error.is_closed_pipe() => 0,
        Err(error) => {
            complain(&error);
            error.exit_code()
        }
    }
}

/// Writes an error where people look for it.
pub(crate) fn complain(error: &dyn std::error::Error) {
    // If stderr is closed, the exit code has to do.
    drop(writeln!(std::io::stderr(), "gantry: {error}"));
}

/// Shows help or version on stdout, or what is wrong with the command line on stderr. Returns the exit code.
pub fn tell(told: &clap::Error) -> u8 {
    if told.use_stderr() {
        // If stderr is closed, the exit code has to do.
        drop(told.print());
        return 2;
    }
    print_out(&told.render().to_string())
}

/// Writes data to stdout. Returns the exit code: a closed pipe is quiet, any other loss is a failure.
pub(crate) fn print_out(text: &str) -> u8 {
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Ok(()) => 0,
        Err(error) if error.kind() == ErrorKind::BrokenPipe => 0,
        Err(error) => {
            complain(&error);
            1
        }
    }
}
