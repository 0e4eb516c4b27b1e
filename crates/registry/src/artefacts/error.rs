//! What can go wrong with a generic artefact registry.

use std::path::PathBuf;

use modelyard_core::Digest;

use crate::bundle::BundleError;

/// Why a file did not move.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[non_exhaustive]
pub enum ArtefactError {
    /// A file of this machine.
    #[error("{doing} {}", path.display())]
    #[diagnostic(code(modelyard::artefacts::file), help("check the path, and that the disk has room"))]
    File {
        /// What was being done.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The host cannot be reached, or broke the connection again and again.
    #[error("{host} cannot be reached: {why}")]
    #[diagnostic(
        code(modelyard::artefacts::unreachable),
        help("is the address right, and the network up? What arrived is kept: run the same command again")
    )]
    Unreachable {
        /// Host.
        host: String,
        /// What happened.
        why: String,
    },
    /// It wants to know who asks.
    #[error("{host} does not let us {doing}: {why}")]
    #[diagnostic(code(modelyard::artefacts::denied), help("{help}"))]
    Denied {
        /// Host.
        host: String,
        /// What was tried.
        doing: &'static str,
        /// What it says.
        why: String,
        /// Which variables say who we are.
        help: &'static str,
    },
    /// A login would go over the network in the clear.
    #[error("{host} would be told who we are without encryption")]
    #[diagnostic(
        code(modelyard::artefacts::plain),
        help("leave out `--plain-http`, or unset the variables that hold the token")
    )]
    Plain {
        /// Host.
        host: String,
    },
    /// There is nothing of that name.
    #[error("{place} has no {what}")]
    #[diagnostic(
        code(modelyard::artefacts::not_found),
        help(
            "check project, name and version; what may not be seen is often said not to be there: is a token needed?"
        )
    )]
    NotFound {
        /// What was asked for.
        what: String,
        /// Where.
        place: String,
    },
    /// It answered something else.
    #[error("{host} refused to {doing}: {why}")]
    #[diagnostic(code(modelyard::artefacts::refused), help("its own log may say more"))]
    Refused {
        /// Host.
        host: String,
        /// What was tried.
        doing: &'static str,
        /// Status and message.
        why: String,
    },
    /// Another package lies there.
    #[error("{what} lies there already, and is another package: {there}")]
    #[diagnostic(
        code(modelyard::artefacts::taken),
        help("a version names one package for ever: raise the version in modelyard.toml, or remove what lies there")
    )]
    Taken {
        /// Name and version.
        what: String,
        /// Digest of what lies there.
        there: Digest,
    },
    /// What came or arrived has another digest.
    #[error("{host} has other bytes for `{file}` than {expected}: {actual}")]
    #[diagnostic(
        code(modelyard::artefacts::wrong_bytes),
        help("nothing was kept; something between here and there is broken or hostile")
    )]
    WrongBytes {
        /// Host.
        host: String,
        /// Which file.
        file: String,
        /// What it should be.
        expected: String,
        /// What it is.
        actual: String,
    },
    /// The bundle holds something else.
    #[error("the bundle that lies there as {what} does not hold the package {digest} alone")]
    #[diagnostic(
        code(modelyard::artefacts::other),
        help("nothing was loaded; do not use it, and tell those who put it there")
    )]
    Other {
        /// Name and version.
        what: String,
        /// Digest of the package.
        digest: Digest,
    },
    /// The bundle.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Bundle(#[from] BundleError),
}
