//! Exit codes, and the error that means wrong usage.

use std::process::ExitCode;

/// How a command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// What was asked is done.
    Done,
    /// It failed.
    Failed,
    /// It was asked for in a wrong way; nothing was done.
    Usage,
    /// The rollout was rolled back or aborted.
    RolledBack,
    /// The rollout waits for a person.
    Waiting,
}

impl Exit {
    /// The exit that fits an error.
    pub fn of(report: &miette::Report) -> Self {
        if report.downcast_ref::<Usage>().is_some() { Self::Usage } else { Self::Failed }
    }

    /// The exit code.
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::RolledBack => 3,
            Self::Waiting => 4,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// The command was used wrongly. Nothing was done.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[error("{what}")]
#[diagnostic(code(modelyard::usage), help("{help}"))]
pub struct Usage {
    /// What is wrong.
    pub what: String,
    /// What to do.
    pub help: String,
}

impl Usage {
    /// What is wrong, and what to do.
    pub fn new(what: impl Into<String>, help: impl Into<String>) -> Self {
        Self { what: what.into(), help: help.into() }
    }
}

/// Something failed that needs no error type of its own.
#[derive(Debug, thiserror::Error, miette::Diagnostic)]
#[error("{what}")]
#[diagnostic(code(modelyard::failed), help("{help}"))]
pub struct Failed {
    /// What failed.
    pub what: String,
    /// What to do.
    pub help: String,
    /// The error beneath.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Failed {
    /// What failed and what to do, without an error beneath.
    pub fn new(what: impl Into<String>, help: impl Into<String>) -> Self {
        Self { what: what.into(), help: help.into(), source: None }
    }

    /// The same, with the error beneath.
    pub fn from(
        source: impl std::error::Error + Send + Sync + 'static,
        what: impl Into<String>,
        help: impl Into<String>,
    ) -> Self {
        Self { what: what.into(), help: help.into(), source: Some(Box::new(source)) }
    }
}
