//! Packages built from the examples: the same on any machine, refused early when something is wrong.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use modelyard_package::{BuildOptions, Built, Error, build};
use modelyard_registry::Store;

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(name)
}

fn store(home: &Path) -> Store {
    Store::open(home.join("registry"), home.join("unpacked")).unwrap()
}

fn build_in(home: &Path, folder: &Path) -> Result<Built, Error> {
    build(folder, &store(home), &BuildOptions::default())
}

/// A copy of an example, written in another order, with other times and modes.
fn messy_copy(from: &Path, to: &Path) {
    let mut names: Vec<_> = fs::read_dir(from).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    fs::create_dir_all(to).unwrap();
    for name in names.iter().rev() {
        let path = to.join(name);
        fs::write(&path, fs::read(from.join(name)).unwrap()).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let old = std::time::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        fs::File::options().write(true).open(&path).unwrap().set_modified(old).unwrap();
    }
}

#[test]
fn the_digest_does_not_depend_on_the_machine() {
    let home = tempfile::tempdir().unwrap();
    let tidy = build_in(&home.path().join("a"), &example("wine/v1")).unwrap();
    messy_copy(&example("wine/v1"), &home.path().join("elsewhere"));
    let messy = build_in(&home.path().join("b"), &home.path().join("elsewhere")).unwrap();
    assert_eq!(tidy.digest, messy.digest);
    // A change here is a change of the format: say so in the changelog.
    let fixture = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/command");
    let golden = build_in(&home.path().join("c"), &fixture).unwrap();
    assert_eq!(golden.digest.to_string(), include_str!("fixtures/command.digest").trim());
}

#[test]
fn source_date_epoch_is_stamped_and_changes_the_digest() {
    let home = tempfile::tempdir().unwrap();
    let options = BuildOptions::from_source_date_epoch(Some("1700000000")).unwrap();
    let stamped = build(&example("wine/v1"), &store(&home.path().join("a")), &options).unwrap();
    let again = build(&example("wine/v1"), &store(&home.path().join("b")), &options).unwrap();
    let plain = build_in(&home.path().join("c"), &example("wine/v1")).unwrap();
    assert_eq!(stamped.digest, again.digest);
    assert_ne!(stamped.digest, plain.digest);
    let manifest = store(&home.path().join("a")).manifest(&stamped.digest).unwrap();
    assert_eq!(manifest.annotations["org.opencontainers.image.created"], "2023-11-14T22:13:20Z");
    assert!(BuildOptions::from_source_date_epoch(Some("yesterday")).is_err());
}

#[test]
fn every_example_packages_with_samples_that_fit() {
    let home = tempfile::tempdir().unwrap();
    let mut built = 0;
    for model in ["wine", "breast-cancer", "digits", "iris", "diabetes"] {
        for entry in fs::read_dir(example(model)).unwrap() {
            let folder = entry.unwrap().path();
            if folder.join("modelyard.toml").is_file() {
                let done =
                    build_in(home.path(), &folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
                assert!(!done.package.samples.is_empty() && done.size_bytes > 0);
                built += 1;
            }
        }
    }
    assert!(built >= 11, "only {built} examples were found");
}

#[test]
fn a_version_names_one_package_for_ever() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("model");
    messy_copy(&example("wine/v1"), &folder);
    let first = build_in(home.path(), &folder).unwrap();
    assert_eq!(build_in(home.path(), &folder).unwrap().digest, first.digest);
    fs::write(folder.join("MODEL_CARD.md"), "other words").unwrap();
    let error = build_in(home.path(), &folder).unwrap_err().to_string();
    assert!(error.contains("`wine:1.0.0` is sha256:"), "{error}");
}

