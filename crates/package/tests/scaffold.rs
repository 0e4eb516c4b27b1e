//! What `modelyard new` makes: a folder that packages.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use modelyard_package::{BuildOptions, Built, Error, build};
use modelyard_registry::Store;

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(name)
}

/// A model file or folder of another framework, as its own library wrote it.
fn kinds(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/kinds").join(name)
}

fn build_in(home: &Path, folder: &Path) -> Result<Built, Error> {
    let store = Store::open(home.join("registry"), home.join("unpacked")).unwrap();
    build(folder, &store, &BuildOptions::default())
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

#[test]
fn a_new_folder_keeps_a_model_of_any_kind() {
    let home = tempfile::tempdir().unwrap();
    for (name, path, inputs) in [
        ("wine_tf", "wine_tf", 1),
        ("dense.mlmodel", "dense.mlmodel", 1),
        ("linear.safetensors", "linear.safetensors", 0),
    ] {
        let folder = home.path().join(format!("new-{}", name.replace('.', "-")));
        modelyard_package::scaffold(&folder, Some(&kinds(name))).unwrap();
        let package = build_in(home.path(), &folder).unwrap().package;
        assert_eq!(package.models.keys().collect::<Vec<_>>(), [path]);
        assert_eq!(package.signature.inputs.len(), inputs, "{name}");
        assert_eq!(package.signature, modelyard_package::package_of_model(&kinds(name)).unwrap().signature, "{name}");
        let text = fs::read_to_string(folder.join("modelyard.toml")).unwrap();
        assert!(text.contains("kind = \"none\"") && text.contains("docs/guide/kinds.md"), "{text}");
    }
    let text = home.path().join("notes.txt");
    fs::write(&text, "no model").unwrap();
    assert!(modelyard_package::scaffold(&home.path().join("none"), Some(&text)).is_err());
    assert!(!home.path().join("none").exists(), "a folder was made for nothing");
}

#[test]
fn the_scaffold_shows_a_sample_that_fits() {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("new");
    modelyard_package::scaffold(&folder, Some(&example("iris/v1/model.onnx"))).unwrap();
    let text = fs::read_to_string(folder.join("modelyard.toml")).unwrap();
    let sample = text.lines().find_map(|line| line.strip_prefix("#   [").map(|rest| format!("[{rest}"))).unwrap();
    fs::write(folder.join("samples.json"), sample).unwrap();
    assert_eq!(build_in(home.path(), &folder).unwrap().package.samples.len(), 1);
}
