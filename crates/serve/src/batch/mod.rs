//! Merging requests into one run of the engine.
//!
//! Promises: nothing waits for company: whatever waits when the engine is free is merged, up to a limit of rows, and runs.
//! Only requests that agree in everything but their number of rows are merged, and only on models for which that was
//! seen to give the same answers (see `verify`). A merged run that fails is repeated request by request, so that no caller
//! pays for another's data.

mod inline;
pub(crate) mod verify;
mod worker;

pub(crate) use inline::Lane;
pub(crate) use worker::Worker;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Instant;

use tokio::sync::oneshot;

use crate::engine::{Engine, EngineError, Fault, Output, Scored};
use crate::refusal::{Kind, Refusal};
use crate::tensor::{Data, Tensor};

/// What a request gets back.
pub(crate) type Reply = Result<Slice, Refusal>;

/// One request on its way to the engine.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) inputs: Vec<Option<Tensor>>,
    /// Length of the first axis; 1 if there is none.
    pub(crate) rows: usize,
    pub(crate) queued: Instant,
    pub(crate) reply: oneshot::Sender<Reply>,
}

impl Job {
    pub(crate) fn new(inputs: Vec<Option<Tensor>>) -> (Self, oneshot::Receiver<Reply>) {
        let (reply, receiver) = oneshot::channel();
        let rows = rows(&inputs).unwrap_or(1);
        (Self { inputs, rows, queued: Instant::now(), reply }, receiver)
    }
}

/// The length of the first axis, if all inputs have the same.
pub(crate) fn rows(inputs: &[Option<Tensor>]) -> Option<usize> {
    let mut lengths = inputs.iter().flatten().map(|tensor| tensor.shape.first().copied());
    let first = lengths.next()??;
    lengths.all(|length| length == Some(first)).then(|| usize::try_from(first).ok())?
}

/// How much data there is: elements, or bytes of text.
pub(crate) fn size(inputs: &[Option<Tensor>]) -> usize {
    let of = |tensor: &Tensor| match &tensor.data {
        Data::Bytes(texts) => texts.iter().map(|text| text.len() + 1).sum(),
        numbers => numbers.len(),
    };
    inputs.iter().flatten().map(of).sum()
}

/// One request's part of a run.
#[derive(Clone, Debug)]
pub(crate) struct Slice {
    outputs: Arc<Vec<Output>>,
    /// First row and number of rows, if the run was merged.
    rows: Option<(usize, usize)>,
    pub(crate) queue_ns: u64,
    pub(crate) engine_ns: u64,
}

/// One output of one request: elements `start..end` of `data`.
#[derive(Debug)]
pub(crate) struct Part<'a> {
    pub(crate) shape: Vec<i64>,
    pub(crate) data: &'a Data,
    pub(crate) start: usize,
    pub(crate) end: usize,
}

impl Slice {
    /// Output `index` of the signature.
    pub(crate) fn output(&self, index: usize) -> Part<'_> {
        let Output { tensor, shared, .. } = &self.outputs[index];
        let mut shape = tensor.shape.clone();
        let (start, end) = match (self.rows, shape.first_mut()) {
            (Some((first, count)), Some(axis)) if !shared => {
                let step = tensor.data.len() / usize::try_from(*axis).unwrap_or(1).max(1);
                *axis = i64::try_from(count).unwrap_or(i64::MAX);
                (first * step, (first + count) * step)
            }
            _ => (0, tensor.data.len()),
        };
        Part { shape, data: &tensor.data, start, end }
    }

    /// How MLflow's scoring server would write output `index`.
    pub(crate) fn form(&self, index: usize) -> Option<&Scored> {
        self.outputs[index].form.as_ref()
    }
}

/// What an engine did so far. Written by its thread, read by anyone.
#[derive(Debug, Default)]
pub(crate) struct Runs {
    /// Runs that ended.
    pub(crate) ended: AtomicU64,
    /// Rows in them.
    pub(crate) rows: AtomicU64,
    /// Time that they took.
    pub(crate) busy_ns: AtomicU64,
    /// Whether one is going on.
    pub(crate) running: AtomicU64,
}

