//! What can go wrong with another registry.

use miette::Diagnostic;

use crate::Error;

/// Why a package did not move.
#[derive(Debug, thiserror::Error, Diagnostic)]
#[non_exhaustive]
pub enum ClientError {
    /// The registry cannot be reached, or broke the connection again and again.
    #[error("{host} cannot be reached: {why}")]
    #[diagnostic(
        code(modelyard::registry::unreachable),
        help("is the address right, and the network up? What arrived is kept: run the same command again")
    )]
    Unreachable {
        /// Host.
        host: String,
        /// What happened.
        why: String,
    },
    /// The registry wants to know who asks.
    #[error("{host} does not let us {doing}: {why}")]
    #[diagnostic(
        code(modelyard::registry::denied),
        help(
            "log in with `docker login {host}` (its configuration and credential helpers are read), or ask for the right to do this"
        )
    )]
    Denied {
        /// Host.
        host: String,
        /// What was tried.
        doing: &'static str,
        /// What it says.
        why: String,
    },
    /// There is nothing of that name.
    #[error("{remote} is not there: {why}")]
    #[diagnostic(
        code(modelyard::registry::not_found),
        help("check name and tag; `GET /v2/NAME/tags/list` of the registry lists the tags")
    )]
    NotFound {
        /// What was asked for.
        remote: String,
        /// What it says.
        why: String,
    },
    /// The registry answered something else.
    #[error("{host} refused to {doing}: {why}")]
    #[diagnostic(code(modelyard::registry::refused), help("the registry's own log may say more; what arrived is kept"))]
    Refused {
        /// Host.
        host: String,
        /// What was tried.
        doing: &'static str,
        /// Status and message.
        why: String,
    },
    /// What came has another digest.
    #[error("{host} gave other bytes than {expected}: they have digest {actual}")]
    #[diagnostic(
        code(modelyard::registry::wrong_bytes),
        help("nothing was kept; something between here and there is broken or hostile")
    )]
    WrongBytes {
        /// Host.
        host: String,
        /// What was asked for.
        expected: String,
        /// What came.
        actual: String,
    },
    /// It is there, but it is no package of Modelyard's.
    #[error("{remote} is no package: {why}")]
    #[diagnostic(
        code(modelyard::registry::no_package),
        help("`modelyard package` makes packages; container images and other artefacts are moved by skopeo or oras")
    )]
    NoPackage {
        /// What was asked for.
        remote: String,
        /// What is missing.
        why: String,
    },
    /// It is there, but it is no model that another tool put there.
    #[error("{remote} is no model that can be imported: {why}")]
    #[diagnostic(
        code(modelyard::registry::no_model),
        help(
            "ModelKits of KitOps, ModelPack artefacts and plain images with a model in one folder are read; nothing was left in the folder"
        )
    )]
    NoModel {
        /// What was asked for.
        remote: String,
        /// What is wrong with it.
        why: String,
    },
    /// It is there, but no container image for this machine.
    #[error("{remote} is no container image that can be built on: {why}")]
    #[diagnostic(
        code(modelyard::registry::no_image),
        help(
            "name an image for Linux on the architecture of this machine; `skopeo inspect --raw docker://REF` shows what is there"
        )
    )]
    NoImage {
        /// What was asked for.
        remote: String,
        /// What is wrong with it.
        why: String,
    },
    /// Credentials are configured and cannot be had.
    #[error("the credentials for {host} cannot be had: {why}")]
    #[diagnostic(
        code(modelyard::registry::credentials),
        help("look at Docker's config.json, or at the credential helper that it names")
    )]
    Credentials {
        /// Host.
        host: String,
        /// What happened.
        why: String,
    },
    /// The local registry.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Local(#[from] Error),
}
