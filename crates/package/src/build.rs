//! Building: the folder is read, checked, stored as blobs, and named by the digest of its manifest.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::Path;
use std::time::Instant;

use modelyard_core::package::{FORMAT_VERSION, FileEntry, Package};
use modelyard_core::{Digest, ModelName, Version};
use modelyard_registry::Store;
use modelyard_registry::blob::Stored;
use modelyard_registry::catalog::Way;

use crate::draft::{Draft, look};
use crate::publish::publish;
use crate::scaffold::slug;
use crate::{Error, lineage};

/// What a build may be told from outside.
#[derive(Clone, Debug, Default)]
pub struct BuildOptions {
    /// Seconds since 1970 to stamp on the package; without it the package holds no time at all.
    pub source_date_epoch: Option<u64>,
    /// Whether a Python package without a complete lock is built all the same.
    pub allow_unlocked: bool,
    /// Revision of the source that it is built from, in place of the one that the folder names.
    pub source_revision: Option<String>,
    /// Registry in which packages that it was built from are looked up, if it is another than the one that it is built into.
    pub ancestors: Option<Store>,
    /// On which way its files came, if they were fetched for this; else it counts as built here.
    pub came: Option<Way>,
}

impl BuildOptions {
    /// Reads the text of `SOURCE_DATE_EPOCH`. Source: reproducible-builds.org, SOURCE_DATE_EPOCH specification.
    ///
    /// # Errors
    /// [`Error::SourceDateEpoch`] when it is no whole number of seconds, or one past the year 9999.
    pub fn from_source_date_epoch(text: Option<&str>) -> Result<Self, Error> {
        let parse = |text: &str| {
            // Only digits: a sign or a space would be read differently by other tools.
            let digits = text.bytes().all(|byte| byte.is_ascii_digit());
            let seconds = text.parse::<u64>().ok().filter(|&seconds| digits && seconds <= YEAR_9999);
            seconds.ok_or_else(|| Error::SourceDateEpoch(text.chars().take(40).collect()))
        };
        Ok(Self { source_date_epoch: text.map(parse).transpose()?, ..Self::default() })
    }
}

/// 9999-12-30, a day before what RFC 3339 can say ends.
const YEAR_9999: u64 = 253_402_128_000;

/// A package that was built.
#[derive(Clone, Debug)]
pub struct Built {
    /// What the package says of itself.
    pub package: Package,
    /// Its name: the digest of its manifest.
    pub digest: Digest,
    /// Size of all its blobs in bytes, each counted once.
    pub size_bytes: u64,
    /// How many of its files were in the registry already.
    pub reused: usize,
    /// How long it took.
    pub seconds: f64,
    /// What is allowed but probably not meant.
    pub warnings: Vec<String>,
}

/// Builds the model folder `folder` into `store`.
///
/// # Errors
/// [`Error`]; the registry then has no new version.
#[tracing::instrument(name = "package", skip_all, fields(folder = %folder.display()), err)]
pub fn build(folder: &Path, store: &Store, options: &BuildOptions) -> Result<Built, Error> {
    let start = Instant::now();
    finish(Draft::new(folder, options.allow_unlocked)?, folder, store, options, start)
}

/// Stores what was read and found right.
pub(crate) fn finish(
    draft: Draft,
    folder: &Path,
    store: &Store,
    options: &BuildOptions,
    start: Instant,
) -> Result<Built, Error> {
    let lineage = lineage::resolve(&draft.description, folder, store, options)?;
    let (files, reused) = store_files(&draft, folder, store)?;
    let (warnings, weights) = (draft.warnings(), draft.weights.clone());
    let package = Package { lineage, ..package(draft, files) };
    let (digest, size_bytes) = publish(&package, &weights, store, options)?;
    Ok(Built { package, digest, size_bytes, reused, seconds: start.elapsed().as_secs_f64(), warnings })
}

