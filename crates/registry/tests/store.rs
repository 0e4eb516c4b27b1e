//! The store as its users see it: versions, aliases with their history, several writers.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on says so by panicking")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use modelyard_core::{AliasName, Digest, ModelName, Timestamp, Version};
use modelyard_registry::blob::{Blob, digest_of};
use modelyard_registry::catalog::{By, Kind, Subject, Way};
use modelyard_registry::manifest::{
    CODE, Descriptor, FILEPATH, MANIFEST, MODEL, MODEL_CONFIG, Manifest, WEIGHT_CONFIG,
};
use modelyard_registry::{Error, Store};
use serde_json::json;

fn store(home: &Path) -> Store {
    Store::open(home.join("registry"), home.join("unpacked")).unwrap()
}

fn manifest(store: &Store, text: &str) -> Manifest {
    let blob = store.blobs().put(text.as_bytes()).unwrap().blob;
    let config = Descriptor::new(MODEL_CONFIG, blob.digest, blob.size_bytes);
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

/// Whoever asked for what is not there reads what is: the nearest first, then what has an alias, then the newest, and never a long list.
#[test]
fn what_is_not_there_is_answered_with_what_is() {
    let home = tempfile::tempdir().unwrap();
    let store = store(home.path());
    for minor in 0..8 {
        let text = format!("1.{minor}.0");
        store.add(&wine(), &version(&text), &manifest(&store, &text)).unwrap();
    }
    let told = |text: &str| store.resolve(&text.parse().unwrap()).unwrap_err().to_string();
    assert_eq!(told("wine@best"), "`wine` has no alias `best`; it has none");
    for (alias, to) in [("champion", "1.1.0"), ("challenger", "1.6.0")] {
        store.set_alias(&wine(), &AliasName::new(alias).unwrap(), &version(to), "ada", Timestamp(1)).unwrap();
    }
    store.yank(&wine(), &version("1.3.0"), Some("labels"), &by(2)).unwrap();
    let expected = "`wine` has no version `1.3`; it has `1.3.0` (withdrawn), `1.6.0` (@challenger), `1.1.0` (@champion), \
                    `1.7.0`, `1.5.0` and 3 more";
    assert_eq!(told("wine:1.3"), expected);
    assert_eq!(
        told("wine@chamption"),
        "`wine` has no alias `chamption`; it has `champion` (1.1.0), `challenger` (1.6.0)"
    );
    let moved = store.set_alias(&wine(), &AliasName::new("best").unwrap(), &version("2"), "ada", Timestamp(3));
    assert!(moved.unwrap_err().to_string().contains("it has `1.6.0` (@challenger)"));
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
    let shown: Vec<_> = moves.iter().map(|step| (step.at.0, step.to.as_ref().unwrap().to_string())).collect();
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
    let blob = store.blobs().put(b"hello").unwrap().blob;
    let path = store.blobs().path(&blob.digest);
    fs::remove_file(&path).unwrap();
    fs::write(&path, b"hellO").unwrap();
    assert!(
        matches!(store.blobs().read(&blob.digest, 100), Err(Error::Damaged { expected, .. }) if expected == blob.digest)
    );
    assert!(matches!(store.blobs().verify(&blob.digest), Err(Error::Damaged { .. })));
}

/// A package of the given files, added under `wine:1.0.0` with `change` made to its document.
fn package(store: &Store, files: &[(&str, &[u8])], change: impl FnOnce(&mut serde_json::Value)) -> Digest {
    let descriptor = |media_type: &str, path: &str, blob: Blob| {
        Descriptor::new(media_type, blob.digest, blob.size_bytes).noted(FILEPATH, path)
    };
    let blobs: Vec<_> = files.iter().map(|(path, bytes)| (*path, store.blobs().put(bytes).unwrap().blob)).collect();
    let entries: serde_json::Map<_, _> = blobs
        .iter()
        .map(|(path, blob)| ((*path).to_owned(), json!({"digest": blob.digest, "size_bytes": blob.size_bytes})))
        .collect();
    let mut document = json!({
        "format_version": 1, "name": "wine", "version": "1.0.0",
        "runtime": {"kind": "command", "command": ["./run"], "health": "/"},
        "signature": {"inputs": [], "outputs": []}, "files": entries,
    });
    change(&mut document);
    let document = store.blobs().put(document.to_string().as_bytes()).unwrap().blob;
    let mut whole = manifest(store, "{}");
    whole.layers = vec![descriptor(WEIGHT_CONFIG, "modelyard.json", document)];
    whole.layers.extend(blobs.iter().map(|(path, blob)| descriptor(CODE, path, *blob)));
    store.add(&wine(), &version("1.0.0"), &whole).unwrap()
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn programs_can_be_started_and_everything_else_is_shared_with_the_store() {
    let home = tempfile::tempdir().unwrap();
    let store = store(home.path());
    let files: [(&str, &[u8]); 4] =
        [("run", b"#!/bin/sh\necho $1\n"), ("bin/elf", b"\x7fELF..."), ("a", b"a"), ("e", b"")];
    let digest = package(&store, &files, |_| {});
    let folder = store.unpack(&digest).unwrap();
    assert_eq!(
        (mode(&folder.join("run")), mode(&folder.join("bin/elf")), mode(&folder.join("a"))),
        (0o555, 0o555, 0o444)
    );
    let said = std::process::Command::new(folder.join("run")).arg("hi").output().unwrap();
    assert_eq!(said.stdout, b"hi\n");
    let inode = |path: &Path| fs::metadata(path).unwrap().ino();
    assert_eq!(inode(&folder.join("a")), inode(&store.blobs().path(&digest_of(b"a"))), "the file was copied");
    assert_eq!(mode(&store.blobs().path(&digest_of(files[0].1))), 0o444, "the blob itself changed");
}

#[test]
fn a_folder_that_was_touched_is_checked_and_mended() {
    let home = tempfile::tempdir().unwrap();
    let store = store(home.path());
    let digest = package(&store, &[("run", b"#!/bin/sh\n"), ("data/x", b"x")], |_| {});
    let folder = store.unpack(&digest).unwrap();
    let changes: [fn(&Path); 5] = [
        |folder| fs::remove_file(folder.join("run")).unwrap(),
        |folder| fs::remove_dir_all(folder.join("data")).unwrap(),
        |folder| {
            fs::remove_file(folder.join("run")).unwrap();
            fs::write(folder.join("run"), "#!/bin/no").unwrap();
        },
        |folder| {
            fs::remove_file(folder.join("data/x")).unwrap();
            std::os::unix::fs::symlink("/etc/hostname", folder.join("data/x")).unwrap();
        },
        |folder| fs::remove_file(folder.join("modelyard.json")).unwrap(),
    ];
    for change in changes {
        change(&folder);
        assert_eq!(store.unpack(&digest).unwrap(), folder);
        assert_eq!(fs::read(folder.join("run")).unwrap(), b"#!/bin/sh\n");
        assert_eq!(fs::read(folder.join("data/x")).unwrap(), b"x");
        assert!(folder.join("data/x").symlink_metadata().unwrap().is_file() && folder.join("modelyard.json").is_file());
    }
    // Nothing stays beside the folder but its seal.
    assert_eq!(fs::read_dir(home.path().join("unpacked")).unwrap().count(), 2);
}

#[test]
fn a_byte_flipped_in_place_is_named_even_after_unpacking() {
    let home = tempfile::tempdir().unwrap();
    let store = store(home.path());
    let digest = package(&store, &[("x", b"weights")], |_| {});
    let folder = store.unpack(&digest).unwrap();
    let blob = store.blobs().path(&digest_of(b"weights"));
    fs::set_permissions(&blob, fs::Permissions::from_mode(0o644)).unwrap();
    fs::write(&blob, b"weightz").unwrap();
    let error = store.unpack(&digest).unwrap_err();
    assert!(matches!(error, Error::Damaged { expected, .. } if expected == digest_of(b"weights")), "{error}");
    store.blobs().put(b"weights").unwrap();
    assert_eq!(fs::read(store.unpack(&digest).unwrap().join("x")).unwrap(), b"weights");
    assert!(folder.exists());
}

#[test]
fn documents_that_reach_outside_are_refused() {
    type Change = fn(&mut serde_json::Value);
    let bad: [(&str, Change); 4] = [
        ("no layer", |document| {
            let secret = digest_of(b"secret");
            document["files"]["mine"] = json!({"digest": secret, "size_bytes": 6});
        }),
        ("no layer", |document| {
            let entry = document["files"]["x"].clone();
            document["files"]["../../x"] = entry;
        }),
        ("says 3 bytes", |document| document["files"]["x"]["size_bytes"] = json!(3)),
        ("form 99", |document| *document = json!({"format_version": 99, "news": true})),
    ];
    for (why, change) in bad {
        let home = tempfile::tempdir().unwrap();
        let store = store(home.path());
        store.blobs().put(b"secret").unwrap();
        let digest = package(&store, &[("x", b"x")], change);
        let error = store.unpack(&digest).unwrap_err().to_string();
        assert!(error.contains(why), "{error}");
    }
    for path in ["../x", "/x", "a\\b", "a\0b", "a//b", "a\nb", "modelyard.json"] {
        let home = tempfile::tempdir().unwrap();
        let store = store(home.path());
        let digest = package(&store, &[(path, b"x")], |_| {});
        assert!(store.unpack(&digest).is_err(), "{path:?} was laid out");
        let parent = fs::read_dir(home.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
        assert!(parent.iter().all(|name| name == "registry" || name == "unpacked"), "{parent:?}");
    }
}

#[test]
fn a_manifest_whose_blobs_are_missing_gets_no_version() {
    let home = tempfile::tempdir().unwrap();
    let store = store(home.path());
    let mut lost = manifest(&store, "x");
    lost.config.digest = digest_of(b"never stored");
    assert!(matches!(store.add(&wine(), &version("1.0.0"), &lost), Err(Error::NoBlob(_))));
    let mut wrong = manifest(&store, "x");
    wrong.config.size = 2;
    assert!(matches!(store.add(&wine(), &version("1.0.0"), &wrong), Err(Error::Document { .. })));
    assert_eq!(store.list().unwrap(), []);
}

#[test]
fn many_at_once_unpack_one_folder() {
    let home = tempfile::tempdir().unwrap();
    let digest = package(&store(home.path()), &[("run", b"#!/bin/sh\n"), ("x", &[7; 100_000])], |_| {});
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                let folder = store(home.path()).unpack(&digest).unwrap();
                assert_eq!(fs::read(folder.join("x")).unwrap().len(), 100_000);
            });
        }
    });
    assert_eq!(fs::read_dir(home.path().join("unpacked")).unwrap().count(), 2);
}

