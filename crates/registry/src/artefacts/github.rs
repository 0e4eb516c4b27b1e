//! Releases on GitHub: a release per version, its files as assets.
//!
//! Source: GitHub REST API 2022-11-28, "Releases" and "Release assets" (`digest` of assets, `upload_url`, 2 GiB a file).

use modelyard_core::Digest;
use serde::Deserialize;
use serde_json::json;
use ureq::Body;
use ureq::http::{HeaderName, Method, Response, StatusCode, header};

use super::Whereabouts;
use super::content::Content;
use super::error::ArtefactError;
use super::http::{Http, Sent};
use super::place::Place;
use crate::client::Tell;

/// Largest asset.
const MAX_ASSET_BYTES: u64 = 2 << 30;

const JSON: (HeaderName, &str) = (header::ACCEPT, "application/vnd.github+json");
const API: (HeaderName, &str) = (HeaderName::from_static("x-github-api-version"), "2022-11-28");

#[derive(Debug, Deserialize)]
pub(super) struct Release {
    upload_url: String,
    #[serde(default)]
    assets: Vec<Asset>,
}

#[derive(Debug, Deserialize)]
struct Asset {
    url: String,
    name: String,
    size: u64,
    #[serde(default)]
    state: String,
    #[serde(default)]
    digest: Option<String>,
}

impl Asset {
    /// Whether it is this content, as far as GitHub says.
    fn is(&self, content: &Content) -> bool {
        self.state == "uploaded" && self.size == content.size_bytes && self.digest == Some(content.digest.to_string())
    }
}

/// Where the API is, and where files are uploaded: on GitHub itself, or on a server of one's own.
pub(super) fn bases(place: &Place) -> [String; 2] {
    match place.host.as_str() {
        "github.com" => ["https://api.github.com".to_owned(), "https://uploads.github.com".to_owned()],
        _ => [format!("{}/api/v3", place.origin()), format!("{}/api/uploads", place.origin())],
    }
}

fn repository(at: &Whereabouts<'_>) -> String {
    format!("{}/repos/{}", bases(at.place)[0], at.place.path.join("/"))
}

fn tag(at: &Whereabouts<'_>) -> String {
    format!("{}-{}", at.name, at.version)
}

/// The release of the version, if there is one.
pub(super) fn release(http: &Http, at: &Whereabouts<'_>) -> Result<Option<Release>, ArtefactError> {
    let url = format!("{}/releases/tags/{}", repository(at), tag(at));
    let mut answer = http.ask_again(&Method::GET, &url, &[JSON, API], &Sent::Nothing)?;
    match answer.status() {
        StatusCode::OK => http.document(&mut answer).map(Some),
        StatusCode::NOT_FOUND => Ok(None),
        _ => Err(http.refused("show a release", answer)),
    }
}

/// The bytes of a file of the release, from `from` on; none when there is no such file.
pub(super) fn get(
    http: &Http,
    at: &Whereabouts<'_>,
    file: &str,
    range: Option<&str>,
) -> Result<Option<Response<Body>>, ArtefactError> {
    let Some(release) = release(http, at)? else { return Ok(None) };
    let Some(asset) = release.assets.into_iter().find(|asset| asset.name == file) else { return Ok(None) };
    let mut headers = vec![(header::ACCEPT, "application/octet-stream"), API];
    headers.extend(range.map(|range| (header::RANGE, range)));
    http.get(&asset.url, &headers).map(Some)
}

fn create(http: &Http, at: &Whereabouts<'_>) -> Result<Release, ArtefactError> {
    let body = json!({
        "tag_name": tag(at), "name": format!("{} {}", at.name, at.version), "draft": false, "prerelease": false,
        "body": format!("The package {}:{}. `modelyard pull {} {}:{}` fetches it.", at.name, at.version, at.place, at.name, at.version),
    });
    let url = format!("{}/releases", repository(at));
    let mut answer = http.ask(&Method::POST, &url, &[JSON, API], &Sent::Json(body.to_string().into_bytes()))?;
    match answer.status() {
        StatusCode::CREATED => http.document(&mut answer),
        _ => Err(http.refused("take a release", answer)),
    }
}

/// Uploads a file; one of that name that is another goes first.
pub(super) fn put(
    http: &Http,
    at: &Whereabouts<'_>,
    file: &str,
    content: &Content,
    tell: Tell<'_>,
) -> Result<(), ArtefactError> {
    const DOING: &str = "take a file";
    let refused = |why: String| ArtefactError::Refused { host: http.host().to_owned(), doing: DOING, why };
    if content.size_bytes >= MAX_ASSET_BYTES {
        return Err(refused(format!(
            "a file of a release is smaller than 2 GiB, and this one has {} bytes",
            content.size_bytes
        )));
    }
    let release = match release(http, at)? {
        Some(release) => release,
        None => create(http, at)?,
    };
    let base = release.upload_url.split('{').next().unwrap_or_default();
    let uploads = bases(at.place);
    if !uploads.iter().any(|known| base.strip_prefix(known.as_str()).is_some_and(|rest| rest.starts_with('/'))) {
        return Err(refused("it sends us elsewhere with the file".to_owned()));
    }
    if let Some(there) = release.assets.iter().find(|asset| asset.name == file) {
        if there.is(content) {
            return Ok(());
        }
        // What an upload that broke off left, or what is out of date.
        let gone = http.ask(&Method::DELETE, &there.url, &[JSON, API], &Sent::Nothing)?;
        if gone.status() != StatusCode::NO_CONTENT {
            return Err(http.refused("replace a file", gone));
        }
    }
    // Names are of letters that need no escaping but one.
    let url = format!("{base}?name={}", file.replace('+', "%2B"));
    let mut answer = http.ask(&Method::POST, &url, &[JSON, API], &Sent::Content(content, tell))?;
    if answer.status() != StatusCode::CREATED {
        return Err(http.refused(DOING, answer));
    }
    let asset: Asset = http.document(&mut answer)?;
    let digest = asset.digest.as_deref().and_then(|text| text.parse::<Digest>().ok());
    if asset.size != content.size_bytes || digest.is_some_and(|digest| digest != content.digest) {
        return Err(ArtefactError::WrongBytes {
            host: http.host().to_owned(),
            file: file.to_owned(),
            expected: format!("{} bytes with {}", content.size_bytes, content.digest),
            actual: format!("{} bytes with {}", asset.size, asset.digest.unwrap_or_default()),
        });
    }
    Ok(())
}