/// Runs `jobs`, merging up to `max_rows` rows, and replies to each.
pub(crate) fn run_all(engine: &mut Engine, jobs: Vec<Job>, max_rows: usize, runs: &Runs) {
    let mut waiting = jobs;
    // Nobody waits for these answers any more.
    waiting.retain(|job| !job.reply.is_closed());
    if max_rows <= 1 {
        return waiting.into_iter().for_each(|job| run_alone(engine, job, runs));
    }
    // Merging was tried with the flags' values only.
    let alone: Vec<Job> = waiting.extract_if(.., |job| engine.is_overridden(&job.inputs)).collect();
    alone.into_iter().for_each(|job| run_alone(engine, job, runs));
    while !waiting.is_empty() {
        let group = take_group(&mut waiting, max_rows);
        run_group(engine, group, runs);
    }
}

/// Takes the first job and all that may run with it.
fn take_group(waiting: &mut Vec<Job>, max_rows: usize) -> Vec<Job> {
    if waiting.len() == 1 {
        return std::mem::take(waiting);
    }
    let mut rows = 0;
    let taken: Vec<bool> = waiting
        .iter()
        .map(|job| {
            let fits = rows == 0 || (rows + job.rows <= max_rows && alike(&waiting[0], job));
            rows += if fits { job.rows } else { 0 };
            fits
        })
        .collect();
    if taken.iter().all(|&fits| fits) {
        return std::mem::take(waiting);
    }
    let mut taken = taken.into_iter();
    waiting.extract_if(.., |_| taken.next().unwrap_or(false)).collect()
}

/// Whether two requests agree in everything but their number of rows.
fn alike(one: &Job, other: &Job) -> bool {
    one.inputs.iter().zip(&other.inputs).all(|pair| match pair {
        (None, None) => true,
        (Some(one), Some(other)) => !one.shape.is_empty() && one.shape.get(1..) == other.shape.get(1..),
        _ => false,
    }) && rows(&one.inputs).is_some()
        && rows(&other.inputs).is_some()
}

fn run_group(engine: &mut Engine, group: Vec<Job>, runs: &Runs) {
    if group.len() == 1 {
        return group.into_iter().for_each(|job| run_alone(engine, job, runs));
    }
    let total = group.iter().map(|job| job.rows).sum();
    let started = Instant::now();
    let merged = merge(group.iter().map(|job| job.inputs.as_slice()), total);
    let outcome = timed(engine, &merged, total, runs);
    match outcome {
        Ok((outputs, engine_ns)) if splits(&outputs, total) => {
            let outputs = Arc::new(outputs);
            let mut first = 0;
            for job in group {
                let queue_ns = nanos(started.saturating_duration_since(job.queued));
                let slice = Slice { outputs: outputs.clone(), rows: Some((first, job.rows)), queue_ns, engine_ns };
                first += job.rows;
                let _ = job.reply.send(Ok(slice));
            }
        }
        // Whoever was in it would only wait for the next worker to be lost too.
        Err(error) if matches!(error.fault, Fault::TimedOut | Fault::Lost | Fault::Gone) => {
            group.into_iter().for_each(|job| {
                let _ = job.reply.send(Err(refusal(&error)));
            })
        }
        Ok(_) | Err(_) => group.into_iter().for_each(|job| run_alone(engine, job, runs)),
    }
}

/// Whether every output has a row for each row of the inputs.
pub(crate) fn splits(outputs: &[Output], rows: usize) -> bool {
    outputs.iter().all(|output| {
        output.shared || output.tensor.shape.first().is_some_and(|&axis| usize::try_from(axis) == Ok(rows))
    })
}

fn run_alone(engine: &mut Engine, job: Job, runs: &Runs) {
    let queue_ns = nanos(job.queued.elapsed());
    let reply = match timed(engine, &job.inputs, job.rows, runs) {
        Ok((outputs, engine_ns)) => Ok(Slice { outputs: Arc::new(outputs), rows: None, queue_ns, engine_ns }),
        Err(error) => Err(refusal(&error)),
    };
    let _ = job.reply.send(reply);
}

fn refusal(error: &EngineError) -> Refusal {
    match error.fault {
        Fault::Caller => Refusal::invalid(format!("the model cannot use these inputs: {}", error.message)),
        Fault::Engine => Refusal::new(Kind::Engine, format!("the engine failed: {}", error.message)),
        Fault::Lost => Refusal::new(Kind::Engine, error.message.as_str()),
        Fault::TimedOut => Refusal::new(Kind::EngineTooSlow, error.message.as_str()),
        Fault::Gone => Refusal::new(Kind::Unavailable, format!("{}; try again in a moment", error.message)),
    }
}

