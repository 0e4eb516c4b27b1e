//! Which blobs have shown their digest since this process started: each is hashed when it is
//! pushed, or else while it is given away for the first time.
//!
//! Promises: nobody gets the whole of a blob that has changed without the connection breaking off, as long as the file's size, time and inode tell.

use std::collections::HashSet;
use std::fs::{File, Metadata};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::MetadataExt as _;
use std::sync::{Arc, Mutex, PoisonError};

use crate::digest::{Algorithm, AnyDigest, Hasher};

/// What is said of a blob that is not what its name says.
pub const CHANGED: &str = "its bytes have changed";

/// Blobs that are remembered, at most: 64 bytes each.
const MOST: usize = 1 << 16;

/// Inode, size, and time of the last change in nanoseconds.
type State = (u64, u64, i128);

/// Blobs that have shown their digest.
#[derive(Debug, Default)]
pub struct Verified {
    shown: Arc<Mutex<HashSet<State>>>,
}

/// A file whose digest is not known yet.
pub struct Check {
    shown: Arc<Mutex<HashSet<State>>>,
    state: State,
    hasher: Hasher,
    expected: AnyDigest,
}

impl Verified {
    /// Remembers a file whose bytes were hashed as they were written.
    pub fn shown(&self, facts: &Metadata) {
        remember(&self.shown, state(facts));
    }

    /// What has to be checked while the file is given away; nothing if it was checked before.
    pub fn check(&self, file: &File, expected: &AnyDigest) -> Option<Check> {
        // A file that tells nothing of itself is checked each time.
        let state = file.metadata().map_or((0, 0, -1), |facts| state(&facts));
        if self.shown.lock().unwrap_or_else(PoisonError::into_inner).contains(&state) {
            return None;
        }
        let hasher = Hasher::new(expected.algorithm());
        Some(Check { shown: Arc::clone(&self.shown), state, hasher, expected: expected.clone() })
    }
}

impl Check {
    /// Of a file of which only `length` bytes are given, the whole is checked first; else the check goes on piece by piece.
    pub fn before(self, file: &mut File, length: u64) -> io::Result<Option<Self>> {
        if length == self.state.1 {
            return Ok(Some(self));
        }
        file.seek(SeekFrom::Start(0))?;
        let (found, _) = hash(file, self.expected.algorithm())?;
        self.compare(&found).map(|()| None)
    }

    /// One more piece of the file; after the last one the digest is compared.
    pub fn piece(&mut self, piece: &[u8], is_last: bool) -> io::Result<()> {
        self.hasher.update(piece);
        if is_last { self.compare(&self.hasher.clone().finish()) } else { Ok(()) }
    }

    fn compare(&self, found: &AnyDigest) -> io::Result<()> {
        if *found != self.expected {
            tracing::error!(expected = %self.expected, %found, "a blob is damaged; its answer breaks off");
            return Err(io::Error::new(io::ErrorKind::InvalidData, CHANGED));
        }
        remember(&self.shown, self.state);
        Ok(())
    }
}

fn state(facts: &Metadata) -> State {
    (facts.ino(), facts.size(), i128::from(facts.mtime()) * 1_000_000_000 + i128::from(facts.mtime_nsec()))
}

fn remember(shown: &Mutex<HashSet<State>>, state: State) {
    let mut shown = shown.lock().unwrap_or_else(PoisonError::into_inner);
    if shown.len() >= MOST {
        shown.clear();
    }
    shown.insert(state);
}

/// The digest of a file that was just opened, and its length.
pub fn hash(file: &mut File, algorithm: Algorithm) -> io::Result<(AnyDigest, u64)> {
    let mut hasher = Hasher::new(algorithm);
    hasher.read(file)?;
    Ok((hasher.finish(), file.stream_position()?))
}
