//! Environments as the home keeps them: what each demands, and where its packages are kept.
//!
//! Promises: documents of older versions are read; one that cannot be read is an error, so that nothing is let in by a slip of the pen; a document is
//! replaced whole.
//! Absent on purpose: how they are written (`environments/NAME.toml`), which the command line reads.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use modelyard_core::machine::Machine;
use modelyard_core::tracking::Tracking;
use modelyard_core::{EnvironmentName, MachineName};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::policy::Policy;

/// The form of the documents: 1 was the policy alone, without a number.
const FORM: u32 = 2;

/// An environment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Environment {
    #[serde(default)]
    form: u32,
    /// What a package must fulfil before anything of it starts there.
    #[serde(default)]
    pub policy: Policy,
    /// Where its packages are kept; the local registry when it has none of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub registry: Option<Place>,
    /// Its machines, where instances of the targets `ssh` and `docker` run. Their files by absolute path.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub machines: BTreeMap<MachineName, Machine>,
    /// Where rollouts of its services are tracked, unless these say otherwise.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracking: Option<Tracking>,
}

/// A registry, or a part of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Place {
    /// Host and what precedes the model's name: `registry.example/prod`.
    pub url: String,
    /// Whether plain HTTP is spoken with a registry that is not on this machine.
    #[serde(default)]
    pub plain_http: bool,
}

impl Default for Environment {
    /// One that demands nothing and has nothing of its own, in today's form.
    fn default() -> Self {
        Self::new(Policy::default(), None)
    }
}

impl Environment {
    /// The same with these machines.
    #[must_use]
    pub fn with_machines(self, machines: BTreeMap<MachineName, Machine>) -> Self {
        Self { machines, ..self }
    }

    /// The same with this tracking.
    #[must_use]
    pub fn with_tracking(self, tracking: Option<Tracking>) -> Self {
        Self { tracking, ..self }
    }

    /// One that demands this and keeps its packages there.
    pub fn new(policy: Policy, registry: Option<Place>) -> Self {
        Self { form: FORM, policy, registry, machines: BTreeMap::new(), tracking: None }
    }

    fn parse(bytes: &[u8]) -> Result<Self, String> {
        let told = |error: serde_json::Error| error.to_string();
        let document: Value = serde_json::from_slice(bytes).map_err(told)?;
        if !document.is_object() {
            return Err("it is no JSON object".to_owned());
        }
        match document.get("form").map(Value::as_u64) {
            None => serde_json::from_value(document).map(|policy| Self::new(policy, None)).map_err(told),
            Some(Some(form)) if form == u64::from(FORM) => {
                let read: Self = serde_json::from_value(document).map_err(told)?;
                read.machines.values().find_map(Machine::problem).map_or(Ok(read), Err)
            }
            Some(_) => Err(format!("it is of a form that this version does not know; it knows {FORM}")),
        }
    }
}

/// The environments of a home: a document each.
#[derive(Clone, Debug)]
pub struct Environments {
    folder: PathBuf,
}

impl Environments {
    /// The environments kept in `folder`.
    pub fn at(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    fn path(&self, name: &EnvironmentName) -> PathBuf {
        self.folder.join(format!("{name}.json"))
    }

    /// An environment; none when nothing was said of it.
    ///
    /// # Errors
    /// When it cannot be read, in words.
    pub fn read(&self, name: &EnvironmentName) -> Result<Option<Environment>, String> {
        let path = self.path(name);
        let wrong = |why: String| format!("the policy {} cannot be read: {why}", path.display());
        match std::fs::read(&path) {
            Ok(bytes) => Environment::parse(&bytes).map(Some).map_err(wrong),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(wrong(error.to_string())),
        }
    }

    /// Every environment of which something was said.
    ///
    /// # Errors
    /// When one cannot be read, in words.
    pub fn list(&self) -> Result<BTreeMap<EnvironmentName, Environment>, String> {
        let mut all = BTreeMap::new();
        for entry in std::fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let name = entry.file_name().into_string().unwrap_or_default();
            let Some(Ok(name)) = name.strip_suffix(".json").map(EnvironmentName::new) else { continue };
            if let Some(environment) = self.read(&name)? {
                all.insert(name, environment);
            }
        }
        Ok(all)
    }

    /// Sets an environment, or takes what was said of it away.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set(&self, name: &EnvironmentName, environment: Option<&Environment>) -> std::io::Result<()> {
        let path = self.path(name);
        let Some(environment) = environment else {
            return std::fs::remove_file(&path);
        };
        std::fs::create_dir_all(&self.folder)?;
        let bytes = serde_json::to_vec_pretty(environment)?;
        let temporary = path.with_extension("new");
        std::fs::write(&temporary, bytes)?;
        std::fs::File::open(&temporary)?.sync_all()?;
        std::fs::rename(&temporary, &path)?;
        std::fs::File::open(Path::new(&self.folder))?.sync_all()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_read_is_an_error_and_none_is_none() {
        let home = tempfile::tempdir().unwrap();
        let (environments, prod) = (Environments::at(home.path()), EnvironmentName::new("prod").unwrap());
        assert_eq!(environments.read(&prod), Ok(None));
        let place = Place { url: "registry.example/prod".to_owned(), plain_http: false };
        let environment = Environment::new(Policy { samples: 2, ..Policy::default() }, Some(place));
        environments.set(&prod, Some(&environment)).unwrap();
        assert_eq!(environments.read(&prod), Ok(Some(environment)));
        for text in [
            r#"{"sampels":1}"#,
            r#"{"form":3}"#,
            r#"{"form":2,"polisy":{}}"#,
            r#"{"form":2,"machines":{"a":{"host":"-oX"}}}"#,
            r#"{"form":"2"}"#,
            "[]",
        ] {
            std::fs::write(home.path().join("prod.json"), text).unwrap();
            assert!(environments.read(&prod).is_err() && environments.list().is_err(), "{text}");
        }
    }

    #[test]
    fn a_document_of_the_first_form_is_a_policy_alone() {
        let home = tempfile::tempdir().unwrap();
        let (environments, prod) = (Environments::at(home.path()), EnvironmentName::new("prod").unwrap());
        std::fs::write(home.path().join("prod.json"), r#"{"samples":2,"evaluation":["a >= 1"]}"#).unwrap();
        let read = environments.read(&prod).unwrap().unwrap();
        assert_eq!((read.policy.samples, read.policy.evaluation.len(), read.registry), (2, 1, None));
    }
}
