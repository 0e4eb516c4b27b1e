//! The project's own tasks: `cargo xtask test|tidy|gen|fuzz|bench`.
//!
//! Light on purpose: it is compiled before anything else, so it depends on two small crates only.
#![expect(clippy::print_stdout, reason = "a task talks to the person who started it")]

mod bench;
mod circles;
mod fuzz;
mod generate;
mod peers;
mod shell;
mod suite;
mod test;
mod tidy;

use std::process::ExitCode;

const USAGE: &str = "\
cargo xtask test [--all]    run the tests; --all first installs the real peers, and then nothing may be skipped
cargo xtask tidy            check the structure: arrows between crates, purity, headers, names, the feature table
cargo xtask gen [--check]   write the generated reference (or only check that it is current)
cargo xtask fuzz [TARGET] [SECONDS]   run the fuzz targets (10 s each; needs cargo-fuzz)
cargo xtask bench [ARGS]    run the benchmark beside the peers (see docs/performance.md)";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["test"] => test::run(false),
        ["test", "--all"] => test::run(true),
        ["tidy"] => tidy::run(),
        ["gen"] => generate::run(false),
        ["gen", "--check"] => generate::run(true),
        ["fuzz"] => fuzz::run(None, "10"),
        ["fuzz", target] => fuzz::run(Some(target), "10"),
        ["fuzz", target, seconds] => fuzz::run(Some(target), seconds),
        ["bench", rest @ ..] => bench::run(rest),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
