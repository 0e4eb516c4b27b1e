//! The models of this machine as repositories, and pushed packages as versions of models.
//!
//! Promises: what `modelyard package` built can be pulled under its model's name, version or alias; a package that is pushed under its own
//! name and version becomes that version here, and such a version names one digest for ever; who
//! pushed it is noted, and nothing that the pusher says of where it came from.

use http::StatusCode;
use modelyard_core::{AliasName, ModelName, Version};

use super::Distribution;
use super::answer::{Code, Refusal};
use super::meta::Known;
use crate::catalog::Way;
use crate::digest::AnyDigest;
use crate::manifest::{MANIFEST, MODEL};
use crate::{Error, Listed, Reference, Selector};

impl Distribution {
    fn versions(&self, name: &str) -> Result<Vec<Listed>, Error> {
        let Ok(model) = ModelName::new(name) else { return Ok(Vec::new()) };
        match self.inner.store.versions(&model) {
            Err(Error::NoModel(_)) => Ok(Vec::new()),
            other => other,
        }
    }

    /// Versions and aliases of the model of that name; none when there is no such model.
    pub(super) fn local_tags(&self, name: &str) -> Result<Option<Vec<String>>, Error> {
        let versions = self.versions(name)?;
        let names = |listed: &Listed| {
            let aliases = listed.aliases.iter().map(ToString::to_string);
            std::iter::once(listed.version.to_string()).chain(aliases).collect::<Vec<_>>()
        };
        Ok((!versions.is_empty()).then(|| versions.iter().flat_map(names).collect()))
    }

    /// The digest of a version or alias.
    pub(super) fn local_tag(&self, name: &str, tag: &str) -> Result<Option<AnyDigest>, Error> {
        let Ok(model) = ModelName::new(name) else { return Ok(None) };
        let selectors = [Version::new(tag).ok().map(Selector::Version), AliasName::new(tag).ok().map(Selector::Alias)];
        for selector in selectors.into_iter().flatten() {
            match self.inner.store.resolve(&Reference { model: model.clone(), selector }) {
                Ok(digest) => return Ok(Some(AnyDigest::from(&digest))),
                Err(Error::NoModel(_) | Error::NoVersion { .. } | Error::NoAlias { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    pub(super) fn local_manifest(&self, name: &str, digest: &AnyDigest) -> Result<Option<Known>, Error> {
        let Some(wanted) = digest.sha256() else { return Ok(None) };
        if !self.versions(name)?.iter().any(|listed| listed.digest == wanted) {
            return Ok(None);
        }
        let size = self.inner.store.blobs().size(&wanted)?.ok_or(Error::NoPackage(wanted))?;
        let (media_type, artifact_type) = (MANIFEST.to_owned(), Some(MODEL.to_owned()));
        let annotations = "{}".to_owned();
        Ok(Some(Known { digest: digest.clone(), media_type, size, subject: None, artifact_type, annotations }))
    }

    /// Whether the blob is part of a version of the model of that name.
    pub(super) fn is_of_model(&self, name: &str, digest: &AnyDigest) -> Result<bool, Error> {
        let Some(wanted) = digest.sha256() else { return Ok(false) };
        for listed in self.versions(name)? {
            let manifest = self.inner.store.manifest(&listed.digest)?;
            if manifest.layers.iter().chain([&manifest.config]).any(|part| part.digest == wanted) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A package that is pushed as `NAME:VERSION` becomes that version; another one under the same version is refused.
    pub(super) fn adopt(&self, name: &str, tags: &[String], known: &Known) -> Result<(), Refusal> {
        let Ok(model) = ModelName::new(name) else { return Ok(()) };
        for tag in tags {
            if let Some(taken) = self.versions(name)?.into_iter().find(|listed| listed.version.as_str() == tag) {
                if AnyDigest::from(&taken.digest) != known.digest {
                    let why = format!("`{name}:{tag}` is {} for ever; give the package another version", taken.digest);
                    return Err(Refusal::new(Code::Denied, why).with(StatusCode::CONFLICT));
                }
                // The same package again: whoever pushes it answers for it, too.
                self.inner.store.adopt_within(&model, &taken.version, &taken.digest, &Way::pushed())?;
                continue;
            }
            let (Some(digest), Some(MODEL)) = (known.digest.sha256(), known.artifact_type.as_deref()) else { continue };
            // Only Modelyard's own packages are versions; other model artefacts are kept as what they are.
            let Ok(package) = self.inner.store.package(&digest) else { continue };
            if package.name == model && package.version.as_str() == tag {
                self.inner.store.adopt_within(&model, &package.version, &digest, &Way::pushed())?;
            }
        }
        Ok(())
    }
}
