//! What a package was made from: names become digests when it is built.
//!
//! Promises: what is kept does not depend on the machine: versions name one package for ever, and data is named by its digest.

use std::fs::File;
use std::io;
use std::path::Path;

use modelyard_core::Digest;
use modelyard_core::package::{Ancestor, Lineage};
use modelyard_registry::{Reference, Selector, Store};
use sha2::{Digest as _, Sha256};

use crate::description::{DataSet, Description, Placed};
use crate::draft::read;
use crate::{BuildOptions, DESCRIPTION, Error};

/// Looks up the packages, and hashes the files that hold data.
pub(crate) fn resolve(
    description: &Description,
    folder: &Path,
    store: &Store,
    options: &BuildOptions,
) -> Result<Option<Lineage>, Error> {
    let ancestors = options.ancestors.as_ref().unwrap_or(store);
    let mut lineage = Lineage::default();
    if let Some(written) = &description.lineage {
        for reference in &written.built_from {
            let reference = &reference.value;
            let (version, digest) = match &reference.selector {
                // It need not be here: a digest names it wherever it is.
                Selector::Digest(digest) => (None, *digest),
                Selector::Version(version) => (Some(version.clone()), ancestors.resolve(reference)?),
                Selector::Newest | Selector::Alias(_) => continue, // refused when it was read
            };
            lineage.built_from.push(Ancestor { name: reference.model.clone(), version, digest });
        }
        for (name, data) in &written.datasets {
            let digest = match data {
                DataSet::Digest(digest) => *digest,
                DataSet::File(path) => hash(&folder.join(&path.value))?,
            };
            lineage.datasets.insert(name.clone(), digest);
        }
        lineage.source.clone_from(&written.source);
        lineage.revision.clone_from(&written.revision);
    }
    if let Some(revision) = &options.source_revision {
        lineage.revision = Some(revision.clone());
    }
    Ok((lineage != Lineage::default()).then_some(lineage))
}

/// Whether the description of a folder names packages by their version, so that a registry must be asked for them. What is wrong with it is for
/// [`build`](crate::build()) to say.
pub fn needs_ancestors(folder: &Path) -> bool {
    let text = read(&folder.join(DESCRIPTION)).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    let lineage = text.and_then(|text| Description::parse(&text).ok()?.lineage);
    let by_version = |named: &Placed<Reference>| matches!(named.value.selector, Selector::Version(_));
    lineage.is_some_and(|lineage| lineage.built_from.iter().any(by_version))
}

/// Data may be far larger than memory, so it is never held as a whole. That the file is there was seen when the description was read.
fn hash(path: &Path) -> Result<Digest, Error> {
    let mut hash = Hashing(Sha256::new());
    let copied = File::open(path).and_then(|mut file| io::copy(&mut file, &mut hash));
    copied.map_err(Error::file("could not read", path))?;
    Ok(Digest::from_sha256(hash.0.finalize().into()))
}

struct Hashing(Sha256);

impl io::Write for Hashing {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
