//! One question to a server elsewhere: HTTP or HTTPS, a token where one is asked for, a bounded answer.
//!
//! Promises: a token is read anew for each question (it may have been replaced), never logged, and never sent in the clear to another machine; redirects are not
//! followed, so that it cannot be led elsewhere.

use std::time::Duration;

use http::Uri;
use modelyard_core::metric::Metric;
use serde_json::Value;
use ureq::Agent;
use ureq::http::header;
use ureq::tls::{PemItem, RootCerts, TlsConfig, parse_pem};

const LIMIT: Duration = Duration::from_secs(5);
const MOST: u64 = 1 << 20;
/// A token that is longer is a file of something else.
const LONGEST_TOKEN: usize = 16 << 10;

/// What is asked.
pub enum Ask {
    /// `GET` of this path and query below the metric's address.
    Get(String),
    /// `POST` of this document to the metric's address itself.
    Post(Value),
}

/// Asks, away from the threads that must not wait.
pub async fn fetch(metric: &Metric, ask: Ask) -> Result<Value, String> {
    let metric = metric.clone();
    let asked = tokio::task::spawn_blocking(move || blocking(&metric, &ask));
    asked.await.unwrap_or_else(|error| Err(format!("asking ended early: {error}")))
}

fn blocking(metric: &Metric, ask: &Ask) -> Result<Value, String> {
    let (base, host) = place(metric)?;
    let token = token(metric, &host)?;
    let agent = agent(metric)?;
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
        _ if status.as_u16() == 401 || status.as_u16() == 403 => {
            Err(format!("`{host}` answered {status}; set the metric's `token` to `env:NAME` or `file:PATH`"))
        }
        _ if !status.is_success() => Err(format!("`{host}` answered {status}")),
        _ => Err(format!("`{host}` answered no JSON")),
    }
}

/// Address and host.
fn place(metric: &Metric) -> Result<(String, String), String> {
    let url = metric.url.as_deref().ok_or("the metric has no `url`; write http://HOST:PORT or https://HOST:PORT")?;
    let uri: Uri = url.parse().map_err(|error| format!("`{url}` is no address: {error}"))?;
    let known = matches!(uri.scheme_str(), Some("http" | "https"));
    let host = uri
        .host()
        .filter(|_| known)
        .ok_or_else(|| format!("`{url}` is not asked: write http://HOST:PORT or https://HOST:PORT"))?;
    Ok((url.to_owned(), host.to_owned()))
}

/// The token, from where the metric says; none when it asks for none.
fn token(metric: &Metric, host: &str) -> Result<Option<String>, String> {
    let Some(from) = metric.token.as_deref() else { return Ok(None) };
    let is_clear = metric.url.as_deref().is_some_and(|url| url.starts_with("http://"));
    let is_here =
        host == "localhost" || host.trim_matches(['[', ']']).parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
    if is_clear && !is_here {
        return Err(format!("the token is not sent to `{host}` in the clear; write https:// in the metric's `url`"));
    }
    let text = match from.split_once(':') {
        Some(("env", name)) => std::env::var(name).map_err(|_| {
            format!("the environment variable {name} of the control plane, which holds the token, is not set")
        })?,
        Some(("file", path)) => {
            std::fs::read_to_string(path).map_err(|error| format!("the token in {path} cannot be read: {error}"))?
        }
        _ => return Err("the metric's `token` is neither `env:NAME` nor `file:PATH`".to_owned()),
    };
    let text = text.trim();
    if text.is_empty() || text.len() > LONGEST_TOKEN || !text.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err(format!("what `{from}` holds is no token: it is one line of visible characters"));
    }
    Ok(Some(text.to_owned()))
}

fn agent(metric: &Metric) -> Result<Agent, String> {
    let mut tls = TlsConfig::builder();
    if let Some(path) = &metric.ca {
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
