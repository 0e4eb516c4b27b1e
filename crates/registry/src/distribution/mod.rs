//! The distribution server: a registry that any OCI client can push to and pull from.
//!
//! Promises: a blob is there whole or not at all, and its digest was checked when it came; a tag always names a manifest that is there; uploads
//! outlive a restart; a blob whose bytes have changed breaks its answer off; memory stays flat whatever the size; removing what nobody refers to never takes what is being pushed.
//! Absent on purpose: accounts (who may do what is decided in front of this router) and other addresses than those of its caller.
//!
//! Source: OCI distribution specification 1.1.

pub(crate) mod answer;
pub(crate) mod attach;
mod blobs;
mod gc;
mod local;
mod manifests;
mod meta;
mod naming;
mod referrers;
mod route;
mod tags;
mod uploads;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::middleware::from_fn_with_state;

pub use self::attach::MadeImage;
#[cfg(fuzzing)]
pub(crate) use self::blobs::fuzz as fuzz_range;
pub use self::gc::Swept;
#[cfg(fuzzing)]
pub(crate) use self::manifests::fuzz as fuzz_manifest;

use self::meta::Metadata;
use self::naming::Naming;
use self::uploads::Uploads;
use crate::access::{self, Tokens};
use crate::storage::{BlobStore, Gate, Verified};
use crate::{Error, Store, listen, python};

/// A registry that is served.
#[derive(Clone, Debug)]
pub struct Distribution {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    store: Store,
    blobs: Arc<dyn BlobStore>,
    meta: Arc<dyn Metadata>,
    naming: Arc<Naming>,
    uploads: Uploads,
    gate: Gate,
    verified: Verified,
    python: python::Index,
}

impl Distribution {
    /// Opens the registry whose layout is at `root`. The models of `store` (the same layout) are its repositories too.
    ///
    /// # Errors
    /// [`Error::File`], [`Error::Document`] or [`Error::Storage`] when its files or stores cannot be made or read.
    pub fn open(root: &Path, store: Store) -> Result<Self, Error> {
        let (blobs, meta) = (store.storage().blobs(root), meta::open(root, store.storage())?);
        let inner = Inner {
            naming: Arc::new(Naming::new(Arc::clone(&blobs), Arc::clone(&meta))),
            blobs,
            meta,
            uploads: Uploads::open(&root.join("uploads"))?,
            gate: Gate::new(root, store.storage()),
            verified: Verified::default(),
            python: python::Index::open(root, &store)?,
            root: root.to_owned(),
            store,
        };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Serves the registry alone, until SIGTERM or Ctrl-C; `ready` learns the address in use. Blocks.
    ///
    /// # Errors
    /// [`Error::File`] when the address cannot be had.
    pub fn serve(&self, listen: SocketAddr, tokens: Tokens, ready: impl FnOnce(SocketAddr)) -> Result<(), Error> {
        let failed = |source| Error::File { doing: "could not listen on", path: listen.to_string().into(), source };
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(failed)?;
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind(listen).await.map_err(failed)?;
            ready(listener.local_addr().map_err(failed)?);
            let mut terminate =
                tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).map_err(failed)?;
            let end = async move {
                tokio::select! {
                    _ = terminate.recv() => {}
                    _ = tokio::signal::ctrl_c() => {}
                }
            };
            listen::serve(listener, self.guarded(tokens), end).await;
            Ok(())
        })
    }

    /// [`Distribution::router`] behind the guard: callers do what their tokens allow.
    pub fn guarded(&self, tokens: Tokens) -> Router {
        self.router().layer(from_fn_with_state(tokens.clone(), access::guard)).merge(access::routes(tokens))
    }

    /// Every address below `/v2/`, and those of the package index.
    pub fn router(&self) -> Router {
        route::router(self.clone()).merge(self.inner.python.router())
    }
}
