//! `modelyard versions NAME`: the versions of a model, and where its aliases point.

use clap::Args;
use modelyard_core::ModelName;
use modelyard_registry::Listed;
use modelyard_registry::catalog::Found;
use serde_json::json;

use super::models::{shown, table_of};
use crate::context::Context;
use crate::exit::Exit;

/// Arguments of `versions`.
#[derive(Debug, Args)]
pub struct Versions {
    /// The model.
    name: ModelName,
}

impl Versions {
    /// Prints them, the newest last.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        let store = super::inspect::store(context)?;
        let read = |listed: Listed| store.package(&listed.digest).map(|package| Found { listed, package });
        let found = store.versions(&self.name)?.into_iter().map(read).collect::<Result<Vec<Found>, _>>()?;
        let versions: Vec<_> = found.iter().map(shown).collect();
        context.print(&json!({ "name": self.name, "versions": versions }), || table_of(&found))?;
        Ok(Exit::Done)
    }
}
