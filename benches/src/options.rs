//! The benchmark's command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{Args, Parser, Subcommand};

use crate::http1::Request;
use crate::load::{Plan, Stop};

/// Benchmarks of Modelyard beside its peers.
#[derive(Parser)]
pub struct Options {
    /// What to measure; everything if nothing is named.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What to measure.
#[derive(Subcommand)]
pub enum Command {
    /// Model servers, gateways, shadows, rollouts, judges, registries and builds, one after the other; figures of every round go to `target/bench/*.json`.
    All,
    /// Load one HTTP/1.1 address and print what was measured as JSON; exit 1 if a request failed.
    Load(Load),
    /// Answer a constant as fast as a socket allows.
    Upstream(Upstream),
    /// Serve a model with hyper and the engine alone, or a constant: the limits.
    Bare(Bare),
    /// Call the engine in a loop.
    Engine(Engine),
    /// Model servers side by side: modelyard, Triton, FastAPI, MLServer, KServe (MLflow, LitServe, BentoML and Ray Serve by name), and the limits.
    Servers(crate::servers::Options),
    /// How long changes take: deploy to first answer, verdict to the last request on the bad revision; memory at rest.
    Rollout(crate::rollout::Options),
    /// Gateways side by side: modelyard, HAProxy, nginx.
    Gateway(crate::gateway::Options),
    /// What shadows cost the caller: healthy, hung, flooding, dead; nginx `mirror` beside it.
    Shadow(crate::shadow::Options),
    /// Error rates and sample sizes of judges by simulation: ours, the fixed-size test, Kayenta's, Flagger's; delay and false alarms of the infrastructure analysis.
    Judges(crate::judges::Options),
    /// Registries side by side: modelyard, Debian's `docker-registry`, zot; the limits of SHA-256 and of the disk.
    Registry(crate::registry::Options),
    /// Building a large package, the same again, and a wheel; SHA-256, `python -m build` and flit beside them.
    Build(crate::build::Options),
}

/// Load one address.
#[derive(Args)]
pub struct Load {
    /// Where to, for example 127.0.0.1:8080.
    pub address: SocketAddr,
    /// Path.
    #[arg(default_value = "/")]
    pub path: String,
    /// File with the request's body; a JSON list of objects with `request` (as the examples' traffic.json) is sent in turn.
    #[arg(long, value_name = "FILE")]
    pub body: Option<PathBuf>,
    /// Extra header, `Name: value`.
    #[arg(long = "header", value_name = "HEADER")]
    pub headers: Vec<String>,
    /// Connections at once.
    #[arg(long, short, default_value_t = 32)]
    pub connections: usize,
    /// A new connection for each request.
    #[arg(long)]
    pub fresh: bool,
    /// How long, in seconds.
    #[arg(long, default_value_t = 5.0)]
    pub seconds: f64,
    /// How many requests, instead of how long.
    #[arg(long, conflicts_with = "seconds")]
    pub count: Option<u64>,
    /// Requests per second over all connections; none sends as fast as answers come.
    #[arg(long)]
    pub rate: Option<f64>,
    /// Seconds at the start that are not counted.
    #[arg(long, default_value_t = 0.0)]
    pub warm_up: f64,
    /// Seconds that a request may take.
    #[arg(long, default_value_t = 30.0)]
    pub timeout: f64,
    /// Core to run on.
    #[arg(long)]
    pub core: Option<usize>,
}

impl Load {
    /// The plan that these options describe.
    pub fn plan(self) -> Result<Plan> {
        let stop = self.count.map_or(Stop::After(Duration::from_secs_f64(self.seconds)), Stop::Count);
        Ok(Plan {
            address: self.address,
            requests: self.requests()?,
            connections: self.connections,
            fresh: self.fresh,
            stop,
            rate: self.rate,
            warm_up: Duration::from_secs_f64(self.warm_up),
            timeout: Duration::from_secs_f64(self.timeout),
        })
    }

    fn requests(&self) -> Result<Vec<Request>> {
        let bodies = match &self.body {
            Some(file) => bodies(&std::fs::read(file).with_context(|| format!("could not read {}", file.display()))?),
            None => Vec::new(),
        };
        let mut requests: Vec<Request> = bodies.into_iter().map(|body| Request::json(&self.path, body)).collect();
        if requests.is_empty() {
            requests.push(Request::get(&self.path));
        }
        for header in &self.headers {
            let (name, value) = header.split_once(':').with_context(|| format!("`{header}` is not `Name: value`"))?;
            let pair = (name.trim().to_owned(), value.trim().to_owned());
            requests.iter_mut().for_each(|request| request.headers.push(pair.clone()));
        }
        Ok(requests)
    }
}

/// The bodies in a file: of a list of `{"request": …}` each request, of anything else the file itself.
pub fn bodies(file: &[u8]) -> Vec<Vec<u8>> {
    let rows: Option<Vec<serde_json::Value>> = serde_json::from_slice(file).ok();
    let rows =
        rows.map(|rows| rows.iter().filter_map(|row| row.get("request")).map(|r| r.to_string().into_bytes()).collect());
    rows.filter(|rows: &Vec<_>| !rows.is_empty()).unwrap_or_else(|| vec![file.to_vec()])
}

/// A constant answer.
#[derive(Args)]
pub struct Upstream {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:9100")]
    pub listen: SocketAddr,
    /// What to answer.
    #[arg(long, default_value = "{\"model_name\":\"constant\",\"outputs\":[]}")]
    pub body: String,
}

/// hyper and the engine alone.
#[derive(Args)]
pub struct Bare {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:9101")]
    pub listen: SocketAddr,
    /// ONNX file; none answers a constant.
    #[arg(long, value_name = "FILE")]
    pub model: Option<PathBuf>,
    /// ONNX Runtime library.
    #[arg(long, value_name = "FILE")]
    pub onnxruntime: Option<PathBuf>,
}

/// The engine in a loop.
#[derive(Args)]
pub struct Engine {
    /// ONNX file.
    #[arg(long, value_name = "FILE")]
    pub model: PathBuf,
    /// Request in the Open Inference Protocol's JSON form.
    #[arg(long, value_name = "FILE")]
    pub request: PathBuf,
    /// ONNX Runtime library.
    #[arg(long, value_name = "FILE")]
    pub onnxruntime: Option<PathBuf>,
    /// How long, in seconds.
    #[arg(long, default_value_t = 3.0)]
    pub seconds: f64,
    /// Core to run on.
    #[arg(long)]
    pub core: Option<usize>,
}
