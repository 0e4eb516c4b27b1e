//! Which image a manifest or an index means on one platform.
//!
//! Promises: an index is followed to the manifest that it names, whose bytes are checked; lists without end are refused.
//!
//! Source: OCI image specification 1.1 (index, manifest, platform).

use modelyard_core::Digest;
use serde::Deserialize;

use crate::blob::digest_of;
use crate::manifest::Descriptor;

/// Most manifests that an index lists, and most layers of an image: Docker takes 127.
const MOST: usize = 1_000;

/// An image that was found for one platform.
#[derive(Clone, Debug, PartialEq)]
pub struct FoundImage {
    /// Digest of what the name means: an index, or the manifest itself.
    pub asked: Digest,
    /// Digest of the manifest.
    pub digest: Digest,
    /// The manifest.
    pub manifest: Vec<u8>,
    /// What it refers to.
    pub parts: Vec<Descriptor>,
}

/// A manifest or an index, as far as it is followed.
#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Vec<Descriptor>,
    #[serde(default)]
    manifests: Vec<Listed>,
}

#[derive(Deserialize)]
struct Listed {
    digest: String,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Deserialize)]
struct Platform {
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    os: String,
}

impl FoundImage {
    /// Follows `bytes`, which are a manifest, or an index whose manifests `read` gives by digest, to the image for Linux on `architecture`.
    ///
    /// # Errors
    /// What is wrong with it, in words, or what `read` says.
    pub fn choose<E>(
        bytes: Vec<u8>,
        architecture: &str,
        wrong: impl Fn(String) -> E,
        mut read: impl FnMut(&Digest) -> Result<Vec<u8>, E>,
    ) -> Result<Self, E> {
        let asked = digest_of(&bytes);
        let (mut manifest, mut document) = (bytes, None);
        // An index may list an index; more than that nobody builds.
        for _ in 0..3 {
            let read_as: Document =
                serde_json::from_slice(&manifest).map_err(|error| wrong(format!("it is no manifest: {error}")))?;
            if read_as.manifests.is_empty() {
                document = Some(read_as);
                break;
            }
            let chosen = pick(&read_as.manifests, architecture).map_err(&wrong)?;
            manifest = read(&chosen)?;
            if digest_of(&manifest) != chosen {
                return Err(wrong(format!("manifest {chosen} has other bytes")));
            }
        }
        let document = document.ok_or_else(|| wrong("its index leads from one to another".to_owned()))?;
        let config = document.config.ok_or_else(|| wrong("its manifest names no configuration".to_owned()))?;
        if document.layers.len() > MOST {
            return Err(wrong(format!("it has more than {MOST} layers")));
        }
        let parts = document.layers.into_iter().chain([config]).collect();
        Ok(Self { asked, digest: digest_of(&manifest), manifest, parts })
    }
}

fn pick(listed: &[Listed], architecture: &str) -> Result<Digest, String> {
    let fits = |one: &&Listed| match &one.platform {
        Some(platform) => platform.os == "linux" && platform.architecture == architecture,
        // A layout of one image need not say for whom it is.
        None => listed.len() == 1,
    };
    let found = listed.iter().take(MOST).find(fits).ok_or_else(|| {
        let platforms = listed.iter().take(20).filter_map(|one| one.platform.as_ref());
        let platforms: Vec<String> = platforms.map(|one| format!("{:.20}/{:.20}", one.os, one.architecture)).collect();
        format!("there is none for linux/{architecture} in it, but for {}", platforms.join(", "))
    })?;
    found.digest.parse().map_err(|_| format!("`{:.100}` is no SHA-256 digest", found.digest))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn chosen(bytes: &serde_json::Value, others: &[Vec<u8>]) -> Result<FoundImage, String> {
        let read = |digest: &Digest| {
            others.iter().find(|bytes| digest_of(bytes) == *digest).cloned().ok_or_else(|| "not there".to_owned())
        };
        FoundImage::choose(bytes.to_string().into_bytes(), "amd64", |why| why, read)
    }

    #[test]
    fn an_index_leads_to_the_one_that_fits_and_says_what_there_is_otherwise() {
        let part = json!({ "mediaType": "x", "digest": digest_of(b"x"), "size": 1 });
        let manifest = json!({ "schemaVersion": 2, "config": part, "layers": [part] });
        let bytes = manifest.to_string().into_bytes();
        let entry = |architecture: &str| {
            json!({ "mediaType": "m", "size": bytes.len(), "digest": digest_of(&bytes),
                "platform": { "os": "linux", "architecture": architecture } })
        };
        let alone = chosen(&manifest, &[]).unwrap();
        assert_eq!((alone.asked, alone.parts.len()), (alone.digest, 2));
        let index = json!({ "manifests": [entry("arm64"), entry("amd64")] });
        let found = chosen(&index, std::slice::from_ref(&bytes)).unwrap();
        assert_eq!(found.digest, alone.digest);
        assert_ne!(found.asked, found.digest);
        let other = chosen(&json!({ "manifests": [entry("s390x")] }), &[]).unwrap_err();
        assert!(other.contains("none for linux/amd64") && other.contains("linux/s390x"), "{other}");
    }

    #[test]
    fn hostile_manifests_are_refused() {
        let digest = digest_of(b"x");
        let nested = json!({ "manifests": [{ "digest": digest }] });
        let circle = FoundImage::choose(
            nested.to_string().into_bytes(),
            "amd64",
            |why| why,
            |_| Ok(nested.to_string().into_bytes()),
        );
        assert!(circle.unwrap_err().contains("other bytes"));
        for (bytes, told) in [
            (json!("text"), "no manifest"),
            (json!({}), "no configuration"),
            (json!({ "manifests": [{ "digest": "sha256:../../x" }] }), "no SHA-256 digest"),
            (json!({ "config": { "mediaType": "x", "digest": digest, "size": -1 } }), "no manifest"),
        ] {
            let why = chosen(&bytes, &[]).unwrap_err();
            assert!(why.contains(told), "{why}");
        }
    }
}
