//! `modelyard demo`: the main job, start to end.

use std::path::PathBuf;

use clap::Args;

use crate::context::Context;
use crate::demo::{Options, play};
use crate::exit::Exit;

/// Arguments of `demo`.
#[derive(Debug, Args)]
pub struct Demo {
    /// Folder of the examples. Default: where this program finds them.
    #[arg(long, value_name = "DIR")]
    examples: Option<PathBuf>,
    /// Keep the temporary home, with logs and event log.
    #[arg(long)]
    keep: bool,
}

impl Demo {
    /// Plays it.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        play(context, Options { examples: self.examples, keep: self.keep })
    }
}