fn timed(
    engine: &mut Engine,
    inputs: &[Option<Tensor>],
    rows: usize,
    runs: &Runs,
) -> Result<(Vec<Output>, u64), EngineError> {
    runs.running.store(1, Relaxed);
    let started = Instant::now();
    let outcome = engine.run(inputs);
    let took = nanos(started.elapsed());
    runs.running.store(0, Relaxed);
    // One thread writes these, so a load and a store will do.
    runs.ended.store(runs.ended.load(Relaxed) + 1, Relaxed);
    runs.rows.store(runs.rows.load(Relaxed) + rows as u64, Relaxed);
    runs.busy_ns.store(runs.busy_ns.load(Relaxed) + took, Relaxed);
    outcome.map(|outputs| (outputs, took))
}

/// Joins the rows of requests that are alike.
pub(crate) fn merge<'a>(
    requests: impl Iterator<Item = &'a [Option<Tensor>]> + Clone,
    total: usize,
) -> Vec<Option<Tensor>> {
    let Some(first) = requests.clone().next() else { return Vec::new() };
    let join = |(index, tensor): (usize, &Option<Tensor>)| {
        let tensor = tensor.as_ref()?;
        let per_row = tensor.data.len() / usize::try_from(*tensor.shape.first()?).ok()?.max(1);
        let mut data = empty_like(&tensor.data, per_row * total);
        for request in requests.clone() {
            // Requests that are alike have the same inputs, of the same datatypes.
            let appended = request[index].as_ref().is_some_and(|more| data.append(&more.data));
            debug_assert!(appended, "merged requests are alike");
        }
        let mut shape = tensor.shape.clone();
        shape[0] = i64::try_from(total).unwrap_or(i64::MAX);
        Some(Tensor { shape, data })
    };
    first.iter().enumerate().map(join).collect()
}

fn empty_like(data: &Data, capacity: usize) -> Data {
    macro_rules! same {
        ($($variant:ident),*) => { match data { $(Data::$variant(_) => Data::$variant(Vec::with_capacity(capacity)),)* } };
    }
    same!(Bool, Uint8, Uint16, Uint32, Uint64, Int8, Int16, Int32, Int64, Fp16, Bf16, Fp32, Fp64, Bytes)
}

pub(crate) fn nanos(duration: std::time::Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(rows: i64, columns: i64) -> Job {
        let data = Data::zeros(modelyard_core::signature::Datatype::Fp32, usize::try_from(rows * columns).unwrap());
        Job::new(vec![Some(Tensor { shape: vec![rows, columns], data })]).0
    }

    #[test]
    fn only_jobs_that_are_alike_run_together_up_to_the_limit() {
        let mut waiting = vec![job(1, 4), job(2, 4), job(1, 5), job(9, 4), job(1, 4)];
        let sizes = |group: &[Job]| group.iter().map(|job| job.rows).collect::<Vec<_>>();
        assert_eq!(sizes(&take_group(&mut waiting, 8)), [1, 2, 1]);
        assert_eq!(sizes(&take_group(&mut waiting, 8)), [1], "another number of columns");
        assert_eq!(sizes(&take_group(&mut waiting, 8)), [9], "a job above the limit runs alone");
        assert!(waiting.is_empty());
    }

    #[test]
    fn merged_rows_are_found_again() {
        let tensor = |data: Vec<i64>, shape: Vec<i64>| Output {
            tensor: Tensor { shape, data: Data::Int64(data) },
            shared: false,
            form: None,
        };
        let labels = Output { shared: true, ..tensor(vec![7, 8], vec![2]) };
        let outputs = vec![tensor((0..6).collect(), vec![3, 2]), labels];
        assert!(splits(&outputs, 3) && !splits(&outputs, 2));
        let slice = Slice { outputs: Arc::new(outputs), rows: Some((1, 2)), queue_ns: 0, engine_ns: 0 };
        let part = slice.output(0);
        assert_eq!((part.shape, part.start, part.end), (vec![2, 2], 2, 6));
        assert_eq!(slice.output(1).shape, [2]);
    }

    #[test]
    fn rows_must_agree() {
        let tensor =
            |rows| Some(Tensor { shape: vec![rows], data: Data::Int64(vec![0; usize::try_from(rows).unwrap()]) });
        assert_eq!(rows(&[tensor(2), None, tensor(2)]), Some(2));
        assert_eq!(rows(&[tensor(2), tensor(3)]), None);
        assert_eq!(rows(&[Some(Tensor { shape: vec![], data: Data::Bool(vec![true]) })]), None);
    }
}
