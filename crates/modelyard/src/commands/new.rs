//! `modelyard new DIR`: a model folder to start from.

use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::context::Context;
use crate::exit::Exit;
use crate::terminal::say;

/// Arguments of `new`.
#[derive(Debug, Args)]
pub struct New {
    /// The folder to make.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
    /// A trained model: an ONNX file, or one of any kind that is recognised. It is copied, and its signature is written down as far as it tells one.
    #[arg(long, value_name = "FILE|DIR")]
    from: Option<PathBuf>,
}

impl New {
    /// Makes it.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        let written = modelyard_package::scaffold(&self.folder, self.from.as_deref())?;
        context.print(&json!({ "folder": self.folder, "files": written }), || {
            let lines: Vec<String> = written.iter().map(|path| path.display().to_string()).collect();
            lines.join("\n")
        })?;
        say(&format!("edit {0}/modelyard.toml, then `modelyard package {0}`", self.folder.display()));
        Ok(Exit::Done)
    }
}
