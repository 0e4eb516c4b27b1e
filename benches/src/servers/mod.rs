//! Model servers side by side: the same model, each server on one core, the load on another.
//!
//! All servers run at once; those that are not asked sleep. Rounds alternate, so that a slow phase of the machine meets all of them.

mod peers;
mod table;

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use clap::Args;
use serde::Serialize;

use crate::http1::Request;
use crate::load::{self, Plan, Summary};
use crate::machine::{self, LOAD_CORE};
use crate::{engine, report, setup};
use peers::{Context, Server};

/// Model servers side by side.
#[derive(Args)]
pub struct Options {
    /// Seconds per measurement.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Rounds; each measures every server once.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Connections to measure at.
    #[arg(long, value_delimiter = ',', default_value = "1,32,128")]
    connections: Vec<usize>,
    /// Models: forest, mlp, digits (sixteen rows per request), wide (3 072 columns), minilm (a transformer).
    #[arg(long, value_delimiter = ',', default_value = "forest,mlp,digits,wide,minilm")]
    models: Vec<String>,
    /// Only these servers: constant, bare, modelyard, triton, fastapi, mlserver, kserve, mlflow, litserve, bentoml, ray.
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// The modelyard binary; by default the one beside this program.
    #[arg(long, value_name = "FILE")]
    modelyard: Option<PathBuf>,
    /// Folder for the peers' environments and the models.
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    cache: PathBuf,
    /// File for the figures of every round.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// One measurement.
#[derive(Serialize)]
pub struct Measurement {
    model: String,
    server: String,
    form: &'static str,
    round: usize,
    connections: usize,
    #[serde(flatten)]
    summary: Summary,
}

/// What one server costs, whatever it is asked.
#[derive(Serialize)]
pub struct Cost {
    model: String,
    server: String,
    first_answer_seconds: Vec<f64>,
    /// Pages that several processes map are divided among them.
    memory_bytes: u64,
    /// Pages that several processes map count whole.
    resident_bytes: u64,
}

/// Everything that was measured.
#[derive(Serialize)]
pub struct Outcome {
    machine: String,
    skipped: Vec<String>,
    engine: Vec<(String, engine::Figures)>,
    costs: Vec<Cost>,
    measurements: Vec<Measurement>,
}

/// Runs the comparison and prints it.
pub fn run(options: &Options) -> Result<()> {
    let folder = tempfile::tempdir()?;
    std::fs::create_dir_all(&options.cache)?;
    let cache = options.cache.canonicalize()?;
    let modelyard = machine::modelyard(options.modelyard.as_deref())?.canonicalize()?;
    let library = peers::library(&cache)?;
    let mut outcome = Outcome {
        machine: machine::describe(),
        skipped: Vec::new(),
        engine: Vec::new(),
        costs: Vec::new(),
        measurements: Vec::new(),
    };
    report::print(&format!("{}\n", outcome.machine))?;
    for name in &options.models {
        let model = setup::model(&cache, name)?;
        let request = std::fs::read(model.join("request.json")).context("the model has no request")?;
        let request = serde_json::from_slice(&request)?;
        let (modelyard, cache, library) = (modelyard.clone(), cache.clone(), library.clone());
        let context = Context { modelyard, cache, folder: folder.path().to_path_buf(), model, library, request };
        measure_model(options, name, &context, &mut outcome)?;
        // At once: a long run that is cut short has still said what it measured.
        report::print(&table::render(&outcome, name, &options.connections))?;
    }
    outcome.skipped.iter().try_for_each(|skipped| report::print(&format!("Skipped: {skipped}")))?;
    report::save(options.json.as_deref(), &outcome)
}

fn measure_model(options: &Options, model: &str, context: &Context, outcome: &mut Outcome) -> Result<()> {
    outcome.engine.push((model.to_owned(), engine_alone(context, options.seconds)?));
    let mut servers = Vec::new();
    let mut starts: Vec<(String, Vec<f64>)> = Vec::new();
    for name in peers::NAMES.iter().filter(|name| peers::is_wanted(name, &options.only)) {
        match repeated_start(name, context) {
            Ok((server, seconds)) => {
                servers.push(server);
                starts.push(((*name).to_owned(), seconds));
            }
            Err(error) => outcome.skipped.push(format!("{name} with {model}: {error:#}")),
        }
    }
    for round in 0..=options.rounds {
        for &connections in &options.connections {
            for server in &servers {
                let forms = [("JSON", Some(&server.json)), ("binary", server.binary.as_ref())];
                for (form, request) in forms.into_iter().filter_map(|(form, request)| Some((form, request?))) {
                    let seconds = if round == 0 { options.seconds / 4.0 } else { options.seconds };
                    let summary = measure(server, request, connections, seconds)?;
                    let (model, server) = (model.to_owned(), server.name.clone());
                    let measurement = Measurement { model, server, form, round, connections, summary };
                    outcome.measurements.extend((round > 0).then_some(measurement));
                }
            }
        }
        eprintln!("servers: {model}: round {round} of {} done", options.rounds);
    }
    for (server, (name, first_answer_seconds)) in servers.iter().zip(starts) {
        let (memory_bytes, resident_bytes) = (server.process.resident_bytes(), server.process.resident_bytes_alone());
        let (model, server) = (model.to_owned(), name);
        outcome.costs.push(Cost { model, server, first_answer_seconds, memory_bytes, resident_bytes });
    }
    Ok(())
}

/// Starts a server three times, alone each time; the last one stays.
fn repeated_start(name: &str, context: &Context) -> Result<(Server, Vec<f64>)> {
    let mut seconds = Vec::new();
    for _ in 0..2 {
        seconds.push(peers::start(name, context)?.first_answer.as_secs_f64());
    }
    let server = peers::start(name, context)?;
    seconds.push(server.first_answer.as_secs_f64());
    Ok((server, seconds))
}

/// The engine in a loop, in a process of its own on the servers' core.
fn engine_alone(context: &Context, seconds: f64) -> Result<engine::Figures> {
    let mut command = std::process::Command::new(std::env::current_exe()?);
    command.arg("engine").arg("--model").arg(context.model.join("model.onnx"));
    command.arg("--request").arg(context.model.join("request.json")).arg("--onnxruntime").arg(&context.library);
    command.args(["--core", "0", "--seconds", &seconds.to_string()]);
    let output = command.output()?;
    anyhow::ensure!(output.status.success(), "the engine alone failed: {}", String::from_utf8_lossy(&output.stderr));
    Ok(serde_json::from_slice(&output.stdout)?)
}

fn measure(server: &Server, request: &Request, connections: usize, seconds: f64) -> Result<Summary> {
    let plan = Plan::steady(server.address, vec![request.clone()], connections, seconds);
    let summary = load::run(plan, LOAD_CORE)?;
    anyhow::ensure!(summary.failed() == 0, "{} failed requests: {:?}", server.name, summary.failures);
    Ok(summary)
}
