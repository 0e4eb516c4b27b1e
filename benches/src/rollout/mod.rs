//! How long changes take: from deploy to first answer, from a verdict to the last request on the bad revision; memory at rest.
//!
//! Everything is driven as a user drives it: the binary, its JSON, the gateway's address. Each round uses a home of its own.

mod callers;
mod world;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use modelyard_core::event::{Event, EventBody};
use serde::Serialize;
use serde_json::Value;

use crate::machine;
use crate::report::{self, Spread, Table, show};
use callers::{Answered, Callers};
use world::World;

/// How long changes take.
#[derive(Args)]
pub struct Options {
    /// Rounds, each in a home of its own.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Requests per second during rollouts.
    #[arg(long, default_value_t = 400.0)]
    rate: f64,
    /// The modelyard binary; by default the one beside this program.
    #[arg(long, value_name = "FILE")]
    modelyard: Option<PathBuf>,
    /// The ONNX Runtime library; by default what modelyard finds itself.
    #[arg(long, value_name = "FILE")]
    onnxruntime: Option<PathBuf>,
    /// File for the figures of every round.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What one round measured.
#[derive(Serialize)]
struct Round {
    serve_to_first_answer_seconds: f64,
    up_seconds: f64,
    deploy_to_first_answer_seconds: f64,
    canary_seconds: f64,
    rollbacks: Vec<Rollback>,
    requests: u64,
    failed: u64,
    memory_bytes: Vec<(String, u64)>,
}

/// One bad version that was taken back.
#[derive(Serialize)]
struct Rollback {
    version: &'static str,
    cause: String,
    /// From the first answer by the bad revision to the verdict.
    detection_ms: f64,
    /// From the verdict to the last answer by the bad revision; negative if that was before.
    last_request_ms: f64,
    /// Requests that began after the verdict and were answered by the bad revision.
    requests_after_verdict: usize,
}

/// Runs the rounds and prints the medians.
pub fn run(options: &Options) -> Result<()> {
    let binary = machine::modelyard(options.modelyard.as_deref())?.canonicalize()?;
    let mut rounds = Vec::new();
    for number in 1..=options.rounds {
        rounds.push(round(options, World::new(&binary, options.onnxruntime.as_deref())?)?);
        eprintln!("rollout: round {number} of {} done", options.rounds);
    }
    report::print(&render(&rounds))?;
    report::save(options.json.as_deref(), &serde_json::json!({ "machine": machine::describe(), "rounds": rounds }))
}

fn round(options: &Options, mut world: World) -> Result<Round> {
    let serve_to_first_answer_seconds = world.serve("breast-cancer")?;
    let up_seconds = world.up()?;
    let folder = world::example("breast-cancer/v1");
    let start = Instant::now();
    world.json(&["deploy", &folder])?;
    world.until_answered("breast-cancer", Duration::from_secs(60))?;
    let deploy_to_first_answer_seconds = start.elapsed().as_secs_f64();
    world.settled("breast-cancer")?;
    let memory_bytes = world.memory_at_rest("breast-cancer")?;

    let callers = Callers::start(world.gateway(), "breast-cancer", options.rate)?;
    let start = Instant::now();
    let canary = ["--strategy", "canary", "--steps", "10,50,100", "--bake", "1s"];
    world.deploy("breast-cancer/v2", &canary, "promoted")?;
    let canary_seconds = start.elapsed().as_secs_f64();
    let mut rolled = Vec::new();
    for version in ["v3-errors", "v3-crash"] {
        let patient = ["--strategy", "canary", "--steps", "20,100", "--bake", "60s"];
        let outcome = world.deploy(&format!("breast-cancer/{version}"), &patient, "rolled-back")?;
        rolled.push((version, outcome));
    }
    let seen = callers.stop()?;
    let rollbacks = rolled
        .iter()
        .map(|(version, outcome)| rollback(&world, version, outcome, &seen.answers))
        .collect::<Result<_>>()?;
    world.down()?;
    let requests = seen.answers.len() as u64 + seen.failed;
    Ok(Round {
        serve_to_first_answer_seconds,
        up_seconds,
        deploy_to_first_answer_seconds,
        canary_seconds,
        rollbacks,
        requests,
        failed: seen.failed,
        memory_bytes,
    })
}

/// Joins the log with what callers saw.
fn rollback(world: &World, version: &'static str, outcome: &Value, answers: &[Answered]) -> Result<Rollback> {
    let id = outcome["rollout"].as_str().context("the outcome names no rollout")?;
    let events = world.events(id)?;
    let verdict =
        events.iter().find(|event| is_failure(event)).context("the log holds no failing verdict")?.at.0 as f64;
    let candidate = events.iter().find_map(|event| match &event.body {
        EventBody::RolloutStarted { candidate, .. } => Some(candidate.0),
        _ => None,
    });
    let candidate = candidate.context("the log does not say which revision was the candidate")?;
    let mine: Vec<&Answered> = answers.iter().filter(|answer| answer.revision == candidate).collect();
    ensure!(!mine.is_empty(), "the candidate {version} never answered a request");
    let first = mine.iter().map(|answer| answer.ended_ms).fold(f64::INFINITY, f64::min);
    let last = mine.iter().map(|answer| answer.ended_ms).fold(f64::NEG_INFINITY, f64::max);
    // The log has whole milliseconds: a request that began within the verdict's own is not counted against it.
    let requests_after_verdict = mine.iter().filter(|answer| answer.began_ms >= verdict + 1.0).count();
    let cause = outcome["cause"].as_str().unwrap_or("unknown").to_owned();
    Ok(Rollback {
        version,
        cause,
        detection_ms: verdict - first,
        last_request_ms: last - verdict,
        requests_after_verdict,
    })
}

fn is_failure(event: &Event) -> bool {
    matches!(&event.body, EventBody::Verdict { verdict, .. } if verdict == "fail")
}

fn render(rounds: &[Round]) -> String {
    let spread = |figure: &dyn Fn(&Round) -> f64, digits| show(Spread::of(rounds.iter().map(figure)), digits);
    let mut table = Table::new(["what", "median (min–max)"]);
    let mut row = |what: &str, figure: String| table.row(vec![what.to_owned(), figure]);
    row("`serve` of a small model until its first answer, s", spread(&|r| r.serve_to_first_answer_seconds, 3));
    row("`up --detach` until control plane and gateway answer, s", spread(&|r| r.up_seconds, 2));
    row(
        "`deploy` of a small model until its first answer at the gateway, s",
        spread(&|r| r.deploy_to_first_answer_seconds, 2),
    );
    row("canary 10, 50, 100 % with 1 s each, promoted, s", spread(&|r| r.canary_seconds, 2));
    let count = rounds.first().map_or(0, |round| round.rollbacks.len());
    for index in 0..count {
        let of =
            |figure: fn(&Rollback) -> f64, digits| spread(&|r| r.rollbacks.get(index).map_or(f64::NAN, figure), digits);
        let first = &rounds[0].rollbacks[index];
        let name = format!("{} ({})", first.version, first.cause);
        row(&format!("{name}: first bad answer to verdict, ms"), of(|r| r.detection_ms, 0));
        row(&format!("{name}: verdict to last answer by the bad revision, ms"), of(|r| r.last_request_ms, 1));
        row(
            &format!("{name}: requests on it that began after the verdict"),
            of(|r| r.requests_after_verdict as f64, 0),
        );
    }
    let processes = rounds.first().map_or(0, |round| round.memory_bytes.len());
    for index in 0..processes {
        let name = &rounds[0].memory_bytes[index].0;
        let megabytes = |r: &Round| r.memory_bytes.get(index).map_or(f64::NAN, |(_, bytes)| *bytes as f64 / 1e6);
        row(&format!("memory at rest: {name}, MB"), spread(&megabytes, 1));
    }
    row("requests", spread(&|r| r.requests as f64, 0));
    row("failed requests", spread(&|r| r.failed as f64, 0));
    format!("{}\n\n{}", machine::describe(), table.render())
}
