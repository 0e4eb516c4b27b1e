//! Flags from outside: one package, revisions that differ in flags alone, and how values reach a model.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod support;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use serde_json::{Value, json};
use support::World;

fn fixture(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures").join(name);
    folder.canonicalize().unwrap().display().to_string()
}

/// Readings with a mean of 0.6: above the default threshold of 0.5, below 0.7. The larger file doubles them.
fn readings() -> Value {
    json!({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [0.6, 0.6, 0.6, 0.6]}]})
}

/// The revision that answered, and its answer.
fn ask(world: &World, path: &str) -> Result<(u32, Value), String> {
    let url = format!("http://{}{path}", world.gateway);
    let mut answer = ureq::post(url).send_json(readings()).map_err(|error| error.to_string())?;
    let revision = answer.headers().get("modelyard-revision").and_then(|value| value.to_str().ok()?.parse().ok());
    Ok((revision.unwrap_or(0), answer.body_mut().read_json().map_err(|error| error.to_string())?))
}

fn output(answer: &Value, name: &str) -> Value {
    let outputs = answer["outputs"].as_array().unwrap_or_else(|| panic!("no outputs: {answer}"));
    let one = outputs.iter().find(|output| output["name"] == name).unwrap_or_else(|| panic!("no {name}: {answer}"));
    one["data"][0].clone()
}

const ALARM: &str = "/v2/models/alarm/infer";

/// Rules with short steps.
const QUICK: &[&str] =
    &["--steps", "20,100", "--bake", "500ms", "--set", "analysis.min-requests=10", "--set", "analysis.window=2s"];

/// What counts as enough evidence, soon.
const QUICK_ANALYSIS: &[&str] = &["--set", "analysis.min-requests=10", "--set", "analysis.window=2s"];

/// Revisions and labels, as they were answered.
type Answers = Vec<(u32, Value)>;

/// Asks again and again until told to stop; gives every answer's revision and label.
fn callers(world: &World) -> (Arc<AtomicBool>, JoinHandle<Result<Answers, String>>) {
    let stop = Arc::new(AtomicBool::new(false));
    let (gateway, stopped) = (world.gateway, stop.clone());
    let asking = std::thread::spawn(move || {
        let mut seen = Vec::new();
        while !stopped.load(Ordering::Relaxed) {
            let mut answer = ureq::post(format!("http://{gateway}{ALARM}"))
                .send_json(readings())
                .map_err(|error| format!("after {} answers: {error}", seen.len()))?;
            let revision = answer.headers()["modelyard-revision"].to_str().unwrap().parse().unwrap();
            let body: Value = answer.body_mut().read_json().map_err(|error| error.to_string())?;
            seen.push((revision, output(&body, "label")));
        }
        Ok(seen)
    });
    (stop, asking)
}

#[test]
fn another_value_of_a_flag_is_rolled_out_and_taken_back_as_a_new_model_is() {
    let world = World::up();
    let first = world.run(&["deploy", &fixture("threshold"), "--wait", "--output", "json"]).ended(0).json();
    assert_eq!(first["outcome"], "promoted", "{first}");
    assert_eq!(output(&ask(&world, ALARM).unwrap().1, "label"), 1, "0.6 is above the default");

    let (stop, asking) = callers(&world);
    let same =
        [&["deploy", "alarm:1.0.0", "--wait", "--output", "json", "--flag", "threshold=0.7"][..], QUICK].concat();
    let second = world.run(&same).ended(0).json();
    assert_eq!((&second["outcome"], &second["strategy"]), (&"promoted".into(), &"canary".into()), "{second}");
    stop.store(true, Ordering::Relaxed);
    let seen = asking.join().unwrap().expect("no request fails");
    for (revision, label) in &seen {
        let expected = if *revision == 1 { 1 } else { 0 };
        assert_eq!(*label, expected, "revision {revision} answers with its own value");
    }
    assert!(seen.iter().any(|(revision, _)| *revision == 1) && seen.iter().any(|(revision, _)| *revision == 2));

    let shown = world.run(&["flags", "alarm"]).ended(0).out;
    assert!(shown.contains("threshold") && shown.contains("0.7 (set)") && shown.contains("model file"), "{shown}");
    let why = world.json(&["flags", "alarm", "threshold"]);
    assert_eq!((&why["value"], &why["reason"]), (&json!(0.7), &json!("STATIC")), "{why}");

    // What serves is the same package; only the values differ, and they go back with the revision.
    world.run(&["rollback", "alarm"]).ended(0);
    assert_eq!(output(&ask(&world, ALARM).unwrap().1, "label"), 1);
    assert_eq!(world.json(&["flags", "alarm", "threshold"])["value"], 0.5);
    world.down();
}

