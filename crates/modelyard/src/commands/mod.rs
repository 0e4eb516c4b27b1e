//! The commands, one file each: arguments as clap reads them, and what is done with them.

mod alias;
mod alternative;
mod artefacts;
mod attest;
mod base;
mod bundle;
mod contract;
mod demo;
pub mod deploy;
mod diff;
pub mod down;
mod drift;
mod env;
mod export;
mod feedback;
mod first;
mod flags;
mod foreseen;
mod freeze;
mod gateway;
mod gc;
mod history;
mod image;
mod import;
mod inspect;
mod instance;
mod lock;
mod logs;
mod measure;
mod models;
mod new;
mod onnxruntime;
mod orders;
pub mod package;
mod publish;
mod rebuild;
mod reference;
mod registry;
mod rehearse;
mod report;
mod rollback;
mod sbom;
mod serve;
pub mod sign;
mod standalone;
mod status;
mod tag;
mod target;
pub mod token;
mod traffic;
mod transfer;
pub mod up;
mod upgrade_gateway;
mod verify;
mod versions;
mod vm;
mod watch;
mod yank;

use clap::Subcommand;

use crate::cli::Cli;
use crate::context::Context;
use crate::exit::{Exit, Failed};

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the main job on the examples: package, serve, replace under traffic, take a bad version back.
    Demo(demo::Demo),
    /// Scaffold a model folder: `modelyard.toml`, a model card, samples.
    New(new::New),
    /// Build a package from a model folder.
    Package(package::Package),
    /// Pin what a Python package needs, with hashes, in its `modelyard.lock`; uv resolves.
    Lock(lock::Lock),
    /// Upload wheels and source distributions to a Python package index.
    Publish(publish::Publish),
    /// Make a package of a model that another tool keeps: MLflow.
    Import(import::Import),
    /// Write what became of a service's revisions to where another tool keeps models: MLflow.
    Export(export::Export),
    /// Show what a package is.
    Inspect(inspect::Inspect),
    /// List the models of the local registry.
    Models(models::Models),
    /// List the versions of a model.
    Versions(versions::Versions),
    /// Let an alias point to a version.
    Alias(alias::Alias),
    /// Tag a model or a version: free texts by name.
    Tag(tag::Tag),
    /// Withdraw a version: nothing new is deployed from it, and what runs goes on.
    Yank(yank::Yank),
    /// Tell what a package is made of, as a CycloneDX bill of materials.
    Sbom(sbom::Sbom),
    /// Show what differs between two packages.
    Diff(diff::Diff),
    /// Sign a package so that cosign understands it, or make a pair of keys.
    Sign(sign::Sign),
    /// State where a package comes from, signed: source, builder, inputs. The folder is packaged again, and must give the same digest.
    Attest(attest::Attest),
    /// Read every byte of a package, compare digests, and check who signed it.
    Verify(verify::Verify),
    /// Set and list what environments demand of a package, and their machines.
    Env(env::Env),
    /// Make, list and revoke tokens: who may do what.
    Token(token::Token),
    /// Push a package to any OCI registry, or as a bundle to GitLab's packages, a raw repository of Nexus, a release on GitHub.
    Push(transfer::Push),
    /// Pull a package from any OCI registry, from GitLab, Nexus or GitHub.
    Pull(transfer::Pull),
    /// Carry packages in one file to where no network leads, and back.
    #[command(subcommand)]
    Bundle(bundle::Bundle),
    /// Serve the registry alone: any OCI client can push to it and pull from it.
    Registry(registry::Registry),
    /// Remove blobs of the registry that no version and no manifest refers to, and old versions by rule.
    Gc(gc::Gc),
    /// Serve one model, nothing else.
    Serve(serve::Serve),
    /// Start control plane and gateway on this machine.
    Up(up::Up),
    /// Stop everything that `up` started.
    Down(down::Down),
    /// Start a rollout, from a package or a `service.toml`.
    Deploy(deploy::Deploy),
    /// Show what runs.
    Status(status::Status),
    /// Watch a service live.
    Watch(watch::Watch),
    /// Show what a service's instances wrote.
    Logs(logs::Logs),
    /// Show how far a service's inputs and outputs have moved from their reference.
    Drift(drift::Drift),
    /// Show a service's revisions and rollouts.
    History(history::History),
    /// Tell a rollout as an activity report.
    Report(report::Report),
    /// Play a rollout before production: with described traffic and faults, strategy by strategy.
    Rehearse(rehearse::Rehearse),
    /// Play requests against a service or a package, and tell how fast and how well it answers.
    Traffic(traffic::Traffic),
    /// Post true labels or rewards from a file, joined to earlier answers by request id.
    Feedback(feedback::Feedback),
    /// Show a service's flags, explain one, or set a definition in flagd's format.
    Flags(flags::Flags),
    /// Let a rollout go on at once: to the next step, or out of a wait for a person.
    Promote(orders::Promote),
    /// Say yes to a rollout that waits for a person.
    Approve(orders::Approve),
    /// Hold a rollout where it is. Failures still take the candidate back.
    Pause(orders::Steer),
    /// Let a paused rollout go on.
    Resume(orders::Steer),
    /// Return a service to its stable revision.
    Abort(orders::Abort),
    /// Try another revision beside a candidate that is held, as shadow or with a small share.
    Try(alternative::Try),
    /// Bar deploys of a service for a reason, or let them in again; what runs goes on.
    Freeze(freeze::Freeze),
    /// Return a service to an earlier revision.
    Rollback(rollback::Rollback),
    /// Replace the gateway by this version without failing a request.
    UpgradeGateway(upgrade_gateway::UpgradeGateway),
    /// The gateway's own process.
    #[command(hide = true)]
    Gateway(gateway::Gateway),
    /// The supervisor of one instance.
    #[command(hide = true)]
    Instance(instance::Instance),
    /// The far side of the target `ssh`.
    #[command(hide = true)]
    Target(target::Target),
    /// Print where the ONNX Runtime library is; it is fetched if there is none.
    #[command(hide = true, name = "onnxruntime")]
    OnnxRuntime(onnxruntime::OnnxRuntime),
    /// Write generated parts of the reference.
    #[command(hide = true, alias = "schema")]
    Reference(reference::Reference),
}

