//! Whether the bytes are still those that the digests name.

use modelyard_core::Digest;

use crate::distribution::Distribution;
use crate::manifest::FILEPATH;
use crate::{Error, Store};

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fault {
    /// What.
    pub what: String,
    /// Why.
    pub why: String,
}

impl Fault {
    pub(super) fn new(what: impl Into<String>, error: &Error) -> Self {
        let why = std::iter::successors(Some(error as &dyn std::error::Error), |error| error.source());
        Self { what: what.into(), why: why.map(ToString::to_string).collect::<Vec<_>>().join(": ") }
    }
}

/// What was read and compared.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Checked {
    /// Blobs.
    pub blobs: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Those that are not what they should be.
    pub faults: Vec<Fault>,
}

impl Checked {
    fn note(&mut self, what: impl FnOnce() -> String, checked: Result<u64, Error>) {
        self.blobs += 1;
        match checked {
            Ok(bytes) => self.bytes += bytes,
            Err(error) => self.faults.push(Fault::new(what(), &error)),
        }
    }
}

/// Reads every byte of a package and compares its digest: manifest, configuration, each file.
pub fn check_package(store: &Store, digest: &Digest) -> Checked {
    let mut checked = Checked::default();
    let manifest = store.manifest(digest);
    let manifest = match manifest {
        Ok(manifest) => {
            let length = store.blobs().size(digest).map(Option::unwrap_or_default);
            checked.note(|| format!("manifest {digest}"), length);
            manifest
        }
        Err(error) => {
            checked.note(|| format!("manifest {digest}"), Err(error));
            return checked;
        }
    };
    for part in manifest.layers.iter().chain([&manifest.config]) {
        let named = || match part.annotations.get(FILEPATH) {
            Some(path) => format!("file `{}`", path.escape_debug()),
            None => format!("configuration {}", part.digest),
        };
        checked.note(named, store.blobs().verify(&part.digest));
    }
    checked
}

/// Reads every blob of the registry, whoever refers to it, and compares its digest with its name.
///
/// # Errors
/// [`Error::File`] or [`Error::Storage`] when the blobs cannot be listed.
pub fn check_all(distribution: &Distribution) -> Result<Checked, Error> {
    let mut checked = Checked::default();
    let mut digests = distribution.blobs()?;
    digests.sort();
    for digest in digests {
        checked.note(|| format!("blob {digest}"), distribution.verify(&digest));
    }
    Ok(checked)
}
