//! `modelyard versions NAME`: the versions of a model, and where its aliases point.

use clap::Args;
use modelyard_core::ModelName;
use modelyard_registry::catalog::Found;
use serde_json::json;

use super::models::table_of;
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
        let found = store.found(store.versions(&self.name)?)?;
        let versions: Vec<_> = found.iter().map(Found::document).collect();
        context.print(&json!({ "name": self.name, "versions": versions }), || table_of(&found))?;
        Ok(Exit::Done)
    }
}
