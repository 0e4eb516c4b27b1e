//! Samples in the form that instances answer: checked against the signature, plain ones written out as Open Inference Protocol requests.

use modelyard_core::package::Runtime;
use modelyard_core::sample::{Sample, Tolerance};
use modelyard_core::signature::{Datatype, Signature, TensorSpec, shape_fits};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::Error;

/// A sample as people write it: whole, or as named nested lists.
#[derive(Deserialize)]
#[serde(untagged)]
enum Written {
    Whole(Sample),
    Plain(Plain),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Plain {
    name: Option<String>,
    inputs: Map<String, Value>,
    outputs: Map<String, Value>,
    #[serde(default)]
    tolerance: Tolerance,
}

/// Reads a list of samples and checks each.
pub(crate) fn read(list: Vec<Value>, runtime: &Runtime, signature: &Signature) -> Result<Vec<Sample>, Error> {
    let mut samples: Vec<Sample> = Vec::with_capacity(list.len());
    for (index, written) in list.into_iter().enumerate() {
        let sample = one(written, index, signature)?;
        let wrong = |why: String| Error::Sample { name: sample.name.clone(), why };
        if samples.iter().any(|other| other.name == sample.name) {
            return Err(wrong("another sample has the same name".to_owned()));
        }
        match runtime {
            Runtime::Onnx { .. } => check(&sample, signature).map_err(wrong)?,
            Runtime::Command { .. } => match sample.path.as_deref() {
                Some(path) if path.starts_with('/') => {}
                Some(path) => return Err(wrong(format!("its path `{path}` does not start with `/`"))),
                None => return Err(wrong("a sample of a `command` needs `path`, where it is sent".to_owned())),
            },
        }
        samples.push(sample);
    }
    Ok(samples)
}

fn one(written: Value, index: usize, signature: &Signature) -> Result<Sample, Error> {
    let name = || written.get("name").and_then(Value::as_str).map_or_else(|| format!("sample-{index}"), str::to_owned);
    let wrong = |why: String| Error::Sample { name: name(), why };
    match Written::deserialize(&written) {
        Ok(Written::Whole(sample)) => Ok(sample),
        Ok(Written::Plain(plain)) => {
            let name = plain.name.clone().unwrap_or_else(name);
            let request = json!({"inputs": tensors(&plain.inputs, &signature.inputs, "input").map_err(wrong)?});
            let response = json!({"outputs": tensors(&plain.outputs, &signature.outputs, "output").map_err(wrong)?});
            Ok(Sample { name, path: None, request, response, tolerance: plain.tolerance })
        }
        Err(_) => Err(wrong(
            "it has neither `name`, `request` and `response` nor `inputs` and `outputs` (or keys that are not known)"
                .to_owned(),
        )),
    }
}

/// Named nested lists as tensors; the signature gives the order and the datatypes, the nesting gives the shape.
fn tensors(named: &Map<String, Value>, specs: &[TensorSpec], what: &str) -> Result<Vec<Value>, String> {
    if let Some(name) = named.keys().find(|name| !specs.iter().any(|spec| spec.name == **name)) {
        return Err(format!("the model has no {what} `{name}`; it has {}", names(specs)));
    }
    let given = specs.iter().filter_map(|spec| named.get(&spec.name).map(|value| (spec, value)));
    given
        .map(|(spec, value)| {
            let shape = nesting(value).map_err(|why| format!("{what} `{}` {why}", spec.name))?;
            let mut data = Vec::new();
            flatten(value, &mut data);
            Ok(json!({"name": spec.name, "datatype": spec.datatype, "shape": shape, "data": data}))
        })
        .collect()
}

fn names(specs: &[TensorSpec]) -> String {
    specs.iter().map(|spec| format!("`{}`", spec.name)).collect::<Vec<_>>().join(", ")
}

/// The shape of a nested list, when it has one.
fn nesting(value: &Value) -> Result<Vec<i64>, String> {
    let Value::Array(list) = value else { return Ok(Vec::new()) };
    let mut inner = list.iter().map(nesting);
    let first = inner.next().unwrap_or(Ok(Vec::new()))?;
    for other in inner {
        if other? != first {
            return Err("is ragged: its lists differ in length".to_owned());
        }
    }
    Ok([list.len() as i64].into_iter().chain(first).collect())
}

fn flatten(value: &Value, into: &mut Vec<Value>) {
    match value {
        Value::Array(list) => list.iter().for_each(|value| flatten(value, into)),
        scalar => into.push(scalar.clone()),
    }
}

/// Whether a whole sample fits the signature.
fn check(sample: &Sample, signature: &Signature) -> Result<(), String> {
    let inputs = listed(&sample.request, "inputs", "request")?;
    for input in inputs {
        fits(input, &signature.inputs, "input")?;
    }
    let given =
        |spec: &&TensorSpec| inputs.iter().any(|input| input.get("name").and_then(Value::as_str) == Some(&spec.name));
    if let Some(missing) = signature.inputs.iter().find(|spec| !spec.optional && !given(spec)) {
        return Err(format!("input `{}` is missing", missing.name));
    }
    for output in listed(&sample.response, "outputs", "response")? {
        fits(output, &signature.outputs, "output")?;
    }
    Ok(())
}

fn listed<'a>(body: &'a Value, key: &str, what: &str) -> Result<&'a Vec<Value>, String> {
    match body.get(key).and_then(Value::as_array) {
        Some(list) if !list.is_empty() => Ok(list),
        _ => Err(format!("its {what} has no list `{key}`")),
    }
}

