//! Keeps foreign web pages out: a browser on this machine may be made to send requests here.
//!
//! Promises: a request whose `Host` is not a loopback name is refused (DNS rebinding); so is one that a page of another origin sent.

use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::error::Refusal;

/// Lets loopback callers through.
pub async fn loopback_only(request: Request, next: Next) -> Response {
    match refuse(request.headers(), request.uri().authority().map(|authority| authority.as_str())) {
        Some(refusal) => refusal.into_response(),
        None => next.run(request).await,
    }
}

fn refuse(headers: &HeaderMap, authority: Option<&str>) -> Option<Refusal> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let host = text(header::HOST).or(authority).unwrap_or("");
    if !is_loopback(host) {
        let help = "use http://127.0.0.1 or http://localhost with the control plane's port";
        return Some(Refusal::new(
            StatusCode::MISDIRECTED_REQUEST,
            "the control plane answers to loopback names only",
            help,
        ));
    }
    let origin = text(header::ORIGIN)?;
    let same = origin.strip_prefix("http://").is_some_and(|from| from.eq_ignore_ascii_case(host));
    let help = "open the control plane's own page, or use `modelyard`";
    (!same).then(|| Refusal::new(StatusCode::FORBIDDEN, "a page of another origin may not use the control plane", help))
}

fn is_loopback(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(""),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    name.eq_ignore_ascii_case("localhost")
        || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn status(host: &'static str, origin: Option<&'static str>) -> Option<StatusCode> {
        let mut headers = HeaderMap::new();
        headers.insert(header::HOST, HeaderValue::from_static(host));
        if let Some(origin) = origin {
            headers.insert(header::ORIGIN, HeaderValue::from_static(origin));
        }
        refuse(&headers, None).map(|refusal| refusal.into_response().status())
    }

    #[test]
    fn only_loopback_names_are_answered() {
        for host in ["127.0.0.1:8484", "localhost:8484", "LOCALHOST", "[::1]:8484", "127.8.8.8"] {
            assert_eq!(status(host, None), None, "{host}");
        }
        for host in ["evil.example:8484", "127.0.0.1.evil.example", "", "192.168.0.1:8484", "localhost.evil.example"] {
            assert_eq!(status(host, None), Some(StatusCode::MISDIRECTED_REQUEST), "{host}");
        }
    }

    #[test]
    fn pages_of_other_origins_are_refused() {
        assert_eq!(status("localhost:8484", Some("http://localhost:8484")), None);
        for origin in ["http://evil.example", "http://localhost:3000", "null", "https://localhost:8484"] {
            assert_eq!(status("localhost:8484", Some(origin)), Some(StatusCode::FORBIDDEN), "{origin}");
        }
    }
}
