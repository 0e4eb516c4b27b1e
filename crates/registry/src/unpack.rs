//! Packages as folders: every file linked out of the blob store, checked, under a name that is the digest.

use std::fs;
use std::path::{Path, PathBuf};

use modelyard_core::Digest;
use modelyard_core::package::{DOCUMENT, Package};

use crate::Error;
use crate::blob::Blobs;

/// Whether `path` stays within the folder that it is joined to: relative, `/` only, no empty, `.` or `..` part, nothing odd.
pub(crate) fn is_inside(path: &str) -> bool {
    let part = |part: &str| !part.is_empty() && part != "." && part != ".." && part.len() <= 255;
    path.len() <= 4_096
        && !path.contains(['\\', '\0'])
        && !path.chars().any(char::is_control)
        && path.split('/').all(part)
}

/// Lays the package out under `unpacked/<hex>` unless it is there. Several callers may try at once; one wins, all get the same folder.
pub(crate) fn unpack(
    blobs: &Blobs,
    unpacked: &Path,
    digest: &Digest,
    package: &Package,
    document: &[u8],
) -> Result<PathBuf, Error> {
    let folder = unpacked.join(digest.hex());
    if folder.is_dir() {
        return Ok(folder);
    }
    fs::create_dir_all(unpacked).map_err(Error::file("could not make", unpacked))?;
    let building = tempfile::Builder::new().prefix(".building-").tempdir_in(unpacked);
    let building = building.map_err(Error::file("could not write into", unpacked))?;
    for (path, entry) in &package.files {
        if !is_inside(path) || path == DOCUMENT {
            return Err(Error::Path(path.chars().take(120).collect()));
        }
        lay_out(blobs, &entry.digest, &building.path().join(path))?;
    }
    let document_path = building.path().join(DOCUMENT);
    fs::write(&document_path, document).map_err(Error::file("could not write", &document_path))?;
    match fs::rename(building.path(), &folder) {
        Ok(()) => {
            let _moved = building.keep(); // the folder has its final name now; nothing is left to clean up
            Ok(folder)
        }
        Err(_) if folder.is_dir() => Ok(folder), // somebody else was faster; ours is removed
        Err(source) => Err(Error::File { doing: "could not make", path: folder, source }),
    }
}

fn lay_out(blobs: &Blobs, digest: &Digest, path: &Path) -> Result<(), Error> {
    blobs.verify(digest)?;
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(Error::file("could not make", parent))?;
    }
    let blob = blobs.path(digest);
    // A link costs no space; another file system, or one without links, gets a copy.
    fs::hard_link(&blob, path)
        .or_else(|_| fs::copy(&blob, path).map(drop))
        .map_err(Error::file("could not write", path))
}

#[cfg(test)]
mod tests {
    use super::is_inside;

    #[test]
    fn paths_that_leave_the_folder_are_refused() {
        for bad in ["", "/a", "../a", "a/../b", "a//b", "./a", "a\\b", "a\0b", "a/", "a\nb", &"x".repeat(300)] {
            assert!(!is_inside(bad), "{bad:?} was accepted");
        }
        for good in ["model.onnx", "data/weights.bin", ".hidden", "a b/ü.txt"] {
            assert!(is_inside(good), "{good:?} was refused");
        }
    }
}
