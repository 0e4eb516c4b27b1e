//! Images that others are put on: taken as they are, and refused when they are not what they say.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use flate2::Compression;
use flate2::write::GzEncoder;
use modelyard_core::Digest;
use modelyard_package::image::{ARCHITECTURE, Base, Image, ImageError, Ingredients, build as image, import};
use modelyard_package::{BuildOptions, build};
use modelyard_registry::Store;
use modelyard_registry::blob::digest_of;
use serde_json::{Value, json};

const GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
const DOCKER_GZIP: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

fn store(home: &Path) -> Store {
    Store::open(home.join("registry"), home.join("unpacked")).unwrap()
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::best());
    packed.write_all(bytes).unwrap();
    packed.finish().unwrap()
}

/// A tar file with these files.
fn tar(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut archive = tar::Builder::new(Vec::new());
    for (path, bytes) in files {
        let mut header = tar::Header::new_gnu();
        header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
        header.set_size(bytes.len() as u64);
        header.set_mode(0o755);
        header.set_cksum();
        archive.append(&header, &bytes[..]).unwrap();
    }
    archive.into_inner().unwrap()
}

/// An OCI layout in a folder, and what is wrong with it.
struct Layout {
    folder: PathBuf,
    layers: Vec<(String, Vec<u8>, Digest)>,
    architecture: &'static str,
}

impl Layout {
    fn of(home: &Path, contents: &[Vec<u8>]) -> Self {
        let layer = |content: &Vec<u8>| (GZIP.to_owned(), gzip(content), digest_of(content));
        Self { folder: home.join("base"), layers: contents.iter().map(layer).collect(), architecture: ARCHITECTURE }
    }

    fn put(&self, bytes: &[u8]) -> Digest {
        let digest = digest_of(bytes);
        let blobs = self.folder.join("blobs/sha256");
        fs::create_dir_all(&blobs).unwrap();
        fs::write(blobs.join(digest.hex()), bytes).unwrap();
        digest
    }

    fn write(&self) -> &Path {
        let config = json!({
            "architecture": self.architecture, "os": "linux",
            "config": { "Env": ["PATH=/opt/bin", "MODELYARD_HTTP=127.0.0.1:1"], "Labels": { "theirs": "kept" } },
            "rootfs": { "type": "layers", "diff_ids": self.layers.iter().map(|layer| layer.2).collect::<Vec<_>>() },
            "history": [{ "created_by": "theirs" }],
        });
        let config = config.to_string();
        let parts = self
            .layers
            .iter()
            .map(|(kind, bytes, _)| json!({ "mediaType": kind, "digest": self.put(bytes), "size": bytes.len() }));
        let manifest = json!({
            "schemaVersion": 2, "layers": parts.collect::<Vec<_>>(),
            "config": { "mediaType": "c", "digest": self.put(config.as_bytes()), "size": config.len() },
        });
        let manifest = manifest.to_string();
        let listed = json!({ "mediaType": "m", "digest": self.put(manifest.as_bytes()), "size": manifest.len() });
        self.index(&json!({ "schemaVersion": 2, "manifests": [listed] }));
        &self.folder
    }

