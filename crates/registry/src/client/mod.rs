//! The client: packages to and from any OCI registry, moving only what the other side lacks.
//!
//! Promises: every byte is checked against its digest where it arrives; a transfer that breaks off goes on where it stood; the manifest goes last, so
//! nobody sees half a package; a version here names one digest for ever.
//! Absent on purpose: a runtime. Transfers are few and long: a thread each.
//!
//! Source: OCI distribution specification 1.1; token authentication as Docker's registries have it.

mod attached;
mod auth;
mod error;
mod foreign;
mod http;
mod image;
mod kit;
mod transfer;

pub use self::attached::{pull_referrers, push_referrers};
pub use self::error::ClientError;
pub use self::foreign::{Foreign, Layout, fetch_foreign};
pub use self::image::fetch_image;
pub use self::kit::push_kit;
pub use crate::found_image::FoundImage;
pub use crate::remote::{Remote, RemoteError};

use modelyard_core::{Digest, ModelName, Version};

use self::http::Http;
use crate::catalog::Way;
use crate::manifest::{Descriptor, MANIFEST, Manifest};
use crate::{Error, Store};

/// What a transfer is told of: bytes that are done, of all that have to move.
pub type Tell<'a> = &'a (dyn Fn(u64, u64) + Sync);

/// What a transfer did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Digest of the package.
    pub digest: Digest,
    /// Blobs that had to move.
    pub blobs: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Blobs that were there already.
    pub reused: usize,
}

/// Pushes a package of the local registry.
///
/// # Errors
/// [`ClientError`]; blobs that arrived stay there and are not sent again.
#[tracing::instrument(name = "registry.push", skip_all, fields(%digest, %remote), err)]
pub fn push(store: &Store, digest: &Digest, remote: &Remote, tell: Tell<'_>) -> Result<Moved, ClientError> {
    let http = Http::new(remote)?;
    let manifest = store.manifest(digest)?;
    let bytes = store.blobs().read(digest, crate::manifest::MAX_MANIFEST_BYTES)?;
    let parts = parts(&manifest);
    let missing = transfer::missing(&http, &parts)?;
    transfer::send(&http, store, &missing, tell)?;
    http.put_manifest(&remote.reference(), MANIFEST, &bytes, digest)?;
    Ok(moved(*digest, &parts, &missing))
}

/// Pulls a package into the local registry, where it gets the name and version that it says.
///
/// # Errors
/// [`ClientError`]; blobs that arrived stay here and are not fetched again.
#[tracing::instrument(name = "registry.pull", skip_all, fields(%remote), err)]
pub fn pull(store: &Store, remote: &Remote, tell: Tell<'_>) -> Result<(Moved, ModelName, Version), ClientError> {
    let http = Http::new(remote)?;
    let (bytes, digest) = http.manifest(&remote.reference())?;
    let wrong = |why: String| ClientError::NoPackage { remote: remote.to_string(), why };
    let manifest: Manifest = serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
    let parts = parts(&manifest);
    let missing = lacking(store, &parts)?;
    transfer::fetch(&http, store, &missing, tell)?;
    store.blobs().put(&bytes)?;
    let package = store.package(&digest).map_err(|error| match error {
        Error::Document { why, .. } => wrong(why),
        other => other.into(),
    })?;
    store.adopt(&package.name, &package.version, &digest, &Way::pulled(remote))?;
    Ok((moved(digest, &parts, &missing), package.name, package.version))
}

/// The parts that the local registry does not have; the others are kept from being swept meanwhile.
fn lacking(store: &Store, parts: &[Descriptor]) -> Result<Vec<Descriptor>, ClientError> {
    let blobs = store.blobs();
    let mut missing = Vec::new();
    for part in parts {
        if blobs.size(&part.digest)? != Some(part.size) || !blobs.touch(&part.digest)? {
            missing.push(part.clone());
        }
    }
    Ok(missing)
}

/// Everything that a manifest refers to, each once.
fn parts(manifest: &Manifest) -> Vec<Descriptor> {
    let mut parts: Vec<Descriptor> = manifest.layers.iter().chain([&manifest.config]).cloned().collect();
    parts.sort_by_key(|part| part.digest);
    parts.dedup_by_key(|part| part.digest);
    parts
}

fn moved(digest: Digest, parts: &[Descriptor], missing: &[Descriptor]) -> Moved {
    let bytes = missing.iter().map(|part| part.size).sum();
    Moved { digest, blobs: missing.len(), bytes, reused: parts.len() - missing.len() }
}
