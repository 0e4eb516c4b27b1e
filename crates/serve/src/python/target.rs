//! A package's dependencies as files, for another machine: what goes into a container image.
//!
//! Promises: what is installed has the hashes of the lock and was built elsewhere: no code of it runs here.
//! Absent on purpose: dependencies that are not locked, and those that only exist as source.

use std::path::Path;
use std::process::Command;

use modelyard_core::package::{LOCK, Package, Runtime, python_versions};

use super::environment::{EnvironmentError, say, uv, within};

/// Versions of the GNU C library that uv knows platforms of, by their minor number. Source: uv, `--python-platform`.
const PLATFORMS: [u32; 12] = [17, 28, 31, 32, 33, 34, 35, 36, 37, 38, 39, 40];

/// Whether a Python, such as `3.12`, is one that the package is for.
pub fn is_for(package: &Package, python: &str) -> bool {
    let requires = python_versions(&package.annotations);
    // The last part is not known: some version of it must do.
    [0, 99].iter().any(|last| within(requires, &format!("{python}.{last}")))
}

/// Installs what the lock of a package names into the folder `into`, for Linux with a C library 2.`glibc` and that Python.
///
/// # Errors
/// [`EnvironmentError`]; the folder is of no use then.
pub fn install(
    package: &Package,
    folder: &Path,
    into: &Path,
    python: &str,
    glibc: u32,
) -> Result<(), EnvironmentError> {
    let Runtime::Python { requirements: Some(_), .. } = &package.runtime else { return Ok(()) };
    let uv = uv().ok_or(EnvironmentError::NoUv)?;
    let lock = folder.join(LOCK);
    let lock = std::fs::canonicalize(&lock).map_err(|source| EnvironmentError::File { path: lock, source })?;
    let minor = PLATFORMS.iter().copied().filter(|&minor| minor <= glibc).max().unwrap_or(PLATFORMS[0]);
    let mut install = Command::new(uv);
    install.args(["--quiet", "pip", "install", "--require-hashes", "--only-binary", ":all:", "--link-mode", "copy"]);
    install.args(["--no-compile-bytecode", "--python-version", python, "--python-platform"]);
    install.arg(format!("{}-manylinux_2_{minor}", std::env::consts::ARCH));
    install.arg("--target").arg(into).arg("-r").arg(lock).current_dir(into.parent().unwrap_or(into));
    say("uv", &mut install)
}
