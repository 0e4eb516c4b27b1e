//! Loading a bundle: every byte is checked and stored first; only then does anything get a name.

use std::collections::BTreeMap;
use std::path::Path;

use modelyard_core::package::Package;
use modelyard_core::{Digest, ModelName, Version};
use serde::Serialize;

use super::error::BundleError;
use super::file::{Bundle, Root, about};
use super::tree::{called, media_type};
use super::{Item, Kind};
use crate::blob::Blob;
use crate::catalog::Way;
use crate::client::Tell;
use crate::distribution::Distribution;
use crate::distribution::attach::Whole;
use crate::manifest::Descriptor;
use crate::{Error, Store, blob, unpack};

/// What was loaded.
#[derive(Clone, Debug, Serialize)]
pub struct Loaded {
    /// Everything that has a name here now.
    pub items: Vec<Item>,
    /// What was left out.
    pub skipped: Vec<Skipped>,
    /// Blobs that had to be copied.
    pub blobs: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Blobs that were here already.
    pub reused: usize,
}

/// Something that was left out.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Skipped {
    /// What.
    pub name: String,
    /// Why.
    pub why: String,
}

/// Loads everything that the bundle at `path` holds. What is noted of its packages is the name of the file: a bundle proves nothing of where it was made.
///
/// # Errors
/// [`BundleError`]; nothing got a name. Blobs that were copied until then are swept with everything that nothing refers to.
#[tracing::instrument(name = "registry.load", skip_all, fields(path = %path.display()), err)]
pub fn load(distribution: &Distribution, path: &Path, tell: Tell<'_>) -> Result<Loaded, BundleError> {
    let file = path.file_name().unwrap_or_default().to_string_lossy();
    load_from(distribution, path, &Way::bundle(&file), tell)
}

/// [`load`] for a bundle that came on this way.
///
/// # Errors
/// As [`load`].
pub fn load_from(distribution: &Distribution, path: &Path, way: &Way, tell: Tell<'_>) -> Result<Loaded, BundleError> {
    let mut bundle = Bundle::open(path)?;
    let mut loaded = Loaded { items: Vec::new(), skipped: Vec::new(), blobs: 0, bytes: 0, reused: 0 };
    let store = distribution.store();
    fetch(&mut bundle, store, &mut loaded, tell)?;
    store.blobs().sync()?;
    let packages = packages(store, &bundle.roots)?;
    let plan = plan(distribution, &bundle.roots, &packages, &mut loaded)?;
    for (root, place) in plan {
        name(distribution, root, place, way)?;
        loaded.items.push(Item {
            kind: root.kind,
            name: root.name.clone(),
            digest: root.tree.root().descriptor.digest,
            size_bytes: root.tree.size_bytes(),
        });
    }
    Ok(loaded)
}

/// A blob that is to be copied.
struct Part {
    descriptor: Descriptor,
    /// What people call it.
    called: String,
    /// What it belongs to.
    of: String,
    /// Whether the registry needs it: what only carries a file of the package index stays in the bundle.
    needed: bool,
}

fn parts(roots: &[Root]) -> BTreeMap<Digest, Part> {
    let mut parts: BTreeMap<Digest, Part> = BTreeMap::new();
    for root in roots {
        for part in root.tree.parts() {
            let needed = root.kind != Kind::Wheel || root.tree.root().node.layers.contains(part);
            let entry = parts.entry(part.digest).or_insert_with(|| Part {
                descriptor: part.clone(),
                called: called(part, &root.name),
                of: root.name.clone(),
                needed,
            });
            entry.needed |= needed;
        }
    }
    parts
}

/// Reads every blob, and copies those that are not here.
fn fetch(
    bundle: &mut Bundle<std::fs::File>,
    store: &Store,
    loaded: &mut Loaded,
    tell: Tell<'_>,
) -> Result<(), BundleError> {
    let parts = parts(&bundle.roots);
    let all: u64 = parts.values().map(|part| part.descriptor.size).sum();
    let mut done = 0;
    tell(done, all);
    for (digest, part) in parts {
        let size = part.descriptor.size;
        let mut source = bundle.part(&part.descriptor, &part.of)?;
        let stored = match part.needed {
            true => store.blobs().store_expected(&mut source, &digest).map(|stored| Some(stored.reused)),
            false => blob::check(&mut source, &digest).map(|()| None),
        };
        let stored = stored.map_err(|error| match error {
            Error::Damaged { expected, actual } => bundle.damaged(part.called, expected, actual),
            other => other.into(),
        })?;
        done += size;
        tell(done, all);
        match stored {
            Some(true) => loaded.reused += 1,
            Some(false) => {
                loaded.blobs += 1;
                loaded.bytes += size;
            }
            None => {}
        }
    }
    Ok(())
}

