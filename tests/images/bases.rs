//! Images that others are put on: from a registry, pinned, told when they move, and held against an environment's policy.

use std::path::PathBuf;

use modelyard_core::ModelName;
use modelyard_registry::trust::{SigningKey, sign};
use serde_json::{Value, json};

use crate::Registry;
use crate::support::base_image::{GLIBC, base, distribution, libraries};
use crate::support::{Ran, World, examples};

/// A registry with an image to build on, which holds the C library of this machine, and a home that builds.
struct Workshop {
    theirs: World,
    ours: World,
    registry: Registry,
    /// `HOST/debian:13`.
    name: String,
    digest: String,
    folder: PathBuf,
}

impl Workshop {
    fn new() -> Self {
        let (theirs, ours) = (World::default(), World::default());
        let digest = base(&theirs, &libraries(&GLIBC));
        let registry = Registry::of(&theirs);
        let name = format!("{}/debian:13", registry.address);
        let folder = ours.scratch("model");
        for entry in std::fs::read_dir(examples().join("iris/v1")).unwrap() {
            let path = entry.unwrap().path();
            std::fs::copy(&path, folder.join(path.file_name().unwrap())).unwrap();
        }
        Self { theirs, ours, registry, name, digest, folder }
    }

    fn exact(&self) -> String {
        format!("{}@{}", self.name, self.digest)
    }

    fn package(&self, more: &[&str]) -> Ran {
        let out = self.ours.scratch("out");
        let mut all = vec!["package", self.folder.to_str().unwrap(), "--format", "image"];
        all.extend(["--out", out.to_str().unwrap(), "--output", "json"]);
        all.extend(more);
        self.ours.run(&all)
    }

    /// Lets the name mean another image from now on; its digest.
    fn move_name(&self) -> String {
        let url = format!("http://{}/v2/debian/manifests/13", self.registry.address);
        let mut manifest: Value = ureq::get(&url).call().unwrap().body_mut().read_json().unwrap();
        manifest["annotations"] = json!({ "moved": "yes" });
        let kind = manifest["mediaType"].as_str().unwrap().to_owned();
        let put = ureq::put(url).header("content-type", kind).send(manifest.to_string()).unwrap();
        put.headers()["docker-content-digest"].to_str().unwrap().to_owned()
    }
}

#[test]
fn a_base_comes_from_a_registry_once_and_is_pinned_and_told_when_it_moves() {
    let shop = Workshop::new();
    let (name, exact) = (shop.name.clone(), shop.exact());
    let first = shop.package(&["--base", &name]).ended(0);
    assert!(first.err.contains(&format!("base = \"{exact}\"")), "the line to write is told: {}", first.err);
    let image = first.json()["formats"][0].clone();
    assert_eq!(image["base"], json!({ "name": name, "digest": shop.digest }), "{image}");
    let what = |one: &Value| one["what"].as_str().unwrap().to_owned();
    let layers: Vec<String> = image["layers"].as_array().unwrap().iter().map(what).collect();
    assert_eq!(layers, ["base", "runtime", "package"]);
    let rebuilt = shop.ours.json(&["verify", "--rebuild", image["path"].as_str().unwrap()]);
    assert_eq!(rebuilt["verified"], true, "{rebuilt}");
    // A sweep leaves what images are built on.
    assert_eq!(shop.ours.json(&["gc", "--older-than", "0s"])["blobs"], json!([]));

    // What it is pinned to is used without a word; it is no part of the package.
    let description = shop.folder.join("modelyard.toml");
    let text = std::fs::read_to_string(&description).unwrap();
    std::fs::write(&description, format!("{text}\n[image]\nbase = \"{exact}\"\n")).unwrap();
    let pinned = shop.package(&[]).ended(0);
    assert_eq!(pinned.json()["digest"], first.json()["digest"]);
    assert_eq!(pinned.json()["formats"][0]["digest"], image["digest"]);
    assert!(!pinned.err.contains("moved") && !pinned.err.contains("[image]"), "{}", pinned.err);

    // The name is made to mean another image: both who used it last and the description notice.
    let other = shop.move_name();
    let moved = shop.package(&["--base", &name]).ended(0);
    assert!(moved.err.contains(&format!("it was the image {} when", shop.digest)), "{}", moved.err);
    assert!(moved.err.contains(&format!("pins {}", shop.digest)) && moved.err.contains(&other), "{}", moved.err);
    assert_eq!(moved.json()["formats"][0]["base"]["digest"], other.as_str());

    // Without the registry: by digest as ever, by name with a warning.
    let (ours, folder) = (shop.ours, shop.folder);
    drop(shop.registry);
    let package = |base: &str| {
        let (folder, out) = (folder.to_str().unwrap(), ours.scratch("out"));
        let out = out.to_str().unwrap();
        ours.run(&["package", folder, "--format", "image", "--out", out, "--base", base, "--output", "json"]).ended(0)
    };
    let by_digest = package(&exact);
    assert_eq!(by_digest.json()["formats"][0]["digest"], image["digest"]);
    assert!(!by_digest.err.contains("cannot be reached"), "{}", by_digest.err);
    let by_name = package(&name);
    assert!(by_name.err.contains("is taken as it was last used here"), "{}", by_name.err);
}

