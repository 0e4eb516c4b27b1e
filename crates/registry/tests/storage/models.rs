//! What every pair of stores promises of models: versions, aliases, tags, packages as files.

use modelyard_core::package::DOCUMENT;
use modelyard_core::{Digest, ModelName, Timestamp, Version};
use modelyard_registry::catalog::{By, Subject, Way};
use modelyard_registry::manifest::{self as oci, Descriptor, Manifest};
use modelyard_registry::{Error, Reference, Store};
use serde_json::json;

use crate::support::digest;
use crate::{Pair, Site, pull_whole};

fn names(version: &str) -> (ModelName, Version) {
    (ModelName::new("wine").unwrap(), Version::new(version).unwrap())
}

/// A package of one file.
fn package(store: &Store, version: &str, weights: &[u8]) -> Manifest {
    let weights = store.blobs().store(&mut &*weights).unwrap().blob;
    let document = json!({
        "format_version": 1, "name": "wine", "version": version, "runtime": { "kind": "command", "command": ["./run"], "health": "/" },
        "signature": { "inputs": [], "outputs": [] },
        "files": { "weights.bin": { "digest": weights.digest, "size_bytes": weights.size_bytes } },
    });
    let document = store.blobs().put(document.to_string().as_bytes()).unwrap().blob;
    let config = store.blobs().put(b"{}").unwrap().blob;
    Manifest {
        schema_version: 2,
        media_type: oci::MANIFEST.to_owned(),
        artifact_type: Some(oci::MODEL.to_owned()),
        config: Descriptor::new(oci::MODEL_CONFIG, config.digest, config.size_bytes),
        layers: vec![
            Descriptor::new(oci::WEIGHT_CONFIG, document.digest, document.size_bytes).noted(oci::FILEPATH, DOCUMENT),
            Descriptor::new(oci::WEIGHT, weights.digest, weights.size_bytes).noted(oci::FILEPATH, "weights.bin"),
        ],
        annotations: Default::default(),
    }
}

fn add(store: &Store, version: &str, weights: &[u8]) -> Result<Digest, Error> {
    let manifest = package(store, version, weights);
    let (model, version) = names(version);
    store.add(&model, &version, &manifest)
}

pub fn a_version_is_for_ever_and_everywhere(pair: Pair) {
    let site = Site::new(pair);
    let (here, there) = (site.store(0), site.store(1));
    let digest = add(&here, "1.0.0", b"first").unwrap();
    assert_eq!(add(&there, "1.0.0", b"first").unwrap(), digest, "the same again changes nothing");
    assert!(matches!(add(&there, "1.0.0", b"other"), Err(Error::VersionTaken { existing, .. }) if existing == digest));
    add(&there, "1.1.0", b"second").unwrap();
    let listed: Vec<(String, u64)> = here
        .versions(&names("1.0.0").0)
        .unwrap()
        .iter()
        .map(|listed| (listed.version.to_string(), listed.number))
        .collect();
    assert_eq!(listed, [("1.0.0".to_owned(), 1), ("1.1.0".to_owned(), 2)]);
    drop((here, there));
    let reference: Reference = "wine:1.0.0".parse().unwrap();
    assert_eq!(site.store(0).resolve(&reference).unwrap(), digest, "after a restart");
}

pub fn where_a_version_came_from_is_known_everywhere(pair: Pair) {
    let site = Site::new(pair);
    let (here, served) = (site.store(0), site.served(1));
    let digest = add(&here, "1.0.0", b"first").unwrap();
    let (model, first) = names("1.0.0");
    let manifest = here.manifest(&digest).unwrap();
    // Two machines note at the same time; nothing is lost.
    std::thread::scope(|scope| {
        for nth in 0..2 {
            let (store, manifest, model, first) = (site.store(nth), &manifest, &model, &first);
            scope.spawn(move || {
                for place in 0..4 {
                    let way = Way::pulled_from(&format!("registry.example/{nth}/{place}"));
                    store.add_from(model, first, manifest, &way).unwrap();
                }
            });
        }
    });
    let bytes = here.blobs().read(&digest, 1 << 20).unwrap();
    let kind = [("content-type", oci::MANIFEST)];
    served.call("PUT", "/v2/wine/manifests/1.0.0", &kind, &bytes).expect(201);
    drop(here);
    let ways: Vec<Way> = site.store(2).arrivals(&digest).unwrap().into_iter().map(|arrival| arrival.way).collect();
    assert_eq!((ways.len(), &ways[0]), (10, &Way::Built), "{ways:?}");
    assert!(ways.contains(&Way::Pushed { by: None }), "{ways:?}");
}

