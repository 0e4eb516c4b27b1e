//! API versions side by side: a model of another signature is served beside the one that callers know, and they move on when they can.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod support;

use std::collections::BTreeMap;

use serde_json::{Value, json};
use support::{Load, Mix, Ran, World, examples};

/// What an answer says of its API version, with its status and body.
struct Told {
    status: u16,
    deprecation: Option<String>,
    sunset: Option<String>,
    link: Option<String>,
    revision: Option<String>,
    body: Value,
}

fn post(world: &World, path: &str, body: &Value) -> Told {
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let mut answer = agent.post(format!("http://{}{path}", world.gateway)).send_json(body).unwrap();
    let header = |name: &str| answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let (deprecation, sunset, link) = (header("deprecation"), header("sunset"), header("link"));
    let (status, revision) = (answer.status().as_u16(), header("modelyard-revision"));
    let body = answer.body_mut().read_json().unwrap_or(Value::Null);
    Told { status, deprecation, sunset, link, revision, body }
}

fn get(world: &World, path: &str) -> Value {
    ureq::get(format!("http://{}{path}", world.gateway)).call().unwrap().body_mut().read_json().unwrap()
}

/// The first sample's request of an example, in the protocol's form and in the plain one.
fn sample(example: &str) -> (Value, Value) {
    let text = std::fs::read(examples().join(example).join("samples.json")).unwrap();
    let samples: Value = serde_json::from_slice(&text).unwrap();
    let request = samples[0]["request"].clone();
    let inputs: BTreeMap<&str, Value> = request["inputs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|tensor| (tensor["name"].as_str().unwrap(), json!([tensor["data"]])))
        .collect();
    (request.clone(), json!({"inputs": inputs}))
}

/// Whether a refusal says each of these, wherever its lines are broken.
#[track_caller]
fn says(refused: &Ran, parts: &[&str]) {
    let squeezed = |text: &str| text.replace(|letter: char| letter.is_whitespace() || letter == '│', "");
    let told = squeezed(&refused.err);
    for part in parts {
        assert!(told.contains(&squeezed(part)), "`{part}` is missing: {}", refused.err);
    }
}

/// A `service.toml` for the second API version of `breast-cancer`, which takes other inputs.
fn second(world: &World, package: &str) -> String {
    let path = world.scratch("breast-cancer-v2").join("service.toml");
    let package = examples().join(package);
    let text = format!(
        "name = \"breast-cancer-v2\"\npackage = {package:?}\n\n[api]\nof = \"breast-cancer\"\nversion = 2\nsunset = \"2099-03-01\"\n"
    );
    std::fs::write(&path, text).unwrap();
    path.display().to_string()
}

#[test]
fn a_breaking_version_is_served_beside_the_one_that_callers_know() {
    let world = World::up();
    world.deploy("breast-cancer/v1", &[]).ended(0);
    let (first, first_plain) = sample("breast-cancer/v1");
    let (_, iris_plain) = sample("iris/v1");

    // In its place it would break every caller; what to do instead is said.
    let refused = world.deploy("iris/v1", &["--service", "breast-cancer"]).ended(1);
    says(
        &refused,
        &["input `features` is gone", "API version of its own", "`of = \"breast-cancer\"` and `version = 2`"],
    );
    assert_eq!(post(&world, "/v2/models/breast-cancer/infer", &first).deprecation, None);

    let load = Load::start(world.gateway, "breast-cancer", "breast-cancer", Mix::default());
    load.flow(50);
    let file = second(&world, "iris/v1");
    let promoted = world.run(&["deploy", &file, "--wait", "--timeout", "3m", "--output", "json"]).ended(0).json();
    assert_eq!(
        (&promoted["service"], &promoted["outcome"]),
        (&json!("breast-cancer-v2"), &json!("promoted")),
        "{promoted}"
    );
    load.flow(50);

    // Callers of the first one go on, and every answer tells them, errors included.
    for (path, body, status) in [
        ("/v2/models/breast-cancer/infer", &first, 200),
        ("/breast-cancer/v1/v2/models/breast-cancer/infer", &first, 200),
        ("/breast-cancer/v1/predict", &first_plain, 200),
        ("/breast-cancer/v1/predict", &iris_plain, 400),
    ] {
        let told = post(&world, path, body);
        assert_eq!(told.status, status, "{path}: {}", told.body);
        let seconds: u64 = told.deprecation.as_deref().and_then(|at| at.strip_prefix('@')).unwrap().parse().unwrap();
        assert!(seconds > 1_700_000_000, "{seconds}");
        assert_eq!(told.sunset.as_deref(), Some("Sun, 01 Mar 2099 00:00:00 GMT"));
        assert_eq!(told.link.as_deref(), Some("</breast-cancer/v2>; rel=\"successor-version\""));
    }
    // Those of the second take its inputs, at each of its addresses, and are told nothing.
    let (iris, _) = sample("iris/v1");
    for (path, body) in [
        ("/breast-cancer/v2/predict", &iris_plain),
        ("/breast-cancer/v2/v2/models/breast-cancer/infer", &iris),
        ("/v2/models/breast-cancer-v2/infer", &iris),
    ] {
        let told = post(&world, path, body);
        assert_eq!((told.status, told.deprecation), (200, None), "{path}: {}", told.body);
        assert!(told.body.to_string().contains("setosa"), "{}", told.body);
    }
    assert_eq!(post(&world, "/breast-cancer/v3/predict", &iris_plain).status, 404);

    both_are_described(&world);
    let status = world.run(&["status", "breast-cancer"]).ended(0).out;
    for line in [
        "/breast-cancer/v1: deprecated since",
        "there until 2099-03-01, next is v2",
        "/breast-cancer/v2 (`breast-cancer-v2`): serves",
    ] {
        assert!(status.contains(line), "`{line}` is missing:\n{status}");
    }
    load.finish().nothing_failed();
    world.down();
}

/// One document has both, each with its own inputs, and says which one is on its way out.
fn both_are_described(world: &World) {
    let document = get(world, "/breast-cancer/openapi.json");
    let inputs = |api: u16| -> Vec<String> {
        let operation = &document["paths"][format!("/v{api}/predict")]["post"];
        assert_eq!(operation["deprecated"] == true, api == 1, "{operation}");
        let schema = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].as_str().unwrap();
        let schema = document.pointer(schema.trim_start_matches('#')).unwrap_or_else(|| panic!("{schema}: {document}"));
        schema["properties"]["inputs"]["properties"].as_object().unwrap().keys().cloned().collect()
    };
    assert_eq!((inputs(1), inputs(2)), (vec!["features".to_owned()], vec!["lengths".to_owned()]));
    let words = document["info"]["description"].as_str().unwrap();
    assert!(
        words.contains("Sun, 01 Mar 2099") && words.contains("`/breast-cancer/v2` (`breast-cancer-v2`)"),
        "{words}"
    );
}

