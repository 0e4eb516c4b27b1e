//! What a path on the public port means.
//!
//! Promises: no allocation; the rest of the path is passed on byte for byte, query included. Source: `docs/reference/gateway.md`.

use modelyard_core::RevisionNumber;

/// What a path asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wanted<'a> {
    /// A service at its default API version; the whole path is passed on.
    Default {
        /// The service.
        service: &'a str,
    },
    /// A service at one API version; what follows the prefix is passed on.
    Api {
        /// The service.
        service: &'a str,
        /// The API version.
        api: u16,
        /// The path to pass on, from its `/`; empty stands for `/`.
        rest: &'a str,
    },
    /// One revision, whatever its weight; what follows the prefix is passed on.
    Revision {
        /// The service.
        service: &'a str,
        /// The revision.
        revision: RevisionNumber,
        /// The path to pass on, from its `/`; empty stands for `/`.
        rest: &'a str,
    },
    /// A service's feedback.
    Feedback {
        /// The service.
        service: &'a str,
        /// The API version, if one is named.
        api: Option<u16>,
    },
    /// The document of all API versions of a name.
    OpenApi {
        /// The service.
        service: &'a str,
    },
    /// Something that the gateway answers itself.
    Own(Own),
    /// Nothing that the gateway knows.
    Unknown,
}

/// What the gateway answers itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Own {
    /// `/v2`: metadata of the server.
    Server,
    /// `/v2/health/live`.
    Live,
    /// `/v2/health/ready`.
    Ready,
    /// `/metrics`.
    Metrics,
    /// `/`: what this is.
    Root,
}

/// Where feedback is posted, below a service.
const FEEDBACK: &str = "feedback";
/// Where its API versions are described.
const OPENAPI: &str = "openapi.json";

/// Reads a path (without its query).
pub fn wanted(path: &str) -> Wanted<'_> {
    match path {
        "/v2" | "/v2/" => return Wanted::Own(Own::Server),
        "/v2/health/live" => return Wanted::Own(Own::Live),
        "/v2/health/ready" => return Wanted::Own(Own::Ready),
        "/metrics" => return Wanted::Own(Own::Metrics),
        "/" => return Wanted::Own(Own::Root),
        _ => {}
    }
    if let Some(after) = path.strip_prefix("/v2/models/") {
        return match segment(after).0 {
            "" => Wanted::Unknown,
            service => Wanted::Default { service },
        };
    }
    let Some(after) = path.strip_prefix('/') else { return Wanted::Unknown };
    let (service, rest) = segment(after);
    let Some(rest) = rest.strip_prefix('/') else { return Wanted::Unknown };
    if rest == FEEDBACK && !matches!(service, "" | "v2") {
        return Wanted::Feedback { service, api: None };
    }
    if rest == OPENAPI && !matches!(service, "" | "v2") {
        return Wanted::OpenApi { service };
    }
    let (version, rest) = segment(rest);
    match (version.as_bytes().first(), number(version.get(1..).unwrap_or_default())) {
        (Some(b'v'), Some(api)) if !service.is_empty() => match u16::try_from(api) {
            Ok(api) if rest.strip_prefix('/') == Some(FEEDBACK) => Wanted::Feedback { service, api: Some(api) },
            Ok(api) => Wanted::Api { service, api, rest },
            Err(_) => Wanted::Unknown,
        },
        (Some(b'r'), Some(revision)) if !service.is_empty() => {
            Wanted::Revision { service, revision: RevisionNumber(revision), rest }
        }
        _ => Wanted::Unknown,
    }
}

/// The first segment, and what follows from its `/`.
fn segment(path: &str) -> (&str, &str) {
    path.split_at(path.find('/').unwrap_or(path.len()))
}

/// A plain decimal number from 1, without sign or leading zero.
fn number(text: &str) -> Option<u32> {
    let plain = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) && !text.starts_with('0');
    plain.then(|| text.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_inference_protocol_reach_the_default_version() {
        assert_eq!(wanted("/v2/models/wine/infer"), Wanted::Default { service: "wine" });
        assert_eq!(wanted("/v2/models/wine"), Wanted::Default { service: "wine" });
        assert_eq!(wanted("/v2/models/"), Wanted::Unknown);
        assert_eq!(wanted("/v2/health/ready"), Wanted::Own(Own::Ready));
    }

    #[test]
    fn a_base_path_names_version_or_revision_and_is_cut_off() {
        let api = Wanted::Api { service: "wine", api: 1, rest: "/v2/models/wine/infer" };
        assert_eq!(wanted("/wine/v1/v2/models/wine/infer"), api);
        assert_eq!(wanted("/wine/v2"), Wanted::Api { service: "wine", api: 2, rest: "" });
        assert_eq!(wanted("/wine/feedback"), Wanted::Feedback { service: "wine", api: None });
        assert_eq!(wanted("/wine/v1/feedback"), Wanted::Feedback { service: "wine", api: Some(1) });
        assert_eq!(wanted("/wine/v1/feedback/x"), Wanted::Api { service: "wine", api: 1, rest: "/feedback/x" });
        assert_eq!(wanted("/v2/feedback"), Wanted::Unknown);
        let revision = Wanted::Revision { service: "wine", revision: RevisionNumber(12), rest: "/predict" };
        assert_eq!(wanted("/wine/r12/predict"), revision);
    }

    #[test]
    fn near_misses_are_unknown() {
        for path in [
            "/wine",
            "/wine/",
            "/wine/v",
            "/wine/v01/x",
            "/wine/v+1/x",
            "/wine/v70000/x",
            "/wine/x1/y",
            "//v1/x",
            "*",
            "",
        ] {
            assert_eq!(wanted(path), Wanted::Unknown, "{path}");
        }
    }
}
