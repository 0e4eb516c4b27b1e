//! Where everything local lives: the folder `MODELYARD_HOME`. Paths only; nothing is read or made here.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use std::net::SocketAddr;

/// The one folder for everything local.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home(PathBuf);

impl Home {
    /// Wraps the folder.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self(root.into())
    }

    /// The folder itself.
    pub fn root(&self) -> &Path {
        &self.0
    }

    /// Packages, versions and aliases: an OCI image layout.
    pub fn registry(&self) -> PathBuf {
        self.0.join("registry")
    }

    /// Packages laid out as files, by digest.
    pub fn unpacked(&self) -> PathBuf {
        self.0.join("unpacked")
    }

    /// The event log.
    pub fn store(&self) -> PathBuf {
        self.0.join("modelyard.sqlite")
    }

    /// What was answered, what was learnt of it later, and what follows for each arm.
    pub fn evidence(&self) -> PathBuf {
        self.0.join("evidence.sqlite")
    }

    /// Key of the session cookies' signature.
    pub fn session_key(&self) -> PathBuf {
        self.0.join("session.key")
    }

    /// Hashes of the tokens, and what each grants.
    pub fn tokens(&self) -> PathBuf {
        self.0.join("tokens.json")
    }

    /// What each environment demands of packages, a document each.
    pub fn environments(&self) -> PathBuf {
        self.0.join("environments")
    }

    /// Machines of the target `ssh`: a folder each, by environment and name.
    pub fn machines(&self) -> PathBuf {
        self.0.join("machines")
    }

    /// The token that commands of this home show.
    pub fn credentials(&self) -> PathBuf {
        self.0.join("credentials.json")
    }

    /// Where gateways tell answers: a folder of segments per service.
    pub fn tap(&self) -> PathBuf {
        self.gateway().join("tap")
    }

    /// One folder per instance: what it was asked to run, its address, its log, how it ended.
    pub fn instances(&self) -> PathBuf {
        self.0.join("instances")
    }

    /// The gateway's own folder: its last good route table.
    pub fn gateway(&self) -> PathBuf {
        self.0.join("gateway")
    }

    /// Who runs: a [`Running`] document each for `control` and `gateway`.
    pub fn running(&self, what: &str) -> PathBuf {
        self.0.join("run").join(format!("{what}.json"))
    }

    /// Logs of the control plane and the gateway.
    pub fn logs(&self) -> PathBuf {
        self.0.join("logs")
    }

    /// What can be fetched again: the ONNX Runtime library.
    pub fn cache(&self) -> PathBuf {
        self.0.join("cache")
    }

    /// Captured requests, answers and feedback: Parquet files per service and day.
    pub fn capture(&self) -> PathBuf {
        self.0.join("capture")
    }

    /// Activity reports.
    pub fn reports(&self) -> PathBuf {
        self.0.join("reports")
    }
}

/// Who runs, written by the process itself once it listens, removed when it ends by itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Running {
    /// Process id.
    pub pid: u32,
    /// Start of the process in clock ticks since boot (`/proc/PID/stat`, field 22): a reused pid has another.
    pub start_ticks: u64,
    /// Where it listens for callers.
    pub address: SocketAddr,
    /// Where it listens for the control plane (a Unix socket), if it does.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub admin: Option<PathBuf>,
    /// Version of the program.
    pub version: String,
}

/// What an instance announces once it listens, in the file that it was told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announcement {
    /// Where it takes requests.
    pub address: SocketAddr,
    /// Where it answers probes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<SocketAddr>,
}