    fn index(&self, index: &Value) {
        fs::create_dir_all(&self.folder).unwrap();
        fs::write(self.folder.join("index.json"), index.to_string()).unwrap();
        fs::write(self.folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    }
}

/// The libraries of this machine that this test is linked against, as a base has them.
fn libraries(without: &[&str]) -> Vec<(&'static str, Vec<u8>)> {
    let (loader, folder) = match ARCHITECTURE {
        "arm64" => ("/lib/ld-linux-aarch64.so.1", "/lib/aarch64-linux-gnu/"),
        _ => ("/lib64/ld-linux-x86-64.so.2", "/lib/x86_64-linux-gnu/"),
    };
    let own = ["libc.so.6", "libm.so.6", "libgcc_s.so.1"].iter().map(|name| format!("{folder}{name}"));
    let paths: Vec<String> = own.chain([loader.to_owned()]).collect();
    let wanted = paths.into_iter().filter(|path| without.iter().all(|without| !path.ends_with(without)));
    wanted
        .map(|path| {
            let bytes = fs::read(&path).unwrap();
            (&*String::leak(path.trim_start_matches('/').to_owned()), bytes)
        })
        .collect()
}

fn based(home: &Path, path: &Path) -> Result<(Base, Image), ImageError> {
    let folder = home.join("model");
    fs::create_dir_all(&folder).unwrap();
    let text = "[model]\nname = \"wine\"\nversion = \"1\"\n[runtime]\nkind = \"command\"\ncommand = [\"python3\"]\nhealth = \"/\"\n";
    fs::write(folder.join("modelyard.toml"), text).unwrap();
    let store = store(home);
    let built = build(&folder, &store, &BuildOptions::default()).unwrap();
    let laid_out = store.unpack(&built.digest).unwrap();
    let found = import(store.blobs(), path)?;
    let base = Base::read(store.blobs(), "registry.example/debian:13", &found.digest)?;
    let made = image(
        store.blobs(),
        &Ingredients {
            package: &built.package,
            digest: &built.digest,
            manifest_bytes: 1,
            folder: &laid_out,
            program: &std::env::current_exe().unwrap(),
            engine: None,
            python: None,
            base: Some(&base),
            source_date_epoch: None,
            known: None,
        },
    )?;
    Ok((base, made))
}

#[track_caller]
fn refused(home: &Path, path: &Path, told: &str) {
    let error = based(home, path).map(drop).expect_err("it was built on");
    assert!(error.to_string().contains(told), "`{error}` does not say `{told}`");
}

#[test]
fn a_base_is_taken_byte_for_byte_and_named() {
    let home = tempfile::tempdir().unwrap();
    let mut layout =
        Layout::of(home.path(), &[tar(&libraries(&["libgcc_s.so.1"])), tar(&[("etc/os-release", vec![1])])]);
    layout.layers[1].0 = DOCKER_GZIP.to_owned();
    let (base, made) = based(home.path(), layout.write()).unwrap();
    for (layer, (_, bytes, diff)) in made.layers.iter().zip(&layout.layers) {
        assert_eq!((layer.descriptor.digest, layer.diff), (digest_of(bytes), *diff));
        assert_eq!(layer.descriptor.media_type, GZIP);
    }
    let what: Vec<&str> = made.layers.iter().map(|layer| layer.what.as_str()).collect();
    assert_eq!(what, ["base", "base", "runtime", "package"]);
    let store = store(home.path());
    let config: Value = serde_json::from_slice(&store.blobs().read(&made.config.digest, 1 << 20).unwrap()).unwrap();
    let environment: Vec<&str> = config["config"]["Env"].as_array().unwrap().iter().filter_map(Value::as_str).collect();
    assert!(environment.contains(&"PATH=/opt/bin") && environment.contains(&"MODELYARD_HTTP=0.0.0.0:8080"));
    assert!(!environment.contains(&"MODELYARD_HTTP=127.0.0.1:1"), "{environment:?}");
    let labels = &config["config"]["Labels"];
    assert_eq!(labels["theirs"], "kept");
    assert_eq!(labels["org.opencontainers.image.base.name"], "registry.example/debian:13");
    assert_eq!(labels["org.opencontainers.image.base.digest"], base.digest.to_string());
    let diffs: Vec<String> = made.layers.iter().map(|layer| layer.diff.to_string()).collect();
    assert_eq!(config["rootfs"]["diff_ids"], json!(diffs));
    // A program that the package does not hold may well be in the base: nobody is warned.
    assert!(made.notes.is_empty(), "{:?}", made.notes);
    // What the base has is not brought a second time, and what it lacks is.
    let runtime = fs::File::open(store.blobs().path(&made.layers[2].descriptor.digest)).unwrap();
    let mut archive = tar::Archive::new(flate2::read::GzDecoder::new(runtime));
    let names: Vec<String> =
        archive.entries().unwrap().map(|entry| entry.unwrap().path().unwrap().display().to_string()).collect();
    assert!(
        names.contains(&"modelyard".to_owned()) && !names.iter().any(|name| name.ends_with("libc.so.6")),
        "{names:?}"
    );
    assert!(names.iter().any(|name| name.ends_with("libgcc_s.so.1")), "{names:?}");
    assert!(!names.iter().any(|name| name.starts_with("etc") || name.starts_with("tmp")), "{names:?}");
}

#[test]
fn a_layout_in_an_archive_is_the_same_base() {
    let home = tempfile::tempdir().unwrap();
    let layout = Layout::of(home.path(), &[tar(&libraries(&[]))]);
    let (base, _) = based(home.path(), layout.write()).unwrap();
    let archive = home.path().join("base.tar");
    let mut command = std::process::Command::new("tar");
    let packed = command.arg("-cf").arg(&archive).arg("-C").arg(&layout.folder).arg(".");
    assert!(packed.status().unwrap().success());
    let other = tempfile::tempdir().unwrap();
    assert_eq!(based(other.path(), &archive).unwrap().0.digest, base.digest);
    fs::write(&archive, "no archive at all, but long enough to be looked at").unwrap();
    refused(other.path(), &archive, "cannot be used");
}

#[test]
fn a_base_without_a_c_library_or_with_an_old_one_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let musl = vec![("lib/ld-musl-x86_64.so.1", vec![1]), ("lib/libc.musl-x86_64.so.1", vec![1])];
    refused(home.path(), Layout::of(home.path(), &[tar(&musl)]).write(), "which Modelyard is started by");
    let mut old = libraries(&["libc.so.6"]);
    old.push(("lib/libc.so.6", b"..GLIBC_2.2.5\0..GLIBC_2.9\0".to_vec()));
    refused(home.path(), Layout::of(home.path(), &[tar(&old)]).write(), "its C library is 2.9");
}

