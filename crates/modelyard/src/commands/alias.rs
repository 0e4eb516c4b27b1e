//! `modelyard alias NAME@ALIAS VERSION`: let an alias point to a version.

use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use modelyard_core::{AliasName, ModelName, Timestamp, Version};
use serde_json::json;

use crate::context::{Context, person};
use crate::exit::Exit;

/// Arguments of `alias`.
#[derive(Debug, Args)]
pub struct Alias {
    /// The alias, such as `wine@champion`.
    #[arg(value_name = "NAME@ALIAS", value_parser = alias)]
    alias: (ModelName, AliasName),
    /// The version that it points to from now on.
    #[arg(value_name = "VERSION")]
    to: Version,
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
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = Timestamp(u64::try_from(since.as_millis()).unwrap_or(u64::MAX));
        let store = super::inspect::store(context)?;
        let from = store.set_alias(model, alias, &self.to, &person(), now)?;
        let document = json!({ "name": model, "alias": alias, "from": from, "to": self.to });
        context.print(&document, || match from {
            Some(from) if from == self.to => format!("{model}@{alias} points to {from} already"),
            Some(from) => format!("{model}@{alias}: {from} to {}", self.to),
            None => format!("{model}@{alias}: {}", self.to),
        })?;
        Ok(Exit::Done)
    }
}
