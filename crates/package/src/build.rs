//! Building: the folder is read, checked, stored as blobs, and named by the digest of its manifest.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Instant;

use miette::NamedSource;
use modelyard_core::package::{DOCUMENT, FORMAT_VERSION, FileEntry, Package, Resources, Runtime};
use modelyard_core::sample::Sample;
use modelyard_core::signature::Signature;
use modelyard_core::{Digest, ModelName, Version};
use modelyard_registry::Store;
use modelyard_registry::manifest::{self as oci, Descriptor, Manifest};
use serde_json::{Value, json};

use crate::description::{Description, Samples};
use crate::{DESCRIPTION, Error, canonical, files, onnx, samples};

/// What a build may be told from outside.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BuildOptions {
    /// Seconds since 1970 to stamp on the package; without it the package holds no time at all.
    pub source_date_epoch: Option<u64>,
}

impl BuildOptions {
    /// Reads the text of `SOURCE_DATE_EPOCH`. Source: reproducible-builds.org, SOURCE_DATE_EPOCH specification.
    ///
    /// # Errors
    /// [`Error::SourceDateEpoch`] when it is no whole number.
    pub fn from_source_date_epoch(text: Option<&str>) -> Result<Self, Error> {
        let parse =
            |text: &str| text.trim().parse().map_err(|_| Error::SourceDateEpoch(text.chars().take(40).collect()));
        Ok(Self { source_date_epoch: text.map(parse).transpose()? })
    }
}

/// A package that was built.
#[derive(Clone, Debug)]
pub struct Built {
    /// What the package says of itself.
    pub package: Package,
    /// Its name: the digest of its manifest.
    pub digest: Digest,
    /// Size of all its blobs in bytes.
    pub size_bytes: u64,
    /// How long it took.
    pub seconds: f64,
    /// What is allowed but probably not meant.
    pub warnings: Vec<String>,
}

fn read(path: &Path) -> Result<Vec<u8>, Error> {
    fs::read(path).map_err(Error::file("could not read", path))
}

/// Builds the model folder `folder` into `store`.
///
/// # Errors
/// [`Error`]; the registry then has no new version.
pub fn build(folder: &Path, store: &Store, options: &BuildOptions) -> Result<Built, Error> {
    let start = Instant::now();
    let description = describe(folder)?;
    let draft = Draft::new(folder, description)?;
    let (files, sizes) = draft.store_files(folder, store)?;
    let warnings = draft.warnings();
    let package = draft.into_package(files);
    let (digest, rest) = publish(&package, store, options)?;
    Ok(Built { package, digest, size_bytes: sizes + rest, seconds: start.elapsed().as_secs_f64(), warnings })
}

fn describe(folder: &Path) -> Result<Description, Error> {
    let path = folder.join(DESCRIPTION);
    if !path.is_file() {
        return Err(Error::NoDescription(path));
    }
    let text = fs::read_to_string(&path).map_err(Error::file("could not read", &path))?;
    let name = path.display().to_string();
    Description::parse(&text).map_err(|mistakes| Error::Description { text: NamedSource::new(name, text), mistakes })
}

/// A folder that was read and found right.
struct Draft {
    description: Description,
    name: ModelName,
    version: Version,
    runtime: Runtime,
    signature: Signature,
    graph: Option<modelyard_core::package::Graph>,
    samples: Vec<Sample>,
    paths: BTreeSet<String>,
}

impl Draft {
    fn new(folder: &Path, mut description: Description) -> Result<Self, Error> {
        // `Description::parse` refuses a file without these tables, so the fallbacks are never used.
        let (Some(model), Some(runtime)) = (description.model.clone(), description.runtime.take()) else {
            return Err(Error::NoDescription(folder.join(DESCRIPTION)));
        };
        let mut paths = BTreeSet::new();
        for pattern in description.files.iter().chain(&model.card) {
            files::expand(folder, pattern, &mut paths)?;
        }
        let (mut signature, mut graph) = (Signature::default(), None);
        match &runtime {
            Runtime::Onnx { model } => {
                files::expand(folder, model, &mut paths)?;
                let facts = facts(folder, model)?;
                for external in &facts.external {
                    files::expand(folder, &beside(model, external), &mut paths)?;
                }
                (signature, graph) = (facts.signature, Some(facts.graph));
            }
            // A program may read anything beside it: without a list, everything in the folder belongs to the package.
            Runtime::Command { .. } if description.files.is_empty() => everything(folder, &description, &mut paths)?,
            Runtime::Command { .. } => {}
        }
        paths.remove(DESCRIPTION);
        let list = sample_list(folder, description.samples.take())?;
        let samples = samples::read(list, &runtime, &signature)?;
        Ok(Self { name: model.name, version: model.version, description, runtime, signature, graph, samples, paths })
    }

    fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.samples.is_empty() {
            warnings
                .push("the package has no samples: nothing can tell whether an instance answers correctly".to_owned());
        }
        if self.paths.iter().any(|path| [".pkl", ".pickle", ".joblib"].iter().any(|ending| path.ends_with(ending))) {
            warnings.push("the package holds a pickle: loading it runs whatever code is in it".to_owned());
        }
        warnings
    }

    /// Stores every file, reading each once; returns their entries and their size in all.
    fn store_files(&self, folder: &Path, store: &Store) -> Result<(BTreeMap<String, FileEntry>, u64), Error> {
        let (mut entries, mut total) = (BTreeMap::new(), 0);
        for path in &self.paths {
            let full = folder.join(path);
            let mut file = fs::File::open(&full).map_err(Error::file("could not open", &full))?;
            let blob = store.blobs().store(&mut file)?.blob;
            total += blob.size_bytes;
            entries.insert(path.clone(), FileEntry { digest: blob.digest, size_bytes: blob.size_bytes });
        }
        Ok((entries, total))
    }

    fn into_package(self, files: BTreeMap<String, FileEntry>) -> Package {
        let Self { description, name, version, runtime, signature, graph, samples, .. } = self;
        let words = description.model;
        Package {
            format_version: FORMAT_VERSION,
            name,
            version,
            description: words.as_ref().map(|model| model.description.clone()).unwrap_or_default(),
            runtime,
            signature,
            graph,
            samples,
            parameters: description.parameters,
            metrics: description.metrics,
            dependencies: description.dependencies,
            flags: description.flags,
            resources: description.resources,
            files,
            model_card: words.as_ref().and_then(|model| model.card.clone()),
            license: words.as_ref().and_then(|model| model.license.clone()),
            authors: words.map(|model| model.authors).unwrap_or_default(),
            annotations: description.annotations,
        }
    }
}

fn facts(folder: &Path, model: &str) -> Result<onnx::Facts, Error> {
    let path = folder.join(model);
    onnx::read(&read(&path)?).map_err(|source| Error::Onnx { path, source })
}

/// A path beside the model file.
fn beside(model: &str, path: &str) -> String {
    model.rsplit_once('/').map_or_else(|| path.to_owned(), |(parent, _)| format!("{parent}/{path}"))
}

/// All files of the folder but the sample file (its samples are in the document) and what editors and interpreters leave behind.
fn everything(folder: &Path, description: &Description, paths: &mut BTreeSet<String>) -> Result<(), Error> {
    let mut found = BTreeSet::new();
    let mut names: Vec<String> = Vec::new();
    for entry in fs::read_dir(folder).map_err(Error::file("could not read", folder))? {
        let name = entry.map_err(Error::file("could not read", folder))?.file_name().to_string_lossy().into_owned();
        names.push(name);
    }
    let left_out = |name: &str| name.starts_with('.') || name == "__pycache__" || name.ends_with('~');
    for name in names.iter().filter(|name| !left_out(name)) {
        files::expand(folder, name, &mut found)?;
    }
    if let Some(Samples::File(samples)) = &description.samples {
        found.remove(samples);
    }
    paths.extend(found.into_iter().filter(|path| !path.contains("__pycache__/")));
    Ok(())
}

fn sample_list(folder: &Path, samples: Option<Samples>) -> Result<Vec<Value>, Error> {
    let path = match samples {
        None => return Ok(Vec::new()),
        Some(Samples::Inline(list)) => return Ok(list),
        Some(Samples::File(path)) => path,
    };
    files::check(&path)?;
    let bytes = read(&folder.join(&path))?;
    serde_json::from_slice(&bytes)
        .map_err(|error| Error::Sample { name: path, why: format!("the file is no list of samples: {error}") })
}

