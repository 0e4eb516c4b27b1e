//! API versions side by side: a signature that breaks callers is served as a version of its own, beside the one that they know.
//!
//! Promises: each API version is a service with its own revisions, rollouts and rollbacks; only its address and what its callers are told depend on
//! the others. From which moment a version is deprecated follows from the log alone.
//! Sources: RFC 9745 (`Deprecation`), RFC 8594 (`Sunset`), RFC 5829 (`successor-version`).

use serde::{Deserialize, Serialize};

use crate::time::Timestamp;
use crate::{RevisionNumber, ServiceName};

/// The API version of a service that does not say another: its first.
pub const FIRST: u16 = 1;

/// As which API version of which service a service answers, as `service.toml` says it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Api {
    /// The service that has the first API version, by whose name callers know them all.
    pub of: ServiceName,
    /// Its number, from 2: it answers under `/{of}/v{version}`.
    pub version: u16,
    /// When the versions before this one are to be switched off; callers are told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sunset: Option<Timestamp>,
}

impl Api {
    /// What is wrong with it, for whoever wrote it, in a service of this name; `None` when it makes sense.
    pub fn problem(&self, service: &ServiceName) -> Option<String> {
        if self.of == *service {
            return Some("`api.of` names another service: the one that has the first API version".to_owned());
        }
        (self.version <= FIRST)
            .then(|| format!("`api.version` is 2 or more: version {FIRST} is that of `{}` itself", self.of))
    }
}

/// One API version as it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Its number.
    pub version: u16,
    /// Since when it serves, which is when its first revision was promoted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// When the versions before it are to be switched off.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sunset: Option<Timestamp>,
}

/// That the callers of an API version should move on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Deprecation {
    /// Since when.
    pub since: Timestamp,
    /// Until when it is there at least, if that is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sunset: Option<Timestamp>,
    /// The next version.
    pub successor: u16,
}

/// Whether an API version is deprecated: a later one serves. `all` are the versions of one service, in any order.
///
/// The sunset is the earliest that a later version states, and never before the deprecation (RFC 9745, section 4).
pub fn deprecation(version: u16, all: &[Standing]) -> Option<Deprecation> {
    let later = || all.iter().filter(|other| other.version > version && other.since.is_some());
    let since = later().filter_map(|other| other.since).min()?;
    let successor = later().map(|other| other.version).min()?;
    let sunset = later().filter_map(|other| other.sunset).min().map(|sunset| sunset.max(since));
    Some(Deprecation { since, sunset, successor })
}

/// The base path of an API version.
pub fn path(of: &str, version: u16) -> String {
    format!("/{of}/v{version}")
}

/// The part of the route table that says as which API version of which service a service answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiRoute {
    /// The service that has the first API version.
    pub of: ServiceName,
    /// How it stands.
    #[serde(flatten)]
    pub standing: Standing,
}

/// An API version in an answer of `status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Shown {
    /// Where it answers.
    pub path: String,
    /// Who serves it.
    pub service: ServiceName,
    /// Its stable revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stable: Option<RevisionNumber>,
    /// Whether, since and until when its callers should move on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub deprecated: Option<Deprecation>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(version: u16, since: Option<u64>, sunset: Option<u64>) -> Standing {
        Standing { version, since: since.map(Timestamp), sunset: sunset.map(Timestamp) }
    }

    #[test]
    fn a_version_is_deprecated_once_a_later_one_serves() {
        let first = standing(1, None, None);
        assert_eq!(deprecation(1, &[first]), None);
        assert_eq!(deprecation(1, &[first, standing(2, None, Some(900))]), None, "it does not serve yet");
        let all = [standing(3, Some(70), Some(800)), first, standing(2, Some(50), None)];
        let told = |since, sunset: Option<u64>, successor| {
            Some(Deprecation { since: Timestamp(since), sunset: sunset.map(Timestamp), successor })
        };
        assert_eq!(deprecation(1, &all), told(50, Some(800), 2));
        assert_eq!(deprecation(2, &all), told(70, Some(800), 3));
        assert_eq!(deprecation(3, &all), None);
    }

    #[test]
    fn a_sunset_is_never_before_its_deprecation() {
        let told = deprecation(1, &[standing(2, Some(500), Some(100))]).unwrap();
        assert_eq!((told.since, told.sunset), (Timestamp(500), Some(Timestamp(500))));
    }

    #[test]
    fn versions_count_from_two_and_belong_to_another_service() {
        let wine = ServiceName::new("wine").unwrap();
        let api = |version| Api { of: wine.clone(), version, sunset: None };
        let other = ServiceName::new("wine-v2").unwrap();
        assert_eq!(api(2).problem(&other), None);
        assert!(api(1).problem(&other).is_some_and(|why| why.contains("2 or more")));
        assert!(api(2).problem(&wine).is_some_and(|why| why.contains("another service")));
    }
}
