//! Container images made from the examples: the same bytes everywhere, and whatever is put in that does not belong there is refused.
//!
//! Whether Docker, skopeo and registries take them is tried by `tests/images.rs`.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};

use flate2::read::GzDecoder;
use modelyard_core::Digest;
use modelyard_package::image::{Image, ImageError, Ingredients, archive, build as image};
use modelyard_package::{BuildOptions, Built, build};
use modelyard_registry::Store;
use modelyard_registry::blob::digest_of;
use serde_json::{Value, json};

fn store(home: &Path) -> Store {
    Store::open(home.join("registry"), home.join("unpacked")).unwrap()
}

/// A program that needs no libraries beside those of every machine: this test itself.
fn program() -> PathBuf {
    std::env::current_exe().unwrap()
}

/// A model folder with the runtime `command`, these files and this program.
fn folder(home: &Path, command: &str, files: &[(&str, &[u8])]) -> PathBuf {
    let folder = home.join("model");
    fs::create_dir_all(&folder).unwrap();
    let names: Vec<&str> = files.iter().map(|(name, _)| *name).collect();
    let text = format!(
        "files = {names:?}\n[model]\nname = \"wine\"\nversion = \"2.1.0\"\nlicense = \"MIT\"\n[runtime]\n\
         kind = \"command\"\ncommand = [{command:?}]\nhealth = \"/\"\n[lineage]\nrevision = \"abc\"\n"
    );
    fs::write(folder.join("modelyard.toml"), text).unwrap();
    files.iter().for_each(|(name, bytes)| fs::write(folder.join(name), bytes).unwrap());
    folder
}

fn built(home: &Path, command: &str, files: &[(&str, &[u8])]) -> Built {
    build(&folder(home, command, files), &store(home), &BuildOptions::default()).unwrap()
}

/// The image of a package, with `edit` applied to what it is made of.
fn made(home: &Path, built: &Built, program: &Path, epoch: Option<u64>) -> Result<Image, ImageError> {
    let store = store(home);
    let laid_out = store.unpack(&built.digest).unwrap();
    let known = home.join("known");
    image(
        store.blobs(),
        &Ingredients {
            package: &built.package,
            digest: &built.digest,
            manifest_bytes: store.blobs().size(&built.digest).unwrap().unwrap(),
            folder: &laid_out,
            program,
            engine: None,
            python: None,
            base: None,
            source_date_epoch: epoch,
            known: Some(&known),
        },
    )
}

fn json_of(store: &Store, digest: &Digest) -> Value {
    serde_json::from_slice(&store.blobs().read(digest, 1 << 20).unwrap()).unwrap()
}

/// Paths, modes and contents of a layer.
fn content(store: &Store, image: &Image, index: usize) -> BTreeMap<String, (u32, Vec<u8>)> {
    let layer = &image.layers[index];
    let file = fs::File::open(store.blobs().path(&layer.descriptor.digest)).unwrap();
    let source: Box<dyn Read> = match layer.descriptor.media_type.ends_with("gzip") {
        true => Box::new(GzDecoder::new(file)),
        false => Box::new(file),
    };
    let mut whole = Vec::new();
    { source }.read_to_end(&mut whole).unwrap();
    assert_eq!(digest_of(&whole), layer.diff, "the digest of the tar file is the one that is told");
    let mut found = BTreeMap::new();
    for entry in tar::Archive::new(&whole[..]).entries().unwrap() {
        let mut entry = entry.unwrap();
        let (uid, gid) = (entry.header().uid().unwrap(), entry.header().gid().unwrap());
        assert_eq!((uid, gid), (0, 0), "nobody's user of this machine is in it");
        let (path, mode) = (entry.path().unwrap().display().to_string(), entry.header().mode().unwrap());
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes).unwrap();
        found.insert(path, (mode, bytes));
    }
    found
}

#[test]
fn a_project_of_29_gib_gives_an_image_of_what_was_listed() {
    let (alone, project) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let files: &[(&str, &[u8])] = &[("run", b"#!/bin/sh\n"), ("weights.bin", &[7; 3000])];
    // Holes, in places where such files lie: a data set beside the model, and an environment.
    let model = project.path().join("model");
    for path in ["data/raw.bin", ".venv/lib/libtorch.so", "checkpoint.bin"] {
        fs::create_dir_all(model.join(path).parent().unwrap()).unwrap();
        fs::File::create(model.join(path)).unwrap().set_len(29 << 30).unwrap();
    }
    let [image, small] =
        [project.path(), alone.path()].map(|home| made(home, &built(home, "run", files), &program(), None).unwrap());
    assert_eq!(image.digest, small.digest);
    let disk = |path: &Path| fs::metadata(path).unwrap().len();
    assert!(image.size_bytes() < disk(&program()) + (1 << 20), "{} bytes", image.size_bytes());
}

