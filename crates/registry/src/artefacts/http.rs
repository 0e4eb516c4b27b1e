//! Requests to a generic artefact registry.
//!
//! Promises: who we are is said to the origins that were named and to no other, wherever an answer leads; an upload never follows an answer elsewhere.

use std::io::{self, Read};
use std::time::Duration;

use serde::Deserialize;
use serde::de::DeserializeOwned;
use ureq::http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use ureq::{Agent, Body, SendBody};

use super::content::Content;
use super::error::ArtefactError;
use super::place::{Login, Place};
use crate::client::Tell;
use crate::remote::is_loopback;

/// Longest time that it may think about a file that it has whole.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often an answer may lead elsewhere.
const MOST_REDIRECTS: usize = 5;
/// Longest answer that is read as a document: a release with a thousand assets, a repository with ten thousand files.
const MAX_ANSWER_BYTES: u64 = 8 << 20;
/// How often a transfer may break off before it is given up, and the pause before the next try, growing.
pub(crate) const TRIES: u32 = 5;
pub(crate) const PAUSE: Duration = Duration::from_millis(200);

/// A registry as we talk to it.
pub(crate) struct Http {
    agent: Agent,
    host: String,
    /// Origins that may know who we are.
    trusted: Vec<String>,
    login: Login,
    /// Which variables say who we are.
    help: &'static str,
}

/// The other end.
pub(crate) struct End {
    /// Name of the host, for errors.
    pub(crate) host: String,
    /// Whether it is another machine that is spoken to in the clear.
    pub(crate) exposed: bool,
    /// Which variables say who we are.
    pub(crate) help: &'static str,
}

/// What is sent.
pub(super) enum Sent<'a> {
    Nothing,
    Json(Vec<u8>),
    Content(&'a Content, Tell<'a>),
}

