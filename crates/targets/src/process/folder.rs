//! The folder of one instance: everything that the target, the supervisor and the program tell each other.
//!
//! Promises: a document is there whole or not at all; only the owner may read it (environments hold secrets).
//! Absent on purpose: a database. After `kill -9` of everyone, what is in the folder is the whole truth.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use modelyard_core::Timestamp;
use modelyard_core::instance::InstanceSpec;
use rustix::fs::{FlockOperation, flock};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::identity::Identity;

/// `spec.json`: what was asked for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Asked {
    /// When.
    pub at: Timestamp,
    /// The ONNX Runtime library, if it is known already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub onnxruntime: Option<PathBuf>,
    /// Modelyard's own folder; its cache may hold the library.
    pub home: PathBuf,
    /// What to run.
    pub spec: InstanceSpec,
}

/// `stop.json`: the wish that the instance ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Stop {
    /// How long it may take before it is ended by force.
    pub grace_ms: u64,
}

/// `program.json`: the program that runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Program {
    /// Its process, which leads the process group.
    #[serde(flatten)]
    pub identity: Identity,
}

/// Documents are small; a larger one was not written by us.
const MAX_DOCUMENT_BYTES: u64 = 8 << 20;

/// The folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Folder(PathBuf);

macro_rules! files {
    ($($(#[$doc:meta])* $name:ident = $file:literal;)*) => {
        $($(#[$doc])* pub fn $name(&self) -> PathBuf { self.0.join($file) })*
    };
}

impl Folder {
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    pub fn path(&self) -> &Path {
        &self.0
    }

    files! {
        /// [`Asked`], written once by the target.
        spec = "spec.json";
        /// Locked by the supervisor for as long as it lives.
        lock = "lock";
        /// [`Identity`] of the supervisor.
        supervisor = "supervisor.json";
        /// Paths of the control groups that were made for the instance.
        groups = "groups.json";
        /// What the second stage becomes: [`super::launch::Launch`].
        launch = "launch.json";
        /// [`Program`].
        program = "program.json";
        /// [`modelyard_core::home::Announcement`].
        announce = "announce.json";
        /// [`Stop`].
        stop = "stop.json";
        /// [`modelyard_core::instance::Exit`]: the last thing written.
        exit = "exit.json";
        /// Why the program could not be started, as text.
        start_error = "start-error";
        /// What the program wrote to its standard streams.
        log = "log";
        /// What the supervisor itself has to say; empty unless something is wrong.
        supervisor_log = "supervisor.log";
    }

    /// Makes the folder, for the owner only.
    pub fn make(&self) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.0)
    }

    /// Takes the lock; `None` if someone else holds it. Held until the file is dropped or the process ends.
    pub fn try_lock(&self) -> io::Result<Option<File>> {
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(self.lock())?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(file)),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}

/// Reads a document; `None` if it is not there.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> io::Result<Option<T>> {
    let Some(text) = read_bytes(path, MAX_DOCUMENT_BYTES)? else { return Ok(None) };
    serde_json::from_slice(&text)
        .map(Some)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged: {error}", path.display())))
}

/// Reads at most `limit` bytes of a file; `None` if it is not there.
pub(crate) fn read_bytes(path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// Writes a document in place of an older one.
pub(crate) fn write<T: Serialize>(path: &Path, document: &T) -> io::Result<()> {
    let temporary = write_aside(path, document)?;
    fs::rename(&temporary, path).inspect_err(|_| discard(&temporary))
}

/// Writes a document unless there is one; `false` if there was.
pub(crate) fn write_new<T: Serialize>(path: &Path, document: &T) -> io::Result<bool> {
    let temporary = write_aside(path, document)?;
    // A link fails if the name is taken, and shows the whole document or nothing.
    let linked = fs::hard_link(&temporary, path);
    discard(&temporary);
    match linked {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(false),
        Err(error) => Err(error),
    }
}

fn write_aside<T: Serialize>(path: &Path, document: &T) -> io::Result<PathBuf> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let unique = COUNT.fetch_add(1, Ordering::Relaxed);
    let temporary = path.with_file_name(format!(".{name}.{}.{unique}", std::process::id()));
    let text = serde_json::to_vec(document).map_err(io::Error::other)?;
    let write =
        || OpenOptions::new().create(true).truncate(true).write(true).mode(0o600).open(&temporary)?.write_all(&text);
    write().inspect_err(|_| discard(&temporary))?;
    Ok(temporary)
}

/// A left-over that cannot be removed does no harm; there is nothing better to do about it.
fn discard(path: &Path) {
    let _ = fs::remove_file(path);
}

/// Now.
pub(crate) fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_document_wins_and_none_is_torn() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("spec.json");
        assert_eq!(read::<u64>(&path).unwrap(), None);
        let wins = std::thread::scope(|scope| {
            let racers: Vec<_> = (0..8_u64)
                .map(|n| {
                    scope.spawn({
                        let path = &path;
                        move || write_new(path, &n).unwrap()
                    })
                })
                .collect();
            racers.into_iter().map(|racer| usize::from(racer.join().unwrap())).sum::<usize>()
        });
        assert_eq!(wins, 1);
        assert!(read::<u64>(&path).unwrap().is_some());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "temporary files are left");
        fs::write(&path, b"{").unwrap();
        assert!(read::<u64>(&path).unwrap_err().to_string().contains("is damaged"));
    }

    #[test]
    fn one_lock_at_a_time() {
        let dir = tempfile::tempdir().unwrap();
        let folder = Folder::new(dir.path());
        let held = folder.try_lock().unwrap();
        assert!(held.is_some() && folder.try_lock().unwrap().is_none());
        drop(held);
        assert!(folder.try_lock().unwrap().is_some());
    }
}
