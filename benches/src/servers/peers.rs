//! The model servers: how each is started, and the form in which it is asked.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use serde_json::Value;

use crate::engine;
use crate::http1::Request;
use crate::machine::SERVER_CORE;
use crate::process::{Process, free_address};
use crate::setup;

/// Every server that is known, in the order of the table.
pub const NAMES: [&str; 11] = [
    "constant",
    "bare",
    "modelyard",
    "triton",
    "fastapi",
    "mlserver",
    "kserve",
    "mlflow",
    "litserve",
    "bentoml",
    "ray",
];

/// Those that are left out unless named with `--only`: slow to start, and never quite asleep while others are asked.
const HEAVY: [&str; 4] = ["mlflow", "litserve", "bentoml", "ray"];

/// Whether a server is measured when `only` are named.
pub fn is_wanted(name: &str, only: &[String]) -> bool {
    match only {
        [] => !HEAVY.contains(&name),
        only => only.iter().any(|wanted| wanted == name),
    }
}

/// Longest time that a server may take to its first answer.
const START: Duration = Duration::from_secs(60);

/// What servers are started with.
pub struct Context {
    /// The modelyard binary.
    pub modelyard: PathBuf,
    /// Folder for environments and models.
    pub cache: PathBuf,
    /// Folder for this run's logs.
    pub folder: PathBuf,
    /// Folder of the model.
    pub model: PathBuf,
    /// The ONNX Runtime library that every server of ours uses; it is the one of the FastAPI environment.
    pub library: PathBuf,
    /// The request, in the protocol's JSON form.
    pub request: Value,
}

/// A server that runs.
pub struct Server {
    /// Its name in the table.
    pub name: String,
    /// Where it listens.
    pub address: SocketAddr,
    /// The process.
    pub process: Process,
    /// From start to first answer.
    pub first_answer: Duration,
    /// The request in its JSON form.
    pub json: Request,
    /// The request with binary tensors, if it answers those.
    pub binary: Option<Request>,
}

/// The ONNX Runtime library of the FastAPI peer's environment, so that all servers run the same engine.
pub fn library(cache: &Path) -> Result<PathBuf> {
    let python = setup::python(cache, "fastapi", &setup::scripts().join("fastapi.txt"))?;
    engine::library(None, Some(&python))
}

/// Starts one server, waits for its first answer, and checks that the answer is right.
pub fn start(name: &str, context: &Context) -> Result<Server> {
    let address = free_address()?;
    let command = command(name, context, address)?;
    let json = json_request(name, &context.request)?;
    let mut process = Process::start(name, command, SERVER_CORE, &context.folder)?;
    let (body, first_answer) = process.wait_for(address, &json, START)?;
    if name != "constant" {
        check(name, context, &body)?;
    }
    let binary = binary_request(&context.request)?;
    let takes_binary = matches!(name, "modelyard" | "triton" | "kserve")
        && crate::process::ask(address, &binary).is_ok_and(|(status, _)| status == 200);
    let binary = takes_binary.then_some(binary);
    Ok(Server { name: name.to_owned(), address, process, first_answer, json, binary })
}

fn command(name: &str, context: &Context, address: SocketAddr) -> Result<Command> {
    let model = context.model.join("model.onnx");
    if let "constant" | "bare" = name {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["bare", "--listen", &address.to_string()]);
        if name == "bare" {
            command.arg("--model").arg(model).arg("--onnxruntime").arg(&context.library);
        }
        return Ok(command);
    }
    if name == "modelyard" {
        let mut command = Command::new(&context.modelyard);
        command.arg("serve").arg(&context.model).args(["--http", &address.to_string()]);
        command.env("MODELYARD_HOME", context.folder.join("home")).env("MODELYARD_ONNXRUNTIME", &context.library);
        return Ok(command);
    }
    let python = setup::python(&context.cache, name, &setup::scripts().join(format!("{name}.txt")))?;
    let mut command = Command::new(python);
    command.arg(setup::scripts().join(format!("{name}_server.py"))).arg(model).arg(address.port().to_string());
    command.env("PYTHONDONTWRITEBYTECODE", "1").env("TMPDIR", &context.folder);
    Ok(command)
}

/// The request in the form that a server reads: rows for servers with a form of their own, the protocol's for all others.
fn json_request(name: &str, request: &Value) -> Result<Request> {
    let (shape, data) = tensor(request)?;
    let rows: Vec<&[Value]> = data.chunks(shape.last().copied().unwrap_or(1).max(1)).collect();
    let (path, body) = match name {
        "fastapi" | "litserve" | "bentoml" | "ray" => ("/predict", serde_json::json!({ "rows": rows })),
        "mlflow" => ("/invocations", serde_json::json!({ "inputs": { field(request, "name")?: rows } })),
        _ => return Ok(Request::json("/v2/models/bench/infer", serde_json::to_vec(request)?)),
    };
    Ok(Request::json(path, serde_json::to_vec(&body)?))
}

