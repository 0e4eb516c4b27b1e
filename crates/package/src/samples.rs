//! Samples in the form that instances answer: checked against the signature, plain ones written out as Open Inference Protocol
//! requests.
//!
//! Promises: every wrong sample is reported, with its place; data is not echoed. What passes here is a request that the model
//! server takes.

use std::collections::{BTreeMap, BTreeSet};

use modelyard_core::nearest;
use modelyard_core::package::{Flag, Runtime};
use modelyard_core::sample::{Sample, Tolerance};
use modelyard_core::signature::{Datatype, Signature, TensorSpec, shape_fits};
use serde_json::{Map, Value, json};

use crate::description::{Placed, request_path_fault};
use crate::flags::sample_fault;

/// A wrong sample.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SampleFault {
    /// Its name, or its place in the list.
    pub name: String,
    /// What is wrong.
    pub why: String,
}

/// What samples are held against.
pub(crate) struct Model<'a> {
    pub(crate) runtime: &'a Runtime,
    pub(crate) signature: &'a Signature,
    /// Outputs whose shape is not known.
    pub(crate) unshaped: &'a BTreeSet<String>,
    /// The package's flags: a sample may hold under some of their values only.
    pub(crate) flags: &'a BTreeMap<String, Placed<Flag>>,
}

const WHOLE: [&str; 6] = ["name", "path", "request", "response", "tolerance", "flags"];
const PLAIN: [&str; 6] = ["name", "path", "inputs", "outputs", "tolerance", "flags"];

/// Reads a list of samples and checks each.
pub(crate) fn read(list: Vec<Value>, model: &Model<'_>) -> Result<Vec<Sample>, Vec<SampleFault>> {
    let (mut samples, mut faults) = (Vec::<Sample>::with_capacity(list.len()), Vec::new());
    let mut names = BTreeSet::new();
    for (index, written) in list.iter().enumerate() {
        let name = written.get("name").and_then(Value::as_str).map_or_else(|| format!("sample-{index}"), str::to_owned);
        let sample = one(written, &name, model).and_then(|sample| match sample_fault(model.flags, &sample) {
            None if names.insert(name.clone()) => Ok(sample),
            None => Err("another sample has the same name".to_owned()),
            Some(why) => Err(why),
        });
        match sample {
            Ok(sample) => samples.push(sample),
            Err(why) => faults.push(SampleFault { name: name.escape_debug().take(80).collect(), why }),
        }
    }
    if faults.is_empty() { Ok(samples) } else { Err(faults) }
}

fn one(written: &Value, name: &str, model: &Model<'_>) -> Result<Sample, String> {
    let Value::Object(written) = written else { return Err("it is no object with keys and values".to_owned()) };
    if written.get("name").is_some_and(|name| !name.is_string())
        || name.is_empty()
        || name.chars().any(char::is_control)
    {
        return Err("its `name` is no text for people".to_owned());
    }
    let plain = written.contains_key("inputs") || written.contains_key("outputs");
    check_keys(written, if plain { &PLAIN } else { &WHOLE })?;
    let tolerance = tolerance(written.get("tolerance"))?;
    let flags = match written.get("flags") {
        None => BTreeMap::new(),
        Some(Value::Object(values)) => values.clone().into_iter().collect(),
        Some(_) => return Err("its `flags` are no object of values by name".to_owned()),
    };
    let sample = |path, request, response| Sample { name: name.to_owned(), path, request, response, tolerance, flags };
    let is_described = !model.signature.inputs.is_empty();
    match (model.runtime, plain) {
        (Runtime::None {}, _) if !is_described => {
            Err("nothing runs the package, and its model does not say what it takes: a sample has nothing to be held against".to_owned())
        }
        (Runtime::Command { .. }, true) if !is_described => {
            Err("a program has no signature: write `path`, `request` and `response` instead of `inputs` and `outputs`"
                .to_owned())
        }
        (_, true) => {
            let path = sample_path(written, model.runtime)?;
            let request = json!({"inputs": tensors(written, "inputs", &model.signature.inputs)?});
            let response = json!({"outputs": tensors(written, "outputs", &model.signature.outputs)?});
            check(&request, &response, model)?;
            Ok(sample(path, request, response))
        }
        (Runtime::Onnx { .. } | Runtime::Python { .. } | Runtime::None {}, false) => {
            let path = sample_path(written, model.runtime)?;
            let (request, response) = (part(written, "request")?, part(written, "response")?);
            check(request, response, model)?;
            Ok(sample(path, request.clone(), response.clone()))
        }
        (Runtime::Command { .. }, false) => {
            let path = sample_path(written, model.runtime)?;
            let (request, response) = (part(written, "request")?, part(written, "response")?);
            // A program may speak as it likes; what it says in the protocol of models is held against its model.
            if is_described && request.get("inputs").is_some_and(Value::is_array) {
                check(request, response, model)?;
            }
            Ok(sample(path, request.clone(), response.clone()))
        }
    }
}

