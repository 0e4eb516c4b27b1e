//! Promotions between environments.

use axum::extract::rejection::{JsonRejection, PathRejection, QueryRejection};
use axum::extract::{DefaultBodyLimit, Path, Query, State};
use axum::http::StatusCode;
use axum::middleware::from_fn;
use axum::routing::{get, post};
use axum::{Json, Router};
use modelyard_core::{Digest, EnvironmentName};
use serde::Deserialize;
use serde_json::{Value, json};

use super::error::{self, Refusal};
use super::{BODY_LIMIT, actor, guard};
use crate::http_client::chain;
use crate::promotions::{Error, Promotions};
use crate::tokens::{check_environment, check_model};

/// The addresses of this module.
pub fn routes(promotions: Promotions) -> Router {
    Router::new()
        .route("/api/environments/{environment}/passed", get(passed))
        .route("/api/environments/{environment}/promotions", post(take))
        .method_not_allowed_fallback(error::no_such_method)
        .layer(DefaultBodyLimit::max(BODY_LIMIT))
        .layer(from_fn(guard::loopback_only))
        .with_state(promotions)
}

impl From<Error> for Refusal {
    fn from(error: Error) -> Self {
        let (status, help) = match &error {
            Error::Package(_) => {
                (StatusCode::NOT_FOUND, "push or pull the package first; `modelyard models` lists those there are")
            }
            Error::NoRecord { .. } => (
                StatusCode::CONFLICT,
                "`modelyard env promote` makes one; push the package again when it was signed elsewhere",
            ),
            Error::Policy { .. } => (
                StatusCode::UNPROCESSABLE_ENTITY,
                "nothing was written; `modelyard verify REF --env NAME` says the same",
            ),
            Error::Unreadable(_) | Error::Log(_) => (StatusCode::INTERNAL_SERVER_ERROR, "see the control plane's log"),
        };
        if status == StatusCode::INTERNAL_SERVER_ERROR {
            tracing::error!(error = %chain(&error), "a promotion could not be recorded");
        }
        Self::new(status, chain(&error), help)
    }
}

type Named = Result<Path<EnvironmentName>, PathRejection>;

/// Which package.
#[derive(Deserialize)]
struct Of {
    package: Digest,
}

/// `GET /api/environments/{environment}/passed?package=`: the rollout that the package went through there.
async fn passed(
    State(promotions): State<Promotions>,
    environment: Named,
    of: Result<Query<Of>, QueryRejection>,
) -> Result<Json<Value>, Refusal> {
    let (Path(environment), Query(Of { package })) = (environment?, of?);
    check_model(promotions.model(package).await?.as_str())?;
    let passed = promotions.passed(&environment, &package).await.map_err(Error::from)?;
    Ok(Json(json!({ "environment": environment, "package": package, "passed": passed })))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Taken {
    package: Digest,
    from: EnvironmentName,
    record: Digest,
    by: Option<String>,
}

/// `POST /api/environments/{environment}/promotions`: takes a signed record into the log.
async fn take(
    State(promotions): State<Promotions>,
    environment: Named,
    body: Result<Json<Taken>, JsonRejection>,
) -> Result<(StatusCode, Json<Value>), Refusal> {
    let (Path(to), Json(Taken { package, from, record, by })) = (environment?, body?);
    check_environment(&to)?;
    check_model(promotions.model(package).await?.as_str())?;
    let (event, is_new) = promotions.take(package, (&from, &to), record, actor(by)).await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(json!({ "seq": event.seq, "at": event.at, "new": is_new, "event": event }))))
}
