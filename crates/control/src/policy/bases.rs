//! Which images container images may be put on: those that were tested, from registries that are known, signed by whom one trusts.
//!
//! Promises: every reason is told at once; a list that is empty demands nothing.

use modelyard_core::{Digest, ModelName};
use modelyard_registry::access::fits;
use modelyard_registry::distribution::Distribution;
use modelyard_registry::trust::signatures;
use serde::{Deserialize, Serialize};

use super::keys;

/// Which images are allowed below.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bases {
    /// Exact images, `NAME@sha256:…`: those that were tested. The digest decides, whatever the name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<String>,
    /// Public keys in PEM; one of them must have signed the image.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub keys: Vec<String>,
    /// Patterns of where it may come from, in which `*` stands for any letters: `registry.example/*`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub registries: Vec<String>,
}

/// An image that is to be built on.
#[derive(Clone, Copy, Debug)]
pub struct BaseImage<'a> {
    /// Registry and repository, `registry.example/debian`; nothing when it came as a file.
    pub place: Option<&'a str>,
    /// Digest of what its name means: an index, or the manifest.
    pub asked: &'a Digest,
    /// Digest of its manifest.
    pub digest: &'a Digest,
    /// Where it is kept in the local registry.
    pub repository: &'a ModelName,
}

impl Bases {
    /// Whether nothing is demanded.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Why an image may not be built on: every reason.
    pub fn reasons(&self, distribution: &Distribution, base: &BaseImage<'_>) -> Vec<String> {
        let mut reasons = Vec::new();
        let registries = &self.registries;
        if !registries.is_empty() && !base.place.is_some_and(|place| registries.iter().any(|one| fits(one, place))) {
            let from = base.place.map_or_else(|| "it came as a file".to_owned(), |place| format!("it is from {place}"));
            reasons.push(format!("{from}, and only {} may be built on", registries.join(" or ")));
        }
        let is = |image: &String| {
            let digest = image.rsplit_once('@').map(|(_, digest)| digest);
            digest.is_some_and(|digest| digest == base.asked.to_string() || digest == base.digest.to_string())
        };
        if !self.images.is_empty() && !self.images.iter().any(is) {
            reasons.push(format!("{} is none of the {} bases that were tested", base.asked, self.images.len()));
        }
        if !self.keys.is_empty() {
            reasons.extend(self.unsigned(distribution, base));
        }
        reasons
    }

    /// Why no signature is one that is demanded. An index may be signed in place of the manifest that it lists.
    fn unsigned(&self, distribution: &Distribution, base: &BaseImage<'_>) -> Option<String> {
        let keys = match keys(&self.keys) {
            Ok(keys) => keys,
            Err(why) => return Some(why),
        };
        let mut others = 0;
        for digest in [base.asked, base.digest] {
            match signatures(distribution, base.repository, digest, &keys) {
                Ok((found, _)) if found.iter().any(|one| one.key.is_some()) => return None,
                Ok((found, _)) => others += found.len(),
                Err(error) => return Some(format!("its signatures cannot be read: {error}")),
            }
        }
        Some(format!("it is signed by none of the {} keys for bases ({others} other signatures)", keys.len()))
    }
}