/// Where a sample is sent: a program says so itself, a model is always asked at the same place.
fn sample_path(written: &Map<String, Value>, runtime: &Runtime) -> Result<Option<String>, String> {
    let Runtime::Command { .. } = runtime else {
        return match written.contains_key("path") {
            true => Err(format!(
                "a sample of an `{}` package has no `path`: it is always sent to the model",
                runtime.name()
            )),
            false => Ok(None),
        };
    };
    let path = written.get("path").and_then(Value::as_str);
    let path = path.ok_or("a sample of a `command` needs `path`, where it is sent")?;
    request_path_fault(path).map_or_else(|| Ok(Some(path.to_owned())), Err)
}

fn check_keys(written: &Map<String, Value>, known: &[&str]) -> Result<(), String> {
    let Some(odd) = written.keys().find(|key| !known.contains(&key.as_str())) else { return Ok(()) };
    let hint = match nearest(odd, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("known keys: {}", known.join(", ")),
    };
    Err(format!("there is no key `{}`; {hint}", odd.escape_debug().take(80).collect::<String>()))
}

fn part<'a>(written: &'a Map<String, Value>, key: &str) -> Result<&'a Value, String> {
    written
        .get(key)
        .ok_or_else(|| format!("`{key}` is missing: write `request` and `response`, or `inputs` and `outputs`"))
}

fn tolerance(written: Option<&Value>) -> Result<Tolerance, String> {
    let Some(written) = written else { return Ok(Tolerance::default()) };
    let read: Tolerance =
        serde_json::from_value(written.clone()).map_err(|error| format!("its `tolerance` is wrong: {error}"))?;
    let fine = [read.absolute, read.relative].iter().all(|limit| limit.is_finite() && *limit >= 0.0);
    if fine { Ok(read) } else { Err("its `tolerance` is below zero".to_owned()) }
}

