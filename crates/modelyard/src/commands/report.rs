//! `modelyard report ROLLOUT`: the activity report of a rollout.

use std::path::PathBuf;

use clap::{Args, ValueEnum};
use modelyard_core::RolloutId;
use serde_json::json;

use crate::cli::{Connect, Output};
use crate::context::{Context, print_data};
use crate::exit::{Exit, Failed};

/// Form of a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Form {
    /// For terminals, tickets and merge requests.
    #[default]
    Markdown,
    /// One page that needs nothing else.
    Html,
}

impl Form {
    /// The form's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Markdown => "markdown",
            Self::Html => "html",
        }
    }
}

/// Arguments of `report`.
#[derive(Debug, Args)]
pub struct Report {
    /// The rollout, such as `wine-3`; `modelyard history` lists them.
    rollout: RolloutId,
    /// Markdown or HTML. Default: what the ending of `--out` says, else Markdown.
    #[arg(long, value_enum, value_name = "FORM")]
    format: Option<Form>,
    /// File to write; without it the report goes to stdout.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    #[command(flatten)]
    connect: Connect,
}

impl Report {
    /// Prints or writes it.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        let ending = self.out.as_deref().and_then(|path| path.extension()).and_then(|ending| ending.to_str());
        let by_ending = if matches!(ending, Some("html" | "htm")) { Form::Html } else { Form::Markdown };
        let form = self.format.unwrap_or(by_ending);
        let client = context.client(&self.connect)?;
        let report = client.text(&format!("/api/rollouts/{}/report?format={}", self.rollout, form.name()))?;
        let Some(path) = self.out else {
            match context.output {
                Output::Text => print_data(&report),
                Output::Json => context
                    .print(&json!({ "rollout": self.rollout, "format": form.name(), "report": report }), String::new)?,
            }
            return Ok(Exit::Done);
        };
        std::fs::write(&path, &report).map_err(|error| {
            Failed::from(error, format!("could not write {}", path.display()), "choose another file with `--out`")
        })?;
        let document =
            json!({ "rollout": self.rollout, "format": form.name(), "path": path, "size_bytes": report.len() });
        context.print(&document, || path.display().to_string())?;
        Ok(Exit::Done)
    }
}
