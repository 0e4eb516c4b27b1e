//! `modelyard import`: models of other tools become model folders and packages.

mod mlflow;
mod oci;

use std::io;
use std::path::Path;

use clap::{Args, Subcommand};

use crate::context::Context;
use crate::exit::{Exit, Failed};

/// Arguments of `import`.
#[derive(Debug, Args)]
pub struct Import {
    #[command(subcommand)]
    from: Source,
}

/// Where a model comes from.
#[derive(Debug, Subcommand)]
enum Source {
    /// A model of an MLflow server, or a folder with an `MLmodel` file.
    Mlflow(mlflow::Mlflow),
    /// A `ModelKit` of `KitOps`, or another tool's `ModelPack` artefact, in an OCI registry.
    Oci(oci::Oci),
}

impl Import {
    /// Imports it.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        match self.from {
            Source::Mlflow(asked) => asked.run(context),
            Source::Oci(asked) => asked.run(context),
        }
    }
}

/// Refuses a folder that holds a model folder already.
fn occupied(folder: &Path) -> Result<(), Failed> {
    if folder.join(modelyard_package::DESCRIPTION).exists() {
        let what = format!("{} holds a model folder already", folder.display());
        return Err(Failed::new(what, "name another folder with `--out DIR`, or remove that one"));
    }
    Ok(())
}

fn unusable(error: io::Error, path: &Path) -> Failed {
    Failed::from(error, format!("could not use {}", path.display()), "choose another folder with `--out DIR`")
}
