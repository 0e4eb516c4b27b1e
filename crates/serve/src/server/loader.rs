//! Loading the model, deciding how it runs, and asking the samples ever after.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock, mpsc};
use std::time::{Duration, Instant};

use modelyard_core::package::Runtime;
use modelyard_core::signature::{Signature, TensorSpec, shape_fits};
use tokio::sync::oneshot;

use super::{Loaded, Shared};
use crate::batch::{Lane, Worker, nanos, size, verify};
use crate::engine::{Blueprint, Engine, Fault, Source, fills, load_library};
use crate::model::{Model, PYTHON};
use crate::options::ServeOptions;
use crate::python::Plan;
use crate::samples::Samples;
use crate::tensor::Tensor;
use crate::{Error, http, pages};

/// Models faster than this run on the I/O threads: handing over to another thread and back costs more than a tenth of it.
const FAST: Duration = Duration::from_micros(300);

/// Files larger than this are loaded once, whatever their speed: a copy for each thread would cost too much memory.
const SMALL_BYTES: u64 = 16 << 20;

/// What the loading thread's heap is opened to before the engine is loaded: 100 blocks, just small enough to come from the heap.
// 10 MiB: what ONNX Runtime's own tables take.
const HEAP: (usize, usize) = (100, 100 << 10);

/// An engine on its way to the I/O thread that will own it.
pub(super) type Delivery = (Arc<Lane>, Engine, usize);

/// Starts the thread that loads the model. What goes wrong goes to `fail`.
pub(super) fn start(
    shared: Arc<Shared>,
    options: ServeOptions,
    model: PathBuf,
    engines: Vec<oneshot::Sender<Delivery>>,
    fail: oneshot::Sender<Error>,
) -> Result<(), Error> {
    let run = move || {
        open_heap();
        match load(&shared, &options, &model, engines) {
            Ok(samples) => keep_asking(&shared, samples, options.check_every),
            Err(error) => {
                let _ = fail.send(error);
            }
        }
    };
    let thread = std::thread::Builder::new().name("samples".to_owned());
    thread.spawn(run).map(|_| ()).map_err(|source| Error::SetUp { what: "the loading thread", source })
}

/// Opens this thread's heap in a hundred steps instead of thousands.
///
/// glibc opens the heap of a thread other than the first page by page, with a system call each, and 2000 of them are a seventh of a start. What
/// was opened once stays open when it is free again; no memory is touched, and none is kept. Where allocators work otherwise this does nothing.
fn open_heap() {
    let (count, bytes) = HEAP;
    let blocks: Vec<Vec<u8>> = (0..count).map(|_| Vec::with_capacity(bytes)).collect();
    drop(std::hint::black_box(blocks));
}

#[tracing::instrument(name = "serve.load", skip_all)]
fn load(
    shared: &Shared,
    options: &ServeOptions,
    path: &Path,
    engines: Vec<oneshot::Sender<Delivery>>,
) -> Result<Samples, Error> {
    let started = Instant::now();
    let mut blueprint = Blueprint { source: source(options, path)?, fills: Vec::new() };
    let mut engine = blueprint.load(1)?;
    let unservable = |reason| Error::Unservable { path: path.to_owned(), reason };
    // A function has the signature that its package declares; a model has one of its own.
    let found = engine.signature().transpose().map_err(unservable)?;
    let is_function = found.is_none();
    let mut signature = found.unwrap_or_else(|| options.package.signature.clone());
    blueprint.fills =
        fills(&options.package.flags, &options.flags, &signature).map_err(|why| Error::Flags(vec![why]))?;
    engine.fill(blueprint.fills.clone());
    for (spec, fill) in signature.inputs.iter_mut().zip(&blueprint.fills) {
        spec.optional |= fill.is_some();
    }
    check_signature(&options.package.signature, &signature)
        .map_err(|reason| Error::Signature { path: path.to_owned(), reason })?;
    let version = options.package.version.as_str();
    let mut model = Model::new(&options.name, version, signature);
    model.also.clone_from(&options.also);
    if is_function {
        model.platform = PYTHON;
    }
    let holding: Vec<_> = options.package.samples_under(&options.flags).cloned().collect();
    let mut samples =
        Samples::new(&model, &holding).map_err(|source| Error::SetUp { what: "the samples' runtime", source })?;
    let known: Vec<_> = samples.inputs().cloned().collect();
    let (cost, cost_size) = warm_up(&mut engine, &model, known.first())
        .map_err(|reason| Error::WarmUp { path: path.to_owned(), reason })?;
    let merges = options.max_batch_rows > 1 && merges(options, &mut engine, &model.signature, &known);
    let small = std::fs::metadata(path).is_ok_and(|meta| meta.len() <= SMALL_BYTES);
    let fast = !is_function && cost <= FAST && (small || engines.len() == 1);
    let max_rows = if merges { options.max_batch_rows } else { 1 };
    let mut loaded = Loaded {
        openapi: http::openapi::document(&model, &options.package, &options.contracts).into(),
        model,
        lanes: Vec::new(),
        health: shared.health.clone(),
        worker: OnceLock::new(),
        blueprint,
        cost,
        cost_size,
        max_rows,
        queue: options.queue,
        load_time: Duration::ZERO,
    };
    if fast {
        loaded.lanes = deliver(&loaded, engine, engines)?;
    } else {
        let engines = match is_function {
            true => several(&loaded.blueprint, engine, workers(options))?,
            false => vec![in_threads(&loaded.blueprint, engine, engine_threads(options))?],
        };
        let worker = Worker::start(engines, options.queue, max_rows, shared.health.clone())?;
        loaded.worker = OnceLock::from(Ok(worker));
    }
    loaded.load_time = started.elapsed();
    tracing::info!(
        model = %loaded.model.name, version, run_micros = nanos(cost) / 1_000, merges, inline = fast,
        load_millis = u64::try_from(loaded.load_time.as_millis()).unwrap_or(0), "the model is loaded"
    );
    let loaded = shared.loaded.get_or_init(|| loaded);
    if let Some(outcome) = samples.ask(loaded) {
        shared.health.set_live(outcome);
    }
    shared.health.set_ready();
    pages::give_back();
    Ok(samples)
}

