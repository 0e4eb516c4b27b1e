//! Where a package came from: how its bytes got here, and from where, as the one who took them in saw it.
//!
//! Promises: whoever pushes says nothing of it, the registry notes who pushed; no password, query or fragment of an address is kept; a pattern
//! names its host in full, so that no other place fits it by being called alike.
//! Absent on purpose: what a package says of its own source (lineage) and what was signed of it (provenance).

use std::fmt;

use modelyard_core::{Digest, Timestamp};
use serde::{Deserialize, Serialize};

use crate::access::{fits, percent_decoded};
use crate::remote::Remote;

/// Most arrivals that are kept of one version; the oldest give way.
// 32: a version comes from one place or two, and each counts once.
pub(super) const MOST_ARRIVALS: usize = 32;

/// Longest place that is kept, in characters.
const LONGEST: usize = 1_000;

/// Once that a package came here.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Arrival {
    /// When it first came on this way.
    pub at: Timestamp,
    /// The package that came.
    pub digest: Digest,
    /// On which way.
    #[serde(flatten)]
    pub way: Way,
}

/// How a package came.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "how", rename_all = "kebab-case")]
pub enum Way {
    /// It was packaged here, from files of this machine.
    Built,
    /// It was pulled from another registry.
    Pulled {
        /// Host and repository, `registry.example/team/wine`; or the place of a generic artefact registry, `gitlab://HOST/GROUP/PROJECT`.
        from: String,
    },
    /// It was packaged here from what was fetched elsewhere.
    Imported {
        /// Host and repository, or the address.
        from: String,
    },
    /// It was in a bundle.
    Bundle {
        /// Name of its file.
        file: String,
    },
    /// It was pushed to the registry that is served here.
    Pushed {
        /// Name of the token; none where no token was demanded.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        by: Option<String>,
    },
}

/// In policies: what was packaged here.
const BUILT: &str = "built-here";
/// In policies: what was in a bundle.
const BUNDLE: &str = "bundle";
/// In policies: what the holder of a token pushed.
const PUSHED: &str = "pushed-by:";
/// In policies: what was pushed where no token was demanded.
const PUSHED_BY_ANYBODY: &str = "pushed-without-token";

impl Way {
    /// Pulled from a repository.
    pub fn pulled(remote: &Remote) -> Self {
        Self::Pulled { from: place(&format!("{}/{}", remote.host(), remote.repository())) }
    }

    /// Pulled from a place with an address of its own.
    pub fn pulled_from(address: &str) -> Self {
        Self::Pulled { from: place(address) }
    }

    /// Packaged from what lay in a repository.
    pub fn imported(remote: &Remote) -> Self {
        Self::Imported { from: place(&format!("{}/{}", remote.host(), remote.repository())) }
    }

    /// Packaged from what lay at an address.
    pub fn imported_from(address: &str) -> Self {
        Self::Imported { from: place(address) }
    }

    /// From a bundle.
    pub fn bundle(file: &str) -> Self {
        Self::Bundle { file: kept(file) }
    }

    /// Pushed by whoever the request is answered for.
    pub(crate) fn pushed() -> Self {
        Self::Pushed { by: crate::access::caller().map(|grant| kept(&grant.name)) }
    }

    /// As patterns name it: `registry.example/team/wine`, `https://models.example/wine.onnx`, `built-here`, `bundle`, `pushed-by:NAME`,
    /// `pushed-without-token`.
    pub fn source(&self) -> String {
        match self {
            Self::Built => BUILT.to_owned(),
            Self::Pulled { from } | Self::Imported { from } => from.clone(),
            Self::Bundle { .. } => BUNDLE.to_owned(),
            Self::Pushed { by: Some(by) } => format!("{PUSHED}{by}"),
            Self::Pushed { by: None } => PUSHED_BY_ANYBODY.to_owned(),
        }
    }
}

