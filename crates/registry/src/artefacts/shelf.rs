//! One version at a place: its files are put and got, in the words of whichever API the place speaks.

use modelyard_core::Digest;
use serde::Deserialize;
use ureq::Body;
use ureq::http::{Method, Response, StatusCode, header};

use super::content::Content;
use super::error::ArtefactError;
use super::http::{Http, Sent};
use super::place::Kind;
use super::{Whereabouts, github};
use crate::client::Tell;

const TAKE: &str = "take a file";
const GIVE: &str = "give a file";

/// One version at a place.
pub(super) struct Shelf<'a> {
    http: Http,
    at: &'a Whereabouts<'a>,
}

/// What GitLab says of a file that it has.
#[derive(Deserialize)]
struct PackageFile {
    #[serde(default)]
    size: Option<u64>,
    #[serde(default)]
    file_sha256: Option<String>,
}

impl<'a> Shelf<'a> {
    pub(super) fn new(at: &'a Whereabouts<'a>) -> Result<Self, ArtefactError> {
        let mut trusted = vec![at.place.origin()];
        if at.place.kind == Kind::GitHub && at.place.host == "github.com" {
            trusted.extend(github::bases(at.place));
        }
        Ok(Self { http: Http::new(at.place, at.login, trusted)?, at })
    }

    pub(super) fn http(&self) -> &Http {
        &self.http
    }

    pub(super) fn garbled(&self, why: String) -> ArtefactError {
        ArtefactError::Refused { host: self.http.host().to_owned(), doing: "say what lies there", why }
    }

    /// Address of a file; releases have none before they are asked.
    fn url(&self, file: &str) -> String {
        let (place, name, version) = (self.at.place, self.at.name, self.at.version);
        let origin = place.origin();
        match place.kind {
            Kind::GitLab => {
                let project = place.path.join("%2F");
                format!("{origin}/api/v4/projects/{project}/packages/generic/{name}/{version}/{file}")
            }
            Kind::Nexus | Kind::GitHub => {
                format!("{origin}/repository/{}/{name}/{version}/{file}", place.path.join("/"))
            }
        }
    }

    /// The answer with a file's bytes from `from` on, and whether it begins there; none when there is no such file.
    pub(super) fn get(&self, file: &str, from: u64) -> Result<Option<(Response<Body>, bool)>, ArtefactError> {
        let range = (from > 0).then(|| format!("bytes={from}-"));
        let answer = match self.at.place.kind {
            Kind::GitHub => github::get(&self.http, self.at, file, range.as_deref())?,
            Kind::GitLab | Kind::Nexus => {
                let headers: Vec<_> = range.as_deref().map(|range| (header::RANGE, range)).into_iter().collect();
                Some(self.http.get(&self.url(file), &headers)?)
            }
        };
        let Some(answer) = answer else { return Ok(None) };
        match answer.status() {
            StatusCode::OK => Ok(Some((answer, from == 0))),
            StatusCode::PARTIAL_CONTENT => Ok(Some((answer, true))),
            StatusCode::NOT_FOUND => Ok(None),
            status if status.is_server_error() => Err(self.http.unreachable(status.to_string())),
            _ => Err(self.http.refused(GIVE, answer)),
        }
    }

    /// A small file whole.
    pub(super) fn small(&self, file: &str, limit: u64) -> Result<Option<Vec<u8>>, ArtefactError> {
        let Some((mut answer, _)) = self.get(file, 0)? else { return Ok(None) };
        let read = answer.body_mut().with_config().limit(limit).read_to_vec();
        read.map(Some).map_err(|error| self.http.unreachable(error.to_string()))
    }

    /// Puts a file there, in place of one of that name, and compares what the other side says of it.
    pub(super) fn put(&self, file: &str, content: &Content, tell: Tell<'_>) -> Result<(), ArtefactError> {
        match self.at.place.kind {
            Kind::GitLab => self.put_to_gitlab(file, content, tell),
            Kind::Nexus => self.put_to_nexus(file, content, tell),
            Kind::GitHub => github::put(&self.http, self.at, file, content, tell),
        }
    }

    fn put_to_gitlab(&self, file: &str, content: &Content, tell: Tell<'_>) -> Result<(), ArtefactError> {
        let url = format!("{}?select=package_file", self.url(file));
        let mut answer = self.http.ask_again(&Method::PUT, &url, &[], &Sent::Content(content, tell))?;
        if !matches!(answer.status(), StatusCode::CREATED | StatusCode::OK) {
            return Err(self.http.refused(TAKE, answer));
        }
        let there: PackageFile = self.http.document(&mut answer)?;
        let digest = there.file_sha256.map(|hex| format!("sha256:{hex}"));
        self.compare(
            file,
            content,
            there.size,
            digest.as_deref().unwrap_or(&content.digest.to_string()),
            &content.digest.to_string(),
        )
    }

    fn put_to_nexus(&self, file: &str, content: &Content, tell: Tell<'_>) -> Result<(), ArtefactError> {
        let url = self.url(file);
        let answer = self.http.ask_again(&Method::PUT, &url, &[], &Sent::Content(content, tell))?;
        if !matches!(answer.status(), StatusCode::CREATED | StatusCode::OK | StatusCode::NO_CONTENT) {
            return Err(self.http.refused(TAKE, answer));
        }
        let answer = self.http.ask_again(&Method::HEAD, &url, &[], &Sent::Nothing)?;
        if answer.status() != StatusCode::OK {
            return Err(self.http.refused("show a file that it took", answer));
        }
        let text = |name| answer.headers().get(name).and_then(|value| value.to_str().ok());
        let size = text(header::CONTENT_LENGTH).and_then(|text| text.parse().ok());
        let sha1 = text(header::ETAG).and_then(|tag| tag.trim_matches('"').strip_prefix("{SHA1{")?.strip_suffix("}}"));
        self.compare(file, content, size, sha1.unwrap_or(&content.sha1), &content.sha1)
    }

    fn compare(
        &self,
        file: &str,
        content: &Content,
        size: Option<u64>,
        digest: &str,
        expected: &str,
    ) -> Result<(), ArtefactError> {
        if size.is_none_or(|size| size == content.size_bytes) && digest.eq_ignore_ascii_case(expected) {
            return Ok(());
        }
        Err(ArtefactError::WrongBytes {
            host: self.http.host().to_owned(),
            file: file.to_owned(),
            expected: format!("{} bytes with {expected}", content.size_bytes),
            actual: format!("{} bytes with {digest}", size.unwrap_or_default()),
        })
    }

    /// That a file came with other bytes.
    pub(super) fn wrong(&self, file: &str, expected: &Digest, actual: &Digest) -> ArtefactError {
        ArtefactError::WrongBytes {
            host: self.http.host().to_owned(),
            file: file.to_owned(),
            expected: expected.to_string(),
            actual: actual.to_string(),
        }
    }
}
