//! `modelyard history S`: every revision and every rollout of a service.

use clap::Args;
use modelyard_core::{ServiceName, Timestamp};
use serde_json::Value;

use crate::api;
use crate::cli::Connect;
use crate::context::Context;
use crate::exit::Exit;
use crate::terminal::{Paint, table};

/// Arguments of `history`.
#[derive(Debug, Args)]
pub struct History {
    /// The service.
    service: ServiceName,
    #[command(flatten)]
    connect: Connect,
}

impl History {
    /// Prints it.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        let client = context.client(&self.connect)?;
        let path = format!("/api/services/{}/history", self.service);
        let document: Value = client.get(&path)?;
        let history: api::History = client.get(&path)?;
        context.print(&document, || text(&history))?;
        Ok(Exit::Done)
    }
}

fn text(history: &api::History) -> String {
    let paint = Paint::stdout();
    let revisions = history.revisions.iter().map(|revision| {
        let short: String = revision.package.trim_start_matches("sha256:").chars().take(12).collect();
        vec![format!("r{}", revision.number), revision.version.clone(), short, when(revision.created)]
    });
    let rollouts = history.rollouts.iter().map(|rollout| {
        let number = |revision: Option<_>| revision.map_or_else(|| "–".to_owned(), |number| format!("r{number}"));
        let took = rollout.ended.map_or_else(|| "–".to_owned(), |ended| (ended - rollout.started).to_string());
        vec![
            rollout.rollout.to_string(),
            rollout.strategy.clone(),
            format!("{} to {}", number(rollout.from), number(rollout.to)),
            when(rollout.started),
            took,
            outcome(rollout.outcome.as_deref().unwrap_or("running"), paint),
            rollout.cause.clone().unwrap_or_else(|| "–".to_owned()),
        ]
    });
    let revisions = table(&["revision", "version", "package", "made"], revisions.collect(), paint);
    let heading = ["rollout", "strategy", "change", "started", "took", "outcome", "cause"];
    format!("{revisions}\n\n{}", table(&heading, rollouts.collect(), paint))
}

fn outcome(outcome: &str, paint: Paint) -> String {
    match outcome {
        "promoted" => paint.good(outcome),
        "rolled-back" | "aborted" => paint.bad(outcome),
        other => paint.warn(other),
    }
}

fn when(at: Timestamp) -> String {
    let milliseconds = i64::try_from(at.0).unwrap_or(i64::MAX);
    let instant = jiff::Timestamp::from_millisecond(milliseconds);
    instant.map_or_else(|_| "–".to_owned(), |instant| instant.strftime("%Y-%m-%d %H:%M:%SZ").to_string())
}
