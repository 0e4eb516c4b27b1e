//! Why there is no container image.

use std::path::PathBuf;

use miette::Diagnostic;

/// Why there is no container image. The registry keeps none; a file that was there before is as it was.
#[derive(Debug, thiserror::Error, Diagnostic)]
pub enum ImageError {
    /// Nothing would run in it.
    #[error("{name} says that nothing runs it, and a container runs something")]
    #[diagnostic(
        code(modelyard::image::no_runtime),
        help(
            "give it a `command` or a `python` runtime (docs/guide/kinds.md), or mount the package itself as an image volume"
        )
    )]
    NothingRuns {
        /// The package.
        name: String,
    },
    /// A Python function needs an interpreter that is not here.
    #[error("{name} is a Python function: its image has to be put on one that has Python")]
    #[diagnostic(
        code(modelyard::image::python),
        help("name one: `--base docker.io/library/python:3.12-slim@sha256:…`, or `[image] base` in modelyard.toml")
    )]
    Python {
        /// The package.
        name: String,
    },
    /// A program or library cannot be read, or lacks something.
    #[error("{} cannot go into an image: {why}", path.display())]
    #[diagnostic(code(modelyard::image::program), help("{help}"))]
    Program {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
        /// What to do.
        help: &'static str,
    },
    /// The base cannot carry what is put on it, or is none.
    #[error("the base {name} cannot be used: {why}")]
    #[diagnostic(code(modelyard::image::base), help("{help}"))]
    Base {
        /// How it was named.
        name: String,
        /// What is wrong.
        why: String,
        /// What to do.
        help: &'static str,
    },
    /// Too many layers.
    #[error("the image would have {0} layers, and Docker takes 127 at most")]
    #[diagnostic(code(modelyard::image::layers), help("choose a base with fewer layers"))]
    Layers(usize),
    /// A file cannot be read or written.
    #[error("a file cannot be read or written: {}", path.display())]
    #[diagnostic(
        code(modelyard::image::file),
        help("choose another folder with `--out DIR`, and check that the disk has room")
    )]
    File {
        /// The file.
        path: PathBuf,
        /// The error beneath.
        #[source]
        source: std::io::Error,
    },
    /// A layer could not be made.
    #[error("the layer of {what} could not be made")]
    #[diagnostic(
        code(modelyard::image::layer),
        help("did a file change meanwhile? Run it again; `modelyard verify` says whether the package is whole")
    )]
    Layer {
        /// What it holds.
        what: String,
        /// The error beneath.
        #[source]
        source: std::io::Error,
    },
    /// The registry failed.
    #[error(transparent)]
    #[diagnostic(transparent)]
    Registry(#[from] modelyard_registry::Error),
}

impl ImageError {
    /// For `map_err`: which file.
    pub(crate) fn file(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { path, source }
    }
}
