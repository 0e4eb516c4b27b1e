//! `modelyard alias NAME@ALIAS VERSION`: let an alias point to a version.

use clap::Args;
use modelyard_core::{AliasName, ModelName, Version};
use serde_json::{Value, json};

use super::tag::{by, plane};
use crate::cli::Connect;
use crate::context::{Context, person};
use crate::exit::Exit;

/// Arguments of `alias`.
#[derive(Debug, Args)]
pub struct Alias {
    /// The alias, such as `wine@champion`.
    #[arg(value_name = "NAME@ALIAS", value_parser = alias)]
    alias: (ModelName, AliasName),
    /// The version that it points to from now on.
    #[arg(value_name = "VERSION", required_unless_present = "remove")]
    to: Option<Version>,
    /// Take the alias away.
    #[arg(long, conflicts_with = "to")]
    remove: bool,
    #[command(flatten)]
    connect: Connect,
}

fn alias(text: &str) -> Result<(ModelName, AliasName), String> {
    let (model, alias) = text.split_once('@').ok_or("write the model and the alias, such as wine@champion")?;
    let model = ModelName::new(model).map_err(|error| error.to_string())?;
    Ok((model, AliasName::new(alias).map_err(|error| error.to_string())?))
}

impl Alias {
    /// Moves it.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        let (model, alias) = &self.alias;
        let from = match plane(context, &self.connect)? {
            Some(client) => {
                let body = json!({ "alias": alias, "version": self.to, "by": person() });
                let answer: Value = client.post(&format!("/api/models/{model}/aliases"), &body)?;
                answer["from"].as_str().and_then(|from| Version::new(from).ok())
            }
            None => self.here(context)?,
        };
        let document = json!({ "name": model, "alias": alias, "from": from, "to": self.to });
        context.print(&document, || match (&from, &self.to) {
            (Some(from), Some(to)) if from == to => format!("{model}@{alias} points to {from} already"),
            (Some(from), Some(to)) => format!("{model}@{alias}: {from} to {to}"),
            (None, Some(to)) => format!("{model}@{alias}: {to}"),
            (from, None) => {
                format!("{model}@{alias} is gone; it pointed to {}", from.as_ref().map_or("nothing", Version::as_str))
            }
        })?;
        Ok(Exit::Done)
    }

    /// In the local registry, where no control plane runs.
    fn here(&self, context: &Context) -> miette::Result<Option<Version>> {
        let (model, alias) = &self.alias;
        let (store, by) = (super::inspect::store(context)?, by());
        Ok(match &self.to {
            Some(to) => store.set_alias(model, alias, to, &by.name, by.at)?,
            None => Some(store.remove_alias(model, alias, &by)?),
        })
    }
}
