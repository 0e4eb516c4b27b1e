//! The catalogue: what people say of models and versions beside the packages themselves: tags, withdrawals, removals, and where they came from.
//!
//! Promises: a package is never changed by what is said of it; every change is kept with who made it and when; a version that was removed
//! names its package for ever, and no other one; keys, texts and their number are limited.

mod arrival;
mod changes;
mod diff;
mod document;
mod filter;
mod retention;

pub use self::arrival::{Arrival, FromPattern, FromPatternError, Way};
pub use self::diff::{Change as Difference, Changes, Diff, diff};
pub use self::document::{Catalog, Change, Entry, Kind, Notes, Removed, Yanked};
pub use self::filter::{Filter, FilterError};
pub use self::retention::{Kept, Retention, Verdict};

use std::collections::BTreeMap;

use modelyard_core::package::Package;
use modelyard_core::{AliasName, Digest, ModelName, Timestamp, Version};
use serde_json::{Value, json};

use crate::{Error, Listed, Store};

/// A version with what its package says of itself: what filters look at.
#[derive(Clone, Debug)]
pub struct Found {
    /// The version.
    pub listed: Listed,
    /// Its package.
    pub package: Package,
}

impl Found {
    /// As documents have it: what its package measures stands beside what is said of it.
    pub fn document(&self) -> Value {
        let mut document = json!(self.listed);
        document["metrics"] = json!(self.package.metrics);
        document["parameters"] = json!(self.package.parameters);
        document
    }
}

/// A model that has versions or is spoken of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its name.
    pub name: ModelName,
    /// Its versions, the newest last.
    pub versions: Vec<Listed>,
    /// What is said of it.
    pub said: Entry,
}

impl Store {
    /// Every model that has versions or is spoken of, by name.
    ///
    /// # Errors
    /// As [`Store::list`].
    pub fn known(&self) -> Result<Vec<Known>, Error> {
        let catalog = self.catalog()?;
        let mut versions: BTreeMap<ModelName, Vec<Listed>> = BTreeMap::new();
        for listed in self.list_with(&catalog)? {
            versions.entry(listed.model.clone()).or_default().push(listed);
        }
        let mut said = catalog.models;
        for name in said.keys() {
            versions.entry(name.clone()).or_default();
        }
        let known = |(name, versions)| Known { said: said.remove(&name).unwrap_or_default(), name, versions };
        Ok(versions.into_iter().map(known).collect())
    }

    /// One model that has versions or is spoken of.
    ///
    /// # Errors
    /// [`Error::NoModel`] when it is neither.
    pub fn known_model(&self, model: &ModelName) -> Result<Known, Error> {
        let mut catalog = self.catalog()?;
        let versions: Vec<Listed> =
            self.list_with(&catalog)?.into_iter().filter(|listed| listed.model == *model).collect();
        match catalog.models.remove(model) {
            None if versions.is_empty() => Err(Error::NoModel(model.clone())),
            said => Ok(Known { name: model.clone(), versions, said: said.unwrap_or_default() }),
        }
    }

    /// Versions with their packages.
    ///
    /// # Errors
    /// The first package that cannot be read.
    pub fn found(&self, versions: Vec<Listed>) -> Result<Vec<Found>, Error> {
        let read = |listed: Listed| self.package(&listed.digest).map(|package| Found { listed, package });
        versions.into_iter().map(read).collect()
    }

    /// Every version that a filter takes, models by name, versions in the order in which they were added. Packages that cannot be
    /// read are left out: whoever asks for one of them by name is told why.
    ///
    /// # Errors
    /// As [`Store::list`].
    pub fn search(&self, filter: &Filter) -> Result<Vec<Found>, Error> {
        let mut listed: Vec<Listed> = self.list()?.into_iter().filter(|listed| filter.may_take(listed)).collect();
        listed.sort_by(|one, other| one.model.cmp(&other.model));
        let found = |listed: Listed| {
            let package = self.package(&listed.digest).ok()?;
            filter.takes(&listed, &package).then_some(Found { listed, package })
        };
        Ok(listed.into_iter().filter_map(found).collect())
    }

    /// The versions that a digest has.
    ///
    /// # Errors
    /// As [`Store::list`].
    pub fn names_of(&self, digest: &Digest) -> Result<Vec<Listed>, Error> {
        Ok(self.list()?.into_iter().filter(|listed| listed.digest == *digest).collect())
    }

    /// On which ways a package came here, the first one first; none when nobody knows.
    ///
    /// # Errors
    /// As [`Store::list`].
    pub fn arrivals(&self, digest: &Digest) -> Result<Vec<Arrival>, Error> {
        let mut arrivals: Vec<Arrival> =
            self.names_of(digest)?.into_iter().flat_map(|listed| listed.arrivals).collect();
        arrivals.sort_by_key(|arrival| arrival.at);
        Ok(arrivals)
    }

    /// Why a package is withdrawn: when every version that it has is.
    ///
    /// # Errors
    /// As [`Store::list`].
    pub fn withdrawn(&self, digest: &Digest) -> Result<Option<Yanked>, Error> {
        let names = self.names_of(digest)?;
        match names.iter().all(|listed| listed.yanked.is_some()) {
            true => Ok(names.into_iter().find_map(|listed| listed.yanked)),
            false => Ok(None),
        }
    }

    /// What happened to a model's names, oldest first: moves of its aliases, and changes of its tags and versions.
    ///
    /// # Errors
    /// [`Error::Document`] when they cannot be read.
    pub fn changes(&self, model: &ModelName) -> Result<Vec<Change>, Error> {
        let mut changes = self.catalog()?.models.remove(model).map(|entry| entry.changes).unwrap_or_default();
        let moved = |alias: &AliasName, step: crate::alias::Move| {
            let kind = Kind::AliasMoved { alias: alias.clone(), from: step.from, to: step.to };
            Change { at: step.at, by: step.by, kind }
        };
        for (alias, moves) in self.aliases(model)? {
            changes.extend(moves.into_iter().map(|step| moved(&alias, step)));
        }
        changes.sort_by_key(|change| change.at);
        Ok(changes)
    }
}

/// Tags of a model or of a version.
pub type Tags = BTreeMap<String, String>;

/// Who changes something, and when.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct By {
    /// Their name.
    pub name: String,
    /// The moment.
    pub at: Timestamp,
}

/// What is changed: a model, or one version of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Model.
    pub model: ModelName,
    /// Version; none is the model itself.
    pub version: Option<Version>,
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.version {
            Some(version) => write!(f, "{}:{version}", self.model),
            None => write!(f, "{}", self.model),
        }
    }
}
