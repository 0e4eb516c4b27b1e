//! Models from public places: a hub with its API, its storage and its quirks, and single files behind an address.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod support;

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;
use sha2::{Digest as _, Sha256};
use support::hub::{COMMIT, FORMER, Hub, REPOSITORY, TOKEN};
use support::{World, examples, until};

const CARD: &[u8] = b"---\nlicense: apache-2.0\n---\n# Wine\n";
/// What `pickle.dumps` writes of `posix.system`: loading it runs what it names.
const PICKLE: &[u8] = b"\x80\x04\x95\x14\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94.";

fn model() -> Vec<u8> {
    std::fs::read(examples().join("digits/v1/model.onnx")).unwrap()
}

/// A hub with a model as ONNX, twice, and as a pickle.
fn hub() -> Hub {
    let model = model();
    Hub::start(&[
        (".gitattributes", b"*.onnx filter=lfs\n"),
        ("LICENSE", b"Apache License\n"),
        ("README.md", CARD),
        ("config.json", b"{\"trees\": 10}\n"),
        ("empty.txt", b""),
        ("onnx/model.onnx", &model),
        ("pytorch_model.bin", PICKLE),
        ("run.py", b"import os\n"),
    ])
}

fn world(hub: &Hub) -> World {
    let mut world = World::default();
    world.environment = vec![("HF_ENDPOINT", hub.endpoint())];
    world
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Text for people, whatever its lines are broken at.
fn told(text: &str) -> String {
    text.replace('│', " ").split_whitespace().collect::<Vec<_>>().join(" ")
}

fn out(world: &World) -> PathBuf {
    world.scratch("out").join("wine")
}

fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Downloads that wait in the home for the next call.
fn parts(world: &World) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(world.home().join("carried")).into_iter().flatten().flatten();
    let mut parts: Vec<_> = entries.map(|entry| entry.path()).filter(|path| path.is_file()).collect();
    parts.sort();
    parts
}

#[test]
fn a_model_of_a_hub_becomes_a_package_that_says_where_it_comes_from() {
    let hub = hub();
    let world = world(&hub);
    let folder = out(&world);
    let made = world.json(&["import", "hf", REPOSITORY, "--out", text(&folder)]);
    assert_eq!((&made["name"], &made["version"]), (&json!("wine-2.1"), &json!(COMMIT[..12])), "{made}");
    assert_eq!((&made["commit"], &made["runtime"]), (&json!(COMMIT), &json!("onnx")));
    let files = ["LICENSE", "README.md", "config.json", "empty.txt", "onnx/model.onnx"];
    assert_eq!(made["files"], json!(files), "the only safe model and what stands beside it, and no code");
    assert_eq!(std::fs::read(folder.join("onnx/model.onnx")).unwrap(), model());
    let package = world.json(&["inspect", &format!("wine-2.1:{}", &COMMIT[..12])]);
    assert_eq!((&package["license"], &package["authors"]), (&json!("Apache-2.0"), &json!(["cellar"])), "{package}");
    assert_eq!(package["lineage"]["revision"], COMMIT);
    assert_eq!(package["lineage"]["source"], format!("{}/{REPOSITORY}", hub.endpoint()));
    let arrivals = package["arrivals"].as_array().unwrap();
    assert_eq!(
        (arrivals.len(), &arrivals[0]["how"], &arrivals[0]["from"]),
        (1, &json!("imported"), &package["lineage"]["source"])
    );
    let notes = &package["annotations"];
    assert_eq!(
        (&notes["huggingface.revision"], &notes["huggingface.task"]),
        (&json!("main"), &json!("tabular-classification"))
    );
    assert!(notes["huggingface.tags"].as_str().unwrap().contains("license:apache-2.0"), "{notes}");
    let card = world.run(&["inspect", text(&folder), "--card"]).ended(0);
    assert!(card.out.contains("Wine"), "{}", card.out);
    assert_eq!(parts(&world), Vec::<PathBuf>::new(), "nothing is left behind");
    // Everything was fetched at the commit, whatever the branch did meanwhile.
    let calls = hub.calls();
    let resolved: Vec<_> = calls.iter().filter(|call| call.contains("/resolve/")).collect();
    assert_eq!(resolved.len(), 4, "an empty file needs no request: {calls:?}");
    assert!(resolved.iter().all(|call| call.contains(COMMIT)), "{calls:?}");

    // By its tag it has a version; under its former name it is the same; a folder that holds something is left alone.
    let tagged =
        world.json(&["import", "hf", &format!("{FORMER}@v2.1.0"), "--out", text(&world.scratch("tagged").join("x"))]);
    assert_eq!((&tagged["version"], &tagged["commit"]), (&json!("2.1.0"), &json!(COMMIT)), "{tagged}");
    let occupied = world.run(&["import", "hf", REPOSITORY, "--out", text(&folder)]).ended(1);
    assert!(told(&occupied.err).contains("holds a model folder already"), "{}", occupied.err);
}

