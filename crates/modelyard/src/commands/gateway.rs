//! The gateway's own process, as the control plane starts it.

use std::net::SocketAddr;
use std::path::PathBuf;

use clap::Args;

use super::up::loopback;
use crate::context::Context;
use crate::exit::Exit;

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