#[test]
fn a_bundle_takes_the_image_along_with_the_layers_of_its_base() {
    let (shop, there) = (Workshop::new(), World::default());
    let image = shop.package(&["--base", &shop.exact()]).ended(0).json()["formats"][0].clone();
    let bundle = shop.ours.scratch("carried").join("iris.tar");
    let bundle = bundle.to_str().unwrap();
    shop.ours.run(&["bundle", "create", "iris", "--file", bundle]).ended(0);
    there.run(&["bundle", "load", bundle]).ended(0);
    let loaded = distribution(&there);
    for layer in image["layers"].as_array().unwrap() {
        loaded.store().blobs().verify(&layer["digest"].as_str().unwrap().parse().unwrap()).unwrap();
    }
    let registry = Registry::of(&there);
    let manifest = |digest: &Value| {
        let url = format!("http://{}/v2/iris/manifests/{}", registry.address, digest.as_str().unwrap());
        ureq::get(url).call().unwrap().body_mut().read_json::<Value>().unwrap()
    };
    assert_eq!(manifest(&image["digest"])["layers"][0]["digest"], image["layers"][0]["digest"]);
    drop(shop.theirs);
}

#[test]
fn an_environment_says_what_may_be_built_on_and_every_reason_is_told() {
    let shop = Workshop::new();
    let environments = shop.ours.scratch("environments");
    let (key, pem) = SigningKey::generate(None).unwrap();
    std::fs::write(environments.join("base.pub"), key.public().to_pem()).unwrap();
    drop(pem);
    let environment = |policy: &str| {
        let file = environments.join("prod.toml");
        std::fs::write(&file, format!("[policy]\n{policy}")).unwrap();
        shop.ours.run(&["env", "set", file.to_str().unwrap()])
    };
    let vague = environment("bases = [\"registry.example/debian:13\"]\n").ended(1).err;
    assert!(vague.contains("names no exact image"), "{vague}");
    let tested = format!("registry.example/debian@sha256:{}", "ab".repeat(32));
    environment(&format!(
        "bases = [\"{tested}\"]\nbase-keys = [\"base.pub\"]\nregistries = [\"registry.example/*\"]\n"
    ))
    .ended(0);
    let refused = shop.package(&["--base", &shop.exact(), "--env", "prod"]).ended(1).err.replace(['\n', '│'], " ");
    let refused = refused.split_whitespace().collect::<Vec<_>>().join(" ");
    for reason in [
        "only registry.example/* may be built on",
        "none of the 1 bases that were tested",
        "signed by none of the 1 keys",
    ] {
        assert!(refused.contains(reason), "`{reason}` is not told: {refused}");
    }
    let free = shop.package(&["--base", &shop.exact(), "--env", "test"]).ended(0);
    assert_eq!(free.json()["formats"][0]["base"]["digest"], shop.digest.as_str());

    // It is signed where it comes from, listed, and its registry is known.
    let (distribution, debian) = (distribution(&shop.theirs), ModelName::new("debian").unwrap());
    sign(&distribution, &debian, &shop.digest.parse().unwrap(), "registry.example/debian", &key).unwrap();
    let (listed, host) = (format!("any@{}", shop.digest), shop.registry.address);
    environment(&format!("bases = [\"{listed}\"]\nbase-keys = [\"base.pub\"]\nregistries = [\"{host}/*\"]\n")).ended(0);
    // By its digest it lay here already, without its signature.
    shop.package(&["--base", &shop.exact(), "--env", "prod"]).ended(0);
}
