//! Container images that others are put on: fetched into the local registry once, and then found there without a network.
//!
//! Promises: every byte is checked against its digest; what is kept is named, so that no sweep takes it; of an index, one platform alone is fetched.
//! Absent on purpose: looking into layers, which who builds on them does.

use modelyard_core::{Digest, ModelName};

use super::http::Http;
use super::{ClientError, Remote, Tell, lacking, transfer};
use crate::distribution::Distribution;
use crate::found_image::FoundImage;

/// Fetches the image for Linux on `architecture`, and keeps it in `repository` of the local registry.
///
/// # Errors
/// [`ClientError`]; blobs that arrived stay, and are not fetched again, until they are collected.
#[tracing::instrument(name = "registry.image", skip_all, fields(%remote), err)]
pub fn fetch_image(
    distribution: &Distribution,
    remote: &Remote,
    architecture: &str,
    repository: &ModelName,
    tell: Tell<'_>,
) -> Result<FoundImage, ClientError> {
    let http = Http::new(remote)?;
    let (bytes, _) = http.manifest(&remote.reference())?;
    let wrong = |why: String| ClientError::NoImage { remote: remote.to_string(), why };
    let read = |digest: &Digest| http.manifest(&digest.to_string()).map(|(bytes, _)| bytes);
    let found = FoundImage::choose(bytes, architecture, wrong, read)?;
    let mut parts = found.parts.clone();
    parts.sort_by_key(|part| part.digest);
    parts.dedup_by_key(|part| part.digest);
    let missing = lacking(distribution.store(), &parts)?;
    transfer::fetch(&http, distribution.store(), &missing, tell)?;
    distribution.keep_base(repository, remote.tag(), &found)?;
    Ok(found)
}
