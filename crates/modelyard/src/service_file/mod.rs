//! `service.toml`: what a service should be, from a file, from flags, or both.
//!
//! Promises: every mistake is reported at once, with its place; unknown keys are refused with a "did you mean".
//! Order of precedence, weakest first: defaults, what the service already is, the file, flags, `--set`.

pub mod check;
pub mod keys;
mod kind;
pub mod schema;

use std::path::{Path, PathBuf};

use miette::{Diagnostic, LabeledSpan, NamedSource, SourceCode};
use modelyard_core::service::ServiceSpec;
use modelyard_core::tracking::Tracking;
use toml::{Table, Value};

/// Why a service description was refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file cannot be read.
    #[error("could not read {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Mistakes, all of them.
    #[error("{} has {} mistake{}: {}", name, mistakes.len(), if mistakes.len() == 1 { "" } else { "s" }, list(mistakes))]
    Mistakes {
        /// Name of the text, for people.
        name: String,
        /// The text.
        source_code: NamedSource<String>,
        /// What is wrong.
        mistakes: Vec<check::Mistake>,
    },
    /// The parts are right but do not fit together.
    #[error("the service description does not fit together: {0}")]
    Together(String),
}

fn list(mistakes: &[check::Mistake]) -> String {
    mistakes.iter().map(|mistake| mistake.what.as_str()).collect::<Vec<_>>().join("; ")
}

impl Diagnostic for Error {
    fn code<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        Some(Box::new(match self {
            Self::Read { .. } => "modelyard::service::read",
            Self::Mistakes { .. } => "modelyard::service::mistakes",
            Self::Together(_) => "modelyard::service::together",
        }))
    }

    fn help<'a>(&'a self) -> Option<Box<dyn std::fmt::Display + 'a>> {
        Some(Box::new("every key is described in docs/reference/service-toml.md; nothing was changed"))
    }

    fn source_code(&self) -> Option<&dyn SourceCode> {
        match self {
            Self::Mistakes { source_code, .. } => Some(source_code),
            Self::Read { .. } | Self::Together(_) => None,
        }
    }

    fn labels(&self) -> Option<Box<dyn Iterator<Item = LabeledSpan> + '_>> {
        match self {
            Self::Mistakes { mistakes, .. } => Some(Box::new(
                mistakes
                    .iter()
                    .map(|mistake| LabeledSpan::new_with_span(Some(mistake.what.clone()), mistake.at.clone())),
            )),
            Self::Read { .. } | Self::Together(_) => None,
        }
    }
}

/// Reads a text against the keys.
fn read(name: &str, text: &str) -> Result<Table, Error> {
    let (table, mistakes) = check::read(text, keys::SERVICE);
    match mistakes.is_empty() {
        true => Ok(table),
        false => Err(Error::Mistakes {
            name: name.to_owned(),
            source_code: NamedSource::new(name, text.to_owned()),
            mistakes,
        }),
    }
}

/// A service description under construction.
#[derive(Clone, Debug, Default)]
pub struct Draft {
    table: Table,
}

impl Draft {
    /// Starts from what the service already is.
    pub fn from_spec(spec: &ServiceSpec) -> Self {
        Self { table: Table::try_from(spec).unwrap_or_default() }
    }

    /// Lays a file over it.
    pub fn file(&mut self, path: &Path) -> Result<(), Error> {
        let text = std::fs::read_to_string(path).map_err(|source| Error::Read { path: path.to_owned(), source })?;
        self.lay(read(&path.display().to_string(), &text)?);
        Ok(())
    }

    /// Lays one `key=value` over it, the key dotted as in TOML (`strategy.bake=5s`).
    pub fn set(&mut self, assignment: &str) -> Result<(), Error> {
        let (key, value) = assignment.split_once('=').ok_or_else(|| {
            Error::Together(format!(
                "`--set {assignment}` has no `=`: write a key and a value such as `strategy.bake=5s`"
            ))
        })?;
        let (key, value) = (key.trim(), toml_value(value.trim()));
        match key.strip_prefix("strategy.") {
            // The keys of a strategy are read against its kind, which the assignment does not repeat.
            Some(part) if part != "kind" => {
                let kind = self.strategy();
                let text = format!("strategy = {{ kind = \"{kind}\", {part} = {value} }}");
                self.lay(read("--set", &text)?);
            }
            Some(_) => self.lay(read("--set", &format!("strategy = {value}"))?),
            None => self.lay(read("--set", &format!("{key} = {value}"))?),
        }
        Ok(())
    }

    /// The strategy's name so far.
    pub fn strategy(&self) -> String {
        let kind = self.table.get("strategy").and_then(|strategy| strategy.get("kind")).and_then(Value::as_str);
        kind.unwrap_or("canary").to_owned()
    }

    /// What to run, if a file said so.
    pub fn package(&self) -> Option<&str> {
        self.table.get("package").and_then(Value::as_str)
    }

    /// The service's name, if known.
    pub fn name(&self) -> Option<&str> {
        self.table.get("name").and_then(Value::as_str)
    }

    fn lay(&mut self, over: Table) {
        lay(&mut self.table, over);
    }

    /// The finished description of a service that is called `name` unless it says otherwise.
    pub fn finish(mut self, name: &str) -> Result<ServiceSpec, Error> {
        self.table.remove("package");
        self.table.entry("name").or_insert_with(|| Value::String(name.to_owned()));
        let together = |error: &dyn std::fmt::Display| Error::Together(error.to_string());
        let spec: ServiceSpec =
            Value::Table(self.table).try_into().map_err(|error: toml::de::Error| together(&error))?;
        if let Some(why) = spec.tracking.as_ref().and_then(Tracking::fault) {
            return Err(Error::Together(why));
        }
        modelyard_rollout::Plan::new(&spec).map_err(|error| together(&error))?;
        Ok(spec)
    }
}

/// Lays `over` over `under`: tables are merged key by key; a strategy of another kind replaces the old one whole.
fn lay(under: &mut Table, over: Table) {
    for (key, value) in over {
        match (under.get_mut(&key), value) {
            (Some(Value::Table(old)), Value::Table(new))
                if new.get("kind").is_none_or(|kind| old.get("kind") == Some(kind)) =>
            {
                lay(old, new);
            }
            (_, value) => {
                under.insert(key, value);
            }
        }
    }
}

/// A value of the command line as TOML: what is TOML stays, everything else is a text; `10,50,100` is a list of shares.
fn toml_value(text: &str) -> String {
    let is_toml = format!("x = {text}").parse::<Table>().is_ok();
    if is_toml { text.to_owned() } else { Value::String(text.to_owned()).to_string() }
}

/// Shares of the command line, in percent: `10,50,100` or `10%,50%,100%`.
pub fn steps_value(text: &str) -> String {
    let shares = text.split(',').map(|share| format!("\"{}%\"", share.trim().trim_end_matches('%')));
    format!("[{}]", shares.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests;
