//! The one binary: reads the command line, calls one command, turns its end into an exit code.
//!
//! Promises: data on stdout, talk on stderr. Exit code 0 done, 1 failed, 2 wrong usage; `deploy --wait` adds 3 rolled back
//! and 4 waits for a person.
//! Absent on purpose: everything that decides or serves. That is in the crates; here are arguments, wiring and rendering.

mod api;
mod cli;
mod client;
mod commands;
mod context;
mod demo;
mod environment_file;
mod exit;
mod follow;
mod http;
mod mlflow;
mod narrate;
mod reference;
mod rehearsal;
mod service_file;
mod source;
mod terminal;
mod traffic;
mod view;

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    // In a machine image there is no command line: this program is what the kernel starts.
    if let Some(code) = modelyard_guest::take_over() {
        return code;
    }
    let cli = cli::Cli::parse();
    match commands::run(cli) {
        Ok(exit) => exit.into(),
        Err(report) => {
            eprintln!("{report:?}");
            exit::Exit::of(&report).into()
        }
    }
}