#[test]
fn what_breaks_off_goes_on_where_it_stood_in_the_next_call_too() {
    let hub = hub();
    let world = world(&hub);
    let folder = out(&world);
    // More breaks than one call tries again: it gives up, and keeps what came.
    hub.state().breaks = 5;
    let gave_up = world.run(&["import", "hf", REPOSITORY, "--out", text(&folder)]).ended(1);
    assert!(told(&gave_up.err).contains("broke off after 2560 of"), "{}", gave_up.err);
    assert!(!folder.exists(), "nothing half done");
    assert_eq!(world.json(&["models"])["models"], json!([]));
    hub.calls();
    world.json(&["import", "hf", REPOSITORY, "--out", text(&folder)]);
    let calls = hub.calls();
    let resolved: Vec<_> = calls.iter().filter(|call| call.contains("/resolve/")).collect();
    assert_eq!(resolved.len(), 1, "what was whole is not asked for again: {calls:?}");
    assert_eq!(std::fs::read(folder.join("onnx/model.onnx")).unwrap(), model());
}

#[test]
fn a_killed_import_leaves_nothing_half_done_and_is_taken_up_again() {
    let hub = hub();
    let world = world(&hub);
    let folder = out(&world);
    // It waits between its tries, with a piece of the model on disk: there it is killed.
    hub.state().breaks = usize::MAX;
    let mut child = world.command(&["import", "hf", REPOSITORY, "--out", text(&folder)]).spawn().unwrap();
    until("a piece of the model is there", 60, || {
        let lengths: Vec<u64> = parts(&world).iter().map(|path| path.metadata().unwrap().len()).collect();
        if lengths.contains(&1_024) { Ok(()) } else { Err(format!("{lengths:?}")) }
    });
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!folder.exists());
    hub.state().breaks = 0;
    hub.calls();
    world.json(&["import", "hf", REPOSITORY, "--out", text(&folder)]);
    let ranges: Vec<_> = hub.state().seen.iter().filter_map(|(_, _, headers)| headers.get("range").cloned()).collect();
    assert!(!ranges.is_empty() && ranges.iter().all(|range| range != "bytes=0-"), "it goes on: {ranges:?}");
    assert_eq!(std::fs::read(folder.join("onnx/model.onnx")).unwrap(), model());
}

#[test]
fn wrong_bytes_are_found_and_nothing_is_kept() {
    let hub = hub();
    for (file, says) in [("onnx/model.onnx", "sha256:"), ("config.json", "other bytes for `config.json`")] {
        let world = world(&hub);
        let folder = out(&world);
        let import = || world.run(&["import", "hf", REPOSITORY, "--out", text(&folder)]);
        hub.state().flipped = vec![file.to_owned()];
        let refused = import().ended(1);
        let told = told(&refused.err);
        assert!(told.contains(file) && told.contains(says), "{}", refused.err);
        assert!(!folder.exists() && world.json(&["models"])["models"] == json!([]));
        // What was right stays for the next call, what was wrong does not.
        hub.state().flipped.clear();
        import().ended(0);
        assert_eq!(std::fs::read(folder.join("onnx/model.onnx")).unwrap(), model());
    }
}

