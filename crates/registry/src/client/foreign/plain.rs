//! Files of a plain container image below one of its folders: how clusters carry models as images (modelcars, image volumes).
//!
//! Promises: layers count in their order, and what a later one takes away is gone; what lies elsewhere in the image is not written.
//!
//! Source: OCI image specification 1.1, "Image Layer Filesystem Changeset" (whiteouts, opaque whiteouts); KServe, "Modelcars".

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;

use tar::{Archive, EntryType};

use super::{MOST_FILES, damaged};
use crate::paths;

/// What the name of a file begins with that takes another one away.
const WHITEOUT: &str = ".wh.";

/// The name of a file that takes everything away that its folder had.
const OPAQUE: &str = ".wh..wh..opq";

/// Lays what an unpacked layer has below `within` over what lies in `folder` already.
pub(super) fn lay_over(source: impl Read, within: &str, folder: &Path) -> Result<(), String> {
    let (mut archive, mut written) = (Archive::new(source), 0);
    for entry in archive.entries().map_err(damaged)? {
        let mut entry = entry.map_err(damaged)?;
        let bytes = entry.path_bytes().into_owned();
        // Elsewhere in an image names may be what they like.
        let Ok(path) = String::from_utf8(bytes) else { continue };
        let path = path.trim_start_matches("./").trim_start_matches('/').trim_end_matches('/');
        let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
        if name == WHITEOUT {
            return Err(format!("`{path:.200}` takes away what has no name"));
        }
        if let Some(gone) = name.strip_prefix(WHITEOUT) {
            let gone = if name == OPAQUE { parent.to_owned() } else { joined(parent, gone) };
            take_away(&gone, within, folder)?;
            continue;
        }
        let Some(path) = below(path, within).filter(|path| !path.is_empty()) else { continue };
        match entry.header().entry_type() {
            EntryType::Directory | EntryType::XGlobalHeader => {}
            EntryType::Regular | EntryType::Continuous => {
                let size = entry.size();
                written += 1;
                if written > MOST_FILES {
                    return Err(format!("there are more than {MOST_FILES} files"));
                }
                if write(&mut entry, path, folder)? != size {
                    return Err(damaged(io::ErrorKind::UnexpectedEof.into()));
                }
            }
            other => return Err(format!("`{path:.200}` is neither a file nor a folder but {other:?}")),
        }
    }
    Ok(())
}

/// Paths of the files that lie in `folder`, sorted.
pub(super) fn files(folder: &Path) -> Result<Vec<String>, String> {
    fn list(folder: &Path, inner: &str, found: &mut Vec<String>) -> io::Result<()> {
        for entry in fs::read_dir(folder.join(inner))? {
            let entry = entry?;
            let path = joined(inner, &entry.file_name().to_string_lossy());
            match entry.file_type()?.is_dir() {
                true => list(folder, &path, found)?,
                false => found.push(path),
            }
        }
        Ok(())
    }
    let mut found = Vec::new();
    list(folder, "", &mut found).map_err(|error| error.to_string())?;
    if found.len() > MOST_FILES {
        return Err(format!("there are more than {MOST_FILES} files"));
    }
    found.sort();
    Ok(found)
}

fn joined(parent: &str, name: &str) -> String {
    if parent.is_empty() { name.to_owned() } else { format!("{parent}/{name}") }
}

/// The path as it is below `within`; empty for `within` itself.
fn below<'p>(path: &'p str, within: &str) -> Option<&'p str> {
    if within.is_empty() {
        return Some(path);
    }
    let rest = path.strip_prefix(within)?;
    if rest.is_empty() { Some(rest) } else { rest.strip_prefix('/') }
}

/// Removes what earlier layers had at `path`; all of it where that is the folder that is wanted, or one above it.
fn take_away(path: &str, within: &str, folder: &Path) -> Result<(), String> {
    let failed = |error: io::Error| format!("could not remove `{path:.200}`: {error}");
    let inner = match below(path, within) {
        Some(inner) => inner,
        None if below(within, path).is_some() => "",
        None => return Ok(()),
    };
    if inner.is_empty() {
        for entry in fs::read_dir(folder).map_err(failed)? {
            remove(&entry.map_err(failed)?.path()).map_err(failed)?;
        }
        return Ok(());
    }
    match paths::fault(inner) {
        Some(fault) => Err(format!("the path `{inner:.200}` may not be: {fault}")),
        None => remove(&folder.join(inner)).map_err(failed),
    }
}

