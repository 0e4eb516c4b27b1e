//! Benchmarks of Modelyard beside its peers: model servers, gateways, and the time that a rollback takes.
//!
//! Promises: peers are measured in the same run, in alternated rounds, on the same cores, with the same requests; every table gives the median
//! and the spread; a peer that is not there is named with the reason. The method is in `docs/performance.md`.

mod bare;
mod build;
mod engine;
mod gateway;
mod histogram;
mod http1;
mod judges;
mod load;
mod machine;
mod options;
mod process;
mod registry;
mod report;
mod rollout;
mod servers;
mod setup;
mod shadow;
mod upstream;

use anyhow::{Context as _, Result};
use clap::Parser as _;

use options::{Command, Options};

fn main() -> Result<()> {
    run(Options::parse().command.unwrap_or(Command::All))
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::All => ["servers", "gateway", "shadow", "rollout", "judges", "registry", "build"]
            .into_iter()
            .try_for_each(run_by_name),
        Command::Load(load) => run_load(load),
        Command::Upstream(upstream) => run_upstream(&upstream),
        Command::Bare(bare) => run_bare(&bare),
        Command::Engine(engine) => run_engine(&engine),
        Command::Servers(servers) => prepare().and_then(|()| servers::run(&servers)),
        Command::Gateway(gateway) => prepare().and_then(|()| gateway::run(&gateway)),
        Command::Shadow(shadow) => prepare().and_then(|()| shadow::run(&shadow)),
        Command::Rollout(rollout) => rollout::run(&rollout),
        Command::Judges(judges) => judges::run(&judges),
        Command::Build(build) => build::run(&build),
        Command::Registry(registry) => prepare().and_then(|()| registry::run(&registry)),
    }
}

/// What every comparison needs.
fn prepare() -> Result<()> {
    machine::ensure_two_cores()?;
    process::clean_up_when_told_to_stop()
}

/// One comparison with its defaults.
fn run_by_name(name: &str) -> Result<()> {
    report::print(&format!("## {name}\n"))?;
    let json = format!("target/bench/{name}.json");
    let options = Options::try_parse_from(["modelyard-bench", name, "--json", &json])?;
    options.command.map_or(Ok(()), run)
}

fn run_load(load: options::Load) -> Result<()> {
    let core = load.core;
    let summary = load::run(load.plan()?, core)?;
    report::print(&serde_json::to_string_pretty(&summary)?)?;
    anyhow::ensure!(summary.failed() == 0, "{} requests failed: {:?}", summary.failed(), summary.failures);
    Ok(())
}

fn run_upstream(upstream: &options::Upstream) -> Result<()> {
    upstream::serve_at(upstream.listen, upstream.body.as_bytes())
}

fn run_bare(bare: &options::Bare) -> Result<()> {
    let Some(model) = &bare.model else { return bare::serve(bare.listen, None) };
    let library = engine::library(bare.onnxruntime.as_deref(), None)?;
    bare::serve(bare.listen, Some((&library, model)))
}

fn run_engine(options: &options::Engine) -> Result<()> {
    process::pin(options.core)?;
    let library = engine::library(options.onnxruntime.as_deref(), None)?;
    let request = std::fs::read(&options.request)
        .with_context(|| format!("could not read the request {}", options.request.display()))?;
    let time = std::time::Duration::from_secs_f64(options.seconds);
    let figures = engine::measure(&library, &options.model, &request, time)?;
    report::print(&serde_json::to_string_pretty(&figures)?)
}
