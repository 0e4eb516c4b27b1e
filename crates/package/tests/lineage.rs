//! What a package was made from: digests that are the same on any machine, and nothing at all where nothing is said.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::fs;
use std::path::Path;

use modelyard_package::{BuildOptions, Built, Error, Named, build, build_model};
use modelyard_registry::Store;

/// SHA-256 of `abc`. Source: FIPS 180-4, example B.1.
const ABC: &str = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

fn store(home: &Path) -> Store {
    Store::open(home.join("registry"), home.join("unpacked")).unwrap()
}

/// Builds a program that does nothing, with further lines of its description, in a home of its own.
fn built(more: &str, options: &BuildOptions) -> Result<Built, Error> {
    let home = tempfile::tempdir().unwrap();
    let folder = home.path().join("model");
    fs::create_dir(&folder).unwrap();
    let text = "[model]\nname = \"tiny\"\nversion = \"1\"\n\n[runtime]\nkind = \"command\"\ncommand = [\"./run\"]\nhealth = \"/\"\n\n";
    fs::write(folder.join("modelyard.toml"), format!("{text}{more}\n")).unwrap();
    fs::write(folder.join("run"), "#!/bin/sh\n").unwrap();
    if more.contains("train.csv") {
        fs::write(folder.join("train.csv"), "abc").unwrap();
    }
    build(&folder, &store(home.path()), options)
}

fn plain(more: &str) -> Built {
    built(more, &BuildOptions::default()).unwrap()
}

#[test]
fn data_is_named_by_its_digest_wherever_it_lies() {
    let here = plain("[lineage.datasets]\ntrain = \"train.csv\"");
    // Without `files` everything in the folder belongs to the package, but not its data.
    assert_eq!(here.package.files.keys().collect::<Vec<_>>(), ["run"]);
    assert_eq!(here.package.lineage.as_ref().unwrap().datasets["train"].to_string(), ABC);
    let elsewhere = plain(&format!("[lineage.datasets]\ntrain = \"{ABC}\""));
    assert_eq!(here.digest, elsewhere.digest);
    let other = plain(&format!("[lineage.datasets]\nvalidate = \"{ABC}\""));
    assert_ne!(here.digest, other.digest);
    let both = plain("[lineage]\nrevision = \"4f2c1ab\"\nsource = \"https://example.com/tiny\"");
    let turned = plain("[lineage]\nsource = \"https://example.com/tiny\"\nrevision = \"4f2c1ab\"");
    assert_eq!(both.digest, turned.digest);
}

#[test]
fn nothing_said_is_nothing_kept() {
    let without = plain("");
    assert!(without.package.lineage.is_none());
    for empty in ["[lineage]", "[lineage]\nbuilt_from = []\n[lineage.datasets]"] {
        assert_eq!(plain(empty).digest, without.digest, "{empty}");
    }
}

#[test]
fn a_revision_from_outside_goes_before_the_one_in_the_folder() {
    let outside = BuildOptions { source_revision: Some("feed".to_owned()), ..BuildOptions::default() };
    let told = built("[lineage]\nrevision = \"4f2c1ab\"", &outside).unwrap();
    assert_eq!(told.digest, plain("[lineage]\nrevision = \"feed\"").digest);
    let home = tempfile::tempdir().unwrap();
    let file = home.path().join("bare.onnx");
    fs::copy(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/onnx/model.onnx"), &file).unwrap();
    let bare = build_model(&file, &Named::after(&file).unwrap(), &store(home.path()), &outside).unwrap();
    assert_eq!(bare.package.lineage.unwrap().revision.as_deref(), Some("feed"));
}

#[test]
fn a_package_by_digest_need_not_be_here_and_one_by_version_must() {
    let by_digest = plain(&format!("[lineage]\nbuilt_from = [\"base@{ABC}\"]"));
    let [base] = &by_digest.package.lineage.as_ref().unwrap().built_from[..] else { panic!("one was named") };
    assert_eq!(base.to_string(), format!("base@{ABC}"));
    let missing = built("[lineage]\nbuilt_from = [\"base:1\"]", &BuildOptions::default()).unwrap_err();
    assert!(matches!(missing, Error::Registry(_)), "{missing}");
    assert!(missing.to_string().contains("base"), "{missing}");
}

#[test]
fn mistakes_are_told_at_once() {
    let many = format!("[lineage]\nbuilt_from = [{}]\n", format!("\"base@{ABC}\",").repeat(65));
    let long = format!("[lineage]\nsource = \"{}\"\n", "x".repeat(501));
    for (more, all) in [
        (many.as_str(), &["more than 64 packages"][..]),
        (&long, &["one line of 1 to 500 bytes"]),
        (
            "[lineage]\nbuilt_from = [\"base\", \"base@best\", \"BASE:?\"]\nrevison = \"x\"\n[lineage.datasets]\na = \"sha256:ab\"\nb = \"/etc/passwd\"\n",
            &["names what moves", "did you mean `revision`", "`a`: ", "`b`"],
        ),
        ("[lineage.datasets]\na = \"no.csv\"\nb = \"neither.csv\"\n", &["`no.csv`", "`neither.csv`"]),
    ] {
        let told = built(more, &BuildOptions::default()).unwrap_err().to_string();
        for why in all {
            assert!(told.contains(why), "{told} does not say {why:?}");
        }
    }
}