impl fmt::Display for Way {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Built => f.write_str("packaged here"),
            Self::Pulled { from } => write!(f, "pulled from {from}"),
            Self::Imported { from } => write!(f, "imported from {from}"),
            Self::Bundle { file } => write!(f, "loaded from the bundle {file}"),
            Self::Pushed { by: Some(by) } => write!(f, "pushed by {by}"),
            Self::Pushed { by: None } => f.write_str("pushed without a token"),
        }
    }
}

/// What can be shown, and is not too long.
fn kept(text: &str) -> String {
    text.chars().filter(|letter| !letter.is_control()).take(LONGEST).collect()
}

/// A place without what may be a secret: user, password, query, fragment. Scheme and host in small letters.
fn place(address: &str) -> String {
    let address = kept(address.split(['?', '#']).next().unwrap_or_default());
    let (scheme, rest) = match address.split_once("://") {
        Some((scheme, rest)) => (format!("{}://", scheme.to_lowercase()), rest),
        None => (String::new(), address.as_str()),
    };
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let host = authority.rsplit_once('@').map_or(authority, |(_, host)| host);
    format!("{scheme}{}{path}", host.to_lowercase())
}

/// What may have come in: a pattern of places, in whose path `*` stands for any letters, or the word for a way. `*` is whatever has a record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FromPattern(String);

/// The text says nothing of where packages may come from.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{given}` names no place: {why}; write `registry.example/*`, `https://models.example/*`, `{BUILT}`, `{BUNDLE}`, `{PUSHED}NAME`, \
     `{PUSHED_BY_ANYBODY}`, or `*` for whatever is known"
)]
pub struct FromPatternError {
    given: String,
    why: &'static str,
}

impl FromPattern {
    /// Whether a package that came on this way came from there.
    pub fn takes(&self, way: &Way) -> bool {
        let pattern = self.0.as_str();
        match way {
            _ if pattern == "*" => true,
            Way::Built => pattern == BUILT,
            Way::Bundle { .. } => pattern == BUNDLE,
            Way::Pushed { by: Some(by) } => pattern.strip_prefix(PUSHED).is_some_and(|pattern| fits(pattern, by)),
            Way::Pushed { by: None } => pattern == PUSHED_BY_ANYBODY,
            Way::Pulled { from } | Way::Imported { from } => {
                !pattern.starts_with(PUSHED) && !climbs(from) && fits(pattern, from)
            }
        }
    }
}

/// Whether a path leads upwards: its server may give what lies outside of the folder that a pattern names.
fn climbs(place: &str) -> bool {
    place
        .split(['/', '\\'])
        .any(|step| percent_decoded(step).is_none_or(|step| step.split(['/', '\\']).any(|step| step == "..")))
}

impl TryFrom<String> for FromPattern {
    type Error = FromPatternError;

    fn try_from(text: String) -> Result<Self, FromPatternError> {
        let refuse = |why| Err(FromPatternError { given: text.chars().take(120).collect(), why });
        if matches!(text.as_str(), "*" | BUILT | BUNDLE | PUSHED_BY_ANYBODY) {
            return Ok(Self(text));
        }
        if let Some(name) = text.strip_prefix(PUSHED) {
            return if name.is_empty() { refuse("there is no name of a token") } else { Ok(Self(text)) };
        }
        let rest = text.split_once("://").map_or(text.as_str(), |(_, rest)| rest);
        let Some((host, _)) = rest.split_once('/') else { return refuse("there is no host, followed by `/`") };
        match host {
            "" => refuse("there is no host"),
            host if host.contains('*') || text.starts_with('*') => {
                refuse("other hosts, too, would fit a host with `*`")
            }
            host if host.contains('@') => refuse("no user is kept of an address"),
            host if host.chars().any(char::is_uppercase) => refuse("hosts are kept in small letters"),
            _ => Ok(Self(text)),
        }
    }
}

impl From<FromPattern> for String {
    fn from(from: FromPattern) -> Self {
        from.0
    }
}

