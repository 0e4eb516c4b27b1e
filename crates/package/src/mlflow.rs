//! A folder as MLflow saves models, and the description that makes a package of it.
//!
//! Promises: the model is data: nothing of it is imported, unpickled or run. What its signature says is said in the protocol's words, or refused with
//! the reason.
//! Absent on purpose: fetching it (the command `import mlflow` does), resolving its requirements (`modelyard lock` does), samples.
//!
//! Source: MLflow documentation, "MLflow Models: storage format" and "Model signatures and input examples"; the datatypes of `mlflow.types`.

use std::collections::BTreeMap;

use modelyard_core::{ModelName, Version};
use serde_json::{Map, Value, json};

/// Name of the file that says what a model is.
pub const MLMODEL: &str = "MLmodel";
/// Folder of a model folder that MLflow's files are kept in.
pub const WITHIN: &str = "model";
/// Largest `MLmodel` in bytes: signatures of a thousand columns take a tenth.
pub const MOST_BYTES: u64 = 4 << 20;

/// What is known of a model besides its files.
#[derive(Clone, Debug, PartialEq)]
pub struct Origin {
    /// What the package is called.
    pub name: ModelName,
    /// Its version.
    pub version: Version,
    /// One line for lists.
    pub description: String,
    /// Parameters of the run that made it.
    pub parameters: BTreeMap<String, String>,
    /// Metrics of that run.
    pub metrics: BTreeMap<String, f64>,
    /// Where it comes from.
    pub annotations: BTreeMap<String, String>,
}

/// The description of a model that lies in the folder [`WITHIN`] of its model folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Described {
    /// The text of `modelyard.toml`.
    pub description: String,
    /// Whether MLflow's own requirements belong beside it, as `requirements.txt`.
    pub needs_requirements: bool,
}

/// Describes a model by its `MLmodel` and its requirements.
///
/// # Errors
/// Why it cannot be packaged, and what to do about it.
pub fn describe(mlmodel: &str, requirements: &str, origin: &Origin) -> Result<Described, String> {
    let document: Value =
        serde_saphyr::from_str(mlmodel).map_err(|error| format!("`{MLMODEL}` is no YAML document: {error}"))?;
    let flavours = &document["flavors"];
    let mut told = json!({
        "model": { "name": origin.name, "version": origin.version },
        "annotations": origin.annotations, "parameters": origin.parameters, "metrics": origin.metrics,
    });
    if !origin.description.is_empty() {
        told["model"]["description"] = json!(origin.description);
    }
    let needs_requirements = match flavours["onnx"]["data"].as_str() {
        Some(data) => {
            told["runtime"] = json!({ "kind": "onnx", "model": format!("{WITHIN}/{data}") });
            let engine = pins(requirements).into_iter().filter(|(name, _)| name.starts_with("onnxruntime"));
            told["dependencies"] = json!(engine.collect::<BTreeMap<_, _>>());
            false
        }
        None if flavours["python_function"].is_object() => {
            told["runtime"] = json!({
                "kind": "python", "entry": format!("mlflow:{WITHIN}"), "requirements": "requirements.txt",
            });
            told["signature"] = signature(&document)?;
            if let Some(python) = flavours["python_function"]["python_version"].as_str().and_then(minor) {
                told["python"] = json!({ "requires": format!("=={python}.*") });
            }
            true
        }
        None => return Err(format!("it has neither ONNX's flavour nor `python_function`, but {}", listed(flavours))),
    };
    told.as_object_mut().into_iter().for_each(|tables| tables.retain(|_, table| *table != json!({})));
    let description =
        toml::to_string(&told).map_err(|error| format!("what it says cannot be written down: {error}"))?;
    Ok(Described { description: format!("# From MLflow.\n\n{description}"), needs_requirements })
}

/// MLflow's requirements in one file: its constraints, which it keeps in a file of their own, are requirements like others. What they name is
/// installed even where nothing else asks for it.
pub fn one_file(requirements: &str, constraints: &str) -> String {
    let is_option =
        |line: &&str| line.trim_start().starts_with("-c ") || line.trim_start().starts_with("--constraint ");
    if !requirements.lines().any(|line| is_option(&line)) {
        return requirements.to_owned();
    }
    let kept = requirements.lines().filter(|line| !is_option(line));
    kept.chain(constraints.lines()).map(|line| format!("{line}\n")).collect()
}

fn listed(flavours: &Value) -> String {
    let names: Vec<&str> = flavours.as_object().into_iter().flatten().map(|(name, _)| name.as_str()).collect();
    if names.is_empty() { "none at all".to_owned() } else { names.join(", ") }
}

