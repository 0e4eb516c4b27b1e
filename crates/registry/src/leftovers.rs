//! Temporary files and folders: how they are made, and how those of writers that were killed are removed.
//!
//! Promises: what a living writer holds is never touched, in whichever process it lives: it holds a lock until it is done.
//! Absent on purpose: process ids, which say nothing across containers that share a folder.

use std::fs::{self, File};
use std::io;
use std::path::Path;
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, flock};
use tempfile::{NamedTempFile, TempDir};

/// What every temporary name starts with.
const PREFIX: &str = ".incoming-";

/// A minute covers the moment between making a file and locking it, on the slowest disk.
const YOUNG: Duration = Duration::from_secs(60);

/// A file that is removed unless it is given its final name.
pub(crate) fn file_in(folder: &Path) -> io::Result<NamedTempFile> {
    let file = tempfile::Builder::new().prefix(PREFIX).tempfile_in(folder)?;
    flock(file.as_file(), FlockOperation::NonBlockingLockExclusive)?;
    Ok(file)
}

/// A folder that is removed unless it is given its final name, and the lock that says that it is in use.
pub(crate) fn folder_in(folder: &Path) -> io::Result<(TempDir, File)> {
    let made = tempfile::Builder::new().prefix(PREFIX).tempdir_in(folder)?;
    let lock = File::open(made.path())?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
    Ok((made, lock))
}

/// Removes what dead writers left in `folder`. What cannot be looked at or removed stays: nobody depends on its being gone.
pub(crate) fn sweep(folder: &Path) {
    let Ok(entries) = fs::read_dir(folder) else { return };
    for entry in entries.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(PREFIX)) {
        let _ = remove_if_dead(&entry.path());
    }
}

fn remove_if_dead(path: &Path) -> io::Result<()> {
    let facts = fs::symlink_metadata(path)?;
    let age = SystemTime::now().duration_since(facts.modified()?).unwrap_or_default();
    if age < YOUNG || facts.is_symlink() {
        return Ok(());
    }
    let lock = File::open(path)?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
    if facts.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn age(path: &Path) {
        let old = SystemTime::now() - 2 * YOUNG;
        File::open(path).unwrap().set_modified(old).unwrap();
    }

    #[test]
    fn only_what_is_old_and_unlocked_is_removed() {
        let home = tempfile::tempdir().unwrap();
        let held = file_in(home.path()).unwrap();
        let (held_folder, _lock) = folder_in(home.path()).unwrap();
        age(held.path());
        age(held_folder.path());
        let at = |name: &str| home.path().join(name);
        for name in [".incoming-dead", ".incoming-young", "blob"] {
            fs::write(at(name), "x").unwrap();
        }
        fs::create_dir(at(".incoming-dead-folder")).unwrap();
        fs::write(at(".incoming-dead-folder").join("x"), "x").unwrap();
        [".incoming-dead", "blob", ".incoming-dead-folder"].iter().for_each(|name| age(&at(name)));
        sweep(home.path());
        assert!(held.path().exists() && held_folder.path().exists(), "a living writer lost its work");
        assert!(at(".incoming-young").exists() && at("blob").exists());
        assert!(!at(".incoming-dead").exists() && !at(".incoming-dead-folder").exists());
        sweep(&at("no such folder"));
    }
}
