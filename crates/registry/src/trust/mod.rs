//! Trust: who says what of a package, and whether its bytes are still the same.
//!
//! Promises: a signature object is one that cosign makes and checks, under cosign's tag and as a referrer; a changed byte anywhere (package,
//! blob, signature object, payload, signature) is found and named; all faults are told at once.
//! Absent on purpose: certificates, transparency logs and time stamps (cosign's keyless way): keys are files.
//!
//! Source: cosign's signature and attestation specifications; containers' simple signing; OCI image specification 1.1 (`subject`); in-toto, DSSE and SLSA for
//! what is attested.

mod attestation;
mod bill;
mod bytes;
mod dsse;
mod key;
pub(crate) mod object;
mod promotion;
mod provenance;
mod sealed;
mod signature;

pub use self::attestation::{Attested, attest, attestations};
pub use self::bill::{BILL, Bill, Fits, bills};
pub use self::bytes::{Checked, Fault, check_all, check_package};
pub use self::key::{SigningKey, VerifyingKey};
pub use self::promotion::{CheckedPolicy, PROMOTION, Passed, Promote, Promotion, why_not_promoted};
pub use self::provenance::{BUILD_TYPE, Build, PROVENANCE, Provenance, Source, why_not};
pub use self::signature::{Found, Signed, sign, signatures};

/// Why something cannot be signed or checked.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
pub enum Error {
    /// A key is none.
    #[error("the key cannot be used: {why}")]
    #[diagnostic(
        code(modelyard::trust::key),
        help(
            "keys are ECDSA P-256 in PEM: `modelyard sign --generate-key FILE` makes a pair; cosign.key and cosign.pub can be used as they are, with the \
             password in COSIGN_PASSWORD; `openssl pkey` decrypts others"
        )
    )]
    Key {
        /// What is wrong with it.
        why: String,
    },
    /// The local registry.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Registry(#[from] crate::Error),
}

impl Error {
    fn key(why: impl Into<String>) -> Self {
        Self::Key { why: why.into() }
    }
}