/// `3.11` of `3.11.7`: pickles are for one minor version.
fn minor(version: &str) -> Option<String> {
    let mut parts = version.split('.');
    let (major, minor) = (parts.next()?.parse::<u32>().ok()?, parts.next()?.parse::<u32>().ok()?);
    Some(format!("{major}.{minor}"))
}

/// Requirements of exactly one version, by name.
fn pins(requirements: &str) -> Vec<(String, String)> {
    let pin = |line: &str| {
        let (name, version) = line.split(['#', ';']).next()?.split_once("==")?;
        Some((name.split('[').next()?.trim().to_owned(), version.trim().to_owned()))
    };
    requirements.lines().filter_map(pin).collect()
}

fn signature(document: &Value) -> Result<Value, String> {
    let side = |name: &str, unnamed: &str| {
        let text = document["signature"][name].as_str().ok_or_else(|| {
            format!(
                "its signature says nothing of its {name}: log it with `signature=infer_signature(inputs, outputs)`, and import it again"
            )
        })?;
        let list: Vec<Map<String, Value>> =
            serde_json::from_str(text).map_err(|error| format!("its signature cannot be read: {error}"))?;
        let several = list.len() > 1;
        let named =
            |(index, spec)| tensor(spec, if several { format!("{unnamed}{index}") } else { unnamed.to_owned() });
        list.iter().enumerate().map(named).collect::<Result<Vec<Value>, String>>()
    };
    let mut inputs = side("inputs", "input")?;
    let params: Vec<Map<String, Value>> =
        document["signature"]["params"].as_str().and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default();
    let further: Vec<Value> = params.iter().filter_map(parameter).collect();
    inputs.extend(further.into_iter().filter(|one| side_lacks(&inputs, &one["name"])).collect::<Vec<_>>());
    Ok(json!({ "inputs": inputs, "outputs": side("outputs", "output")? }))
}

fn side_lacks(side: &[Value], name: &Value) -> bool {
    side.iter().all(|one| one["name"] != *name)
}

/// A parameter of MLflow's signature: an input that may be left out, because it has a default. An object keeps its default for ever.
fn parameter(spec: &Map<String, Value>) -> Option<Value> {
    let datatype = datatype(spec.get("type")?.as_str()?, false)?;
    let one = spec.get("shape").is_none_or(Value::is_null);
    let shape = if one { json!([1]) } else { json!([-1]) };
    Some(json!({ "name": spec.get("name")?, "datatype": datatype, "shape": shape, "optional": true }))
}

/// A column or a tensor of MLflow in the protocol's words; `unnamed` is what it is called if it has no name.
fn tensor(spec: &Map<String, Value>, unnamed: String) -> Result<Value, String> {
    let name = spec.get("name").and_then(Value::as_str).map_or(unnamed, str::to_owned);
    let kind = spec.get("type").and_then(Value::as_str).unwrap_or_default();
    let inner = spec.get("tensor-spec");
    let (kind, shape) = match inner {
        Some(inner) => (inner["dtype"].as_str().unwrap_or_default(), inner["shape"].clone()),
        None => (kind, json!([-1])),
    };
    let datatype = datatype(kind, inner.is_some()).ok_or_else(|| {
        format!(
            "`{name}` of its signature is `{kind}`, which the inference protocol has no datatype for; give the model columns or tensors of \
             numbers, texts, dates or truth values"
        )
    })?;
    let mut told = json!({ "name": name, "datatype": datatype, "shape": shape });
    let optional = [("required", false), ("optional", true)];
    if optional.iter().any(|(key, value)| spec.get(*key).and_then(Value::as_bool) == Some(*value)) {
        told["optional"] = json!(true);
    }
    Ok(told)
}

