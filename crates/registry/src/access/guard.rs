//! In front of `/v2/`, `/simple/`, `/files/` and `/legacy/`: who may read and write which repository.
//!
//! Source: OCI distribution specification 1.1 (error codes), RFC 7617 (Basic), RFC 6750 (Bearer); Docker registry
//! token specification (challenge).

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use serde_json::json;

use super::short::{Access, Short};
use super::{Grant, Presented, Tokens, endpoint, fits, now, on_behalf};
use crate::address::{Query, percent_decoded, repository_of};
use crate::names::is_repository;
use crate::names::python::{FileName, normalise};

/// How callers are asked for a token: any name, the token as the password.
pub const CHALLENGE: &str = "Basic realm=\"modelyard\", charset=\"UTF-8\"";

/// Why a token that is none is refused.
pub(super) const NONE: &str = "this token is none, was revoked, or has expired";

/// The token that a request carries, as `Bearer` or as the password of `Basic`.
pub fn secret(headers: &HeaderMap) -> Option<String> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    let (scheme, rest) = value.split_once(' ')?;
    if scheme.eq_ignore_ascii_case("bearer") {
        return Some(rest.trim().to_owned());
    }
    if !scheme.eq_ignore_ascii_case("basic") {
        return None;
    }
    let text = String::from_utf8(STANDARD.decode(rest.trim()).ok()?).ok()?;
    text.split_once(':').map(|(_, password)| password.to_owned())
}

/// Lets through what the caller's token allows, or what anybody may read.
pub async fn guard(State(tokens): State<Tokens>, mut request: Request, next: Next) -> Response {
    let wanted = Wanted::of(request.method(), request.uri());
    let read = shown(&tokens, &wanted, request.headers()).and_then(|shown| Ok((shown, tokens.anonymous()?)));
    let (shown, anonymous) = match read {
        Ok(read) => read,
        Err(error) => {
            tracing::error!(%error, "the tokens cannot be read; nobody is let in");
            return refuse(StatusCode::INTERNAL_SERVER_ERROR, "UNKNOWN", "who may do what cannot be read here");
        }
    };
    // How to ask: container clients by scope, all others by name and password.
    let challenge = wanted.is_of_containers.then(|| (endpoint::realm(request.headers()), wanted.scope()));
    let ask = |why: &str, error: Option<&str>| challenged(why, challenge.as_ref(), error);
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let told = |why: &str| tokens.refused(shown.id.as_deref(), why, method.as_str(), &path);
    match shown.presented {
        Presented::NotDemanded => next.run(request).await,
        Presented::Valid(grant) => match wanted.why_not(&grant) {
            Some(why) => {
                told(&why);
                refuse(StatusCode::FORBIDDEN, "DENIED", &why)
            }
            None if shown.short.is_some_and(|short| !wanted.is_within(&short.access)) => {
                ask("this short-lived token is for something else", Some("insufficient_scope"))
            }
            None => {
                if wanted.mounts_from_anywhere && !grant.covers_every_repository() {
                    // Whether another repository has the blob is not told: the upload begins as an ordinary one.
                    without_query(&mut request);
                }
                on_behalf(grant, next.run(request)).await
            }
        },
        Presented::Nothing if wanted.is_open_to(&anonymous) => next.run(request).await,
        Presented::Nothing => ask("a token is needed: any name, and the token as the password", None),
        Presented::Invalid => {
            told(NONE);
            ask(NONE, Some("invalid_token"))
        }
    }
}

/// What a caller showed, and the short-lived token if it was one.
struct Shown {
    presented: Presented,
    /// Id of the token.
    id: Option<String>,
    short: Option<Short>,
}

fn shown(tokens: &Tokens, wanted: &Wanted, headers: &HeaderMap) -> Result<Shown, crate::Error> {
    let (secret, at) = (secret(headers), now());
    let short = secret.as_deref().filter(|_| wanted.is_of_containers).and_then(|token| tokens.mint().read(token, at));
    let (presented, id) = match &short {
        None => tokens.look_closely(secret.as_deref(), at)?,
        Some(Short { of: Some(id), .. }) => (tokens.by_id(id, at)?, Some(id.clone())),
        Some(Short { own: true, access, .. }) => (tokens.own_grant(access)?, None),
        Some(Short { of: None, .. }) => (tokens.look(None, at)?, None),
    };
    Ok(Shown { presented, id, short })
}

fn without_query(request: &mut Request) {
    if let Ok(path) = request.uri().path().parse::<Uri>() {
        *request.uri_mut() = path;
    }
}

