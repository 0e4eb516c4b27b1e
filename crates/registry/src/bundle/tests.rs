//! Bundles from one registry to another: everything arrives, the same bytes each time, and nothing of what was changed on the way.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use modelyard_core::{Digest, ModelName, Version};
use serde_json::json;
use tempfile::TempDir;

use super::*;
use crate::blob::Blob;
use crate::distribution::Distribution;
use crate::distribution::attach::Whole;
use crate::manifest::{CODE, Descriptor, FILEPATH, INDEX, MANIFEST, MODEL, MODEL_CONFIG, Manifest, WEIGHT_CONFIG};
use crate::trust::{SigningKey, sign, signatures};
use crate::{Error, Store};

struct Site {
    home: TempDir,
    distribution: Distribution,
}

impl Site {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("registry");
        let store = Store::open(&root, home.path().join("unpacked")).unwrap();
        Self { distribution: Distribution::open(&root, store).unwrap(), home }
    }

    fn store(&self) -> &Store {
        self.distribution.store()
    }

    fn package(&self, version: &str, files: &[(&str, &[u8])]) -> Digest {
        let put = |bytes: &[u8]| self.store().blobs().put(bytes).unwrap().blob;
        let layer = |media_type: &str, path: &str, blob: Blob| {
            Descriptor::new(media_type, blob.digest, blob.size_bytes).noted(FILEPATH, path)
        };
        let blobs: Vec<(&str, Blob)> = files.iter().map(|(path, bytes)| (*path, put(bytes))).collect();
        let entry = |blob: &Blob| json!({ "digest": blob.digest, "size_bytes": blob.size_bytes });
        let entries: BTreeMap<&str, _> = blobs.iter().map(|(path, blob)| (*path, entry(blob))).collect();
        let document = json!({
            "format_version": 1, "name": "wine", "version": version, "files": entries,
            "runtime": {"kind": "command", "command": ["./run"], "health": "/"}, "signature": {"inputs": [], "outputs": []},
        });
        let mut layers = vec![layer(WEIGHT_CONFIG, "modelyard.json", put(document.to_string().as_bytes()))];
        layers.extend(blobs.iter().map(|(path, blob)| layer(CODE, path, *blob)));
        let config = put(b"{}");
        let manifest = Manifest {
            schema_version: 2,
            media_type: MANIFEST.into(),
            artifact_type: Some(MODEL.into()),
            config: Descriptor::new(MODEL_CONFIG, config.digest, config.size_bytes),
            layers,
            annotations: BTreeMap::new(),
        };
        self.store().add(&wine(), &Version::new(version).unwrap(), &manifest).unwrap()
    }

    /// An image of two platforms under `server:TAG`.
    fn image(&self, tag: &str) -> Digest {
        let put = |bytes: &[u8]| self.store().blobs().put(bytes).unwrap().blob;
        let keep = |bytes: &[u8], media_type: &str, blobs: &[Descriptor], tag| {
            let (media_type, annotations) = (media_type.to_owned(), "{}".to_owned());
            let whole = Whole { bytes, media_type, artifact_type: None, subject: None, annotations, blobs, tag };
            self.distribution.keep_whole("server", &whole).unwrap();
        };
        let mut listed = Vec::new();
        for platform in ["amd64", "arm64"] {
            let (config, layer) = (put(platform.as_bytes()), put(format!("layer of {platform}").as_bytes()));
            let parts = [
                Descriptor::new("application/vnd.oci.image.config.v1+json", config.digest, config.size_bytes),
                Descriptor::new("application/vnd.oci.image.layer.v1.tar", layer.digest, layer.size_bytes),
            ];
            let manifest =
                json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": parts[0], "layers": [parts[1]] });
            let bytes = manifest.to_string();
            keep(bytes.as_bytes(), MANIFEST, &parts, None);
            listed.push(Descriptor::new(MANIFEST, crate::blob::digest_of(bytes.as_bytes()), bytes.len() as u64));
        }
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": listed }).to_string();
        keep(index.as_bytes(), INDEX, &[], Some(tag));
        crate::blob::digest_of(index.as_bytes())
    }

    /// A wheel of `wine` in the package index.
    fn wheel(&self, version: &str) -> Digest {
        let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
        archive
            .start_file(format!("wine-{version}.dist-info/METADATA"), zip::write::SimpleFileOptions::default())
            .unwrap();
        write!(archive, "Metadata-Version: 2.4\nName: wine\nVersion: {version}\n\n").unwrap();
        let blob = self.store().blobs().put(&archive.finish().unwrap().into_inner()).unwrap().blob;
        self.distribution.python().take(&format!("wine-{version}-py3-none-any.whl"), blob).unwrap();
        blob.digest
    }

    fn bundle(&self, what: &What, name: &str) -> PathBuf {
        let path = self.home.path().join(name);
        create(&self.distribution, what, &path, &|_, _| {}).unwrap();
        path
    }

    fn load(&self, path: &Path) -> Result<Loaded, BundleError> {
        load(&self.distribution, path, &|_, _| {})
    }

    /// Names in this registry: versions, tags of the image, files of the index.
    fn names(&self) -> (usize, Option<String>, usize) {
        let tagged = self.distribution.tagged("server", "1").unwrap().map(|(digest, _)| digest.to_string());
        (
            self.store().list().unwrap().len(),
            tagged,
            self.distribution.python().of_version("wine", "1.0.0").unwrap().len(),
        )
    }
}

