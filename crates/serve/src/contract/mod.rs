//! What platforms expect of a container that serves a model: SageMaker, Vertex AI, Azure ML, and MLflow's scoring server.
//!
//! Promises: off unless asked for, and then beside the Open Inference Protocol, over the same engine and batcher; nothing below `/v2` is ever
//! taken away from it. Numbers are read exactly as in the plain form; a missing value is NaN for floating-point inputs and refused for others.
//! Absent on purpose: SageMaker's multi-model endpoints (a server is one model), forms for chat models, Parquet.
//!
//! Sources: the scoring server of MLflow 3; AWS, "Use your own inference code with hosting services"; Google Cloud, "Custom container
//! requirements"; Azure Machine Learning, "Deploy a custom container" and "Deploy MLflow models" (the form `input_data`).

mod columns;
mod csv;
mod json;
mod predictions;

use crate::model::{Model, Question};
use crate::refusal::Refusal;

pub(crate) use predictions::{Form, write};

/// Which contracts a server answers to. None by default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Contracts {
    /// MLflow's scoring server: `/invocations`, `/ping`, `/health`, `/version`.
    pub mlflow: bool,
    /// SageMaker: `/invocations`, `/ping`.
    pub sagemaker: bool,
    /// Azure ML: `/score`, `/ready`, `/`.
    pub azure: bool,
    /// Vertex AI, at the paths that it says.
    pub vertex: Option<VertexPaths>,
}

/// Where Vertex AI asks: what it sets as `AIP_HEALTH_ROUTE` and `AIP_PREDICT_ROUTE`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VertexPaths {
    /// Path of the health check.
    pub health: String,
    /// Path of predictions.
    pub predict: String,
}

impl Default for VertexPaths {
    fn default() -> Self {
        Self { health: "/health".to_owned(), predict: "/predict".to_owned() }
    }
}

impl Contracts {
    /// Reads a list such as `sagemaker,mlflow`; `all` is every contract and `none` is none. `vertex` is where Vertex AI asks, if it is on.
    ///
    /// # Errors
    /// A sentence that names the word, or the path, that is none.
    pub fn parse(list: &str, vertex: VertexPaths) -> Result<Self, String> {
        let mut contracts = Self::default();
        for word in list.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            match word {
                "all" => {
                    (contracts.mlflow, contracts.sagemaker, contracts.azure) = (true, true, true);
                    contracts.vertex = Some(vertex.clone());
                }
                "none" => {}
                "mlflow" => contracts.mlflow = true,
                "sagemaker" => contracts.sagemaker = true,
                "azure" => contracts.azure = true,
                "vertex" => contracts.vertex = Some(vertex.clone()),
                other => {
                    let other = crate::refusal::shown(other);
                    return Err(format!(
                        "{other} is no contract; there are sagemaker, vertex, azure, mlflow, all and none"
                    ));
                }
            }
        }
        contracts.vertex.as_ref().map_or(Ok(()), VertexPaths::check)?;
        Ok(contracts)
    }

    /// What a path means, if a contract says so.
    pub(crate) fn route(&self, path: &str) -> Option<Route> {
        if let Some(vertex) = self.vertex.as_ref().filter(|_| !path.starts_with("/v2")) {
            match path {
                path if path == vertex.predict => return Some(Route::Predict),
                path if path == vertex.health => return Some(Route::Ready),
                _ => {}
            }
        }
        match path {
            "/invocations" if self.mlflow || self.sagemaker => Some(Route::Invocations),
            // SageMaker wants an empty body and any error while the model is loaded; MLflow a new line, and 404.
            "/ping" if self.sagemaker => Some(Route::Ping),
            "/ping" | "/health" if self.mlflow => Some(Route::Health),
            "/version" if self.mlflow => Some(Route::Version),
            "/score" if self.azure => Some(Route::Score),
            "/ready" if self.azure => Some(Route::Ready),
            "/" if self.azure => Some(Route::Alive),
            _ => None,
        }
    }

    /// The paths that take requests, and what each is, for the description.
    pub(crate) fn paths(&self) -> Vec<(&str, &'static str)> {
        let mut paths = Vec::new();
        if self.mlflow || self.sagemaker {
            paths.push(("/invocations", "MLflow's scoring server, SageMaker"));
        }
        if self.azure {
            paths.push(("/score", "Azure ML"));
        }
        // What is below /v2 is described already, and so is the plain form.
        if let Some(vertex) = self.vertex.as_ref().filter(|vertex| self.route(&vertex.predict).is_some()) {
            paths.push((&vertex.predict, "Vertex AI"));
        }
        paths
    }

    /// Whether the first line of a CSV body names the columns, unless its content type says so itself.
    pub(crate) fn csv_is_headed(&self) -> bool {
        // A table of pandas always has a header, SageMaker's CSV never.
        self.mlflow || !self.sagemaker
    }
}

