//! Which files of a model folder belong to the package. Their names are checked before anything is read.
//!
//! Promises: nothing outside the folder, links are not followed, at no depth; the result does not depend on the order of the disk.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use modelyard_core::nearest;
use modelyard_registry::paths;

use crate::DESCRIPTION;

/// Adds every file that `pattern` names: a path, a folder (all files below), or a name with `*` in its last part.
///
/// # Errors
/// What is wrong, as a sentence for people.
pub(crate) fn expand(folder: &Path, pattern: &str, into: &mut BTreeSet<String>) -> Result<(), String> {
    check(pattern)?;
    let (parent, name) = pattern.rsplit_once('/').unwrap_or(("", pattern));
    if name.contains('*') {
        return matching(folder, parent, name, into);
    }
    if is_real_folder(folder, pattern) {
        return below(folder, pattern, into);
    }
    length(folder, pattern)?;
    into.insert(pattern.to_owned());
    Ok(())
}

fn check(path: &str) -> Result<(), String> {
    paths::fault(path).map_or(Ok(()), |why| Err(format!("the path `{}` is refused: {why}", shown(path))))
}

fn shown(path: &str) -> String {
    path.escape_debug().take(120).collect()
}

/// Length of the plain file at `path`, reached without any link.
///
/// # Errors
/// What is wrong, as a sentence for people.
pub(crate) fn length(folder: &Path, path: &str) -> Result<u64, String> {
    check(path)?;
    for (at, _) in path.match_indices('/') {
        if !is_real_folder(folder, &path[..at]) {
            return Err(format!("there is no folder `{}` (links are not followed)", shown(&path[..at])));
        }
    }
    match fs::symlink_metadata(folder.join(path)) {
        Ok(facts) if facts.is_file() => Ok(facts.len()),
        Ok(_) => Err(format!("`{}` is no plain file (links are not followed)", shown(path))),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(missing(folder, path)),
        Err(error) => Err(format!("`{}` cannot be read: {error}", shown(path))),
    }
}

fn missing(folder: &Path, path: &str) -> String {
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    let names = entries(folder, parent).unwrap_or_default();
    let meant = nearest(name, names.iter().map(String::as_str));
    let meant = meant.map(|meant| format!("; did you mean `{}`?", shown(&joined(parent, meant))));
    format!("there is no file `{}`{}", shown(path), meant.unwrap_or_default())
}

fn is_real_folder(folder: &Path, path: &str) -> bool {
    fs::symlink_metadata(folder.join(path)).is_ok_and(|facts| facts.is_dir())
}

