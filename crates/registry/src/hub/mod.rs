//! Public hubs: what lies in a repository of the Hugging Face Hub, or behind any address, fetched and held against its digest.
//!
//! Promises: a revision is pinned to its commit before anything is fetched; every file is held against the digest that the hub says of it (SHA-256 for large
//! files, the git blob's id for small ones), or that the caller says; a download that breaks off goes on where it stood, in the next call too; the token goes to
//! the hub that was named and nowhere else, wherever its answers lead.
//! Absent on purpose: uploads, spaces and data sets, and the hub's own chunked protocol: its ordinary downloads give the same bytes.
//!
//! Source: Hugging Face Hub API (`/api/models/{repo}/revision/{revision}?blobs=true`, `/{repo}/resolve/{commit}/{path}`); git "Git Objects"; RFC 9110, 14 "Range Requests".

mod address;
mod snapshot;

pub use self::address::{Address, AddressError, Fetched, fetch_address};
pub use self::snapshot::{Expected, Listed, Repository, RepositoryError, Snapshot};

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use modelyard_core::url::encoded;
use ring::digest::{Context, SHA1_FOR_LEGACY_USE_ONLY};
use serde_json::Value;
use ureq::Body;
use ureq::http::{HeaderName, HeaderValue, Response, StatusCode, header};

use crate::artefacts::content::Content;
use crate::artefacts::http::{End, Http, origin};
use crate::artefacts::{ArtefactError, Login, fetch, scratch_failed};
use crate::client::Tell;
use crate::partial;
use crate::remote::is_loopback;

const HELP: &str = "set HF_TOKEN to an access token; for a gated model also accept its terms on its page. A model that is not there is answered like this, too";

/// A hub that speaks the Hugging Face Hub's API.
pub struct Hub {
    http: Http,
    endpoint: String,
}

impl Hub {
    /// The hub at `endpoint`, such as `https://huggingface.co`. `token` says who asks.
    ///
    /// # Errors
    /// [`ArtefactError::Refused`] if that is no address; [`ArtefactError::Plain`] if a token would go over the network in the clear.
    pub fn new(endpoint: &str, token: Option<&str>) -> Result<Self, ArtefactError> {
        let endpoint = endpoint.trim_end_matches('/');
        let no_address = |why: &str| ArtefactError::Refused {
            host: endpoint.chars().take(200).collect(),
            doing: "be a hub",
            why: why.to_owned(),
        };
        let (host, plain) =
            host(endpoint).ok_or_else(|| no_address("it is no address such as https://huggingface.co"))?;
        let mut login = Login(Vec::new());
        if let Some(token) = token {
            let value = HeaderValue::from_str(&format!("Bearer {token}"));
            let mut value = value.map_err(|_| no_address("HF_TOKEN holds what no header can: a line break perhaps"))?;
            value.set_sensitive(true);
            login.0.push((header::AUTHORIZATION, value));
        }
        let trusted = origin(endpoint).map(str::to_owned).into_iter().collect();
        let end = End { exposed: plain && !is_loopback(&host), host, help: HELP };
        Ok(Self { http: Http::with(end, login, trusted)?, endpoint: endpoint.to_owned() })
    }