fn fits(tensor: &Value, specs: &[TensorSpec], what: &str) -> Result<(), String> {
    let name = tensor.get("name").and_then(Value::as_str).ok_or_else(|| format!("an {what} has no name"))?;
    let spec = specs.iter().find(|spec| spec.name == name);
    let spec = spec.ok_or_else(|| format!("the model has no {what} `{name}`; it has {}", names(specs)))?;
    if let Some(datatype) = tensor.get("datatype").and_then(Value::as_str)
        && Datatype::from_name(datatype) != Some(spec.datatype)
    {
        return Err(format!("{what} `{name}` is {datatype}, the model has {}", spec.datatype));
    }
    let data = tensor.get("data").ok_or_else(|| format!("{what} `{name}` has no data"))?;
    let mut flat = Vec::new();
    flatten(data, &mut flat);
    if let Some(shape) = tensor.get("shape") {
        let shape: Vec<i64> =
            serde_json::from_value(shape.clone()).map_err(|_| format!("{what} `{name}` has no usable shape"))?;
        if !shape_fits(&spec.shape, &shape) {
            return Err(format!("{what} `{name}` has the shape {shape:?}, the model has {:?}", spec.shape));
        }
        let elements = shape.iter().try_fold(1_i64, |product, &axis| product.checked_mul(axis.max(0)));
        if elements != i64::try_from(flat.len()).ok() {
            return Err(format!("{what} `{name}` has the shape {shape:?} but {} elements", flat.len()));
        }
    }
    let right = |value: &Value| match spec.datatype {
        Datatype::Bool => value.is_boolean() || value.is_number(),
        Datatype::Bytes => value.is_string(),
        _ => value.is_number(),
    };
    match flat.iter().find(|value| !right(value)) {
        Some(_) => Err(format!("{what} `{name}` holds something that is no {}", spec.datatype)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signature() -> Signature {
        let spec = |name: &str, datatype, shape: &[i64]| TensorSpec {
            name: name.into(),
            datatype,
            shape: shape.into(),
            optional: false,
        };
        Signature {
            inputs: vec![spec("x", Datatype::Fp32, &[-1, 2])],
            outputs: vec![spec("y", Datatype::Int64, &[-1])],
        }
    }

    fn read_one(value: Value) -> Result<Sample, String> {
        let runtime = Runtime::Onnx { model: "m".into() };
        read(vec![value], &runtime, &signature()).map(|mut list| list.remove(0)).map_err(|error| error.to_string())
    }

    #[test]
    fn plain_samples_become_requests() {
        let sample = read_one(json!({"inputs": {"x": [[1.0, 2.0]]}, "outputs": {"y": [1]}})).unwrap();
        assert_eq!(
            sample.request,
            json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}]})
        );
        assert_eq!(sample.name, "sample-0");
    }

    #[test]
    fn samples_that_do_not_fit_are_refused() {
        let whole = |input: Value| json!({"name": "s", "request": {"inputs": [input]}, "response": {"outputs": [{"name": "y", "data": [1]}]}});
        for (value, why) in [
            (json!({"inputs": {"z": [[1.0, 2.0]]}, "outputs": {"y": [1]}}), "no input `z`"),
            (json!({"inputs": {"x": [[1.0], [1.0, 2.0]]}, "outputs": {"y": [1]}}), "ragged"),
            (json!({"inputs": {"x": [[1.0]]}, "outputs": {"y": [1]}}), "has the shape [1, 1]"),
            (json!({"inputs": {"x": [["a", "b"]]}, "outputs": {"y": [1]}}), "no FP32"),
            (json!({"inputs": {}, "outputs": {"y": [1]}}), "no list `inputs`"),
            (whole(json!({"name": "x", "datatype": "INT8", "shape": [1, 2], "data": [1, 2]})), "is INT8"),
            (whole(json!({"name": "x", "shape": [1, 2], "data": [1, 2, 3]})), "but 3 elements"),
            (json!({"what": 1}), "neither"),
        ] {
            let error = read_one(value).unwrap_err();
            assert!(error.contains(why), "{error} does not say {why:?}");
        }
    }
}