fn by(at: u64) -> By {
    By { name: "ada".to_owned(), at: Timestamp(at) }
}

#[test]
fn tags_and_withdrawals_are_kept_with_who_made_them() {
    let home = tempfile::tempdir().unwrap();
    let store = store(home.path());
    let one = store.add(&wine(), &version("1.0.0"), &manifest(&store, "one")).unwrap();
    let two = store.add(&wine(), &version("2.0.0"), &manifest(&store, "two")).unwrap();
    let of = |text: Option<&str>| Subject { model: wine(), version: text.map(version) };
    assert!(store.tag(&of(Some("1.0.0")), "team", Some("x"), &by(1)).unwrap());
    assert!(!store.tag(&of(Some("1.0.0")), "team", Some("x"), &by(2)).unwrap(), "the same again is no change");
    assert!(store.tag(&of(None), "owner", Some("grace"), &by(3)).unwrap());
    assert!(store.yank(&wine(), &version("2.0.0"), Some("wrong labels"), &by(4)).unwrap());
    let listed = store.versions(&wine()).unwrap();
    assert_eq!((listed[0].tags["team"].as_str(), &listed[0].yanked), ("x", &None));
    assert!(listed.iter().all(|listed| listed.added.is_some()));
    assert_eq!(listed[1].yanked.as_ref().unwrap().why, "wrong labels");
    let resolve = |text: &str| store.resolve(&text.parse().unwrap()).unwrap();
    assert_eq!(resolve("wine"), one, "the newest that is not withdrawn");
    assert_eq!(resolve("wine:2.0.0"), two, "it is still there for whoever names it");
    assert_eq!(store.withdrawn(&two).unwrap().unwrap().by, "ada");
    assert_eq!(store.withdrawn(&one).unwrap(), None);
    assert!(store.yank(&wine(), &version("2.0.0"), None, &by(5)).unwrap());
    assert_eq!(resolve("wine"), two);
    assert!(store.tag(&of(Some("1.0.0")), "team", None, &by(6)).unwrap());
    let champion = AliasName::new("champion").unwrap();
    store.set_alias(&wine(), &champion, &version("1.0.0"), "ada", Timestamp(7)).unwrap();
    assert_eq!(store.remove_alias(&wine(), &champion, &by(8)).unwrap(), version("1.0.0"));
    assert!(matches!(store.remove_alias(&wine(), &champion, &by(9)), Err(Error::NoAlias { .. })));
    assert!(store.resolve(&"wine@champion".parse().unwrap()).is_err());
    let changes = store.changes(&wine()).unwrap();
    let told: Vec<u64> = changes.iter().map(|change| change.at.0).collect();
    assert_eq!(told, [1, 3, 4, 5, 6, 7, 8]);
    assert!(matches!(&changes[0].kind, Kind::Tagged { key, .. } if key == "team"), "{changes:?}");

    for (key, value) in [("", "x"), (" a", "x"), ("a=b", "x"), ("k", "\u{1b}[31m"), ("k", &"x".repeat(5_001))] {
        assert!(matches!(store.tag(&of(None), key, Some(value), &by(1)), Err(Error::Refused { .. })), "{key:?}");
    }
    for number in 0..300 {
        if let Err(error) = store.tag(&of(Some("1.0.0")), &format!("k{number}"), Some("v"), &by(1)) {
            assert!(number == 256 && error.to_string().contains("256 tags"), "{number}: {error}");
            break;
        }
    }
    assert_eq!(store.versions(&wine()).unwrap()[0].tags.len(), 256);
    assert!(matches!(store.tag(&of(Some("9")), "k", Some("v"), &by(1)), Err(Error::NoVersion { .. })));
}

