//! What machines of the environments are given from here: who calls them, programs, packages.
//!
//! Absent on purpose: reaching them (`modelyard-targets`) and placing instances on them (the controller).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use modelyard_core::Digest;
use modelyard_core::home::Home;
use modelyard_core::machine::MachineId;
use modelyard_registry::Store;
use modelyard_registry::bundle::{self, What};
use modelyard_registry::distribution::Distribution;
use modelyard_targets::fleet::Roster;
use modelyard_targets::ssh::Kit;

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

/// What machines are given by the control plane of a home.
pub(crate) fn kit(home: &Home, binary: PathBuf, library: Library) -> std::io::Result<Kit> {
    let registry = home.clone();
    let node = rustix::system::uname();
    let whose = format!("the Modelyard in {} on {}", home.root().display(), node.nodename().to_string_lossy());
    let owner = crate::session_key::read_or_make(&home.machines().join("owner.key"))?;
    Ok(Kit {
        binary,
        library,
        bundle: Arc::new(move |package, to| write(&registry, package, to)),
        owner: owner.to_string(),
        whose,
        hashes: Arc::default(),
    })
}

/// Writes a package of the local registry to a file.
fn write(home: &Home, package: &Digest, to: &std::path::Path) -> Result<(), String> {
    let chained = |error: modelyard_registry::Error| chain(&error);
    let store = Store::open(home.registry(), home.unpacked()).map_err(chained)?;
    let name = store.package(package).map_err(chained)?.name;
    let distribution = Distribution::open(&home.registry(), store).map_err(chained)?;
    let what = What { packages: vec![(name, *package)], images: Vec::new() };
    bundle::create(&distribution, &what, to, &|_, _| {}).map(drop).map_err(|error| chain(&error))
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
