//! What shadows cost the caller: throughput and p99 with none, and with one that is healthy, hung, flooding or dead; and nginx `mirror` beside it.
//!
//! One gateway process, pinned to one core with all its threads; stable, shadows and load share the other. Two loads: a set rate, which leaves
//! processor time to spare, and as fast as answers come, which leaves none. Cases alternate within a round, and ratios are taken within it.

mod peers;
mod servers;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::Ordering;

use anyhow::{Context as _, Result};
use clap::Args;
use serde::Serialize;

use crate::http1::Request;
use crate::load::{self, Plan, Summary};
use crate::machine::LOAD_CORE;
use crate::report::{self, Spread, Table, show};
use crate::upstream;
use peers::{Nginx, Ours};
use servers::{Mood, Shadow};

const BODY: &str = r#"{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[5.1,3.5,1.4,0.2]}]}"#;
const ANSWER: &str =
    r#"{"model_name":"bench","outputs":[{"name":"scores","datatype":"FP32","shape":[1,3],"data":[0.1,0.7,0.2]}]}"#;

/// What shadows cost the caller.
#[derive(Args)]
pub struct Options {
    /// Seconds per measurement.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Rounds; each measures every case once.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Connections.
    #[arg(long, default_value_t = 32)]
    connections: usize,
    /// Requests per second of the load that leaves time to spare.
    #[arg(long, default_value_t = 3000.0)]
    rate: f64,
    /// The modelyard binary; by default the one beside this program.
    #[arg(long, value_name = "FILE")]
    modelyard: Option<PathBuf>,
    /// File for the figures of every round.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// What is measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Case {
    None,
    Healthy,
    Hung,
    Flooding,
    Dead,
    NginxNone,
    NginxMirror,
}

impl Case {
    const ALL: [Self; 7] =
        [Self::None, Self::Healthy, Self::Hung, Self::Flooding, Self::Dead, Self::NginxNone, Self::NginxMirror];

    const fn name(self) -> &'static str {
        match self {
            Self::None => "modelyard, no shadow",
            Self::Healthy => "modelyard, healthy shadow, compared",
            Self::Hung => "modelyard, hung shadow",
            Self::Flooding => "modelyard, flooding shadow",
            Self::Dead => "modelyard, dead shadow",
            Self::NginxNone => "nginx, no mirror",
            Self::NginxMirror => "nginx `mirror`",
        }
    }

    /// What it is compared with.
    const fn base(self) -> Self {
        match self {
            Self::NginxNone | Self::NginxMirror => Self::NginxNone,
            _ => Self::None,
        }
    }
}

/// One measurement.
#[derive(Clone, Serialize)]
struct Measurement {
    round: usize,
    case: Case,
    /// Requests per second that were asked for; none is as fast as answers come.
    rate: Option<f64>,
    cpu_micros_per_request: f64,
    /// Copies that were sent, and shed.
    sent: u64,
    shed: u64,
    #[serde(flatten)]
    summary: Summary,
}

#[derive(Serialize)]
struct Outcome {
    machine: String,
    versions: Vec<String>,
    skipped: Vec<String>,
    measurements: Vec<Measurement>,
}

/// Everything that runs.
struct Stage {
    ours: Ours,
    nginx: Option<Nginx>,
    healthy: Shadow,
    hung: Shadow,
    flooding: Shadow,
    dead: SocketAddr,
}

/// Runs the comparison and prints it.
pub fn run(options: &Options) -> Result<()> {
    let folder = tempfile::tempdir()?;
    let stable = upstream::start(ANSWER.as_bytes(), LOAD_CORE)?;
    let start = |mood| servers::start(mood, ANSWER.as_bytes(), LOAD_CORE);
    let healthy = start(Mood::Healthy)?;
    let binary = crate::machine::modelyard(options.modelyard.as_deref())?;
    let request = Request::json("/v2/models/bench/infer", BODY);
    let (nginx, mut skipped) = (Nginx::start(stable, healthy.address, folder.path(), &request), Vec::new());
    let nginx = nginx.map_err(|error| skipped.push(format!("nginx: {error:#}"))).ok();
    let mut stage = Stage {
        ours: Ours::start(&binary, stable, folder.path(), &request)?,
        nginx,
        healthy,
        hung: start(Mood::Hung)?,
        flooding: start(Mood::Flooding)?,
        dead: crate::process::free_address()?,
    };
    let mut measurements = Vec::new();
    for round in 0..=options.rounds {
        for rate in [Some(options.rate), None] {
            for case in Case::ALL {
                if let Some(measurement) = measure(&mut stage, case, round, rate, options)? {
                    // Round 0 warms up.
                    measurements.extend((round > 0).then_some(measurement));
                }
            }
        }
        eprintln!("shadow: round {round} of {} done", options.rounds);
    }
    let versions = [Some(stage.ours.version.clone()), stage.nginx.map(|nginx| nginx.version.clone())];
    let versions = versions.into_iter().flatten().collect();
    let outcome = Outcome { machine: crate::machine::describe(), versions, skipped, measurements };
    report::print(&render(&outcome, options))?;
    report::save(options.json.as_deref(), &outcome)
}

