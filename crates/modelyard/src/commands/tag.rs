//! `modelyard tag NAME[:VERSION] KEY=VALUE`, and how commands change the catalogue: through the control plane where one runs, so that its
//! log tells of it, else in the local registry.

use clap::Args;
use modelyard_core::{ModelName, Version};
use modelyard_registry::access::now;
use modelyard_registry::catalog::{By, Subject};
use serde_json::{Value, json};

use crate::cli::Connect;
use crate::client::Client;
use crate::context::{Context, person, running};
use crate::exit::{Exit, Usage};
use crate::terminal::columns;

/// Arguments of `tag`.
#[derive(Debug, Args)]
pub struct Tag {
    /// The model, or one version of it: `wine`, `wine:2.1.0`.
    #[arg(value_name = "NAME[:VERSION]", value_parser = subject)]
    of: Subject,
    /// Tags to set; without any, the present ones are shown.
    #[arg(value_name = "KEY=VALUE", value_parser = pair)]
    set: Vec<(String, String)>,
    /// A tag to take away.
    #[arg(long, value_name = "KEY")]
    remove: Vec<String>,
    #[command(flatten)]
    connect: Connect,
}

/// Reads `wine` or `wine:2.1.0`.
pub fn subject(text: &str) -> Result<Subject, String> {
    let (model, version) = text.split_once(':').map_or((text, None), |(model, version)| (model, Some(version)));
    let version = version.map(Version::new).transpose().map_err(|error| error.to_string())?;
    Ok(Subject { model: ModelName::new(model).map_err(|error| error.to_string())?, version })
}

fn pair(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("write KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// The control plane through which the catalogue is changed, if one runs or is named.
pub fn plane(context: &Context, connect: &Connect) -> miette::Result<Option<Client>> {
    let there = connect.control.is_some() || running(&context.home, "control").is_some();
    Ok(if there { Some(context.client(connect)?) } else { None })
}

/// Who changes something here, now.
pub fn by() -> By {
    By { name: person(), at: now() }
}

impl Tag {
    /// Sets and takes away tags, and shows what there is then.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        let plane = plane(context, &self.connect)?;
        let store = super::inspect::store(context)?;
        let set = self.set.iter().map(|(key, value)| (key, Some(value)));
        for (key, value) in set.chain(self.remove.iter().map(|key| (key, None))) {
            match &plane {
                Some(client) => {
                    let body = json!({ "version": self.of.version, "key": key, "value": value, "by": person() });
                    let _: Value = client.post(&format!("/api/models/{}/tags", self.of.model), &body)?;
                }
                None => drop(store.tag(&self.of, key, value.map(String::as_str), &by())?),
            }
        }
        let tags = match &plane {
            Some(client) => {
                let shown: Value = client.get(&format!("/api/models/{}", self.of.model))?;
                self.tags_of(&shown)?
            }
            None => {
                let versions = store.versions(&self.of.model).map(|versions| json!(versions));
                let said = store.catalog()?.models.remove(&self.of.model).unwrap_or_default();
                self.tags_of(&json!({ "tags": said.tags, "versions": versions.unwrap_or_default() }))?
            }
        };
        let document = json!({ "name": self.of.model, "version": self.of.version, "tags": tags });
        context.print(&document, || {
            let rows = tags.as_object().into_iter().flatten();
            let rows = rows.map(|(key, value)| vec![key.clone(), value.as_str().unwrap_or_default().to_owned()]);
            let lines = columns(&rows.collect::<Vec<_>>());
            if lines.is_empty() { format!("{} has no tags", self.of) } else { lines.join("\n") }
        })?;
        Ok(Exit::Done)
    }

    fn tags_of(&self, model: &Value) -> Result<Value, Usage> {
        let Some(version) = &self.of.version else { return Ok(model["tags"].clone()) };
        let mut versions = model["versions"].as_array().into_iter().flatten();
        let found = versions.find(|one| one["version"].as_str() == Some(version.as_str()));
        let none =
            || Usage::new(format!("there is no version {}", self.of), "`modelyard versions NAME` lists what is there");
        Ok(found.ok_or_else(none)?["tags"].clone())
    }
}
