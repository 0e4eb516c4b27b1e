//! Changing what is said of models and versions.

use modelyard_core::{AliasName, Digest, ModelName, Version};

use super::arrival::MOST_ARRIVALS;
use super::document::{Catalog, Change, Entry, Kind, Removed, Yanked};
use super::{Arrival, By, Subject, Way};
use crate::access::now;
use crate::alias::Move;
use crate::layout::Writing;
use crate::{Error, Listed, Store};

/// Name of the document, beside the layout's own.
const CATALOG: &str = "catalog.json";

/// Most images of one version of which it is noted that they were made here; the oldest give way.
const MOST_IMAGES: usize = 64;
/// Most tags of one model or version.
const MOST_TAGS: usize = 256;
/// Longest key, in bytes.
const LONGEST_KEY: usize = 250;
/// Longest text of a tag, of a reason and of a description, in bytes.
const LONGEST_TEXT: usize = 5_000;
/// Most changes that are kept of one model; the oldest give way. The control plane's log has them all.
const MOST_CHANGES: usize = 10_000;

fn refused(what: &str, why: impl Into<String>) -> Error {
    Error::Refused { what: what.to_owned(), why: why.into() }
}

fn check_text(what: &'static str, text: &str, longest: usize) -> Result<(), Error> {
    if text.len() > longest {
        return Err(refused(what, format!("it has {} bytes, and {longest} are allowed", text.len())));
    }
    match text.chars().find(|&c| c.is_control() && !matches!(c, '\n' | '\t')) {
        Some(control) => Err(refused(what, format!("it holds the control character {}", control.escape_unicode()))),
        None => Ok(()),
    }
}

fn check_key(key: &str) -> Result<(), Error> {
    if key.trim().is_empty() || key.trim() != key || key.contains(['\n', '\t', '=']) {
        return Err(refused("the tag's name", "it is empty, begins or ends with a space, or holds `=` or a line end"));
    }
    check_text("the tag's name", key, LONGEST_KEY)
}

impl Store {
    /// Everything that is said of models beside their packages.
    ///
    /// # Errors
    /// [`Error::Document`] when it cannot be read.
    pub fn catalog(&self) -> Result<Catalog, Error> {
        self.layout.read(CATALOG)
    }

    /// Notes on which way a package came to a version. The same way again is no news.
    pub(crate) fn note_arrival(
        &self,
        mut catalog: Catalog,
        (model, version): (&ModelName, &Version),
        digest: Digest,
        way: &Way,
        writing: &Writing,
    ) -> Result<(), Error> {
        let entry = catalog.models.entry(model.clone()).or_default();
        let arrivals = &mut entry.versions.entry(version.clone()).or_default().arrivals;
        if arrivals.iter().any(|known| known.digest == digest && known.way == *way) {
            return Ok(());
        }
        arrivals.push(Arrival { at: now(), digest, way: way.clone() });
        let surplus = arrivals.len().saturating_sub(MOST_ARRIVALS);
        arrivals.drain(..surplus);
        self.layout.write(CATALOG, &catalog, writing)
    }

    /// Notes that a container image was made of a version here.
    pub(crate) fn note_image(&self, model: &ModelName, version: &Version, image: Digest) -> Result<(), Error> {
        let writing = self.layout.lock()?;
        let mut catalog = self.catalog()?;
        let entry = catalog.models.entry(model.clone()).or_default();
        let images = &mut entry.versions.entry(version.clone()).or_default().images;
        if images.last() == Some(&image) {
            return Ok(());
        }
        images.retain(|known| *known != image);
        images.push(image);
        let surplus = images.len().saturating_sub(MOST_IMAGES);
        images.drain(..surplus);
        self.layout.write(CATALOG, &catalog, &writing)
    }

    /// Changes what is said of a model; `change` says what was changed, or that nothing was.
    fn note(
        &self,
        model: &ModelName,
        by: &By,
        change: impl FnOnce(&mut Entry) -> Result<Option<Kind>, Error>,
    ) -> Result<bool, Error> {
        let writing = self.layout.lock()?;
        let mut catalog = self.catalog()?;
        let entry = catalog.models.entry(model.clone()).or_default();
        let before = entry.clone();
        if let Some(kind) = change(entry)? {
            entry.changes.push(Change { at: by.at, by: by.name.clone(), kind });
            let surplus = entry.changes.len().saturating_sub(MOST_CHANGES);
            entry.changes.drain(..surplus);
        }
        entry.since.get_or_insert(by.at);
        let changed = *entry != before;
        if changed {
            self.layout.write(CATALOG, &catalog, &writing)?;
        }
        Ok(changed)
    }

    fn check_subject(&self, subject: &Subject) -> Result<(), Error> {
        let Subject { model, version } = subject;
        match version {
            Some(version) => self.check_version(model, version),
            None => self.known_model(model).map(drop),
        }
    }

    /// Whether the model has such a version.
    pub(crate) fn check_version(&self, model: &ModelName, version: &Version) -> Result<(), Error> {
        let versions = self.versions(model)?;
        match versions.iter().any(|listed| listed.version == *version) {
            true => Ok(()),
            false => Err(Error::no_version(model, version, &versions)),
        }
    }