/// What runs the package: the engine's library and a model file, or a Python function.
fn source(options: &ServeOptions, path: &Path) -> Result<Source, Error> {
    let package = &options.package;
    let Runtime::Python { entry, timeout_seconds, .. } = &package.runtime else {
        let environment = load_library(&options.onnxruntime)?;
        return Ok(Source::Onnx { environment, path: path.to_owned(), share_weights: options.share_weights });
    };
    let reason = "no interpreter was named".to_owned();
    let interpreter = options.python.clone().ok_or(Error::Function { entry: entry.to_string(), reason })?;
    let absolute = std::path::absolute(path).map_err(|source| Error::SetUp { what: "the package's folder", source })?;
    Ok(Source::Python(Arc::new(Plan {
        interpreter,
        folder: absolute,
        entry: entry.clone(),
        signature: package.signature.clone(),
        flags: options.flags.clone(),
        parameters: serde_json::to_value(&package.parameters).unwrap_or_default(),
        timeout: Duration::from_secs(u64::from(*timeout_seconds)),
    })))
}

/// Whether requests may share a run: for a model it is tried, a function's package says so, and samples are held against that.
fn merges(options: &ServeOptions, engine: &mut Engine, signature: &Signature, known: &[Vec<Option<Tensor>>]) -> bool {
    let Runtime::Python { batch, .. } = options.package.runtime else {
        return verify::mergeable(engine, signature, known);
    };
    let rows = |(index, spec): (usize, &TensorSpec)| engine.fills(index) || spec.shape.first() == Some(&-1);
    if !batch || !signature.inputs.iter().enumerate().all(rows) {
        return false;
    }
    let seen = known.is_empty() || verify::mergeable(engine, signature, known);
    if !seen {
        tracing::warn!(
            "the function says that it takes batches, but rows of the samples got other answers together than alone: nothing is merged"
        );
    }
    seen
}

fn workers(options: &ServeOptions) -> usize {
    let said = match options.package.runtime {
        Runtime::Python { workers, .. } => workers,
        Runtime::Onnx { .. } | Runtime::Command { .. } | Runtime::None {} => 1,
    };
    usize::from(options.workers.unwrap_or(said)).clamp(1, 64)
}

fn several(blueprint: &Blueprint, first: Engine, count: usize) -> Result<Vec<Engine>, Error> {
    let further = (1..count).map(|_| blueprint.load(1));
    std::iter::once(Ok(first)).chain(further).collect()
}

fn in_threads(blueprint: &Blueprint, first: Engine, threads: usize) -> Result<Engine, Error> {
    if threads > 1 { blueprint.load(threads) } else { Ok(first) }
}

fn engine_threads(options: &ServeOptions) -> usize {
    match options.engine_threads {
        0 => std::thread::available_parallelism().map_or(1, usize::from),
        asked => asked,
    }
}

/// Gives each I/O thread an engine.
fn deliver(loaded: &Loaded, first: Engine, engines: Vec<oneshot::Sender<Delivery>>) -> Result<Vec<Arc<Lane>>, Error> {
    let mut first = Some(first);
    let mut lanes = Vec::with_capacity(engines.len());
    for receiver in engines {
        let engine = match first.take() {
            Some(engine) => engine,
            None => loaded.blueprint.load(1)?,
        };
        let lane = Arc::new(Lane::new(loaded.queue));
        // A thread that is gone is being shut down.
        let _ = receiver.send((lane.clone(), engine, loaded.max_rows));
        lanes.push(lane);
    }
    Ok(lanes)
}

