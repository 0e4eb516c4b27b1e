//! Keeps sweeps apart from whoever is giving something a name, in this process and in others.

use std::fs::File;
use std::path::PathBuf;

use rustix::fs::{FlockOperation, flock};

use crate::Error;

/// A lock on a file of the registry: many name things at once, one sweeps alone.
#[derive(Clone, Debug)]
pub struct Gate {
    path: PathBuf,
}

/// Held until dropped.
pub struct Held {
    _file: File,
}

impl Gate {
    /// The gate of the registry at `root`.
    pub fn new(root: &std::path::Path) -> Self {
        Self { path: root.join(".naming") }
    }

    /// Passes together with others who name things.
    pub async fn together(&self) -> Result<Held, Error> {
        self.pass(FlockOperation::LockShared).await
    }

    /// Passes alone.
    pub async fn alone(&self) -> Result<Held, Error> {
        self.pass(FlockOperation::LockExclusive).await
    }

    /// [`Gate::together`] for callers without a runtime.
    pub fn together_here(&self) -> Result<Held, Error> {
        lock(&self.path, FlockOperation::LockShared).map_err(Error::file("could not lock", &self.path))
    }

    async fn pass(&self, how: FlockOperation) -> Result<Held, Error> {
        let path = self.path.clone();
        let passed = tokio::task::spawn_blocking(move || lock(&path, how)).await;
        let passed = passed.map_err(std::io::Error::other).and_then(|held| held);
        passed.map_err(Error::file("could not lock", &self.path))
    }
}

fn lock(path: &std::path::Path, how: FlockOperation) -> std::io::Result<Held> {
    let file = File::options().create(true).truncate(false).write(true).open(path)?;
    flock(&file, how)?;
    Ok(Held { _file: file })
}
