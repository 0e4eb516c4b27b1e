//! `modelyard onnxruntime`: where the inference engine's library is; it is fetched if there is none.

use clap::Args;
use serde_json::json;

use crate::context::Context;
use crate::exit::Exit;

/// Arguments of `onnxruntime`.
#[derive(Debug, Args)]
pub struct OnnxRuntime {}

impl OnnxRuntime {
    /// Prints it.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        let library = super::serve::library(&context.home.cache())?;
        context.print(&json!({ "path": library }), || library.display().to_string())?;
        Ok(Exit::Done)
    }
}
