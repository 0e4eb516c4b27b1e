//! Which files of a model folder belong to the package. Their names are checked before anything is read.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::Error;

/// Whether `path` is relative, with `/`, and stays within the folder.
pub(crate) fn check(path: &str) -> Result<(), Error> {
    let refuse = |why| Err(Error::Path { path: path.chars().take(120).collect(), why });
    if path.is_empty() || path.starts_with('/') {
        return refuse("it must be relative to the model folder");
    }
    if path.contains(['\\', '\0']) || path.chars().any(char::is_control) {
        return refuse("it holds a backslash or a control character");
    }
    match path.split('/').find(|part| part.is_empty() || *part == "." || *part == "..") {
        Some(_) => refuse("it has an empty part, `.` or `..`"),
        None => Ok(()),
    }
}

/// Every file that `pattern` names: a path, a folder (all files below), or a name with `*` in its last part.
pub(crate) fn expand(folder: &Path, pattern: &str, into: &mut BTreeSet<String>) -> Result<(), Error> {
    check(pattern)?;
    let (parent, name) = pattern.rsplit_once('/').unwrap_or(("", pattern));
    if name.contains('*') {
        return matching(folder, parent, name, into);
    }
    let path = folder.join(pattern);
    if path.is_dir() {
        return below(folder, pattern, into);
    }
    is_plain(&path, pattern)?;
    into.insert(pattern.to_owned());
    Ok(())
}

/// A link could lead anywhere; what it leads to can be named itself.
fn is_plain(path: &Path, shown: &str) -> Result<(), Error> {
    let kind = fs::symlink_metadata(path).map_err(Error::file("could not read", path))?.file_type();
    match kind.is_file() {
        true => Ok(()),
        false => Err(Error::Path { path: shown.to_owned(), why: "it is no plain file (links are not followed)" }),
    }
}

fn entries(folder: &Path, parent: &str) -> Result<Vec<String>, Error> {
    let path = folder.join(parent);
    let mut names = Vec::new();
    for entry in fs::read_dir(&path).map_err(Error::file("could not read", &path))? {
        let name = entry.map_err(Error::file("could not read", &path))?.file_name().into_string();
        names.push(
            name.map_err(|name| Error::Path { path: name.to_string_lossy().into_owned(), why: "it is not UTF-8" })?,
        );
    }
    names.sort_unstable();
    Ok(names)
}

fn joined(parent: &str, name: &str) -> String {
    if parent.is_empty() { name.to_owned() } else { format!("{parent}/{name}") }
}

fn matching(folder: &Path, parent: &str, pattern: &str, into: &mut BTreeSet<String>) -> Result<(), Error> {
    let before = into.len();
    for name in entries(folder, parent)?.into_iter().filter(|name| matches(pattern, name)) {
        let path = joined(parent, &name);
        if folder.join(&path).is_file() {
            is_plain(&folder.join(&path), &path)?;
            into.insert(path);
        }
    }
    match into.len() > before {
        true => Ok(()),
        false => Err(Error::Path { path: joined(parent, pattern), why: "no file matches" }),
    }
}

fn below(folder: &Path, parent: &str, into: &mut BTreeSet<String>) -> Result<(), Error> {
    for name in entries(folder, parent)? {
        let path = joined(parent, &name);
        check(&path)?;
        match folder.join(&path).is_dir() && !folder.join(&path).is_symlink() {
            true => below(folder, &path, into)?,
            false => {
                is_plain(&folder.join(&path), &path)?;
                into.insert(path);
            }
        }
    }
    Ok(())
}

/// `*` stands for any characters, none included.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, rest)) => {
            let Some(left) = name.strip_prefix(start) else { return false };
            left.char_indices().map(|(at, _)| at).chain([left.len()]).any(|at| matches(rest, &left[at..]))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_within_one_folder() {
        for (pattern, name, yes) in
            [("*.py", "a.py", true), ("*.py", "a.pyc", false), ("a*b*c", "aXbYc", true), ("*", "", true)]
        {
            assert_eq!(matches(pattern, name), yes, "{pattern} {name}");
        }
    }

    #[test]
    fn paths_that_leave_the_folder_are_refused() {
        for bad in ["", "/etc/passwd", "../x", "a/../x", "a//b", ".", "a\\b", "a\nb"] {
            assert!(check(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn links_are_not_followed() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/hostname", folder.path().join("x")).unwrap();
        assert!(expand(folder.path(), "x", &mut BTreeSet::new()).is_err());
    }
}