#[test]
fn layers_stand_by_how_seldom_they_change_and_hold_what_they_say() {
    let home = tempfile::tempdir().unwrap();
    let weights = vec![7; 2 << 20];
    let files = [("weights.bin", &weights[..]), ("small.bin", b"small"), ("run.sh", b"#!/bin/sh\n")];
    let built = built(home.path(), "run.sh", &files);
    let image = made(home.path(), &built, &program(), None).unwrap();
    let store = store(home.path());
    let what: Vec<&str> = image.layers.iter().map(|layer| layer.what.as_str()).collect();
    assert_eq!(what, ["runtime", "weights.bin", "package"]);
    let runtime = content(&store, &image, 0);
    assert!(runtime["modelyard"].1 == fs::read(program()).unwrap());
    assert_eq!(runtime["tmp/"].0, 0o1777);
    assert!(runtime["etc/passwd"].1.ends_with(b"modelyard:x:65532:65532:modelyard:/nonexistent:/nonexistent\n"));
    let files: Vec<&str> = runtime.keys().map(String::as_str).filter(|path| !path.ends_with('/')).collect();
    assert!(files.iter().any(|path| path.ends_with("libc.so.6")), "{files:?}");
    assert!(files.iter().any(|path| path.contains("ld-linux")), "{files:?}");
    // The server, what it is linked against, and who it is: nothing else.
    let ours = |path: &str| ["modelyard", "etc/passwd", "etc/group"].contains(&path) || path.contains(".so");
    assert!(files.iter().all(|path| ours(path)) && files.len() < 12, "{files:?}");
    // Weights are found by their content by whoever has the same.
    assert_eq!(image.layers[1].descriptor.digest, image.layers[1].diff);
    let large = content(&store, &image, 1);
    assert_eq!(large.keys().collect::<Vec<_>>(), ["package/", "package/weights.bin"]);
    assert!(large["package/weights.bin"] == (0o444, weights.clone()));
    let small = content(&store, &image, 2);
    let names: Vec<&String> = small.keys().collect();
    assert_eq!(names, ["package/", "package/modelyard.json", "package/run.sh", "package/small.bin"]);
    assert_eq!(small["package/run.sh"].0, 0o555);
    assert!(image.notes[0].contains("is a script"), "{:?}", image.notes);

    let config = json_of(&store, &image.config.digest);
    assert_eq!(config["config"]["User"], "65532:65532");
    assert_eq!(config["config"]["Entrypoint"], json!(["/modelyard"]));
    assert_eq!(config["config"]["Cmd"], json!(["serve"]));
    let labels = &config["config"]["Labels"];
    assert_eq!(labels["io.modelyard.package.digest"], built.digest.to_string());
    assert_eq!(labels["org.opencontainers.image.licenses"], "MIT");
    assert_eq!(labels["org.opencontainers.image.revision"], "abc");
    assert_eq!(config["rootfs"]["diff_ids"].as_array().unwrap().len(), 3);
    let manifest: Value = serde_json::from_slice(&image.manifest).unwrap();
    assert_eq!(manifest["subject"]["digest"], built.digest.to_string());
    assert_eq!(&manifest["annotations"], labels);
}

#[test]
fn two_builds_have_the_same_bytes_and_time_comes_from_outside() {
    let files: [(&str, &[u8]); 2] = [("weights.bin", &[9; 3 << 20]), ("run.sh", b"#!/bin/sh\n")];
    let archived = |epoch: Option<u64>| {
        let home = tempfile::tempdir().unwrap();
        let built = built(home.path(), "run.sh", &files);
        let image = made(home.path(), &built, &program(), epoch).unwrap();
        let path = home.path().join("out/image.tar");
        let written = archive(store(home.path()).blobs(), &image, &path).unwrap();
        let bytes = fs::read(&path).unwrap();
        assert_eq!((written.size_bytes, written.digest), (bytes.len() as u64, digest_of(&bytes)));
        (image.digest, written.digest)
    };
    let first = archived(None);
    assert_eq!(archived(None), first);
    assert_eq!(archived(Some(0)), first);
    let later = archived(Some(1_700_000_000));
    assert!(later.0 != first.0 && later.1 != first.1);
}

