//! The store: packages by digest, versions by name, aliases by model.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use modelyard_core::package::{DOCUMENT, FORMAT_VERSION, Package};
use modelyard_core::{AliasName, Digest, ModelName, Timestamp, Version};
use serde::{Deserialize, Serialize};

use crate::access::now;
use crate::alias::{self, Aliases, Move};
use crate::blob::{Blob, Blobs};
use crate::catalog::{Arrival, Catalog, Entry, Notes, Tags, Way, Yanked};
use crate::layout::Layout;
use crate::manifest::{Descriptor, FILEPATH, MANIFEST, MAX_MANIFEST_BYTES, MODEL, Manifest, REF_NAME};
use crate::seen::Seen;
use crate::storage::{Gate, Settings, Storage};
use crate::{Error, Reference, Selector, unpack};

/// Longest package document that is read, in bytes: samples may hold images.
pub const MAX_DOCUMENT_BYTES: u64 = 64 << 20;

/// Name of the file that keeps the aliases, beside the layout's own documents.
const ALIASES: &str = "aliases.json";

/// Annotation of the index that says when a version was added, in milliseconds since 1970. No digest depends on it.
const ADDED: &str = "io.modelyard.added";

/// Annotation of the index that says the how-manieth version of its model it is.
const NUMBER: &str = "io.modelyard.number";

/// The local registry.
#[derive(Clone, Debug)]
pub struct Store {
    pub(crate) layout: Layout,
    blobs: Blobs,
    gate: Gate,
    unpacked: PathBuf,
    storage: Storage,
}

/// The one key that every form of the package document has: a newer form may have keys that this build refuses.
#[derive(Deserialize)]
struct Form {
    format_version: u32,
}

/// Whether every file of the package is one of its layers: the document of one package must not reach into another.
fn check_files(package: &Package, manifest: &Manifest) -> Result<(), String> {
    let path = |layer: &Descriptor| layer.annotations.get(FILEPATH).cloned();
    let layers: BTreeMap<String, Digest> =
        manifest.layers.iter().filter_map(|layer| Some((path(layer)?, layer.digest))).collect();
    match package.files.iter().find(|(path, file)| layers.get(*path) != Some(&file.digest)) {
        Some((path, _)) => Err(format!("its file `{}` is no layer of the package", path.escape_debug())),
        None => Ok(()),
    }
}

/// One version, for lists.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Model.
    pub model: ModelName,
    /// Version.
    pub version: Version,
    /// Digest of the package.
    pub digest: Digest,
    /// Aliases that point here.
    pub aliases: Vec<AliasName>,
    /// Its tags.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tags: Tags,
    /// That it was withdrawn.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub yanked: Option<Yanked>,
    /// Its number among all versions that the model ever had, from 1: what MLflow's clients call its version.
    #[serde(default)]
    pub number: u64,
    /// When it was added; of versions from before that was kept, none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub added: Option<Timestamp>,
    /// On which ways it came here, the first one first; none when nobody knows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub arrivals: Vec<Arrival>,
}

impl Store {
    /// Opens the registry at `registry`, making it if needed; packages are laid out as files under `unpacked`. Which stores hold it is said by
    /// its `storage.toml` and the environment ([`Settings::read`]).
    ///
    /// # Errors
    /// As [`Store::open_with`].
    pub fn open(registry: impl AsRef<Path>, unpacked: impl Into<PathBuf>) -> Result<Self, Error> {
        let settings = Settings::read(&registry)?;
        Self::open_with(registry, unpacked, &settings)
    }

    /// [`Store::open`] with these stores.
    ///
    /// # Errors
    /// [`Error::File`] when a folder cannot be made, [`Error::Storage`] when a store does not answer or does not let us in.
    pub fn open_with(
        registry: impl AsRef<Path>,
        unpacked: impl Into<PathBuf>,
        settings: &Settings,
    ) -> Result<Self, Error> {
        let (registry, storage) = (registry.as_ref(), Storage::open(settings)?);
        let layout = Layout::open(registry, storage.postgres.clone())?;
        let blobs = Blobs::open(registry)?.before(storage.bucket.clone());
        let gate = Gate::new(registry, &storage);
        Ok(Self { layout, blobs, gate, unpacked: unpacked.into(), storage })
    }

