//! The gateway's own process, as the control plane starts it.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;
use modelyard_gateway::GatewayOptions;

use super::up::loopback;
use crate::context::Context;
use crate::exit::{Exit, Failed};

/// Arguments of `gateway`.
#[derive(Debug, Args)]
pub struct Gateway {
    /// Where callers are listened for.
    #[arg(long, value_name = "ADDR", value_parser = loopback)]
    listen: SocketAddr,
    /// Unix socket on which the control plane is listened for.
    #[arg(long, value_name = "SOCKET")]
    admin: PathBuf,
    /// Folder that keeps the last good route table.
    #[arg(long, value_name = "DIR")]
    state: PathBuf,
    /// File that says who runs.
    #[arg(long, value_name = "FILE")]
    running: Option<PathBuf>,
    /// Threads; by default one per core.
    #[arg(long, value_name = "N")]
    threads: Option<usize>,
    /// Take the listening sockets over from the gateway that runs.
    #[arg(long)]
    takeover: bool,
}

impl Gateway {
    /// Runs the gateway until it is asked to end.
    pub fn run(self, context: &Context) -> miette::Result<Exit> {
        super::log(context, Some("gateway.log"))?;
        let options = GatewayOptions {
            listen: self.listen,
            admin: self.admin,
            state_dir: self.state,
            running: self.running.unwrap_or_else(|| context.home.running("gateway")),
            threads: self.threads.unwrap_or(0),
            takeover: self.takeover,
        };
        modelyard_gateway::run(options).map_err(|error| {
            Failed::from(
                error,
                "the gateway ended",
                "the control plane starts it again; `modelyard status` shows what runs",
            )
        })?;
        Ok(Exit::Done)
    }
}