/// Calls the command.
pub fn run(cli: Cli) -> miette::Result<Exit> {
    let context = Context::new(cli.home, cli.output)?;
    let context = &context;
    // Programs that go on set up a log of their own; of the others it is told only when it is asked for.
    let goes_on = matches!(
        cli.command,
        Command::Up(_) | Command::Registry(_) | Command::Gateway(_) | Command::Serve(_) | Command::Instance(_)
    );
    if !goes_on && std::env::var_os("MODELYARD_LOG").is_some() {
        log(context, None)?;
    }
    match cli.command {
        Command::Demo(command) => command.run(context),
        Command::New(command) => command.run(context),
        Command::Package(command) => command.run(context),
        Command::Lock(command) => command.run(context),
        Command::Publish(command) => command.run(context),
        Command::Import(command) => command.run(context),
        Command::Export(command) => command.run(context),
        Command::Inspect(command) => command.run(context),
        Command::Models(command) => command.run(context),
        Command::Versions(command) => command.run(context),
        Command::Alias(command) => command.run(context),
        Command::Tag(command) => command.run(context),
        Command::Yank(command) => command.run(context),
        Command::Sbom(command) => command.run(context),
        Command::Diff(command) => command.run(context),
        Command::Sign(command) => command.run(context),
        Command::Attest(command) => command.run(context),
        Command::Verify(command) => command.run(context),
        Command::Env(command) => command.run(context),
        Command::Token(command) => command.run(context),
        Command::Push(command) => command.run(context),
        Command::Pull(command) => command.run(context),
        Command::Bundle(command) => command.run(context),
        Command::Registry(command) => command.run(context),
        Command::Gc(command) => command.run(context),
        Command::Serve(command) => command.run(context),
        Command::Up(command) => command.run(context),
        Command::Down(command) => command.run(context),
        Command::Deploy(command) => command.run(context),
        Command::Status(command) => command.run(context),
        Command::Watch(command) => command.run(context),
        Command::Logs(command) => command.run(context),
        Command::Drift(command) => command.run(context),
        Command::History(command) => command.run(context),
        Command::Report(command) => command.run(context),
        Command::Rehearse(command) => command.run(context),
        Command::Traffic(command) => command.run(context),
        Command::Feedback(command) => command.run(context),
        Command::Flags(command) => command.run(context),
        Command::Promote(command) => command.run(context),
        Command::Approve(command) => command.run(context),
        Command::Pause(command) => command.run(context, &modelyard_core::event::Order::Pause),
        Command::Resume(command) => command.run(context, &modelyard_core::event::Order::Resume),
        Command::Abort(command) => command.run(context),
        Command::Try(command) => command.run(context),
        Command::Freeze(command) => command.run(context),
        Command::Rollback(command) => command.run(context),
        Command::UpgradeGateway(command) => command.run(context),
        Command::Gateway(command) => command.run(context),
        Command::Instance(command) => command.run(context),
        Command::Target(command) => command.run(context),
        Command::OnnxRuntime(command) => command.run(context),
        Command::Reference(command) => command.run(context),
    }
}

/// Sets up the log of a process that goes on: to `file` in the home's folder of logs, else to stderr.
fn log(context: &Context, file: Option<&str>) -> Result<(), Failed> {
    use modelyard_monitor::logging::{Format, init};
    use std::io::IsTerminal as _;

    let filter = std::env::var("MODELYARD_LOG").unwrap_or_else(|_| "info".to_owned());
    let path = file.map(|name| context.home.logs().join(name));
    let format = if path.is_none() && std::io::stderr().is_terminal() { Format::Text } else { Format::Json };
    if let Some(folder) = path.as_ref().and_then(|path| path.parent()) {
        std::fs::create_dir_all(folder).map_err(|error| {
            Failed::from(error, format!("could not make {}", folder.display()), "choose another home")
        })?;
    }
    init(format, &filter, path.as_deref()).map_err(|error| {
        Failed::from(error, "the log could not be set up", "see MODELYARD_LOG, and whether the home can be written")
    })
}
