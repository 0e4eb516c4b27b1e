//! The catalogue and the history from outside: what served when, who decided, whether anybody changed the log.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod support;

use std::path::PathBuf;

use serde_json::{Value, json};
use support::{Ran, World, examples};

/// A model folder whose program does nothing, with further lines of its description.
fn folder(world: &World, version: &str, more: &str) -> PathBuf {
    let path = world.scratch(&format!("model-{version}"));
    let text = format!(
        "files = [\"run\"]\n\n[model]\nname = \"tiny\"\nversion = \"{version}\"\ncard = \"CARD.md\"\n\n\
         [runtime]\nkind = \"command\"\ncommand = [\"./run\"]\nhealth = \"/\"\n\n{more}\n"
    );
    std::fs::write(path.join("modelyard.toml"), text).unwrap();
    std::fs::write(path.join("run"), format!("#!/bin/sh\nexit {}\n", version.len())).unwrap();
    std::fs::write(path.join("CARD.md"), "# Tiny\n").unwrap();
    path
}

fn packaged(world: &World, version: &str, more: &str) -> Value {
    world.json(&["package", folder(world, version, more).to_str().unwrap()])
}

fn versions(document: &Value) -> Vec<&str> {
    document["versions"].as_array().unwrap().iter().map(|one| one["version"].as_str().unwrap()).collect()
}

#[test]
fn versions_are_tagged_found_compared_and_withdrawn() {
    let world = World::default();
    for version in ["v1", "v2"] {
        world.run(&["package", examples().join("wine").join(version).to_str().unwrap()]).ended(0);
    }
    let set = world.json(&["tag", "wine:1.0.0", "team=cellar", "audit=2026"]);
    assert_eq!(set["tags"], json!({ "team": "cellar", "audit": "2026" }));
    world.run(&["tag", "wine", "owner=ada"]).ended(0);
    assert_eq!(world.json(&["tag", "wine"])["tags"], json!({ "owner": "ada" }), "a model's tags are its own");
    assert_eq!(world.json(&["tag", "wine:1.0.0", "--remove", "audit"])["tags"], json!({ "team": "cellar" }));
    assert!(world.run(&["tag", "wine:2.0.0"]).ended(0).out.contains("has no tags"));
    world.run(&["tag", "wine:9.9.9", "a=b"]).ended(1);
    world.run(&["tag", "wine:1.0.0", "novalue"]).ended(2);

    let found = |filter: &str| world.json(&["models", "--search", filter]);
    assert_eq!(versions(&found("tag.team = 'cellar'")), ["1.0.0"]);
    assert_eq!(versions(&found("name like 'wi%' and accuracy > 0.9")), ["1.0.0", "2.0.0"]);
    assert_eq!(versions(&found("tag.team != 'cellar' and parameter.estimator != 'x'")), ["2.0.0"]);
    assert_eq!(versions(&found("accuracy > 1")), [""; 0]);
    assert!(world.run(&["models", "--search", "tag.team = 'cellar'"]).ended(0).out.contains("team=cellar"));
    world.run(&["models", "--search", "accuracy >"]).ended(2);

    let diff = world.json(&["diff", "wine:1.0.0", "wine:2.0.0"]);
    let (from, to) = (&diff["from"], &diff["to"]);
    assert_eq!((&from["version"], &to["version"]), (&json!("1.0.0"), &json!("2.0.0")));
    assert_eq!(diff["changes"]["metrics"]["accuracy"]["before"], json!(0.9444), "{diff}");
    assert!(diff["changes"]["files"]["model.onnx"]["after"]["digest"].is_string(), "{diff}");
    let told = world.run(&["diff", "wine:1.0.0", examples().join("wine/v2").to_str().unwrap()]).ended(0).out;
    assert!(told.contains("metrics") && told.contains("accuracy") && told.contains("(+"), "{told}");
    let same = world.run(&["diff", "wine:1.0.0", "wine:1.0.0"]).ended(0).out;
    assert!(same.contains("the same"), "{same}");
    world.run(&["diff", "wine:1.0.0", "wine:9"]).ended(1);

    world.run(&["yank", "wine:2.0.0"]).ended(2);
    assert_eq!(world.json(&["yank", "wine:2.0.0", "--reason", "labels were wrong"])["changed"], json!(true));
    assert_eq!(world.json(&["yank", "wine:2.0.0", "--reason", "labels were wrong"])["changed"], json!(false));
    assert_eq!(world.json(&["inspect", "wine"])["version"], "1.0.0", "the newest that is not withdrawn");
    let listed = world.run(&["versions", "wine"]).ended(0).out;
    assert!(listed.contains("withdrawn: labels were wrong"), "{listed}");
    assert_eq!(world.json(&["yank", "wine:2.0.0", "--undo"])["changed"], json!(true));
    assert_eq!(world.json(&["inspect", "wine"])["version"], "2.0.0");
    world.run(&["yank", "wine:7", "--reason", "x"]).ended(1);
}

