//! `modelyard freeze S`: nothing new is deployed to a service until a person lets it.

use clap::Args;
use modelyard_core::ServiceName;
use serde_json::{Value, json};

use crate::cli::Connect;
use crate::context::{Context, person};
use crate::exit::Exit;

/// Arguments of `freeze`.
#[derive(Debug, Args)]
pub struct Freeze {
    /// The service.
    service: ServiceName,
    /// Why, for those who want to deploy.
    #[arg(long, value_name = "TEXT", required_unless_present = "undo")]
    reason: Option<String>,
    /// Let deploys in again.
    #[arg(long, conflicts_with = "reason")]
    undo: bool,
    #[command(flatten)]
    connect: Connect,
}

impl Freeze {
    /// Bars deploys, or lets them in again.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        let client = context.client(&self.connect)?;
        let body = json!({ "why": self.reason, "by": person() });
        let document: Value = client.post(&format!("/api/services/{}/freeze", self.service), &body)?;
        let changed = document["changed"].as_bool().unwrap_or_default();
        context.print(&document, || match (changed, self.undo) {
            (true, false) => {
                format!("deploys of {} are barred; what runs goes on, and may be rolled back", self.service)
            }
            (true, true) => format!("{} may be deployed again", self.service),
            (false, false) => format!("deploys of {} were barred already", self.service),
            (false, true) => format!("deploys of {} were not barred", self.service),
        })?;
        Ok(Exit::Done)
    }
}
