//! The commands, one file each: arguments as clap reads them, and what is done with them.

pub mod down;
mod history;
mod instance;
mod logs;
mod orders;
mod report;
mod rollback;
mod status;
pub mod up;
mod upgrade_gateway;
mod watch;

use clap::Subcommand;

use crate::cli::Cli;
use crate::context::Context;
use crate::exit::Exit;

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start control plane and gateway on this machine.
    Up(up::Up),
    /// Stop everything that `up` started.
    Down(down::Down),
    /// Show what runs.
    Status(status::Status),
    /// Watch a service live.
    Watch(watch::Watch),
    /// Show what a service's instances wrote.
    Logs(logs::Logs),
    /// Show a service's revisions and rollouts.
    History(history::History),
    /// Tell a rollout as an activity report.
    Report(report::Report),
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
    /// Return a service to an earlier revision.
    Rollback(rollback::Rollback),
    /// Replace the gateway by this version without failing a request.
    UpgradeGateway(upgrade_gateway::UpgradeGateway),
    /// The supervisor of one instance.
    #[command(hide = true)]
    Instance(instance::Instance),
}

/// Calls the command.
pub fn run(cli: Cli) -> miette::Result<Exit> {
    let context = Context::new(cli.home, cli.output)?;
    let context = &context;
    match cli.command {
        Command::Up(command) => command.run(context),
        Command::Down(command) => command.run(context),
        Command::Status(command) => command.run(context),
        Command::Watch(command) => command.run(context),
        Command::Logs(command) => command.run(context),
        Command::History(command) => command.run(context),
        Command::Report(command) => command.run(context),
        Command::Promote(command) => command.run(context),
        Command::Approve(command) => command.run(context),
        Command::Pause(command) => command.run(context, &modelyard_core::event::Order::Pause),
        Command::Resume(command) => command.run(context, &modelyard_core::event::Order::Resume),
        Command::Abort(command) => command.run(context),
        Command::Rollback(command) => command.run(context),
        Command::UpgradeGateway(command) => command.run(context),
        Command::Instance(command) => command.run(context),
    }
}
