//! The environment of a `python` package: made once from its lock, then found again by the lock's digest.
//!
//! Promises: what is installed has the hashes of the lock; an environment is whole or not there, also when several processes make it at once, or one is
//! killed while it does; indexes, mirrors and proxies are those that the user set for uv or pip.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use modelyard_core::package::{LOCK, Package, Runtime, python_versions};
use sha2::{Digest as _, Sha256};

use super::Interpreter;

/// Environment variable that names an environment which is there already and is used as it is.
const GIVEN: &str = "MODELYARD_PYTHON_ENVIRONMENT";
/// Environment variable that names the interpreter that environments are made with.
const BASE: &str = "MODELYARD_PYTHON";
/// Environment variable that names uv.
const UV: &str = "MODELYARD_UV";
/// Largest requirements file: ten thousand dependencies with their hashes.
const MOST_BYTES: u64 = 32 << 20;

/// Why there is no environment.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EnvironmentError {
    /// A file or folder cannot be read or written.
    #[error("could not use {}", path.display())]
    File {
        /// It.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is nothing to make it with.
    #[error(
        "there is neither uv nor a Python {0} to make the package's environment with; install one, or name it in MODELYARD_UV or MODELYARD_PYTHON"
    )]
    NoPython(String),
    /// uv is needed, and is not here.
    #[error(
        "uv is needed to gather what the package needs for another machine; install it, or name it in MODELYARD_UV"
    )]
    NoUv,
    /// uv or pip refused.
    #[error("{program} could not make the package's environment: {said}\n{}", what_to_do(said))]
    Refused {
        /// uv or pip.
        program: &'static str,
        /// The end of what it said.
        said: String,
    },
}

/// The interpreter of a package that is laid out in `folder`, with everything that its lock names; made in `cache` if it is not there yet.
///
/// # Errors
/// [`EnvironmentError`]; the cache then has no half environment that anyone would take.
#[tracing::instrument(name = "python.environment", skip_all, fields(package = %package.name), err)]
pub fn prepare(package: &Package, folder: &Path, cache: &Path) -> Result<Interpreter, EnvironmentError> {
    let in_cache = |source| EnvironmentError::File { path: cache.to_owned(), source };
    if let Some(given) = std::env::var_os(GIVEN) {
        return Interpreter::at(Path::new(&given).join("bin/python"), cache).map_err(in_cache);
    }
    let requires = python_versions(&package.annotations);
    let needs = needs(package, folder)?;
    let home = cache.join("python").join(key(requires, needs.as_ref())?);
    let python = home.join("bin/python");
    let whole = home.join("complete");
    if !(whole.is_file() && python.exists()) {
        let _only_us = only_us(&home)?;
        if !(whole.is_file() && python.exists()) {
            tracing::info!(folder = %home.display(), "making the package's Python environment");
            make(&home, requires, needs.as_ref())?;
            File::create(&whole).map_err(|source| EnvironmentError::File { path: whole.clone(), source })?;
        }
    }
    Interpreter::at(python, cache).map_err(in_cache)
}

/// What is installed, and whether only with hashes.
#[derive(Debug)]
struct Needs {
    file: PathBuf,
    hashes: bool,
}

fn needs(package: &Package, folder: &Path) -> Result<Option<Needs>, EnvironmentError> {
    let Runtime::Python { requirements: Some(requirements), locked, .. } = &package.runtime else { return Ok(None) };
    let file = folder.join(if *locked { LOCK } else { requirements });
    // The tools run elsewhere than we do.
    let file = fs::canonicalize(&file).map_err(|source| EnvironmentError::File { path: file, source })?;
    Ok(Some(Needs { file, hashes: *locked }))
}