impl fmt::Display for FromPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn from(text: &str) -> FromPattern {
        FromPattern::try_from(text.to_owned()).unwrap()
    }

    fn pushed(by: &str) -> Way {
        Way::Pushed { by: Some(by.to_owned()) }
    }

    #[test]
    fn nothing_that_may_be_a_secret_is_kept() {
        for (address, kept) in [
            ("https://user:secret@Models.Example/a/B.onnx?key=secret#secret", "https://models.example/a/B.onnx"),
            ("https://models.example?key=secret", "https://models.example"),
            ("user:secret@registry.example/team", "registry.example/team"),
            ("HTTPS://a@b@models.example/x@y", "https://models.example/x@y"),
            ("gitlab://git.example/team/models", "gitlab://git.example/team/models"),
            ("https://a.example/\u{1b}[2J", "https://a.example/[2J"),
        ] {
            assert_eq!(Way::imported_from(address).source(), kept);
        }
        let remote: Remote = "Registry.Example:5000/team/wine:1.0".parse().unwrap();
        assert_eq!(Way::pulled(&remote).source(), "registry.example:5000/team/wine");
        assert_eq!(Way::bundle(&"a".repeat(5_000)), Way::Bundle { file: "a".repeat(LONGEST) });
    }

    #[test]
    fn a_pattern_takes_what_came_from_there_and_nothing_that_is_called_alike() {
        let pulled = |place: &str| Way::pulled_from(place);
        for (pattern, way) in [
            ("registry.example/*", pulled("registry.example/team/wine")),
            ("registry.example/team/*", pulled("registry.example/team/wine")),
            ("https://models.example/*", Way::imported_from("https://models.example/wine.onnx?x=1")),
            ("built-here", Way::Built),
            ("bundle", Way::bundle("a.tar")),
            ("pushed-by:ci-*", pushed("ci-main")),
            ("pushed-without-token", Way::Pushed { by: None }),
            ("*", pulled("anywhere.test/x")),
        ] {
            assert!(from(pattern).takes(&way), "{pattern} {way}");
        }
        for (pattern, way) in [
            ("registry.example/*", pulled("registry.example.evil.test/team/wine")),
            ("registry.example/*", pulled("registry.example:5000/wine")),
            ("registry.example/*", pulled("evil.test/registry.example/wine")),
            ("registry.example/*", pushed("registry.example/wine")),
            ("registry.example/*", Way::bundle("registry.example/wine")),
            ("https://models.example/good/*", Way::imported_from("https://models.example/good/../evil.onnx")),
            ("https://models.example/good/*", Way::imported_from("https://models.example/good/%2e%2E/evil.onnx")),
            ("https://models.example/good/*", Way::imported_from("https://models.example/good/..%2fevil.onnx")),
            ("https://models.example/*", Way::imported_from("https://models.example@evil.test/x")),
            ("pushed-by:*", Way::Pushed { by: None }),
            ("pushed-by:ci", pushed("ci2")),
            ("pushed-without-token", pushed("")),
            ("built-here", pushed("built-here")),
            ("bundle", Way::Built),
        ] {
            assert!(!from(pattern).takes(&way), "{pattern} {way}");
        }
    }

    #[test]
    fn patterns_that_other_hosts_would_fit_are_refused_with_what_to_write() {
        for text in [
            "",
            "registry.example",
            "*.example/team",
            "registry.*/team",
            "registry.example*",
            "https://*/x",
            "*://a/x",
            "/x",
            "pushed-by:",
            "a@registry.example/x",
            "Registry.Example/*",
            "built",
        ] {
            let told = FromPattern::try_from(text.to_owned()).unwrap_err().to_string();
            assert!(told.contains("write `registry.example/*`"), "{text}: {told}");
        }
    }

    #[test]
    fn arrivals_are_written_as_documents_have_them() {
        let arrival =
            Arrival { at: Timestamp(7), digest: Digest::from_sha256([1; 32]), way: Way::pulled_from("a.example/b") };
        let text = serde_json::to_string(&arrival).unwrap();
        assert!(text.contains(r#""how":"pulled","from":"a.example/b""#), "{text}");
        assert_eq!(serde_json::from_str::<Arrival>(&text).unwrap(), arrival);
    }
}
