//! Pushed blobs get into their repositories: those that wait at the same time together, so that the disk is waited for once.
//!
//! Promises: whoever is told that a blob is in its repository finds it there after the machine has lost its power.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::oneshot;

use super::answer::{Code, Refusal};
use super::meta::Metadata;
use crate::Error;
use crate::digest::AnyDigest;
use crate::storage::BlobStore;

/// Who puts blobs into repositories.
#[derive(Debug)]
pub struct Naming {
    blobs: Arc<dyn BlobStore>,
    meta: Arc<dyn Metadata>,
    waiting: Mutex<Waiting>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Whether somebody is writing, and will write what waits next.
    busy: bool,
    links: Vec<Link>,
}

#[derive(Debug)]
struct Link {
    repository: String,
    digest: AnyDigest,
    told: oneshot::Sender<Result<(), Refusal>>,
}

/// Whoever writes; gives the place up even when it cannot go on.
struct Writer<'a>(&'a Naming);

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.waiting().busy = false;
        }
    }
}

impl Naming {
    /// Links in `meta` to blobs in `blobs`.
    pub fn new(blobs: Arc<dyn BlobStore>, meta: Arc<dyn Metadata>) -> Self {
        Self { blobs, meta, waiting: Mutex::default() }
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a repository give a blob that was kept; both are on the disk then.
    pub async fn link(self: &Arc<Self>, repository: &str, digest: &AnyDigest) -> Result<(), Refusal> {
        let (told, outcome) = oneshot::channel();
        let leads = {
            let mut waiting = self.waiting();
            waiting.links.push(Link { repository: repository.to_owned(), digest: digest.clone(), told });
            !std::mem::replace(&mut waiting.busy, true)
        };
        if leads {
            let naming = Arc::clone(self);
            tokio::task::spawn_blocking(move || naming.write());
        }
        let gone = || Refusal::new(Code::Unknown, "the registry could not write its metadata; its log says why");
        outcome.await.unwrap_or_else(|_| Err(gone()))
    }

    /// Writes what waits until nothing does.
    fn write(&self) {
        let writer = Writer(self);
        loop {
            let links = {
                let mut waiting = writer.0.waiting();
                waiting.busy = !waiting.links.is_empty();
                std::mem::take(&mut waiting.links)
            };
            if links.is_empty() {
                return;
            }
            let written = self.write_all(&links).map_err(Refusal::from);
            for link in links {
                // Who has gone finds out when it asks again.
                let _ = link.told.send(written.clone());
            }
        }
    }

    fn write_all(&self, links: &[Link]) -> Result<(), Error> {
        let pairs: Vec<_> = links.iter().map(|link| (link.repository.as_str(), &link.digest)).collect();
        self.blobs.settle(&pairs.iter().map(|(_, digest)| *digest).collect::<Vec<_>>())?;
        self.meta.link_all(&pairs)
    }
}