/// The same for the same lock, and for nothing else.
fn key(requires: &str, needs: Option<&Needs>) -> Result<String, EnvironmentError> {
    let mut hasher = Sha256::new();
    hasher.update(format!("1\n{}-{}\n{requires}\n", std::env::consts::OS, std::env::consts::ARCH));
    if let Some(Needs { file, hashes }) = needs {
        let failed = |source| EnvironmentError::File { path: file.clone(), source };
        let length = fs::metadata(file).map_err(failed)?.len();
        if length > MOST_BYTES {
            return Err(failed(io::Error::other("it has more than 32 MiB")));
        }
        hasher.update(if *hashes { "locked\n" } else { "unlocked\n" });
        hasher.update(fs::read(file).map_err(failed)?);
    }
    Ok(hasher.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect())
}

/// Waits until nobody else makes this environment. What was begun and never finished is removed.
fn only_us(home: &Path) -> Result<File, EnvironmentError> {
    let lock = home.with_extension("lock");
    let open = || {
        fs::create_dir_all(home.parent().unwrap_or(home))?;
        let file = File::options().create(true).truncate(false).write(true).open(&lock)?;
        file.lock()?;
        Ok(file)
    };
    open().map_err(|source| EnvironmentError::File { path: lock.clone(), source })
}

fn make(home: &Path, requires: &str, needs: Option<&Needs>) -> Result<(), EnvironmentError> {
    if home.exists() {
        fs::remove_dir_all(home).map_err(|source| EnvironmentError::File { path: home.to_owned(), source })?;
    }
    let base = std::env::var_os(BASE).map(PathBuf::from);
    if let Some(uv) = uv() {
        let wanted = base.clone().unwrap_or_else(|| PathBuf::from(requires));
        let program = || {
            let mut command = Command::new(&uv);
            command.arg("--quiet").current_dir(home.parent().unwrap_or(home));
            command
        };
        say("uv", program().args(["venv", "--no-project", "--python"]).arg(wanted).arg(home))?;
        let Some(Needs { file, hashes }) = needs else { return Ok(()) };
        let mut install = program();
        install.args(["pip", "install", "--python"]).arg(home.join("bin/python"));
        install.args(hashes.then_some("--require-hashes")).arg("-r").arg(file);
        return say("uv", &mut install);
    }
    let base = base.or_else(|| pythons().find(|python| admits(requires, python)));
    let base = base.ok_or_else(|| EnvironmentError::NoPython(requires.to_owned()))?;
    let mut venv = Command::new(base);
    venv.args(["-m", "venv"]).args(needs.is_none().then_some("--without-pip")).arg(home);
    say("venv", &mut venv)?;
    let Some(Needs { file, hashes }) = needs else { return Ok(()) };
    let mut install = Command::new(home.join("bin/python"));
    install.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-input"]);
    // A lock names everything; what it leaves out is not needed here.
    install.args(hashes.then_some(["--require-hashes", "--no-deps"]).into_iter().flatten()).arg("-r").arg(file);
    say("pip", &mut install)
}

/// What to do about a refusal, as far as its words tell.
fn what_to_do(said: &str) -> &'static str {
    let said = said.to_lowercase();
    let tells = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if tells(&["hash mismatch", "do not match the hashes", "hashes are required", "hash-checking"]) {
        "what the index gives is not what the lock pins: do not trust it; if it is meant, run `modelyard lock --upgrade` and package it again"
    } else if tells(&["no interpreter found", "no python", "requires-python", "requires python"]) {
        "install a Python that `[python] requires` admits, or name one in MODELYARD_PYTHON"
    } else if tells(&["no space left", "disk quota"]) {
        "make room where the home folder is, or name another with MODELYARD_HOME"
    } else {
        "without the index, name a mirror that has everything that the lock names (UV_DEFAULT_INDEX for uv, PIP_INDEX_URL for pip), or an environment that is \
         there already (MODELYARD_PYTHON_ENVIRONMENT)"
    }
}

/// Where uv is, if it is there: `MODELYARD_UV`, the `PATH`, and where its installers put it.
pub fn uv() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os(UV) {
        return Some(PathBuf::from(named)).filter(|path| !path.as_os_str().is_empty());
    }
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let usual = home.iter().flat_map(|home| [home.join(".local/bin"), home.join(".cargo/bin")]);
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).chain(usual).map(|folder| folder.join("uv")).find(|uv| uv.is_file())
}

