//! `modelyard models`: the models of the local registry.

use clap::Args;
use modelyard_core::ModelName;
use modelyard_registry::Listed;
use serde_json::json;

use crate::context::Context;
use crate::exit::Exit;
use crate::terminal::{Paint, table};

/// Arguments of `models`.
#[derive(Debug, Args)]
pub struct Models {}

impl Models {
    /// Prints them.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        let store = super::inspect::store(context)?;
        let mut models = Vec::new();
        for model in store.models()? {
            let versions = store.versions(&model)?;
            models.push((model, versions));
        }
        let document: Vec<_> = models
            .iter()
            .map(|(model, versions)| {
                json!({ "name": model, "versions": versions.len(),
            "newest": versions.last().map(|listed| &listed.version) })
            })
            .collect();
        context.print(&json!({ "models": document }), || {
            let row = |(model, versions): &(ModelName, Vec<Listed>)| {
                let newest = versions.last().map(|listed| listed.version.to_string()).unwrap_or_default();
                let aliases: Vec<String> = versions.iter().flat_map(named).collect();
                vec![model.to_string(), newest, versions.len().to_string(), aliases.join(", ")]
            };
            match models.is_empty() {
                true => "no model yet; build one with `modelyard package DIR`".to_owned(),
                false => table(
                    &["model", "newest", "versions", "aliases"],
                    models.iter().map(row).collect(),
                    Paint::stdout(),
                ),
            }
        })?;
        Ok(Exit::Done)
    }
}

fn named(listed: &Listed) -> Vec<String> {
    listed.aliases.iter().map(|alias| format!("{alias} = {}", listed.version)).collect()
}
