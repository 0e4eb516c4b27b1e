//! What can go wrong with a bundle.

use std::path::{Path, PathBuf};

use modelyard_core::Digest;

use crate::Error;

/// Why a bundle was not made or not loaded. Nothing got a name.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[non_exhaustive]
pub enum BundleError {
    /// The file cannot be read or written.
    #[error("{doing} {}", path.display())]
    #[diagnostic(code(modelyard::bundle::file), help("check the path, and that the disk has room"))]
    File {
        /// What was being done.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The file is no bundle.
    #[error("{} is no bundle: {why}", path.display())]
    #[diagnostic(
        code(modelyard::bundle::none),
        help(
            "a bundle is made by `modelyard bundle create`, or by other tools as an OCI archive (`skopeo copy … oci-archive:FILE`); nothing was loaded"
        )
    )]
    None {
        /// The file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The archive holds what no bundle holds.
    #[error("{} is refused: its entry `{entry}` {why}", path.display())]
    #[diagnostic(
        code(modelyard::bundle::entry),
        help("do not use this file; tell those who made it. Nothing was loaded")
    )]
    Entry {
        /// The file.
        path: PathBuf,
        /// The entry, shortened.
        entry: String,
        /// What is wrong with it.
        why: String,
    },
    /// Bytes changed on the way.
    #[error("{} is damaged: {what} has the digest {actual}, and {expected} was packed", path.display())]
    #[diagnostic(code(modelyard::bundle::damaged), help("carry the file over again; nothing was loaded"))]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Which part of what.
        what: String,
        /// What it should be.
        expected: Digest,
        /// What it is.
        actual: Digest,
    },
    /// Something is not in the file.
    #[error("{} is not whole: it lacks {what} ({digest})", path.display())]
    #[diagnostic(
        code(modelyard::bundle::lacks),
        help("carry the file over again, or make it anew; nothing was loaded")
    )]
    Lacks {
        /// The file.
        path: PathBuf,
        /// Which part of what.
        what: String,
        /// Its digest.
        digest: Digest,
    },
    /// A manifest in it cannot be read.
    #[error("{what} cannot be read: {why}")]
    #[diagnostic(code(modelyard::bundle::manifest), help("nothing was changed; was it made by a newer program?"))]
    Manifest {
        /// Which.
        what: String,
        /// Why.
        why: String,
    },
    /// There is no such image.
    #[error("the registry has no `{0}`")]
    #[diagnostic(
        code(modelyard::bundle::no_image),
        help("write NAME:TAG as it was pushed to this registry; packages are named without `--image`")
    )]
    NoImage(String),
    /// The index refused a wheel.
    #[error("`{file}` is refused by the package index: {why}")]
    #[diagnostic(code(modelyard::bundle::wheel), help("a file name means the same bytes for ever; nothing was loaded"))]
    Wheel {
        /// Name of the file.
        file: String,
        /// Why.
        why: String,
    },
    /// The local registry.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Local(#[from] Error),
}

impl BundleError {
    /// For `map_err`: names what was being done with which file.
    pub(super) fn file(doing: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::File { doing, path, source }
    }
}
