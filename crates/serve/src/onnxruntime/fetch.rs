//! Fetching the pinned wheel with the user's pip or uv, and taking the library out of it.
//!
//! Promises: the wheel's SHA-256 is checked before it is opened; the library appears in the cache whole or not at all, and
//! two processes that fetch at once do no harm.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use sha2::{Digest, Sha256};

use super::{LocateError, PINNED};

/// The wheel of one platform. Source: the digests that the index publishes for onnxruntime 1.32.0, checked by download.
struct Wheel {
    machine: &'static str,
    sha256: &'static str,
}

const WHEELS: [Wheel; 2] = [
    Wheel { machine: "x86_64", sha256: "99e1074c4b2197accd5073052a465361be17b89c093b8ffb6e6bd8f986c52df8" },
    Wheel { machine: "aarch64", sha256: "e36c187006e7a7c8b8d6d57f1a209dd63f52430dca6c282b177718ad6b841054" },
];

/// Largest library that is unpacked: the pinned one has 35 MB.
const MAX_LIBRARY_BYTES: u64 = 256 << 20;

/// Where the cache keeps the library.
pub(super) fn cached(cache: &Path) -> PathBuf {
    cache.join("onnxruntime").join(format!("libonnxruntime.so.{PINNED}"))
}

/// Fetches the wheel and keeps its library at `kept`.
pub(super) fn fetch(kept: &Path, skipped: Vec<String>) -> Result<PathBuf, LocateError> {
    let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
    let Some(wheel) = WHEELS.iter().find(|wheel| os == "linux" && wheel.machine == arch) else {
        return Err(LocateError::Platform { platform: format!("{os}-{arch}"), skipped });
    };
    let folder = kept.parent().unwrap_or(kept);
    let cache_error = |source| LocateError::Cache { path: folder.to_owned(), source };
    std::fs::create_dir_all(folder).map_err(cache_error)?;
    let scratch = tempfile::tempdir_in(folder).map_err(cache_error)?;
    tracing::info!(version = PINNED, "fetching ONNX Runtime");
    let file = download(wheel, scratch.path(), skipped)?;
    verify(&file, wheel)?;
    let unpacked = scratch.path().join("library");
    unpack(&file, &unpacked).map_err(cache_error)?;
    std::fs::rename(&unpacked, kept).map_err(cache_error)?;
    Ok(kept.to_owned())
}

/// Ways to get the wheel, best first. The flags name the wheel's Python and platform, so that any Python on the host will do.
fn commands(wheel: &Wheel, into: &Path) -> Vec<Command> {
    let requirement = format!("onnxruntime=={PINNED}");
    let pip = |program: &str, before: &[&str]| {
        let mut command = Command::new(program);
        command.args(before).args(["download", "--quiet", "--disable-pip-version-check", "--no-deps"]);
        command.args(["--only-binary=:all:", "--implementation", "cp", "--python-version", "3.12"]);
        command
            .args(["--platform", &format!("manylinux_2_28_{}", wheel.machine), "--dest"])
            .arg(into)
            .arg(&requirement);
        command
    };
    let uv = {
        // uv has no `download`: it runs pip in a throw-away environment, with its own index settings.
        let mut command = Command::new("uv");
        command.args(["tool", "run", "--quiet", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]);
        command.args(["--implementation", "cp", "--python-version", "3.12"]);
        command
            .args(["--platform", &format!("manylinux_2_28_{}", wheel.machine), "--dest"])
            .arg(into)
            .arg(&requirement);
        command
    };
    let module = &["-m", "pip"][..];
    vec![pip("python3", module), pip("python", module), pip("pip3", &[]), pip("pip", &[]), uv]
}

