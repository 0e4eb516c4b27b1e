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
    let list = |value: Option<&Value>| value.and_then(Value::as_array).cloned().unwrap_or_default();
    let lines = list(document.get("instances")).into_iter().flat_map(|entry| {
        let id = entry.get("instance").and_then(Value::as_str).unwrap_or_default().to_owned();
        let lines = list(entry.get("lines")).into_iter();
        let place = entry.get("machine").and_then(Value::as_str).map(|machine| format!(" on {machine}"));
        let id = format!("{id}{}", place.unwrap_or_default());
        lines.map(move |line| format!("{id}  {}", line.as_str().unwrap_or_default())).collect::<Vec<_>>()
    });
    lines.collect::<Vec<_>>().join("\n")
}