fn remove(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(facts) if facts.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Writes one file in place of what an earlier layer had there; its length.
fn write(source: &mut impl Read, path: &str, folder: &Path) -> Result<u64, String> {
    if let Some(fault) = paths::fault(path) {
        return Err(format!("the path `{path:.200}` may not be: {fault}"));
    }
    let target = folder.join(path);
    let failed = |error: io::Error| format!("could not write `{path:.200}`: {error}");
    remove(&target).map_err(failed)?;
    // A folder may come where an earlier layer had a file.
    for (end, _) in path.match_indices('/') {
        let above = folder.join(&path[..end]);
        if above.is_file() {
            remove(&above).map_err(failed)?;
        }
    }
    fs::create_dir_all(target.parent().unwrap_or(folder)).map_err(failed)?;
    let mut file = File::create_new(&target).map_err(failed)?;
    io::copy(source, &mut file).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layer(entries: &[(EntryType, &str, &str)]) -> Vec<u8> {
        let mut archive = tar::Builder::new(Vec::new());
        for (kind, path, text) in entries {
            let mut header = tar::Header::new_ustar();
            header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
            header.set_entry_type(*kind);
            header.set_size(text.len() as u64);
            header.set_mode(0o644);
            if kind.is_symlink() {
                header.set_link_name("/etc/passwd").unwrap();
            }
            header.set_cksum();
            archive.append(&header, text.as_bytes()).unwrap();
        }
        archive.into_inner().unwrap()
    }

    const FILE: EntryType = EntryType::Regular;

    fn laid(within: &str, layers: &[&[(EntryType, &str, &str)]]) -> Result<Vec<String>, String> {
        let outer = tempfile::tempdir().unwrap();
        let folder = outer.path().join("folder");
        fs::create_dir(&folder).unwrap();
        let done = layers.iter().try_for_each(|entries| lay_over(&layer(entries)[..], within, &folder));
        assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 1, "nothing is written beside the folder");
        done?;
        let read = |path: &String| format!("{path}={}", fs::read_to_string(folder.join(path)).unwrap());
        Ok(files(&folder)?.iter().map(read).collect())
    }

    #[test]
    fn later_layers_count_and_what_lies_elsewhere_is_left() {
        let base: &[_] = &[
            (EntryType::Symlink, "bin", ""),
            (FILE, "etc/passwd", "root"),
            (EntryType::Directory, "./models/", ""),
            (FILE, "./models/a.onnx", "old"),
            (FILE, "models/gone/b", "b"),
            (FILE, "models/stays", "s"),
            (FILE, "models-not/c", "c"),
        ];
        let next: &[_] = &[(FILE, "/models/a.onnx", "new"), (FILE, "models/.wh.gone", ""), (FILE, ".wh.etc", "")];
        assert_eq!(laid("models", &[base, next]).unwrap(), ["a.onnx=new", "stays=s"]);
        let opaque: &[_] = &[(FILE, "models/.wh..wh..opq", ""), (FILE, "models/d", "d")];
        assert_eq!(laid("models", &[base, opaque]).unwrap(), ["d=d"]);
        assert_eq!(laid("models", &[base, &[(FILE, ".wh.models", "")]]).unwrap(), [""; 0]);
        assert_eq!(laid("models/gone", &[base]).unwrap(), ["b=b"]);
        let turned = laid("", &[&[(FILE, "m", "1"), (FILE, "d/e", "1")], &[(FILE, "m/n", "2"), (FILE, "d", "2")]]);
        assert_eq!(turned.unwrap(), ["d=2", "m/n=2"]);
    }

    #[test]
    fn layers_that_reach_out_are_refused() {
        let refused = |entry: (EntryType, &str, &str)| laid("models", &[&[entry]]).unwrap_err();
        assert!(refused((FILE, "models/../../x", "")).contains("leaves the folder"));
        assert!(refused((FILE, "models/.wh...", "")).contains("may not be"));
        assert!(refused((FILE, "models/.wh.", "")).contains("no name"));
        assert!(refused((EntryType::Symlink, "models/link", "")).contains("neither a file nor a folder"));
        assert!(refused((EntryType::Link, "models/link", "")).contains("neither a file nor a folder"));
        // Elsewhere it is nobody's business.
        assert_eq!(laid("models", &[&[(FILE, "../../x", ""), (EntryType::Symlink, "usr/lib", "")]]).unwrap(), [""; 0]);
    }
}
