//! Why there is no disk.

use std::path::PathBuf;

use miette::Diagnostic;

use crate::image::ImageError;

/// Why there is no disk. A file that was there before is as it was.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub enum VmError {
    /// A kernel or a boot loader is nowhere to be found.
    #[error("there is no {what}: looked in {}", looked.join(", "))]
    #[diagnostic(code(modelyard::vm::nothing_to_boot), help("{help}"))]
    Nothing {
        /// What is lacking.
        what: String,
        /// Where it was looked for.
        looked: Vec<String>,
        /// What to do.
        help: String,
    },
    /// What is to be booted cannot be used.
    #[error("{} cannot be booted from: {why}", path.display())]
    #[diagnostic(code(modelyard::vm::boot), help("{help}"))]
    Boot {
        /// The file or folder.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
        /// What to do.
        help: &'static str,
    },
    /// A layer of the container image cannot be laid out.
    #[error("the layer {layer} of the container image cannot be laid out: {why}")]
    #[diagnostic(
        code(modelyard::vm::layer),
        help("tell those who made the base; `modelyard verify` says whether the package is whole")
    )]
    Layer {
        /// What it holds.
        layer: String,
        /// What is wrong with it.
        why: String,
    },
    /// A part of the disk could not be made.
    #[error("{part} could not be made")]
    #[diagnostic(
        code(modelyard::vm::part),
        help("does the disk have room? `--out DIR` writes elsewhere; temporary files go there too")
    )]
    Part {
        /// Which.
        part: &'static str,
        /// The error beneath.
        #[source]
        source: std::io::Error,
    },
    /// The container image below could not be made or read.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Image(#[from] ImageError),
    /// The registry failed.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Registry(#[from] modelyard_registry::Error),
}

impl VmError {
    /// For `map_err`: which part.
    pub(super) const fn part(part: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Part { part, source }
    }
}