/// Every package, read and found right, by its digest.
fn packages(store: &Store, roots: &[Root]) -> Result<BTreeMap<Digest, Package>, BundleError> {
    let mut found = BTreeMap::new();
    for root in roots.iter().filter(|root| root.kind == Kind::Package) {
        let digest = root.tree.root().descriptor.digest;
        let package = store.package(&digest)?;
        unpack::check_paths(&package)?;
        store.may_name(&package.name, &package.version, &digest)?;
        found.insert(digest, package);
    }
    Ok(found)
}

/// Where something will stand.
enum Place {
    Version(ModelName, Version),
    /// Repository, tag, and the package that it is about.
    Repository(String, Option<String>, Option<Digest>),
    /// A file of the package index.
    Index(Blob),
}

/// Finds a place for each thing; what has none is skipped, and what is in the way of another is an error before anything is named.
fn plan<'a>(
    distribution: &Distribution,
    roots: &'a [Root],
    packages: &BTreeMap<Digest, Package>,
    loaded: &mut Loaded,
) -> Result<Vec<(&'a Root, Place)>, BundleError> {
    let mut plan = Vec::new();
    for root in roots {
        let digest = root.tree.root().descriptor.digest;
        let (repository, tag) = root.stands.clone();
        let place = match root.kind {
            Kind::Package => packages
                .get(&digest)
                .map(|package| Place::Version(package.name.clone(), package.version.clone()))
                .ok_or("its document was not read"),
            Kind::Attached => {
                let subject = root.tree.root().node.subject.as_ref().map(|subject| subject.digest);
                let subject = subject.or_else(|| tag.as_deref().and_then(about));
                let repository = match subject.as_ref().and_then(|subject| packages.get(subject)) {
                    Some(package) => Some(package.name.to_string()),
                    None => repository,
                };
                repository
                    .map(|repository| Place::Repository(repository, tag, subject))
                    .ok_or("nothing says of what it speaks")
            }
            Kind::Wheel => {
                let layer = root.tree.root().node.layers.first();
                let blob = layer.map(|layer| Blob { digest: layer.digest, size_bytes: layer.size });
                if let Some(blob) = blob {
                    let refuse = |why| BundleError::Wheel { file: root.name.clone(), why };
                    distribution.python().may_take(&root.name, blob).map_err(refuse)?;
                }
                blob.map(Place::Index).ok_or("it has no file")
            }
            Kind::Image => match (repository, tag) {
                (Some(repository), Some(tag)) => {
                    keep_versions(distribution.store(), &repository, &tag, &digest)?;
                    Ok(Place::Repository(repository, Some(tag), None))
                }
                _ => Err("the index gives it no name of the form NAME:TAG"),
            },
        };
        match place {
            Ok(place) => plan.push((root, place)),
            Err(why) => loaded.skipped.push(Skipped { name: root.name.clone(), why: why.to_owned() }),
        }
    }
    Ok(plan)
}

/// A tag of an image must not stand where a version stands.
fn keep_versions(store: &Store, repository: &str, tag: &str, digest: &Digest) -> Result<(), BundleError> {
    let (Ok(model), Ok(version)) = (ModelName::new(repository), Version::new(tag)) else { return Ok(()) };
    match store.versions(&model).unwrap_or_default().into_iter().any(|listed| listed.version == version) {
        true => Ok(store.may_name(&model, &version, digest)?),
        false => Ok(()),
    }
}

/// Gives it its name.
fn name(distribution: &Distribution, root: &Root, place: Place, way: &Way) -> Result<(), BundleError> {
    let digest = root.tree.root().descriptor.digest;
    match place {
        Place::Version(model, version) => Ok(distribution.store().adopt(&model, &version, &digest, way)?),
        Place::Index(blob) => {
            let refuse = |why| BundleError::Wheel { file: root.name.clone(), why };
            distribution.python().take(&root.name, blob).map_err(refuse)
        }
        Place::Repository(repository, tag, subject) => {
            // What an index lists goes before it, so that nobody sees half of it.
            for (at, manifest) in root.tree.manifests.iter().enumerate().rev() {
                let node = &manifest.node;
                let blobs: Vec<Descriptor> = node.layers.iter().chain(&node.config).cloned().collect();
                // A signature that is here under the same tag stays; this one is found as what refers to the package.
                let tag = tag
                    .as_deref()
                    .filter(|tag| at == 0 && (subject.is_none() || !distribution.has_tag(&repository, tag)));
                distribution.keep_whole(
                    &repository,
                    &Whole {
                        bytes: &manifest.bytes,
                        media_type: media_type(manifest),
                        artifact_type: node.kind(),
                        subject: subject.filter(|_| at == 0).or(node.subject.as_ref().map(|subject| subject.digest)),
                        annotations: serde_json::to_string(&node.annotations).unwrap_or_default(),
                        blobs: &blobs,
                        tag,
                    },
                )?;
            }
            Ok(())
        }
    }
}
