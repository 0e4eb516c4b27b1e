//! `modelyard export`: packages, and what became of them, in the forms of other tools.

mod kit;
mod mlflow;

use clap::{Args, Subcommand};

use crate::context::Context;
use crate::exit::Exit;

/// Arguments of `export`.
#[derive(Debug, Args)]
pub struct Export {
    #[command(subcommand)]
    to: To,
}

/// Where it is written to.
#[derive(Debug, Subcommand)]
enum To {
    /// An MLflow server: versions, tags and an alias in its registry, outcomes as metrics of the runs that the models came from.
    Mlflow(mlflow::Mlflow),
    /// An OCI registry, as a `ModelKit` that `KitOps` unpacks.
    Kit(kit::Kit),
}

impl Export {
    /// Writes it.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        match self.to {
            To::Mlflow(asked) => asked.run(context),
            To::Kit(asked) => asked.run(context),
        }
    }
}
