//! Packages carried elsewhere: bundles to where no network leads, and back.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod support;

use std::path::Path;
use std::process::Command;

use serde_json::json;
use support::{World, examples};

fn packaged(world: &World, example: &str) -> String {
    let folder = examples().join(example);
    world.json(&["package", folder.to_str().unwrap()])["digest"].as_str().unwrap().to_owned()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn a_bundle_carries_signed_packages_to_another_home_and_back() {
    let (here, there) = (World::default(), World::default());
    let (one, two) = (packaged(&here, "wine/v1"), packaged(&here, "breast-cancer/v1"));
    let keys = here.scratch("keys").join("key");
    let made = here.json(&["sign", "--generate-key", text(&keys)]);
    here.json(&["sign", "wine", "--key", made["private"].as_str().unwrap()]);
    let file = here.scratch("carry").join("models.tar");
    let written = here.json(&["bundle", "create", "wine", "breast-cancer:1.0.0", "--file", text(&file)]);
    assert_eq!(written["items"].as_array().unwrap().len(), 3, "{written}");
    let listed = here.json(&["bundle", "list", text(&file)]);
    assert_eq!(listed["items"], written["items"]);

    let loaded = there.json(&["bundle", "load", text(&file)]);
    assert_eq!((&loaded["items"], &loaded["skipped"]), (&written["items"], &json!([])), "{loaded}");
    assert_eq!(there.json(&["inspect", "wine:1.0.0"])["digest"], json!(one));
    assert_eq!(there.json(&["inspect", "breast-cancer"])["digest"], json!(two));
    let public = made["public"].as_str().unwrap();
    there.run(&["verify", "wine", "--key", public]).ended(0);
    assert_ne!(there.run(&["verify", "breast-cancer", "--key", public]).code, 0, "nobody signed that one");

    let back = there.scratch("carry").join("back.tar");
    there.run(&["bundle", "create", "wine", "breast-cancer:1.0.0", "--file", text(&back)]).ended(0);
    assert_eq!(std::fs::read(&file).unwrap(), std::fs::read(&back).unwrap(), "the same content has the same bytes");
    let again = here.json(&["bundle", "load", text(&back)]);
    assert_eq!((&again["blobs"], &again["bytes"]), (&json!(0), &json!(0)));
}

#[test]
fn a_bundle_that_was_changed_or_is_none_is_refused_with_the_reason() {
    let (here, there) = (World::default(), World::default());
    packaged(&here, "wine/v1");
    let file = here.scratch("carry").join("wine.tar");
    here.run(&["bundle", "create", "wine", "--file", text(&file)]).ended(0);
    let mut bytes = std::fs::read(&file).unwrap();
    let model = std::fs::read(examples().join("wine/v1/model.onnx")).unwrap();
    let at = bytes.windows(model.len()).position(|window| window == model).expect("the model is in it as it is");
    bytes[at + model.len() / 2] ^= 1;
    std::fs::write(&file, bytes).unwrap();
    let refused = there.run(&["bundle", "load", text(&file)]).ended(1);
    let told = refused.err.split_whitespace().collect::<Vec<_>>().join(" ");
    assert!(told.contains("is damaged") && told.contains("model.onnx"), "{}", refused.err);
    assert_eq!(there.json(&["models"])["models"], json!([]), "nothing of it has a name");
    there.run(&["bundle", "load", text(&examples().join("wine/v1/modelyard.toml"))]).ended(1);
    there.run(&["bundle", "load", "no-such-file.tar"]).ended(1);
    there.run(&["bundle", "create", "--file", text(&file)]).ended(2);
    there.run(&["bundle", "create", "--image", "no:tag", "--file", text(&file)]).ended(1);
}

#[test]
#[ignore = "needs skopeo"]
fn skopeo_reads_bundles_and_what_it_writes_is_loaded() {
    let (here, there) = (World::default(), World::default());
    let digest = packaged(&here, "wine/v1");
    let folder = here.scratch("carry");
    let (file, copied, image) = (folder.join("wine.tar"), folder.join("copied.tar"), folder.join("image.tar"));
    here.run(&["bundle", "create", "wine", "--file", text(&file)]).ended(0);
    let skopeo = |arguments: &[&str]| {
        let output = Command::new("skopeo").arg("--insecure-policy").args(arguments).output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
        output.stdout
    };
    let archive = |path: &Path, name: &str| format!("oci-archive:{}:{name}", path.display());
    let raw = skopeo(&["inspect", "--raw", &archive(&file, "wine:1.0.0")]);
    let manifest: serde_json::Value = serde_json::from_slice(&raw).unwrap();
    assert_eq!(manifest["artifactType"], "application/vnd.cncf.model.manifest.v1+json");
    skopeo(&["copy", "--preserve-digests", &archive(&file, "wine:1.0.0"), &archive(&copied, "wine:1.0.0")]);
    there.run(&["bundle", "load", text(&copied)]).ended(0);
    assert_eq!(there.json(&["inspect", "wine"])["digest"], json!(digest));
    // The same under another name is an image of its own there: what it is called there is what it is here.
    skopeo(&["copy", "--preserve-digests", &archive(&copied, "wine:1.0.0"), &archive(&image, "team/copy:2")]);
    let loaded = there.json(&["bundle", "load", text(&image)]);
    assert_eq!(loaded["items"][0]["kind"], "package", "a package keeps the name that it says: {loaded}");
}
