//! Which platforms' contracts `serve` answers: as it is told, or as the variables say that a platform sets.
//!
//! Sources of the variables: Google Cloud, "Custom container requirements" (`AIP_*`); Azure Machine Learning (`AZUREML_MODEL_DIR`); AWS, "Use your
//! own inference code with hosting services" (`SAGEMAKER_BIND_TO_PORT`, which a container gets that is labelled to take it).

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use modelyard_core::package::DOCUMENT;
use modelyard_package::DESCRIPTION;
use modelyard_serve::contract::{Contracts, VertexPaths};

use crate::exit::Usage;

/// Where SageMaker unpacks a model.
const SAGEMAKER_MODEL: &str = "/opt/ml/model";

/// What the platform around a server says.
#[derive(Debug)]
pub struct Platform {
    /// The contracts to answer.
    pub contracts: Contracts,
    /// The port that the platform will ask.
    port: Option<u16>,
    /// The folder in which the platform puts the model.
    model: Option<PathBuf>,
}

impl Platform {
    /// Reads the variables. `asked` is the list on the command line, which weighs more than what the variables tell.
    pub fn around(asked: Option<&str>) -> Result<Self, Usage> {
        Self::read(asked, |name| std::env::var(name).ok().filter(|value| !value.is_empty()))
    }

    fn read(asked: Option<&str>, variable: impl Fn(&str) -> Option<String>) -> Result<Self, Usage> {
        let help = "name them as in `--contract sagemaker,mlflow`; `--contract none` answers none";
        let mut paths = VertexPaths::default();
        let (health, predict) = (variable("AIP_HEALTH_ROUTE"), variable("AIP_PREDICT_ROUTE"));
        let (vertex_port, sagemaker_port) = (variable("AIP_HTTP_PORT"), variable("SAGEMAKER_BIND_TO_PORT"));
        let azure = variable("AZUREML_MODEL_DIR");
        let signs = [
            ("vertex", vertex_port.is_some() || predict.is_some()),
            ("sagemaker", sagemaker_port.is_some()),
            ("azure", azure.is_some()),
        ];
        paths.health = health.unwrap_or(paths.health);
        paths.predict = predict.unwrap_or(paths.predict);
        let told: Vec<&str> = signs.iter().filter(|(_, sign)| *sign).map(|&(name, _)| name).collect();
        let told = told.join(",");
        let contracts = Contracts::parse(asked.unwrap_or(&told), paths).map_err(|what| Usage::new(what, help))?;
        let port = |on: bool, name: &str, text: &Option<String>| match text.as_deref().filter(|_| on) {
            None => Ok(None),
            Some(text) => match text.parse::<u16>() {
                Ok(port) if port > 0 => Ok(Some(port)),
                _ => Err(Usage::new(format!("{name} is no port: `{}`", text.escape_debug()), help)),
            },
        };
        let vertex = port(contracts.vertex.is_some(), "AIP_HTTP_PORT", &vertex_port)?;
        let sagemaker = port(contracts.sagemaker, "SAGEMAKER_BIND_TO_PORT", &sagemaker_port)?;
        let unpacked = Some(PathBuf::from(SAGEMAKER_MODEL)).filter(|_| contracts.sagemaker);
        let model = azure.filter(|_| contracts.azure).map(PathBuf::from).or(unpacked);
        Ok(Self { contracts, port: vertex.or(sagemaker), model })
    }

    /// Where to listen: on every address of the platform's port, if it names one.
    pub fn address(&self, asked: SocketAddr) -> SocketAddr {
        match self.port {
            Some(port) if asked.ip().is_loopback() => SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), port),
            Some(port) => SocketAddr::new(asked.ip(), port),
            None => asked,
        }
    }

    /// Whether the platform's network decides who comes in: it does where it names the port.
    pub fn is_reachable(&self) -> bool {
        self.port.is_some()
    }

    /// The model that the platform brought, for a server that is not told what to serve: the folder itself, or the only one in it.
    pub fn model(&self) -> Option<PathBuf> {
        let folder = self.model.as_deref().filter(|folder| folder.is_dir())?;
        let described = |folder: &Path| [DOCUMENT, DESCRIPTION].iter().any(|name| folder.join(name).is_file());
        let is_model = |path: &Path| described(path) || modelyard_package::is_model(path);
        if is_model(folder) {
            return Some(folder.to_owned());
        }
        // Azure ML mounts a registered folder within the one that it names.
        let mut entries = std::fs::read_dir(folder).ok()?.flatten().map(|entry| entry.path());
        entries.next().filter(|first| entries.next().is_none() && is_model(first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(asked: Option<&str>, variables: &[(&str, &str)]) -> Result<Platform, Usage> {
        Platform::read(asked, |name| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn a_platform_is_known_by_its_variables() {
        let loopback: SocketAddr = "127.0.0.1:8080".parse().unwrap();
        let none = platform(None, &[]).unwrap();
        assert_eq!((none.contracts.clone(), none.address(loopback)), (Contracts::default(), loopback));
        assert!(!none.is_reachable());
        let variables =
            [("AIP_HTTP_PORT", "7070"), ("AIP_HEALTH_ROUTE", "/alive"), ("AIP_PREDICT_ROUTE", "/v1/models/m:predict")];
        let vertex = platform(None, &variables).unwrap();
        let paths = vertex.contracts.vertex.clone().unwrap();
        assert_eq!((paths.health.as_str(), paths.predict.as_str()), ("/alive", "/v1/models/m:predict"));
        assert_eq!(vertex.address(loopback), "0.0.0.0:7070".parse().unwrap());
        assert!(vertex.is_reachable() && !vertex.contracts.sagemaker);
        let azure = platform(None, &[("AZUREML_MODEL_DIR", "/models/wine/1")]).unwrap();
        assert!(azure.contracts.azure && azure.contracts.vertex.is_none());
        let sagemaker = platform(None, &[("SAGEMAKER_BIND_TO_PORT", "8090")]).unwrap();
        assert!(sagemaker.contracts.sagemaker);
        assert_eq!(sagemaker.address("[::]:1".parse().unwrap()), "[::]:8090".parse().unwrap());
    }

    #[test]
    fn what_is_asked_for_weighs_more() {
        let none = platform(Some("none"), &[("AIP_HTTP_PORT", "7070")]).unwrap();
        assert_eq!(none.contracts, Contracts::default());
        assert!(!none.is_reachable(), "another platform's port means nothing");
        assert!(platform(Some("vertex"), &[("AIP_HTTP_PORT", "70700")]).is_err());
        assert!(platform(Some("sage"), &[]).is_err());
    }

    #[test]
    fn the_platforms_model_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let named = |path: &Path| platform(None, &[("AZUREML_MODEL_DIR", path.to_str().unwrap())]).unwrap().model();
        assert_eq!(named(folder.path()), None);
        assert_eq!(named(Path::new("/no/such/folder")), None);
        let wine = folder.path().join("wine");
        std::fs::create_dir(&wine).unwrap();
        std::fs::write(wine.join(DOCUMENT), "{}").unwrap();
        assert_eq!(named(folder.path()), Some(wine.clone()));
        assert_eq!(named(&wine), Some(wine));
    }
}
