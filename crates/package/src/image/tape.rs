//! A tar file as a reader: the same names, modes and contents give the same bytes, whoever owns the files and whenever they were written.
//!
//! Promises: entries sorted, parents before what is in them; one owner, one time; memory stays flat; a file whose bytes are not those that were
//! announced ends the reading with an error.
//! Absent on purpose: hard links and special files, which no layer of ours needs.
//!
//! Source: POSIX.1-2017, "ustar Interchange Format", with GNU's long names and sizes.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Cursor, Read};
use std::path::{Path, PathBuf};

use modelyard_core::Digest;
use sha2::{Digest as _, Sha256};
use tar::{EntryType, Header};

/// Bytes of a block; everything is padded to it.
const BLOCK: u64 = 512;

/// What stands under a path.
#[derive(Clone, Debug)]
enum Content {
    Folder,
    Link(String),
    Bytes(Vec<u8>),
    File { path: PathBuf, size: u64, digest: Option<Digest> },
}

/// The entries of a tar file.
#[derive(Clone, Debug)]
pub struct Entries {
    /// Seconds since 1970 that every entry carries.
    moment: u64,
    entries: BTreeMap<String, (u32, Content)>,
}

impl Entries {
    /// None yet.
    pub const fn new(moment: u64) -> Self {
        Self { moment, entries: BTreeMap::new() }
    }

    /// Adds a folder.
    pub fn folder(&mut self, path: &str, mode: u32) {
        self.add(path, mode, Content::Folder);
    }

    /// Adds a symbolic link.
    pub fn link(&mut self, path: &str, target: &str) {
        self.add(path, 0o777, Content::Link(target.to_owned()));
    }

    /// Adds a file with these bytes.
    pub fn bytes(&mut self, path: &str, mode: u32, bytes: impl Into<Vec<u8>>) {
        self.add(path, mode, Content::Bytes(bytes.into()));
    }

    /// Adds the file at `file`, which must have `digest` when it is read, if one is given.
    pub fn file(&mut self, path: &str, mode: u32, file: &Path, digest: Option<Digest>) -> io::Result<()> {
        let facts = std::fs::metadata(file)?;
        if !facts.is_file() {
            return Err(io::Error::other("it is no file"));
        }
        self.add(path, mode, Content::File { path: file.to_owned(), size: facts.len(), digest });
        Ok(())
    }

    fn add(&mut self, path: &str, mode: u32, content: Content) {
        for (at, _) in path.match_indices('/') {
            self.entries.entry(path[..at].to_owned()).or_insert((0o755, Content::Folder));
        }
        self.entries.insert(path.to_owned(), (mode, content));
    }

    /// The whole tar file.
    pub fn read(&self) -> io::Result<Tape> {
        let mut pieces = Vec::with_capacity(3 * self.entries.len() + 1);
        for (path, (mode, content)) in &self.entries {
            let (kind, size) = match content {
                Content::Folder => (EntryType::Directory, 0),
                Content::Link(_) => (EntryType::Symlink, 0),
                Content::Bytes(bytes) => (EntryType::Regular, bytes.len() as u64),
                Content::File { size, .. } => (EntryType::Regular, *size),
            };
            let target = if let Content::Link(target) = content { Some(target.as_str()) } else { None };
            pieces.push(Piece::Bytes(head(path, *mode, (kind, target), size, self.moment)?));
            match content {
                Content::Folder | Content::Link(_) => {}
                Content::Bytes(bytes) => pieces.push(Piece::Bytes(bytes.clone())),
                Content::File { path, size, digest } => {
                    pieces.push(Piece::File { path: path.clone(), size: *size, digest: *digest });
                }
            }
            pieces.push(Piece::Zeros((BLOCK - size % BLOCK) % BLOCK));
        }
        // Two blocks of zeros end it.
        pieces.push(Piece::Zeros(2 * BLOCK));
        Ok(Tape { pieces: pieces.into_iter(), current: Box::new(io::empty()) })
    }
}

/// The header of an entry, with what a long name needs before it.
fn head(
    path: &str,
    mode: u32,
    (kind, target): (EntryType, Option<&str>),
    size: u64,
    moment: u64,
) -> io::Result<Vec<u8>> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(moment);
    let name = if kind == EntryType::Directory { format!("{path}/") } else { path.to_owned() };
    // The content comes after it from elsewhere.
    let mut archive = tar::Builder::new(Vec::new());
    match target {
        Some(target) => archive.append_link(&mut header, name, target)?,
        None => archive.append_data(&mut header, name, io::empty())?,
    }
    // What the builder would end the archive with is left off.
    Ok(std::mem::take(archive.get_mut()))
}

