//! Files that were stored before: as long as neither the file nor its blob was touched since, the file need not be read again.
//!
//! Promises: a file that changed is read; what is remembered is never needed, so what cannot be read of it is forgotten.
//! Absent on purpose: small files, which are read faster than looked up.
//!
//! Source: the index of git, which knows unchanged files by the same facts (gitformat-index(5), "racy git").

use std::collections::BTreeMap;
use std::fs::{self, File, Metadata};
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use modelyard_core::Digest;
use serde::{Deserialize, Serialize};

use crate::blob::{Blob, Blobs};
use crate::leftovers;

/// Files that are remembered are at least this long.
const LARGE: u64 = 1 << 20;

/// A file that changed so shortly ago might change again within the same tick of its clock: it is not remembered.
// 2 s: the coarsest clock of a file system in use (FAT).
const RACY: Duration = Duration::from_secs(2);

/// Files that are remembered at most; then all are forgotten.
const MOST: usize = 4_096;

/// Device, inode, length, and the times of the last change of its bytes and of its facts, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Look(u64, u64, u64, i64, i64);

#[derive(Clone, Debug, Serialize, Deserialize)]
struct Entry {
    file: Look,
    blob: Look,
    digest: Digest,
}

/// What is remembered of files, by their path.
#[derive(Debug)]
pub struct Seen {
    path: PathBuf,
    entries: BTreeMap<PathBuf, Entry>,
    changed: bool,
}

fn look(facts: &Metadata) -> Look {
    let nanoseconds = |seconds: i64, rest: i64| seconds.wrapping_mul(1_000_000_000).wrapping_add(rest);
    let (changed, touched) =
        (nanoseconds(facts.mtime(), facts.mtime_nsec()), nanoseconds(facts.ctime(), facts.ctime_nsec()));
    Look(facts.dev(), facts.ino(), facts.size(), changed, touched)
}

impl Seen {
    /// What is remembered in the registry at `layout`.
    pub fn open(layout: &Path) -> Self {
        let path = layout.join("seen.json");
        let entries = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default();
        Self { path, entries, changed: false }
    }

    /// The blob that has the bytes of this file, if both are as they were; it is marked as cared for.
    pub fn blob(&mut self, path: &Path, file: &File, blobs: &Blobs) -> Option<Blob> {
        let entry = self.entries.get(path)?.clone();
        let facts = file.metadata().ok()?;
        let there = fs::symlink_metadata(blobs.path(&entry.digest)).ok()?;
        if look(&facts) != entry.file || look(&there) != entry.blob || !blobs.touch(&entry.digest).ok()? {
            return None;
        }
        let blob = Blob { digest: entry.digest, size_bytes: facts.len() };
        self.remember(path, look(&facts), &blob, blobs);
        Some(blob)
    }

    /// Remembers a file that was opened, read and stored as `blob`, and looked the same before and after.
    pub fn note(&mut self, path: &Path, file: &File, blob: &Blob, blobs: &Blobs) {
        self.note_at(SystemTime::now(), path, file, blob, blobs);
    }

    fn note_at(&mut self, now: SystemTime, path: &Path, file: &File, blob: &Blob, blobs: &Blobs) {
        let Ok(facts) = file.metadata() else { return };
        let changed = i64::max(look(&facts).3, look(&facts).4);
        let changed = SystemTime::UNIX_EPOCH + Duration::from_nanos(u64::try_from(changed).unwrap_or(0));
        let age = now.duration_since(changed).unwrap_or_default();
        if facts.len() >= LARGE && facts.len() == blob.size_bytes && age > RACY {
            self.remember(path, look(&facts), blob, blobs);
        }
    }

    fn remember(&mut self, path: &Path, file: Look, blob: &Blob, blobs: &Blobs) {
        let Ok(there) = fs::symlink_metadata(blobs.path(&blob.digest)) else { return };
        if self.entries.len() >= MOST {
            self.entries.clear();
        }
        self.entries.insert(path.to_owned(), Entry { file, blob: look(&there), digest: blob.digest });
        self.changed = true;
    }

    /// Keeps what is remembered for the next time; when that cannot be done, the next time takes longer.
    pub fn save(&self) {
        let write = || -> io::Result<()> {
            let mut file = leftovers::file_in(self.path.parent().unwrap_or(Path::new(".")))?;
            file.write_all(&serde_json::to_vec(&self.entries)?)?;
            file.persist(&self.path).map(drop).map_err(|failed| failed.error)
        };
        if self.changed
            && let Err(error) = write()
        {
            tracing::debug!(%error, "what was seen of files is not remembered");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LENGTH: usize = LARGE as usize + 3;

    struct World {
        folder: tempfile::TempDir,
        path: PathBuf,
        blobs: Blobs,
    }

    impl World {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let blobs = Blobs::open(&folder.path().join("registry")).unwrap();
            let path = folder.path().join("weights");
            fs::write(&path, vec![7; LENGTH]).unwrap();
            Self { folder, path, blobs }
        }

        fn seen(&self) -> Seen {
            Seen::open(&self.folder.path().join("registry"))
        }

        /// Stores the file and notes it `later`.
        fn store(&self, later: Duration) -> Blob {
            let mut file = File::open(&self.path).unwrap();
            let blob = self.blobs.store(&mut file).unwrap().blob;
            let mut seen = self.seen();
            seen.note_at(SystemTime::now() + later, &self.path, &file, &blob, &self.blobs);
            seen.save();
            blob
        }

        fn known(&self) -> Option<Blob> {
            let mut seen = self.seen();
            let found = seen.blob(&self.path, &File::open(&self.path).unwrap(), &self.blobs);
            seen.save();
            found
        }
    }

    /// Writes a byte and puts the time of the change back.
    fn change(path: &Path) {
        let before = fs::metadata(path).unwrap();
        let mut permissions = before.permissions();
        std::os::unix::fs::PermissionsExt::set_mode(&mut permissions, 0o644);
        fs::set_permissions(path, permissions).unwrap();
        let file = File::options().write(true).open(path).unwrap();
        std::os::unix::fs::FileExt::write_at(&file, b"8", 5).unwrap();
        file.set_modified(before.modified().unwrap()).unwrap();
    }

    #[test]
    fn an_untouched_file_is_known_again_and_again() {
        let world = World::new();
        assert_eq!(world.known(), None);
        let blob = world.store(2 * RACY);
        assert_eq!(world.known(), Some(blob));
        assert_eq!(world.known(), Some(blob));
    }

    #[test]
    fn a_file_that_changed_is_not_known_even_if_its_time_says_otherwise() {
        let world = World::new();
        world.store(2 * RACY);
        change(&world.path);
        assert_eq!(world.known(), None);
    }

    #[test]
    fn a_file_whose_blob_changed_or_went_is_not_known() {
        let world = World::new();
        let blob = world.store(2 * RACY);
        change(&world.blobs.path(&blob.digest));
        assert_eq!(world.known(), None);
        world.store(2 * RACY);
        assert_eq!(world.known(), Some(blob), "it was stored and noted anew");
        fs::remove_file(world.blobs.path(&blob.digest)).unwrap();
        assert_eq!(world.known(), None);
    }

    #[test]
    fn a_file_that_just_changed_is_not_remembered_and_nonsense_is_forgotten() {
        let world = World::new();
        world.store(Duration::ZERO);
        assert_eq!(world.known(), None);
        world.store(2 * RACY);
        fs::write(world.folder.path().join("registry/seen.json"), b"[{").unwrap();
        assert_eq!(world.known(), None);
    }
}