fn wine() -> ModelName {
    ModelName::new("wine").unwrap()
}

/// A site with a signed package, a wheel and an image, and everything that there is to carry.
fn full() -> (Site, What, SigningKey, Digest) {
    let site = Site::new();
    let digest = site.package("1.0.0", &[("run", b"#!/bin/sh\n"), ("weights.bin", &[7; 300_000])]);
    let (key, _) = SigningKey::generate(None).unwrap();
    sign(&site.distribution, &wine(), &digest, "wine:1.0.0", &key).unwrap();
    site.wheel("1.0.0");
    site.image("1");
    let what = What { packages: vec![(wine(), digest)], images: vec![("server".into(), "1".into())] };
    (site, what, key, digest)
}

#[test]
fn packages_signatures_wheels_and_images_arrive_whole() {
    let (here, what, key, digest) = full();
    let file = here.bundle(&what, "a.tar");
    let kinds: Vec<Kind> = list(&file).unwrap().items.iter().map(|item| item.kind).collect();
    assert_eq!(kinds, [Kind::Package, Kind::Attached, Kind::Wheel, Kind::Image]);
    let there = Site::new();
    let loaded = there.load(&file).unwrap();
    assert_eq!((loaded.items.len(), loaded.skipped.len(), loaded.reused), (4, 0, 0), "{loaded:?}");
    assert_eq!(there.names(), here.names());
    assert_eq!(there.store().package(&digest).unwrap(), here.store().package(&digest).unwrap());
    there.store().unpack(&digest).unwrap();
    let (found, faults) =
        signatures(&there.distribution, &wine(), &digest, std::slice::from_ref(key.public())).unwrap();
    assert!(faults.is_empty() && found.len() == 1, "{found:?} {faults:?}");
    // Once more: nothing moves and nothing changes. A sweep takes nothing of it.
    let again = there.load(&file).unwrap();
    assert_eq!((again.blobs, again.bytes), (0, 0));
    let swept = there.distribution.sweep_blocking(std::time::Duration::ZERO, false).unwrap();
    assert!(swept.blobs.is_empty(), "everything that was copied is needed: {swept:?}");
    assert_eq!(there.names(), here.names());
    // And back.
    let back = there.bundle(&what, "back.tar");
    assert_eq!(std::fs::read(file).unwrap(), std::fs::read(back).unwrap(), "the way back has the same bytes");
}

#[test]
fn any_changed_byte_of_any_blob_is_found_and_named_and_nothing_is_loaded() {
    let (here, what, ..) = full();
    let file = here.bundle(&what, "a.tar");
    let bytes = std::fs::read(&file).unwrap();
    let mut places: Vec<_> = tape::scan(&mut std::io::Cursor::new(&bytes)).unwrap().into_iter().collect();
    places.retain(|(name, _)| name.starts_with("blobs/"));
    assert!(places.len() > 12, "{places:?}");
    let there = Site::new();
    for (name, place) in places {
        let mut changed = bytes.clone();
        changed[usize::try_from(place.offset + place.size / 2).unwrap()] ^= 4;
        let path = there.home.path().join("changed.tar");
        std::fs::write(&path, changed).unwrap();
        let error = there.load(&path).unwrap_err();
        let BundleError::Damaged { expected, what, .. } = &error else { panic!("{name}: {error:?}") };
        assert!(name.ends_with(&expected.hex()) && !what.is_empty(), "{name}: {error}");
        assert_eq!(there.names(), (0, None, 0), "{name}");
    }
    let mut changed = bytes.clone();
    let at = bytes.windows(9).rposition(|window| window == [7; 9]).unwrap();
    changed[at] ^= 1;
    std::fs::write(&file, changed).unwrap();
    let told = there.load(&file).unwrap_err().to_string();
    assert!(told.contains("`weights.bin` of wine:1.0.0"), "{told}");
    there.load(&here.bundle(&what, "b.tar")).unwrap();
}

#[test]
fn what_is_cut_off_or_lacks_a_blob_is_refused() {
    let (here, what, ..) = full();
    let bytes = std::fs::read(here.bundle(&what, "a.tar")).unwrap();
    let there = Site::new();
    let path = there.home.path().join("cut.tar");
    for length in [0, 100, 512, 5_000, bytes.len() / 2, bytes.len() - 2_048] {
        std::fs::write(&path, &bytes[..length]).unwrap();
        let error = there.load(&path).unwrap_err();
        let fits = matches!(error, BundleError::None { .. } | BundleError::Entry { .. } | BundleError::Lacks { .. });
        assert!(fits, "{length}: {error:?}");
    }
    assert_eq!(there.names(), (0, None, 0));
}