#[test]
fn what_a_package_was_made_from_is_kept_and_shown() {
    let world = World::default();
    let first = packaged(&world, "1", "");
    let more = "[lineage]\nbuilt_from = [\"tiny:1\"]\nsource = \"https://example.com/tiny\"\nrevision = \"0123abc\"\n\n\
                [lineage.datasets]\ntrain = \"train.csv\"";
    let path = folder(&world, "2", more);
    std::fs::write(path.join("train.csv"), "abc").unwrap();
    let text = path.to_str().unwrap();
    let second = world.json(&["package", text]);
    // SHA-256 of `abc`. Source: FIPS 180-4, example B.1.
    let abc = "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let shown = world.json(&["inspect", "tiny:2"]);
    let expected = json!({
        "built_from": [{ "name": "tiny", "version": "1", "digest": first["digest"] }], "datasets": { "train": abc },
        "source": "https://example.com/tiny", "revision": "0123abc",
    });
    assert_eq!(shown["lineage"], expected);
    assert!(shown["files"]["train.csv"].is_null(), "data is named by its digest and not packaged: {shown}");
    assert_eq!(world.json(&["inspect", text])["digest"], second["digest"], "a folder is the same wherever it is built");
    let told = world.run(&["inspect", "tiny:2"]).ended(0).out;
    assert!(told.contains("built from") && told.contains("0123abc") && told.contains(abc), "{told}");
    let card = world.json(&["inspect", "tiny:2", "--card"]);
    let card = card["markdown"].as_str().unwrap();
    assert!(card.starts_with("# Tiny") && card.contains("## Made from") && card.contains(abc), "{card}");
    let diff = world.json(&["diff", "tiny:1", "tiny:2"]);
    assert_eq!(diff["changes"]["lineage"]["revision"], json!({ "after": "0123abc" }), "{diff}");
    assert_eq!(diff["changes"]["lineage"]["data set train"], json!({ "after": abc }));

    let third = folder(&world, "3", "[lineage]\nrevision = \"in the file\"");
    let third = third.to_str().unwrap();
    world.run(&["package", third, "--source-revision", "two\nlines"]).ended(2);
    world.json(&["package", third, "--source-revision", "feed"]);
    assert_eq!(world.json(&["inspect", "tiny:3"])["lineage"], json!({ "revision": "feed" }));
    // Both give the same digest again: with what only the home's registry knows, and what only the command line said.
    let private = world.scratch("keys").join("k");
    let private = world.json(&["sign", "--generate-key", private.to_str().unwrap()])["private"].clone();
    for (name, path) in [("tiny:2", text), ("tiny:3", third)] {
        let by = ["--key", private.as_str().unwrap(), "--builder", "https://ci.example/release"];
        world.run(&[&["attest", name, path], &by[..]].concat()).ended(0);
    }
}

/// Whatever packages a folder hears the revision, so that each gives the digest that `package` gives.
#[test]
fn the_environment_says_the_revision_to_every_command_that_packages() {
    let world = World::up();
    let path = folder(&world, "1", "");
    let (path, control) = (path.to_str().unwrap(), format!("http://{}", world.control));
    let said = |revision: &str, arguments: &[&str]| {
        let mut command = world.command(&[arguments, &["--output", "json"]].concat());
        Ran::of(command.env("MODELYARD_SOURCE_REVISION", revision))
    };
    let looked = said("feed", &["inspect", path]).ended(0).json();
    assert_eq!(looked["lineage"], json!({ "revision": "feed" }));
    said("feed", &["deploy", path, "--dry-run", "--control", &control]).ended(0);
    let kept = world.json(&["inspect", "tiny:1"]);
    assert_eq!((&kept["lineage"], &kept["digest"]), (&looked["lineage"], &looked["digest"]));
    assert_eq!(said("feed", &["package", path]).ended(0).json()["digest"], looked["digest"]);
    assert!(said("two\nlines", &["inspect", path]).ended(2).err.contains("MODELYARD_SOURCE_REVISION"));
    world.down();
}