impl VertexPaths {
    fn check(&self) -> Result<(), String> {
        let named = [("AIP_HEALTH_ROUTE", &self.health), ("AIP_PREDICT_ROUTE", &self.predict)];
        for (name, path) in named {
            if !path.starts_with('/') || path.contains(['?', '#', ' ']) {
                return Err(format!("{name} is no path: {}", crate::refusal::shown(path)));
            }
        }
        match self.health == self.predict {
            true => Err("AIP_HEALTH_ROUTE and AIP_PREDICT_ROUTE are the same path".to_owned()),
            false => Ok(()),
        }
    }
}

/// What a path of a contract asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// Whether the model is loaded, as SageMaker asks.
    Ping,
    /// The same, as MLflow asks.
    Health,
    /// The version of this server.
    Version,
    /// Whether the model is loaded, as Vertex AI and Azure ML ask.
    Ready,
    /// Whether the process is alive.
    Alive,
    /// Predictions, as MLflow and SageMaker ask.
    Invocations,
    /// Predictions, as Vertex AI asks.
    Predict,
    /// Predictions, as Azure ML asks.
    Score,
}

impl Route {
    /// Whether it asks for predictions.
    pub(crate) fn predicts(self) -> bool {
        matches!(self, Self::Invocations | Self::Predict | Self::Score)
    }
}

/// What kind of body a request has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Media {
    Json,
    /// Whether its first line names the columns.
    Csv {
        headed: bool,
    },
}

/// Reads the body of a request for predictions; says in which form they are wanted.
pub(crate) fn read(model: &Model, route: Route, media: Media, body: &[u8]) -> Result<(Question, Form), Refusal> {
    match media {
        Media::Json => json::read(model, route, body),
        Media::Csv { headed } => csv::read(model, headed, body),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contracts_are_named_and_everything_else_is_refused() {
        let parse = |list: &str| Contracts::parse(list, VertexPaths::default());
        assert_eq!(parse("none").unwrap(), Contracts::default());
        let both = parse("sagemaker, mlflow").unwrap();
        assert!(both.sagemaker && both.mlflow && !both.azure && both.vertex.is_none());
        assert!(parse("all").unwrap().vertex.is_some());
        assert!(parse("sagemeker").unwrap_err().contains("`sagemeker` is no contract"));
        let paths = |health: &str, predict: &str| VertexPaths { health: health.into(), predict: predict.into() };
        for (health, predict) in [("health", "/p"), ("/h", "p?x"), ("/same", "/same")] {
            assert!(Contracts::parse("vertex", paths(health, predict)).is_err(), "{health} {predict}");
            assert!(Contracts::parse("mlflow", paths(health, predict)).is_ok(), "not asked for");
        }
    }

    #[test]
    fn nothing_is_shadowed_unless_it_is_asked_for() {
        for path in ["/", "/ping", "/invocations", "/score", "/health", "/predict", "/version"] {
            assert_eq!(Contracts::default().route(path), None);
        }
        let paths = VertexPaths { health: "/v2/health/ready".into(), predict: "/v2/models/wine/infer".into() };
        let all = Contracts::parse("all", paths).unwrap();
        assert_eq!(all.route("/v2/models/wine/infer"), None, "a raw prediction is the protocol's own");
        assert_eq!(all.route("/ping"), Some(Route::Ping));
        assert_eq!(all.route("/health"), Some(Route::Health));
        assert_eq!(all.route("/"), Some(Route::Alive));
    }
}
