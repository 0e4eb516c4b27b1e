//! The format `image`: a container image of a package, made without Docker, root or network.
//!
//! Promises: the same package, program, engine and base give the same bytes; without a base the image holds the server, what it is linked against, the
//! engine and the model, and nothing else; layers stand in the order of how seldom they change, and each large file of the model is a layer of its
//! own, uncompressed, which versions share; base layers are copied byte for byte.
//! Absent on purpose: running anything while it is made (no `RUN`), and compressing weights.
//!
//! Source: OCI image specification 1.1 (manifest, configuration, layer); Docker's image specification 1.2 for `manifest.json` of archives.

mod archive;
mod base;
mod documents;
mod elf;
mod error;
mod layer;
mod python;
mod runtime;
mod tape;

use std::path::Path;

use modelyard_core::Digest;
use modelyard_core::image::PACKAGE_DIR;
use modelyard_core::package::{DOCUMENT, Package, Runtime};
use modelyard_registry::blob::Blobs;
use modelyard_registry::manifest::{Descriptor, IMAGE_CONFIG};

pub use modelyard_registry::manifest::ARCHITECTURE;

pub use self::archive::archive;
#[cfg(fuzzing)]
pub(crate) use self::base::fuzz as fuzz_base;
pub use self::base::{Base, import};
pub(crate) use self::elf::closure;
pub use self::error::ImageError;
pub use self::layer::Layer;
pub(crate) use self::layer::{Content as LayerContent, GZIP, damaged, digest_of};
pub use self::python::Dependencies;
use self::tape::Entries;
pub use crate::written::Written;

/// A file of the model that is at least this long is a layer of its own: 1 MiB. Below, a layer costs more than sharing saves.
const LARGE_BYTES: u64 = 1 << 20;

/// Layers of one image. Docker's overlay file system takes 127.
const MOST_LAYERS: usize = 120;

/// What an image is made of.
#[derive(Clone, Copy, Debug)]
pub struct Ingredients<'a> {
    /// The package.
    pub package: &'a Package,
    /// Its digest.
    pub digest: &'a Digest,
    /// Length of its manifest in bytes.
    pub manifest_bytes: u64,
    /// Its files, laid out.
    pub folder: &'a Path,
    /// Modelyard itself.
    pub program: &'a Path,
    /// The ONNX Runtime library, for packages that need it.
    pub engine: Option<&'a Path>,
    /// What a Python function needs, on a base that has its interpreter.
    pub python: Option<Dependencies<'a>>,
    /// The image below; the empty one when there is none.
    pub base: Option<&'a Base>,
    /// Seconds since 1970 to stamp on everything; 0 unless it is given.
    pub source_date_epoch: Option<u64>,
    /// A folder that remembers compressed layers.
    pub known: Option<&'a Path>,
}

/// An image whose blobs are stored.
#[derive(Clone, Debug)]
pub struct Image {
    /// Digest of its manifest: what `NAME@sha256:…` names.
    pub digest: Digest,
    /// Its manifest.
    pub manifest: Vec<u8>,
    /// Its configuration; Docker's image id is the digest of it.
    pub config: Descriptor,
    /// Its layers, those of the base first.
    pub layers: Vec<Layer>,
    /// What it is called: `wine:2.1.0`.
    pub name: String,
    /// What people should know.
    pub notes: Vec<String>,
    moment: u64,
}

impl Image {
    /// Everything that its manifest refers to.
    pub fn parts(&self) -> Vec<Descriptor> {
        self.layers.iter().map(|layer| layer.descriptor.clone()).chain([self.config.clone()]).collect()
    }

    /// Size of all layers and the configuration in bytes: what a pull moves.
    pub fn size_bytes(&self) -> u64 {
        self.parts().iter().map(|part| part.size).sum()
    }
}

