//! What can go wrong with the local registry.

use std::path::PathBuf;

use modelyard_core::{AliasName, Digest, ModelName, Version};

use crate::store::Listed;
use crate::there;

/// The registry could not do what it was asked. Nothing was left half done.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum Error {
    /// A file operation failed.
    #[error("{doing} `{}`", path.display())]
    #[diagnostic(
        code(modelyard::registry::file),
        help("check that the disk has room and that the folder may be written")
    )]
    File {
        /// What was being done.
        doing: &'static str,
        /// With which path.
        path: PathBuf,
        /// The error beneath.
        #[source]
        source: std::io::Error,
    },
    /// There is no such model.
    #[error("there is no model `{0}` in the registry")]
    #[diagnostic(
        code(modelyard::registry::no_model),
        help("`modelyard models` lists what is there; `modelyard package DIR` adds one")
    )]
    NoModel(ModelName),
    /// There is no such version.
    #[error("`{model}` has no version `{version}`; it has {there}")]
    #[diagnostic(code(modelyard::registry::no_version), help("`modelyard versions {model}` lists what is there"))]
    NoVersion {
        /// Model.
        model: ModelName,
        /// Version.
        version: Version,
        /// Which it has: a few, nearest first, with their aliases.
        there: String,
    },
    /// There is no such alias.
    #[error("`{model}` has no alias `{alias}`; it has {there}")]
    #[diagnostic(code(modelyard::registry::no_alias), help("`modelyard alias {model}@{alias} VERSION` sets one"))]
    NoAlias {
        /// Model.
        model: ModelName,
        /// Alias.
        alias: AliasName,
        /// Which it has: a few, nearest first.
        there: String,
    },
    /// There is no such package.
    #[error("there is no package {0} in the registry")]
    #[diagnostic(
        code(modelyard::registry::no_package),
        help("`modelyard versions NAME` lists the digests that are there")
    )]
    NoPackage(Digest),
    /// Bytes that a package refers to are not there.
    #[error("blob {0} is not in the registry")]
    #[diagnostic(code(modelyard::registry::no_blob), help("package the model again: its files are stored anew"))]
    NoBlob(Digest),
    /// The version is taken by another package.
    #[error("`{model}:{version}` is {existing} already, and this package is {offered}")]
    #[diagnostic(
        code(modelyard::registry::version_taken),
        help(
            "a version names one package for ever: raise the version in modelyard.toml (a bare ONNX file: `--as NAME:VERSION`), or restore the files if the change was not meant"
        )
    )]
    VersionTaken {
        /// Model.
        model: ModelName,
        /// Version.
        version: Version,
        /// What the version names.
        existing: Digest,
        /// What was offered.
        offered: Digest,
    },
    /// Bytes do not have the digest that they should have.
    #[error("blob {expected} is damaged: its bytes have the digest {actual}")]
    #[diagnostic(
        code(modelyard::registry::damaged),
        help("the disk or somebody changed it; package the model again from its folder, which mends it")
    )]
    Damaged {
        /// What it should be.
        expected: Digest,
        /// What it is.
        actual: Digest,
    },
    /// A store beside the folder cannot be used.
    #[error("{store} cannot be used: {why}")]
    #[diagnostic(
        code(modelyard::registry::storage),
        help(
            "look at MODELYARD_BLOBS (`s3://bucket/prefix`), MODELYARD_METADATA (`postgresql://user@host/database`) or `storage.toml` in the registry's folder, at the credentials (AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, PGPASSWORD), and whether the store is up"
        )
    )]
    Storage {
        /// Which store.
        store: String,
        /// What is wrong.
        why: String,
    },
    /// A document is not what it should be.
    #[error("{what} cannot be read: {why}")]
    #[diagnostic(
        code(modelyard::registry::document),
        help("the store may have been written by a newer Modelyard, or damaged")
    )]
    Document {
        /// Which document.
        what: String,
        /// What is wrong with it.
        why: String,
    },
    /// What was to be said of a model or version is not kept.
    #[error("{what} is refused: {why}")]
    #[diagnostic(code(modelyard::registry::refused), help("nothing was changed"))]
    Refused {
        /// What.
        what: String,
        /// Why.
        why: String,
    },
    /// The version was removed, and names the package that it named for ever.
    #[error("`{model}:{version}` was removed by {by}; it was {digest}")]
    #[diagnostic(
        code(modelyard::registry::version_removed),
        help("a version names one package for ever: raise the version in modelyard.toml")
    )]
    VersionRemoved {
        /// Model.
        model: ModelName,
        /// Version.
        version: Version,
        /// Who removed it.
        by: String,
        /// What it named.
        digest: Digest,
    },
    /// A path within a package leaves the package, or stands in the way of another.
    #[error("the package holds a file with the path `{path}`, which is refused: {why}")]
    #[diagnostic(code(modelyard::registry::path), help("do not use this package; tell those who made it"))]
    Path {
        /// The path, shortened.
        path: String,
        /// Why.
        why: &'static str,
    },
}

impl Error {
    /// That a model with these versions has no such version.
    pub fn no_version(model: &ModelName, version: &Version, listed: &[Listed]) -> Self {
        let there = there::versions(version.as_str(), listed);
        Self::NoVersion { model: model.clone(), version: version.clone(), there }
    }

    /// That a model with these versions has no such alias.
    pub(crate) fn no_alias(model: &ModelName, alias: &AliasName, listed: &[Listed]) -> Self {
        let there = there::aliases(alias, listed);
        Self::NoAlias { model: model.clone(), alias: alias.clone(), there }
    }

    /// Whether what was asked for is not there.
    pub const fn is_missing(&self) -> bool {
        matches!(self, Self::NoModel(_) | Self::NoVersion { .. } | Self::NoAlias { .. } | Self::NoPackage(_))
    }

    /// For `map_err`: names what was being done with which path.
    pub(crate) fn file(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { doing, path, source }
    }
}