    /// Speaks of a model that may have no version yet; whether that is new.
    ///
    /// # Errors
    /// [`Error::Document`] when the catalogue cannot be read.
    pub fn register(&self, model: &ModelName, by: &By) -> Result<bool, Error> {
        self.note(model, by, |_| Ok(None))
    }

    /// Sets a tag, or takes it away; whether anything changed.
    ///
    /// # Errors
    /// [`Error::NoModel`], [`Error::NoVersion`], [`Error::Refused`].
    pub fn tag(&self, subject: &Subject, key: &str, value: Option<&str>, by: &By) -> Result<bool, Error> {
        check_key(key)?;
        check_text("the tag", value.unwrap_or_default(), LONGEST_TEXT)?;
        self.check_subject(subject)?;
        self.note(&subject.model, by, |entry| {
            let tags = match &subject.version {
                Some(version) => &mut entry.versions.entry(version.clone()).or_default().tags,
                None => &mut entry.tags,
            };
            let before = match value {
                Some(value) => tags.insert(key.to_owned(), value.to_owned()),
                None => tags.remove(key),
            };
            if tags.len() > MOST_TAGS {
                return Err(refused("the tag", format!("`{subject}` has {MOST_TAGS} tags, and more are not kept")));
            }
            let (key, value) = (key.to_owned(), value.map(str::to_owned));
            Ok((before != value).then(|| Kind::Tagged { version: subject.version.clone(), key, value }))
        })
    }

    /// Sets the description of a model or version; whether anything changed.
    ///
    /// # Errors
    /// As [`Store::tag`].
    pub fn describe(&self, subject: &Subject, text: &str, by: &By) -> Result<bool, Error> {
        check_text("the description", text, LONGEST_TEXT)?;
        self.check_subject(subject)?;
        self.note(&subject.model, by, |entry| {
            let description = match &subject.version {
                Some(version) => &mut entry.versions.entry(version.clone()).or_default().description,
                None => &mut entry.description,
            };
            let changed = *description != text;
            text.clone_into(description);
            Ok(changed.then(|| Kind::Described { version: subject.version.clone() }))
        })
    }

    /// Withdraws a version, or, without a reason, lets it be deployed again; whether anything changed.
    ///
    /// # Errors
    /// [`Error::NoModel`], [`Error::NoVersion`], [`Error::Refused`].
    pub fn yank(&self, model: &ModelName, version: &Version, why: Option<&str>, by: &By) -> Result<bool, Error> {
        check_text("the reason", why.unwrap_or_default(), LONGEST_TEXT)?;
        self.check_version(model, version)?;
        self.note(model, by, |entry| {
            let notes = entry.versions.entry(version.clone()).or_default();
            let (before, version) = (notes.yanked.is_some(), version.clone());
            Ok(match why {
                Some(why) if !before => {
                    notes.yanked = Some(Yanked { at: by.at, by: by.name.clone(), why: why.to_owned() });
                    Some(Kind::Yanked { version, why: why.to_owned() })
                }
                None if before => {
                    notes.yanked = None;
                    Some(Kind::Unyanked { version })
                }
                _ => None,
            })
        })
    }

    /// Takes an alias away; where it pointed.
    ///
    /// # Errors
    /// [`Error::NoAlias`] when it points nowhere.
    pub fn remove_alias(&self, model: &ModelName, alias: &AliasName, by: &By) -> Result<Version, Error> {
        let listed: Vec<Listed> = self.list()?.into_iter().filter(|listed| listed.model == *model).collect();
        let none = || Error::no_alias(model, alias, &listed);
        self.move_alias(model, alias, |moves| {
            let from = moves.last().and_then(|step| step.to.clone()).ok_or_else(none)?;
            moves.push(Move { at: by.at, by: by.name.clone(), from: Some(from.clone()), to: None });
            Ok(from)
        })
    }

    /// Removes a version: it names nothing any more, and its bytes go with the next sweep if nothing else needs them.
    ///
    /// # Errors
    /// [`Error::NoVersion`]; [`Error::Refused`] when an alias points to it.
    pub fn remove_version(&self, model: &ModelName, version: &Version, by: &By) -> Result<(), Error> {
        let versions = self.versions(model)?;
        let listed = versions.iter().find(|listed| listed.version == *version);
        let listed = listed.ok_or_else(|| Error::no_version(model, version, &versions))?;
        if let Some(alias) = listed.aliases.first() {
            let why = format!("`{model}@{alias}` points to it; move or remove the alias first");
            return Err(refused("the version", why));
        }
        // Whoever found the package just now may still need it: its bytes are young again for the next sweep.
        if let Ok(manifest) = self.manifest(&listed.digest) {
            let parts = manifest.layers.iter().chain([&manifest.config]).map(|part| part.digest);
            for digest in parts.chain([listed.digest]) {
                self.blobs().touch(&digest)?;
            }
        }
        // The note goes first: a version that is removed but not noted could name another package.
        self.note(model, by, |entry| {
            let notes = entry.versions.entry(version.clone()).or_default();
            let (digest, number) = (listed.digest, listed.number);
            notes.removed = Some(Removed { at: by.at, by: by.name.clone(), digest, number });
            Ok(Some(Kind::Removed { version: version.clone(), digest: listed.digest }))
        })?;
        self.unname(model, version)
    }
}
