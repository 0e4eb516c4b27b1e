//! What was said of a package, kept beside it by this process: signatures, provenance, bills of materials; and container images made of it.
//!
//! Promises: the served registry gives the same objects, as referrers and under their tags; a sweep keeps them.

use modelyard_core::{Digest, ModelName, Version};
use serde::Deserialize;

use super::Distribution;
use super::meta::Known;
use crate::digest::AnyDigest;
use crate::found_image::FoundImage;
use crate::manifest::{Descriptor, IMAGE_CONFIG, MANIFEST, MAX_MANIFEST_BYTES};
use crate::names::is_tag;
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

/// What tags of container images end with: `2.1.0-image` is the image of version 2.1.0.
pub(crate) const IMAGE_ENDING: &str = "-image";

/// The tag of an image by the digest that was asked for: that of an index is of no manifest that is kept.
fn asked(digest: &Digest) -> String {
    format!("{ASKED}{}", digest.hex())
}

/// What tags of bases begin with that name them by what was asked for.
const ASKED: &str = "asked-";

/// Most images of one name that are looked through.
const MOST_BASES: usize = 1_000;

/// What is read of an image's manifest.
#[derive(Deserialize)]
struct ImageManifest {
    #[serde(default)]
    annotations: serde_json::Map<String, serde_json::Value>,
}

/// What an image is configured by.
#[derive(Deserialize)]
struct Configured {
    config: Descriptor,
}

/// A container image of a package.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MadeImage {
    /// Digest of its manifest.
    pub digest: Digest,
    /// Whether it was made here, and not pushed or loaded.
    pub made_here: bool,
}

impl Distribution {
    /// Keeps a container image that was made of a package in the repository of its model, as a referrer of the package; the tag that names it,
    /// `VERSION-image`, or none where a version of the model is called so. Images that had the tag before stay under their digests. That it was made here is
    /// noted.
    ///
    /// # Errors
    /// [`Error::NoBlob`] when a part is not stored; [`Error::Document`] when the manifest cannot be read.
    pub fn keep_image(
        &self,
        model: &ModelName,
        version: &Version,
        subject: &Digest,
        manifest: &[u8],
        parts: &[Descriptor],
    ) -> Result<Option<String>, Error> {
        let read: ImageManifest = serde_json::from_slice(manifest).map_err(|error| Error::Document {
            what: "the manifest of the image".to_owned(),
            why: error.to_string(),
        })?;
        let tag = format!("{version}{IMAGE_ENDING}");
        let taken = self.local_tag(model.as_str(), &tag)?.is_some() || !is_tag(&tag);
        let tag = (!taken).then_some(tag);
        let whole = Whole {
            bytes: manifest,
            media_type: MANIFEST.to_owned(),
            artifact_type: Some(IMAGE_CONFIG),
            subject: Some(*subject),
            annotations: serde_json::Value::Object(read.annotations).to_string(),
            blobs: parts,
            tag: tag.as_deref(),
        };
        let image = self.keep_whole(model.as_str(), &whole)?;
        self.inner.store.note_image(model, version, image)?;
        Ok(tag)
    }

    /// The container images of a version of a model: the one that its tag names first, then those that were made here, the newest first, then the others.
    ///
    /// # Errors
    /// When the registry cannot be read.
    pub fn images_of(&self, model: &ModelName, version: &Version, subject: &Digest) -> Result<Vec<MadeImage>, Error> {
        let repository = model.as_str();
        let mut found = self.inner.meta.referrers(repository, &AnyDigest::from(subject))?;
        found.retain(|known| known.artifact_type.as_deref() == Some(IMAGE_CONFIG));
        let named = self.inner.meta.tag(repository, &format!("{version}{IMAGE_ENDING}"))?;
        let named = named.and_then(|digest| digest.sha256());
        let catalog = self.inner.store.catalog()?;
        let notes = catalog.models.get(model).and_then(|entry| entry.versions.get(version));
        let made = notes.map_or(&[][..], |notes| &notes.images);
        let mut images: Vec<_> = found
            .iter()
            .filter_map(|known| known.digest.sha256())
            .map(|digest| (made.iter().position(|known| *known == digest), digest))
            .collect();
        // `None` is less than any place.
        images.sort_by_key(|&(place, digest)| std::cmp::Reverse((Some(digest) == named, place)));
        Ok(images.into_iter().map(|(place, digest)| MadeImage { digest, made_here: place.is_some() }).collect())
    }

    /// Digest of the configuration of a container image.
    ///
    /// # Errors
    /// [`Error::NoBlob`] when the image is not there; [`Error::Document`] when its manifest cannot be read.
    pub fn configuration_of(&self, image: &Digest) -> Result<Digest, Error> {
        let bytes = self.inner.store.blobs().read(image, MAX_MANIFEST_BYTES)?;
        let read: Configured = serde_json::from_slice(&bytes).map_err(|error| Error::Document {
            what: "the manifest of the image".to_owned(),
            why: error.to_string(),
        })?;
        Ok(read.config.digest)
    }

    /// Keeps an image that others are put on, whose parts are stored: under its tag, and under what its digest was asked for.
    ///
    /// # Errors
    /// [`Error::NoBlob`] when a part is not stored.
    pub fn keep_base(&self, repository: &ModelName, tag: Option<&str>, found: &FoundImage) -> Result<(), Error> {
        let by_digest = asked(&found.asked);
        for tag in [Some(by_digest.as_str()), tag].into_iter().flatten() {
            let whole = Whole {
                bytes: &found.manifest,
                media_type: MANIFEST.to_owned(),
                artifact_type: None,
                subject: None,
                annotations: "{}".to_owned(),
                blobs: &found.parts,
                tag: Some(tag),
            };
            self.keep_whole(repository.as_str(), &whole)?;
        }
        Ok(())
    }

    /// The image that is kept in a repository under a tag, or for a digest that was asked for: digest of its manifest.
    ///
    /// # Errors
    /// When the registry cannot be read.
    pub fn base(&self, repository: &ModelName, reference: &str) -> Result<Option<Digest>, Error> {
        let tag = reference.parse().map_or_else(|_| reference.to_owned(), |digest: Digest| asked(&digest));
        let found = self.inner.meta.tag(repository.as_str(), &tag)?;
        Ok(found.as_ref().and_then(AnyDigest::sha256))
    }

    /// What was asked for when the image with this manifest was kept: the digest of an index that lists it, if it came from one, else its own.
    ///
    /// # Errors
    /// When the registry cannot be read.
    pub fn base_asked(&self, repository: &ModelName, digest: &Digest) -> Result<Digest, Error> {
        let (repository, of_image) = (repository.as_str(), AnyDigest::from(digest));
        for tag in self.inner.meta.tags(repository, ASKED, MOST_BASES)? {
            let asked = tag.strip_prefix(ASKED).and_then(|hex| format!("sha256:{hex}").parse::<Digest>().ok());
            if let Some(asked) = asked.filter(|asked| asked != digest)
                && self.inner.meta.tag(repository, &tag)?.as_ref() == Some(&of_image)
            {
                return Ok(asked);
            }
        }
        Ok(*digest)
    }

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
