//! Test executables: found through cargo, run one by one, so that every skipped test can be named with its reason.

use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::shell::cargo;

/// One test executable.
pub struct Suite {
    /// Package and target, for people.
    pub name: String,
    executable: PathBuf,
    folder: PathBuf,
}

/// What came of a run.
#[derive(Default)]
pub struct Tally {
    pub passed: usize,
    pub failed: Vec<String>,
    /// Test and the reason why it did not run.
    pub ignored: Vec<(String, String)>,
}

/// Builds every test executable of the workspace.
pub fn build() -> Result<Vec<Suite>> {
    let mut build = cargo(&["test", "--workspace", "--no-run", "--message-format=json"]);
    let mut child = build.stdout(Stdio::piped()).spawn().context("could not start cargo")?;
    let stdout = child.stdout.take().context("cargo has no standard output")?;
    let mut suites = Vec::new();
    for line in BufReader::new(stdout).lines() {
        suites.extend(suite_of(&line.context("could not read what cargo printed")?));
    }
    match child.wait().context("cargo vanished")?.success() {
        true => Ok(suites),
        false => bail!("the tests do not build"),
    }
}

fn suite_of(line: &str) -> Option<Suite> {
    let message: Value = serde_json::from_str(line).ok()?;
    if let Some(text) = message.pointer("/message/rendered").and_then(Value::as_str) {
        eprint!("{text}");
    }
    message.pointer("/profile/test")?.as_bool().filter(|&test| test)?;
    let executable = PathBuf::from(message.get("executable")?.as_str()?);
    let folder = PathBuf::from(message.get("manifest_path")?.as_str()?).parent()?.to_owned();
    let package = folder.file_name()?.to_string_lossy().into_owned();
    let target = message.pointer("/target/name")?.as_str()?;
    Some(Suite { name: format!("{package}/{target}"), executable, folder })
}

impl Suite {
    /// Runs the tests that `arguments` choose (see libtest), output passed through.
    pub fn run(&self, arguments: &[&str], environment: &[(String, String)]) -> Result<Tally> {
        println!("\n── {} {}", self.name, arguments.join(" "));
        let mut command = Command::new(&self.executable);
        command.args(arguments).current_dir(&self.folder).env("CARGO_MANIFEST_DIR", &self.folder);
        command.envs(environment.iter().map(|(key, value)| (key, value)));
        let mut child =
            command.stdout(Stdio::piped()).spawn().with_context(|| format!("could not start {}", self.name))?;
        let stdout = child.stdout.take().context("the tests have no standard output")?;
        let mut tally = Tally::default();
        for line in BufReader::new(stdout).lines() {
            let line = line.context("could not read what the tests printed")?;
            println!("{line}");
            tally.note(&self.name, &line);
        }
        let status = child.wait().context("the tests vanished")?;
        if !status.success() && tally.failed.is_empty() {
            tally.failed.push(format!("{} ended with {status}", self.name));
        }
        Ok(tally)
    }
}

impl Tally {
    /// Reads one line of libtest's output: `test NAME ... ok|FAILED|ignored, REASON`.
    fn note(&mut self, suite: &str, line: &str) {
        let Some((name, result)) = line.strip_prefix("test ").and_then(|rest| rest.rsplit_once(" ... ")) else {
            return;
        };
        let name = format!("{suite}::{}", name.trim_end_matches(" - should panic"));
        match result.split_once(", ").unwrap_or((result, "no reason given")) {
            ("ok", _) => self.passed += 1,
            ("ignored", reason) => self.ignored.push((name, reason.to_owned())),
            (other, _) if other.starts_with("FAILED") => self.failed.push(name),
            _ => {}
        }
    }

    /// Adds another run's results, its ignored tests apart.
    pub fn absorb(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed.extend(other.failed);
    }
}
