//! Validated names. A value of these types is always well formed, so nothing downstream needs to check again.
//!
//! Promises: every name is safe as a path segment, a DNS label part, an OCI repository part and a metric label.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Why a name was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{given}` is not a {kind}: {rule}")]
pub struct NameError {
    /// What kind of name was expected, as people say it.
    pub kind: &'static str,
    /// The refused text, shortened to 80 characters.
    pub given: String,
    /// The rule that the text breaks.
    pub rule: &'static str,
}

const LABEL_RULE: &str =
    "use 1 to 63 lower-case letters, digits and single `-`, `_` or `.` between them, starting with a letter";

/// Letters, digits, and single separators between them, as an OCI repository component has them.
fn is_label(text: &str) -> bool {
    let bytes = text.as_bytes();
    let starts_well = bytes.first().is_some_and(u8::is_ascii_lowercase);
    let ends_well = bytes.last().is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let separators = |b: u8| matches!(b, b'-' | b'_' | b'.');
    let allowed = bytes.iter().all(|&b| b.is_ascii_lowercase() || b.is_ascii_digit() || separators(b));
    let single = bytes.windows(2).all(|pair| !(separators(pair[0]) && separators(pair[1])));
    text.len() <= 63 && starts_well && ends_well && allowed && single
}

const VERSION_RULE: &str =
    "use 1 to 128 letters, digits, `.`, `_` and `-`, starting with a letter or digit (for example 2.1.0)";

/// An OCI tag, a little narrower: a version never starts with a separator.
fn is_version(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && text.len() <= 128
        && bytes.iter().all(|&b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-'))
}

fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}

macro_rules! name {
    ($(#[$doc:meta])* $type:ident, $kind:literal, $check:ident, $rule:expr) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $type(std::sync::Arc<str>);

        impl $type {
            /// Checks and wraps a name.
            ///
            /// # Errors
            /// [`NameError`] with the rule that `text` breaks.
            pub fn new(text: impl AsRef<str>) -> Result<Self, NameError> {
                let text = text.as_ref();
                match $check(text) {
                    true => Ok(Self(text.into())),
                    false => Err(NameError { kind: $kind, given: shorten(text), rule: $rule }),
                }
            }

            /// The name as text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }

        impl FromStr for $type {
            type Err = NameError;
            fn from_str(text: &str) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl TryFrom<String> for $type {
            type Error = NameError;
            fn try_from(text: String) -> Result<Self, NameError> {
                Self::new(text)
            }
        }

        impl From<$type> for String {
            fn from(name: $type) -> String {
                name.0.to_string()
            }
        }

        impl AsRef<str> for $type {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl std::borrow::Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }
    };
}

name!(
    /// Name of a model; also its OCI repository.
    ModelName, "model name", is_label, LABEL_RULE
);
name!(
    /// Name under which a model is served in one environment.
    ServiceName, "service name", is_label, LABEL_RULE
);
name!(
    /// Name of an environment, such as `dev` or `prod`.
    EnvironmentName, "environment name", is_label, LABEL_RULE
);
name!(
    /// Name of a machine within its environment.
    MachineName, "machine name", is_label, LABEL_RULE
);
name!(
    /// Movable name of a version, such as `champion`.
    AliasName, "alias", is_label, LABEL_RULE
);
name!(
    /// Version of a package: an OCI tag, by convention `MAJOR.MINOR.PATCH`.
    Version, "version", is_version, VERSION_RULE
);
name!(
    /// Identity of one instance, unique for ever within one home (`wine-r2-7`).
    InstanceId, "instance id", is_version, VERSION_RULE
);
name!(
    /// Identity of one rollout, unique for ever within one home (`wine-3`: the service's third rollout).
    RolloutId, "rollout id", is_version, VERSION_RULE
);

/// Number of a revision within its service, counted from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(transparent)]
pub struct RevisionNumber(pub u32);

/// Reads a number or its text: as a key of a map within a tagged event, serde hands it over as text.
impl<'de> Deserialize<'de> for RevisionNumber {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = RevisionNumber;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a revision number")
            }
            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<RevisionNumber, E> {
                u32::try_from(number).map(RevisionNumber).map_err(E::custom)
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<RevisionNumber, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl fmt::Display for RevisionNumber {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

impl FromStr for RevisionNumber {
    type Err = NameError;
    fn from_str(text: &str) -> Result<Self, NameError> {
        let digits = text.strip_prefix('r').unwrap_or(text);
        match digits.parse() {
            Ok(number) if number > 0 => Ok(Self(number)),
            _ => Err(NameError {
                kind: "revision number",
                given: shorten(text),
                rule: "use a whole number from 1, such as 3 or r3",
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_could_leave_a_folder_are_refused() {
        for bad in ["", ".", "..", "a/b", "-a", "a-", "a..b", "A", "ä", "1a", "a b", &"a".repeat(64)] {
            assert!(ServiceName::new(bad).is_err(), "{bad:?} was accepted");
        }
        for good in ["a", "wine", "wine-quality", "wine_quality.v2", "a1"] {
            assert_eq!(ServiceName::new(good).unwrap().as_str(), good);
        }
    }

    #[test]
    fn a_refusal_names_the_rule() {
        let error = Version::new(".hidden").unwrap_err().to_string();
        assert!(error.contains("`.hidden` is not a version") && error.contains("2.1.0"), "{error}");
    }

    #[test]
    fn revisions_read_with_and_without_prefix() {
        assert_eq!("r3".parse::<RevisionNumber>().unwrap(), RevisionNumber(3));
        assert_eq!("3".parse::<RevisionNumber>().unwrap(), RevisionNumber(3));
        assert!("0".parse::<RevisionNumber>().is_err());
    }
}