fn datatype(kind: &str, numpy: bool) -> Option<&'static str> {
    Some(match (kind, numpy) {
        ("boolean", false) | ("bool", true) => "BOOL",
        ("integer", false) | ("int32", true) => "INT32",
        ("long", false) | ("int64", true) => "INT64",
        ("float", false) | ("float32", true) => "FP32",
        ("double", false) | ("float64", true) => "FP64",
        // As in MLflow's JSON: dates as ISO 8601 has them, bytes in Base64.
        ("string" | "datetime" | "binary", false) | ("str" | "object", true) => "BYTES",
        ("int8", true) => "INT8",
        ("int16", true) => "INT16",
        ("uint8", true) => "UINT8",
        ("uint16", true) => "UINT16",
        ("uint32", true) => "UINT32",
        ("uint64", true) => "UINT64",
        ("float16", true) => "FP16",
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Description;

    fn origin() -> Origin {
        Origin {
            name: ModelName::new("half").unwrap(),
            version: Version::new("3").unwrap(),
            description: "Halves \"numbers\"".to_owned(),
            parameters: BTreeMap::from([("depth".to_owned(), "3".to_owned())]),
            metrics: BTreeMap::from([("rmse".to_owned(), 0.1)]),
            annotations: BTreeMap::from([("mlflow.model".to_owned(), "half".to_owned())]),
        }
    }

    /// What MLflow 3.17 writes for a function of columns.
    const COLUMNS: &str = "flavors:\n  python_function:\n    loader_module: mlflow.pyfunc.model\n    python_version: 3.11.7\n\
        signature:\n  inputs: '[{\"type\": \"double\", \"name\": \"x\", \"required\": true}, {\"type\": \"string\", \"name\": \"who\",\n    \
        \"required\": false}]'\n  outputs: '[{\"type\": \"tensor\", \"tensor-spec\": {\"dtype\": \"int64\", \"shape\": [-1, 2]}}]'\n";

    #[test]
    fn a_function_of_columns_is_described_as_we_read_it() {
        let told = describe(COLUMNS, "pandas==2.3.3\n", &origin()).unwrap();
        assert!(told.needs_requirements);
        let read = Description::parse(&told.description)
            .unwrap_or_else(|mistakes| panic!("{mistakes:?}\n{}", told.description));
        let signature = serde_json::to_value(&read.signature.unwrap().value).unwrap();
        let inputs = json!([
            { "name": "x", "datatype": "FP64", "shape": [-1] },
            { "name": "who", "datatype": "BYTES", "shape": [-1], "optional": true },
        ]);
        assert_eq!(signature["inputs"], inputs);
        assert_eq!(signature["outputs"], json!([{ "name": "output", "datatype": "INT64", "shape": [-1, 2] }]));
        assert_eq!(read.annotations["python.requires"], "==3.11.*");
        assert_eq!((read.metrics["rmse"], &read.parameters["depth"]), (0.1, &json!("3")));
    }

    #[test]
    fn constraints_become_requirements() {
        assert_eq!(one_file("numpy==2.4.6", "requests<3"), "numpy==2.4.6");
        assert_eq!(
            one_file("numpy==2.4.6\nrequests\n-c constraints.txt", "requests<3"),
            "numpy==2.4.6\nrequests\nrequests<3\n"
        );
    }

    #[test]
    fn parameters_are_inputs_that_may_be_left_out() {
        let params = "  params: '[{\"name\": \"power\", \"default\": 2, \"shape\": null, \"type\": \"long\"}, {\"name\": \"until\", \"shape\": [-1],\n    \
            \"type\": \"datetime\"}, {\"name\": \"x\", \"shape\": null, \"type\": \"long\"}, {\"name\": \"all\", \"shape\": null, \"type\": \"object\"}]'\n";
        let told = describe(&format!("{COLUMNS}{params}"), "", &origin()).unwrap();
        let read = Description::parse(&told.description).unwrap();
        let signature = serde_json::to_value(&read.signature.unwrap().value).unwrap();
        let further = json!([
            { "name": "power", "datatype": "INT64", "shape": [1], "optional": true },
            { "name": "until", "datatype": "BYTES", "shape": [-1], "optional": true },
        ]);
        assert_eq!(signature["inputs"].as_array().unwrap()[2..], further.as_array().unwrap()[..]);
    }

    #[test]
    fn onnx_is_run_natively_with_the_engine_that_mlflow_names() {
        let mlmodel = "flavors:\n  onnx:\n    data: model.onnx\n  python_function:\n    loader_module: mlflow.onnx\n";
        let told = describe(mlmodel, "mlflow==3.17.2\nonnxruntime==1.32.0\nnumpy\n", &origin()).unwrap();
        assert!(!told.needs_requirements);
        let read = Description::parse(&told.description).unwrap();
        assert_eq!(read.runtime.value.name(), "onnx");
        assert_eq!(read.dependencies, BTreeMap::from([("onnxruntime".to_owned(), "1.32.0".to_owned())]));
    }

    #[test]
    fn what_cannot_be_described_says_why() {
        for (mlmodel, what) in [
            ("flavors: {crate: {}}", "but crate"),
            ("a: [", "no YAML"),
            ("flavors: {python_function: {}}", "infer_signature"),
            (&COLUMNS.replace("double", "object") as &str, "`object`"),
        ] {
            let error = describe(mlmodel, "", &origin()).unwrap_err();
            assert!(error.contains(what), "{error} does not say {what}");
        }
    }
}