pub fn two_who_add_one_version_are_told_who_won(pair: Pair) {
    let site = Site::new(pair);
    let stores: Vec<Store> = (0..4).map(|machine| site.store(machine)).collect();
    let added: Vec<_> = std::thread::scope(|scope| {
        let adding = stores
            .iter()
            .enumerate()
            .map(|(nth, store)| scope.spawn(move || add(store, "1.0.0", format!("weights of {nth}").as_bytes())));
        let adding: Vec<_> = adding.collect();
        adding.into_iter().map(|adding| adding.join().unwrap()).collect()
    });
    let won: Vec<&Digest> = added.iter().filter_map(|added| added.as_ref().ok()).collect();
    assert_eq!(won.len(), 1, "{added:?}");
    for lost in added.iter().filter_map(|added| added.as_ref().err()) {
        assert!(matches!(lost, Error::VersionTaken { existing, .. } if existing == won[0]), "{lost}");
    }
    assert_eq!(stores[0].list().unwrap().len(), 1);
}

pub fn aliases_and_tags_move_for_everybody(pair: Pair) {
    let site = Site::new(pair);
    let stores = [site.store(0), site.store(1)];
    let (model, first) = names("1.0.0");
    add(&stores[0], "1.0.0", b"first").unwrap();
    add(&stores[0], "1.1.0", b"second").unwrap();
    let alias = modelyard_core::AliasName::new("champion").unwrap();
    // Everybody moves it to and fro; no move is lost.
    std::thread::scope(|scope| {
        for (nth, store) in stores.iter().enumerate() {
            let (model, alias) = (&model, &alias);
            scope.spawn(move || {
                for turn in 0..6_u64 {
                    let to = names(if turn % 2 == 0 { "1.0.0" } else { "1.1.0" }).1;
                    store.set_alias(model, alias, &to, &format!("machine {nth}"), Timestamp(turn)).unwrap();
                    let of = Subject { model: model.clone(), version: None };
                    let by = By { name: "ada".to_owned(), at: Timestamp(turn) };
                    assert!(store.tag(&of, &format!("key-{nth}-{turn}"), Some("x"), &by).unwrap());
                }
            });
        }
    });
    let moves = stores[1].aliases(&model).unwrap().remove(&alias).unwrap();
    for pair in moves.windows(2) {
        assert_eq!(pair[0].to, pair[1].from, "a move began elsewhere than the one before ended");
    }
    assert_eq!(stores[0].catalog().unwrap().models[&model].tags.len(), 12);
    let last = moves.last().unwrap().to.clone().unwrap();
    let pointed = stores[0].resolve(&"wine@champion".parse().unwrap()).unwrap();
    assert_eq!(pointed, stores[1].resolve(&format!("wine:{last}").parse().unwrap()).unwrap());
    let by = By { name: "ada".to_owned(), at: Timestamp(9) };
    assert!(stores[1].yank(&model, &first, Some("wrong data"), &by).unwrap());
    assert!(stores[0].versions(&model).unwrap()[0].yanked.is_some());
}

pub fn a_model_is_served_to_everybody_and_its_files_are_laid_out(pair: Pair) {
    let site = Site::new(pair);
    let package = add(&site.store(0), "1.0.0", b"weights").unwrap();
    let elsewhere = site.served(1);
    pull_whole(&elsewhere, "wine", "1.0.0");
    assert_eq!(elsewhere.get("/v2/wine/manifests/1.0.0").header("docker-content-digest"), package.to_string());
    let store = site.store(2);
    let folder = store.unpack(&package).unwrap();
    assert_eq!(std::fs::read(folder.join("weights.bin")).unwrap(), b"weights");
    assert_eq!(store.blobs().verify(&digest(b"weights").parse().unwrap()).unwrap(), 7);
    let swept = elsewhere.distribution.sweep_blocking(std::time::Duration::ZERO, false).unwrap();
    assert_eq!((swept.blobs.len(), swept.kept), (0, 4), "{swept:?}");
    pull_whole(&elsewhere, "wine", "1.0.0");
}
