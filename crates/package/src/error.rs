//! Why a package was not built.

use std::path::PathBuf;

use miette::{Diagnostic, LabeledSpan, NamedSource, SourceCode};

use crate::description::Mistake;
use crate::kinds::KindError;
use crate::onnx::OnnxError;
use crate::samples::SampleFault;

/// Why a package was not built. The registry has no new version.
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
    #[error("{} has {} mistake{}:{}", text.name(), mistakes.len(), plural(mistakes), list(mistakes, |mistake| format!("line {}: {}", mistake.line, mistake.what)))]
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
    /// A model file of another kind is unusable.
    #[error("`{}` cannot be packaged", path.display())]
    Kind {
        /// The model file.
        path: PathBuf,
        /// What is wrong.
        #[source]
        source: KindError,
    },
    /// A bare file or folder is no model.
    #[error("`{}` is no model of a kind that is known", .0.display())]
    NoModel(PathBuf),
    /// Files that hold the model's weights are not as the model says.
    #[error("`{model}` keeps weights in another file: {why}")]
    Weights {
        /// The model file.
        model: String,
        /// What is wrong.
        why: String,
    },
    /// A path is refused.
    #[error("`{path}` is refused: {why}")]
    Path {
        /// The path.
        path: String,
        /// Why.
        why: String,
    },
    /// The sample file is no list.
    #[error("`{}` is no list of samples", path.display())]
    SampleFile {
        /// The file.
        path: PathBuf,
        /// Where it stops being one.
        #[source]
        source: serde_json::Error,
    },
    /// Samples are wrong.
    #[error("{} sample{} {} wrong:{}", faults.len(), plural(faults), if faults.len() == 1 { "is" } else { "are" }, list(faults, |fault| format!("`{}`: {}", fault.name, fault.why)))]
    Samples {
        /// Each of them.
        faults: Vec<SampleFault>,
    },
    /// The reference data cannot be used.
    #[error("the reference data `{}` cannot be used: {why}", path.display())]
    Reference {
        /// The file.
        path: PathBuf,
        /// What is wrong, and where.
        why: String,
    },
    /// The dependencies of a Python function are not pinned.
    #[error("the dependencies of the package are not locked: {0}")]
    Lock(String),
    /// A file that is part of the package document is too long.
    #[error("`{}` has more than 64 MiB", .0.display())]
    TooLong(PathBuf),
    /// The package document is too long.
    #[error("the package document has {0} bytes, and 64 MiB are allowed")]
    DocumentTooLong(u64),
    /// A file changed while it was being packaged.
    #[error("`{}` changed while it was being packaged", .0.display())]
    Changed(PathBuf),
    /// `SOURCE_DATE_EPOCH` is no time.
    #[error("SOURCE_DATE_EPOCH is `{0}`, which is no whole number of seconds since 1970")]
    SourceDateEpoch(String),
    /// Something is there already that would be overwritten.
    #[error("`{}` is there already", .0.display())]
    Exists(PathBuf),
    /// The registry refused.
    #[error(transparent)]
    Registry(#[from] modelyard_registry::Error),
}

fn plural<T>(list: &[T]) -> &'static str {
    if list.len() == 1 { "" } else { "s" }
}

/// At most this many are printed: the first few are read, the rest scrolls them away.
const SHOWN: usize = 20;

fn list<T>(all: &[T], show: impl Fn(&T) -> String) -> String {
    let mut text: String = all.iter().take(SHOWN).map(|one| format!("\n  {}", show(one))).collect();
    if all.len() > SHOWN {
        text.push_str(&format!("\n  and {} more", all.len() - SHOWN));
    }
    text
}

impl Error {
    /// For `map_err`: names what was being done with which file.
    pub(crate) fn file(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { doing, path, source }
    }

    const fn code_text(&self) -> Option<&'static str> {
        Some(match self {
            Self::NoDescription(_) => "modelyard::package::no_description",
            Self::File { .. } => "modelyard::package::file",
            Self::Description { .. } => "modelyard::package::description",
            Self::Onnx { .. } => "modelyard::package::onnx",
            Self::Kind { .. } => "modelyard::package::kind",
            Self::NoModel(_) => "modelyard::package::no_model",
            Self::Weights { .. } => "modelyard::package::weights",
            Self::Path { .. } => "modelyard::package::path",
            Self::SampleFile { .. } | Self::Samples { .. } => "modelyard::package::sample",
            Self::Reference { .. } => "modelyard::package::reference",
            Self::Lock(_) => "modelyard::package::lock",
            Self::TooLong(_) | Self::DocumentTooLong(_) => "modelyard::package::too_long",
            Self::Changed(_) => "modelyard::package::changed",
            Self::SourceDateEpoch(_) => "modelyard::package::source_date_epoch",
            Self::Exists(_) => "modelyard::package::exists",
            Self::Registry(_) => return None,
        })
    }

    const fn help_text(&self) -> Option<&'static str> {
        Some(match self {
            Self::NoDescription(_) => "`modelyard new DIR --from model.onnx` writes one; nothing was packaged",
            Self::File { .. } => "check that the file is there and may be read; nothing was packaged",
            Self::Description { .. } => {
                "every key is described in docs/reference/modelyard-toml.md; nothing was packaged"
            }
            Self::Onnx { source: OnnxError::Foreign(_), .. } => "`model` names the ONNX file; nothing was packaged",
            Self::Onnx { .. } => {
                "export the model again, then check it with `onnx.checker.check_model`; nothing was packaged"
            }
            Self::Kind { source, .. } => source.help(),
            Self::NoModel(_) => {
                "the kinds that are known are told in docs/guide/kinds.md; `modelyard new DIR` makes a folder for anything else"
            }
            Self::Weights { .. } => "put the file beside the model, as the exporter wrote it; nothing was packaged",
            Self::Path { .. } => {
                "paths are relative to the model folder, with `/`, and stay within it; nothing was packaged"
            }
            Self::SampleFile { .. } => "write a list: [{\"inputs\": {…}, \"outputs\": {…}}]; nothing was packaged",
            Self::Samples { .. } => {
                "a sample is a real request with the answer that a correct model gives; nothing was packaged"
            }
            Self::Reference { .. } => {
                "columns are called as the model's inputs, `x` or `x[3]`; see docs/guide/drift.md; nothing was packaged"
            }
            Self::Lock(_) => {
                "`modelyard lock DIR` pins them with hashes; `modelyard package --allow-unlocked` goes without; nothing was packaged"
            }
            Self::TooLong(_) | Self::DocumentTooLong(_) => "a handful of samples is plenty; nothing was packaged",
            Self::Changed(_) => "package again once nothing writes to the folder; the registry has no new version",
            Self::SourceDateEpoch(_) => "unset it, or set it to a number such as `$(git log -1 --format=%ct)`",
            Self::Exists(_) => "choose another folder, or remove it first",
            Self::Registry(_) => return None,
        })
    }
}

impl Diagnostic for Error {
    fn code<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        match (self, self.code_text()) {
            (Self::Registry(error), _) => error.code(),
            (_, code) => code.map(|code| Box::new(code) as Box<_>),
        }
    }

    fn help<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        match (self, self.help_text()) {
            (Self::Registry(error), _) => error.help(),
            (_, help) => help.map(|help| Box::new(help) as Box<_>),
        }
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
