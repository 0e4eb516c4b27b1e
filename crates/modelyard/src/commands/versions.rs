//! `modelyard versions NAME`: the versions of a model, and where its aliases point.

use clap::Args;
use modelyard_core::ModelName;
use serde_json::json;

use crate::context::Context;
use crate::exit::Exit;
use crate::terminal::{Paint, table};

/// Arguments of `versions`.
#[derive(Debug, Args)]
pub struct Versions {
    /// The model.
    name: ModelName,
}

impl Versions {
    /// Prints them, the newest last.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        let versions = super::inspect::store(context)?.versions(&self.name)?;
        context.print(&json!({ "name": self.name, "versions": versions }), || {
            let rows = versions.iter().map(|listed| {
                let aliases: Vec<String> = listed.aliases.iter().map(ToString::to_string).collect();
                vec![listed.version.to_string(), listed.digest.to_string(), aliases.join(", ")]
            });
            table(&["version", "digest", "aliases"], rows.collect(), Paint::stdout())
        })?;
        Ok(Exit::Done)
    }
}
