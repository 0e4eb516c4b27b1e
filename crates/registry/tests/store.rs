//! The store as its users see it: versions, aliases with their history, several writers.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::collections::BTreeMap;

use modelyard_core::{AliasName, ModelName, Timestamp, Version};
use modelyard_registry::manifest::{Descriptor, MANIFEST, MODEL, MODEL_CONFIG, Manifest};
use modelyard_registry::{Error, Store};

fn store(home: &std::path::Path) -> Store {
    Store::open(home.join("registry"), home.join("unpacked")).unwrap()
}

fn manifest(store: &Store, text: &str) -> Manifest {
    let blob = store.blobs().put(text.as_bytes()).unwrap();
    let config = Descriptor {
        media_type: MODEL_CONFIG.into(),
        digest: blob.digest,
        size: blob.size_bytes,
        artifact_type: None,
        annotations: BTreeMap::new(),
    };
    Manifest {
        schema_version: 2,
        media_type: MANIFEST.into(),
        artifact_type: Some(MODEL.into()),
        config,
        layers: vec![],
        annotations: BTreeMap::new(),
    }
}

fn wine() -> ModelName {
    ModelName::new("wine").unwrap()
}

fn version(text: &str) -> Version {
    Version::new(text).unwrap()
}

#[test]
fn references_resolve_to_digests() {
    let home = tempfile::tempdir().unwrap();
    let store = store(home.path());
    let one = store.add(&wine(), &version("1.0.0"), &manifest(&store, "one")).unwrap();
    let two = store.add(&wine(), &version("2.0.0"), &manifest(&store, "two")).unwrap();
    let champion = AliasName::new("champion").unwrap();
    store.set_alias(&wine(), &champion, &version("1.0.0"), "ada", Timestamp(1)).unwrap();
    let resolve = |text: &str| store.resolve(&text.parse().unwrap());
    assert_eq!(resolve("wine").unwrap(), two);
    assert_eq!(resolve("wine:1.0.0").unwrap(), one);
    assert_eq!(resolve("wine@champion").unwrap(), one);
    assert_eq!(resolve(&format!("wine@{two}")).unwrap(), two);
    assert!(matches!(resolve("beer"), Err(Error::NoModel(_))));
    assert!(matches!(resolve("wine:3.0.0"), Err(Error::NoVersion { .. })));
    assert!(matches!(resolve("wine@challenger"), Err(Error::NoAlias { .. })));
}

#[test]
fn every_move_of_an_alias_is_kept() {
    let home = tempfile::tempdir().unwrap();
    let store = store(home.path());
    let champion = AliasName::new("champion").unwrap();
    for (at, text) in [(1, "1.0.0"), (2, "2.0.0"), (3, "2.0.0"), (4, "1.0.0")] {
        store.add(&wine(), &version(text), &manifest(&store, text)).unwrap();
        store.set_alias(&wine(), &champion, &version(text), "ada", Timestamp(at)).unwrap();
    }
    let moves = &store.aliases(&wine()).unwrap()[&champion];
    let shown: Vec<_> = moves.iter().map(|step| (step.at.0, step.to.to_string())).collect();
    assert_eq!(shown, [(1, "1.0.0".into()), (2, "2.0.0".into()), (4, "1.0.0".into())]);
    assert!(store.set_alias(&wine(), &champion, &version("9"), "ada", Timestamp(5)).is_err());
}

#[test]
fn two_writers_of_one_version_do_not_both_win() {
    let home = tempfile::tempdir().unwrap();
    let results: Vec<_> = std::thread::scope(|scope| {
        let write = |index: usize| {
            let home = home.path();
            scope.spawn(move || {
                let store = store(home);
                store.add(&wine(), &version("1.0.0"), &manifest(&store, &index.to_string()))
            })
        };
        let handles: Vec<_> = (0..8).map(write).collect();
        handles.into_iter().map(|handle| handle.join().unwrap()).collect()
    });
    assert_eq!(results.iter().filter(|result| result.is_ok()).count(), 1);
    assert!(
        results
            .iter()
            .flat_map(|result| result.as_ref().err())
            .all(|error| matches!(error, Error::VersionTaken { .. }))
    );
}

#[test]
fn a_damaged_blob_is_named() {
    let home = tempfile::tempdir().unwrap();
    let store = store(home.path());
    let blob = store.blobs().put(b"hello").unwrap();
    let path = store.blobs().path(&blob.digest);
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, b"hellO").unwrap();
    assert!(
        matches!(store.blobs().read(&blob.digest, 100), Err(Error::Damaged { expected, .. }) if expected == blob.digest)
    );
    assert!(matches!(store.blobs().verify(&blob.digest), Err(Error::Damaged { .. })));
}
