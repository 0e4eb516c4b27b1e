//! Packages carried elsewhere: bundles to where no network leads, and back.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod support;

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use support::artefacts::{Artefacts, SECRET};
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
    let taken = there.json(&["inspect", "wine:1.0.0"]);
    assert_eq!(taken["digest"], json!(one));
    assert_eq!((&taken["arrivals"][0]["how"], &taken["arrivals"][0]["file"]), (&json!("bundle"), &json!("models.tar")));
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

/// The three kinds of generic artefact registry: address, the variables that say who we are, and which of them is the secret.
fn places(registry: &Artefacts) -> [(String, Vec<(&'static str, String)>); 3] {
    let (at, secret) = (registry.address, SECRET.to_owned());
    [
        (format!("gitlab://{at}/ml/models"), vec![("GITLAB_TOKEN", secret.clone())]),
        (
            format!("nexus://{at}/raw-models"),
            vec![("NEXUS_USERNAME", "ada".to_owned()), ("NEXUS_PASSWORD", secret.clone())],
        ),
        (format!("github://{at}/own/models"), vec![("GITHUB_TOKEN", secret)]),
    ]
}

fn world_with(variables: &[(&'static str, String)]) -> World {
    let mut world = World::default();
    world.environment = variables.to_vec();
    world
}

/// Text for people, whatever its lines are broken at.
fn told(text: &str) -> String {
    text.replace('│', " ").split_whitespace().collect::<Vec<_>>().join(" ")
}

#[test]
fn packages_go_to_generic_artefact_registries_and_come_back() {
    for kind in 0..3 {
        let registry = Artefacts::start();
        let (place, variables) = places(&registry)[kind].clone();
        let (here, there) = (world_with(&variables), world_with(&variables));
        let digest = packaged(&here, "wine/v1");
        let nothing = there.run(&["pull", &place, "wine:1.0.0"]).ended(1);
        assert!(told(&nothing.err).contains("has no wine:1.0.0"), "{}", nothing.err);
        registry.calls();

        let pushed = here.json(&["push", "wine", &place]);
        assert_eq!(pushed["digest"], json!(digest), "{pushed}");
        let size = pushed["size_bytes"].as_u64().unwrap();
        assert!(registry.state().files.values().any(|file| file.len() as u64 == size), "{:?}", registry.calls());
        let calls = registry.calls();
        let path = [
            "/api/v4/projects/ml%2Fmodels/packages/generic/wine/1.0.0/",
            "/repository/raw-models/wine/1.0.0/",
            "/api/uploads/",
        ];
        assert!(calls.iter().any(|call| call.contains(path[kind]) && call.contains("wine-1.0.0.tar")), "{calls:?}");

        // It is there already: nothing is sent again.
        assert_eq!(here.json(&["push", "wine", &place])["bytes"], json!(0));
        let calls = registry.calls();
        assert!(calls.iter().all(|call| call.starts_with("GET ")), "{calls:?}");

        // The connection breaks twice, and the download goes on where it stood.
        registry.state().breaks = 2;
        let pulled = there.json(&["pull", &place, "wine:1.0.0"]);
        assert_eq!((&pulled["digest"], &pulled["bundle"]), (&json!(digest), &pushed["bundle"]), "{pulled}");
        let starts: Vec<_> =
            registry.state().seen.iter().filter_map(|(_, _, headers)| headers.get("range").cloned()).collect();
        assert!(starts.iter().any(|range| range == "bytes=512-"), "{starts:?}");
        assert!(starts.iter().any(|range| range == "bytes=1024-"), "{starts:?}");
        let taken = there.json(&["inspect", "wine:1.0.0"]);
        assert_eq!(taken["digest"], json!(digest));
        assert_eq!((&taken["arrivals"][0]["how"], &taken["arrivals"][0]["from"]), (&json!("pulled"), &json!(place)));

        // Another package of that name and version is refused, and what lies there stays.
        let other = world_with(&variables);
        let folder = other.scratch("other");
        for file in std::fs::read_dir(examples().join("wine/v1")).unwrap().map(Result::unwrap) {
            std::fs::copy(file.path(), folder.join(file.file_name())).unwrap();
        }
        std::fs::write(folder.join("MODEL_CARD.md"), "# Another\n").unwrap();
        other.json(&["package", text(&folder)]);
        let refused = other.run(&["push", "wine", &place]).ended(1);
        assert!(told(&refused.err).contains("lies there already, and is another package"), "{}", refused.err);
        assert_eq!(here.json(&["push", "wine", &place])["bytes"], json!(0));
    }
}

#[test]
fn what_a_generic_artefact_registry_gives_or_refuses_wrongly_is_told_and_leaves_nothing() {
    for kind in 0..3 {
        let registry = Artefacts::start();
        let (place, variables) = places(&registry)[kind].clone();
        let (here, there) = (world_with(&variables), world_with(&variables));
        packaged(&here, "wine/v1");

        let (secret, _) = variables.last().unwrap();
        let mut stranger = here.command(&["push", "wine", &place]);
        let refused = stranger.env(secret, "an0ther").output().unwrap();
        let error = told(&String::from_utf8_lossy(&refused.stderr));
        assert_eq!(refused.status.code(), Some(1));
        assert!(error.contains("does not let us") && error.contains(secret) && !error.contains("an0ther"), "{error}");
        assert!(registry.state().files.is_empty());

        // A byte that flips on the way there.
        registry.state().flips = true;
        let refused = here.run(&["push", "wine", &place]).ended(1);
        assert!(told(&refused.err).contains("has other bytes for `wine-1.0.0.tar`"), "{}", refused.err);
        there.run(&["pull", &place, "wine:1.0.0"]).ended(1);
        let pushed = here.json(&["push", "wine", &place]);
        assert_ne!(pushed["bytes"], json!(0), "the broken file is replaced");

        // A download that breaks off again and again gives nothing a name.
        registry.state().breaks = 100;
        let refused = there.run(&["pull", &place, "wine:1.0.0"]).ended(1);
        assert!(told(&refused.err).contains("broke off after"), "{}", refused.err);
        assert_eq!(there.json(&["models"])["models"], json!([]));
        registry.state().breaks = 0;
        let swept = there.json(&["gc", "--older-than", "0s"]);
        let path = swept["downloads"][0]["path"].as_str().unwrap();
        assert!(path.ends_with(".part") && !std::path::Path::new(path).exists(), "{swept}");

        // A byte that flips where it lies.
        let size = pushed["size_bytes"].as_u64().unwrap();
        let flip = || {
            let mut state = registry.state();
            let file = state.files.values_mut().find(|file| file.len() as u64 == size).expect("the bundle");
            file[size as usize - 100] ^= 1;
        };
        flip();
        let refused = there.run(&["pull", &place, "wine:1.0.0"]).ended(1);
        let error = told(&refused.err);
        assert!(error.contains("has other bytes for `wine-1.0.0.tar`"), "{error}");
        assert_eq!(there.json(&["models"])["models"], json!([]));
        let left: Vec<_> = std::fs::read_dir(there.home().join("carried")).unwrap().collect();
        assert!(left.is_empty(), "{left:?}");
        flip();
        there.json(&["pull", &place, "wine:1.0.0"]);

        for wrong in [vec!["pull", &place], vec!["pull", &place, "wine"], vec!["pull", "gitlab://host", "wine:1.0.0"]] {
            there.run(&wrong).ended(2);
        }
    }
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

/// Puts a blob or a manifest into a registry over plain HTTP, as any client does.
fn put(url: &str, kind: &str, bytes: &[u8]) {
    let agent = ureq::Agent::config_builder().http_status_as_error(false).build().new_agent();
    let upload = kind == "application/octet-stream";
    let request = if upload { agent.post(url) } else { agent.put(url) };
    let mut answer = request.header("content-type", kind).send(bytes).unwrap();
    assert_eq!(answer.status().as_u16(), 201, "{}", answer.body_mut().read_to_string().unwrap_or_default());
}

/// Puts an artefact into a registry: its configuration and its layers, each with its media type and the path that is noted, if any.
fn pushed(repository: &str, tag: &str, config: (&str, &Value), layers: &[(&str, Option<&str>, Vec<u8>)]) {
    let blob = |kind: &str, path: Option<&str>, bytes: &[u8]| {
        let hex: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        put(&format!("{repository}/blobs/uploads/?digest=sha256:{hex}"), "application/octet-stream", bytes);
        let mut told = json!({"mediaType": kind, "digest": format!("sha256:{hex}"), "size": bytes.len()});
        if let Some(path) = path {
            told["annotations"] = json!({"org.cncf.model.filepath": path});
        }
        told
    };
    let layers: Vec<Value> = layers.iter().map(|(kind, path, bytes)| blob(kind, *path, bytes)).collect();
    let kind = "application/vnd.oci.image.manifest.v1+json";
    let manifest = json!({
        "schemaVersion": 2, "mediaType": kind, "config": blob(config.0, None, config.1.to_string().as_bytes()), "layers": layers,
    });
    put(&format!("{repository}/manifests/{tag}"), kind, manifest.to_string().as_bytes());
}

/// What GNU tar makes of these files of a folder.
fn archive(folder: &Path, options: &[&str], files: &[&str]) -> Vec<u8> {
    let output = Command::new("tar").args(options).arg("-C").arg(folder).args(files).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout
}

const KITFILE: &str = "application/vnd.kitops.modelkit.config.v1+json";
const KIT_MODEL: &str = "application/vnd.kitops.modelkit.model.v1.tar+gzip";

#[test]
fn a_modelkit_becomes_a_package_that_serves() {
    let (there, here) = (World::up(), World::up());
    let (wine, kits) = (examples().join("wine/v1"), format!("http://{}/v2/team/wine-kit", there.control));
    let kitfile = json!({
        "manifestVersion": "1.0.0",
        "package": {"name": "wine", "version": "7.0.0", "description": "Told apart by chemistry", "authors": ["Ada"], "license": "MIT"},
        "model": {"name": "forest", "path": "./model.onnx", "framework": "scikit-learn", "parameters": {"trees": 20}},
        "code": [{"path": "train.py"}],
    });
    let code = "application/vnd.kitops.modelkit.code.v1.tar";
    let layers = [
        (KIT_MODEL, None, archive(&wine, &["-cz"], &["./model.onnx"])),
        (code, None, archive(&wine, &["-cP"], &["../train.py"])),
    ];
    pushed(&kits, "reaches-out", (KITFILE, &kitfile), &layers);
    std::fs::create_dir_all(here.scratch("kit")).unwrap();
    let out = here.scratch("kit").join("wine");
    let remote = |tag: &str| format!("{}/team/wine-kit:{tag}", there.control);
    let refused = here.run(&["import", "oci", &remote("reaches-out"), "--out", text(&out)]).ended(1);
    assert!(refused.err.contains("leaves the folder"), "{}", refused.err);
    assert_eq!(std::fs::read_dir(here.scratch("kit")).unwrap().count(), 0, "nothing was left");

    let layers = [
        (KIT_MODEL, None, archive(&wine, &["-cz"], &["./model.onnx"])),
        (code, None, archive(wine.parent().unwrap(), &["-c"], &["train.py"])),
    ];
    pushed(&kits, "v7", (KITFILE, &kitfile), &layers);
    let made = here.json(&["import", "oci", &remote("v7"), "--out", text(&out)]);
    let arrivals = &here.json(&["inspect", "wine:7.0.0"])["arrivals"];
    let from = json!(format!("{}/team/wine-kit", there.control));
    assert_eq!((&arrivals[0]["how"], &arrivals[0]["from"]), (&json!("imported"), &from), "{arrivals}");
    assert_eq!(
        (&made["name"], &made["version"], &made["runtime"]),
        (&json!("wine"), &json!("7.0.0"), &json!("onnx")),
        "{made}"
    );
    let again = here.scratch("kit").join("again");
    assert_eq!(here.json(&["import", "oci", &remote("v7"), "--out", text(&again)])["digest"], made["digest"]);
    let occupied = here.run(&["import", "oci", &remote("v7"), "--out", text(&out)]).ended(1);
    assert!(occupied.err.contains("holds a model folder already"), "{}", occupied.err);

    let shown = here.json(&["inspect", "wine:7.0.0"]);
    let package = shown.get("package").unwrap_or(&shown);
    assert_eq!(package["parameters"]["trees"], json!(20), "{shown}");
    assert_eq!(package["annotations"]["oci.source"], json!(remote("v7")), "{shown}");
    here.run(&["deploy", "wine:7.0.0", "--wait", "--timeout", "3m"]).ended(0);
    let body = r#"{"inputs":[{"name":"features","datatype":"FP32","shape":[1,13],"data":[14.2,1.7,2.4,15.6,127,2.8,3.1,0.3,2.3,5.6,1.0,3.9,1065]}]}"#;
    let url = format!("http://{}/v2/models/wine/infer", here.gateway);
    let answer: Value = ureq::post(&url).send(body).unwrap().body_mut().read_json().unwrap();
    assert_eq!(answer["model_version"], "7.0.0", "{answer}");
    here.down();
    there.down();
}

#[test]
fn a_modelpack_artefact_of_another_tool_becomes_a_package() {
    let (there, here) = (World::up(), World::default());
    let (wine, packs) = (examples().join("wine/v1"), format!("http://{}/v2/team/packed", there.control));
    let config = json!({
        "descriptor": {"name": "team/wine", "family": "forest", "licenses": ["Apache-2.0"], "authors": ["Ada"]},
        "config": {"format": "onnx", "precision": "float32"},
        "modelfs": {"type": "layers", "diffIds": []},
    });
    let model = std::fs::read(wine.join("model.onnx")).unwrap();
    let layers = [
        ("application/vnd.cncf.model.weight.v1.raw", Some("model.onnx"), model.clone()),
        (
            "application/vnd.cncf.model.code.v1.tar",
            Some("train.py"),
            archive(wine.parent().unwrap(), &["-c"], &["train.py"]),
        ),
    ];
    pushed(&packs, "3", ("application/vnd.cncf.model.config.v1+json", &config), &layers);
    let (remote, out) = (format!("{}/team/packed:3", there.control), here.scratch("pack").join("packed"));
    let made = here.json(&["import", "oci", &remote, "--out", text(&out)]);
    // `team/wine` is no name of a model here: the repository's last part is.
    assert_eq!(
        (&made["name"], &made["version"], &made["runtime"]),
        (&json!("packed"), &json!("3"), &json!("onnx")),
        "{made}"
    );
    assert_eq!(std::fs::read(out.join("model.onnx")).unwrap(), model);
    let toml = std::fs::read_to_string(out.join("modelyard.toml")).unwrap();
    assert!(toml.contains("modelpack.precision") && toml.contains("Apache-2.0"), "{toml}");

    // What is neither, and what `pull` is for.
    packaged(&there, "wine/v1");
    there.run(&["push", "wine:1.0.0", &format!("{}/team/ours:1", there.control)]).ended(0);
    let ours = here.run(&["import", "oci", &format!("{}/team/ours:1", there.control)]).ended(1);
    assert!(ours.err.contains("modelyard pull"), "{}", ours.err);
    pushed(&packs, "image", ("application/vnd.oci.image.config.v1+json", &json!({})), &[]);
    let image = here.run(&["import", "oci", &format!("{}/team/packed:image", there.control)]).ended(1);
    assert!(image.err.contains("no files in its folder `/models`"), "{}", image.err);
    pushed(&packs, "odd", ("application/vnd.example.odd+json", &json!({})), &[]);
    let odd = here.run(&["import", "oci", &format!("{}/team/packed:odd", there.control)]).ended(1);
    assert!(odd.err.contains("vnd.example.odd"), "{}", odd.err);
    there.down();
}

#[test]
fn a_plain_image_with_a_model_in_a_folder_becomes_a_package_that_serves() {
    let (there, here) = (World::up(), World::up());
    let (wine, images) = (examples().join("wine"), format!("http://{}/v2/team/modelcar", there.control));
    let folder = here.scratch("car");
    std::fs::create_dir_all(folder.join("models/1")).unwrap();
    std::fs::create_dir_all(folder.join("etc")).unwrap();
    let put = |from: &str, to: &str| std::fs::copy(wine.join(from), folder.join(to)).map(drop).unwrap();
    put("v1/model.onnx", "models/1/model.onnx");
    put("train.py", "models/1/old.py");
    std::fs::write(folder.join("etc/hostname"), "elsewhere").unwrap();
    let base = archive(&folder, &["-c"], &["etc", "models"]);
    // The second layer brings another model, and takes a file of the first away.
    put("v2/model.onnx", "models/1/model.onnx");
    std::fs::write(folder.join("models/1/.wh.old.py"), "").unwrap();
    let next = archive(&folder, &["-c", "-z"], &["models/1/model.onnx", "models/1/.wh.old.py"]);
    let labels = json!({ "org.opencontainers.image.licenses": "MIT", "org.opencontainers.image.version": "2.0.0" });
    let config = json!({ "architecture": "amd64", "os": "linux", "config": { "Labels": labels } });
    let layers = [
        ("application/vnd.oci.image.layer.v1.tar", None, base),
        ("application/vnd.oci.image.layer.v1.tar+gzip", None, next),
    ];
    pushed(&images, "latest", ("application/vnd.oci.image.config.v1+json", &config), &layers);
    let (remote, out) = (format!("{}/team/modelcar:latest", there.control), here.scratch("out").join("car"));
    let elsewhere = here.run(&["import", "oci", &remote, "--path", "/opt", "--out", text(&out)]).ended(1);
    assert!(elsewhere.err.contains("`/opt`") && elsewhere.err.contains("--path"), "{}", elsewhere.err);
    let made = here.json(&["import", "oci", &remote, "--out", text(&out)]);
    assert_eq!(
        (&made["name"], &made["version"], &made["runtime"]),
        (&json!("modelcar"), &json!("2.0.0"), &json!("onnx")),
        "{made}"
    );
    assert_eq!(std::fs::read(out.join("1/model.onnx")).unwrap(), std::fs::read(wine.join("v2/model.onnx")).unwrap());
    assert!(!out.join("1/old.py").exists() && !out.join("etc").exists());
    here.json(&["deploy", "modelcar:2.0.0", "--service", "wine", "--wait"]);
    here.down();
    there.down();
}

#[test]
fn a_package_goes_out_as_a_modelkit_and_comes_back() {
    let (there, here) = (World::up(), World::default());
    packaged(&here, "wine/v1");
    let remote = format!("{}/team/wine-kit:1", there.control);
    let made = here.json(&["export", "kit", "wine", &remote]);
    let again = here.json(&["export", "kit", "wine", &remote]);
    assert_eq!((&again["digest"], &again["blobs"]), (&made["digest"], &json!(0)), "{again}");

    let get = |path: &str| -> Vec<u8> {
        ureq::get(format!("http://{}/v2/team/wine-kit/{path}", there.control))
            .call()
            .unwrap()
            .body_mut()
            .read_to_vec()
            .unwrap()
    };
    let manifest: Value = serde_json::from_slice(&get("manifests/1")).unwrap();
    assert_eq!((&manifest["config"]["mediaType"], manifest.get("artifactType")), (&json!(KITFILE), None), "{manifest}");
    let blob = |descriptor: &Value| get(&format!("blobs/{}", descriptor["digest"].as_str().unwrap()));
    let kitfile: Value = serde_json::from_slice(&blob(&manifest["config"])).unwrap();
    assert_eq!(
        (&kitfile["package"]["name"], &kitfile["model"]["path"]),
        (&json!("wine"), &json!("model.onnx")),
        "{kitfile}"
    );
    assert_eq!(kitfile["model"]["digest"], manifest["layers"][0]["digest"]);
    // What GNU tar finds in the layers is what the Kitfile lists, in its order.
    let folder = here.scratch("kit");
    std::fs::create_dir_all(&folder).unwrap();
    let mut found = Vec::new();
    for layer in manifest["layers"].as_array().unwrap() {
        let file = folder.join("layer.tar");
        std::fs::write(&file, blob(layer)).unwrap();
        let output = Command::new("tar").arg("-tf").arg(&file).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        found.extend(String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned));
    }
    let listed = ["code", "docs"].iter().flat_map(|list| kitfile[list].as_array().into_iter().flatten());
    let listed: Vec<&str> =
        std::iter::once(&kitfile["model"]).chain(listed).map(|entry| entry["path"].as_str().unwrap()).collect();
    assert_eq!(found, listed);

    let out = folder.join("wine");
    let back = there.json(&["import", "oci", &remote, "--out", text(&out)]);
    assert_eq!((&back["name"], &back["version"], &back["runtime"]), (&json!("wine"), &json!("1.0.0"), &json!("onnx")));
    assert_eq!(
        std::fs::read(out.join("model.onnx")).unwrap(),
        std::fs::read(examples().join("wine/v1/model.onnx")).unwrap()
    );
    let card = |path: &Path| std::fs::read(path.join("MODEL_CARD.md")).unwrap();
    assert_eq!(card(&out), card(&examples().join("wine/v1")));
    there.down();
}
