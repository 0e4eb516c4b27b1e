//! `cargo xtask gen`: the parts of the reference that the program itself knows best.

use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::shell::{self, cargo, root};

/// What the hidden command `modelyard reference WHAT` prints, and the file that keeps it.
const GENERATED: [(&str, &str); 5] = [
    ("cli", "docs/reference/cli.md"),
    ("schema-package", "docs/reference/schema/modelyard.toml.json"),
    ("schema-environment", "docs/reference/schema/environment.toml.json"),
    ("service-page", "docs/reference/service-toml.md"),
    ("schema-service", "docs/reference/schema/service.toml.json"),
];

/// Writes every generated file, or with `check` fails when one is not current.
pub fn run(check: bool) -> Result<()> {
    shell::run(&mut cargo(&["build", "--quiet", "-p", "modelyard"]))?;
    let program = root().join("target/debug/modelyard");
    let mut stale = Vec::new();
    for (what, file) in GENERATED {
        let fresh = shell::output(std::process::Command::new(&program).args(["reference", what]))?;
        if write(&root().join(file), &fresh, check)? {
            stale.push(file);
        }
    }
    match (stale.as_slice(), check) {
        ([], _) => Ok(()),
        (stale, true) => bail!("not current: {}; run `cargo xtask gen` and commit", stale.join(", ")),
        (stale, false) => {
            println!("written: {}", stale.join(", "));
            Ok(())
        }
    }
}

/// Whether `file` differed from `fresh`; unless `check`, it no longer does.
fn write(file: &Path, fresh: &str, check: bool) -> Result<bool> {
    if std::fs::read_to_string(file).is_ok_and(|old| old == fresh) {
        return Ok(false);
    }
    if !check {
        let folder = file.parent().context("a generated file has no folder")?;
        std::fs::create_dir_all(folder).with_context(|| format!("could not make {}", folder.display()))?;
        std::fs::write(file, fresh).with_context(|| format!("could not write {}", file.display()))?;
    }
    Ok(true)
}
