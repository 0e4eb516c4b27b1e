//! Python functions from folder to traffic: deployed, replaced under load, taken back when they fail. The interpreter is the machine's own.
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

mod support;

use std::fs;
use std::path::{Path, PathBuf};

use support::load::{Load, Mix};
use support::{World, examples};

const FUNCTION: &str = r#"
import json, math, pathlib

WEIGHTS = json.loads(pathlib.Path(__file__).with_name("weights.json").read_text())


def benign(row):
    scaled = ((x - m) / s for x, m, s in zip(row, WEIGHTS["mean"], WEIGHTS["scale"]))
    z = WEIGHTS["intercept"] + sum(x * w for x, w in zip(scaled, WEIGHTS["coefficients"]))
    return 1 / (1 + math.exp(-z)) if z >= 0 else math.exp(z) / (1 + math.exp(z))


def predict(inputs):
    return {"label": [int(benign(row) > 0.5) for row in inputs["features"]]}
"#;

/// A folder with the breast-cancer model as a Python function, that is `changed`.
fn function(world: &World, version: &str, changed: impl Fn(&str) -> String) -> PathBuf {
    let folder = world.scratch(&format!("function-{version}"));
    fs::copy(examples().join("breast-cancer/v3-errors/weights.json"), folder.join("weights.json")).unwrap();
    fs::write(folder.join("predict.py"), changed(FUNCTION)).unwrap();
    let samples = fs::read_to_string(examples().join("breast-cancer/traffic.json")).unwrap();
    let rows: serde_json::Value = serde_json::from_str(&samples).unwrap();
    let sample = |row: &serde_json::Value| {
        let label = serde_json::json!({"name": "label", "datatype": "INT64", "shape": [1], "data": [row["label"]]});
        serde_json::json!({"name": row["id"], "request": row["request"], "response": {"outputs": [label]}})
    };
    let samples: Vec<_> = rows.as_array().unwrap().iter().take(2).map(sample).collect();
    fs::write(folder.join("samples.json"), serde_json::to_vec(&samples).unwrap()).unwrap();
    let text = format!(
        "samples = \"samples.json\"\n[model]\nname = \"breast-cancer\"\nversion = \"{version}\"\n\
         [runtime]\nkind = \"python\"\nentry = \"predict:predict\"\nbatch = true\ntimeout_seconds = 10\n\
         [signature]\ninputs = [{{name = \"features\", datatype = \"FP32\", shape = [-1, 30]}}]\n\
         outputs = [{{name = \"label\", datatype = \"INT64\", shape = [-1]}}]\n"
    );
    fs::write(folder.join("modelyard.toml"), text).unwrap();
    folder
}

fn deploy(world: &World, folder: &Path, further: &[&str]) -> support::Ran {
    let arguments = ["deploy", folder.to_str().unwrap(), "--wait", "--timeout", "3m", "--output", "json"];
    world.run(&[&arguments, further].concat())
}

#[test]
fn a_function_is_replaced_under_traffic_and_nothing_fails() {
    let world = World::up();
    let first = function(&world, "1.0.0", str::to_owned);
    deploy(&world, &first, &[]).ended(0);
    let load = Load::start(world.gateway, "breast-cancer", "breast-cancer", Mix::default());
    load.flow(50);
    let second = function(&world, "2.0.0", |source| source.replace("0.5", "0.500001"));
    let promoted = deploy(&world, &second, &["--strategy", "rolling"]).ended(0).json();
    assert_eq!(promoted["outcome"], "promoted", "{promoted}");
    load.flow(50);
    let tally = load.finish();
    tally.nothing_failed();
    assert!(tally.answered.contains_key(&1) && tally.answered.contains_key(&2), "{tally:?}");
    // A third one answers its samples wrongly: it gets no traffic at all.
    let third = function(&world, "3.0.0", |source| source.replace("> 0.5", "< 0.5"));
    let back = deploy(&world, &third, &["--strategy", "rolling"]).ended(3).json();
    assert_eq!(back["outcome"], "rolled-back", "{back}");
    assert_eq!(world.status("breast-cancer")["stable"]["version"], "2.0.0");
    world.down();
}