#[test]
fn each_version_goes_forward_and_back_by_itself_and_outlives_the_first() {
    let world = World::up();
    world.deploy("breast-cancer/v1", &[]).ended(0);
    let file = second(&world, "iris/v1");
    world.run(&["deploy", &file, "--wait", "--timeout", "3m"]).ended(0);
    let (first, _) = sample("breast-cancer/v1");
    let (_, iris_plain) = sample("iris/v1");
    let second_pid = |world: &World| world.status("breast-cancer-v2")["stable"]["instances"][0]["pid"].clone();
    let pid = second_pid(&world);
    let load = Load::start(world.gateway, "breast-cancer", "breast-cancer", Mix::default());
    load.flow(20);

    // A fix for those who still call the first one, and back.
    let quick =
        ["--steps", "20,100", "--bake", "300ms", "--set", "analysis.min-requests=10", "--set", "analysis.window=2s"];
    world.deploy("breast-cancer/v2", &quick).ended(0);
    assert_eq!(post(&world, "/breast-cancer/v1/v2/models/breast-cancer/infer", &first).revision.as_deref(), Some("2"));
    world.run(&["rollback", "breast-cancer"]).ended(0);
    let told = post(&world, "/breast-cancer/v1/v2/models/breast-cancer/infer", &first);
    assert_eq!((told.revision.as_deref(), told.status), (Some("1"), 200));
    load.finish().nothing_failed();
    assert_eq!(second_pid(&world), pid, "the second version was not touched");

    // Within a version, signatures hold as ever; and an address is nobody else's.
    says(&world.run(&["deploy", &second(&world, "breast-cancer/v1")]).ended(1), &["input `lengths` is gone"]);
    says(&world.run(&["rollback", "breast-cancer-v2"]).ended(1), &["no earlier revision"]);
    let claim = ["--service", "other", "--set", "api.of=breast-cancer", "--set", "api.version=2"];
    let taken = ["`breast-cancer-v2` answers as API version 2 of `breast-cancer`", "`version = 3`"];
    says(&world.deploy("iris/v1", &claim).ended(1), &taken);

    // The first one is switched off: the second stays where its callers know it.
    ureq::delete(format!("http://{}/api/services/breast-cancer", world.control)).call().unwrap();
    let gone =
        support::until("the first is gone", 30, || match post(&world, "/v2/models/breast-cancer/infer", &first) {
            told if told.status == 404 => Ok(told.body.to_string()),
            told => Err(told.status),
        });
    assert!(gone.contains("/breast-cancer/v2"), "{gone}");
    assert_eq!(post(&world, "/breast-cancer/v2/predict", &iris_plain).status, 200);
    world.down();
}
