//! What shadows cost the caller: throughput and p99 with none, and with one that is healthy, hung, flooding or dead; and nginx `mirror` beside it.
//!
//! Two arrangements of two cores. Crowded: the gateway has one with all its threads; stable, shadows and load share the other. Spare: what
//! answers the caller (the gateway's thread for requests, stable, load) has one, and the other is the spare core, on which the gateway's threads
//! that ask and compare run, and the shadow. Two loads: a set rate, which leaves processor time to spare, and as fast as answers come, which leaves
//! none. Cases and arrangements alternate within a round, and ratios are taken within it.

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
use crate::machine::{LOAD_CORE, SERVER_CORE};
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

/// Who runs on which core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
enum Cores {
    Crowded,
    Spare,
}

impl Cores {
    const ALL: [Self; 2] = [Self::Spare, Self::Crowded];

    const fn name(self) -> &'static str {
        match self {
            Self::Crowded => "no spare core",
            Self::Spare => "a spare core",
        }
    }

    /// The core of stable and of the load.
    const fn callers(self) -> Option<usize> {
        match self {
            Self::Crowded => LOAD_CORE,
            Self::Spare => SERVER_CORE,
        }
    }

    /// The core of the gateway's threads that ask and compare.
    const fn shadows(self) -> Option<usize> {
        match self {
            Self::Crowded => SERVER_CORE,
            Self::Spare => LOAD_CORE,
        }
    }

    /// Whether the case can be arranged like that: nginx copies in the process that answers.
    const fn has(self, case: Case) -> bool {
        matches!(self, Self::Crowded) || !matches!(case, Case::NginxNone | Case::NginxMirror)
    }
}

/// One measurement.
#[derive(Clone, Serialize)]
struct Measurement {
    round: usize,
    cores: Cores,
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
    /// Stable on the load's core, and on the gateway's.
    stables: [SocketAddr; 2],
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
    let beside = upstream::start(ANSWER.as_bytes(), SERVER_CORE)?;
    let start = |mood| servers::start(mood, ANSWER.as_bytes(), LOAD_CORE);
    let healthy = start(Mood::Healthy)?;
    let binary = crate::machine::modelyard(options.modelyard.as_deref())?;
    let request = Request::json("/v2/models/bench/infer", BODY);
    let (nginx, mut skipped) = (Nginx::start(stable, healthy.address, folder.path(), &request), Vec::new());
    let nginx = nginx.map_err(|error| skipped.push(format!("nginx: {error:#}"))).ok();
    let mut stage = Stage {
        stables: [stable, beside],
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
            for cores in Cores::ALL {
                stage.ours.place_shadows(cores.shadows())?;
                for case in Case::ALL.into_iter().filter(|&case| cores.has(case)) {
                    if let Some(measurement) = measure(&mut stage, (cores, case), round, rate, options)? {
                        // Round 0 warms up.
                        measurements.extend((round > 0).then_some(measurement));
                    }
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
    (cores, case): (Cores, Case),
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
            let summary = load(address, request, (options, LOAD_CORE), seconds, rate).context("nginx")?;
            let cpu = nginx.cpu_seconds() - before.0;
            let sent = stage.healthy.requests.load(Ordering::Relaxed) - before.1;
            return Ok(Some(measurement((cores, case), round, rate, cpu, (sent, 0), summary)));
        }
    };
    let stable = match cores {
        Cores::Crowded => stage.stables[0],
        Cores::Spare => stage.stables[1],
    };
    stage.ours.publish(stable, shadow)?;
    let before = (stage.ours.cpu_seconds(), stage.ours.copies()?);
    let summary = load(stage.ours.address, request, (options, cores.callers()), seconds, rate).context(case.name())?;
    let cpu = stage.ours.cpu_seconds() - before.0;
    let copies = stage.ours.copies()?;
    let copies = (copies.0 - before.1.0, copies.1 - before.1.1);
    Ok(Some(measurement((cores, case), round, rate, cpu, copies, summary)))
}

fn load(
    address: SocketAddr,
    request: Request,
    (options, core): (&Options, Option<usize>),
    seconds: f64,
    rate: Option<f64>,
) -> Result<Summary> {
    let mut plan = Plan::steady(address, vec![request], options.connections, seconds);
    plan.warm_up = std::time::Duration::ZERO; // so that processor time, copies and requests are of the same span
    plan.rate = rate;
    let summary = load::run(plan, core)?;
    anyhow::ensure!(summary.failed() == 0, "{} failed requests: {:?}", summary.failed(), summary.failures);
    Ok(summary)
}

fn measurement(
    (cores, case): (Cores, Case),
    round: usize,
    rate: Option<f64>,
    cpu: f64,
    (sent, shed): (u64, u64),
    summary: Summary,
) -> Measurement {
    let cpu_micros_per_request = cpu * 1e6 / summary.requests.max(1) as f64;
    Measurement { round, cores, case, rate, cpu_micros_per_request, sent, shed, summary }
}

fn render(outcome: &Outcome, options: &Options) -> String {
    let mut text = format!("{}\n\n{}\n", outcome.machine, outcome.versions.join("; "));
    for (cores, rate) in Cores::ALL.into_iter().flat_map(|cores| [(cores, Some(options.rate)), (cores, None)]) {
        let load = rate.map_or_else(|| "as fast as answers come".to_owned(), |rate| format!("at {rate} requests/s"));
        let mut table = Table::new([
            format!("{}, {load}, {} connections", cores.name(), options.connections).as_str(),
            "requests/s",
            "p50 µs",
            "p99 µs",
            "copied",
            "CPU µs/request",
            "× requests/s without",
            "× p50 without",
            "× p99 without",
        ]);
        for case in Case::ALL.into_iter().filter(|&case| cores.has(case)) {
            table.row(row(outcome, (cores, case), rate));
        }
        text.push_str(&format!("\n{}", table.render()));
    }
    for skipped in &outcome.skipped {
        text.push_str(&format!("\nSkipped: {skipped}"));
    }
    text
}

fn row(outcome: &Outcome, (cores, case): (Cores, Case), rate: Option<f64>) -> Vec<String> {
    let all = || outcome.measurements.iter().filter(move |m| m.cores == cores && m.rate == rate);
    let of = |case: Case| all().filter(move |m| m.case == case);
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