#[test]
fn lineage_that_says_nothing_fixed_is_refused_with_its_place() {
    let world = World::default();
    for (more, why) in [
        ("[lineage]\nbuilt_from = [\"tiny@best\"]", "names what moves"),
        ("[lineage]\nbuilt_from = [\"tiny:77\"]", "tiny"),
        ("[lineage]\nrevision = \"\"", "one line"),
        ("[lineage]\nrevison = \"x\"", "did you mean `revision`"),
        ("[lineage.datasets]\ntrain = \"../train.csv\"", "leaves the folder"),
        ("[lineage.datasets]\ntrain = \"runn\"", "there is no file `runn`; did you mean `run`?"),
        ("[lineage.datasets]\ntrain = \"sha256:ab\"", "is not a digest"),
    ] {
        let refused = world.run(&["package", folder(&world, "4", more).to_str().unwrap()]).ended(1);
        let told = refused.err.split_whitespace().filter(|word| *word != "│").collect::<Vec<_>>().join(" ");
        assert!(told.contains(why), "{more}: {}", refused.err);
    }
    assert!(world.run(&["inspect", "tiny:4"]).code != 0, "nothing was kept");
}

#[test]
fn versions_that_no_rule_keeps_are_let_go() {
    let world = World::default();
    for version in ["1", "2", "3", "4", "5"] {
        packaged(&world, version, "");
    }
    world.run(&["alias", "tiny@champion", "1"]).ended(0);
    world.run(&["tag", "tiny:2", "audit=yes"]).ended(0);
    let rules = ["gc", "--keep-last", "2", "--keep-tag", "audit", "--older-than", "0s"];
    let would = world.json(&[rules.as_slice(), &["--dry-run"]].concat());
    let kept: Vec<&Value> = would["versions"].as_array().unwrap().iter().map(|one| &one["kept"]).collect();
    assert_eq!(kept, [&json!("aliased"), &json!("tagged"), &Value::Null, &json!("newest"), &json!("newest")]);
    assert_eq!(versions(&world.json(&["versions", "tiny"])).len(), 5, "a dry run removes nothing");
    let young = [rules.as_slice(), &["--keep-younger-than", "1h"]].concat();
    world.run(&young).ended(0);
    assert_eq!(versions(&world.json(&["versions", "tiny"])).len(), 5, "all of them are young");
    let other = [rules.as_slice(), &["--model", "other"]].concat();
    world.run(&other).ended(0);
    assert_eq!(versions(&world.json(&["versions", "tiny"])).len(), 5, "the rules spoke of another model");
    let done = world.run(&rules).ended(0).out;
    assert!(done.contains("removed: tiny:3 sha256:"), "{done}");
    assert_eq!(versions(&world.json(&["versions", "tiny"])), ["1", "2", "4", "5"]);
    assert_ne!(
        world.json(&["package", folder(&world, "3", "").to_str().unwrap()])["digest"],
        Value::Null,
        "as what it was"
    );
    world.run(&["gc", "--keep-last", "0"]).ended(2);
    world.run(&["gc", "--keep-tag", "audit"]).ended(2);
}

#[test]
fn what_a_service_needs_stays_and_only_the_control_plane_knows() {
    let world = World::up();
    assert_eq!(world.deploy("wine/v1", &[]).ended(0).json()["outcome"], "promoted");
    world.run(&["package", examples().join("wine/v2").to_str().unwrap()]).ended(0);
    let third = world.scratch("third").join("wine.onnx");
    std::fs::copy(examples().join("wine/v1/model.onnx"), &third).unwrap();
    world.run(&["package", third.to_str().unwrap(), "--as", "wine:3.0.0"]).ended(0);
    let done = world.json(&["gc", "--keep-last", "1"]);
    let kept: Vec<&Value> = done["versions"].as_array().unwrap().iter().map(|one| &one["kept"]).collect();
    assert_eq!(kept, [&json!("served"), &Value::Null, &json!("newest")], "{done}");
    assert_eq!(versions(&world.json(&["versions", "wine"])), ["1.0.0", "3.0.0"]);
    world.down();
    let refused = world.run(&["gc", "--keep-last", "1"]).ended(1);
    assert!(refused.err.contains("no control plane runs"), "{}", refused.err);
}