/// Interpreters by their usual names, the newest first.
fn pythons() -> impl Iterator<Item = PathBuf> {
    let exact = (9..=14).rev().map(|minor| format!("python3.{minor}"));
    ["python3".to_owned()].into_iter().chain(exact).map(PathBuf::from)
}

/// Whether the interpreter runs, and its version is in the range.
fn admits(requires: &str, python: &Path) -> bool {
    let asked =
        Command::new(python).args(["-I", "-c", "import sys; print('%d.%d.%d' % sys.version_info[:3])"]).output();
    asked.is_ok_and(|output| output.status.success() && within(requires, &String::from_utf8_lossy(&output.stdout)))
}

/// Whether a version such as `3.11.2` is in a range such as `>=3.9,<3.14`.
///
/// Source: PyPA "Version specifiers", for versions of numbers alone.
pub(super) fn within(requires: &str, version: &str) -> bool {
    let numbers = |text: &str| text.trim().split('.').map(|part| part.parse().ok()).collect::<Option<Vec<u32>>>();
    let padded = |mut list: Vec<u32>| {
        list.resize(list.len().max(4), 0);
        list
    };
    let Some(have) = numbers(version) else { return false };
    requires.split(',').map(str::trim).filter(|part| !part.is_empty()).all(|part| {
        let at = part.find(|letter: char| letter.is_ascii_digit()).unwrap_or(part.len());
        let (operator, wanted) = (part[..at].trim(), part[at..].trim());
        let (Some(want), prefix) = (numbers(wanted.trim_end_matches(".*")), wanted.ends_with(".*")) else {
            return false;
        };
        let order = padded(have.clone()).cmp(&padded(want.clone()));
        let same = if prefix { have.starts_with(&want) } else { order.is_eq() };
        match operator {
            ">=" => order.is_ge(),
            "<=" => order.is_le(),
            ">" => order.is_gt(),
            "<" => order.is_lt(),
            "==" => same,
            "!=" => !same,
            "~=" => order.is_ge() && have.starts_with(&want[..want.len().saturating_sub(1)]),
            _ => false,
        }
    })
}

/// Runs a tool; what it says when it fails is told by its last lines.
pub(super) fn say(program: &'static str, command: &mut Command) -> Result<(), EnvironmentError> {
    let refused = |said: String| EnvironmentError::Refused { program, said };
    let output = command.stdin(Stdio::null()).output().map_err(|error| refused(error.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.is_empty()).collect();
    Err(refused(lines[lines.len().saturating_sub(12)..].join("\n").chars().take(4_000).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_say_what_to_do() {
        for (said, what) in [
            ("error: Hash mismatch for `six==1.17.0`", "modelyard lock --upgrade"),
            ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.", "do not trust it"),
            ("error: No interpreter found for Python >=3.99", "MODELYARD_PYTHON"),
            ("Failed to fetch: tcp connect error", "UV_DEFAULT_INDEX"),
            ("ERROR: No matching distribution found for six==1.17.0", "PIP_INDEX_URL"),
        ] {
            let told = EnvironmentError::Refused { program: "uv", said: said.to_owned() }.to_string();
            assert!(told.contains(said) && told.contains(what), "{told}");
        }
    }

    #[test]
    fn versions_are_held_against_ranges() {
        for (requires, version) in [
            (">=3.9", "3.11.7"),
            (">=3.9,<3.14", "3.13.0"),
            ("==3.11.*", "3.11.7"),
            ("~=3.9", "3.12.1"),
            ("!=3.10.*", "3.11.0"),
        ] {
            assert!(within(requires, version), "{requires} {version}");
        }
        for (requires, version) in [
            (">=3.12", "3.11.7"),
            ("<3.11", "3.11.0"),
            ("==3.11", "3.11.7"),
            ("~=3.9.1", "3.10.0"),
            ("", "x"),
            ("x", "3.11"),
        ] {
            assert!(!within(requires, version), "{requires} {version}");
        }
    }
}