#[test]
fn what_is_around_the_program_has_golden_bytes() {
    // The program and its libraries differ from machine to machine; everything of ours does not.
    let home = tempfile::tempdir().unwrap();
    let built = built(home.path(), "run.sh", &[("weights.bin", &[1; 1 << 20]), ("run.sh", b"#!/bin/sh\n")]);
    let image = made(home.path(), &built, &program(), None).unwrap();
    let told: Vec<String> = image.layers[1..].iter().map(|layer| layer.descriptor.digest.to_string()).collect();
    // A change here is a change of the format: say so in the changelog.
    assert_eq!(told, GOLDEN);
}

const GOLDEN: [&str; 2] = [
    "sha256:b1e39e6b2365bff1b89011cd458a2ebb7b7e36e9c16357fa7eede9e357b75a8b",
    "sha256:61c33124549bae9019147466c25c878967ac65da526a8a578c14acea4182a0f9",
];

#[test]
fn versions_share_what_did_not_change_and_compress_it_once() {
    let home = tempfile::tempdir().unwrap();
    let (weights, run): (&[u8], &[u8]) = (&[5; 2 << 20], b"#!/bin/sh\n");
    let first = built(home.path(), "run.sh", &[("weights.bin", weights), ("run.sh", run)]);
    let one = made(home.path(), &first, &program(), None).unwrap();
    assert!(one.layers.iter().all(|layer| !layer.reused));
    let description = home.path().join("model/modelyard.toml");
    let text = fs::read_to_string(&description).unwrap().replace("2.1.0", "2.2.0");
    fs::write(&description, text).unwrap();
    let second = build(&home.path().join("model"), &store(home.path()), &BuildOptions::default()).unwrap();
    let two = made(home.path(), &second, &program(), None).unwrap();
    let reused: Vec<bool> = two.layers.iter().map(|layer| layer.reused).collect();
    assert_eq!(reused, [true, true, false], "only the package's own small files are new");
    assert_eq!(
        two.layers[..2].iter().map(|layer| layer.diff).collect::<Vec<_>>(),
        [one.layers[0].diff, one.layers[1].diff]
    );
    // What is remembered of a layer is believed only while its bytes are right.
    let store = store(home.path());
    let blob = store.blobs().path(&one.layers[0].descriptor.digest);
    fs::remove_file(&blob).unwrap();
    fs::write(&blob, b"damaged").unwrap();
    let three = made(home.path(), &second, &program(), None).unwrap();
    assert_eq!(three.digest, two.digest);
    store.blobs().verify(&one.layers[0].descriptor.digest).unwrap();
}

#[test]
fn what_cannot_run_in_an_image_is_refused() {
    let home = tempfile::tempdir().unwrap();
    let missing = built(home.path(), "python3", &[("weights.bin", b"x")]);
    let noted = made(home.path(), &missing, &program(), None).unwrap();
    assert!(noted.notes[0].contains("`python3`, which it does not hold"), "{:?}", noted.notes);
    let script = home.path().join("program");
    fs::write(&script, "#!/bin/sh\n").unwrap();
    let told = made(home.path(), &missing, &script, None).unwrap_err().to_string();
    assert!(told.contains("cannot go into an image"), "{told}");
    let mut nothing = missing;
    nothing.package.runtime = modelyard_core::package::Runtime::None {};
    let told = made(home.path(), &nothing, &program(), None).unwrap_err().to_string();
    assert!(told.contains("nothing runs it"), "{told}");
}

#[test]
fn a_package_whose_files_changed_makes_no_image() {
    let home = tempfile::tempdir().unwrap();
    let weights = vec![3; 2 << 20];
    let package = built(home.path(), "run.sh", &[("weights.bin", &weights), ("run.sh", b"#!/bin/sh\n")]);
    let mut forged = package.clone();
    let right = forged.package.files["run.sh"].clone();
    forged.package.files.get_mut("weights.bin").unwrap().digest = right.digest;
    let error = made(home.path(), &forged, &program(), None).unwrap_err();
    let told = format!("{error}: {:?}", std::error::Error::source(&error).map(ToString::to_string));
    assert!(told.contains("layer of weights.bin") && told.contains("its bytes have digest"), "{told}");
}
