//! Paths, read without allocation but for names.

use crate::contract::{self, Contracts};
use crate::refusal::{Refusal, shown};

/// What a path asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Route {
    Server,
    Live,
    Ready,
    Model { model: String, version: Option<String> },
    ModelReady { model: String, version: Option<String> },
    Infer { model: String, version: Option<String> },
    Stats { model: Option<String>, version: Option<String> },
    Predict,
    OpenApi,
    Metrics,
    Contract(contract::Route),
}

/// Reads a path. What the contracts say goes first: they were asked for.
pub(super) fn route(path: &str, contracts: &Contracts) -> Result<Route, Refusal> {
    match contracts.route(path) {
        Some(route) => Ok(Route::Contract(route)),
        None => protocol(path),
    }
}

/// Reads a path of the protocol, or of this server's own.
fn protocol(path: &str) -> Result<Route, Refusal> {
    let unknown = || Err(Refusal::not_found(format!("there is nothing at {}; see /openapi.json", shown(path))));
    match path {
        "/v2" | "/v2/" => return Ok(Route::Server),
        "/v2/health/live" => return Ok(Route::Live),
        "/v2/health/ready" => return Ok(Route::Ready),
        "/v2/models/stats" => return Ok(Route::Stats { model: None, version: None }),
        "/predict" => return Ok(Route::Predict),
        "/openapi.json" => return Ok(Route::OpenApi),
        "/metrics" => return Ok(Route::Metrics),
        _ => {}
    }
    let Some(rest) = path.strip_prefix("/v2/models/") else { return unknown() };
    let (model, rest) = rest.split_once('/').unwrap_or((rest, ""));
    let (version, rest) = match rest.strip_prefix("versions/") {
        Some(rest) => {
            let (version, rest) = rest.split_once('/').unwrap_or((rest, ""));
            (Some(version.to_owned()), rest)
        }
        None => (None, rest),
    };
    let model = model.to_owned();
    match rest {
        "infer" => Ok(Route::Infer { model, version }),
        "" => Ok(Route::Model { model, version }),
        "ready" => Ok(Route::ModelReady { model, version }),
        "stats" => Ok(Route::Stats { model: Some(model), version }),
        _ => unknown(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_protocol() {
        let route = |path: &str| route(path, &Contracts::default());
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(route("/v2/models/iris/infer").unwrap(), Route::Infer { model: "iris".into(), version: None });
        assert_eq!(
            route("/v2/models/iris/versions/2/infer").unwrap(),
            Route::Infer { model: "iris".into(), version: some("2") }
        );
        assert_eq!(route("/v2/models/iris").unwrap(), Route::Model { model: "iris".into(), version: None });
        assert_eq!(
            route("/v2/models/iris/versions/2").unwrap(),
            Route::Model { model: "iris".into(), version: some("2") }
        );
        assert_eq!(route("/v2/models/iris/stats").unwrap(), Route::Stats { model: some("iris"), version: None });
        for unknown in ["/", "/v2/health", "/v2/models/iris/explode", "/v1/models/iris"] {
            assert!(route(unknown).is_err(), "{unknown}");
        }
    }
}
