//! Where a package is elsewhere: `registry.example:5000/team/wine:2.1.0`.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use crate::digest::AnyDigest;
use crate::names::{is_repository, is_tag};

/// A package in another registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Remote {
    host: String,
    repository: String,
    tag: Option<String>,
    digest: Option<String>,
    plain: bool,
}

/// The text names no package in a registry.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{given}` names nothing in a registry: {why}; write HOST/NAME:TAG or HOST/NAME@sha256:…, such as registry.example:5000/team/wine:2.1.0"
)]
pub struct RemoteError {
    given: String,
    why: &'static str,
}

impl Remote {
    /// Host and port, as they were given.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// Name of the repository.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag, if one is named.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if one is named.
    pub fn digest(&self) -> Option<&str> {
        self.digest.as_deref()
    }

    /// Tag or digest; `latest` if neither is named.
    pub fn reference(&self) -> String {
        self.digest.clone().or_else(|| self.tag.clone()).unwrap_or_else(|| "latest".to_owned())
    }

    /// The same with this tag, unless it names a tag or digest already.
    #[must_use]
    pub fn or_tag(mut self, tag: &str) -> Self {
        if self.tag.is_none() && self.digest.is_none() {
            self.tag = Some(tag.to_owned());
        }
        self
    }

    /// The same over plain HTTP, whoever it is.
    #[must_use]
    pub const fn over_plain_http(mut self) -> Self {
        self.plain = true;
        self
    }

    /// The address below `/v2/`.
    pub(super) fn url(&self, path: &str) -> String {
        let scheme = if self.plain { "http" } else { "https" };
        // The one registry that answers elsewhere than it is called.
        let host = if self.host == "docker.io" { "registry-1.docker.io" } else { &self.host };
        format!("{scheme}://{host}/v2/{}{path}", self.repository)
    }
}

impl FromStr for Remote {
    type Err = RemoteError;

    fn from_str(text: &str) -> Result<Self, RemoteError> {
        let refuse = |why| RemoteError { given: text.chars().take(120).collect(), why };
        let text_alone = text.strip_prefix("oci://").unwrap_or(text);
        let (host, rest) = text_alone.split_once('/').ok_or_else(|| refuse("there is no host"))?;
        let (rest, digest) = match rest.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (rest, None),
        };
        if digest.is_some_and(|digest| digest.parse::<AnyDigest>().is_err()) {
            return Err(refuse("its digest is none"));
        }
        let (repository, tag) = match rest.rsplit_once(':') {
            Some((repository, tag)) => (repository, Some(tag)),
            None => (rest, None),
        };
        if !is_repository(repository) {
            return Err(refuse("its name is none"));
        }
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(refuse("its tag is none"));
        }
        let letters = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte);
        let is_host = host == "localhost" || host.contains(['.', ':']);
        if host.is_empty() || !host.bytes().all(letters) || !is_host {
            return Err(refuse("its first part is no host"));
        }
        Ok(Self {
            plain: is_loopback(host),
            host: host.to_owned(),
            repository: repository.to_owned(),
            tag: tag.map(str::to_owned),
            digest: digest.map(str::to_owned),
        })
    }
}

/// Whether the host is this machine: registries there speak plain HTTP, as Docker takes it too.
pub(crate) fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

impl fmt::Display for Remote {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.host, self.repository)?;
        if let Some(tag) = &self.tag {
            write!(f, ":{tag}")?;
        }
        self.digest.as_ref().map_or(Ok(()), |digest| write!(f, "@{digest}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remotes_read_and_show() {
        let digest = format!("localhost:5000/wine@sha256:{}", "ab".repeat(32));
        for text in ["registry.example/wine", "127.0.0.1:5000/team/wine:2.1.0", "[::1]:5000/wine:1", &digest] {
            assert_eq!(text.parse::<Remote>().unwrap().to_string(), text);
        }
        let wine: Remote = "oci://registry.example/wine".parse().unwrap();
        assert_eq!(wine.clone().or_tag("1.0").reference(), "1.0");
        assert_eq!(wine.url("/tags/list"), "https://registry.example/v2/wine/tags/list");
        assert!("localhost:1/a".parse::<Remote>().unwrap().url("").starts_with("http://"));
    }

    #[test]
    fn nonsense_is_refused() {
        for text in [
            "",
            "wine",
            "wine:1.0",
            "a/b",
            "host.example/",
            "host.example/UP",
            "h.example/a:.x",
            "h.example/a@sha256:x",
            "x@y.z/a",
        ] {
            assert!(text.parse::<Remote>().is_err(), "{text}");
        }
    }
}
