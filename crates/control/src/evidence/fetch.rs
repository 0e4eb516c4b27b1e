//! One question to a server elsewhere: HTTP or HTTPS, a token where one is asked for, a bounded answer.
//!
//! Promises: a token is read anew for each question (it may have been replaced), never logged, and never sent in the clear to another machine; redirects are not
//! followed, so that it cannot be led elsewhere.

use std::time::Duration;

use http::Uri;
use modelyard_core::metric::Metric;
use modelyard_core::notify::Hook;
use serde_json::Value;
use ureq::Agent;
use ureq::http::header;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

const LIMIT: Duration = Duration::from_secs(5);
const MOST: u64 = 1 << 20;
/// A token that is longer is a file of something else.
const LONGEST_TOKEN: usize = 16 << 10;

/// Whom to ask.
#[derive(Clone, Debug)]
pub struct Peer {
    /// What it is for, for people: `metric`, `hook`.
    what: &'static str,
    url: Option<String>,
    token: Option<String>,
    ca: Option<String>,
}

impl From<&Metric> for Peer {
    fn from(metric: &Metric) -> Self {
        Self { what: "metric", url: metric.url.clone(), token: metric.token.clone(), ca: metric.ca.clone() }
    }
}

impl From<&Hook> for Peer {
    fn from(hook: &Hook) -> Self {
        Self { what: "hook", url: Some(hook.url.clone()), token: hook.token.clone(), ca: hook.ca.clone() }
    }
}

/// What is asked.
pub enum Ask {
    /// `GET` of this path and query below the metric's address.
    Get(String),
    /// `POST` of this document to the metric's address itself.
    Post(Value),
}

/// Asks, away from the threads that must not wait.
pub async fn fetch(metric: &Metric, ask: Ask) -> Result<Value, String> {
    let peer = Peer::from(metric);
    let asked = tokio::task::spawn_blocking(move || blocking(&peer, &ask));
    asked.await.unwrap_or_else(|error| Err(format!("asking ended early: {error}")))
}

/// Why a hook was not told.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Untold {
    /// Why, for people; never with the address's path or the token.
    pub why: String,
    /// Whether another attempt may go better.
    pub may_pass: bool,
}

/// Posts a document, away from the threads that must not wait. What is answered beyond the status is not read.
pub async fn tell(hook: &Hook, document: Value) -> Result<(), Untold> {
    let peer = Peer::from(hook);
    let told = tokio::task::spawn_blocking(move || post(&peer, &document));
    told.await.unwrap_or_else(|error| Err(Untold { why: format!("telling ended early: {error}"), may_pass: true }))
}

fn post(peer: &Peer, document: &Value) -> Result<(), Untold> {
    let wrong = |why: String| Untold { why, may_pass: false };
    let (url, host) = place(peer).map_err(wrong)?;
    // A token or certificates that are being replaced are there a moment later.
    let passing = |why: String| Untold { why, may_pass: true };
    let token = token(peer, &host).map_err(passing)?;
    let request = agent(peer).map_err(passing)?.post(&url);
    let request = match token {
        Some(token) => request.header(header::AUTHORIZATION, format!("Bearer {token}")),
        None => request,
    };
    let answer =
        request.send_json(document).map_err(|error| passing(format!("`{host}` cannot be reached: {error}")))?;
    let status = answer.status();
    let may_pass = status.is_server_error() || matches!(status.as_u16(), 408 | 425 | 429);
    if status.is_success() { Ok(()) } else { Err(Untold { why: format!("`{host}` answered {status}"), may_pass }) }
}

/// The host of an address, for people; the rest of it may be secret.
pub fn host_of(url: &str) -> String {
    url.parse::<Uri>()
        .ok()
        .and_then(|uri| uri.authority().map(|authority| authority.host().to_owned()))
        .unwrap_or_default()
}

