//! The far side of the target `ssh`, as a control plane on another machine starts it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args;
use modelyard_core::Digest;
use modelyard_registry::bundle;
use modelyard_registry::catalog::Way;
use modelyard_registry::{Error, Store};
use modelyard_targets::ProcessTarget;
use modelyard_targets::ssh::{Depot, Far};

use crate::context::Context;
use crate::exit::{Exit, Failed};

/// Arguments of `target`.
#[derive(Debug, Args)]
pub struct Target {
    /// Take a package from standard input, and end.
    #[arg(long)]
    take: bool,
}

/// The packages of this machine's registry.
struct Registry(Store);

impl Depot for Registry {
    fn folder(&self, package: &Digest) -> Result<Option<PathBuf>, String> {
        match self.0.unpack(package) {
            Ok(folder) => Ok(Some(folder)),
            Err(Error::NoPackage(_) | Error::NoBlob(_)) => Ok(None),
            Err(error) => {
                let beneath = std::iter::successors(std::error::Error::source(&error), |error| error.source());
                Err(beneath.fold(error.to_string(), |text, error| format!("{text}: {error}")))
            }
        }
    }
}

impl Target {
    /// Answers until the caller is gone.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        if self.take {
            return take(context);
        }
        let store = super::registry::open(context)?.store().clone();
        let target = ProcessTarget::new(super::up::program()?, &context.home);
        let far = Far { target, depot: Arc::new(Registry(store)), home: context.home.clone() };
        far.serve().map_err(|error| {
            Failed::from(error, "the caller was not understood", "is its Modelyard of the same version?")
        })?;
        Ok(Exit::Done)
    }
}

/// Into the registry of this machine; every byte is checked first.
fn take(context: &Context) -> miette::Result<Exit> {
    let told = |error: io::Error| Failed::from(error, "the package could not be taken", "is the disk full?");
    let registry = super::registry::open(context)?;
    let mut file = tempfile::NamedTempFile::new_in(context.home.root()).map_err(told)?;
    io::copy(&mut io::stdin().lock(), &mut file).map_err(told)?;
    bundle::load_from(&registry, file.path(), &Way::bundle("of the control plane"), &|_, _| {})?;
    Ok(Exit::Done)
}