    /// The stores that hold it.
    pub(crate) fn storage(&self) -> &Storage {
        &self.storage
    }

    /// What is remembered of files that were stored here.
    pub fn seen(&self) -> Seen {
        Seen::open(self.layout.root())
    }

    /// Where the bytes are.
    pub fn blobs(&self) -> &Blobs {
        &self.blobs
    }

    /// Adds a package that was built here, whose blobs are stored already, and gives it its version. The same package again changes nothing.
    ///
    /// # Errors
    /// [`Error::VersionTaken`] when the version names another package; [`Error::NoBlob`] when a blob is not stored.
    pub fn add(&self, model: &ModelName, version: &Version, manifest: &Manifest) -> Result<Digest, Error> {
        self.add_from(model, version, manifest, &Way::Built)
    }

    /// [`Store::add`] for a package that came on this way.
    ///
    /// # Errors
    /// As [`Store::add`].
    #[tracing::instrument(name = "registry.add", skip_all, fields(%model, %version), err)]
    pub fn add_from(
        &self,
        model: &ModelName,
        version: &Version,
        manifest: &Manifest,
        way: &Way,
    ) -> Result<Digest, Error> {
        let bytes = serde_json::to_vec(manifest)
            .map_err(|error| Error::Document { what: "the manifest".to_owned(), why: error.to_string() })?;
        // No sweep between looking and naming: what is there then has a name before anybody removes it.
        let _naming = self.gate.together_here()?;
        self.check(manifest, bytes.len() as u64)?;
        let blob = self.blobs.put(&bytes)?.blob;
        self.blobs.sync()?;
        self.name(model, version, blob, Some(way))
    }

    /// Gives a package back the version that was just taken from it: it does not come from anywhere anew.
    ///
    /// # Errors
    /// As [`Store::add`].
    pub fn give_back(&self, listed: &Listed) -> Result<(), Error> {
        let Listed { model, version, digest, .. } = listed;
        let _naming = self.gate.together_here()?;
        self.adopt_as(model, version, digest, None)
    }

    /// Lets a version name a manifest, and notes on which way it came; none when it was here before.
    fn name(&self, model: &ModelName, version: &Version, blob: Blob, way: Option<&Way>) -> Result<Digest, Error> {
        let writing = self.layout.lock()?;
        let catalog = self.catalog()?;
        let said = catalog.models.get(model).cloned().unwrap_or_default();
        refuse_removed(&said, model, version, &blob.digest)?;
        // Before the name: whoever finds the version finds where it came from.
        let noted = |catalog| match way {
            Some(way) => self.note_arrival(catalog, (model, version), blob.digest, way, &writing),
            None => Ok(()),
        };
        let mut index = self.layout.index()?;
        let name = format!("{model}:{version}");
        if let Some(existing) = index.manifests.iter().find(|entry| entry.annotations.get(REF_NAME) == Some(&name)) {
            let (existing, offered) = (existing.digest, blob.digest);
            return match existing == offered {
                true => noted(catalog).map(|()| offered),
                false => Err(Error::VersionTaken { model: model.clone(), version: version.clone(), existing, offered }),
            };
        }
        let number = self.next_number(&said, model, version)?.to_string();
        let entry = Descriptor::new(MANIFEST, blob.digest, blob.size_bytes);
        let entry = entry.noted(REF_NAME, name).noted(ADDED, now().0.to_string()).noted(NUMBER, number);
        index.manifests.push(Descriptor { artifact_type: Some(MODEL.to_owned()), ..entry });
        noted(catalog)?;
        self.layout.write_index(&index, &writing)?;
        Ok(blob.digest)
    }

    /// The number of a version that is added: its own again, if it was removed; else one that none had.
    fn next_number(&self, said: &Entry, model: &ModelName, version: &Version) -> Result<u64, Error> {
        let number = |notes: &Notes| notes.removed.as_ref().map(|removed| removed.number);
        if let Some(own) = said.versions.get(version).and_then(number).filter(|&own| own > 0) {
            return Ok(own);
        }
        let here = self.list()?.into_iter().filter(|listed| listed.model == *model).map(|listed| listed.number);
        Ok(here.chain(said.versions.values().filter_map(number)).max().unwrap_or(0) + 1)
    }