/// Runs the model a few times; returns the time of a run, and the size of its inputs.
#[tracing::instrument(name = "serve.warm-up", level = "debug", skip_all)]
fn warm_up(
    engine: &mut Engine,
    model: &Model,
    sample: Option<&Vec<Option<Tensor>>>,
) -> Result<(Duration, usize), String> {
    let made_up;
    let inputs = match sample {
        Some(inputs) => inputs,
        None => {
            made_up = verify::made_up(&model.signature);
            &made_up
        }
    };
    // Made-up inputs may be refused for what they are (a category that nobody trained): the model ran all the same. What a function raises
    // does not tell whose fault it is.
    let is_function = engine.function().is_some();
    let may_be_refused = |fault| fault == Fault::Caller || (is_function && fault == Fault::Engine);
    let mut run = || match engine.run(inputs) {
        Err(error) if !(sample.is_none() && may_be_refused(error.fault)) => Err(error.message),
        _ => Ok(()),
    };
    run()?;
    let mut times: Vec<Duration> = Vec::new();
    let began = Instant::now();
    // Slow models are recognised by one run; the fastest of a few tells a fast model from a slow moment.
    while times.len() < 5 && (times.is_empty() || began.elapsed() < Duration::from_millis(5)) {
        let started = Instant::now();
        run()?;
        times.push(started.elapsed());
    }
    let cost = times.into_iter().min().unwrap_or_default();
    Ok((cost, size(inputs)))
}

/// Whether the model takes what its package says.
fn check_signature(said: &Signature, found: &Signature) -> Result<(), String> {
    if said.inputs.is_empty() && said.outputs.is_empty() {
        return Ok(());
    }
    for input in &said.inputs {
        match found.input(&input.name) {
            None => return Err(format!("it has no input `{}`", input.name)),
            Some(own) if own.datatype != input.datatype => {
                return Err(format!("its input `{}` is {} instead of {}", input.name, own.datatype, input.datatype));
            }
            Some(own) if own.shape.len() != input.shape.len() || !may_fit(&own.shape, &input.shape) => {
                return Err(format!(
                    "its input `{}` has the shape {:?} instead of {:?}",
                    input.name, own.shape, input.shape
                ));
            }
            Some(_) => {}
        }
    }
    match found.inputs.iter().find(|own| !own.optional && said.input(&own.name).is_none()) {
        Some(own) => Err(format!("it also takes `{}`", own.name)),
        None => Ok(()),
    }
}

/// Whether a shape fits both, if free axes are chosen well.
fn may_fit(one: &[i64], other: &[i64]) -> bool {
    let chosen: Vec<i64> =
        one.iter().zip(other).map(|(&one, &other)| if one < 0 { other.max(0) } else { one }).collect();
    shape_fits(other, &chosen)
}

/// Asks the samples on a cadence, for the life of the process.
fn keep_asking(shared: &Shared, mut samples: Samples, every: Duration) {
    let Some(loaded) = shared.loaded.get() else { return };
    // Nothing is ever sent: the receiver is a clock that can be waited on.
    let (_never, clock) = mpsc::channel::<()>();
    while !shared.health.is_draining() {
        let _ = clock.recv_timeout(every);
        // Once no worker comes up, it is known already why nothing is answered.
        if !shared.health.is_failing()
            && let Some(outcome) = samples.ask(loaded)
        {
            shared.health.set_live(outcome);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use modelyard_core::signature::Datatype;

    fn signature(name: &str, datatype: Datatype, shape: &[i64]) -> Signature {
        let input = TensorSpec { name: name.into(), datatype, shape: shape.to_vec(), optional: false };
        Signature { inputs: vec![input], outputs: vec![] }
    }

    #[test]
    fn a_model_that_is_not_what_its_package_says_is_refused() {
        let found = signature("x", Datatype::Fp32, &[-1, 4]);
        assert_eq!(check_signature(&found, &found), Ok(()));
        assert_eq!(check_signature(&signature("x", Datatype::Fp32, &[1, -1]), &found), Ok(()));
        assert!(
            check_signature(&signature("y", Datatype::Fp32, &[-1, 4]), &found).unwrap_err().contains("no input `y`")
        );
        assert!(
            check_signature(&signature("x", Datatype::Fp64, &[-1, 4]), &found)
                .unwrap_err()
                .contains("FP32 instead of FP64")
        );
        assert!(check_signature(&signature("x", Datatype::Fp32, &[-1, 5]), &found).unwrap_err().contains("shape"));
    }
}