/// Asks for a token: by name and password.
pub(super) fn unauthorised(why: &str) -> Response {
    challenged(why, None, None)
}

/// Asks for a token: by realm and scope where there are such, else by name and password.
fn challenged(why: &str, by: Option<&(String, String)>, error: Option<&str>) -> Response {
    let value = by.and_then(|(realm, scope)| {
        let scope = if scope.is_empty() { String::new() } else { format!(",scope=\"{scope}\"") };
        let error = error.map(|error| format!(",error=\"{error}\"")).unwrap_or_default();
        HeaderValue::try_from(format!("Bearer realm=\"{realm}\",service=\"modelyard\"{scope}{error}")).ok()
    });
    let mut response = refuse(StatusCode::UNAUTHORIZED, "UNAUTHORIZED", why);
    let value = value.unwrap_or(HeaderValue::from_static(CHALLENGE));
    response.headers_mut().insert(header::WWW_AUTHENTICATE, value);
    response
}

pub(super) fn refuse(status: StatusCode, code: &str, message: &str) -> Response {
    (status, axum::Json(json!({ "errors": [{ "code": code, "message": message }] }))).into_response()
}

/// What a request wants.
#[derive(Debug, PartialEq, Eq)]
struct Wanted {
    act: Act,
    /// Repositories or projects; empty when it is about all of them, or about none.
    of: Vec<String>,
    /// Whether it is about the names of all of them.
    everything: bool,
    mounts_from_anywhere: bool,
    /// Whether it is for the registry that container clients talk to.
    is_of_containers: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Act {
    Read,
    Write,
    Remove,
}

impl Wanted {
    fn of(method: &Method, uri: &Uri) -> Self {
        let act = match *method {
            Method::GET | Method::HEAD | Method::OPTIONS => Act::Read,
            Method::DELETE if !uri.path().contains("/blobs/uploads/") => Act::Remove,
            _ => Act::Write,
        };
        let is_of_containers = uri.path().starts_with("/v2");
        let none = || Self { act, of: Vec::new(), everything: false, mounts_from_anywhere: false, is_of_containers };
        let one = |name: Option<String>| match name {
            Some(name) => Self { of: vec![name], ..none() },
            None => Self { everything: true, ..none() },
        };
        // Decoded as the routers do, so that both see the same name. What cannot be decoded might be anything.
        let Some(path) = percent_decoded(uri.path()) else { return one(None) };
        if let Some(rest) = path.strip_prefix("/v2/").map(|rest| rest.trim_start_matches('/')) {
            let Some(repository) = repository_of(rest).filter(|name| !name.is_empty()) else {
                return if rest.is_empty() { none() } else { one(None) };
            };
            let mut wanted = one(Some(repository.to_owned()));
            if act == Act::Write && rest.contains("/blobs/uploads") {
                let query = Query::new(uri.query());
                match query.get("from") {
                    Some(from) => wanted.of.push(from.to_owned()),
                    None => wanted.mounts_from_anywhere = query.get("mount").is_some(),
                }
            }
            return wanted;
        }
        if let Some(rest) = path.strip_prefix("/simple/").map(|rest| rest.trim_end_matches('/')) {
            return one(Some(rest).filter(|rest| !rest.is_empty()).and_then(normalise));
        }
        if let Some(name) = path.strip_prefix("/files/") {
            let file = FileName::parse(name.strip_suffix(".metadata").unwrap_or(name));
            return one(file.map(|file| file.project));
        }
        if let Some(rest) = path.strip_prefix("/legacy/").filter(|rest| !rest.is_empty()) {
            return one(rest.split('/').next().and_then(normalise));
        }
        match path.as_str() {
            "/simple" => Self { everything: true, ..none() },
            // The project of an upload stands in its body: `upload` looks at it.
            _ => none(),
        }
    }

    fn why_not(&self, grant: &Grant) -> Option<String> {
        let role = grant.role;
        if self.act == Act::Write && !role.may_deploy() {
            return Some(format!("a {role} may not push; a deployer may"));
        }
        if self.act == Act::Remove && role != super::Role::Admin {
            return Some(format!("a {role} may not remove anything; an admin may"));
        }
        if self.everything && !grant.covers_every_repository() {
            return Some("this token is for some repositories, and this is about all of them".to_owned());
        }
        let other = self.of.iter().find(|name| !grant.covers(name))?;
        Some(format!("this token is not for `{}`", other.escape_default()))
    }