fn blocking(peer: &Peer, ask: &Ask) -> Result<Value, String> {
    let (base, host) = place(peer)?;
    let token = token(peer, &host)?;
    let agent = agent(peer)?;
    let bearer = token.map(|token| format!("Bearer {token}"));
    let answer = match ask {
        Ask::Get(path) => {
            let request = agent.get(format!("{}{path}", base.trim_end_matches('/')));
            bearer.iter().fold(request, |request, bearer| request.header(header::AUTHORIZATION, bearer)).call()
        }
        Ask::Post(document) => {
            let request = agent.post(&base);
            bearer
                .iter()
                .fold(request, |request, bearer| request.header(header::AUTHORIZATION, bearer))
                .send_json(document)
        }
    };
    let mut answer = answer.map_err(|error| format!("`{host}` cannot be asked: {error}"))?;
    let status = answer.status();
    let body = answer.body_mut().with_config().limit(MOST).read_to_vec();
    let body = body.map_err(|error| format!("the answer of `{host}` cannot be read: {error}"))?;
    match serde_json::from_slice::<Value>(&body) {
        // Prometheus explains a bad query in a 400.
        Ok(document) if status.is_success() || document.get("error").is_some() => Ok(document),
        _ if status.as_u16() == 401 || status.as_u16() == 403 => Err(format!(
            "`{host}` answered {status}; set the {what}'s `token` to `env:NAME` or `file:PATH`",
            what = peer.what
        )),
        _ if !status.is_success() => Err(format!("`{host}` answered {status}")),
        _ => Err(format!("`{host}` answered no JSON")),
    }
}

/// Address and host.
fn place(peer: &Peer) -> Result<(String, String), String> {
    let url = peer.url.as_deref().ok_or("the metric has no `url`; write http://HOST:PORT or https://HOST:PORT")?;
    let uri: Uri = url.parse().map_err(|error| format!("`{url}` is no address: {error}"))?;
    let known = matches!(uri.scheme_str(), Some("http" | "https"));
    let host = uri
        .host()
        .filter(|_| known)
        .ok_or_else(|| format!("`{url}` is not asked: write http://HOST:PORT or https://HOST:PORT"))?;
    Ok((url.to_owned(), host.to_owned()))
}

/// The token, from where the metric says; none when it asks for none.
fn token(peer: &Peer, host: &str) -> Result<Option<String>, String> {
    let Some(from) = peer.token.as_deref() else { return Ok(None) };
    let is_clear = peer.url.as_deref().is_some_and(|url| url.starts_with("http://"));
    let is_here =
        host == "localhost" || host.trim_matches(['[', ']']).parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
    if is_clear && !is_here {
        return Err(format!(
            "the token is not sent to `{host}` in the clear; write https:// in the {what}'s `url`",
            what = peer.what
        ));
    }
    let text = match from.split_once(':') {
        Some(("env", name)) => std::env::var(name).map_err(|_| {
            format!("the environment variable {name} of the control plane, which holds the token, is not set")
        })?,
        Some(("file", path)) => {
            std::fs::read_to_string(path).map_err(|error| format!("the token in {path} cannot be read: {error}"))?
        }
        _ => return Err(format!("the {}'s `token` is neither `env:NAME` nor `file:PATH`", peer.what)),
    };
    let text = text.trim();
    if text.is_empty() || text.len() > LONGEST_TOKEN || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!("what `{from}` holds is no token: it is one line of visible characters"));
    }
    Ok(Some(text.to_owned()))
}

fn agent(peer: &Peer) -> Result<Agent, String> {
    let mut tls = TlsConfig::builder();
    if let Some(path) = &peer.ca {
        let pem = std::fs::read(path).map_err(|error| format!("the certificates in {path} cannot be read: {error}"))?;
        let certificates: Vec<_> = parse_pem(&pem)
            .filter_map(|item| match item {
                Ok(PemItem::Certificate(certificate)) => Some(certificate),
                _ => None,
            })
            .collect();
        if certificates.is_empty() {
            return Err(format!("{path} holds no certificate in PEM form"));
        }
        tls = tls.root_certs(RootCerts::from(certificates));
    }
    let agent = Agent::config_builder()
        .timeout_global(Some(LIMIT))
        .http_status_as_error(false)
        .max_redirects(0)
        .tls_config(tls.build())
        .build();
    Ok(agent.into())
}