#[test]
fn a_removed_version_never_names_another_package() {
    let home = tempfile::tempdir().unwrap();
    let store = store(home.path());
    let one = manifest(&store, "one");
    let digest = store.add(&wine(), &version("1.0.0"), &one).unwrap();
    store.add(&wine(), &version("2.0.0"), &manifest(&store, "two")).unwrap();
    let champion = AliasName::new("champion").unwrap();
    store.set_alias(&wine(), &champion, &version("1.0.0"), "ada", Timestamp(1)).unwrap();
    assert!(matches!(store.remove_version(&wine(), &version("1.0.0"), &by(2)), Err(Error::Refused { .. })));
    store.remove_alias(&wine(), &champion, &by(3)).unwrap();
    store.remove_version(&wine(), &version("1.0.0"), &by(4)).unwrap();
    assert_eq!(store.versions(&wine()).unwrap().len(), 1);
    let refused = store.add(&wine(), &version("1.0.0"), &manifest(&store, "other")).unwrap_err();
    assert!(matches!(refused, Error::VersionRemoved { digest: named, .. } if named == digest), "{refused}");
    assert_eq!(store.add(&wine(), &version("1.0.0"), &one).unwrap(), digest, "the same package comes back");
}

#[test]
fn a_version_remembers_on_which_ways_it_came_and_nothing_of_other_packages() {
    let home = tempfile::tempdir().unwrap();
    let store = store(home.path());
    let catalog = home.path().join("registry/catalog.json");
    let ways = || -> Vec<String> {
        let listed = store.versions(&wine()).unwrap();
        listed.iter().flat_map(|listed| &listed.arrivals).map(|arrival| arrival.way.source()).collect()
    };
    let one = manifest(&store, "one");
    let digest = store.add(&wine(), &version("1.0.0"), &one).unwrap();
    store.add(&wine(), &version("1.0.0"), &one).unwrap();
    assert_eq!(ways(), ["built-here"], "the same way again is no news");
    let from = |way: &Way| store.add_from(&wine(), &version("1.0.0"), &one, way);
    from(&Way::pulled_from("registry.example/wine")).unwrap();
    let other = manifest(&store, "other");
    let evil = Way::pulled_from("evil.test/wine");
    let refused = store.add_from(&wine(), &version("1.0.0"), &other, &evil).unwrap_err();
    assert!(matches!(refused, Error::VersionTaken { .. }), "{refused}");
    assert_eq!(ways(), ["built-here", "registry.example/wine"], "what was refused never came");

    // Gone and given back, it came from nowhere new.
    let listed = store.versions(&wine()).unwrap().remove(0);
    store.remove_version(&wine(), &version("1.0.0"), &by(4)).unwrap();
    assert_eq!(store.arrivals(&digest).unwrap(), []);
    store.give_back(&listed).unwrap();
    assert_eq!(ways(), ["built-here", "registry.example/wine"]);

    // A note of other bytes counts for nothing: a write that broke off before the name may have left it.
    let left =
        fs::read_to_string(&catalog).unwrap().replace(&digest.to_string(), &format!("sha256:{}", "ab".repeat(32)));
    fs::write(&catalog, left).unwrap();
    assert_eq!(store.arrivals(&digest).unwrap(), []);

    // A document from before this was noted is read, and keeps what it says.
    fs::write(&catalog, r#"{"models":{"wine":{"since":1,"versions":{"1.0.0":{"tags":{"team":"x"}}}}}}"#).unwrap();
    assert_eq!(store.arrivals(&digest).unwrap(), []);
    for number in 0..40 {
        from(&Way::pulled_from(&format!("registry.example/{number}"))).unwrap();
    }
    let kept = ways();
    assert_eq!((kept.len(), kept.last().unwrap().as_str()), (32, "registry.example/39"), "they are limited");
    assert_eq!(store.versions(&wine()).unwrap()[0].tags["team"], "x");
}
