//! Asking the package's samples: whether the server answers correctly.
//!
//! Promises: samples go the way of real requests, through the same queues and engines; a server that is only busy stays as live
//! as it was; one whose engine does not move at all is told apart from one that is busy.

use std::time::Duration;

use modelyard_core::failure::Cause;
use modelyard_core::sample::Sample;
use serde_json::Value;

use crate::batch::{Job, Slice};
use crate::body::{answer, infer, plain};
use crate::health::Ill;
use crate::model::{Model, Question};
use crate::server::Loaded;
use crate::tensor::Tensor;

/// How long an answer may take before it is asked whether the engine moves at all.
const PATIENCE: Duration = Duration::from_secs(30);

/// One sample, ready to be asked.
#[derive(Debug)]
struct Prepared {
    sample: Sample,
    /// The request, or why it does not fit the model.
    question: Result<Question, String>,
    plain: bool,
}

/// The samples of a package, ready to be asked.
#[derive(Debug)]
pub(crate) struct Samples {
    prepared: Vec<Prepared>,
    runtime: tokio::runtime::Runtime,
    /// Which engine is asked next.
    turn: usize,
}

impl Samples {
    pub(crate) fn new(model: &Model, samples: &[Sample]) -> std::io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        Ok(Self { prepared: samples.iter().map(|sample| prepare(model, sample)).collect(), runtime, turn: 0 })
    }

    /// The inputs of all samples that fit the model.
    pub(crate) fn inputs(&self) -> impl Iterator<Item = &Vec<Option<Tensor>>> {
        self.prepared.iter().filter_map(|prepared| Some(&prepared.question.as_ref().ok()?.inputs))
    }

    /// Asks every sample; `None` when the server was too busy to tell.
    pub(crate) fn ask(&mut self, loaded: &Loaded) -> Option<Result<(), Ill>> {
        self.turn = self.turn.wrapping_add(1);
        for prepared in &self.prepared {
            match prepared.ask(loaded, self.turn, &self.runtime) {
                Asked::Right => {}
                Asked::Busy => return None,
                Asked::Ill(ill) => return Some(Err(ill)),
            }
        }
        Some(Ok(()))
    }
}

enum Asked {
    Right,
    Busy,
    Ill(Ill),
}

impl Prepared {
    fn ask(&self, loaded: &Loaded, turn: usize, runtime: &tokio::runtime::Runtime) -> Asked {
        let wrong =
            |why: &str| Asked::Ill(Ill::new(Cause::WrongAnswers, format!("sample `{}`: {why}", self.sample.name)));
        let question = match &self.question {
            Ok(question) => question,
            Err(why) => return wrong(why),
        };
        let (job, reply) = Job::new(question.inputs.clone());
        let before = loaded.progress();
        if loaded.submit(turn, job).is_err() {
            return Asked::Busy;
        }
        match runtime.block_on(async { tokio::time::timeout(PATIENCE, reply).await }) {
            Ok(Ok(Ok(slice))) => match self.sample.check(&self.written(&loaded.model, question, &slice)) {
                Ok(()) => Asked::Right,
                Err(mismatch) => wrong(&format!("at {}: {}", mismatch.at, mismatch.why)),
            },
            Ok(Ok(Err(refusal))) => wrong(&refusal.message),
            Ok(Err(_)) => wrong("the engine gave up"),
            Err(_) if loaded.progress() != before => Asked::Busy,
            Err(_) => {
                let seconds = PATIENCE.as_secs();
                Asked::Ill(Ill::new(
                    Cause::Unresponsive,
                    format!("the engine has not finished a single run for {seconds} s"),
                ))
            }
        }
    }

    fn written(&self, model: &Model, question: &Question, slice: &Slice) -> Value {
        let body = match self.plain {
            true => plain::write(model, &question.wanted, slice),
            false => answer::write(model, &question.wanted, slice).body,
        };
        serde_json::from_slice(&body).unwrap_or(Value::Null)
    }
}

fn prepare(model: &Model, sample: &Sample) -> Prepared {
    let mut sample = sample.clone();
    let plain = sample.request.get("inputs").is_some_and(Value::is_object);
    let wanted = expected_outputs(&mut sample.response);
    if let (false, false, Value::Object(request)) = (plain, wanted.is_empty(), &mut sample.request) {
        request.insert("outputs".to_owned(), Value::Array(wanted));
        // Comparing needs JSON, whatever the recorded request asked for.
        request.remove("parameters");
    }
    let body = sample.request.to_string();
    let read = if plain { plain::read(model, body.as_bytes()) } else { infer::read(model, body.as_bytes(), None) };
    Prepared { sample, question: read.map_err(|refusal| refusal.message), plain }
}

/// Brings an expected response into the form that this server writes: data flat, and no word on the name and version that
/// the model was served under when the sample was recorded. Returns the outputs that it names, as a request asks for them.
fn expected_outputs(response: &mut Value) -> Vec<Value> {
    let Value::Object(response) = response else { return Vec::new() };
    for key in ["model_name", "model_version", "id"] {
        response.remove(key);
    }
    let Some(Value::Array(outputs)) = response.get_mut("outputs") else { return Vec::new() };
    for output in outputs.iter_mut() {
        if let Some(Value::Array(data)) = output.get_mut("data") {
            let mut flat = Vec::with_capacity(data.len());
            std::mem::take(data).into_iter().for_each(|value| flatten(value, &mut flat));
            *data = flat;
        }
    }
    outputs.iter().filter_map(|output| Some(serde_json::json!({"name": output.get("name")?}))).collect()
}

fn flatten(value: Value, into: &mut Vec<Value>) {
    match value {
        Value::Array(list) => list.into_iter().for_each(|value| flatten(value, into)),
        leaf => into.push(leaf),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::tests::model;
    use serde_json::json;

    #[test]
    fn samples_are_brought_into_the_servers_form() {
        let sample = Sample {
            name: "a".into(),
            path: None,
            request: json!({"inputs": [{"name": "x", "datatype": "FP32", "shape": [1, 4], "data": [[1, 2, 3, 4]]}]}),
            response: json!({"model_name": "other", "outputs": [{"name": "p", "data": [[0.1, 0.2, 0.7]]}]}),
            tolerance: Default::default(),
            flags: Default::default(),
        };
        let prepared = prepare(&model(), &sample);
        assert_eq!(prepared.sample.response, json!({"outputs": [{"name": "p", "data": [0.1, 0.2, 0.7]}]}));
        assert_eq!(prepared.question.unwrap().wanted.outputs, [(1, false)]);
    }

    #[test]
    fn a_sample_that_does_not_fit_says_why() {
        let request = json!({"inputs": {"x": [[1, 2, 3]]}});
        let sample = Sample {
            name: "a".into(),
            path: None,
            request,
            response: json!({}),
            tolerance: Default::default(),
            flags: Default::default(),
        };
        assert!(prepare(&model(), &sample).question.unwrap_err().contains("has the shape [1,3]"));
    }
}
