//! The control plane's API as a caller sees it.
//!
//! Promises: every call has a deadline; an error says what the control plane said, with its help.

use std::time::Duration;

use miette::Diagnostic;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// A caller of the control plane.
#[derive(Clone, Debug)]
pub struct Client {
    agent: ureq::Agent,
    base: String,
    token: Option<String>,
}

/// Why a call did not succeed.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub enum Error {
    /// Nothing answers.
    #[error("the control plane at {base} does not answer")]
    #[diagnostic(
        code(modelyard::control::unreachable),
        help("see whether it runs (`modelyard up --detach` starts it); its log is in the home folder under `logs`")
    )]
    Unreachable {
        /// Where it was looked for.
        base: String,
        /// Why.
        #[source]
        source: Box<ureq::Error>,
    },
    /// The control plane said no.
    #[error("{error}")]
    #[diagnostic(code(modelyard::control::refused), help("{help}"))]
    Refused {
        /// HTTP status.
        status: u16,
        /// What it said.
        error: String,
        /// What to do.
        help: String,
    },
    /// The answer is not what this version understands.
    #[error("the control plane at {base} answered {path} with something that this version does not understand")]
    #[diagnostic(
        code(modelyard::control::garbled),
        help("compare `modelyard --version` with the version that runs: `modelyard down` and `up` starts this one")
    )]
    Garbled {
        /// Control plane.
        base: String,
        /// What was asked.
        path: String,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

impl Client {
    /// A client of the control plane at `address` (`127.0.0.1:8484` or a URL).
    pub fn new(address: &str, token: Option<String>) -> Self {
        let address = address.trim_end_matches('/');
        let base = if address.contains("://") { address.to_owned() } else { format!("http://{address}") };
        // 70 s: a long poll may take a minute.
        let config = ureq::Agent::config_builder()
            .timeout_global(Some(Duration::from_secs(70)))
            .timeout_connect(Some(Duration::from_secs(5)))
            .http_status_as_error(false)
            .proxy(None)
            .user_agent(concat!("modelyard/", env!("CARGO_PKG_VERSION")))
            .build();
        Self { agent: config.new_agent(), base, token }
    }

    /// Where the control plane is.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// `GET`, read as JSON.
    pub fn get<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.read(path, &self.text(path)?)
    }

    /// `GET`, as text.
    pub fn text(&self, path: &str) -> Result<String, Error> {
        self.finish(self.authorised(self.agent.get(self.url(path))).call())
    }

    /// `POST` of a JSON document, answered with one.
    pub fn post<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Error> {
        let text = self.finish(self.authorised(self.agent.post(self.url(path))).send_json(body))?;
        self.read(path, if text.trim().is_empty() { "null" } else { &text })
    }

    /// `PUT` of a JSON document, answered with one.
    pub fn put<T: DeserializeOwned>(&self, path: &str, body: &impl Serialize) -> Result<T, Error> {
        self.read(path, &self.finish(self.authorised(self.agent.put(self.url(path))).send_json(body))?)
    }

    /// `DELETE`, answered with a JSON document.
    pub fn delete<T: DeserializeOwned>(&self, path: &str) -> Result<T, Error> {
        self.read(path, &self.finish(self.authorised(self.agent.delete(self.url(path))).call())?)
    }

    /// `POST` of a text of another type, answered with a JSON document.
    pub fn post_text<T: DeserializeOwned>(&self, path: &str, content_type: &str, text: &str) -> Result<T, Error> {
        let request = self.authorised(self.agent.post(self.url(path))).header("content-type", content_type);
        self.read(path, &self.finish(request.send(text))?)
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.base)
    }

    fn authorised<B>(&self, request: ureq::RequestBuilder<B>) -> ureq::RequestBuilder<B> {
        match &self.token {
            Some(token) => request.header("authorization", format!("Bearer {token}")),
            None => request,
        }
    }

    fn finish(&self, answer: Result<http::Response<ureq::Body>, ureq::Error>) -> Result<String, Error> {
        let unreachable = |source| Error::Unreachable { base: self.base.clone(), source: Box::new(source) };
        let mut answer = answer.map_err(unreachable)?;
        let status = answer.status().as_u16();
        // 256 MiB: a long log is the largest answer there is.
        let text =
            answer.body_mut().with_config().limit(256 << 20).lossy_utf8(true).read_to_string().map_err(unreachable)?;
        if status < 400 { Ok(text) } else { Err(refused(status, &text)) }
    }

    fn read<T: DeserializeOwned>(&self, path: &str, text: &str) -> Result<T, Error> {
        serde_json::from_str(text).map_err(|source| Error::Garbled {
            base: self.base.clone(),
            path: path.to_owned(),
            source,
        })
    }
}

fn refused(status: u16, text: &str) -> Error {
    let document: Value = serde_json::from_str(text).unwrap_or_default();
    let said = |key: &str| document.get(key).and_then(Value::as_str).map(str::to_owned);
    let plain = || format!("the control plane answered with status {status}");
    Error::Refused {
        status,
        // The second is how OpenFeature's protocol says it.
        error: said("error").or_else(|| said("errorDetails")).unwrap_or_else(plain),
        help: said("help").unwrap_or_else(|| "nothing was changed; `modelyard status` shows what runs".to_owned()),
    }
}

impl Error {
    /// Whether the control plane said that there is no such thing.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status: 404, .. })
    }
}