#[test]
fn what_is_in_the_way_is_said_before_anything_gets_a_name() {
    let (here, what, ..) = full();
    let file = here.bundle(&what, "a.tar");
    let other = Site::new();
    let taken = other.package("1.0.0", &[("run", b"another")]);
    let error = other.load(&file).unwrap_err();
    assert!(
        matches!(error, BundleError::Local(Error::VersionTaken { existing, .. }) if existing == taken),
        "{error:?}"
    );
    assert_eq!(other.names(), (1, None, 0));

    let site = Site::new();
    let mut archive = zip::ZipWriter::new(std::io::Cursor::new(Vec::new()));
    let options = zip::write::SimpleFileOptions::default();
    archive.start_file("wine-1.0.0.dist-info/METADATA", options).unwrap();
    archive.write_all(b"Metadata-Version: 2.4\nName: wine\nVersion: 1.0.0\nSummary: other\n\n").unwrap();
    let blob = site.store().blobs().put(&archive.finish().unwrap().into_inner()).unwrap().blob;
    site.distribution.python().take("wine-1.0.0-py3-none-any.whl", blob).unwrap();
    let told = site.load(&file).unwrap_err().to_string();
    assert!(told.contains("wine-1.0.0-py3-none-any.whl") && told.contains("another file"), "{told}");
    assert_eq!(site.names(), (0, None, 1));
}

#[test]
fn a_damaged_blob_here_is_mended_and_one_there_is_not_packed() {
    let (here, what, _, digest) = full();
    let file = here.bundle(&what, "a.tar");
    let weights = here.store().package(&digest).unwrap().files["weights.bin"].digest;
    let path = here.store().blobs().path(&weights);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, [8; 300_000]).unwrap();
    let target = here.home.path().join("never.tar");
    let refused = create(&here.distribution, &what, &target, &|_, _| {}).unwrap_err();
    assert!(
        matches!(refused, BundleError::Local(Error::Damaged { expected, .. }) if expected == weights),
        "{refused:?}"
    );
    assert!(!target.exists());
    assert_eq!(here.load(&file).unwrap().blobs, 1);
    assert_eq!(here.store().blobs().verify(&weights).unwrap(), 300_000);
}

#[test]
fn hostile_indexes_are_refused() {
    let there = Site::new();
    let path = there.home.path().join("hostile.tar");
    let refusal = |entries: &[(&str, Vec<u8>)]| {
        let mut archive = tar::Builder::new(std::fs::File::create(&path).unwrap());
        for (name, bytes) in entries {
            let mut header = tar::Header::new_ustar();
            header.set_size(bytes.len() as u64);
            archive.append_data(&mut header, name, bytes.as_slice()).unwrap();
        }
        archive.finish().unwrap();
        there.load(&path).unwrap_err().to_string()
    };
    let marker = ("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec());
    let index = |text: String| ("index.json", text.into_bytes());
    let blob = |bytes: &[u8]| (format!("blobs/sha256/{}", crate::blob::digest_of(bytes).hex()), bytes.to_vec());
    assert!(refusal(&[("x", vec![1])]).contains("no `oci-layout`"));
    assert!(refusal(std::slice::from_ref(&marker)).contains("no `index.json`"));
    assert!(refusal(&[marker.clone(), index("{}".into())]).contains("`index.json` cannot be read"));
    assert!(refusal(&[marker.clone(), index(r#"{"manifests":[]}"#.into())]).contains("lists nothing"));
    let listed = |bytes: &[u8], size: u64| {
        let listed = Descriptor::new(MANIFEST, crate::blob::digest_of(bytes), size);
        index(json!({ "schemaVersion": 2, "manifests": [listed] }).to_string())
    };
    // An index that lists itself cannot be made; one that claims another length, or too much of it, can.
    let (name, bytes) = blob(b"[]");
    assert!(refusal(&[marker.clone(), listed(b"[]", 2), (&name, bytes.clone())]).contains("cannot be read"));
    assert!(
        refusal(&[marker.clone(), listed(b"[]", 9), (&name, bytes.clone())]).contains("2 bytes, and 9 are announced")
    );
    assert!(refusal(&[marker.clone(), listed(b"[]", 1 << 40), (&name, bytes)]).contains("at most 4194304 bytes"));
    let neither = br#"{"schemaVersion":2}"#;
    let (name, bytes) = blob(neither);
    assert!(refusal(&[marker, listed(neither, 19), (&name, bytes)]).contains("an index has manifests"));
    assert_eq!(there.names(), (0, None, 0));
}