#[test]
fn pickles_are_never_taken_unless_that_is_said() {
    let hub = hub();
    let world = world(&hub);
    let (folder, model) = (out(&world), model());
    let import = |more: &[&str]| world.run(&[&["import", "hf", REPOSITORY, "--out", text(&folder)], more].concat());
    let refused = import(&["--file", "*.bin"]).ended(1);
    assert!(
        told(&refused.err).contains("may run code") && refused.err.contains("pytorch_model.bin"),
        "{}",
        refused.err
    );
    // One that is called otherwise is found out by its content.
    hub.state().files.insert("vocabulary.txt".into(), PICKLE.to_vec());
    let refused = import(&[]).ended(1);
    assert!(told(&refused.err).contains("`vocabulary.txt` is a Python pickle"), "{}", refused.err);
    assert!(!folder.exists(), "nothing was kept");
    hub.state().files.remove("vocabulary.txt");
    // Without a safe model, it is said what there is.
    hub.state().files.remove("onnx/model.onnx");
    let refused = import(&[]).ended(1);
    assert!(told(&refused.err).contains("run code when they are loaded: pytorch_model.bin"), "{}", refused.err);
    let taken = import(&["--allow-pickle", "--as", "risky:1", "--output", "json"]).ended(0).json();
    assert_eq!((&taken["name"], &taken["runtime"]), (&json!("risky"), &json!("none")));
    assert!(world.json(&["inspect", "risky:1"])["risks"].to_string().contains("pickle"), "it is told as a risk");
    // Of several models none is guessed.
    hub.state().files.insert("a.onnx".into(), model.clone());
    hub.state().files.insert("b.onnx".into(), model);
    let other = text(&world.scratch("other").join("x")).to_owned();
    let refused = world.run(&["import", "hf", REPOSITORY, "--out", &other]).ended(1);
    assert!(told(&refused.err).contains("several models: a.onnx") && refused.err.contains("--file"), "{}", refused.err);
    let chosen = world.json(&["import", "hf", REPOSITORY, "--out", &other, "--file", "b.onnx", "--as", "b:1"]);
    assert_eq!(chosen["files"], json!(["LICENSE", "README.md", "b.onnx"]));
}

#[test]
fn a_token_is_shown_to_the_hub_and_to_nobody_else() {
    let hub = hub();
    let mut world = world(&hub);
    let folder = out(&world);
    hub.state().gated = true;
    let refused = world.run(&["import", "hf", REPOSITORY, "--out", text(&folder)]).ended(1);
    assert!(told(&refused.err).contains("restricted") && refused.err.contains("HF_TOKEN"), "{}", refused.err);
    for what in ["cellar/none", "cellar/Wine-2.1@nowhere", "no/such/model", "../etc"] {
        assert_ne!(world.run(&["import", "hf", what, "--out", text(&folder)]).code, 0, "{what}");
    }
    world.environment.push(("HF_TOKEN", TOKEN.to_owned()));
    world.json(&["import", "hf", REPOSITORY, "--out", text(&folder)]);
    let state = hub.state();
    let (mut api, mut storage) = (0, 0);
    for (_, path, headers) in state.seen.iter().rev().take(9) {
        match path.ends_with("signature=x") {
            true => storage += usize::from(headers.contains_key("authorization")),
            false => api += usize::from(headers.contains_key("authorization")),
        }
    }
    assert!(api > 4 && storage == 0, "{api} and {storage}");
    assert!(!refused.err.contains(TOKEN));
}

