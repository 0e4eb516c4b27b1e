//! Making a bundle: everything is gathered first, then written in one order, each byte checked on its way.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use modelyard_core::{Digest, ModelName, Version};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::error::BundleError;
use super::file::Bundle;
use super::tree::{Tree, called, is_index, walk};
use super::{Contents, PYTHON_FILE, REPOSITORY};
use crate::blob::digest_of;
use crate::client::Tell;
use crate::distribution::Distribution;
use crate::manifest::{Descriptor, INDEX, MANIFEST, MAX_MANIFEST_BYTES, REF_NAME, TITLE, VERSION};
use crate::python::{normalise, normalise_version};
use crate::trust::object::{ENDINGS, tag};
use crate::{Error, leftovers};

/// Media type of a configuration that says nothing, and the only bytes that it has. Source: OCI image specification 1.1.
const EMPTY: (&str, &[u8]) = ("application/vnd.oci.empty.v1+json", b"{}");

/// What goes into a bundle.
#[derive(Clone, Debug, Default)]
pub struct What {
    /// Packages. Signatures and wheels come along.
    pub packages: Vec<(ModelName, Digest)>,
    /// Images and other artefacts that were pushed to this registry: repository and tag.
    pub images: Vec<(String, String)>,
}

/// What was gathered: the index, and every blob in the order in which it is written.
#[derive(Default)]
struct Gathered {
    listed: Vec<Descriptor>,
    parts: Vec<(Descriptor, String)>,
    seen: BTreeSet<Digest>,
    /// Blobs that are in no registry.
    made: BTreeMap<Digest, Vec<u8>>,
}

/// Writes a bundle to `path`, in place of what is there.
///
/// # Errors
/// [`BundleError`]; nothing is left behind, and what was there stays.
pub fn create(distribution: &Distribution, what: &What, path: &Path, tell: Tell<'_>) -> Result<Contents, BundleError> {
    let mut gathered = Gathered::default();
    for (model, digest) in &what.packages {
        package(distribution, model, digest, &mut gathered)?;
    }
    for (repository, tag) in &what.images {
        image(distribution, repository, tag, &mut gathered)?;
    }
    write(distribution, &gathered, path, tell)?;
    Ok(Bundle::open(path)?.contents())
}

/// A package, what was said of it, and its wheels.
fn package(
    distribution: &Distribution,
    model: &ModelName,
    digest: &Digest,
    gathered: &mut Gathered,
) -> Result<(), BundleError> {
    let store = distribution.store();
    let package = store.package(digest)?;
    let name = format!("{}:{}", package.name, package.version);
    let size = store.blobs().size(digest)?.ok_or(Error::NoPackage(*digest))?;
    let listed = Descriptor::new(MANIFEST, *digest, size).noted(REF_NAME, &name);
    if !gathered.add(distribution, listed, &name)? {
        return Ok(());
    }
    let tags = ENDINGS.map(|ending| tag(digest, ending));
    for (object, tag) in distribution.attached(model.as_str(), digest, &tags)? {
        let size = store.blobs().size(&object)?.ok_or(Error::NoBlob(object))?;
        let listed = Descriptor::new(MANIFEST, object, size).noted(REPOSITORY, model.as_str());
        let listed = match &tag {
            Some(tag) => listed.noted(REF_NAME, format!("{model}:{tag}")),
            None => listed,
        };
        gathered.add(distribution, listed, &format!("what was said of {name}"))?;
    }
    wheels(distribution, &package.name, &package.version, gathered)
}

/// The files of the package index that are this version of the model.
fn wheels(
    distribution: &Distribution,
    model: &ModelName,
    version: &Version,
    gathered: &mut Gathered,
) -> Result<(), BundleError> {
    let Some((project, version)) = normalise(model.as_str()).zip(normalise_version(version.as_str())) else {
        return Ok(());
    };
    for file in distribution.python().of_version(&project, &version)? {
        let config = gathered.make(EMPTY.0, EMPTY.1.to_vec());
        let layer = Descriptor::new("application/octet-stream", file.digest, file.size).noted(TITLE, &file.filename);
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": PYTHON_FILE, "config": config, "layers": [layer],
            "annotations": { TITLE: project, VERSION: version },
        });
        let manifest = gathered.make(MANIFEST, manifest.to_string().into_bytes());
        let listed = Descriptor { artifact_type: Some(PYTHON_FILE.to_owned()), ..manifest };
        gathered.add(distribution, listed.noted(TITLE, &file.filename), &file.filename)?;
    }
    Ok(())
}