    /// What a repository holds at a revision: a branch, a tag or a commit.
    ///
    /// # Errors
    /// [`ArtefactError`]: there is none, it may not be seen, or what the hub says of it cannot be held against the files.
    pub fn snapshot(&self, repository: &Repository, revision: &str) -> Result<Snapshot, ArtefactError> {
        let revision_part = encoded(revision);
        let url = format!("{}/api/models/{repository}/revision/{revision_part}?blobs=true", self.endpoint);
        let accept: (HeaderName, &str) = (header::ACCEPT, "application/json");
        let mut answer = self.http.get(&url, &[accept])?;
        match answer.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => {
                let what = format!("model {repository} at the revision `{revision}`");
                return Err(ArtefactError::NotFound { what, place: self.http.host().to_owned() });
            }
            status if status.is_server_error() => return Err(self.http.unreachable(status.to_string())),
            _ => return Err(self.http.refused("show a model", answer)),
        }
        let about: Value = self.http.document(&mut answer)?;
        let garbled = |why: String| ArtefactError::Refused {
            host: self.http.host().to_owned(),
            doing: "say what lies there",
            why,
        };
        Snapshot::read(repository, revision, about).map_err(garbled)
    }

    /// Address of a repository, for people.
    pub fn page(&self, repository: &Repository) -> String {
        format!("{}/{repository}", self.endpoint)
    }

    /// Fetches a file into the folder `scratch`, and holds it against what the hub says of it; where it is then. What arrived stays there
    /// for the next call until the caller moves it.
    ///
    /// # Errors
    /// [`ArtefactError`]; [`ArtefactError::WrongBytes`] when it is another file, which is then removed.
    pub fn fetch(
        &self,
        snapshot: &Snapshot,
        file: &Listed,
        scratch: &Path,
        tell: Tell<'_>,
    ) -> Result<PathBuf, ArtefactError> {
        let path_part: Vec<String> = file.path.split('/').map(encoded).collect();
        let (repository, commit) = (&snapshot.repository, &snapshot.commit);
        let url = format!("{}/{repository}/resolve/{commit}/{}", self.endpoint, path_part.join("/"));
        let path = scratch.join(part("hub", &url));
        std::fs::create_dir_all(scratch).map_err(scratch_failed(scratch))?;
        let mut sink = partial::open(&path).map_err(scratch_failed(&path))?;
        let from = |at| self.bytes(&url, at);
        fetch::whole(&self.http, &from, file.size_bytes, &mut sink, &path, tell)?;
        sink.sync_all().map_err(scratch_failed(&path))?;
        let actual = match &file.expected {
            Expected::Sha256(_) => Content::of_file(&path)?.digest.to_string(),
            Expected::GitBlob(_) => git_blob(&path, file.size_bytes).map_err(scratch_failed(&path))?,
        };
        if actual == file.expected.to_string() {
            return Ok(path);
        }
        let _ = std::fs::remove_file(&path); // nobody goes on from wrong bytes
        Err(ArtefactError::WrongBytes {
            host: self.http.host().to_owned(),
            file: file.path.clone(),
            expected: file.expected.to_string(),
            actual,
        })
    }

    fn bytes(&self, url: &str, at: u64) -> Result<(Response<Body>, bool), ArtefactError> {
        let range = format!("bytes={at}-");
        let headers: &[(HeaderName, &str)] = if at > 0 { &[(header::RANGE, &range)] } else { &[] };
        let answer = self.http.get(url, headers)?;
        match answer.status() {
            StatusCode::OK => Ok((answer, at == 0)),
            StatusCode::PARTIAL_CONTENT => Ok((answer, true)),
            status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
                Err(self.http.unreachable(status.to_string()))
            }
            _ => Err(self.http.refused("give a file", answer)),
        }
    }
}

/// The host of an address, and whether it is spoken to in the clear.
fn host(address: &str) -> Option<(String, bool)> {
    let (scheme, rest) = address.split_once("://")?;
    let plain = match scheme {
        "https" => false,
        "http" => true,
        _ => return None,
    };
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let letters = |byte: u8| byte.is_ascii_alphanumeric() || b".-:[]".contains(&byte);
    (!host.is_empty() && host.bytes().all(letters)).then(|| (host.to_owned(), plain))
}

/// Name of a download from an address.
fn part(kind: &str, address: &str) -> String {
    format!("{kind}-{}.{}", crate::blob::digest_of(address.as_bytes()).hex(), partial::SUFFIX)
}

/// The id that git gives a file's bytes.
fn git_blob(path: &Path, size_bytes: u64) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let mut sha1 = Context::new(&SHA1_FOR_LEGACY_USE_ONLY);
    sha1.update(format!("blob {size_bytes}\0").as_bytes());
    let mut chunk = vec![0; 256 << 10];
    loop {
        match file.read(&mut chunk)? {
            0 => return Ok(sha1.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect()),
            length => sha1.update(&chunk[..length]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blobs_have_the_ids_that_git_gives_them() {
        // Source: Pro Git, 10.2 "Git Objects"; the empty blob's id is the same everywhere.
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        for (text, id) in [
            ("what is up, doc?", "bd9dbf5aae1a3862dd1526723246b20206e5fc37"),
            ("", "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"),
        ] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(git_blob(&path, text.len() as u64).unwrap(), id);
        }
    }

    #[test]
    fn tokens_stay_with_the_hub_and_go_nowhere_in_the_clear() {
        assert!(matches!(Hub::new("http://mirror.example", Some("t")), Err(ArtefactError::Plain { .. })));
        assert!(Hub::new("http://mirror.example", None).is_ok());
        assert!(Hub::new("http://127.0.0.1:8", Some("t")).is_ok());
        assert!(Hub::new("https://hub.example/", Some("a\nb")).is_err());
        for none in ["hub.example", "ftp://hub.example", "https://", "https://user:secret@hub.example"] {
            assert!(Hub::new(none, None).is_err(), "{none}");
        }
    }
}