#[test]
fn a_flag_chooses_between_files_of_the_package() {
    let world = World::up();
    world.run(&["deploy", &fixture("threshold"), "--wait"]).ended(0);
    let score = |world: &World| output(&ask(world, ALARM).unwrap().1, "score").as_f64().unwrap();
    assert!((score(&world) - 0.6).abs() < 1e-6);
    world
        .run(&[
            "deploy",
            "alarm:1.0.0",
            "--wait",
            "--flag",
            "size=large",
            "--strategy",
            "blue-green",
            "--bake",
            "300ms",
        ])
        .ended(0);
    assert!((score(&world) - 1.2).abs() < 1e-6, "the other file serves: {}", score(&world));
    world.down();
}

#[test]
fn values_that_do_not_fit_are_refused_before_anything_starts() {
    let world = World::up();
    world.run(&["deploy", &fixture("threshold"), "--wait"]).ended(0);
    for (flag, word) in [
        ("threshold=1.5", "at most 1"),
        ("threshold=high", "number"),
        ("size=huge", "large, small"),
        ("sise=large", "sise"),
        ("threshold", "no `=`"),
    ] {
        let ran = world.run(&["deploy", "alarm:1.0.0", "--flag", flag]).ended(2);
        assert!(ran.err.contains(word), "{flag}: {}", ran.err);
    }
    assert_eq!(world.events("alarm").iter().filter(|event| event["event"] == "rollout-started").count(), 1);
    world.down();
}

#[test]
fn a_program_is_told_its_flags_in_its_environment_and_with_each_request() {
    let world = World::up();
    world.run(&["deploy", &fixture("echo"), "--wait", "--flag", "depth=5"]).ended(0);
    let (_, told) = ask(&world, "/echo/v1/anything").unwrap();
    let environment = &told["environment"];
    assert_eq!(
        (&environment["MODELYARD_FLAG_DEPTH"], &environment["MODELYARD_FLAG_MODE"]),
        (&"5".into(), &"fast".into()),
        "{told}"
    );
    let header: Value = serde_json::from_str(told["header"].as_str().unwrap()).unwrap();
    assert_eq!(header, json!({"depth": 5, "mode": "fast"}), "{told}");
    world.down();
}

#[test]
fn instances_are_replaced_for_another_value_without_another_package() {
    let world = World::up();
    world.run(&["deploy", &fixture("threshold"), "--instances", "2", "--wait"]).ended(0);
    let (stop, asking) = callers(&world);
    for (strategy, value, revision) in [("rolling", "threshold=0.7", 2), ("recreate", "threshold=0.55", 3)] {
        let own = ["deploy", "alarm:1.0.0", "--wait", "--output", "json", "--flag", value, "--strategy", strategy];
        let pause = if strategy == "rolling" { &["--set", "strategy.pause=200ms"][..] } else { &[] };
        let ended = world.run(&[&own[..], pause, QUICK_ANALYSIS].concat()).ended(0).json();
        assert_eq!((&ended["outcome"], &ended["strategy"]), (&"promoted".into(), &strategy.into()), "{ended}");
        assert_eq!(ask(&world, ALARM).unwrap().0, revision, "{strategy}");
    }
    stop.store(true, Ordering::Relaxed);
    for (revision, label) in asking.join().unwrap().expect("no request fails") {
        assert_eq!(label, if revision == 2 { 0 } else { 1 }, "revision {revision} answers with its own value");
    }
    let history = world.json(&["history", "alarm"]);
    let packages: std::collections::BTreeSet<&str> =
        history["revisions"].as_array().unwrap().iter().map(|one| one["package"].as_str().unwrap()).collect();
    assert_eq!(packages.len(), 1, "one artefact, three revisions: {history}");
    world.down();
}

#[test]
fn after_a_hot_fix_every_rollout_names_the_baseline_that_it_started_from() {
    let world = World::up();
    world.run(&["deploy", &fixture("threshold"), "--wait"]).ended(0);
    let deploy = |value: &str| {
        let words = ["deploy", "alarm:1.0.0", "--wait", "--strategy", "recreate", "--flag", value, "--output", "json"];
        world.run(&[&words[..], QUICK_ANALYSIS].concat()).ended(0).json()
    };
    deploy("threshold=0.7");
    world.run(&["rollback", "alarm"]).ended(0);
    // The fix goes out from what was gone back to, not from what has the highest number.
    let fix = deploy("threshold=0.55");
    assert_eq!((&fix["from"], &fix["to"]), (&json!(1), &json!(3)), "{fix}");
    let digest =
        world.status("alarm")["stable"]["digest"].as_str().unwrap().trim_start_matches("sha256:")[..12].to_owned();
    let history = world.run(&["history", "alarm"]).ended(0).out;
    let line = history
        .lines()
        .find(|line| line.contains(fix["rollout"].as_str().unwrap()))
        .unwrap_or_else(|| panic!("{history}"));
    let (from, to) = (format!("r1 1.0.0 {digest}"), format!("r3 1.0.0 {digest}"));
    assert!(line.contains(&from) && line.contains(&to), "baseline and candidate, with version and digest: {line}");
    let status = world.run(&["status", "alarm"]).ended(0).out;
    assert!(status.contains(&format!("stable   {to}")), "{status}");
    world.down();
}