#[test]
fn wrong_folders_are_refused_with_the_reason() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("model");
    messy_copy(&example("wine/v1"), &folder);
    let toml = fs::read_to_string(folder.join("modelyard.toml")).unwrap();
    let try_with = |toml: &str| {
        fs::write(folder.join("modelyard.toml"), toml).unwrap();
        build_in(home.path(), &folder).unwrap_err().to_string()
    };
    assert!(try_with(&toml.replace("model.onnx", "missing.onnx")).contains("missing.onnx"));
    assert!(try_with(&toml.replace("model.onnx", "../../etc/passwd")).contains("refused"));
    assert!(try_with(&toml.replace("version =", "verison =")).contains("did you mean `version`?"));
    assert!(try_with(&toml.replace("\"model.onnx\"", "\"MODEL_CARD.md\"")).contains("cannot be packaged"));
    let bad_sample = toml.replace("\"samples.json\"", "[{inputs = {features = [[1.0]]}, outputs = {label = [1]}}]");
    assert!(
        try_with(&bad_sample).contains("has the shape [1, 1], the model has [-1, 13]"),
        "{}",
        try_with(&bad_sample)
    );
    assert!(matches!(build_in(home.path(), &home.path().join("nowhere")), Err(Error::NoDescription(_))));
}

#[test]
fn unpacking_checks_every_byte() {
    let home = tempfile::tempdir().unwrap();
    let built = build_in(home.path(), &example("wine/v1")).unwrap();
    let store = store(home.path());
    let folder = store.unpack(&built.digest).unwrap();
    assert_eq!(fs::read(folder.join("model.onnx")).unwrap(), fs::read(example("wine/v1/model.onnx")).unwrap());
    assert!(folder.join("modelyard.json").is_file());

    fs::remove_dir_all(&folder).unwrap();
    let blob = store.blobs().path(&built.package.files["model.onnx"].digest);
    let mut bytes = fs::read(&blob).unwrap();
    bytes[100] ^= 1;
    fs::set_permissions(&blob, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&blob, bytes).unwrap();
    let error = store.unpack(&built.digest).unwrap_err().to_string();
    assert!(error.contains("is damaged"), "{error}");
    assert!(!folder.exists(), "a damaged package was laid out");
}

#[test]
fn many_builders_and_readers_at_once_agree() {
    let home = tempfile::tempdir().unwrap();
    let digests: Vec<_> = std::thread::scope(|scope| {
        let run = |_| {
            scope.spawn(|| {
                let built = build_in(home.path(), &example("digits/v1")).unwrap();
                store(home.path()).unpack(&built.digest).unwrap();
                built.digest
            })
        };
        let handles: Vec<_> = (0..8).map(run).collect();
        handles.into_iter().map(|handle| handle.join().unwrap()).collect()
    });
    assert!(digests.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(store(home.path()).list().unwrap().len(), 1);
}

#[test]
#[ignore = "needs skopeo"]
fn skopeo_reads_the_registry() {
    let home = tempfile::tempdir().unwrap();
    let built = build_in(home.path(), &example("wine/v1")).unwrap();
    let source = format!("oci:{}:wine:1.0.0", home.path().join("registry").display());
    let copy = format!("dir:{}", home.path().join("copy").display());
    let run = |arguments: &[&str]| {
        let output = std::process::Command::new("skopeo").args(arguments).output().unwrap();
        assert!(output.status.success(), "skopeo {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let raw = run(&["inspect", "--raw", &source]);
    assert_eq!(modelyard_registry::blob::digest_of(raw.as_bytes()), built.digest);
    run(&["--insecure-policy", "copy", &source, &copy]);
}

#[test]
fn a_new_folder_packages_once_its_model_is_there() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("my-wine");
    modelyard_package::scaffold(&folder, Some(&example("wine/v1/model.onnx"))).unwrap();
    let built = build_in(home.path(), &folder).unwrap();
    assert_eq!(built.package.name.as_str(), "my-wine");
    assert!(built.warnings[0].contains("no samples"), "{:?}", built.warnings);
    assert!(matches!(modelyard_package::scaffold(&folder, None), Err(Error::Exists(_))));
}