#[derive(Debug)]
enum Piece {
    Bytes(Vec<u8>),
    Zeros(u64),
    File { path: PathBuf, size: u64, digest: Option<Digest> },
}

impl Piece {
    fn open(self) -> io::Result<Box<dyn Read>> {
        Ok(match self {
            Self::Bytes(bytes) => Box::new(Cursor::new(bytes)),
            Self::Zeros(count) => Box::new(io::repeat(0).take(count)),
            Self::File { path, size, digest } => {
                let file = File::open(&path).map_err(|error| named(&path, &error.to_string()))?;
                Box::new(Checked { file, path, left: size, digest, hash: Sha256::new() })
            }
        })
    }
}

/// A file that is held against what was said of it.
struct Checked {
    file: File,
    path: PathBuf,
    left: u64,
    digest: Option<Digest>,
    hash: Sha256,
}

fn named(path: &Path, why: &str) -> io::Error {
    io::Error::other(format!("{}: {why}", path.display()))
}

impl Read for Checked {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        if most == 0 {
            return Ok(0);
        }
        let length = self.file.read(&mut buffer[..most])?;
        if length == 0 {
            return Err(named(&self.path, "it became shorter while it was read"));
        }
        self.left -= length as u64;
        if let Some(expected) = &self.digest {
            self.hash.update(&buffer[..length]);
            if self.left == 0 {
                let actual = Digest::from_sha256(self.hash.clone().finalize().into());
                if actual != *expected {
                    return Err(named(&self.path, &format!("its bytes have digest {actual}, not {expected}")));
                }
            }
        }
        Ok(length)
    }
}

/// A tar file being read.
pub struct Tape {
    pieces: std::vec::IntoIter<Piece>,
    current: Box<dyn Read>,
}

impl Read for Tape {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        loop {
            let length = self.current.read(buffer)?;
            if length > 0 {
                return Ok(length);
            }
            match self.pieces.next() {
                Some(piece) => self.current = piece.open()?,
                None => return Ok(0),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(entries: &Entries) -> Vec<u8> {
        let mut all = Vec::new();
        entries.read().unwrap().read_to_end(&mut all).unwrap();
        all
    }

    #[test]
    fn another_reader_finds_names_modes_times_and_contents() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("weights");
        std::fs::write(&file, [7; 1000]).unwrap();
        let long = format!("package/{}/weights.bin", "d".repeat(120));
        let mut entries = Entries::new(1_700_000_000);
        entries.file(&long, 0o444, &file, None).unwrap();
        entries.bytes("modelyard", 0o755, "program");
        entries.folder("tmp", 0o1777);
        let all = bytes(&entries);
        assert_eq!(all.len() % 512, 0);
        let mut archive = tar::Archive::new(&all[..]);
        let mut found = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let header = entry.header();
            assert_eq!((header.uid().unwrap(), header.gid().unwrap(), header.mtime().unwrap()), (0, 0, 1_700_000_000));
            let mode = header.mode().unwrap();
            let path = entry.path().unwrap().display().to_string();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            found.push((path, mode, content.len()));
        }
        let parent = format!("package/{}/", "d".repeat(120));
        let wanted = [("modelyard", 0o755, 7), ("package/", 0o755, 0), (&parent, 0o755, 0), (&long, 0o444, 1000)];
        let wanted: Vec<_> = wanted.map(|(path, mode, size)| (path.to_owned(), mode, size)).into();
        assert_eq!(found[..4], wanted);
        assert_eq!(found[4], ("tmp/".to_owned(), 0o1777, 0));
    }

    #[test]
    fn a_file_that_is_not_what_was_said_ends_the_reading() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("weights");
        std::fs::write(&file, b"right").unwrap();
        let digest = Digest::from_sha256(Sha256::digest(b"right").into());
        let mut entries = Entries::new(0);
        entries.file("weights", 0o444, &file, Some(digest)).unwrap();
        bytes(&entries);
        for (content, told) in [(&b"wrong"[..], "its bytes have digest"), (b"rig", "became shorter")] {
            std::fs::write(&file, content).unwrap();
            let error = entries.read().unwrap().read_to_end(&mut Vec::new()).unwrap_err().to_string();
            assert!(error.contains(told), "{error}");
        }
    }
}
