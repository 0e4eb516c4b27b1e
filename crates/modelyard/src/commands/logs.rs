//! `modelyard logs S`: what a service's instances wrote.

use clap::Args;
use modelyard_core::{InstanceId, ServiceName};
use serde_json::Value;

use crate::cli::Connect;
use crate::context::Context;
use crate::exit::Exit;

/// Arguments of `logs`.
#[derive(Debug, Args)]
pub struct Logs {
    /// The service.
    service: ServiceName,
    /// Only this instance, ended ones included; `modelyard status S` lists those that run.
    #[arg(long, value_name = "ID")]
    instance: Option<InstanceId>,
    /// How many of the last lines of each instance.
    #[arg(long, short = 'n', value_name = "N", default_value_t = 100)]
    lines: usize,
    #[command(flatten)]
    connect: Connect,
}

impl Logs {
    /// Prints it.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        let client = context.client(&self.connect)?;
        let instance = self.instance.as_ref().map_or_else(String::new, |id| format!("&instance={id}"));
        let path = format!("/api/services/{}/logs?lines={}{instance}", self.service, self.lines);
        let document: Value = client.get(&path)?;
        context.print(&document, || text(&document))?;
        Ok(Exit::Done)
    }
}

/// Each line behind the instance that wrote it.
fn text(document: &Value) -> String {
    let instances = document.get("instances").unwrap_or(document);
    let of = |id: &str, lines: &Value| -> Vec<String> {
        let lines = lines.as_array().into_iter().flatten().filter_map(Value::as_str);
        lines.map(|line| format!("{id}  {line}")).collect()
    };
    let all: Vec<String> = match instances {
        Value::Object(map) => map.iter().flat_map(|(id, lines)| of(id, lines)).collect(),
        Value::Array(list) => list
            .iter()
            .flat_map(|entry| {
                let id = entry.get("instance").or_else(|| entry.get("id")).and_then(Value::as_str).unwrap_or_default();
                of(id, entry.get("lines").unwrap_or(&Value::Null))
            })
            .collect(),
        _ => Vec::new(),
    };
    all.join("\n")
}
