//! `cargo xtask tidy`: what the compiler does not check about the structure.
//!
//! Each rule says what is wrong and what to do. Rules are listed in ARCHITECTURE.md.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};

use crate::circles;
use crate::shell::{self, command, root};

/// Which crates each crate may use. An arrow that is missing here is a decision: write it down in docs/decisions/ first.
const ARROWS: [(&str, &[&str]); 12] = [
    ("core", &[]),
    ("rollout", &["core"]),
    ("rehearse", &["core", "rollout"]),
    ("package", &["core", "registry"]),
    ("registry", &["core"]),
    ("serve", &["core"]),
    ("gateway", &["core"]),
    ("targets", &["core"]),
    ("guest", &["core"]),
    ("monitor", &["core", "rollout"]),
    ("control", &["core", "rollout", "monitor", "registry", "targets"]),
    (
        "modelyard",
        &[
            "core", "rollout", "package", "registry", "serve", "gateway", "targets", "monitor", "control", "rehearse",
            "guest",
        ],
    ),
];

/// Everything that the pure crates may depend on: values and their text forms, nothing that acts.
const PURE: [&str; 7] = ["modelyard-core", "serde", "serde_json", "strsim", "thiserror", "half", "twox-hash"];

/// Longest allowed source file in lines. What is longer wants walls: split it by reason to change.
const MAX_LINES: usize = 600;

/// Runs every rule over the tracked files.
pub fn run() -> Result<()> {
    let files = tracked()?;
    let mut wrong = Vec::new();
    arrows(&mut wrong)?;
    for file in &files {
        look_at(file, &mut wrong);
    }
    wrong.extend(circles::find(&files, |file| read(file).ok()));
    features(&mut wrong)?;
    invariants(&mut wrong)?;
    match wrong.as_slice() {
        [] => {
            println!("tidy: {} files in order", files.len());
            Ok(())
        }
        wrong => bail!("not tidy:\n  {}", wrong.join("\n  ")),
    }
}

fn tracked() -> Result<Vec<String>> {
    let list = shell::output(&mut command("git", &["ls-files", "--cached", "--others", "--exclude-standard"]))?;
    Ok(list.lines().filter(|file| root().join(file).is_file()).map(str::to_owned).collect())
}

fn read(file: &str) -> Result<String> {
    std::fs::read_to_string(root().join(file)).with_context(|| format!("could not read {file}"))
}

/// Names in the `[dependencies]` table of a crate's manifest.
fn dependencies(manifest: &str) -> Vec<&str> {
    let table = manifest.split("\n[dependencies]\n").nth(1).unwrap_or_default();
    let lines = table.lines().take_while(|line| !line.starts_with('['));
    lines
        .filter_map(|line| line.split(['.', ' ', '=']).next())
        .filter(|name| !name.is_empty() && !name.starts_with('#'))
        .collect()
}

fn arrows(wrong: &mut Vec<String>) -> Result<()> {
    for (krate, allowed) in ARROWS {
        let manifest = read(&format!("crates/{krate}/Cargo.toml"))?;
        let names = dependencies(&manifest);
        for used in names.iter().filter_map(|name| name.strip_prefix("modelyard-")) {
            if !allowed.contains(&used) {
                wrong
                    .push(format!("crates/{krate}: must not use modelyard-{used} (see the arrows in ARCHITECTURE.md)"));
            }
        }
        let pure = matches!(krate, "core" | "rollout");
        for name in names.iter().filter(|name| pure && !PURE.contains(name)) {
            wrong.push(format!("crates/{krate}: is pure and must not depend on {name}"));
        }
    }
    Ok(())
}

/// Words that belong to nobody's project: paths of one machine and host names of package registries. Written in two halves so that this file passes.
const FOREIGN: [(&str, &str); 8] = [
    ("/work", "/main"),
    ("/work", "/shared"),
    ("farm", "-bench"),
    ("farm", "-studio"),
    ("pypi", ".org"),
    ("files.python", "hosted.org"),
    ("registry.npm", "js.org"),
    ("static.crates", ".io"),
];

fn look_at(file: &str, wrong: &mut Vec<String>) {
    let Ok(text) = read(file) else { return };
    if file != "Cargo.lock" {
        for (one, two) in FOREIGN {
            if text.contains(&format!("{one}{two}")) {
                wrong.push(format!("{file}: speaks of `{one}{two}`, which is no concern of the project"));
            }
        }
    }
    if file.ends_with(".rs") && !file.contains("/generated/") {
        let lines = text.lines().count();
        if lines > MAX_LINES {
            wrong.push(format!("{file}: {lines} lines; split it (limit {MAX_LINES})"));
        }
        if !text.starts_with("//!") {
            wrong.push(format!("{file}: begins without a `//!` header that says what it is"));
        }
    }
}

/// Every row of docs/features.md that is said to be done names a test that exists.
fn features(wrong: &mut Vec<String>) -> Result<()> {
    let table = read("docs/features.md")?;
    let mut seen = BTreeSet::new();
    for line in table.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| row")) {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [row, _, state, proof] = cells[..] else { continue };
        if row.starts_with('-') {
            continue;
        }
        if !seen.insert(row) {
            wrong.push(format!("docs/features.md: row {row} stands twice"));
        }
        if state == "done" && proof.is_empty() {
            wrong.push(format!("docs/features.md: row {row} is done, but no test proves it"));
        }
        for test in proof.split(',').map(|test| test.trim().trim_matches('`')).filter(|test| !test.is_empty()) {
            prove(row, test, wrong);
        }
    }
    Ok(())
}

/// `FILE::TEST` must name a function of that file (or just a file that exists, for peers' scripts).
fn prove(row: &str, test: &str, wrong: &mut Vec<String>) {
    let (file, name) = test.split_once("::").unwrap_or((test, ""));
    match read(file) {
        Err(_) => wrong.push(format!("docs/features.md: row {row} names {file}, which is not there")),
        Ok(text)
            if !name.is_empty() && !text.contains(&format!("fn {name}(")) && !text.contains(&format!("{name} {{")) =>
        {
            wrong.push(format!("docs/features.md: row {row} names {test}, but {file} has no such test"));
        }
        Ok(_) => {}
    }
}

/// Numbered invariants of ARCHITECTURE.md are numbered once each and say what guards them.
fn invariants(wrong: &mut Vec<String>) -> Result<()> {
    let text = read("ARCHITECTURE.md")?;
    let mut numbers: BTreeMap<&str, usize> = BTreeMap::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("- **")) {
        let Some((number, rest)) = line.split_once("** ") else { continue };
        *numbers.entry(number).or_default() += 1;
        if !rest.contains("Guard:") {
            wrong.push(format!("ARCHITECTURE.md: invariant {number} does not say what guards it (`Guard: …`)"));
        }
    }
    wrong.extend(
        numbers.iter().filter(|&(_, &n)| n > 1).map(|(number, _)| format!("ARCHITECTURE.md: {number} stands twice")),
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::dependencies;

    #[test]
    fn dependencies_are_read_from_their_table_only() {
        let manifest = "[package]\nname = \"x\"\n\n[dependencies]\nserde.workspace = true\nort = { a = 1 }\n\n[dev-dependencies]\ntokio = \"1\"\n";
        assert_eq!(dependencies(manifest), ["serde", "ort"]);
    }
}
