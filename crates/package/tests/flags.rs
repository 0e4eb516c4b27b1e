//! Flags in packages: what they are bound to is checked when the package is built.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::fs;
use std::path::{Path, PathBuf};

use modelyard_core::flags::Values;
use modelyard_package::{BuildOptions, Built, Error, build};
use modelyard_registry::Store;
use serde_json::json;

fn fixture() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/threshold")
}

fn build_in(home: &Path, folder: &Path) -> Result<Built, Error> {
    let store = Store::open(home.join("registry"), home.join("unpacked")).unwrap();
    build(folder, &store, &BuildOptions::default())
}

/// The fixture with its description changed.
fn changed(home: &Path, change: impl Fn(String) -> String) -> PathBuf {
    let folder = home.join("model");
    fs::create_dir_all(&folder).unwrap();
    for name in ["small.onnx", "large.onnx", "samples.json", "modelyard.toml"] {
        fs::copy(fixture().join(name), folder.join(name)).unwrap();
    }
    let path = folder.join("modelyard.toml");
    fs::write(&path, change(fs::read_to_string(&path).unwrap())).unwrap();
    folder
}

#[test]
fn flags_are_bound_to_inputs_and_files() {
    let home = tempfile::tempdir().unwrap();
    let package = build_in(home.path(), &fixture()).unwrap().package;
    assert!(package.signature.input("threshold").unwrap().optional, "callers need not send it");
    assert!(!package.signature.input("x").unwrap().optional);
    assert!(package.files.contains_key("large.onnx") && package.files.contains_key("small.onnx"));
    let large: Values = [("size".to_owned(), json!("large"))].into();
    assert_eq!(package.model_file(&package.flag_values(&large).unwrap()), Some("large.onnx"));
    assert_eq!(package.samples_under(&package.flag_values(&large).unwrap()).count(), 1);
}

#[test]
fn bindings_that_cannot_work_are_refused() {
    let wine = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/wine/v1/model.onnx");
    let flag = |text: &str| format!("\n[flags.further]\n{text}\n");
    for (from, to, why) in [
        ("input = \"threshold\"", "input = \"treshold\"".to_owned(), "no input `treshold`; it has `x`, `threshold`"),
        ("input = \"threshold\"", "input = \"x\"".to_owned(), "a flag fills one element"),
        ("large = \"large.onnx\"", "large = \"gone.onnx\"".to_owned(), "gone.onnx"),
        ("large = \"large.onnx\"", "large = \"wine.onnx\"".to_owned(), "takes or gives something else"),
        ("large = \"large.onnx\"", "large = \"../up.onnx\"".to_owned(), "is refused"),
        ("model = \"small.onnx\"", "model = \"large.onnx\"".to_owned(), "write the same"),
        ("default = \"small\"", "default = \"huge\"".to_owned(), "not among large, small"),
        (
            "[flags.size]",
            flag("type = \"string\"\ndefault = \"a\"\ninput = \"threshold\"") + "[flags.size]",
            "no string",
        ),
        (
            "[flags.size]",
            flag("type = \"boolean\"\ndefault = true\ninput = \"threshold\"") + "[flags.size]",
            "fills the input `threshold` already",
        ),
        (
            "[flags.size]",
            flag("type = \"string\"\ndefault = \"a\"\nfiles = { a = \"small.onnx\" }") + "[flags.size]",
            "another flag chooses the model file",
        ),
        ("[flags.size]", "[flags.\"modelyard.x\"]\ntype = \"boolean\"\ndefault = true\n[flags.size]".to_owned(), "own"),
        ("[flags.size]", "[flags.Size]\ntype = \"boolean\"\ndefault = true\n[flags.size]".to_owned(), "one variable"),
    ] {
        let home = tempfile::tempdir().unwrap();
        let folder = changed(home.path(), |text| {
            assert!(text.contains(from), "{from}");
            text.replacen(from, &to, 1)
        });
        fs::copy(&wine, folder.join("wine.onnx")).unwrap();
        let error = build_in(home.path(), &folder).unwrap_err();
        let mut told = error.to_string();
        if let Error::Description { mistakes, .. } = &error {
            told = mistakes.iter().map(|mistake| mistake.what.as_str()).collect::<Vec<_>>().join("; ");
        }
        assert!(told.contains(why), "{to}: {told}");
    }
}

#[test]
fn samples_name_values_that_there_are() {
    let home = tempfile::tempdir().unwrap();
    let folder = changed(home.path(), |text| text);
    let path = folder.join("samples.json");
    let text = fs::read_to_string(&path).unwrap();
    for (from, to, why) in [
        ("\"size\": \"large\"", "\"size\": \"huge\"", "one of large, small"),
        ("\"size\": \"large\"", "\"zise\": \"large\"", "there is no flag `zise`"),
    ] {
        fs::write(&path, text.replacen(from, to, 1)).unwrap();
        let Err(Error::Samples { faults }) = build_in(home.path(), &folder) else { panic!("{to} was taken") };
        assert!(faults[0].why.contains(why), "{faults:?}");
    }
}
