//! What a gateway is started with.

use std::net::SocketAddr;
use std::path::PathBuf;

/// What a gateway is started with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayOptions {
    /// Where callers are listened for; loopback only. Port 0 picks a free one, told in the `running` document.
    pub listen: SocketAddr,
    /// Unix socket on which the control plane is listened for.
    pub admin: PathBuf,
    /// Folder that keeps the last good route table; made if missing.
    pub state_dir: PathBuf,
    /// File that says who runs (`core::home::Running`); written once everything listens.
    pub running: PathBuf,
    /// Threads, each with its own runtime and connections; 0 means one per core.
    pub threads: usize,
    /// Take the listening socket over from the gateway that listens on `admin`.
    pub takeover: bool,
}
