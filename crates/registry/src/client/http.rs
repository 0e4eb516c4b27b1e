//! Requests to a registry, with whatever it wants to know of us.

use std::io::Read;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use modelyard_core::Digest;
use serde::Deserialize;
use ureq::http::{Method, Request, Response, StatusCode, header};
use ureq::{Agent, Body, SendBody};

use super::auth::{self, Challenge, Credentials};
use super::error::ClientError;
use crate::blob::digest_of;
use crate::manifest::{DOCKER_INDEX, DOCKER_MANIFEST, INDEX, MANIFEST, MAX_MANIFEST_BYTES};
use crate::remote::Remote;

/// Longest time without a byte.
const PATIENCE: Duration = Duration::from_secs(60);

/// A registry as we talk to it.
pub struct Http {
    agent: Agent,
    remote: Remote,
    credentials: Option<Credentials>,
    /// `Authorization`, once the registry has said what it wants.
    authorization: Mutex<Option<String>>,
}

/// A body that can be sent again.
pub enum Sent<'a> {
    /// None.
    Nothing,
    /// These bytes.
    Bytes(&'a [u8]),
    /// What `open` opens, of this length.
    Stream(&'a (dyn Fn() -> std::io::Result<Box<dyn Read + 'a>> + 'a), u64),
}

#[derive(Deserialize)]
struct Token {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
}

#[derive(Deserialize)]
struct Errors {
    errors: Vec<OneError>,
}

#[derive(Deserialize)]
struct OneError {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

impl Http {
    /// Reads the credentials; asks nothing yet.
    pub fn new(remote: &Remote) -> Result<Self, ClientError> {
        let configuration = Agent::config_builder()
            .http_status_as_error(false)
            .timeout_connect(Some(Duration::from_secs(15)))
            .timeout_recv_response(Some(PATIENCE))
            .max_redirects(5)
            .allow_non_standard_methods(true)
            .build();
        Ok(Self {
            agent: configuration.new_agent(),
            remote: remote.clone(),
            credentials: auth::credentials(remote.host())?,
            authorization: Mutex::new(None),
        })
    }

    /// Name of the host, for errors.
    pub fn host(&self) -> &str {
        self.remote.host()
    }

    /// The address below the repository, or an address that the registry gave.
    pub fn url(&self, path: &str) -> String {
        if path.starts_with("http://") || path.starts_with("https://") {
            return path.to_owned();
        }
        let base = self.remote.url("");
        match path.strip_prefix("/v2/") {
            // A `Location` without a host.
            Some(_) => format!("{}{path}", base.split("/v2/").next().unwrap_or_default()),
            None => format!("{base}{path}"),
        }
    }

    /// One request; a challenge is answered and the request sent again.
    pub fn ask(
        &self,
        method: &Method,
        path: &str,
        headers: &[(header::HeaderName, String)],
        body: &Sent<'_>,
        doing: &'static str,
    ) -> Result<Response<Body>, ClientError> {
        let url = self.url(path);
        let first = self.send(method, &url, headers, body)?;
        if first.status() != StatusCode::UNAUTHORIZED {
            return Ok(first);
        }
        let challenge = first.headers().get(header::WWW_AUTHENTICATE).and_then(|value| value.to_str().ok());
        let denied = |why: &str| ClientError::Denied { host: self.host().to_owned(), doing, why: why.to_owned() };
        let challenge = challenge
            .and_then(auth::read_challenge)
            .ok_or_else(|| denied("it asks for a kind of login that we do not know"))?;
        self.answer(&challenge, doing)?;
        let second = self.send(method, &url, headers, body)?;
        match second.status() {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Err(denied(&self.told(second))),
            _ => Ok(second),
        }
    }

    fn send(
        &self,
        method: &Method,
        url: &str,
        headers: &[(header::HeaderName, String)],
        body: &Sent<'_>,
    ) -> Result<Response<Body>, ClientError> {
        let mut request = Request::builder().method(method.clone()).uri(url);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        // Who we are is for the registry alone, not for where it may send us.
        if url.starts_with(&self.remote.url("").split("/v2/").next().map(str::to_owned).unwrap_or_default())
            && let Some(authorization) = &*self.authorization.lock().unwrap_or_else(PoisonError::into_inner)
        {
            request = request.header(header::AUTHORIZATION, authorization);
        }
        let failed = |why: String| ClientError::Unreachable { host: self.host().to_owned(), why };
        let built = |error: ureq::http::Error| failed(error.to_string());
        let answer = match body {
            Sent::Nothing => self.agent.run(request.body(()).map_err(built)?),
            Sent::Bytes(bytes) => self.agent.run(request.body(*bytes).map_err(built)?),
            Sent::Stream(open, length) => {
                let mut source = open().map_err(|error| failed(error.to_string()))?;
                let request = request.header(header::CONTENT_LENGTH, length.to_string());
                self.agent.run(request.body(SendBody::from_reader(&mut source)).map_err(built)?)
            }
        };
        answer.map_err(|error| failed(error.to_string()))
    }

    /// Gets what the registry wants to see from now on.
    fn answer(&self, challenge: &Challenge, doing: &'static str) -> Result<(), ClientError> {
        let denied = |why: String| ClientError::Denied { host: self.host().to_owned(), doing, why };
        let value = match challenge {
            Challenge::Basic => {
                let credentials = self.credentials.as_ref();
                credentials.ok_or_else(|| denied("it asks for a name and a password".to_owned()))?.basic()
            }
            Challenge::Bearer { realm, service, scope } => {
                if !realm.starts_with("https://") && !self.remote.url("").starts_with("http://") {
                    return Err(denied(format!("it sends us to {realm} for a token, which is not encrypted")));
                }
                let mut request = self.agent.get(realm);
                for (key, value) in [("service", service), ("scope", scope)] {
                    if let Some(value) = value {
                        request = request.query(key, value);
                    }
                }
                if let Some(credentials) = &self.credentials {
                    request = request.header(header::AUTHORIZATION, credentials.basic());
                }
                let mut answer = request.call().map_err(|error| denied(format!("{realm}: {error}")))?;
                if !answer.status().is_success() {
                    return Err(denied(format!("{realm} gives no token: {}", self.told(answer))));
                }
                let token: Token = answer
                    .body_mut()
                    .read_json()
                    .map_err(|error| denied(format!("{realm} gives no token: {error}")))?;
                let token = token.token.or(token.access_token);
                format!("Bearer {}", token.ok_or_else(|| denied(format!("{realm} gives no token")))?)
            }
        };
        *self.authorization.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
        Ok(())
    }

    /// What an answer says that is no success.
    pub fn told(&self, mut answer: Response<Body>) -> String {
        let status = answer.status();
        // 64 KiB: an error is a sentence.
        let text = answer.body_mut().with_config().limit(64 << 10).read_to_string().unwrap_or_default();
        let errors: Option<Errors> = serde_json::from_str(&text).ok();
        let told = errors.and_then(|errors| {
            errors.errors.into_iter().next().map(|error| format!("{} {}", error.code, error.message).trim().to_owned())
        });
        let shown: String = told.unwrap_or(text).chars().filter(|letter| !letter.is_control()).take(300).collect();
        format!("{status}: {shown}").trim_end_matches([':', ' ']).to_owned()
    }

    /// A refusal that is none of the expected ones.
    pub fn refused(&self, doing: &'static str, answer: Response<Body>) -> ClientError {
        let (host, status) = (self.host().to_owned(), answer.status());
        let why = self.told(answer);
        match status {
            StatusCode::NOT_FOUND => ClientError::NotFound { remote: self.remote.to_string(), why },
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => ClientError::Denied { host, doing, why },
            _ => ClientError::Refused { host, doing, why },
        }
    }

    /// A manifest and its digest, checked.
    pub fn manifest(&self, reference: &str) -> Result<(Vec<u8>, Digest), ClientError> {
        const DOING: &str = "read the manifest";
        // Docker's older names too: images that others are put on often have them.
        let accept = [(header::ACCEPT, format!("{MANIFEST}, {INDEX}, {DOCKER_MANIFEST}, {DOCKER_INDEX}"))];
        let mut answer = self.ask(&Method::GET, &format!("/manifests/{reference}"), &accept, &Sent::Nothing, DOING)?;
        if answer.status() != StatusCode::OK {
            return Err(self.refused(DOING, answer));
        }
        let said =
            answer.headers().get("docker-content-digest").and_then(|value| value.to_str().ok()).map(str::to_owned);
        let read = answer.body_mut().with_config().limit(MAX_MANIFEST_BYTES).read_to_vec();
        let bytes =
            read.map_err(|error| ClientError::Unreachable { host: self.host().to_owned(), why: error.to_string() })?;
        let digest = digest_of(&bytes);
        let asked = reference.contains(':').then(|| reference.to_owned());
        match asked.or(said).filter(|expected| expected.starts_with("sha256:") && *expected != digest.to_string()) {
            Some(expected) => {
                Err(ClientError::WrongBytes { host: self.host().to_owned(), expected, actual: digest.to_string() })
            }
            None => Ok((bytes, digest)),
        }
    }

    /// Puts a manifest in place: from now on the package is there.
    pub fn put_manifest(&self, reference: &str, kind: &str, bytes: &[u8], digest: &Digest) -> Result<(), ClientError> {
        self.put_object(reference, kind, bytes, digest).map(drop)
    }

    /// [`Http::put_manifest`]; whether the registry says that it lists the manifest under its subject.
    pub fn put_object(&self, reference: &str, kind: &str, bytes: &[u8], digest: &Digest) -> Result<bool, ClientError> {
        const DOING: &str = "take the manifest";
        let headers = [(header::CONTENT_TYPE, kind.to_owned())];
        let answer =
            self.ask(&Method::PUT, &format!("/manifests/{reference}"), &headers, &Sent::Bytes(bytes), DOING)?;
        if !answer.status().is_success() {
            return Err(self.refused(DOING, answer));
        }
        let said = answer.headers().get("docker-content-digest").and_then(|value| value.to_str().ok());
        match said.filter(|said| said.starts_with("sha256:") && **said != *digest.to_string()) {
            Some(actual) => Err(ClientError::WrongBytes {
                host: self.host().to_owned(),
                expected: digest.to_string(),
                actual: actual.to_owned(),
            }),
            None => Ok(answer.headers().contains_key("oci-subject")),
        }
    }
}
