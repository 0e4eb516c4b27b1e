//! The paths of contracts: probes, content types, and errors as each platform reads them.

use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue, RETRY_AFTER};
use hyper::{Request, Response, StatusCode};
use serde_json::json;

use super::infer::{self, Speech};
use super::reply::{self, Body};
use crate::contract::{Contracts, Media, Route};
use crate::refusal::{Kind, Refusal};
use crate::server::{Shared, Thread};

/// Answers a request for predictions.
pub(super) async fn predict(thread: &Thread, route: Route, request: Request<Incoming>) -> Response<Body> {
    let (media, known) = match media(request.headers(), &thread.shared.contracts) {
        Ok(media) => (media, Ok(())),
        Err(refusal) => (Media::Json, Err(refusal)),
    };
    infer::answer(thread, request, Speech::Contract(route, media), known).await
}

/// Answers a probe.
pub(super) fn probe(shared: &Shared, route: Route) -> Response<Body> {
    let ready = shared.health.is_ready();
    let status = |wanting| if ready { StatusCode::OK } else { wanting };
    let text = |status, text: &'static str| reply::bytes(status, "application/json", text.into());
    match route {
        Route::Ping => text(status(StatusCode::SERVICE_UNAVAILABLE), ""),
        Route::Health => text(status(StatusCode::NOT_FOUND), "\n"),
        Route::Version => text(StatusCode::OK, env!("CARGO_PKG_VERSION")),
        Route::Alive => reply::json(StatusCode::OK, &json!({"name": super::SERVER, "alive": true})),
        Route::Ready | Route::Invocations | Route::Predict | Route::Score => {
            super::probed(shared.health.ready_answer())
        }
    }
}

/// What kind of body a request says that it has. No word on it is JSON.
fn media(headers: &HeaderMap, contracts: &Contracts) -> Result<Media, Refusal> {
    let unsupported =
        |what: &str| Refusal::new(Kind::Unsupported, format!("{what}; send application/json or text/csv, in UTF-8"));
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(Media::Json) };
    let value = value.to_str().map_err(|_| unsupported("the content type cannot be read"))?.to_ascii_lowercase();
    let mut parts = value.split(';').map(str::trim);
    let kind = parts.next().unwrap_or_default();
    let mut headed = contracts.csv_is_headed();
    for part in parts.filter(|part| !part.is_empty()) {
        let (name, value) = part.split_once('=').unwrap_or((part, ""));
        match (name.trim(), value.trim().trim_matches('"')) {
            ("charset", "utf-8" | "utf8") => {}
            ("charset", _) => return Err(unsupported("another character set than UTF-8 is not read")),
            // RFC 4180, section 3.
            ("header", "present") if kind == "text/csv" => headed = true,
            ("header", "absent") if kind == "text/csv" => headed = false,
            _ => return Err(unsupported("the content type has a parameter that is not known")),
        }
    }
    match kind {
        "application/json" => Ok(Media::Json),
        "text/csv" => Ok(Media::Csv { headed }),
        _ => Err(unsupported("the content type is not understood")),
    }
}

/// A refusal as the platform reads it.
///
/// Source of the codes: MLflow's `databricks.proto`, as `MlflowException` maps them to statuses.
pub(super) fn refuse(route: Route, refusal: &Refusal) -> Response<Body> {
    if route != Route::Invocations {
        return reply::refuse(refusal);
    }
    let code = match refusal.kind {
        Kind::Invalid | Kind::TooSlow | Kind::TooLarge | Kind::Unsupported => "BAD_REQUEST",
        Kind::NotFound => "ENDPOINT_NOT_FOUND",
        Kind::Unavailable => "TEMPORARILY_UNAVAILABLE",
        Kind::Engine => "INTERNAL_ERROR",
        Kind::EngineTooSlow => "DEADLINE_EXCEEDED",
    };
    let body = json!({"error_code": code, "message": refusal.message});
    let mut response = reply::json(reply::status(refusal.kind), &body);
    if refusal.kind == Kind::Unavailable {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::VertexPaths;

    fn said(text: &str, list: &str) -> Result<Media, Kind> {
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, text.parse().unwrap());
        let contracts = Contracts::parse(list, VertexPaths::default()).unwrap();
        media(&headers, &contracts).map_err(|refusal| refusal.kind)
    }

    #[test]
    fn content_types_are_read_as_the_contracts_say() {
        assert_eq!(media(&HeaderMap::new(), &Contracts::default()).unwrap(), Media::Json);
        for json in ["application/json", "Application/JSON; charset=UTF-8", "application/json;"] {
            assert_eq!(said(json, "mlflow"), Ok(Media::Json), "{json}");
        }
        assert_eq!(said("text/csv", "mlflow,sagemaker"), Ok(Media::Csv { headed: true }));
        assert_eq!(said("text/csv", "sagemaker"), Ok(Media::Csv { headed: false }));
        assert_eq!(said("text/csv; header=present", "sagemaker"), Ok(Media::Csv { headed: true }));
        assert_eq!(said("text/csv; header=absent", "mlflow"), Ok(Media::Csv { headed: false }));
        for other in [
            "application/x-www-form-urlencoded",
            "text/csv; charset=latin-1",
            "application/json; header=absent",
            "application/json; version=2",
            "",
            "application/vnd.apache.parquet",
        ] {
            assert_eq!(said(other, "mlflow"), Err(Kind::Unsupported), "{other}");
        }
    }
}
