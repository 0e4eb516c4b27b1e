//! Why a package was not built.

use std::path::PathBuf;

use miette::{Diagnostic, LabeledSpan, NamedSource, SourceCode};

use crate::description::Mistake;
use crate::onnx::OnnxError;

/// Why a package was not built. The registry is as it was.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder has no description.
    #[error("there is no `{}`", .0.display())]
    NoDescription(PathBuf),
    /// A file cannot be read or written.
    #[error("{doing} `{}`", path.display())]
    File {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The error beneath.
        #[source]
        source: std::io::Error,
    },
    /// Mistakes in the description, all of them.
    #[error("{} has {} mistake{}:{}", text.name(), mistakes.len(), if mistakes.len() == 1 { "" } else { "s" }, list(mistakes))]
    Description {
        /// The description.
        text: NamedSource<String>,
        /// What is wrong.
        mistakes: Vec<Mistake>,
    },
    /// The model file is unusable.
    #[error("`{}` cannot be packaged", path.display())]
    Onnx {
        /// The model file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: OnnxError,
    },
    /// A path that the description or the model names is refused.
    #[error("`{path}` is refused: {why}")]
    Path {
        /// The path.
        path: String,
        /// Why.
        why: &'static str,
    },
    /// A sample is wrong.
    #[error("sample `{name}`: {why}")]
    Sample {
        /// Its name.
        name: String,
        /// What is wrong.
        why: String,
    },
    /// `SOURCE_DATE_EPOCH` is no time.
    #[error("SOURCE_DATE_EPOCH is `{0}`, which is not a whole number of seconds since 1970")]
    SourceDateEpoch(String),
    /// Something is there already that would be overwritten.
    #[error("`{}` is there already", .0.display())]
    Exists(PathBuf),
    /// The registry refused.
    #[error(transparent)]
    Registry(#[from] modelyard_registry::Error),
}

fn list(mistakes: &[Mistake]) -> String {
    mistakes.iter().map(|mistake| format!("\n  line {}: {}", mistake.line, mistake.what)).collect()
}

impl Error {
    /// For `map_err`: names what was being done with which file.
    pub(crate) fn file(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { doing, path, source }
    }
}

impl Diagnostic for Error {
    fn code<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        Some(Box::new(match self {
            Self::NoDescription(_) => "modelyard::package::no_description",
            Self::File { .. } => "modelyard::package::file",
            Self::Description { .. } => "modelyard::package::description",
            Self::Onnx { .. } => "modelyard::package::onnx",
            Self::Path { .. } => "modelyard::package::path",
            Self::Sample { .. } => "modelyard::package::sample",
            Self::SourceDateEpoch(_) => "modelyard::package::source_date_epoch",
            Self::Exists(_) => "modelyard::package::exists",
            Self::Registry(error) => return error.code(),
        }))
    }

    fn help<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        Some(Box::new(match self {
            Self::NoDescription(_) => "`modelyard new DIR --from model.onnx` writes one; nothing was packaged",
            Self::File { .. } => "check that the file is there and may be read; nothing was packaged",
            Self::Description { .. } => {
                "every key is described in docs/reference/modelyard-toml.md; nothing was packaged"
            }
            Self::Onnx { .. } => {
                "export the model again, then check it with `onnx.checker.check_model`; nothing was packaged"
            }
            Self::Path { .. } => {
                "paths are relative to the model folder, with `/`, and stay within it; nothing was packaged"
            }
            Self::Sample { .. } => {
                "a sample is a real request with the answer that a correct model gives; nothing was packaged"
            }
            Self::SourceDateEpoch(_) => "unset it, or set it to a number such as `$(git log -1 --format=%ct)`",
            Self::Exists(_) => "choose another folder, or remove it first",
            Self::Registry(error) => return error.help(),
        }))
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        match self {
            Self::Description { text, .. } => Some(text),
            _ => None,
        }
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        let Self::Description { mistakes, .. } = self else { return None };
        let label = |mistake: &Mistake| LabeledSpan::new_with_span(Some(mistake.what.clone()), mistake.at.clone());
        Some(Box::new(mistakes.iter().map(label)))
    }
}