/// A field of the only input.
fn field<'a>(request: &'a Value, name: &str) -> Result<&'a str> {
    request["inputs"][0][name].as_str().with_context(|| format!("the request's input has no {name}"))
}

/// Shape and elements of the only input.
fn tensor(request: &Value) -> Result<(Vec<usize>, &Vec<Value>)> {
    let input = request.pointer("/inputs/0").context("the request has no input")?;
    let shape = serde_json::from_value(input["shape"].clone())?;
    Ok((shape, input["data"].as_array().context("the request has no data")?))
}

/// The request in the binary tensor extension's form, answers binary too.
fn binary_request(request: &Value) -> Result<Request> {
    let (shape, data) = tensor(request)?;
    let datatype = field(request, "datatype")?;
    let raw: Vec<u8> = match datatype {
        "INT64" => data.iter().flat_map(|value| value.as_i64().unwrap_or_default().to_le_bytes()).collect(),
        _ => data.iter().flat_map(|value| (value.as_f64().unwrap_or_default() as f32).to_le_bytes()).collect(),
    };
    let input = serde_json::json!({
        "name": field(request, "name")?, "shape": shape, "datatype": datatype,
        "parameters": { "binary_data_size": raw.len() },
    });
    let head = serde_json::json!({ "inputs": [input], "parameters": { "binary_data_output": true } }).to_string();
    let headers = vec![
        ("Content-Type".to_owned(), "application/octet-stream".to_owned()),
        ("Inference-Header-Content-Length".to_owned(), head.len().to_string()),
    ];
    let body = Bytes::from([head.as_bytes(), &raw].concat());
    Ok(Request { path: "/v2/models/bench/infer".to_owned(), headers, body: Some(body) })
}

/// Compares the numbers of an answer with what the engine itself says.
fn check(name: &str, context: &Context, body: &[u8]) -> Result<()> {
    let answer: Value = serde_json::from_slice(body).with_context(|| format!("{name} answered no JSON"))?;
    let samples: Value = serde_json::from_slice(&std::fs::read(context.model.join("samples.json"))?)?;
    let outputs = samples[0]["response"]["outputs"].as_array().context("the model's sample has no outputs")?;
    let output = outputs.iter().find(|output| output["datatype"] == "FP32").context("no output has floats")?;
    let output = output["name"].as_str().unwrap_or_default();
    let expected = numbers(&samples[0]["response"], output);
    let actual = numbers(&answer, output);
    let close = expected.iter().zip(&actual).all(|(expected, actual)| (expected - actual).abs() < 1e-4);
    ensure!(!expected.is_empty() && actual.len() >= expected.len() && close, "{name} answers wrongly: {actual:?}");
    Ok(())
}

/// The flat numbers of an output, in whichever form the answer is: the protocol's, by name, or MLflow's.
fn numbers(answer: &Value, output: &str) -> Vec<f64> {
    let outputs = answer["outputs"].as_array();
    let tensor = outputs.and_then(|outputs| outputs.iter().find(|tensor| tensor["name"] == output));
    let named = answer.get("predictions").unwrap_or(answer);
    let mut numbers = Vec::new();
    flatten(tensor.map_or(&named[output], |tensor| &tensor["data"]), &mut numbers);
    numbers
}

fn flatten(value: &Value, into: &mut Vec<f64>) {
    match value {
        Value::Array(values) => values.iter().for_each(|value| flatten(value, into)),
        value => into.extend(value.as_f64()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn request() -> Value {
        json!({"inputs": [{"name": "features", "shape": [2, 2], "datatype": "FP32", "data": [1.0, 2.0, 3.0, 0.5]}]})
    }

    #[test]
    fn every_form_carries_the_same_rows() {
        let rows = json_request("fastapi", &request()).unwrap();
        assert_eq!(rows.body.unwrap(), r#"{"rows":[[1.0,2.0],[3.0,0.5]]}"#);
        let binary = binary_request(&request()).unwrap();
        let length: usize = binary.headers[1].1.parse().unwrap();
        let body = binary.body.unwrap();
        assert_eq!(body.len() - length, 16);
        assert_eq!(body[length + 12..], 0.5f32.to_le_bytes());
    }

    #[test]
    fn numbers_are_found_in_every_form() {
        let protocol =
            json!({"outputs": [{"name": "label", "data": [1]}, {"name": "probabilities", "data": [0.25, 0.75]}]});
        assert_eq!(numbers(&protocol, "probabilities"), [0.25, 0.75]);
        let named = json!({"label": [1], "probabilities": [[0.25, 0.75]]});
        assert_eq!(numbers(&named, "probabilities"), [0.25, 0.75]);
        assert_eq!(numbers(&json!({ "predictions": named }), "probabilities"), [0.25, 0.75]);
    }
}
