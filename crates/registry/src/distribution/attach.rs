//! What was said of a package, kept beside it by this process: signatures, provenance, bills of materials.
//!
//! Promises: the served registry gives the same objects, as referrers and under their tags; a sweep keeps them.

use modelyard_core::Digest;

use super::meta::Known;
use super::{AnyDigest, Distribution};
use crate::manifest::Descriptor;
use crate::{Error, Store};

/// A manifest of any kind, whose parts are stored already.
pub(crate) struct Whole<'a> {
    /// Its bytes.
    pub bytes: &'a [u8],
    /// Its media type.
    pub media_type: String,
    /// What kind of artefact it is.
    pub artifact_type: Option<&'a str>,
    /// What it refers to.
    pub subject: Option<Digest>,
    /// Its annotations, as JSON.
    pub annotations: String,
    /// The blobs that it is made of.
    pub blobs: &'a [Descriptor],
    /// The tag that will name it.
    pub tag: Option<&'a str>,
}

impl Distribution {
    /// Keeps a manifest in a repository; its digest.
    pub(crate) fn keep_whole(&self, repository: &str, whole: &Whole<'_>) -> Result<Digest, Error> {
        let _gate = self.inner.gate.together_here()?;
        let blobs = self.inner.store.blobs();
        for part in whole.blobs {
            if blobs.size(&part.digest)? != Some(part.size) {
                return Err(Error::NoBlob(part.digest));
            }
            self.inner.meta.link(repository, &AnyDigest::from(&part.digest))?;
        }
        let digest = blobs.put(whole.bytes)?.blob.digest;
        blobs.sync()?;
        let known = Known {
            digest: AnyDigest::from(&digest),
            media_type: whole.media_type.clone(),
            size: whole.bytes.len() as u64,
            subject: whole.subject.map(|subject| subject.to_string()),
            artifact_type: whole.artifact_type.map(str::to_owned),
            annotations: whole.annotations.clone(),
        };
        let tags: Vec<String> = whole.tag.map(str::to_owned).into_iter().collect();
        self.inner.meta.put_manifest(repository, &known, &tags).map(|()| digest)
    }

    /// What a tag of a repository names: digest and media type.
    pub(crate) fn tagged(&self, repository: &str, tag: &str) -> Result<Option<(AnyDigest, String)>, Error> {
        let Some(digest) = self.inner.meta.tag(repository, tag)? else { return Ok(None) };
        let known = self.inner.meta.manifest(repository, &digest)?;
        Ok(known.map(|known| (known.digest, known.media_type)))
    }

    /// The package index.
    pub(crate) fn python(&self) -> &crate::python::Index {
        &self.inner.python
    }

    /// The local registry whose packages are served.
    pub fn store(&self) -> &Store {
        &self.inner.store
    }

    /// Every blob that is kept, whoever refers to it.
    pub(crate) fn blobs(&self) -> Result<Vec<AnyDigest>, Error> {
        Ok(self.inner.blobs.list()?.into_iter().map(|object| object.digest).collect())
    }

    /// Reads a whole blob where it is kept and checks its digest; its length.
    pub(crate) fn verify(&self, digest: &AnyDigest) -> Result<u64, Error> {
        self.inner.blobs.verify(digest)
    }

    /// Whether something has the tag; also when that cannot be told.
    pub(crate) fn has_tag(&self, repository: &str, tag: &str) -> bool {
        self.inner.meta.tag(repository, tag).map_or(true, |found| found.is_some())
    }

    /// Takes an object away that another one replaces.
    pub(crate) fn detach(&self, repository: &str, digest: &Digest) -> Result<(), Error> {
        self.inner.meta.delete_manifest(repository, &AnyDigest::from(digest)).map(drop)
    }

    /// Objects that refer to a package of `repository`, or that have one of its `tags`; by digest, each with its tag.
    pub(crate) fn attached(
        &self,
        repository: &str,
        subject: &Digest,
        tags: &[String],
    ) -> Result<Vec<(Digest, Option<String>)>, Error> {
        let mut found = Vec::new();
        for tag in tags {
            if let Some(digest) = self.inner.meta.tag(repository, tag)?.as_ref().and_then(AnyDigest::sha256) {
                found.push((digest, Some(tag.clone())));
            }
        }
        for known in self.inner.meta.referrers(repository, &AnyDigest::from(subject))? {
            // A package that names another one as its subject is a package still.
            if let Some(digest) = known.digest.sha256()
                && known.artifact_type.as_deref() != Some(crate::manifest::MODEL)
                && found.iter().all(|(there, _)| *there != digest)
            {
                found.push((digest, None));
            }
        }
        Ok(found)
    }
}
