//! The supervisor of one instance, as the target `process` starts it.

use std::path::PathBuf;

use clap::Args;

use crate::context::Context;
use crate::exit::{Exit, Failed};

/// Arguments of `instance`.
#[derive(Debug, Args)]
pub struct Instance {
    /// Folder of the instance.
    #[arg(value_name = "DIR")]
    folder: PathBuf,
}

impl Instance {
    /// Runs the instance until it ends.
    pub fn run(self, _context: &Context) -> miette::Result<Exit> {
        modelyard_targets::process::supervise(&self.folder).map_err(|error| {
            let folder = self.folder.display();
            Failed::from(error, format!("could not run the instance of {folder}"), "its folder says what was asked for")
        })?;
        Ok(Exit::Done)
    }
}
