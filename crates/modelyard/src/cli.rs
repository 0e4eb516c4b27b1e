//! The command line as clap reads it: global options here, one file per command under `commands`.

use std::path::PathBuf;

use clap::{Args, Parser, ValueEnum};

use crate::commands::Command;

/// The shipyard for machine-learning models: package a model, serve it, replace it safely, take a bad one back.
#[derive(Debug, Parser)]
#[command(
    name = "modelyard",
    version,
    disable_help_subcommand = true,
    after_help = "Start with `modelyard demo`, or `modelyard up --detach` and `modelyard deploy ./my-model`."
)]
pub struct Cli {
    /// The one folder for everything local. Default: the platform's data folder.
    #[arg(long, global = true, env = "MODELYARD_HOME", value_name = "DIR", help_heading = "Everywhere")]
    pub home: Option<PathBuf>,

    /// How data is printed on stdout.
    #[arg(
        long,
        short,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORM",
        help_heading = "Everywhere",
        hide_possible_values = false
    )]
    pub output: Output,

    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// How data is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people.
    #[default]
    Text,
    /// For scripts: one JSON document.
    Json,
}

/// How a command finds the control plane.
#[derive(Clone, Debug, Default, Args)]
pub struct Connect {
    /// The control plane's address. Default: the one that runs in the home folder.
    #[arg(long, env = "MODELYARD_CONTROL", value_name = "URL", help_heading = "Everywhere")]
    pub control: Option<String>,

    /// Token for the control plane.
    #[arg(long, env = "MODELYARD_TOKEN", value_name = "TOKEN", hide_env_values = true, help_heading = "Everywhere")]
    pub token: Option<String>,
}

/// Reads a span of time such as `30s` for clap.
pub fn span(text: &str) -> Result<modelyard_core::Millis, String> {
    text.parse::<modelyard_core::Millis>().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_command_line_is_sound() {
        super::Cli::command().debug_assert();
    }
}
