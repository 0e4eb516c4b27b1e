//! Bringing Modelyard itself to a machine, so that nothing is installed by hand: its own program, and ONNX Runtime.
//!
//! Promises: a file appears under its digest, whole and checked, or not at all; a machine that cannot run the program is told of before anything of it
//! is started there.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use modelyard_core::Digest;
use sha2::{Digest as _, Sha256};

use super::command::over;
use super::master::Ssh;

/// A question to a machine that is there.
const LOOK_LIMIT: Duration = Duration::from_secs(30);
/// A hundred megabytes over a slow line.
const COPY_LIMIT: Duration = Duration::from_secs(900);

/// The program's name there.
pub const PROGRAM: &str = "modelyard";

// `$1` is the folder, `$2` the digest, `$3` the file's name.
const LOOK: &str = r#"uname -s && uname -m && if [ -f "$1/bin/$2/$3" ]; then echo there; else echo absent; fi"#;

// The program must be able to say its version, or it is not kept: another C library shows only then.
const PUT: &str = concat!(
    r#"umask 077; d="$1/bin/$2"; p="$d/.part.$$"; mkdir -p "$d" && cat > "$p" && chmod 700 "$p" || { rm -f "$p"; exit 1; }; "#,
    r#"if [ "$(sha256sum < "$p" | cut -c1-64)" != "$2" ]; then rm -f "$p"; echo "the copy is damaged" >&2; exit 1; fi; "#,
    r#"if [ "$3" = modelyard ] && ! "$p" --version > /dev/null; then rm -f "$p"; echo "it does not run there" >&2; exit 1; fi; "#,
    r#"mv -f "$p" "$d/$3""#
);

/// Runs the program in the folder; `$3` and `$4` are further words for it.
pub const RUN: &str = r#"exec "$1/bin/$2/modelyard" --home "$1" target $3"#;

/// Digests of files of this machine: each is read once for as long as it does not change.
#[derive(Debug, Default)]
pub struct Hashes(Mutex<HashMap<PathBuf, Known>>);

/// When a file was last written, its length in bytes, and its digest in hexadecimal.
type Known = (io::Result<SystemTime>, u64, String);

impl Hashes {
    fn of(&self, path: &Path) -> io::Result<String> {
        let meta = path.metadata()?;
        let (modified, length) = (meta.modified(), meta.len());
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((then, size, hex)) = known.get(path)
            && matches!((then, &modified), (Ok(then), Ok(now)) if then == now)
            && *size == length
        {
            return Ok(hex.clone());
        }
        let (mut file, mut sha, mut chunk) = (File::open(path)?, Sha256::new(), vec![0; 256 << 10]);
        loop {
            match file.read(&mut chunk)? {
                0 => break,
                count => sha.update(&chunk[..count]),
            }
        }
        let hex = Digest::from_sha256(sha.finalize().into()).hex();
        known.insert(path.to_owned(), (modified, length, hex.clone()));
        Ok(hex)
    }
}

/// Copies a file to `<folder>/bin/<digest>/<name>` there, unless it is there already; the digest in hexadecimal.
///
/// # Errors
/// When the machine is of another kind, or cannot take or run it: in words.
pub async fn put(
    ssh: &Ssh,
    hashes: std::sync::Arc<Hashes>,
    folder: &str,
    file: &Path,
    name: &str,
) -> Result<String, String> {
    let path = file.to_owned();
    let unreadable = |error: &dyn std::fmt::Display| format!("{} cannot be read: {error}", file.display());
    let hex = tokio::task::spawn_blocking(move || hashes.of(&path)).await;
    let hex = hex.map_err(|error| unreadable(&error))?.map_err(|error| unreadable(&error))?;
    let looked = ssh.run(over(LOOK, &[folder, &hex, name]), None, LOOK_LIMIT).await;
    let looked = looked.map_err(|why| format!("it cannot be looked at: {why}"))?;
    let said: Vec<&str> = looked.lines().map(str::trim).collect();
    // A login shell may say something before.
    let [.., system, processor, found] = said.as_slice() else {
        return Err(format!("it did not say what kind of machine it is, but: {}", looked.escape_debug()));
    };
    fits(system, processor)?;
    if *found != "there" {
        let input = File::open(file).map_err(|error| unreadable(&error))?;
        let copied = ssh.run(over(PUT, &[folder, &hex, name]), Some(input), COPY_LIMIT).await;
        copied.map_err(|why| format!("{name} cannot be brought there: {why}"))?;
        tracing::info!(%name, digest = %hex, "copied to a machine");
    }
    Ok(hex)
}

/// Whether a machine that says this of itself can run what this one runs.
fn fits(system: &str, processor: &str) -> Result<(), String> {
    let own = std::env::consts::ARCH;
    // What the kernel says, in the compiler's words.
    let theirs = match processor {
        "amd64" => "x86_64",
        "arm64" => "aarch64",
        other => other,
    };
    match system == "Linux" && theirs == own {
        true => Ok(()),
        false => Err(format!(
            "it is {} {}, and this Modelyard is built for Linux {own}: take a machine of the same kind",
            system.escape_debug(),
            processor.escape_debug()
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_kind_of_machine_is_told_of() {
        assert_eq!(fits("Linux", std::env::consts::ARCH), Ok(()));
        assert!(fits("Linux", "mips").unwrap_err().contains("it is Linux mips"));
        assert!(fits("Darwin", std::env::consts::ARCH).is_err());
    }

    #[test]
    fn a_file_that_changed_is_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let (file, hashes) = (folder.path().join("x"), Hashes::default());
        std::fs::write(&file, "abc").unwrap();
        let first = hashes.of(&file).unwrap();
        assert_eq!(first, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        std::fs::write(&file, "abcd").unwrap();
        assert_ne!(hashes.of(&file).unwrap(), first);
    }
}
