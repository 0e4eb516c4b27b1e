//! References: how people name a package.
//!
//! `wine` (its newest version), `wine:2.1.0`, `wine@champion`, `wine@sha256:…`.

use std::fmt;
use std::str::FromStr;

use modelyard_core::names::NameError;
use modelyard_core::{AliasName, Digest, ModelName, Version, digest::DigestError};

/// A package as people name it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reference {
    /// Which model.
    pub model: ModelName,
    /// Which package of it.
    pub selector: Selector,
}

/// Which package of a model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Selector {
    /// The version that was added last.
    Newest,
    /// That version.
    Version(Version),
    /// Whatever the alias points to.
    Alias(AliasName),
    /// Exactly that package.
    Digest(Digest),
}

/// The text is no reference.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    /// A part of it is no name.
    #[error("`{reference}` is not a reference (write NAME, NAME:VERSION, NAME@ALIAS or NAME@sha256:…)")]
    Name {
        /// The text, shortened.
        reference: String,
        /// What is wrong.
        #[source]
        source: NameError,
    },
    /// The digest is none.
    #[error("`{reference}` is not a reference (write NAME, NAME:VERSION, NAME@ALIAS or NAME@sha256:…)")]
    Digest {
        /// The text, shortened.
        reference: String,
        /// What is wrong.
        #[source]
        source: DigestError,
    },
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        let reference = || text.chars().take(120).collect::<String>();
        let name = |source| ReferenceError::Name { reference: reference(), source };
        let (model, selector) = match text.split_once('@') {
            Some((model, digest)) if digest.contains(':') => {
                let digest =
                    digest.parse().map_err(|source| ReferenceError::Digest { reference: reference(), source })?;
                (model, Selector::Digest(digest))
            }
            Some((model, alias)) => (model, Selector::Alias(AliasName::new(alias).map_err(name)?)),
            None => match text.split_once(':') {
                Some((model, version)) => (model, Selector::Version(Version::new(version).map_err(name)?)),
                None => (text, Selector::Newest),
            },
        };
        Ok(Self { model: ModelName::new(model).map_err(name)?, selector })
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.selector {
            Selector::Newest => write!(f, "{}", self.model),
            Selector::Version(version) => write!(f, "{}:{version}", self.model),
            Selector::Alias(alias) => write!(f, "{}@{alias}", self.model),
            Selector::Digest(digest) => write!(f, "{}@{digest}", self.model),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references_read_and_show() {
        let digest = format!("wine@sha256:{}", "ab".repeat(32));
        for text in ["wine", "wine:2.1.0", "wine@champion", &digest] {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn nonsense_is_refused_with_the_reason() {
        for text in ["", "Wine", "wine:", "wine:../x", "wine@", "wine@sha256:abc", "a/b", "wine:1@x"] {
            assert!(text.parse::<Reference>().is_err(), "{text:?} was accepted");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,200}") {
            let _ = text.parse::<Reference>();
        }
    }
}
