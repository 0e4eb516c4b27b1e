//! Where a service's rollouts are written down as runs of experiments.

use serde::{Deserialize, Serialize};

use crate::AliasName;

/// An MLflow server that is told of rollouts while they run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Tracking {
    /// Its address, http or https.
    pub mlflow: String,
    /// The experiment that runs belong to; `ENVIRONMENT/SERVICE` when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub experiment: Option<String>,
    /// The alias of the registered model that is moved to what a rollout promoted; none is moved when left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub alias: Option<AliasName>,
}

impl Tracking {
    /// What is wrong with it, if anything.
    pub fn fault(&self) -> Option<String> {
        let host = self.mlflow.strip_prefix("http://").or_else(|| self.mlflow.strip_prefix("https://"));
        let is_address = host.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/'));
        if !is_address || self.mlflow.len() > 2_000 || self.mlflow.chars().any(|c| c.is_control() || c == ' ') {
            return Some("`tracking.mlflow` is no address: write http://HOST:PORT or https://HOST:PORT".to_owned());
        }
        if host.is_some_and(|rest| rest.split('/').next().is_some_and(|host| host.contains('@'))) {
            return Some("`tracking.mlflow` holds a login: set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD for the control plane instead".to_owned());
        }
        let experiment = self.experiment.as_deref().unwrap_or("x").trim();
        (experiment.is_empty() || experiment.len() > 250)
            .then(|| "`tracking.experiment` takes 1 to 250 bytes".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_without_a_login_are_taken() {
        let fault = |url: &str| Tracking { mlflow: url.to_owned(), experiment: None, alias: None }.fault();
        for url in ["http://127.0.0.1:5000", "https://mlflow.example/base/"] {
            assert_eq!(fault(url), None, "{url}");
        }
        for url in ["", "mlflow.example", "ftp://x", "http://", "http:///x", "http://a b", "https://me:secret@x"] {
            assert!(fault(url).is_some(), "{url}");
        }
    }
}