#[test]
fn a_file_behind_an_address_is_only_taken_with_its_digest() {
    let hub = hub();
    let world = World::default();
    let folder = out(&world);
    let address = format!("{}/elsewhere/onnx/model.onnx?key=secret", hub.endpoint());
    let import = |more: &[&str]| world.run(&[&["import", "url", &address, "--out", text(&folder)], more].concat());
    let digest = sha256(&model());
    let unknown = import(&[]).ended(1);
    assert!(told(&unknown.err).contains(&digest), "it is told: {}", unknown.err);
    assert!(!folder.exists() && world.json(&["models"])["models"] == json!([]));
    hub.calls();
    let made = import(&["--sha256", &digest, "--as", "wine:7", "--output", "json"]).ended(0).json();
    assert_eq!(hub.calls(), Vec::<String>::new(), "the download was kept");
    assert_eq!((&made["name"], &made["runtime"]), (&json!("wine"), &json!("onnx")), "{made}");
    let package = world.json(&["inspect", "wine:7"]);
    let from = json!(format!("{}/elsewhere/onnx/model.onnx", hub.endpoint()));
    assert_eq!(
        (&package["arrivals"][0]["how"], &package["arrivals"][0]["from"]),
        (&json!("imported"), &from),
        "without the key"
    );
    let lineage = &package["lineage"];
    assert_eq!(lineage["revision"], format!("sha256:{digest}"));
    assert!(lineage["source"].as_str().unwrap().ends_with("/onnx/model.onnx"), "without the key: {lineage}");

    // It goes on where it broke off, and begins again where ranges are passed over.
    for rangeless in [false, true] {
        let folder = world.scratch(&format!("again-{rangeless}")).join("x");
        let plain = format!("{}/plain/onnx/model.onnx", hub.endpoint());
        hub.state().breaks = 2;
        hub.state().rangeless = rangeless;
        let named = format!("again-{rangeless}:1");
        world.json(&["import", "url", &plain, "--sha256", &digest, "--out", text(&folder), "--as", &named]);
        assert_eq!(std::fs::read(folder.join("model.onnx")).unwrap(), model());
        assert_eq!(hub.state().breaks, 0);
    }
    // Other bytes, no model, and what cannot be vouched for.
    let other = text(&world.scratch("other").join("x")).to_owned();
    let plain = |file: &str| format!("{}/plain/{file}", hub.endpoint());
    let wrong = "0".repeat(64);
    for (arguments, says) in [
        (vec![plain("onnx/model.onnx"), "--sha256".into(), wrong], "other bytes"),
        (vec![plain("README.md")], "no model of a kind that is known"),
        (vec![plain("pytorch_model.bin")], "may run code"),
        (vec![plain("none.onnx")], "has no"),
        (vec!["http://models.example/model.onnx".into()], "not encrypted"),
        (vec![hub.endpoint()], "does not end in the name of a file"),
        (vec!["file:///etc/passwd".into()], "is no address"),
    ] {
        let words: Vec<&str> = ["import", "url"].into_iter().chain(arguments.iter().map(String::as_str)).collect();
        let refused = world.run(&[&words[..], &["--out", &other]].concat());
        assert!(refused.code != 0 && told(&refused.err).contains(says), "{arguments:?}: {}", refused.err);
    }
    assert!(!Path::new(&other).exists());
}

#[test]
#[ignore = "needs the Python peers"]
fn the_hubs_own_client_downloads_from_the_stand_in() {
    let hub = hub();
    let world = world(&hub);
    let python = std::env::var("MODELYARD_TEST_PYTHON").expect("MODELYARD_TEST_PYTHON names a Python with the peers");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/peers/hub_client.py");
    let imported = out(&world);
    world.json(&["import", "hf", REPOSITORY, "--out", text(&imported)]);
    let output = Command::new(python)
        .arg(script)
        .args([REPOSITORY, FORMER, COMMIT, TOKEN, text(&imported)])
        .env("HF_ENDPOINT", hub.endpoint())
        .env("HF_HOME", world.scratch("hf"))
        .output()
        .unwrap();
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{}{}", said(&output.stdout), said(&output.stderr));
    assert!(said(&output.stdout).contains("ok: "), "it checked something");
}
