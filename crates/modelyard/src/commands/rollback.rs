//! `modelyard rollback S [--to N]`: return a service to an earlier revision, configuration included.

use clap::Args;
use modelyard_core::{Millis, RevisionNumber, ServiceName};
use serde_json::{Value, json};

use crate::api;
use crate::cli::{Connect, span};
use crate::context::{Context, person};
use crate::exit::{Exit, Failed};
use crate::follow;
use crate::terminal::{Paint, say};

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
        let opened = started["opened"] == true;
        let (document, end) = match &end.rollout {
            Some(rollout) if end.outcome == "running" => {
                follow::narrated(&client, rollout.clone(), Some(self.timeout.as_duration()))?
            }
            _ => (started, end),
        };
        context.print(&document, || follow::end_text(&end, Paint::stdout()))?;
        let exit = exit_of(opened, &end.outcome);
        if exit == Exit::Failed {
            say(&format!("`{0}` was not rolled back; `modelyard status {0}` shows what serves", self.service));
        }
        Ok(exit)
    }
}

/// A rollback is done once the earlier revision serves. A rollout of its own must have been promoted for that: if it was taken back, the
/// service stays where it was. An open rollout that was turned around must have gone back.
fn exit_of(opened: bool, outcome: &str) -> Exit {
    match (opened, outcome) {
        (_, "waiting") => Exit::Waiting,
        (true, "promoted") | (false, "aborted" | "rolled-back") => Exit::Done,
        _ => Exit::Failed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rollback_that_is_itself_taken_back_has_failed() {
        for outcome in ["rolled-back", "aborted", "running"] {
            assert_eq!(exit_of(true, outcome), Exit::Failed, "{outcome}");
        }
        for (opened, outcome) in [(true, "promoted"), (false, "aborted"), (false, "rolled-back")] {
            assert_eq!(exit_of(opened, outcome), Exit::Done, "{outcome}");
        }
        assert_eq!(exit_of(false, "promoted"), Exit::Failed, "it had ended before the order reached it");
        assert_eq!(exit_of(true, "waiting"), Exit::Waiting);
    }
}
