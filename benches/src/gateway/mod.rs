//! Gateways side by side: a 90/10 split with sticky sessions in front of the same trivial upstream.
//!
//! Each proxy has one core, upstream and load share the other. Rounds alternate, so that a slow phase of the machine meets all of them.

mod proxies;
mod sessions;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use clap::Args;
use serde::Serialize;

use crate::http1::Request;
use crate::load::{self, Plan, Summary};
use crate::machine::{LOAD_CORE, SERVER_CORE};
use crate::report::{self, Spread, Table, show};
use crate::upstream;
use proxies::Proxy;

const BODY: &str = r#"{"inputs":[{"name":"x","shape":[1,4],"datatype":"FP32","data":[5.1,3.5,1.4,0.2]}]}"#;
const ANSWER: &str = r#"{"model_name":"bench","outputs":[{"name":"label","datatype":"INT64","shape":[1],"data":[0]}]}"#;

/// Gateways side by side.
#[derive(Args)]
pub struct Options {
    /// Seconds per measurement.
    #[arg(long, default_value_t = 4.0)]
    seconds: f64,
    /// Rounds; each measures every gateway once.
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    /// Connections to measure at.
    #[arg(long, value_delimiter = ',', default_value = "1,64")]
    connections: Vec<usize>,
    /// The modelyard binary; by default the one beside this program.
    #[arg(long, value_name = "FILE")]
    modelyard: Option<PathBuf>,
    /// Every request is a first contact, and ours keeps no sessions.
    #[arg(long)]
    no_sessions: bool,
    /// Only these (direct, modelyard, haproxy, nginx).
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// File for the figures of every round.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// One measurement.
#[derive(Clone, Serialize)]
struct Measurement {
    round: usize,
    proxy: String,
    connections: usize,
    cpu_micros_per_request: f64,
    memory_bytes: u64,
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

/// Runs the comparison and prints it.
pub fn run(options: &Options) -> Result<()> {
    let folder = tempfile::tempdir()?;
    // Without a proxy the upstream takes the proxy's core, so that the path between the cores is the same.
    let alone = upstream::start(ANSWER.as_bytes(), SERVER_CORE)?;
    let upstreams = [upstream::start(ANSWER.as_bytes(), LOAD_CORE)?, upstream::start(ANSWER.as_bytes(), LOAD_CORE)?];
    let binary = crate::machine::modelyard(options.modelyard.as_deref())?;
    let (proxies, skipped) = start(options, &binary, alone, upstreams, folder.path())?;
    let mut measurements = Vec::new();
    for round in 0..=options.rounds {
        for &connections in &options.connections {
            for proxy in &proxies {
                let measurement = measure(proxy, round, connections, options)?;
                // Round 0 warms up: connections to the upstream, the allocator, the branch predictor.
                measurements.extend((round > 0).then_some(measurement));
            }
        }
        eprintln!("gateway: round {round} of {} done", options.rounds);
    }
    let versions = proxies.iter().map(|proxy| proxy.version.clone()).collect();
    let outcome = Outcome { machine: crate::machine::describe(), versions, skipped, measurements };
    report::print(&render(&outcome, options))?;
    report::save(options.json.as_deref(), &outcome)
}

/// Everything that is to be measured, started; and what is left out, with the reason.
fn start(
    options: &Options,
    binary: &Path,
    alone: SocketAddr,
    upstreams: [SocketAddr; 2],
    folder: &Path,
) -> Result<(Vec<Proxy>, Vec<String>)> {
    let wanted = |name: &str| options.only.is_empty() || options.only.iter().any(|only| only == name);
    let (mut proxies, mut skipped) = (Vec::new(), Vec::new());
    for name in ["direct", "modelyard", "haproxy", "nginx"].into_iter().filter(|name| wanted(name)) {
        if name == "direct" {
            proxies.push(Proxy::none(alone));
            continue;
        }
        let request = Request::json("/v2/models/bench/infer", BODY);
        match proxies::start(name, binary, upstreams, folder, &request, !options.no_sessions) {
            Ok(proxy) => proxies.push(proxy),
            Err(error) => skipped.push(format!("{name}: {error:#}")),
        }
    }
    anyhow::ensure!(!proxies.is_empty(), "nothing could be started: {}", skipped.join("; "));
    Ok((proxies, skipped))
}

fn measure(proxy: &Proxy, round: usize, connections: usize, options: &Options) -> Result<Measurement> {
    let request = Request::json("/v2/models/bench/infer", BODY);
    let seconds = if round == 0 { options.seconds / 4.0 } else { options.seconds };
    let requests = match proxy.is_gateway() && !options.no_sessions {
        true => sessions::requests(proxy.address, &request).with_context(|| proxy.name.clone())?,
        false => vec![request],
    };
    let mut plan = Plan::steady(proxy.address, requests, connections, seconds);
    plan.warm_up = std::time::Duration::ZERO; // so that processor time and requests are of the same span
    let before = proxy.cpu_seconds();
    let summary = load::run(plan, LOAD_CORE)?;
    let cpu = proxy.cpu_seconds() - before;
    anyhow::ensure!(summary.failed() == 0, "{} failed requests: {:?}", proxy.name, summary.failures);
    let cpu_micros_per_request = cpu * 1e6 / summary.requests.max(1) as f64;
    let memory_bytes = proxy.resident_bytes();
    Ok(Measurement { round, proxy: proxy.name.clone(), connections, cpu_micros_per_request, memory_bytes, summary })
}

fn render(outcome: &Outcome, options: &Options) -> String {
    let mut table = Table::new([
        "proxy",
        "connections",
        "requests/s",
        "p50 µs",
        "p99 µs",
        "p50 added µs",
        "p99 added µs",
        "CPU µs/request",
        "memory MB",
        "× HAProxy",
        "p99 × HAProxy",
        "CPU × HAProxy",
    ]);
    let mut names: Vec<&str> = Vec::new();
    for measurement in &outcome.measurements {
        if !names.contains(&measurement.proxy.as_str()) {
            names.push(&measurement.proxy);
        }
    }
    for &connections in &options.connections {
        for name in &names {
            table.row(row(outcome, name, connections));
        }
    }
    let mut text = format!("{}\n\n{}\n\n{}", outcome.machine, outcome.versions.join("; "), table.render());
    for skipped in &outcome.skipped {
        text.push_str(&format!("\nSkipped: {skipped}"));
    }
    text
}

fn row(outcome: &Outcome, name: &str, connections: usize) -> Vec<String> {
    let of = |proxy: &str| -> Vec<&Measurement> {
        let fits = |m: &&Measurement| m.proxy == proxy && m.connections == connections;
        outcome.measurements.iter().filter(fits).collect()
    };
    let mine = of(name);
    let spread = |figure: fn(&Measurement) -> f64| Spread::of(mine.iter().map(|m| figure(m)));
    let against = |other: &str, figure: fn(&Measurement, &Measurement) -> f64| {
        let others = of(other);
        let pairs = mine.iter().filter_map(|m| Some((*m, *others.iter().find(|o| o.round == m.round)?)));
        Spread::of(pairs.map(|(m, o)| figure(m, o)))
    };
    let added = against("direct", |m, o| m.summary.p50_micros - o.summary.p50_micros);
    let added_p99 = against("direct", |m, o| m.summary.p99_micros - o.summary.p99_micros);
    // What only a gateway has.
    let of_gateway = |text: String| if name == "direct" { "–".to_owned() } else { text };
    vec![
        name.to_owned(),
        connections.to_string(),
        show(spread(|m| m.summary.per_second), 0),
        show(spread(|m| m.summary.p50_micros), 0),
        show(spread(|m| m.summary.p99_micros), 0),
        of_gateway(show(added, 0)),
        of_gateway(show(added_p99, 0)),
        of_gateway(show(spread(|m| m.cpu_micros_per_request), 1)),
        of_gateway(show(spread(|m| m.memory_bytes as f64 / 1e6), 1)),
        show(against("haproxy", |m, o| m.summary.per_second / o.summary.per_second), 2),
        of_gateway(show(against("haproxy", |m, o| m.summary.p99_micros / o.summary.p99_micros), 2)),
        of_gateway(show(against("haproxy", |m, o| m.cpu_micros_per_request / o.cpu_micros_per_request), 2)),
    ]
}

/// Where a request for a Unix socket's peer is sent and answered.
pub(crate) fn ask_unix(socket: &Path, method: &str, path: &str, body: &str) -> Result<(u16, Vec<u8>)> {
    use std::io::Write as _;
    let mut stream = std::os::unix::net::UnixStream::connect(socket)
        .with_context(|| format!("nothing listens on {}", socket.display()))?;
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: gateway\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes())?;
    stream.write_all(body.as_bytes())?;
    let (answer, buffer) = crate::process::read_answer(&mut stream)?;
    Ok((answer.status, answer.body(&buffer)))
}
