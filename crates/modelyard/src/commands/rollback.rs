//! `modelyard rollback S [--to N]`: return a service to an earlier revision, configuration included.

use clap::Args;
use modelyard_core::{Millis, RevisionNumber, ServiceName};
use serde_json::{Value, json};

use crate::api;
use crate::cli::{Connect, span};
use crate::context::{Context, person};
use crate::exit::{Exit, Failed};
use crate::follow;
use crate::terminal::Paint;

/// Arguments of `rollback`.
#[derive(Debug, Args)]
pub struct Rollback {
    /// The service.
    service: ServiceName,
    /// The revision to return to. Default: the one that was stable before.
    #[arg(long, value_name = "REVISION")]
    to: Option<RevisionNumber>,
    /// How long to wait for the end; it goes on afterwards.
    #[arg(long, value_name = "SPAN", value_parser = span, default_value = "10m")]
    timeout: Millis,
    #[command(flatten)]
    connect: Connect,
}

impl Rollback {
    /// Rolls back and waits for the end.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        let client = context.client(&self.connect)?;
        let mut body = json!({ "by": person() });
        if let Some(to) = self.to {
            body["to"] = json!(to);
        }
        let started: Value = client.post(&format!("/api/services/{}/rollback", self.service), &body)?;
        let end: api::RolloutEnd = serde_json::from_value(started.clone()).map_err(|error| {
            Failed::from(error, "the control plane's answer is not understood", "see `modelyard status`")
        })?;
        let (document, end) = match &end.rollout {
            Some(rollout) if end.outcome == "running" => {
                follow::narrated(&client, rollout.clone(), Some(self.timeout.as_duration()))?
            }
            _ => (started, end),
        };
        context.print(&document, || follow::end_text(&end, Paint::stdout()))?;
        // A rollout towards the earlier revision may itself be refused: then it was the one that was rolled back.
        Ok(match (self.to.is_some(), end.outcome.as_str()) {
            (_, "waiting") => Exit::Waiting,
            (_, "promoted" | "aborted") | (false, "rolled-back") => Exit::Done,
            _ => Exit::Failed,
        })
    }
}