fn measure(
    stage: &mut Stage,
    case: Case,
    round: usize,
    rate: Option<f64>,
    options: &Options,
) -> Result<Option<Measurement>> {
    let request = Request::json("/v2/models/bench/infer", BODY);
    let seconds = if round == 0 { options.seconds / 4.0 } else { options.seconds };
    let shadow = match case {
        Case::Healthy => Some(stage.healthy.address),
        Case::Hung => Some(stage.hung.address),
        Case::Flooding => Some(stage.flooding.address),
        Case::Dead => Some(stage.dead),
        Case::None => None,
        Case::NginxNone | Case::NginxMirror => {
            let Some(nginx) = &stage.nginx else { return Ok(None) };
            let address = if case == Case::NginxMirror { nginx.mirrored } else { nginx.plain };
            let before = (nginx.cpu_seconds(), stage.healthy.requests.load(Ordering::Relaxed));
            let summary = load(address, request, options, seconds, rate).context("nginx")?;
            let cpu = nginx.cpu_seconds() - before.0;
            let sent = stage.healthy.requests.load(Ordering::Relaxed) - before.1;
            return Ok(Some(measurement(case, round, rate, cpu, (sent, 0), summary)));
        }
    };
    stage.ours.publish(shadow)?;
    let before = (stage.ours.cpu_seconds(), stage.ours.copies()?);
    let summary = load(stage.ours.address, request, options, seconds, rate).context(case.name())?;
    let cpu = stage.ours.cpu_seconds() - before.0;
    let copies = stage.ours.copies()?;
    let copies = (copies.0 - before.1.0, copies.1 - before.1.1);
    Ok(Some(measurement(case, round, rate, cpu, copies, summary)))
}

fn load(address: SocketAddr, request: Request, options: &Options, seconds: f64, rate: Option<f64>) -> Result<Summary> {
    let mut plan = Plan::steady(address, vec![request], options.connections, seconds);
    plan.warm_up = std::time::Duration::ZERO; // so that processor time, copies and requests are of the same span
    plan.rate = rate;
    let summary = load::run(plan, LOAD_CORE)?;
    anyhow::ensure!(summary.failed() == 0, "{} failed requests: {:?}", summary.failed(), summary.failures);
    Ok(summary)
}

fn measurement(
    case: Case,
    round: usize,
    rate: Option<f64>,
    cpu: f64,
    (sent, shed): (u64, u64),
    summary: Summary,
) -> Measurement {
    let cpu_micros_per_request = cpu * 1e6 / summary.requests.max(1) as f64;
    Measurement { round, case, rate, cpu_micros_per_request, sent, shed, summary }
}

fn render(outcome: &Outcome, options: &Options) -> String {
    let mut text = format!("{}\n\n{}\n", outcome.machine, outcome.versions.join("; "));
    for rate in [Some(options.rate), None] {
        let load = rate.map_or_else(|| "as fast as answers come".to_owned(), |rate| format!("at {rate} requests/s"));
        let mut table = Table::new([
            format!("{load}, {} connections", options.connections).as_str(),
            "requests/s",
            "p50 µs",
            "p99 µs",
            "copied",
            "CPU µs/request",
            "× requests/s without",
            "× p50 without",
            "× p99 without",
        ]);
        for case in Case::ALL {
            table.row(row(outcome, case, rate));
        }
        text.push_str(&format!("\n{}", table.render()));
    }
    for skipped in &outcome.skipped {
        text.push_str(&format!("\nSkipped: {skipped}"));
    }
    text
}

fn row(outcome: &Outcome, case: Case, rate: Option<f64>) -> Vec<String> {
    let of = |case: Case| outcome.measurements.iter().filter(move |m| m.case == case && m.rate == rate);
    let spread = |figure: fn(&Measurement) -> f64| Spread::of(of(case).map(figure));
    let ratio = |figure: fn(&Measurement) -> f64| {
        if case == case.base() {
            return "1.00".to_owned();
        }
        let pairs = of(case).filter_map(|m| Some((m, of(case.base()).find(|base| base.round == m.round)?)));
        show(Spread::of(pairs.map(|(m, base)| figure(m) / figure(base))), 2)
    };
    let is_plain = case == case.base();
    vec![
        case.name().to_owned(),
        show(spread(|m| m.summary.per_second), 0),
        show(spread(|m| m.summary.p50_micros), 0),
        show(spread(|m| m.summary.p99_micros), 0),
        match is_plain {
            true => "–".to_owned(),
            false => format!("{} %", show(spread(|m| 100.0 * m.sent as f64 / m.summary.requests.max(1) as f64), 1)),
        },
        show(spread(|m| m.cpu_micros_per_request), 1),
        ratio(|m| m.summary.per_second),
        ratio(|m| m.summary.p50_micros),
        ratio(|m| m.summary.p99_micros),
    ]
}