    /// Takes a version's name away.
    pub(crate) fn unname(&self, model: &ModelName, version: &Version) -> Result<(), Error> {
        let writing = self.layout.lock()?;
        let mut index = self.layout.index()?;
        let name = format!("{model}:{version}");
        index.manifests.retain(|entry| entry.annotations.get(REF_NAME) != Some(&name));
        self.layout.write_index(&index, &writing)
    }

    /// Gives a package that came on this way, and whose manifest is stored already, its version.
    ///
    /// # Errors
    /// As [`Store::add`].
    pub(crate) fn adopt(&self, model: &ModelName, version: &Version, digest: &Digest, way: &Way) -> Result<(), Error> {
        let _naming = self.gate.together_here()?;
        self.adopt_as(model, version, digest, Some(way))
    }

    /// [`Store::adopt`] for who has passed the gate already: a second time could wait for a sweep that waits for the first.
    pub(crate) fn adopt_within(
        &self,
        model: &ModelName,
        version: &Version,
        digest: &Digest,
        way: &Way,
    ) -> Result<(), Error> {
        self.adopt_as(model, version, digest, Some(way))
    }

    fn adopt_as(&self, model: &ModelName, version: &Version, digest: &Digest, way: Option<&Way>) -> Result<(), Error> {
        let size_bytes = self.blobs.size(digest)?.ok_or(Error::NoPackage(*digest))?;
        self.check(&self.manifest(digest)?, size_bytes)?;
        self.name(model, version, Blob { digest: *digest, size_bytes }, way).map(drop)
    }

    /// Whether a version may name a package: it names none yet, or this one.
    ///
    /// # Errors
    /// [`Error::VersionTaken`] or [`Error::VersionRemoved`].
    pub(crate) fn may_name(&self, model: &ModelName, version: &Version, offered: &Digest) -> Result<(), Error> {
        refuse_removed(&self.catalog()?.models.remove(model).unwrap_or_default(), model, version, offered)?;
        let named = |listed: &Listed| listed.model == *model && listed.version == *version;
        match self.list()?.into_iter().find(named) {
            Some(Listed { digest: existing, .. }) if existing != *offered => {
                Err(Error::VersionTaken { model: model.clone(), version: version.clone(), existing, offered: *offered })
            }
            _ => Ok(()),
        }
    }

