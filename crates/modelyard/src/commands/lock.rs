//! `modelyard lock [DIR]`: pins what a Python package needs, with hashes, in its `modelyard.lock`.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args;
use modelyard_core::package::{LOCK, Runtime, python_versions};
use modelyard_package::lock;
use modelyard_package::{DESCRIPTION, Description};
use serde_json::json;

use crate::context::Context;
use crate::exit::{Exit, Failed, Usage};
use crate::terminal::Busy;

/// Arguments of `lock`.
#[derive(Debug, Args)]
pub struct Lock {
    /// The model folder, with its `modelyard.toml`.
    #[arg(value_name = "DIR", default_value = ".")]
    folder: PathBuf,
    /// Take the newest versions that fit, rather than those of the lock that is there.
    #[arg(long)]
    upgrade: bool,
}

impl Lock {
    /// Writes the lock.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        let folder = &self.folder;
        let (lock, python) = pin(folder, self.upgrade)?;
        let list: Vec<_> = lock.pins.iter().map(|pin| json!({ "name": pin.name, "version": pin.version })).collect();
        context.print(&json!({ "lock": folder.join(LOCK), "python": python, "pins": list }), || {
            let lines: Vec<String> =
                lock.pins.iter().map(|pin| format!("{} {}  {}", pin.name, pin.version, pin.marker)).collect();
            lines.join("\n")
        })?;
        Ok(Exit::Done)
    }
}

/// Writes the lock of a model folder; also the versions of Python that it is for.
pub fn pin(folder: &Path, upgrade: bool) -> miette::Result<(lock::Lock, String)> {
    let (requirements, python) = needs(folder)?;
    let asked = read(&folder.join(&requirements))?;
    lock::direct(&asked).map_err(|why| Usage::new(why, "a lock is made from names and ranges of versions"))?;
    let scratch = tempfile::tempdir_in(folder).map_err(|error| unwritable(error, folder))?;
    let resolved = scratch.path().join("resolved.txt");
    if !upgrade && folder.join(LOCK).is_file() {
        // What is pinned already stays, as long as it fits.
        std::fs::copy(folder.join(LOCK), &resolved).map_err(|error| unwritable(error, folder))?;
    }
    {
        let _busy = Busy::with("resolving every dependency with uv");
        resolve(&folder.join(&requirements), &resolved, &python)?;
    }
    let pins = String::from_utf8_lossy(&read(&resolved)?).into_owned();
    let text = format!("{}{pins}", lock::heading(&asked, &python));
    let checked = lock::Lock::parse(&text).and_then(|lock| lock.check(&asked, &python).map(|()| lock));
    let lock = checked.map_err(|why| {
        Failed::new(
            format!("uv made no complete lock: {why}"),
            "say what the requirement names on an index; nothing was written",
        )
    })?;
    std::fs::write(&resolved, text).map_err(|error| unwritable(error, folder))?;
    std::fs::rename(&resolved, folder.join(LOCK)).map_err(|error| unwritable(error, folder))?;
    Ok((lock, python))
}

/// The requirements file that the folder's description names, and the versions of Python that it is for.
fn needs(folder: &Path) -> miette::Result<(String, String)> {
    let path = folder.join(DESCRIPTION);
    let text = String::from_utf8_lossy(&read(&path)?).into_owned();
    let description = Description::parse(&text).map_err(|mistakes| {
        let lines: Vec<String> =
            mistakes.iter().map(|mistake| format!("line {}: {}", mistake.line, mistake.what)).collect();
        Usage::new(
            format!("{}: {}", path.display(), lines.join("; ")),
            "every key is described in docs/reference/modelyard-toml.md",
        )
    })?;
    match description.runtime.value {
        Runtime::Python { requirements: Some(requirements), .. } => {
            let python = python_versions(&description.annotations);
            Ok((requirements, python.to_owned()))
        }
        _ => Err(Usage::new(
            "the package has no requirements to lock",
            "name them: [runtime] kind = \"python\", requirements = \"requirements.txt\"",
        )
        .into()),
    }
}

/// The oldest Python that a range lets through: what `uv` resolves from.
fn oldest(range: &str) -> Option<&str> {
    let lower = range
        .split(',')
        .map(str::trim)
        .find_map(|part| [">=", "~=", "=="].iter().find_map(|operator| part.strip_prefix(operator)).map(str::trim));
    lower.map(|version| version.trim_end_matches(".*"))
}

fn resolve(requirements: &Path, into: &Path, python: &str) -> miette::Result<()> {
    let uv = modelyard_serve::python::uv().ok_or_else(|| {
        Failed::new(
            "there is no uv to resolve the dependencies with",
            "install it (`pip install uv`), or name it in MODELYARD_UV",
        )
    })?;
    let mut command = Command::new(uv);
    command.args(["pip", "compile", "--quiet", "--universal", "--generate-hashes", "--no-header", "--no-annotate"]);
    command.args(oldest(python).into_iter().flat_map(|version| ["--python-version", version]));
    command.arg("--output-file").arg(into).arg(requirements).stdin(Stdio::null());
    let output = command
        .output()
        .map_err(|error| Failed::from(error, "could not run uv", "install it, or name it in MODELYARD_UV"))?;
    if output.status.success() {
        return Ok(());
    }
    let said: String = String::from_utf8_lossy(&output.stderr).trim().chars().take(4_000).collect();
    Err(Failed::new(
        format!("uv could not resolve the dependencies: {said}"),
        "indexes and proxies are those of uv; nothing was written",
    )
    .into())
}

fn read(path: &Path) -> Result<Vec<u8>, Failed> {
    std::fs::read(path).map_err(|error| {
        Failed::from(
            error,
            format!("could not read {}", path.display()),
            "name a model folder, with its modelyard.toml",
        )
    })
}

fn unwritable(error: std::io::Error, folder: &Path) -> Failed {
    Failed::from(
        error,
        format!("could not write {}", folder.join(LOCK).display()),
        "the lock that was there is as it was",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_python_of_a_range_is_found() {
        for (range, want) in
            [(">=3.10,<3.14", Some("3.10")), ("==3.11.*", Some("3.11")), ("<4, ~=3.9", Some("3.9")), ("<3.14", None)]
        {
            assert_eq!(oldest(range), want, "{range}");
        }
    }
}
