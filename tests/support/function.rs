//! The breast-cancer model as a Python function.
#![allow(dead_code, reason = "each test uses its own part of this module")]

use std::fs;
use std::path::PathBuf;

use super::{World, examples};

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
pub fn function(world: &World, version: &str, changed: impl Fn(&str) -> String) -> PathBuf {
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
