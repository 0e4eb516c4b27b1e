//! Where packages lie: `gitlab://gitlab.example/group/project`, `nexus://nexus.example/repository/folder`, `github://github.com/owner/name`.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ureq::http::{HeaderName, HeaderValue, header};

use crate::remote::is_loopback;

/// Which API a place speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// GitLab's generic packages.
    GitLab,
    /// A raw repository of Nexus.
    Nexus,
    /// Releases on GitHub.
    GitHub,
}

impl Kind {
    const ALL: [(Self, &'static str); 3] = [(Self::GitLab, "gitlab"), (Self::Nexus, "nexus"), (Self::GitHub, "github")];

    fn scheme(self) -> &'static str {
        Self::ALL.iter().find(|(kind, _)| *kind == self).map_or("", |(_, scheme)| scheme)
    }

    /// Which variables say who we are.
    pub(super) const fn variables(self) -> &'static str {
        match self {
            Self::GitLab => {
                "set GITLAB_TOKEN to an access token with the scope `api` (in a pipeline CI_JOB_TOKEN is there already)"
            }
            Self::Nexus => "set NEXUS_USERNAME and NEXUS_PASSWORD (a user token has both parts)",
            Self::GitHub => "set GITHUB_TOKEN to a token that may write the contents of the repository",
        }
    }
}

/// A place.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    pub(super) kind: Kind,
    pub(super) host: String,
    pub(super) path: Vec<String>,
    pub(super) plain: bool,
}

/// The text names no place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{given}` names no place: {why}; write gitlab://HOST/GROUP/PROJECT, nexus://HOST/REPOSITORY[/FOLDER] or github://github.com/OWNER/NAME"
)]
pub struct PlaceError {
    given: String,
    why: &'static str,
}

/// Whether a text can stand between two slashes of every address.
pub(super) fn is_part(text: &str) -> bool {
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || b"._-+~".contains(&byte);
    !text.is_empty() && text.len() <= 200 && text.bytes().all(letters) && !matches!(text, "." | "..")
}

impl Place {
    /// Whether the text is meant as one, right or wrong.
    pub fn is_meant(text: &str) -> bool {
        text.split_once("://").is_some_and(|(scheme, _)| Kind::ALL.iter().any(|(_, known)| *known == scheme))
    }

    /// Which API it speaks.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The same over plain HTTP, whoever it is.
    #[must_use]
    pub fn over_plain_http(mut self) -> Self {
        self.plain = true;
        self
    }

    /// Whether it is another machine that is spoken to in the clear.
    pub(super) fn is_exposed(&self) -> bool {
        self.plain && !is_loopback(&self.host)
    }

    /// Scheme and host.
    pub(super) fn origin(&self) -> String {
        format!("{}://{}", if self.plain { "http" } else { "https" }, self.host)
    }
}

impl FromStr for Place {
    type Err = PlaceError;

    fn from_str(text: &str) -> Result<Self, PlaceError> {
        let refuse = |why| PlaceError { given: text.chars().take(120).collect(), why };
        let (scheme, rest) = text.split_once("://").ok_or_else(|| refuse("there is no kind"))?;
        let kind = Kind::ALL.iter().find(|(_, known)| *known == scheme).map(|(kind, _)| *kind);
        let kind = kind.ok_or_else(|| refuse("its kind is not known"))?;
        let mut parts = rest.trim_end_matches('/').split('/');
        let host = parts.next().unwrap_or_default();
        let letters = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte);
        if host.is_empty() || !host.bytes().all(letters) {
            return Err(refuse("it has no host"));
        }
        let path: Vec<String> = parts.map(str::to_owned).collect();
        if !path.iter().all(|part| is_part(part)) {
            return Err(refuse(
                "its path has a part that is empty or holds other characters than letters, digits and ._-+~",
            ));
        }
        match kind {
            Kind::GitHub if path.len() != 2 => Err(refuse("a repository has an owner and a name")),
            _ if path.is_empty() || path.len() > 20 => Err(refuse("it names no project or repository")),
            _ => Ok(Self { kind, host: host.to_owned(), path, plain: is_loopback(host) }),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}/{}", self.kind.scheme(), self.host, self.path.join("/"))
    }
}

/// Who we are at a place: the headers that say it.
#[derive(Clone, Default)]
pub struct Login(pub(crate) Vec<(HeaderName, HeaderValue)>);

impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Login")
    }
}

impl Login {
    /// Reads it from variables, which `set` gives; nobody when none is set.
    ///
    /// # Errors
    /// The name of a variable that holds what no header can.
    pub fn from_variables(kind: Kind, set: &dyn Fn(&str) -> Option<String>) -> Result<Self, &'static str> {
        let set = |name| set(name).filter(|value| !value.is_empty());
        let said = match kind {
            Kind::GitLab => [("GITLAB_TOKEN", "private-token"), ("CI_JOB_TOKEN", "job-token")]
                .into_iter()
                .find_map(|(variable, name)| Some((variable, HeaderName::from_static(name), set(variable)?))),
            Kind::Nexus => set("NEXUS_PASSWORD").map(|secret| {
                let pair = format!("{}:{secret}", set("NEXUS_USERNAME").unwrap_or_default());
                ("NEXUS_PASSWORD", header::AUTHORIZATION, format!("Basic {}", STANDARD.encode(pair)))
            }),
            Kind::GitHub => ["GITHUB_TOKEN", "GH_TOKEN"]
                .into_iter()
                .find_map(|variable| Some((variable, header::AUTHORIZATION, format!("Bearer {}", set(variable)?)))),
        };
        let Some((variable, name, value)) = said else { return Ok(Self::default()) };
        let mut value = HeaderValue::from_str(&value).map_err(|_| variable)?;
        value.set_sensitive(true);
        Ok(Self(vec![(name, value)]))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_read_and_show() {
        for text in
            ["gitlab://gitlab.example/group/sub/project", "nexus://[::1]:8081/raw", "github://github.com/owner/name.x"]
        {
            let place: Place = text.parse().unwrap();
            assert_eq!(place.to_string(), text);
            assert!(Place::is_meant(text));
        }
        let origin = |text: &str| text.parse::<Place>().unwrap().origin();
        assert_eq!(origin("gitlab://gitlab.example/1"), "https://gitlab.example");
        assert_eq!(origin("gitlab://127.0.0.1:80/1"), "http://127.0.0.1:80");
    }

    #[test]
    fn what_names_no_place_is_refused() {
        for text in [
            "gitlab.example/a",
            "ftp://h/a",
            "gitlab://",
            "gitlab:///a",
            "gitlab://h",
            "gitlab://h/",
            "nexus://h/a/../b",
            "nexus://h/a//b",
            "nexus://h/a?b",
            "github://h/a",
            "github://h/a/b/c",
            "gitlab://u:p@h/a",
            "gitlab://h/a%2e",
        ] {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
        assert!(!Place::is_meant("registry.example/team/wine:1") && !Place::is_meant("oci://registry.example/wine"));
    }

    #[test]
    fn who_we_are_is_said_as_each_kind_wants_it() {
        let said = |kind, set: &[(&str, &str)]| {
            let find = |name: &str| set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned());
            let login = Login::from_variables(kind, &find)?;
            Ok::<_, &str>(
                login.0.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())).collect::<String>(),
            )
        };
        assert_eq!(said(Kind::GitLab, &[("CI_JOB_TOKEN", "c"), ("GITLAB_TOKEN", "t")]), Ok("private-token: t".into()));
        assert_eq!(said(Kind::GitLab, &[("CI_JOB_TOKEN", "c")]), Ok("job-token: c".into()));
        assert_eq!(
            said(Kind::Nexus, &[("NEXUS_USERNAME", "me"), ("NEXUS_PASSWORD", "pw")]),
            Ok("authorization: Basic bWU6cHc=".into())
        );
        assert_eq!(
            said(Kind::GitHub, &[("GH_TOKEN", "t"), ("GITHUB_TOKEN", "")]),
            Ok("authorization: Bearer t".into())
        );
        assert_eq!(said(Kind::GitHub, &[]), Ok(String::new()));
        assert_eq!(said(Kind::GitHub, &[("GITHUB_TOKEN", "a\nb")]), Err("GITHUB_TOKEN"));
        assert_eq!(format!("{:?}", Login::default()), "Login", "no secret is ever shown");
    }

    proptest::proptest! {
        #[test]
        fn no_text_makes_it_panic(text in ".{0,200}") {
            let _ = text.parse::<Place>();
        }
    }
}