/// Named nested lists as tensors; the signature gives the order and the datatypes, the nesting gives the shape.
fn tensors(written: &Map<String, Value>, key: &str, specs: &[TensorSpec]) -> Result<Vec<Value>, String> {
    let what = key.trim_end_matches('s');
    let named = match part(written, key)? {
        Value::Object(named) if !named.is_empty() => named,
        _ => {
            return Err(format!(
                "its `{key}` are empty: write {{\"{}\": …}}",
                specs.first().map_or("name", |spec| &spec.name)
            ));
        }
    };
    if let Some(name) = named.keys().find(|name| !specs.iter().any(|spec| spec.name == **name)) {
        return Err(unknown(name, specs, what));
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

fn unknown(name: &str, specs: &[TensorSpec], what: &str) -> String {
    let names: Vec<String> = specs.iter().map(|spec| format!("`{}`", spec.name)).collect();
    let name: String = name.escape_debug().take(80).collect();
    format!("the model has no {what} `{name}`; it has {}", names.join(", "))
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

fn flatten<'v>(value: &'v Value, into: &mut Vec<&'v Value>) {
    match value {
        Value::Array(list) => list.iter().for_each(|value| flatten(value, into)),
        scalar => into.push(scalar),
    }
}

/// Whether a request and its response fit the signature.
fn check(request: &Value, response: &Value, model: &Model<'_>) -> Result<(), String> {
    let inputs = listed(request, "inputs", "request")?;
    for (index, input) in inputs.iter().enumerate() {
        for key in ["name", "datatype", "shape", "data"] {
            if input.get(key).is_none() {
                return Err(format!("input {} of its request has no `{key}`", index + 1));
            }
        }
        fits(input, &model.signature.inputs, "input", &BTreeSet::new())?;
    }
    let outputs = listed(response, "outputs", "response")?;
    outputs.iter().try_for_each(|output| fits(output, &model.signature.outputs, "output", model.unshaped))?;
    distinct(inputs, "input")?;
    distinct(outputs, "output")?;
    let given =
        |spec: &&TensorSpec| inputs.iter().any(|input| input.get("name").and_then(Value::as_str) == Some(&spec.name));
    match model.signature.inputs.iter().find(|spec| !spec.optional && !given(spec)) {
        Some(missing) => Err(format!("input `{}` is missing", missing.name)),
        None => Ok(()),
    }
}

fn distinct(tensors: &[Value], what: &str) -> Result<(), String> {
    let mut seen = BTreeSet::new();
    let twice = tensors.iter().filter_map(|tensor| tensor.get("name")?.as_str()).find(|name| !seen.insert(*name));
    twice.map_or(Ok(()), |name| Err(format!("{what} `{name}` stands in it twice")))
}

fn listed<'a>(body: &'a Value, key: &str, what: &str) -> Result<&'a Vec<Value>, String> {
    match body.get(key).and_then(Value::as_array) {
        Some(list) if !list.is_empty() => Ok(list),
        _ => Err(format!("its {what} has no list `{key}`")),
    }
}

fn fits(tensor: &Value, specs: &[TensorSpec], what: &str, unshaped: &BTreeSet<String>) -> Result<(), String> {
    let name = tensor.get("name").and_then(Value::as_str).ok_or_else(|| format!("an {what} has no name"))?;
    let spec = specs.iter().find(|spec| spec.name == name).ok_or_else(|| unknown(name, specs, what))?;
    if let Some(datatype) = tensor.get("datatype")
        && datatype.as_str().and_then(Datatype::from_name) != Some(spec.datatype)
    {
        return Err(format!("{what} `{name}` is {datatype}, the model has {}", spec.datatype));
    }
    let data = tensor.get("data").ok_or_else(|| format!("{what} `{name}` has no data"))?;
    let mut flat = Vec::new();
    flatten(data, &mut flat);
    if let Some(shape) = tensor.get("shape") {
        let shape: Vec<i64> = serde_json::from_value(shape.clone())
            .map_err(|_| format!("{what} `{name}`: its shape is no list of whole numbers"))?;
        let elements = shape.iter().try_fold(1_i64, |product, &axis| product.checked_mul(axis).filter(|_| axis >= 0));
        if !unshaped.contains(name) && !shape_fits(&spec.shape, &shape) {
            return Err(format!("{what} `{name}` has the shape {shape:?}, the model has {:?}", spec.shape));
        }
        if elements != i64::try_from(flat.len()).ok() {
            return Err(format!("{what} `{name}` has the shape {shape:?} but {} elements", flat.len()));
        }
        if what == "input" && shape.first() == Some(&0) {
            return Err(format!("{what} `{name}` has no rows"));
        }
    }
    match flat.iter().position(|value| !is_of(spec.datatype, value)) {
        Some(index) => Err(format!("{what} `{name}`: element {index} is no {}", spec.datatype)),
        None => Ok(()),
    }
}

