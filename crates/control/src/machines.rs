//! What machines of the environments are given from here: who calls them, programs, packages.
//!
//! Absent on purpose: reaching them (`modelyard-targets`) and placing instances on them (the controller).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use modelyard_core::Digest;
use modelyard_core::home::Home;
use modelyard_core::machine::MachineId;
use modelyard_registry::access::Tokens;
use modelyard_registry::bundle::{self, What};
use modelyard_registry::distribution::Distribution;
use modelyard_targets::fleet::{Kits, Roster};
use modelyard_targets::{docker, ssh};

use crate::environments::Environments;
use crate::http_client::chain;

/// Reads the machines of every environment whenever it is asked.
pub(crate) fn roster(environments: Environments) -> Roster {
    Arc::new(move || {
        let mut all = BTreeMap::new();
        for (environment, said) in environments.list()? {
            let id = |name| MachineId { environment: environment.clone(), name };
            all.extend(said.machines.into_iter().map(|(name, machine)| (id(name), machine)));
        }
        Ok(all)
    })
}

/// Finds the ONNX Runtime library, or says why there is none.
pub type Library = Arc<dyn Fn() -> Result<PathBuf, String> + Send + Sync>;

/// What machines are given by the control plane of a home that listens at `control`.
pub(crate) fn kits(
    home: &Home,
    binary: PathBuf,
    library: Library,
    control: SocketAddr,
    (registry, tokens): (Distribution, Tokens),
) -> std::io::Result<Kits> {
    let node = rustix::system::uname();
    let whose = format!("the Modelyard in {} on {}", home.root().display(), node.nodename().to_string_lossy());
    let owner = crate::session_key::read_or_make(&home.machines().join("owner.key"))?;
    let images = registry.clone();
    let docker = docker::Kit {
        owner: owner.to_string(),
        images: Arc::new(move |package, named| image(&images, package, named).map_err(|error| chain(&error))),
        registry: control,
        pass: Arc::new(move |repository| tokens.own_pass(repository).map_err(|error| chain(&error))),
    };
    let ssh = ssh::Kit {
        binary,
        library,
        bundle: Arc::new(move |package, to| write(&registry, package, to)),
        owner: owner.to_string(),
        whose,
        hashes: Arc::default(),
    };
    Ok(Kits { ssh, docker })
}

/// The container image of a package: the one that its revision names. Revisions of an earlier Modelyard name none.
fn image(
    registry: &Distribution,
    package: &Digest,
    named: Option<Digest>,
) -> Result<Option<docker::Image>, modelyard_registry::Error> {
    let document = registry.store().package(package)?;
    let images = registry.images_of(&document.name, &document.version, package)?;
    let found = images.iter().find(|image| named.is_none_or(|named| named == image.digest));
    let Some(manifest) = found.map(|image| image.digest) else { return Ok(None) };
    let (repository, config) = (document.name.to_string(), registry.configuration_of(&manifest)?);
    Ok(Some(docker::Image { repository, manifest, config }))
}

/// Writes a package to a file.
fn write(registry: &Distribution, package: &Digest, to: &std::path::Path) -> Result<(), String> {
    let name = registry.store().package(package).map_err(|error| chain(&error))?.name;
    let what = What { packages: vec![(name, *package)], images: Vec::new() };
    bundle::create(registry, &what, to, &|_, _| {}).map(drop).map_err(|error| chain(&error))
}

#[cfg(test)]
mod tests {
    use modelyard_core::machine::{Login, Machine};

    use super::*;
    use crate::environments::Environment;

    #[test]
    fn the_roster_is_what_the_environments_say_now() {
        let home = tempfile::tempdir().unwrap();
        let environments = Environments::at(home.path());
        let roster = roster(environments.clone());
        assert_eq!(roster(), Ok(BTreeMap::new()));
        let one =
            Machine::Ssh(Login { host: "alpha".into(), port: None, identity: None, config: None, folder: "m".into() });
        let said = Environment::default().with_machines([("alpha".parse().unwrap(), one.clone())].into());
        environments.set(&"prod".parse().unwrap(), Some(&said)).unwrap();
        assert_eq!(roster(), Ok([("prod/alpha".parse().unwrap(), one)].into()));
        std::fs::write(home.path().join("prod.json"), "{").unwrap();
        assert!(roster().is_err(), "what cannot be read is no empty list");
    }
}
