//! The inference engine called in a loop: the limit that no server in front of it can beat.

use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use ort::session::{Session, SessionInputValue, SessionOutputs};
use ort::value::{DynValue, Tensor, TensorElementType};
use serde::{Deserialize, Serialize};

use crate::histogram::Histogram;

/// A request in the Open Inference Protocol's JSON form, as far as the benchmark's models need it.
#[derive(Deserialize)]
pub struct InferRequest {
    /// Inputs.
    pub inputs: Vec<InferInput>,
}

/// One input tensor.
#[derive(Deserialize)]
pub struct InferInput {
    /// Name in the graph.
    pub name: String,
    /// Axis lengths.
    pub shape: Vec<i64>,
    /// `FP32` or `INT64`.
    pub datatype: String,
    /// Elements, flat.
    pub data: Box<serde_json::value::RawValue>,
}

/// A loaded model.
pub struct Engine {
    session: Session,
}

/// The ONNX Runtime library: `given`, else `MODELYARD_ONNXRUNTIME`, else the wheel in the environment of `python`.
pub fn library(given: Option<&Path>, python: Option<&Path>) -> Result<PathBuf> {
    if let Some(path) =
        given.map(Path::to_path_buf).or_else(|| std::env::var_os("MODELYARD_ONNXRUNTIME").map(Into::into))
    {
        return Ok(path);
    }
    let Some(python) = python else {
        bail!("no ONNX Runtime library: pass --onnxruntime FILE or set MODELYARD_ONNXRUNTIME");
    };
    let script = "import glob, os, onnxruntime as o; print(glob.glob(os.path.dirname(o.__file__) + '/capi/libonnxruntime.so.*')[0])";
    let output = std::process::Command::new(python).args(["-c", script]).output()?;
    if !output.status.success() {
        bail!("{} has no onnxruntime: {}", python.display(), String::from_utf8_lossy(&output.stderr));
    }
    Ok(PathBuf::from(String::from_utf8(output.stdout)?.trim()))
}

impl Engine {
    /// Loads `model` with the library, one thread per inference.
    pub fn load(library: &Path, model: &Path) -> Result<Self> {
        let environment = ort::init_from(library)
            .with_context(|| format!("could not load {}", library.display()))?
            .with_telemetry(false)
            .build()?;
        let builder = Session::builder(&environment)?.with_intra_threads(1).map_err(ort::Error::<()>::from)?;
        let mut builder = builder.with_intra_op_spinning(false).map_err(ort::Error::<()>::from)?;
        let session = builder.commit_from_file(model).with_context(|| format!("could not load {}", model.display()))?;
        Ok(Self { session })
    }

    /// Runs one request.
    pub fn run(&mut self, request: InferRequest) -> Result<SessionOutputs<'_>> {
        let inputs = request.inputs.into_iter().map(value).collect::<Result<Vec<_>>>()?;
        Ok(self.session.run(inputs)?)
    }

    /// Answers one request in the protocol's JSON form.
    pub fn answer(&mut self, request: InferRequest) -> Result<Vec<u8>> {
        let outputs = self.run(request)?;
        let mut tensors = Vec::with_capacity(outputs.len());
        for (name, value) in outputs.iter() {
            tensors.push(match value.dtype().tensor_type() {
                Some(TensorElementType::Float32) => output(name, "FP32", value.try_extract_tensor::<f32>()?)?,
                Some(TensorElementType::Int64) => output(name, "INT64", value.try_extract_tensor::<i64>()?)?,
                other => bail!("output {name} is {other:?}, which this benchmark does not write"),
            });
        }
        Ok(format!("{{\"model_name\":\"bare\",\"outputs\":[{}]}}", tensors.join(",")).into_bytes())
    }
}

fn output<T: Serialize>(name: &str, datatype: &str, (shape, data): (&ort::value::Shape, &[T])) -> Result<String> {
    let (shape, data) = (serde_json::to_string(&**shape)?, serde_json::to_string(data)?);
    Ok(format!("{{\"name\":\"{name}\",\"datatype\":\"{datatype}\",\"shape\":{shape},\"data\":{data}}}"))
}

fn value(input: InferInput) -> Result<(Cow<'static, str>, DynValue)> {
    let value = match input.datatype.as_str() {
        "FP32" => Tensor::from_array((input.shape, serde_json::from_str::<Vec<f32>>(input.data.get())?))?.into_dyn(),
        "INT64" => Tensor::from_array((input.shape, serde_json::from_str::<Vec<i64>>(input.data.get())?))?.into_dyn(),
        other => bail!("inputs of type {other} are not known to this benchmark"),
    };
    Ok((Cow::Owned(input.name), value))
}

/// What the loop measured, in µs.
#[derive(Debug, Serialize, Deserialize)]
pub struct Figures {
    /// Inferences per second.
    pub per_second: f64,
    /// Median.
    pub p50_micros: f64,
    /// 99th percentile.
    pub p99_micros: f64,
}

/// Calls the engine with ready-made tensors for `time`.
pub fn measure(library: &Path, model: &Path, request: &[u8], time: Duration) -> Result<Figures> {
    let mut engine = Engine::load(library, model)?;
    let request: InferRequest = serde_json::from_slice(request).context("the request is not of the protocol's form")?;
    let inputs = request.inputs.into_iter().map(value).collect::<Result<Vec<_>>>()?;
    let feeds =
        || inputs.iter().map(|(name, value)| (name.clone(), value.into())).collect::<Vec<(_, SessionInputValue<'_>)>>();
    let warm = Instant::now() + time / 5;
    while Instant::now() < warm {
        engine.session.run(feeds())?;
    }
    let (mut latencies, start) = (Histogram::default(), Instant::now());
    while start.elapsed() < time {
        let before = Instant::now();
        engine.session.run(feeds())?;
        latencies.record(u64::try_from(before.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }
    Ok(Figures {
        per_second: latencies.count() as f64 / start.elapsed().as_secs_f64(),
        p50_micros: latencies.quantile_micros(0.5),
        p99_micros: latencies.quantile_micros(0.99),
    })
}