/// Stores the document, the configuration and the manifest, and gives the version its package; returns its digest and their size.
fn publish(package: &Package, store: &Store, options: &BuildOptions) -> Result<(Digest, u64), Error> {
    let created = options.source_date_epoch.map(rfc3339);
    let document = store.blobs().put(&canonical::to_vec(package))?.blob;
    let config =
        store.blobs().put(&canonical::to_vec(&configuration(package, &document.digest, created.as_deref())))?.blob;
    let layer = |media_type: &str, path: &str, digest, size| Descriptor {
        media_type: media_type.to_owned(),
        digest,
        size,
        artifact_type: None,
        annotations: BTreeMap::from([(oci::FILEPATH.to_owned(), path.to_owned())]),
    };
    let mut layers = vec![layer(oci::WEIGHT_CONFIG, DOCUMENT, document.digest, document.size_bytes)];
    layers.extend(
        package.files.iter().map(|(path, file)| layer(media_type(package, path), path, file.digest, file.size_bytes)),
    );
    let mut annotations = BTreeMap::from([
        (oci::TITLE.to_owned(), package.name.to_string()),
        (oci::VERSION.to_owned(), package.version.to_string()),
    ]);
    annotations.extend(created.map(|created| (oci::CREATED.to_owned(), created)));
    let manifest = Manifest {
        schema_version: 2,
        media_type: oci::MANIFEST.to_owned(),
        artifact_type: Some(oci::MODEL.to_owned()),
        config: Descriptor {
            media_type: oci::MODEL_CONFIG.to_owned(),
            digest: config.digest,
            size: config.size_bytes,
            artifact_type: None,
            annotations: BTreeMap::new(),
        },
        layers,
        annotations,
    };
    let digest = store.add(&package.name, &package.version, &manifest)?;
    Ok((digest, document.size_bytes + config.size_bytes))
}

fn media_type(package: &Package, path: &str) -> &'static str {
    if package.model_card.as_deref() == Some(path) {
        return oci::DOC;
    }
    match package.runtime {
        Runtime::Onnx { .. } => oci::WEIGHT,
        Runtime::Command { .. } => oci::CODE,
    }
}

/// The ModelPack configuration. Source: CNCF ModelPack specification, `config.md`.
fn configuration(package: &Package, document: &Digest, created: Option<&str>) -> Value {
    let layers: Vec<Digest> = [*document].into_iter().chain(package.files.values().map(|file| file.digest)).collect();
    let mut descriptor = json!({"name": package.name, "version": package.version, "description": package.description, "authors": package.authors});
    if let Some(created) = created {
        descriptor["createdAt"] = json!(created);
    }
    if let Some(license) = &package.license {
        descriptor["licenses"] = json!([license]);
    }
    json!({
        "descriptor": descriptor,
        "config": {"format": package.runtime.name()},
        "modelfs": {"type": "layers", "diffIds": layers},
    })
}

/// A package for a bare ONNX file, so that it can be served without a folder of its own. It is stored nowhere and has no samples.
///
/// # Errors
/// [`Error::Onnx`] when the file is no usable model; [`Error::Path`] when weights lie outside its folder.
pub fn package_of_model(path: &Path) -> Result<Package, Error> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let file = path.file_name().and_then(|name| name.to_str());
    let file = file.ok_or_else(|| Error::Path { path: path.display().to_string(), why: "it is not UTF-8" })?;
    let facts = facts(folder, file)?;
    facts.external.iter().try_for_each(|external| files::check(external))?;
    let stem = file.trim_end_matches(".onnx").to_ascii_lowercase();
    let fallback =
        || ModelName::new("model").map_err(|error| Error::Path { path: error.to_string(), why: "it is no name" });
    Ok(Package {
        format_version: FORMAT_VERSION,
        name: ModelName::new(stem).or_else(|_| fallback())?,
        version: Version::new("1").map_err(|error| Error::Path { path: error.to_string(), why: "it is no version" })?,
        description: String::new(),
        runtime: Runtime::Onnx { model: file.to_owned() },
        signature: facts.signature,
        graph: Some(facts.graph),
        samples: Vec::new(),
        parameters: BTreeMap::new(),
        metrics: BTreeMap::new(),
        dependencies: BTreeMap::new(),
        flags: BTreeMap::new(),
        resources: Resources::default(),
        files: BTreeMap::new(),
        model_card: None,
        license: None,
        authors: Vec::new(),
        annotations: BTreeMap::new(),
    })
}

/// RFC 3339 in UTC; seconds past the year 9999 stay there.
fn rfc3339(seconds: u64) -> String {
    let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
    jiff::Timestamp::from_second(seconds).unwrap_or(jiff::Timestamp::MAX).to_string()
}