/// An image with all of its platforms.
fn image(distribution: &Distribution, repository: &str, tag: &str, gathered: &mut Gathered) -> Result<(), BundleError> {
    let name = format!("{repository}:{tag}");
    let (digest, media_type) =
        distribution.tagged(repository, tag)?.ok_or_else(|| BundleError::NoImage(name.clone()))?;
    let Ok(digest) = digest.to_string().parse::<Digest>() else {
        let why = "it is named by another digest than SHA-256, which bundles do not carry".to_owned();
        return Err(BundleError::Manifest { what: name, why });
    };
    let size = distribution.store().blobs().size(&digest)?.ok_or(Error::NoBlob(digest))?;
    let kind = if is_index(&media_type) { INDEX } else { media_type.as_str() };
    gathered.add(distribution, Descriptor::new(kind, digest, size).noted(REF_NAME, &name), &name)?;
    Ok(())
}

impl Gathered {
    /// A small blob that only the bundle has.
    fn make(&mut self, media_type: &str, bytes: Vec<u8>) -> Descriptor {
        let descriptor = Descriptor::new(media_type, digest_of(&bytes), bytes.len() as u64);
        self.made.insert(descriptor.digest, bytes);
        descriptor
    }

    /// Adds something with everything that it refers to; whether it is new.
    fn add(&mut self, distribution: &Distribution, listed: Descriptor, name: &str) -> Result<bool, BundleError> {
        if self.listed.contains(&listed) {
            return Ok(false);
        }
        let blobs = distribution.store().blobs();
        let tree: Tree = walk(&listed, &mut |part| match self.made.get(&part.digest) {
            Some(bytes) => Ok(bytes.clone()),
            None => Ok(blobs.read(&part.digest, MAX_MANIFEST_BYTES)?),
        })?;
        for part in tree.parts() {
            if self.seen.insert(part.digest) {
                self.parts.push((part.clone(), called(part, name)));
            }
        }
        let kind = tree.root().node.artifact_type.clone();
        self.listed.push(Descriptor { artifact_type: listed.artifact_type.clone().or(kind), ..listed });
        Ok(true)
    }
}

/// Writes the archive beside its place and gives it its name once it is whole.
fn write(distribution: &Distribution, gathered: &Gathered, path: &Path, tell: Tell<'_>) -> Result<(), BundleError> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let failed = || BundleError::file("could not write", path);
    let temporary = leftovers::file_in(folder).map_err(failed())?;
    let mut archive = tar::Builder::new(BufWriter::with_capacity(256 << 10, temporary.as_file()));
    let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": gathered.listed }).to_string();
    for (name, bytes) in [("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#), ("index.json", &index)] {
        append(&mut archive, name, bytes.len() as u64, bytes.as_bytes()).map_err(failed())?;
    }
    let all: u64 = gathered.parts.iter().map(|(part, _)| part.size).sum();
    let mut done = 0;
    tell(done, all);
    for (part, what) in &gathered.parts {
        let source: Box<dyn Read> = match gathered.made.get(&part.digest) {
            Some(bytes) => Box::new(bytes.as_slice()),
            None => Box::new(distribution.store().blobs().open_blob(&part.digest)?),
        };
        let mut source = Checked {
            source: source.take(part.size),
            hash: Sha256::new(),
            told: |more| {
                done += more;
                tell(done, all);
            },
        };
        let entry = format!("blobs/sha256/{}", part.digest.hex());
        append(&mut archive, &entry, part.size, &mut source).map_err(failed())?;
        let actual = Digest::from_sha256(source.hash.finalize().into());
        if actual != part.digest {
            tracing::error!(%what, "a blob of the local registry is damaged");
            return Err(Error::Damaged { expected: part.digest, actual }.into());
        }
    }
    let mut sink = archive.into_inner().map_err(failed())?;
    sink.flush().map_err(failed())?;
    drop(sink);
    let file = temporary.as_file();
    file.set_permissions(std::fs::Permissions::from_mode(0o644)).and_then(|()| file.sync_all()).map_err(failed())?;
    temporary.persist(path).map_err(|error| failed()(error.error))?;
    Ok(())
}

/// One entry: no owner, no time, one mode.
fn append(archive: &mut tar::Builder<impl Write>, name: &str, size: u64, source: impl Read) -> io::Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_size(size);
    header.set_mode(0o644);
    archive.append_data(&mut header, name, source)
}

/// Hashes what passes, and tells how much.
struct Checked<R, F> {
    source: R,
    hash: Sha256,
    told: F,
}

impl<R: Read, F: FnMut(u64)> Read for Checked<R, F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.source.read(buffer)?;
        self.hash.update(&buffer[..length]);
        (self.told)(length as u64);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::super::file::about;
    use super::*;

    #[test]
    fn tags_of_cosign_name_their_package() {
        let digest = digest_of(b"package");
        assert_eq!(about(&tag(&digest, "sig")), Some(digest));
        assert_eq!(about(&tag(&digest, "exe")), None);
        assert_eq!(about("latest"), None);
        assert_eq!(about("1.0.0"), None);
    }
}