    /// What a container client asks a short-lived token for.
    fn scope(&self) -> String {
        if self.everything {
            return "registry:catalog:*".to_owned();
        }
        let actions = |place: usize| match self.act {
            Act::Write if place == 0 => "pull,push",
            Act::Remove => "delete",
            _ => "pull",
        };
        // Other names are no repositories, and could end the quotes that this stands in.
        let named = self.of.iter().enumerate().filter(|(_, name)| is_repository(name));
        named.map(|(place, name)| format!("repository:{name}:{}", actions(place))).collect::<Vec<_>>().join(" ")
    }

    /// Whether a short-lived token is for this.
    fn is_within(&self, access: &[Access]) -> bool {
        let allowed = |kind: &str, name: &str, action: &str| access.iter().any(|one| one.allows(kind, name, action));
        if self.everything && !allowed("registry", "catalog", "*") {
            return false;
        }
        let action = |place: usize| match self.act {
            Act::Write if place == 0 => "push",
            Act::Remove => "delete",
            _ => "pull",
        };
        self.of.iter().enumerate().all(|(place, name)| allowed("repository", name, action(place)))
    }

    fn is_open_to(&self, anonymous: &[String]) -> bool {
        let open = |name: &String| anonymous.iter().any(|pattern| fits(pattern, name));
        self.act == Act::Read && !self.everything && !self.of.is_empty() && self.of.iter().all(open)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(method: Method, uri: &str) -> Wanted {
        Wanted::of(&method, &uri.parse().unwrap())
    }

    #[test]
    fn every_address_is_read_as_what_it_is_about() {
        let of = |method, uri: &str| {
            let wanted = wanted(method, uri);
            (wanted.act, wanted.of.join(" "), wanted.everything)
        };
        assert_eq!(of(Method::GET, "/v2/"), (Act::Read, String::new(), false));
        assert_eq!(of(Method::GET, "/v2/_catalog"), (Act::Read, String::new(), true));
        assert_eq!(of(Method::GET, "/v2/a/b/tags/list"), (Act::Read, "a/b".into(), false));
        assert_eq!(of(Method::PUT, "/v2/a/manifests/1"), (Act::Write, "a".into(), false));
        assert_eq!(of(Method::DELETE, "/v2/a/manifests/1"), (Act::Remove, "a".into(), false));
        assert_eq!(of(Method::DELETE, "/v2/a/blobs/uploads/x"), (Act::Write, "a".into(), false));
        assert_eq!(of(Method::POST, "/v2/a/blobs/uploads/?mount=d&from=b%2Fc"), (Act::Write, "a b/c".into(), false));
        assert!(wanted(Method::POST, "/v2/a/blobs/uploads/?mount=d").mounts_from_anywhere);
        assert_eq!(of(Method::GET, "/v2//%61/manifests/1"), (Act::Read, "a".into(), false));
        assert_eq!(of(Method::GET, "/v2/%ff/manifests/1"), (Act::Read, String::new(), true));
        assert_eq!(of(Method::GET, "/files/%77ine-1.0.tar.gz"), (Act::Read, "wine".into(), false));
        assert_eq!(of(Method::GET, "/simple/"), (Act::Read, String::new(), true));
        assert_eq!(of(Method::GET, "/simple/Wine_Quality/"), (Act::Read, "wine-quality".into(), false));
        assert_eq!(
            of(Method::GET, "/files/wine_quality-1.0-py3-none-any.whl"),
            (Act::Read, "wine-quality".into(), false)
        );
        assert_eq!(of(Method::POST, "/legacy/"), (Act::Write, String::new(), false));
        assert_eq!(of(Method::DELETE, "/legacy/wine/1.0/yank"), (Act::Remove, "wine".into(), false));
    }

    #[test]
    fn anybody_reads_what_is_open_and_nothing_else() {
        let open = ["public/*".to_owned()];
        assert!(wanted(Method::GET, "/v2/public/a/manifests/1").is_open_to(&open));
        for (method, uri) in [
            (Method::PUT, "/v2/public/a/manifests/1"),
            (Method::GET, "/v2/wine/manifests/1"),
            (Method::GET, "/v2/_catalog"),
            (Method::GET, "/v2/"),
            (Method::GET, "/simple/"),
        ] {
            assert!(!wanted(method, uri).is_open_to(&open), "{uri}");
        }
    }

    #[test]
    fn tokens_come_as_bearer_or_as_password() {
        let of = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::AUTHORIZATION, HeaderValue::from_static(value));
            secret(&headers)
        };
        assert_eq!(of("Bearer mdy_a").as_deref(), Some("mdy_a"));
        assert_eq!(of("Basic X190b2tlbl9fOm1keV9h").as_deref(), Some("mdy_a"));
        assert_eq!((of("Basic !"), of("Digest x"), of("mdy_a")), (None, None, None));
    }
}