#[test]
fn what_served_when_is_told_and_a_changed_log_is_noticed() {
    let world = World::up();
    let folder = examples().join("wine/v1");
    let first = world.run(&["deploy", folder.to_str().unwrap(), "--wait", "--output", "json"]).ended(0).json();
    assert_eq!(first["outcome"], "promoted", "{first}");
    let now = world.json(&["history", "wine", "--at", "2096-01-01T00:00:00Z"]);
    let serving = &now["serving"][0];
    assert_eq!((&serving["version"], &serving["weight"]), (&json!("1.0.0"), &json!(10_000)), "{now}");
    assert_eq!(serving["digest"], world.json(&["inspect", "wine:1.0.0"])["digest"]);
    assert!(now["decided"]["by"]["person"].is_string(), "{now}");
    let told = world.run(&["history", "wine", "--at", "2096-01-01T00:00:00Z"]).ended(0);
    assert!(told.out.contains("100 %") && told.out.contains("started by"), "{}", told.out);
    let before = world.run(&["history", "wine", "--at", "2001-01-01T00:00:00Z"]).ended(0);
    assert!(before.out.contains("nothing served wine"), "{}", before.out);
    world.run(&["history", "wine", "--at", "yesterday"]).ended(2);

    let walked = world.json(&["history", "--verify"]);
    let anchor = format!("{}@{}", walked["events"], walked["head"].as_str().unwrap());
    world.run(&["history", "--verify", "--anchor", &anchor]).ended(0);
    world.run(&["down"]).ended(0);
    world.run(&["history", "--verify", "--anchor", &anchor]).ended(0);

    let log = rusqlite::Connection::open(world.home().join("modelyard.sqlite")).unwrap();
    let changed = log.execute(
        "UPDATE events SET json = replace(json, 'promoted', 'rolled-back') WHERE kind = 'rollout-finished'",
        [],
    );
    assert_eq!(changed.unwrap(), 1);
    let seq: u64 =
        log.query_row("SELECT seq FROM events WHERE kind = 'rollout-finished'", [], |row| row.get(0)).unwrap();
    drop(log);
    let found = world.run(&["history", "--verify"]).ended(1);
    assert!(found.out.contains(&format!("event {seq} does not fit")), "{}", found.out);
}

/// The wine example with further lines of its description, as another version.
fn wine(world: &World, version: &str, more: &str) -> PathBuf {
    let folder = world.scratch(&format!("wine-{version}"));
    for file in std::fs::read_dir(examples().join("wine/v1")).unwrap().flatten().filter(|file| file.path().is_file()) {
        std::fs::copy(file.path(), folder.join(file.file_name())).unwrap();
    }
    let text = std::fs::read_to_string(folder.join("modelyard.toml")).unwrap();
    let text = text.replace("version = \"1.0.0\"", &format!("version = \"{version}\""));
    std::fs::write(folder.join("modelyard.toml"), format!("{text}\n{more}\n")).unwrap();
    folder
}

fn meanings(codes: [&str; 3]) -> String {
    let columns: Vec<String> = (1..=13).map(|place| format!("\"measure {place}\"")).collect();
    let [a, b, c] = codes;
    format!(
        "[inputs.features]\ndescription = \"Chemistry of a wine\"\ncolumns = [{}]\n\n[outputs.label]\ndescription = \"Cultivar\"\n\
         values = {{ 0 = \"{a}\", 1 = \"{b}\", 2 = \"{c}\" }}\n\n[outputs.probabilities]\ndescription = \"Of each cultivar\"\n",
        columns.join(", ")
    )
}