/// Whether the model server reads the value as that datatype (docs/reference/serving.md).
fn is_of(datatype: Datatype, value: &Value) -> bool {
    let within = |low: i64, high: u64| match value.as_i64() {
        Some(number) => number >= low && (number < 0 || number.unsigned_abs() <= high),
        None => value.as_u64().is_some_and(|number| number <= high),
    };
    match datatype {
        Datatype::Bool => value.is_boolean() || within(0, 1),
        Datatype::Bytes => value.as_str().is_some_and(|text| !text.contains('\0')),
        Datatype::Fp16 | Datatype::Bf16 | Datatype::Fp32 | Datatype::Fp64 => value.is_number() || value.is_null(),
        Datatype::Uint8 => within(0, u8::MAX.into()),
        Datatype::Uint16 => within(0, u16::MAX.into()),
        Datatype::Uint32 => within(0, u32::MAX.into()),
        Datatype::Uint64 => within(0, u64::MAX),
        Datatype::Int8 => within(i8::MIN.into(), i8::MAX as u64),
        Datatype::Int16 => within(i16::MIN.into(), i16::MAX as u64),
        Datatype::Int32 => within(i32::MIN.into(), i32::MAX as u64),
        Datatype::Int64 => within(i64::MIN, i64::MAX as u64),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn signature() -> Signature {
        let spec = |name: &str, datatype, shape: &[i64], optional| TensorSpec {
            name: name.into(),
            datatype,
            shape: shape.into(),
            optional,
        };
        Signature {
            inputs: vec![spec("x", Datatype::Fp32, &[-1, 2], false), spec("n", Datatype::Int8, &[1], true)],
            outputs: vec![spec("y", Datatype::Int64, &[-1], false), spec("z", Datatype::Fp32, &[], false)],
        }
    }

    fn read_list(list: Vec<Value>, runtime: &Runtime) -> Result<Vec<Sample>, Vec<SampleFault>> {
        // A program has a signature only when it names a model.
        let signature = if let Runtime::Command { .. } = runtime { Signature::default() } else { signature() };
        let unshaped = BTreeSet::from(["z".to_owned()]);
        read(list, &Model { runtime, signature: &signature, unshaped: &unshaped, flags: &BTreeMap::new() })
    }

    fn read_one(value: Value) -> Result<Sample, String> {
        let runtime = Runtime::Onnx { model: "m".into() };
        read_list(vec![value], &runtime).map(|mut list| list.remove(0)).map_err(|mut faults| faults.remove(0).why)
    }

    fn command(value: Value) -> Result<Sample, String> {
        let runtime =
            Runtime::Command { command: vec!["x".into()], health: "/".into(), environment: Default::default() };
        read_list(vec![value], &runtime).map(|mut list| list.remove(0)).map_err(|mut faults| faults.remove(0).why)
    }

    #[test]
    fn plain_samples_become_requests() {
        let sample = read_one(json!({"inputs": {"x": [[1.0, null]]}, "outputs": {"y": [1]}})).unwrap();
        let input = json!({"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.0, null]});
        assert_eq!(sample.request, json!({"inputs": [input]}));
        assert_eq!(sample.name, "sample-0");
    }

    #[test]
    fn an_output_of_unknown_shape_may_have_any() {
        assert!(read_one(json!({"inputs": {"x": [[1, 2]], "n": [-128]}, "outputs": {"z": [[0.5], [0.25]]}})).is_ok());
    }

    #[test]
    fn samples_that_do_not_fit_are_refused() {
        let whole = |input: Value| json!({"name": "s", "request": {"inputs": [input]}, "response": {"outputs": [{"name": "y", "data": [1]}]}});
        let right = json!({"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2]});
        let plain = |x: Value, n: Value| json!({"inputs": {"x": x, "n": n}, "outputs": {"y": [1]}});
        assert!(read_one(whole(right.clone())).is_ok());
        for (value, why) in [
            (json!({"inputs": {"w": [[1.0, 2.0]]}, "outputs": {"y": [1]}}), "no input `w`; it has `x`, `n`"),
            (json!({"inputs": {"x": [[1.0], [1.0, 2.0]]}, "outputs": {"y": [1]}}), "ragged"),
            (json!({"inputs": {"x": [[1.0]]}, "outputs": {"y": [1]}}), "has the shape [1, 1], the model has [-1, 2]"),
            (json!({"inputs": {"x": [["a", "b"]]}, "outputs": {"y": [1]}}), "element 0 is no FP32"),
            (json!({"inputs": {}, "outputs": {"y": [1]}}), "its `inputs` are empty"),
            (json!({"inputs": {"x": [[1, 2]]}, "outputs": {}}), "its `outputs` are empty"),
            (json!({"inputs": {"x": [[1, 2]]}}), "`outputs` is missing"),
            (json!({"inputs": {"n": [1]}, "outputs": {"y": [1]}}), "input `x` is missing"),
            (json!({"inputs": {"x": []}, "outputs": {"y": [1]}}), "has the shape [0]"),
            (json!({"inputs": {"x": [[1, 2]]}, "outputs": {"y": ["a"]}}), "output `y`: element 0 is no INT64"),
            (plain(json!([[1, 2]]), json!([128])), "element 0 is no INT8"),
            (plain(json!([[1, 2]]), json!([1.5])), "element 0 is no INT8"),
            (whole(json!({"name": "x", "datatype": "INT8", "shape": [1, 2], "data": [1, 2]})), "is \"INT8\""),
            (whole(json!({"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1, 2, 3]})), "but 3 elements"),
            (whole(json!({"name": "x", "datatype": "FP32", "shape": [0, 2], "data": []})), "has no rows"),
            (whole(json!({"name": "x", "datatype": "FP32", "shape": "[1]", "data": []})), "no list of whole numbers"),
            (whole(json!({"name": "x", "shape": [1, 2], "data": [1, 2]})), "has no `datatype`"),
            (
                json!({"name": "s", "request": {"inputs": [right, right]}, "response": {"outputs": [{"name": "y", "data": [1]}]}}),
                "twice",
            ),
            (json!({"name": "s", "request": {"inputs": [right]}, "response": {}}), "no list `outputs`"),
            (json!({"name": "s", "request": {}, "repsonse": {}}), "did you mean `response`?"),
            (json!({"name": "s", "path": "/x", "request": {}, "response": {}}), "has no `path`"),
            (json!({"what": 1}), "no key `what`"),
            (json!(1), "no object"),
            (json!({"name": 7, "inputs": {}, "outputs": {}}), "no text for people"),
            (json!({"inputs": {"x": [[1, 2]]}, "outputs": {"y": [1]}, "tolerance": {"absolute": -1.0}}), "below zero"),
            (
                json!({"inputs": {"x": [[1, 2]]}, "outputs": {"y": [1]}, "tolerance": {"abs": 1.0}}),
                "unknown field `abs`",
            ),
        ] {
            let error = read_one(value).unwrap_err();
            assert!(error.contains(why), "{error} does not say {why:?}");
        }
    }

    #[test]
    fn every_wrong_sample_is_reported() {
        let right = json!({"name": "a", "inputs": {"x": [[1, 2]]}, "outputs": {"y": [1]}});
        let list = vec![right.clone(), json!({}), right, json!(null)];
        let faults = read_list(list, &Runtime::Onnx { model: "m".into() }).unwrap_err();
        let shown: Vec<_> = faults.iter().map(|fault| format!("{}: {}", fault.name, fault.why)).collect();
        assert!(shown.len() == 3 && shown[1] == "a: another sample has the same name", "{shown:?}");
    }

    #[test]
    fn a_program_is_asked_at_a_path() {
        let with = |path: Value| json!({"path": path, "request": {}, "response": {}});
        assert_eq!(command(with(json!("/predict"))).unwrap().path.as_deref(), Some("/predict"));
        for (value, why) in [
            (with(json!("predict")), "starts with `/`"),
            (with(json!("/x HTTP/1.1\r\nHost: y")), "is no path"),
            (with(json!(7)), "needs `path`"),
            (json!({"request": {}, "response": {}}), "needs `path`"),
            (json!({"path": "/x", "request": {}}), "`response` is missing"),
            (json!({"inputs": {}, "outputs": {}}), "no signature"),
        ] {
            let error = command(value).unwrap_err();
            assert!(error.contains(why), "{error} does not say {why:?}");
        }
    }

    #[test]
    fn whole_numbers_keep_their_limits() {
        for (datatype, value, yes) in [
            (Datatype::Uint64, json!(u64::MAX), true),
            (Datatype::Int64, json!(u64::MAX), false),
            (Datatype::Int64, json!(i64::MIN), true),
            (Datatype::Uint8, json!(-1), false),
            (Datatype::Bool, json!(2), false),
            (Datatype::Bytes, json!("a\0"), false),
            (Datatype::Fp16, json!("1"), false),
        ] {
            assert_eq!(is_of(datatype, &value), yes, "{datatype} {value}");
        }
    }
}
