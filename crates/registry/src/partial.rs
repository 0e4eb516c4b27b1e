//! Downloads that broke off: kept under a name of their own, so that the next call goes on where they stood, until nobody came back for them.
//!
//! Promises: one writer at a time; what a living writer holds is never removed.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use rustix::fs::{FlockOperation, flock};

use crate::leftovers;

/// How the names of all of them end.
pub(crate) const SUFFIX: &str = "part";

/// A download that was given up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Left {
    /// Where it lies.
    pub path: PathBuf,
    /// How much of it arrived.
    pub bytes: u64,
}

/// Opens a download where it stands, for this writer alone.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    let file = File::options().create(true).truncate(false).read(true).write(true).open(path)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive).map_err(|error| match error {
        rustix::io::Errno::WOULDBLOCK => io::Error::other("it is being downloaded by another command"),
        error => error.into(),
    })?;
    Ok(file)
}

/// Removes the downloads in `folder` that nobody went on with for `older_than`, or says which those are.
///
/// # Errors
/// The folder cannot be read. A file that cannot be removed is left out of what is told.
pub fn sweep(folder: &Path, older_than: Duration, dry_run: bool) -> io::Result<Vec<Left>> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    if !dry_run {
        leftovers::sweep(folder);
    }
    let paths = entries.flatten().map(|entry| entry.path());
    let parts = paths.filter(|path| path.extension().is_some_and(|end| end == SUFFIX));
    let mut left: Vec<Left> = parts.filter_map(|path| given_up(path, older_than, dry_run).ok().flatten()).collect();
    left.sort_by(|one, other| one.path.cmp(&other.path));
    Ok(left)
}

fn given_up(path: PathBuf, older_than: Duration, dry_run: bool) -> io::Result<Option<Left>> {
    let facts = fs::symlink_metadata(&path)?;
    let age = SystemTime::now().duration_since(facts.modified()?).unwrap_or_default();
    if !facts.is_file() || age < older_than {
        return Ok(None);
    }
    let _lock = open(&path)?;
    if !dry_run {
        fs::remove_file(&path)?;
    }
    Ok(Some(Left { path, bytes: facts.len() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_nobody_goes_on_with_is_removed() {
        let home = tempfile::tempdir().unwrap();
        let at = |name: &str| home.path().join(name);
        let old = SystemTime::now() - Duration::from_secs(7_200);
        for name in ["a.part", "held.part", "young.part", "bundle.tar"] {
            fs::write(at(name), "12345").unwrap();
        }
        let held = open(&at("held.part")).unwrap();
        assert!(open(&at("held.part")).unwrap_err().to_string().contains("another command"));
        for name in ["a.part", "held.part", "bundle.tar"] {
            File::options().write(true).open(at(name)).unwrap().set_modified(old).unwrap();
        }
        let hour = Duration::from_secs(3_600);
        let gone = vec![Left { path: at("a.part"), bytes: 5 }];
        assert_eq!(sweep(home.path(), hour, true).unwrap(), gone);
        assert!(at("a.part").exists(), "a dry run removes nothing");
        assert_eq!(sweep(home.path(), hour, false).unwrap(), gone);
        drop(held);
        let there = |name: &str| at(name).exists();
        assert!(!there("a.part") && there("held.part") && there("young.part") && there("bundle.tar"));
        assert_eq!(sweep(&at("nowhere"), hour, false).unwrap(), []);
    }
}
