//! `modelyard yank NAME:VERSION`: nothing new is deployed from a version; what runs goes on.

use clap::Args;
use modelyard_core::{ModelName, Version};
use serde_json::{Value, json};

use super::tag::{by, plane};
use crate::cli::Connect;
use crate::context::{Context, person};
use crate::exit::Exit;

/// Arguments of `yank`.
#[derive(Debug, Args)]
pub struct Yank {
    /// The version, such as `wine:2.1.0`.
    #[arg(value_name = "NAME:VERSION", value_parser = version)]
    of: (ModelName, Version),
    /// Why, for those who want to deploy it.
    #[arg(long, value_name = "TEXT", required_unless_present = "undo")]
    reason: Option<String>,
    /// Let it be deployed again.
    #[arg(long, conflicts_with = "reason")]
    undo: bool,
    #[command(flatten)]
    connect: Connect,
}

fn version(text: &str) -> Result<(ModelName, Version), String> {
    let subject = super::tag::subject(text)?;
    Ok((subject.model, subject.version.ok_or("write the model and the version, such as wine:2.1.0")?))
}

impl Yank {
    /// Withdraws it, or takes that back.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        let (model, version) = &self.of;
        let why = self.reason.as_deref();
        let changed = match plane(context, &self.connect)? {
            Some(client) => {
                let body = json!({ "version": version, "why": why, "by": person() });
                let answer: Value = client.post(&format!("/api/models/{model}/yank"), &body)?;
                answer["changed"].as_bool().unwrap_or_default()
            }
            None => super::inspect::store(context)?.yank(model, version, why, &by())?,
        };
        let document = json!({ "name": model, "version": version, "yanked": !self.undo, "changed": changed });
        context.print(&document, || match (changed, self.undo) {
            (true, false) => {
                format!("{model}:{version} is withdrawn: it is deployed with `--yanked` only; what runs goes on")
            }
            (true, true) => format!("{model}:{version} may be deployed again"),
            (false, false) => format!("{model}:{version} was withdrawn already"),
            (false, true) => format!("{model}:{version} was not withdrawn"),
        })?;
        Ok(Exit::Done)
    }
}
