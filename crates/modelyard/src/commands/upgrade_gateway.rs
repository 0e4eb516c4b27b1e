//! `modelyard upgrade-gateway`: a new gateway process takes the sockets over from the old one.

use clap::Args;
use serde_json::{Value, json};

use crate::cli::Connect;
use crate::context::{Context, person};
use crate::exit::Exit;

/// Arguments of `upgrade-gateway`.
#[derive(Debug, Args)]
pub struct UpgradeGateway {
    #[command(flatten)]
    connect: Connect,
}

impl UpgradeGateway {
    /// Upgrades it.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        let client = context.client(&self.connect)?;
        let document: Value = client.post("/api/gateway/upgrade", &json!({ "by": person() }))?;
        context.print(&document, || match document.get("pid").and_then(Value::as_u64) {
            Some(pid) => format!("the gateway was replaced: process {pid} serves now"),
            None => "the gateway was replaced".to_owned(),
        })?;
        Ok(Exit::Done)
    }
}