/// Runs the commands until one brings the wheel.
fn download(wheel: &Wheel, into: &Path, skipped: Vec<String>) -> Result<PathBuf, LocateError> {
    let mut reasons = Vec::new();
    for mut command in commands(wheel, into) {
        let name = command.get_program().to_string_lossy().into_owned();
        match command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).output() {
            Ok(output) if output.status.success() => match wheel_in(into) {
                Some(file) => return Ok(file),
                None => reasons.push(format!("{name}: brought no wheel")),
            },
            // A Python without pip is as good as no Python.
            Ok(output) if String::from_utf8_lossy(&output.stderr).contains("No module named pip") => {}
            Ok(output) => reasons.push(format!("{name}: {}", last_line(&output.stderr))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => reasons.push(format!("{name}: {error}")),
        }
    }
    match reasons.is_empty() {
        true => Err(LocateError::NoFetcher { skipped }),
        false => Err(LocateError::Fetch { reason: reasons.join("; "), skipped }),
    }
}

fn last_line(stderr: &[u8]) -> String {
    let text = String::from_utf8_lossy(stderr);
    let mut lines = text.lines().map(str::trim).rev();
    lines.find(|line| !line.is_empty()).unwrap_or("failed without a word").chars().take(300).collect()
}

fn wheel_in(folder: &Path) -> Option<PathBuf> {
    let entries = std::fs::read_dir(folder).ok()?.flatten();
    entries.map(|entry| entry.path()).find(|path| path.extension().is_some_and(|extension| extension == "whl"))
}

fn verify(file: &Path, wheel: &Wheel) -> Result<(), LocateError> {
    let digest = || -> io::Result<String> {
        let mut hasher = Sha256::new();
        let mut source = File::open(file)?;
        let mut buffer = vec![0; 1 << 16];
        loop {
            match source.read(&mut buffer)? {
                0 => break,
                read => hasher.update(&buffer[..read]),
            }
        }
        Ok(hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
    };
    let found = digest().map_err(|source| LocateError::Cache { path: file.to_owned(), source })?;
    if found == wheel.sha256 {
        return Ok(());
    }
    let name = file.file_name().unwrap_or_default().to_string_lossy().into_owned();
    Err(LocateError::Digest { wheel: name, found, pinned: wheel.sha256 })
}

/// Takes the library out of the wheel, to a file that only this process knows yet.
fn unpack(file: &Path, to: &Path) -> io::Result<()> {
    let mut archive = zip::ZipArchive::new(File::open(file)?).map_err(io::Error::other)?;
    let member = format!("onnxruntime/capi/libonnxruntime.so.{PINNED}");
    let entry = archive.by_name(&member).map_err(io::Error::other)?;
    let mut target = File::create(to)?;
    let size = entry.size();
    if size > MAX_LIBRARY_BYTES || io::copy(&mut entry.take(MAX_LIBRARY_BYTES), &mut target)? != size {
        return Err(io::Error::other(format!("{member} has an unbelievable size")));
    }
    target.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_flags_fit_any_python() {
        let commands = commands(&WHEELS[0], Path::new("/into"));
        let line: Vec<_> = commands[0].get_args().map(|arg| arg.to_string_lossy()).collect();
        assert_eq!(line.last().unwrap(), &format!("onnxruntime=={PINNED}"));
        assert!(line.windows(2).any(|pair| pair == ["--platform", "manylinux_2_28_x86_64"]), "{line:?}");
    }

    #[test]
    fn another_wheel_is_refused_by_its_digest() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("onnxruntime.whl");
        std::fs::write(&file, b"not the wheel").unwrap();
        let error = verify(&file, &WHEELS[0]).unwrap_err().to_string();
        assert!(error.contains(WHEELS[0].sha256) && error.contains("thrown away"), "{error}");
    }

    #[test]
    #[ignore = "needs pip and a package index"]
    fn the_pinned_wheel_is_fetched_checked_and_unpacked() {
        let cache = tempfile::tempdir().unwrap();
        let kept = fetch(&cached(cache.path()), Vec::new()).unwrap();
        assert!(std::fs::metadata(&kept).unwrap().len() > 10 << 20);
        assert_eq!(std::fs::read_dir(kept.parent().unwrap()).unwrap().count(), 1, "scratch files were left");
    }
}
