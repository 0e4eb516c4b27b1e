//! `modelyard models`: the models of the local registry.

use clap::Args;
use modelyard_core::ModelName;
use modelyard_registry::Listed;
use modelyard_registry::catalog::{Filter, Found};
use serde_json::json;

use crate::context::Context;
use crate::exit::Exit;
use crate::terminal::{Paint, table};

/// Arguments of `models`.
#[derive(Debug, Args)]
pub struct Models {
    /// Only versions that fulfil this: `accuracy > 0.9 and tag.team = 'x' and name like 'wine%'`.
    #[arg(long, value_name = "FILTER")]
    search: Option<Filter>,
}

impl Models {
    /// Prints them.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        let store = super::inspect::store(context)?;
        if let Some(filter) = &self.search {
            let found = store.search(filter)?;
            context.print(&json!({ "versions": found.iter().map(Found::document).collect::<Vec<_>>() }), || {
                table_of(&found)
            })?;
            return Ok(Exit::Done);
        }
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

/// Versions as rows.
pub fn table_of(found: &[Found]) -> String {
    let paint = Paint::stdout();
    let row = |Found { listed, package }: &Found| {
        let aliases: Vec<String> = listed.aliases.iter().map(ToString::to_string).collect();
        let metrics: Vec<String> = package.metrics.iter().map(|(name, value)| format!("{name} {value}")).collect();
        let tags: Vec<String> = listed.tags.iter().map(|(key, value)| format!("{key}={value}")).collect();
        let yanked = listed.yanked.as_ref().map(|yanked| paint.bad(&format!("withdrawn: {}", yanked.why)));
        let name = format!("{}:{}", listed.model, listed.version);
        let mut from: Vec<String> = listed.arrivals.iter().map(|arrival| arrival.way.source()).collect();
        if from.is_empty() {
            from.push("unknown".to_owned());
        }
        let (aliases, metrics, tags) = (aliases.join(", "), metrics.join(", "), tags.join(", "));
        let cells = [name, listed.digest.to_string(), aliases, metrics, tags, from.join(", ")];
        cells.into_iter().chain(yanked).collect()
    };
    match found.is_empty() {
        true => "no version fulfils this".to_owned(),
        false => table(
            &["version", "digest", "aliases", "metrics", "tags", "from", ""],
            found.iter().map(row).collect(),
            paint,
        ),
    }
}
