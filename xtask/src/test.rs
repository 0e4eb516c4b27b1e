//! `cargo xtask test`: formatting, lints, documentation, structure, generated files, then every test.

use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::shell::{self, cargo};
use crate::suite::{self, Suite, Tally};
use crate::{generate, peers, tidy};

/// Runs everything; with `all`, installs the peers first, and a skipped test is an error.
pub fn run(all: bool) -> Result<()> {
    let start = Instant::now();
    if all {
        peers::install()?;
    }
    check()?;
    shell::run(&mut cargo(&["build", "--workspace"]))?;
    let environment = environment(all)?;
    let mut total = Tally::default();
    let mut skipped = Vec::new();
    for suite in suite::build()? {
        let (tally, left) = run_suite(&suite, &environment)?;
        total.absorb(tally);
        skipped.extend(left);
    }
    shell::run(cargo(&["test", "--workspace", "--doc", "--quiet"]).stdout(std::process::Stdio::null()))?;
    conclude(&total, &skipped, all, start)
}

fn check() -> Result<()> {
    shell::run(&mut cargo(&["fmt", "--all", "--check"])).context("the code is not formatted; run `cargo fmt --all`")?;
    tidy::run()?;
    shell::run(&mut cargo(&["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"]))?;
    shell::run(cargo(&["doc", "--workspace", "--no-deps", "--quiet"]).env("RUSTDOCFLAGS", "-D warnings"))?;
    generate::run(true)
}

/// How many changes in a row must lose nothing, when there is time for everything.
const ROUNDS: &str = "200";

/// What the tests are told: where the Python peers and the inference engine are, and how long to go on.
fn environment(all: bool) -> Result<Vec<(String, String)>> {
    let mut environment = Vec::new();
    if all && std::env::var_os("MODELYARD_TEST_ROUNDS").is_none() {
        environment.push(("MODELYARD_TEST_ROUNDS".to_owned(), ROUNDS.to_owned()));
    }
    if let Some(python) = peers::python() {
        environment.push(("MODELYARD_TEST_PYTHON".to_owned(), python.display().to_string()));
    }
    if let Some(boot) = peers::boot() {
        environment.push(("MODELYARD_TEST_BOOT".to_owned(), boot.display().to_string()));
    }
    if std::env::var_os("MODELYARD_ONNXRUNTIME").is_none() {
        let cache = shell::root().join("target/peers/home");
        let mut locate = shell::command("target/debug/modelyard", &["onnxruntime"]);
        locate.env("MODELYARD_HOME", &cache);
        let library =
            shell::output(&mut locate).context("the tests need the inference engine, and it could not be had")?;
        environment.push(("MODELYARD_ONNXRUNTIME".to_owned(), library.trim().to_owned()));
    }
    Ok(environment)
}

/// Runs one suite, then those of its ignored tests whose need is met; returns what is left.
fn run_suite(suite: &Suite, environment: &[(String, String)]) -> Result<(Tally, Vec<(String, String)>)> {
    let mut tally = suite.run(&[], environment)?;
    let (can, cannot): (Vec<_>, Vec<_>) =
        std::mem::take(&mut tally.ignored).into_iter().partition(|(_, need)| peers::is_here(need));
    if !can.is_empty() {
        let prefix = format!("{}::", suite.name);
        let names = can.iter().map(|(name, _)| name.strip_prefix(&prefix).unwrap_or(name));
        let arguments: Vec<&str> = ["--ignored", "--exact"].into_iter().chain(names).collect();
        tally.absorb(suite.run(&arguments, environment)?);
    }
    Ok((tally, cannot))
}

fn conclude(total: &Tally, skipped: &[(String, String)], all: bool, start: Instant) -> Result<()> {
    println!();
    for (name, why) in skipped {
        println!("skipped: {name} ({why})");
    }
    for name in &total.failed {
        println!("failed: {name}");
    }
    println!("{} s in all", start.elapsed().as_secs());
    println!("{} passed, {} failed, {} skipped", total.passed, total.failed.len(), skipped.len());
    match (total.failed.len(), all && !skipped.is_empty()) {
        (0, false) => Ok(()),
        (0, true) => bail!("with --all nothing may be skipped"),
        (failed, _) => bail!("{failed} tests failed"),
    }
}