/// Names in a folder, sorted.
fn entries(folder: &Path, parent: &str) -> Result<Vec<String>, String> {
    let path = if parent.is_empty() { folder.to_owned() } else { folder.join(parent) };
    let cannot = |error: io::Error| format!("the folder `{}` cannot be read: {error}", path.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(&path).map_err(cannot)? {
        let name = entry.map_err(cannot)?.file_name();
        let name = name.into_string();
        names.push(name.map_err(|name| format!("the name of `{}` is not UTF-8", name.to_string_lossy()))?);
    }
    names.sort_unstable();
    Ok(names)
}

fn joined(parent: &str, name: &str) -> String {
    if parent.is_empty() { name.to_owned() } else { format!("{parent}/{name}") }
}

fn matching(folder: &Path, parent: &str, pattern: &str, into: &mut BTreeSet<String>) -> Result<(), String> {
    let mut any = false;
    for name in entries(folder, parent)?.into_iter().filter(|name| matches(pattern, name)) {
        let path = joined(parent, &name);
        if is_left_out(&name) || is_real_folder(folder, &path) || path == DESCRIPTION {
            continue;
        }
        length(folder, &path)?;
        into.insert(path);
        any = true;
    }
    if any { Ok(()) } else { Err(format!("no file matches `{}`", shown(&joined(parent, pattern)))) }
}

/// Hidden files and what editors, interpreters and package managers leave behind: none of it is meant, and it differs by machine.
fn is_left_out(name: &str) -> bool {
    name.starts_with('.') || name.ends_with('~') || matches!(name, "__pycache__" | "node_modules")
}

/// Every file of the folder.
///
/// # Errors
/// What is wrong, as a sentence for people.
pub(crate) fn everything(folder: &Path, into: &mut BTreeSet<String>) -> Result<(), String> {
    below(folder, "", into)
}

fn below(folder: &Path, parent: &str, into: &mut BTreeSet<String>) -> Result<(), String> {
    let names = entries(folder, parent)?;
    if names.iter().any(|name| name == "pyvenv.cfg") {
        return Ok(()); // a Python environment is full of links into this machine
    }
    for name in names.into_iter().filter(|name| !is_left_out(name)) {
        let path = joined(parent, &name);
        check(&path)?;
        match is_real_folder(folder, &path) {
            true => below(folder, &path, into)?,
            false => {
                length(folder, &path)?;
                into.insert(path);
            }
        }
    }
    Ok(())
}

/// `*` stands for any characters, none included.
fn matches(pattern: &str, name: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut left) = name.strip_prefix(start) else { return false };
    let mut parts: Vec<&str> = rest.split('*').collect();
    // Each part in the middle is taken where it comes first; the last must be at the end. No going back, so no slow patterns.
    let last = parts.pop().unwrap_or_default();
    for part in parts {
        let Some(at) = left.find(part) else { return false };
        left = &left[at + part.len()..];
    }
    left.ends_with(last)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn tree(paths: &[&str]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for path in paths {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, "x").unwrap();
        }
        folder
    }

    fn found(folder: &Path, pattern: &str) -> Result<Vec<String>, String> {
        let mut into = BTreeSet::new();
        expand(folder, pattern, &mut into).map(|()| into.into_iter().collect())
    }

    #[test]
    fn patterns_match_within_one_folder() {
        for (pattern, name, yes) in [
            ("*.py", "a.py", true),
            ("*.py", "a.pyc", false),
            ("a*b*c", "aXbYc", true),
            ("a*b*c", "aXcYb", false),
            ("*", "", true),
            ("a*a", "a", false),
            ("*ab*ab", "ab", false),
            ("*a*a*a*a*a*a*a*b", &"a".repeat(5_000), false),
        ] {
            assert_eq!(matches(pattern, name), yes, "{pattern}");
        }
    }

    #[test]
    fn folders_and_patterns_leave_out_what_is_not_meant() {
        let folder = tree(&[
            "a.py",
            "b.py",
            "c.txt",
            "d/e.py",
            "d/.git/x",
            "d/__pycache__/x",
            "d/f~",
            "venv/pyvenv.cfg",
            "venv/x",
            ".env",
        ]);
        assert_eq!(found(folder.path(), "*.py").unwrap(), ["a.py", "b.py"]);
        assert_eq!(found(folder.path(), "d").unwrap(), ["d/e.py"]);
        assert_eq!(found(folder.path(), ".env").unwrap(), [".env"]);
        let mut all = BTreeSet::new();
        everything(folder.path(), &mut all).unwrap();
        assert_eq!(all.into_iter().collect::<Vec<_>>(), ["a.py", "b.py", "c.txt", "d/e.py"]);
    }

    #[test]
    fn wrong_names_are_explained() {
        let folder = tree(&["model.onnx"]);
        for (path, why) in [
            ("modle.onnx", "did you mean `model.onnx`?"),
            ("../x", "leaves the folder"),
            ("/etc/passwd", "absolute"),
            ("*.pt", "no file matches"),
            ("sub/x", "no folder `sub`"),
        ] {
            let error = found(folder.path(), path).unwrap_err();
            assert!(error.contains(why), "{error} does not say {why:?}");
        }
    }

    #[test]
    fn links_are_not_followed_at_any_depth() {
        let folder = tree(&["real/x"]);
        symlink("/etc/hostname", folder.path().join("x")).unwrap();
        symlink("/etc", folder.path().join("etc")).unwrap();
        symlink("real", folder.path().join("alias")).unwrap();
        for path in ["x", "etc", "etc/hostname", "alias/x", "*"] {
            assert!(found(folder.path(), path).is_err(), "{path}");
        }
        assert!(everything(folder.path(), &mut BTreeSet::new()).is_err());
    }
}
