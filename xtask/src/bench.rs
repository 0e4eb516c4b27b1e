//! `cargo xtask bench`: the benchmark of docs/performance.md.

use anyhow::Result;

use crate::shell;

/// Builds everything with optimisation and hands over to the benchmark's own program.
pub fn run(arguments: &[&str]) -> Result<()> {
    shell::run(&mut shell::cargo(&["build", "--release", "-p", "modelyard", "-p", "modelyard-bench"]))?;
    let program = shell::root().join("target/release/modelyard-bench");
    let mut bench = std::process::Command::new(program);
    bench.args(arguments).current_dir(shell::root());
    shell::run(&mut bench)
}