#[test]
fn hostile_bases_are_refused() {
    let home = tempfile::tempdir().unwrap();
    let right = tar(&libraries(&[]));
    let layout = || Layout::of(home.path(), std::slice::from_ref(&right));

    let mut foreign = layout();
    foreign.architecture = "s390x";
    refused(home.path(), foreign.write(), "it is for linux/s390x");
    let mut lies = layout();
    lies.layers[0].2 = digest_of(b"something else");
    refused(home.path(), lies.write(), "and the configuration says");
    let mut unread = layout();
    unread.layers[0].0 = "application/vnd.oci.image.layer.v1.tar+zstd".to_owned();
    refused(home.path(), unread.write(), "tar+zstd` are not read");
    let mut cut = layout();
    cut.layers[0].1.truncate(1 << 20);
    refused(home.path(), cut.write(), "it is damaged");
    refused(home.path(), Layout::of(home.path(), &[tar(&[("../../etc/passwd", vec![1])])]).write(), "leaves the root");
    // Zeros that shrink to a thousandth.
    refused(home.path(), Layout::of(home.path(), &[vec![0; 128 << 20]]).write(), "swells beyond reason");

    let changed = layout();
    let path = changed.folder.join("blobs/sha256").join(digest_of(&changed.layers[0].1).hex());
    changed.write();
    let mut bytes = fs::read(&path).unwrap();
    bytes[1000] ^= 1;
    fs::write(&path, bytes).unwrap();
    let other = tempfile::tempdir().unwrap();
    refused(other.path(), &changed.folder, "has other bytes");
    fs::remove_file(&path).unwrap();
    refused(other.path(), &changed.folder, "No such file");
    changed.index(&json!({ "manifests": [] }));
    refused(other.path(), &changed.folder, "it lists 0 images");
    changed.index(&json!({ "manifests": [{ "mediaType": "m", "digest": "../../../etc/passwd", "size": 1 }] }));
    refused(other.path(), &changed.folder, "its index cannot be read");
}
