//! Packages as folders: every file linked out of the blob store, checked, under a name that is the digest.
//!
//! Promises: a folder appears whole or not at all; of several callers, in several processes, one does the work and all get the
//! folder; a folder whose files were touched since is checked again and mended. What was not touched is not read again.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use modelyard_core::Digest;
use modelyard_core::package::{DOCUMENT, FileEntry, Package};
use rustix::fs::{FlockOperation, flock};

use crate::blob::{Blobs, digest_of, has_digest};
use crate::copying::make_read_only;
use crate::{Error, leftovers, paths};

/// Lays the package out under `unpacked/<hex>`, unless it is there and as it was left.
pub(crate) fn unpack(
    blobs: &Blobs,
    unpacked: &Path,
    digest: &Digest,
    package: &Package,
    document: &[u8],
) -> Result<PathBuf, Error> {
    check_paths(package)?;
    fs::create_dir_all(unpacked).map_err(Error::file("could not make", unpacked))?;
    let folder = unpacked.join(digest.hex());
    let mut seal = Seal::lock(unpacked.join(format!("{}.seal", digest.hex())))?;
    if seal.fits(&folder, package) {
        return Ok(folder);
    }
    if !is_intact(&folder, package, document) {
        leftovers::sweep(unpacked);
        lay_out(blobs, unpacked, &folder, package, document)?;
    }
    seal.set(&folder, package)?;
    Ok(folder)
}

/// Whether every path of the package stays within it.
pub(crate) fn check_paths(package: &Package) -> Result<(), Error> {
    let refuse = |path: &str, why| Err(Error::Path { path: path.chars().take(120).collect(), why });
    for path in package.files.keys() {
        if let Some(why) = paths::fault(path) {
            return refuse(path, why);
        }
    }
    match paths::clash(package.files.keys().map(String::as_str)) {
        Some((path, why)) => refuse(path, why),
        None => Ok(()),
    }
}

/// Remembers how the files of a folder looked when they were last checked: what is unchanged since need not be hashed again.
/// Its lock, held while it lives, lets one caller work and the others wait.
struct Seal {
    path: PathBuf,
    file: File,
}

impl Seal {
    fn lock(path: PathBuf) -> Result<Self, Error> {
        let options = File::options().create(true).truncate(false).read(true).write(true).open(&path);
        let file = options.map_err(Error::file("could not open", &path))?;
        flock(&file, FlockOperation::LockExclusive)
            .map_err(|error| Error::file("could not lock", &path)(error.into()))?;
        Ok(Self { path, file })
    }

    fn fits(&mut self, folder: &Path, package: &Package) -> bool {
        let mut sealed = String::new();
        let read = self.file.read_to_string(&mut sealed);
        read.is_ok() && looks(folder, package).is_ok_and(|looks| looks == sealed)
    }

    fn set(&mut self, folder: &Path, package: &Package) -> Result<(), Error> {
        let write = || {
            let looks = looks(folder, package)?;
            let mut file = File::options().write(true).truncate(true).open(&self.path)?;
            file.write_all(looks.as_bytes())
        };
        write().map_err(Error::file("could not write", &self.path))
    }
}

/// How the files of a folder look from outside: identity, length and time of the last change.
fn looks(folder: &Path, package: &Package) -> io::Result<String> {
    let mut text = String::new();
    for path in package.files.keys().map(String::as_str).chain([DOCUMENT]) {
        let facts = fs::symlink_metadata(folder.join(path))?;
        if !facts.is_file() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        let (seconds, nanoseconds) = (facts.mtime(), facts.mtime_nsec());
        let _ = writeln!(text, "{} {} {} {seconds}.{nanoseconds:09} {path}", facts.dev(), facts.ino(), facts.len());
    }
    Ok(text)
}

fn is_intact(folder: &Path, package: &Package, document: &[u8]) -> bool {
    looks(folder, package).is_ok()
        && has_digest(&folder.join(DOCUMENT), &digest_of(document))
        && package.files.iter().all(|(path, entry)| has_digest(&folder.join(path), &entry.digest))
}

fn lay_out(blobs: &Blobs, unpacked: &Path, folder: &Path, package: &Package, document: &[u8]) -> Result<(), Error> {
    let cannot = |source| Error::File { doing: "could not write into", path: unpacked.to_owned(), source };
    let (building, _lock) = leftovers::folder_in(unpacked).map_err(cannot)?;
    for (path, entry) in &package.files {
        place(blobs, entry, &building.path().join(path))?;
    }
    let path = building.path().join(DOCUMENT);
    create(&path, &mut &*document, false).map_err(Error::file("could not write", path))?;
    // A folder that was tampered with goes away whole. Programs that run in it keep what they have open.
    let old = leftovers::folder_in(unpacked).map_err(cannot)?;
    if folder.symlink_metadata().is_ok() {
        fs::rename(folder, old.0.path().join("old")).map_err(Error::file("could not replace", folder))?;
    }
    fs::rename(building.path(), folder).map_err(Error::file("could not make", folder))?;
    let _moved = building.keep(); // the folder has its final name now; nothing is left to clean up
    Ok(())
}

fn place(blobs: &Blobs, entry: &FileEntry, path: &Path) -> Result<(), Error> {
    let size = blobs.verify(&entry.digest)?;
    if size != entry.size_bytes {
        let why = format!("it says {} bytes of a file that has {size}", entry.size_bytes);
        return Err(Error::Document { what: "the package document".to_owned(), why });
    }
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).map_err(Error::file("could not make", parent))?;
    }
    let blob = blobs.path(&entry.digest);
    // A link costs no space; a program needs a mode of its own, and another file system or a full link count a copy.
    let executable = is_program(&blob).map_err(Error::file("could not read", &blob))?;
    if !executable && fs::hard_link(&blob, path).is_ok() {
        return Ok(());
    }
    let copy = File::open(&blob).and_then(|mut blob| create(path, &mut blob, executable));
    copy.map_err(Error::file("could not write", path))
}

/// Whether the file is one that the system can start: its first bytes say so, on every machine alike, which its mode would not.
fn is_program(path: &Path) -> io::Result<bool> {
    let mut start = Vec::with_capacity(4);
    File::open(path)?.take(4).read_to_end(&mut start)?;
    Ok(start.starts_with(b"#!") || start == b"\x7fELF")
}

/// Never writes through something that is there already: that could be a link to a blob.
fn create(path: &Path, content: &mut dyn Read, executable: bool) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    io::copy(content, &mut file)?;
    make_read_only(&file, executable)?;
    file.sync_all()
}