/// Makes the image; its blobs are stored, and nothing names them yet.
///
/// # Errors
/// [`ImageError`].
#[tracing::instrument(name = "image", skip_all, fields(package = %made_of.package.name, version = %made_of.package.version), err)]
pub fn build(blobs: &Blobs, made_of: &Ingredients<'_>) -> Result<Image, ImageError> {
    let package = made_of.package;
    let name = format!("{}:{}", package.name, package.version);
    match package.runtime {
        Runtime::None {} => return Err(ImageError::NothingRuns { name }),
        Runtime::Python { .. } if made_of.base.is_none() || made_of.python.is_none() => {
            return Err(ImageError::Python { name });
        }
        Runtime::Onnx { .. } | Runtime::Command { .. } | Runtime::Python { .. } => {}
    }
    let moment = made_of.source_date_epoch.unwrap_or(0);
    let mut notes = Vec::new();
    let mut layers = made_of.base.map(|base| base.layers.clone()).unwrap_or_default();
    let runtime = runtime::entries(made_of, moment, &mut notes)?;
    layers.push(layer::packed(blobs, "runtime", &runtime, made_of.known)?);
    if let Some(python) = &made_of.python {
        layers.push(layer::packed(blobs, "dependencies", &python::entries(python, moment)?, made_of.known)?);
    }
    layers.extend(files(blobs, made_of, moment, layers.len())?);
    if layers.len() > MOST_LAYERS {
        return Err(ImageError::Layers(layers.len()));
    }
    let config = documents::configuration(made_of, moment, &layers);
    let config = blobs.put(&config)?.blob;
    let config = Descriptor::new(IMAGE_CONFIG, config.digest, config.size_bytes);
    let manifest = documents::manifest(made_of, moment, &layers, &config);
    let digest = blobs.put(&manifest)?.blob.digest;
    Ok(Image { digest, manifest, config, layers, name, notes, moment })
}

/// The layers of the package: large files first, each alone, then all others in one, which changes with every version.
fn files(blobs: &Blobs, made_of: &Ingredients<'_>, moment: u64, below: usize) -> Result<Vec<Layer>, ImageError> {
    let mut large: Vec<_> = made_of.package.files.iter().filter(|(_, entry)| entry.size_bytes >= LARGE_BYTES).collect();
    // Where there are too many, the largest gain most.
    large.sort_by(|one, other| other.1.size_bytes.cmp(&one.1.size_bytes).then(one.0.cmp(other.0)));
    large.truncate(MOST_LAYERS.saturating_sub(below + 1));
    large.sort_by(|one, other| one.0.cmp(other.0));
    let mut layers = Vec::new();
    for (path, _) in &large {
        let mut entries = Entries::new(moment);
        add(made_of, &mut entries, path)?;
        layers.push(layer::plain(blobs, path, &entries)?);
    }
    let mut small = Entries::new(moment);
    for path in made_of.package.files.keys().filter(|path| large.iter().all(|(own, _)| own != path)) {
        add(made_of, &mut small, path)?;
    }
    let document = made_of.folder.join(DOCUMENT);
    small.file(&within(DOCUMENT), 0o444, &document, None).map_err(ImageError::file(&document))?;
    layers.push(layer::packed(blobs, "package", &small, made_of.known)?);
    Ok(layers)
}

/// Where a file of the package stands in the image.
fn within(path: &str) -> String {
    format!("{}/{path}", PACKAGE_DIR.trim_start_matches('/'))
}

/// Adds a file of the package, checked against its digest as it is read.
fn add(made_of: &Ingredients<'_>, entries: &mut Entries, path: &str) -> Result<(), ImageError> {
    let file = made_of.folder.join(path);
    let mode = if is_program(&file).map_err(ImageError::file(&file))? { 0o555 } else { 0o444 };
    let digest = made_of.package.files.get(path).map(|entry| entry.digest);
    entries.file(&within(path), mode, &file, digest).map_err(ImageError::file(&file))
}

/// Whether the system can start a file: its first bytes say so, on every machine alike, which its mode would not.
fn is_program(path: &Path) -> std::io::Result<bool> {
    Ok(elf::is_elf(path)? || is_script(path)?)
}

fn is_script(path: &Path) -> std::io::Result<bool> {
    use std::io::Read as _;
    let mut start = Vec::with_capacity(2);
    std::fs::File::open(path)?.take(2).read_to_end(&mut start)?;
    Ok(start == b"#!")
}