#[test]
fn what_codes_mean_is_shown_and_a_silent_change_waits_for_a_person() {
    let world = World::up();
    let folder = wine(&world, "1.1.0", &meanings(["Barolo", "Grignolino", "Barbera"]));
    world.json(&["package", folder.to_str().unwrap()]);
    let other = wine(&world, "1.2.0", &meanings(["Grignolino", "Barolo", "Barbera"]));
    world.json(&["package", other.to_str().unwrap()]);
    for (wrong, why) in [
        ("[inputs.feature]\nunit = \"g\"", "the model has no input `feature`; it has features"),
        ("[inputs.features]\ncolumns = [\"a\", \"b\"]", "`columns` names 2"),
        ("[outputs.label]\nvalue = {}", "did you mean `values`?"),
    ] {
        let refused = world.run(&["package", wine(&world, "1.9.0", wrong).to_str().unwrap()]).ended(1).err;
        let plain: Vec<&str> = refused.split_whitespace().filter(|word| *word != "│").collect();
        assert!(plain.join(" ").contains(why), "{why}: {refused}");
    }
    let told = world.run(&["inspect", "wine:1.1.0"]).ended(0).out;
    assert!(told.contains("Cultivar; 0 = Barolo, 1 = Grignolino, 2 = Barbera"), "{told}");
    let card = world.run(&["inspect", "wine:1.1.0", "--card"]).ended(0).out;
    assert!(card.contains("Inputs and outputs") && card.contains("columns measure 1, measure 2"), "{card}");
    let diff = world.json(&["diff", "wine:1.1.0", "wine:1.2.0"]);
    let changes = json!([
        "output `label`: 0 means Grignolino instead of Barolo",
        "output `label`: 1 means Barolo instead of Grignolino"
    ]);
    assert_eq!((&diff["misread"], &diff["breaks"]), (&changes, &json!([])), "{diff}");
    assert!(diff["changes"]["meanings"]["output label"].is_object() && diff["changes"]["other"].is_null(), "{diff}");

    let deploy = |more: &[&str]| {
        let all = [&["deploy", "wine:1.2.0", "--strategy", "rolling", "--output", "json"], more].concat();
        world.run(&all)
    };
    world.run(&["deploy", "wine:1.1.0", "--wait", "--timeout", "2m"]).ended(0);
    let document = ureq::get(format!("http://{}/wine/openapi.json", world.gateway)).call().unwrap();
    let document = document.into_body().read_to_string().unwrap();
    assert!(document.contains("Cultivar; 0 = Barolo"), "{document}");
    assert_eq!(deploy(&["--dry-run"]).ended(0).json()["misread"], changes);
    let refused = deploy(&[]).ended(1).err;
    assert!(refused.contains("0 means Grignolino") && refused.contains("--new-meanings"), "{refused}");
    deploy(&["--new-meanings", "--wait", "--timeout", "2m"]).ended(0);
    let events = world.events("wine");
    let accepted = events.iter().find(|event| event["event"] == "meanings-accepted").unwrap();
    assert_eq!((&accepted["changes"], &accepted["actor"]["person"]), (&changes, &json!("tester")), "{accepted}");
    // Going back is never barred.
    world.run(&["rollback", "wine"]).ended(0);
    world.down();
}

#[test]
fn an_environment_may_demand_meanings_and_refuse_risks() {
    let world = World::default();
    let folder = wine(&world, "1.1.0", &meanings(["Barolo", "Grignolino", "Barbera"]));
    for path in [folder, examples().join("wine/v1")] {
        world.json(&["package", path.to_str().unwrap()]);
    }
    let risky = world.scratch("risky");
    std::fs::write(risky.join("model.pkl"), b"\x80\x04\x8c\x02os\x8c\x06system\x93.").unwrap();
    let text = "[model]\nname = \"risky\"\nversion = \"1\"\n\n[runtime]\nkind = \"none\"\n";
    std::fs::write(risky.join("modelyard.toml"), text).unwrap();
    world.json(&["package", risky.to_str().unwrap()]);
    let file = world.scratch("environments").join("prod.toml");
    std::fs::write(&file, "[policy]\nmeanings = true\nno-risks = true\n").unwrap();
    world.json(&["env", "set", file.to_str().unwrap()]);
    world.run(&["verify", "wine:1.1.0", "--env", "prod"]).ended(0);
    let unsaid = world.run(&["verify", "wine:1.0.0", "--env", "prod"]).ended(1).out;
    assert!(
        unsaid.contains("does not say what input `features`, output `label`, output `probabilities` is"),
        "{unsaid}"
    );
    let risk = world.run(&["verify", "risky:1", "--env", "prod"]).ended(1).out;
    assert!(risk.contains("`model.pkl` is a pickle"), "{risk}");
}
