//! Keeps sweeps apart from whoever is giving something a name, in this process and in others.

use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::{FlockOperation, flock};

use super::{Locked, Postgres, Storage};
use crate::Error;

/// A lock on a file of the registry, or in the database that all its processes share: many name things at once, one sweeps alone.
#[derive(Clone, Debug)]
pub enum Gate {
    /// For the processes that share the folder.
    Here(PathBuf),
    /// For all that share the database.
    Everywhere(Arc<Postgres>),
}

/// Held until dropped.
#[expect(dead_code, reason = "what is in them is held, not read")]
pub enum Held {
    /// The lock on the file.
    Here(File),
    /// The lock in the database.
    Everywhere(Locked),
}

impl Gate {
    /// The gate of the registry at `root`.
    pub fn new(root: &std::path::Path, storage: &Storage) -> Self {
        match &storage.postgres {
            Some(postgres) => Self::Everywhere(Arc::clone(postgres)),
            None => Self::Here(root.join(".naming")),
        }
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
        match self {
            Self::Here(path) => lock(path, FlockOperation::LockShared).map_err(Error::file("could not lock", path)),
            Self::Everywhere(postgres) => postgres.pass_here(true).map(Held::Everywhere),
        }
    }

    async fn pass(&self, how: FlockOperation) -> Result<Held, Error> {
        let path = match self {
            Self::Here(path) => path.clone(),
            Self::Everywhere(postgres) => {
                return postgres.pass(how == FlockOperation::LockShared).await.map(Held::Everywhere);
            }
        };
        let locked = path.clone();
        let passed = tokio::task::spawn_blocking(move || lock(&locked, how)).await;
        let passed = passed.map_err(std::io::Error::other).and_then(|held| held);
        passed.map_err(Error::file("could not lock", path))
    }
}

fn lock(path: &std::path::Path, how: FlockOperation) -> std::io::Result<Held> {
    let file = File::options().create(true).truncate(false).write(true).open(path)?;
    flock(&file, how)?;
    Ok(Held::Here(file))
}
