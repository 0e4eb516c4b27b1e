//! Which handler answers: repository names hold slashes, so the path is read from its end.

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::any;
use http::{HeaderName, HeaderValue, Method, StatusCode, request};

use super::answer::{Answer, Code, Refusal};
use super::{Distribution, is_repository};

/// What a request is about.
#[derive(Debug, PartialEq, Eq)]
enum Target<'a> {
    Base,
    Catalog,
    Begin,
    Upload(&'a str),
    Blob(&'a str),
    Manifest(&'a str),
    Tags,
    Referrers(&'a str),
}

/// Everything below `/v2`.
pub fn router(distribution: Distribution) -> Router {
    Router::new()
        .route("/v2", any(serve))
        .route("/v2/", any(serve))
        .route("/v2/{*rest}", any(serve))
        .with_state(distribution)
}

async fn serve(State(distribution): State<Distribution>, request: Request) -> Response {
    let (parts, body) = request.into_parts();
    let path = percent_decoded(parts.uri.path().strip_prefix("/v2").unwrap_or_default());
    let mut response = match path.as_deref().map(|path| read(path.trim_start_matches('/'))) {
        Some(Some((name, target))) => {
            handle(&distribution, &parts, body, name, target).await.unwrap_or_else(IntoResponse::into_response)
        }
        _ => Refusal::new(Code::NameUnknown, "the registry has no such address").into_response(),
    };
    let version = HeaderValue::from_static("registry/2.0");
    response.headers_mut().insert(HeaderName::from_static("docker-distribution-api-version"), version);
    response
}

/// Repository and target of the path below `/v2/`.
fn read(path: &str) -> Option<(&str, Target<'_>)> {
    if path.is_empty() {
        return Some(("", Target::Base));
    }
    if path == "_catalog" {
        return Some(("", Target::Catalog));
    }
    if let Some(name) = path.strip_suffix("/tags/list") {
        return Some((name, Target::Tags));
    }
    if let Some(name) = path.strip_suffix("/blobs/uploads/").or_else(|| path.strip_suffix("/blobs/uploads")) {
        return Some((name, Target::Begin));
    }
    let (rest, last) = path.rsplit_once('/')?;
    if let Some(name) = rest.strip_suffix("/blobs/uploads") {
        return Some((name, Target::Upload(last)));
    }
    if let Some(name) = rest.strip_suffix("/blobs") {
        return Some((name, Target::Blob(last)));
    }
    if let Some(name) = rest.strip_suffix("/manifests") {
        return Some((name, Target::Manifest(last)));
    }
    rest.strip_suffix("/referrers").map(|name| (name, Target::Referrers(last)))
}

/// The repository that a decoded path below `/v2/` is about; empty for addresses that are about none, none where there is no address.
pub(crate) fn repository_of(path: &str) -> Option<&str> {
    read(path).map(|(name, _)| name)
}

async fn handle(
    distribution: &Distribution,
    parts: &request::Parts,
    body: Body,
    name: &str,
    target: Target<'_>,
) -> Answer {
    if !matches!(target, Target::Base | Target::Catalog) && !is_repository(name) {
        let told: String = name.chars().take(80).collect();
        let why = format!("`{told}` is no repository name: lower-case letters, digits and separators between slashes");
        return Err(Refusal::new(Code::NameInvalid, why));
    }
    let query = Query::new(parts.uri.query());
    match (&parts.method, target) {
        (&Method::GET | &Method::HEAD, Target::Base) => Ok(axum::Json(serde_json::json!({})).into_response()),
        (&Method::GET, Target::Catalog) => distribution.catalog(&query),
        (&Method::GET, Target::Tags) => distribution.tags(name, &query),
        (&Method::GET, Target::Referrers(digest)) => distribution.referrers(name, digest, &query),
        (&Method::GET, Target::Blob(digest)) => distribution.blob(name, digest, &parts.headers, true),
        (&Method::HEAD, Target::Blob(digest)) => distribution.blob(name, digest, &parts.headers, false),
        (&Method::DELETE, Target::Blob(digest)) => distribution.delete_blob(name, digest),
        (&Method::GET, Target::Manifest(reference)) => distribution.manifest(name, reference, true),
        (&Method::HEAD, Target::Manifest(reference)) => distribution.manifest(name, reference, false),
        (&Method::PUT, Target::Manifest(reference)) => {
            distribution.put_manifest(name, reference, &query, &parts.headers, body).await
        }
        (&Method::DELETE, Target::Manifest(reference)) => distribution.delete_manifest(name, reference),
        (&Method::POST, Target::Begin) => distribution.begin(name, &query, body).await,
        (&Method::GET | &Method::HEAD, Target::Upload(id)) => distribution.upload_status(name, id).await,
        (&Method::PATCH, Target::Upload(id)) => distribution.append(name, id, &parts.headers, body).await,
        (&Method::PUT, Target::Upload(id)) => distribution.finish(name, id, &query, &parts.headers, body).await,
        (&Method::DELETE, Target::Upload(id)) => distribution.cancel(name, id).await,
        (method, _) => Err(Refusal::new(Code::Unsupported, format!("{method} is not answered here"))
            .with(StatusCode::METHOD_NOT_ALLOWED)),
    }
}

/// The parameters of a query, decoded.
#[derive(Debug, Default)]
pub struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query.
    pub fn new(query: Option<&str>) -> Self {
        let pairs = query.unwrap_or_default().split('&').filter(|pair| !pair.is_empty()).filter_map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Some((percent_decoded(key)?, percent_decoded(&value.replace('+', "%20"))?))
        });
        Self(pairs.collect())
    }

    /// The first value of a parameter.
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value.as_str())
    }

    /// Every value of a parameter.
    pub fn all<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> + 'a {
        self.0.iter().filter(move |(name, _)| name == key).map(|(_, value)| value.as_str())
    }
}

/// The text with `%XX` decoded; none when that gives no UTF-8 or a `%` stands alone.
pub fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'%' => {
                let mut digit = || rest.next().and_then(|digit| char::from(digit).to_digit(16));
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            other => other,
        });
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_read_from_their_end() {
        assert_eq!(read(""), Some(("", Target::Base)));
        assert_eq!(read("a/b/tags/list"), Some(("a/b", Target::Tags)));
        assert_eq!(read("a/blobs/uploads/"), Some(("a", Target::Begin)));
        assert_eq!(read("a/blobs/uploads/x"), Some(("a", Target::Upload("x"))));
        assert_eq!(read("a/blobs/sha256:x"), Some(("a", Target::Blob("sha256:x"))));
        assert_eq!(read("manifests/manifests/latest"), Some(("manifests", Target::Manifest("latest"))));
        assert_eq!(read("a/b/referrers/d"), Some(("a/b", Target::Referrers("d"))));
        assert_eq!(read("a/b/c"), None);
    }

    #[test]
    fn queries_are_decoded() {
        let query = Query::new(Some("digest=sha256%3Aab&tag=a&tag=b&x&bad=%zz"));
        assert_eq!(query.get("digest"), Some("sha256:ab"));
        assert_eq!(query.all("tag").collect::<Vec<_>>(), ["a", "b"]);
        assert_eq!((query.get("x"), query.get("bad")), (Some(""), None));
    }

    proptest::proptest! {
        #[test]
        fn no_path_makes_it_panic(path in ".{0,200}") {
            let _ = (read(&path), percent_decoded(&path), Query::new(Some(&path)));
        }
    }
}
