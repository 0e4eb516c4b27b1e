//! Where the registry keeps things: a folder and SQLite; or blobs in an S3-compatible store, and everything else in PostgreSQL.
//!
//! Promises: a store is asked before it is relied on; an error names the store, never a secret; what is in a store is there whole or not at all.
//! Absent on purpose: moving what is kept from one store to another: that is a push from one registry to the other.

mod blobs;
pub(crate) mod body;
mod bucket;
mod gate;
mod postgres;
mod settings;
mod sqlite;
mod transport;
mod verified;

use std::future::Future;
use std::io;
use std::path::Path;
use std::sync::{Arc, OnceLock};

use tokio::runtime::{Handle, Runtime, RuntimeFlavor};

pub(crate) use self::blobs::{BlobStore, Folder, Object, Shared, Source};
pub(crate) use self::bucket::Bucket;
pub(crate) use self::gate::Gate;
pub(crate) use self::postgres::{Locked, Postgres};
pub use self::settings::Settings;
pub(crate) use self::sqlite::Sqlite;
pub(crate) use self::verified::Verified;
use crate::Error;

/// The stores beside the folder.
#[derive(Clone, Debug, Default)]
pub(crate) struct Storage {
    /// Blobs.
    pub bucket: Option<Arc<Bucket>>,
    /// Versions, aliases, tags, manifests.
    pub postgres: Option<Arc<Postgres>>,
}

impl Storage {
    /// Opens what the settings name.
    pub fn open(settings: &Settings) -> Result<Self, Error> {
        let bucket = settings.blobs.is_some().then(|| Bucket::open(settings)).transpose()?.map(Arc::new);
        let postgres = settings.metadata.as_deref().map(Postgres::shared).transpose()?;
        Ok(Self { bucket, postgres })
    }

    /// Blobs of the registry at `root`.
    pub fn blobs(&self, root: &Path) -> Arc<dyn BlobStore> {
        let folder = Folder::new(root);
        match &self.bucket {
            Some(bucket) => Arc::new(Shared::new(folder, Arc::clone(bucket))),
            None => Arc::new(folder),
        }
    }
}

/// The threads that talk to stores beside the folder; they start with the first such store, and live as long as the process.
fn runtime() -> Result<&'static Handle, Error> {
    static RUNTIME: OnceLock<io::Result<Runtime>> = OnceLock::new();
    let made = RUNTIME.get_or_init(|| {
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).thread_name("storage").enable_all().build()
    });
    made.as_ref().map(Runtime::handle).map_err(|error| Error::File {
        doing: "could not start a runtime for",
        path: "the stores".into(),
        source: io::Error::new(error.kind(), error.to_string()),
    })
}

/// Does asynchronous work from a thread that waits, whichever runtime it may belong to; other tasks of that runtime go on.
fn wait<T: Send, F: Future<Output = T>>(runtime: &Handle, work: impl FnOnce() -> F + Send) -> T {
    match Handle::try_current().map(|current| current.runtime_flavor()) {
        Err(_) => runtime.block_on(work()),
        Ok(RuntimeFlavor::MultiThread) => tokio::task::block_in_place(|| runtime.block_on(work())),
        // A runtime of one thread cannot wait in place.
        Ok(_) => std::thread::scope(|scope| match scope.spawn(|| runtime.block_on(work())).join() {
            Ok(done) => done,
            Err(panic) => std::panic::resume_unwind(panic),
        }),
    }
}

/// An error and what caused it, in one line.
fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut told = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_told = cause.to_string();
        if !told.contains(&cause_told) {
            told = format!("{told}: {cause_told}");
        }
        source = cause.source();
    }
    told.chars().map(|letter| if letter.is_control() { ' ' } else { letter }).take(600).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_thread_can_wait() {
        let runtime = runtime().unwrap();
        let ask = || wait(runtime, || async { tokio::task::yield_now().await });
        ask();
        tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(async { ask() });
        let many = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        many.block_on(async {
            ask();
            tokio::spawn(async move { ask() }).await.unwrap();
            tokio::task::spawn_blocking(ask).await.unwrap();
        });
    }
}