/// Stores every file, reading each at most once; returns their entries and how many were there already.
fn store_files(draft: &Draft, folder: &Path, store: &Store) -> Result<(BTreeMap<String, FileEntry>, usize), Error> {
    let before = files_before(store, &draft.description.model.name, &draft.description.model.version);
    let (mut entries, mut reused, mut known) = (BTreeMap::new(), 0, store.seen());
    for path in &draft.paths {
        let full = folder.join(path);
        let mut file = File::open(&full).map_err(Error::file("could not open", &full))?;
        let facts = || file.metadata().map(|facts| look(&facts)).map_err(Error::file("could not read", &full));
        let seen = draft.looks.get(path).map_or_else(facts, |seen| Ok(*seen))?;
        let absolute = std::path::absolute(&full).map_err(Error::file("could not find", &full))?;
        let likely = before.get(path).filter(|entry| entry.size_bytes == seen.0);
        let stored = match (known.blob(&absolute, &file, store.blobs()), likely) {
            (Some(blob), _) => Stored { blob, reused: true },
            (None, Some(entry)) => store.blobs().store_again(&mut file, &entry.digest)?,
            (None, None) => store.blobs().store(&mut file)?,
        };
        let after = file.metadata().map(|facts| look(&facts)).map_err(Error::file("could not read", &full))?;
        if after != seen || stored.blob.size_bytes != seen.0 {
            return Err(Error::Changed(full));
        }
        known.note(&absolute, &file, &stored.blob, store.blobs());
        reused += usize::from(stored.reused);
        entries.insert(path.clone(), FileEntry { digest: stored.blob.digest, size_bytes: stored.blob.size_bytes });
    }
    known.save();
    Ok((entries, reused))
}

/// The files of this version, or of the one before it: what did not change since need not be copied. A guess; nothing depends on it.
fn files_before(store: &Store, model: &ModelName, version: &Version) -> BTreeMap<String, FileEntry> {
    let versions = store.versions(model).unwrap_or_default();
    let known = versions.iter().find(|listed| listed.version == *version).or(versions.last());
    known.and_then(|listed| store.package(&listed.digest).ok()).map(|package| package.files).unwrap_or_default()
}

pub(crate) fn package(draft: Draft, files: BTreeMap<String, FileEntry>) -> Package {
    let Draft { description, signature, graph, samples, profile, recognised, .. } = draft;
    let words = description.model;
    Package {
        format_version: FORMAT_VERSION,
        name: words.name,
        version: words.version,
        description: words.description,
        runtime: description.runtime.value,
        signature,
        meanings: description.meanings.meanings(),
        model: description.model_file.map(|path| path.value.trim_end_matches('/').to_owned()),
        models: recognised.files(),
        risks: recognised.risks(),
        graph,
        samples,
        parameters: description.parameters,
        metrics: description.metrics,
        dependencies: description.dependencies,
        flags: description.flags.into_iter().map(|(name, flag)| (name, flag.value)).collect(),
        profile,
        resources: description.resources,
        files,
        model_card: words.card.map(|card| card.value),
        license: words.license,
        authors: words.authors,
        annotations: description.annotations,
        lineage: None,
    }
}

/// What a bare model file is called, which says neither name nor version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Named {
    /// Name of the model.
    pub name: ModelName,
    /// Version of the package.
    pub version: Version,
}

impl Named {
    /// Called like the file, at version 1.
    ///
    /// # Errors
    /// [`Error::Path`] when the path names no file, or one whose name is not UTF-8.
    pub fn after(path: &Path) -> Result<Self, Error> {
        let refuse = |why: String| Error::Path { path: path.display().to_string(), why };
        // `.` has no name of its own.
        let path = &std::path::absolute(path).map_err(Error::file("could not find", path))?;
        let version = Version::new("1").map_err(|error| refuse(error.to_string()))?;
        Ok(Self { name: slug(without_ending(file_name(path)?)), version })
    }
}

/// The name without the ending that only tells its kind.
fn without_ending(name: &str) -> &str {
    const ENDINGS: [&str; 14] = [
        ".onnx",
        ".mlmodel",
        ".mlpackage",
        ".safetensors",
        ".gguf",
        ".pt",
        ".pt2",
        ".pth",
        ".ptl",
        ".pkl",
        ".pickle",
        ".joblib",
        ".npz",
        ".npy",
    ];
    ENDINGS.iter().find_map(|ending| name.strip_suffix(ending)).filter(|stem| !stem.is_empty()).unwrap_or(name)
}

pub(crate) fn file_name(path: &Path) -> Result<&str, Error> {
    let refuse = || Error::Path { path: path.display().to_string(), why: "it names no file in UTF-8".to_owned() };
    path.file_name().and_then(|name| name.to_str()).ok_or_else(refuse)
}