    /// Whether the manifest can be read again, and everything that it refers to is there.
    fn check(&self, manifest: &Manifest, length: u64) -> Result<(), Error> {
        let wrong = |why| Err(Error::Document { what: "the manifest".to_owned(), why });
        if length > MAX_MANIFEST_BYTES {
            let files = manifest.layers.len();
            return wrong(format!("{files} files make it {length} bytes long, and {MAX_MANIFEST_BYTES} are allowed"));
        }
        for part in manifest.layers.iter().chain([&manifest.config]) {
            match self.blobs.size(&part.digest)? {
                None => return Err(Error::NoBlob(part.digest)),
                Some(size) if size != part.size => {
                    return wrong(format!("it says {} bytes of blob {}, which has {size}", part.size, part.digest));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    /// Every version of every model, in the order in which they were added.
    ///
    /// # Errors
    /// [`Error::Document`] when the index cannot be read.
    pub fn list(&self) -> Result<Vec<Listed>, Error> {
        self.list_with(&self.catalog()?)
    }

    /// [`Store::list`] with what is said of the versions.
    pub(crate) fn list_with(&self, catalog: &Catalog) -> Result<Vec<Listed>, Error> {
        let aliases = self.all_aliases()?;
        // Versions from before numbers were kept are counted in their order.
        let mut last: BTreeMap<ModelName, u64> = BTreeMap::new();
        let entry = |entry: &Descriptor| {
            let (model, version) = entry.annotations.get(REF_NAME)?.split_once(':')?;
            let (model, version) = (ModelName::new(model).ok()?, Version::new(version).ok()?);
            let of_model = aliases.get(&model);
            let here = |(name, moves): (&AliasName, &Vec<Move>)| {
                (moves.last()?.to.as_ref() == Some(&version)).then(|| name.clone())
            };
            let aliases = of_model.into_iter().flatten().filter_map(here).collect();
            let notes = catalog.models.get(&model).and_then(|said| said.versions.get(&version));
            let (tags, yanked) = notes.map(|notes| (notes.tags.clone(), notes.yanked.clone())).unwrap_or_default();
            let arrivals = notes.into_iter().flat_map(|notes| &notes.arrivals);
            let arrivals = arrivals.filter(|arrival| arrival.digest == entry.digest).cloned().collect();
            let added = entry.annotations.get(ADDED).and_then(|at| at.parse().ok()).map(Timestamp);
            let last = last.entry(model.clone()).or_default();
            let number = entry.annotations.get(NUMBER).and_then(|text| text.parse().ok()).unwrap_or(*last + 1);
            *last = number.max(*last);
            Some(Listed { model, version, digest: entry.digest, aliases, tags, yanked, number, added, arrivals })
        };
        Ok(self.layout.index()?.manifests.iter().filter_map(entry).collect())
    }

    /// Names of all models, sorted.
    ///
    /// # Errors
    /// As [`Store::list`].
    pub fn models(&self) -> Result<Vec<ModelName>, Error> {
        let names: std::collections::BTreeSet<ModelName> =
            self.list()?.into_iter().map(|listed| listed.model).collect();
        Ok(names.into_iter().collect())
    }

    /// Every version of a model, in the order in which they were added.
    ///
    /// # Errors
    /// [`Error::NoModel`] when there is none.
    pub fn versions(&self, model: &ModelName) -> Result<Vec<Listed>, Error> {
        let versions: Vec<Listed> = self.list()?.into_iter().filter(|listed| listed.model == *model).collect();
        match versions.is_empty() {
            true => Err(Error::NoModel(model.clone())),
            false => Ok(versions),
        }
    }

    /// The digest that a reference means now.
    ///
    /// # Errors
    /// [`Error::NoModel`], [`Error::NoVersion`], [`Error::NoAlias`] or [`Error::NoPackage`].
    #[tracing::instrument(name = "registry.resolve", level = "debug", skip_all, fields(%reference), err(level = "debug"))]
    pub fn resolve(&self, reference: &Reference) -> Result<Digest, Error> {
        let model = &reference.model;
        let versions = self.versions(model)?;
        let of =
            |version: &Version| versions.iter().find(|listed| listed.version == *version).map(|listed| listed.digest);
        let no_version = |version: &Version| Error::no_version(model, version, &versions);
        match &reference.selector {
            Selector::Newest => {
                let newest = versions.iter().rfind(|listed| listed.yanked.is_none()).or(versions.last());
                newest.map(|listed| listed.digest).ok_or_else(|| Error::NoModel(model.clone()))
            }
            Selector::Version(version) => of(version).ok_or_else(|| no_version(version)),
            Selector::Alias(alias) => {
                let all = self.all_aliases()?;
                let version = all.get(model).and_then(|aliases| alias::current(aliases, alias));
                let version = version.ok_or_else(|| Error::no_alias(model, alias, &versions))?;
                of(version).ok_or_else(|| no_version(version))
            }
            Selector::Digest(digest) => match versions.iter().any(|listed| listed.digest == *digest) {
                true => Ok(*digest),
                false => Err(Error::NoPackage(*digest)),
            },
        }
    }

    /// The manifest of a package, checked by digest.
    ///
    /// # Errors
    /// [`Error::NoPackage`], [`Error::Damaged`], [`Error::Document`].
    pub fn manifest(&self, digest: &Digest) -> Result<Manifest, Error> {
        let read = self.blobs.read(digest, MAX_MANIFEST_BYTES);
        let bytes = read.map_err(|error| match error {
            Error::NoBlob(digest) => Error::NoPackage(digest),
            other => other,
        })?;
        serde_json::from_slice(&bytes)
            .map_err(|error| Error::Document { what: format!("manifest {digest}"), why: error.to_string() })
    }

    fn document(&self, digest: &Digest) -> Result<(Package, Vec<u8>), Error> {
        let manifest = self.manifest(digest)?;
        let wrong = |why: String| Error::Document { what: format!("the document of package {digest}"), why };
        let is_document = |layer: &&Descriptor| layer.annotations.get(FILEPATH).is_some_and(|path| path == DOCUMENT);
        let layer = manifest.layers.iter().find(is_document).ok_or_else(|| wrong("there is none".to_owned()))?;
        let bytes = self.blobs.read(&layer.digest, MAX_DOCUMENT_BYTES)?;
        let form: Form = serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
        if !(1..=FORMAT_VERSION).contains(&form.format_version) {
            let newer = form.format_version;
            return Err(wrong(format!("it has form {newer}, and this Modelyard reads up to {FORMAT_VERSION}")));
        }
        let package: Package = serde_json::from_slice(&bytes).map_err(|error| wrong(error.to_string()))?;
        check_files(&package, &manifest).map_err(wrong)?;
        Ok((package, bytes))
    }

    /// What a package says of itself.
    ///
    /// # Errors
    /// [`Error::NoPackage`], [`Error::Damaged`], [`Error::Document`].
    pub fn package(&self, digest: &Digest) -> Result<Package, Error> {
        Ok(self.document(digest)?.0)
    }

    /// The package as a folder of files, every byte checked against its digest. The same folder again costs nothing.
    ///
    /// # Errors
    /// As [`Store::package`], and [`Error::Path`] when a file would leave the folder.
    #[tracing::instrument(name = "registry.unpack", skip_all, fields(%digest), err)]
    pub fn unpack(&self, digest: &Digest) -> Result<PathBuf, Error> {
        let (package, document) = self.document(digest)?;
        unpack::unpack(&self.blobs, &self.unpacked, digest, &package, &document)
    }

    fn all_aliases(&self) -> Result<BTreeMap<ModelName, Aliases>, Error> {
        self.layout.read(ALIASES)
    }

    /// Aliases of a model with every move, oldest first.
    ///
    /// # Errors
    /// [`Error::Document`] when they cannot be read.
    pub fn aliases(&self, model: &ModelName) -> Result<Aliases, Error> {
        Ok(self.all_aliases()?.remove(model).unwrap_or_default())
    }

    /// Points an alias to a version. Pointing it where it points already is not a move.
    ///
    /// # Errors
    /// [`Error::NoVersion`] when there is no such version.
    #[tracing::instrument(name = "registry.alias", skip_all, err)]
    pub fn set_alias(
        &self,
        model: &ModelName,
        alias: &AliasName,
        version: &Version,
        by: &str,
        at: Timestamp,
    ) -> Result<Option<Version>, Error> {
        self.check_version(model, version)?;
        self.move_alias(model, alias, |moves| {
            let from = moves.last().and_then(|step| step.to.clone());
            if from.as_ref() != Some(version) {
                moves.push(Move { at, by: by.to_owned(), from: from.clone(), to: Some(version.clone()) });
            }
            Ok(from)
        })
    }

    /// Adds to the moves of an alias.
    pub(crate) fn move_alias<T>(
        &self,
        model: &ModelName,
        alias: &AliasName,
        change: impl FnOnce(&mut Vec<Move>) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let writing = self.layout.lock()?;
        let mut all = self.all_aliases()?;
        let moves = all.entry(model.clone()).or_default().entry(alias.clone()).or_default();
        let before = moves.len();
        let done = change(moves)?;
        if moves.len() != before {
            self.layout.write(ALIASES, &all, &writing)?;
        }
        Ok(done)
    }
}

/// A version that was removed names its package for ever, and may come back as that.
fn refuse_removed(said: &Entry, model: &ModelName, version: &Version, offered: &Digest) -> Result<(), Error> {
    match said.versions.get(version).and_then(|notes| notes.removed.as_ref()) {
        Some(removed) if removed.digest != *offered => Err(Error::VersionRemoved {
            model: model.clone(),
            version: version.clone(),
            by: removed.by.clone(),
            digest: removed.digest,
        }),
        _ => Ok(()),
    }
}