type Headers<'a> = &'a [(HeaderName, &'a str)];

/// How registries word an error.
#[derive(Deserialize)]
struct Told {
    #[serde(default)]
    message: Option<serde_json::Value>,
    #[serde(default)]
    error: Option<serde_json::Value>,
}

impl Http {
    pub(super) fn new(place: &Place, login: &Login, trusted: Vec<String>) -> Result<Self, ArtefactError> {
        let end = End { host: place.host.clone(), exposed: place.is_exposed(), help: place.kind.variables() };
        Self::with(end, login.clone(), trusted)
    }

    /// A host that is no generic artefact registry.
    pub(crate) fn with(end: End, login: Login, trusted: Vec<String>) -> Result<Self, ArtefactError> {
        let End { host, exposed, help } = end;
        if exposed && !login.0.is_empty() {
            return Err(ArtefactError::Plain { host });
        }
        let configuration = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(15)))
            .timeout_recv_response(Some(PATIENCE))
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent("modelyard")
            .build();
        Ok(Self { agent: configuration.new_agent(), host, trusted, login, help })
    }

    /// Name of the host, for errors.
    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    pub(crate) fn unreachable(&self, why: impl Into<String>) -> ArtefactError {
        ArtefactError::Unreachable { host: self.host.clone(), why: why.into() }
    }

    /// One request, whatever the answer.
    pub(super) fn ask(
        &self,
        method: &Method,
        url: &str,
        headers: Headers<'_>,
        body: &Sent<'_>,
    ) -> Result<Response<Body>, ArtefactError> {
        let mut request = Request::builder().method(method.clone()).uri(url);
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        if origin(url).is_some_and(|origin| self.trusted.iter().any(|trusted| trusted == origin)) {
            for (name, value) in &self.login.0 {
                request = request.header(name, value);
            }
        }
        let failed = |why: String| self.unreachable(why);
        let built = |error: ureq::http::Error| failed(error.to_string());
        let answer = match body {
            Sent::Nothing => self.agent.run(request.body(()).map_err(built)?),
            Sent::Json(bytes) => {
                let request = request.header(header::CONTENT_TYPE, "application/json");
                self.agent.run(request.body(bytes.as_slice()).map_err(built)?)
            }
            Sent::Content(content, tell) => {
                let source = content.open().map_err(|error| failed(error.to_string()))?;
                let mut source = Counted { source, done: 0, all: content.size_bytes, tell: *tell };
                let digest = HeaderValue::from_str(&content.content_digest());
                let request = request
                    .header(header::CONTENT_TYPE, "application/octet-stream")
                    .header(header::CONTENT_LENGTH, content.size_bytes)
                    .header("content-digest", digest.map_err(|error| failed(error.to_string()))?);
                self.agent.run(request.body(SendBody::from_reader(&mut source)).map_err(built)?)
            }
        };
        answer.map_err(|error| failed(error.to_string()))
    }

    /// [`Http::ask`], again when the connection breaks or the other side is in trouble.
    pub(super) fn ask_again(
        &self,
        method: &Method,
        url: &str,
        headers: Headers<'_>,
        body: &Sent<'_>,
    ) -> Result<Response<Body>, ArtefactError> {
        for attempt in 1..TRIES {
            match self.ask(method, url, headers, body) {
                Err(ArtefactError::Unreachable { .. }) => {}
                Ok(answer) if answer.status().is_server_error() => {}
                other => return other,
            }
            std::thread::sleep(PAUSE * attempt);
        }
        self.ask(method, url, headers, body)
    }

    /// `GET`, wherever answers lead.
    pub(crate) fn get(&self, url: &str, headers: Headers<'_>) -> Result<Response<Body>, ArtefactError> {
        let mut url = url.to_owned();
        for _ in 0..MOST_REDIRECTS {
            let answer = self.ask(&Method::GET, &url, headers, &Sent::Nothing)?;
            if !answer.status().is_redirection() {
                return Ok(answer);
            }
            let to = answer.headers().get(header::LOCATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
            url = next(&url, to).ok_or_else(|| {
                let why = "it leads to an address that is none, or not encrypted".to_owned();
                ArtefactError::Refused { host: self.host.clone(), doing: "give a file", why }
            })?;
        }
        let why = "its answers lead in a circle".to_owned();
        Err(ArtefactError::Refused { host: self.host.clone(), doing: "give a file", why })
    }

    /// An answer that is a document.
    pub(crate) fn document<T: DeserializeOwned>(&self, answer: &mut Response<Body>) -> Result<T, ArtefactError> {
        let read = answer.body_mut().with_config().limit(MAX_ANSWER_BYTES).read_to_vec();
        let bytes = read.map_err(|error| self.unreachable(error.to_string()))?;
        let refused = |error: serde_json::Error| {
            let why = format!("it answered something else than was expected: {error}");
            ArtefactError::Refused { host: self.host.clone(), doing: "speak its API", why }
        };
        serde_json::from_slice(&bytes).map_err(refused)
    }

    /// An answer that is none of the expected ones.
    pub(crate) fn refused(&self, doing: &'static str, mut answer: Response<Body>) -> ArtefactError {
        let status = answer.status();
        // 64 KiB: an error is a sentence.
        let text = answer.body_mut().with_config().limit(64 << 10).read_to_string().unwrap_or_default();
        let told = serde_json::from_str::<Told>(&text).ok().and_then(|told| told.message.or(told.error));
        let told = told.map_or(text, |told| told.as_str().map_or_else(|| told.to_string(), str::to_owned));
        let shown: String = told.chars().filter(|letter| !letter.is_control()).take(300).collect();
        let (host, why) = (self.host.clone(), format!("{status}: {shown}").trim_end_matches([':', ' ']).to_owned());
        match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                ArtefactError::Denied { host, doing, why, help: self.help }
            }
            _ => ArtefactError::Refused { host, doing, why },
        }
    }
}

/// Scheme and host of an address.
pub(crate) fn origin(url: &str) -> Option<&str> {
    let (scheme, rest) = url.split_once("://")?;
    let end = rest.find(['/', '?', '#']).unwrap_or(rest.len());
    Some(&url[..scheme.len() + 3 + end])
}

/// Where an answer leads: elsewhere over TLS or on this machine, or to another path of the same host.
fn next(from: &str, to: &str) -> Option<String> {
    if to.starts_with('/') && !to.starts_with("//") {
        return Some(format!("{}{to}", origin(from)?));
    }
    let host = origin(to)?.split_once("://")?.1;
    (to.starts_with("https://") || (to.starts_with("http://") && (is_loopback(host) || origin(from) == origin(to))))
        .then(|| to.to_owned())
}

/// Tells how much has passed.
struct Counted<'a, R> {
    source: R,
    done: u64,
    all: u64,
    tell: Tell<'a>,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.source.read(buffer)?;
        self.done += length as u64;
        (self.tell)(self.done.min(self.all), self.all);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_lead_where_it_is_safe() {
        let from = "https://api.example/a?b";
        assert_eq!(next(from, "/c"), Some("https://api.example/c".into()));
        assert_eq!(next(from, "https://store.example/x"), Some("https://store.example/x".into()));
        assert_eq!(next("http://127.0.0.1:1/a", "http://localhost:2/b"), Some("http://localhost:2/b".into()));
        for to in ["http://store.example/x", "//store.example/x", "ftp://x/y", "", "c"] {
            assert_eq!(next(from, to), None, "{to}");
        }
        assert_eq!(origin("https://h:1?x"), Some("https://h:1"));
        assert_eq!(origin("https://h.example@evil/x"), Some("https://h.example@evil"));
    }
}
