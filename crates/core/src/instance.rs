//! Instances: one running copy of a revision, as asked for and as seen.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::machine::MachineId;
use crate::package::{Resources, Runtime};
use crate::{Digest, InstanceId, RevisionNumber, ServiceName, Timestamp};

/// What a target is asked to run. Everything it needs, so that a target reads nothing else.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstanceSpec {
    /// Identity of the instance.
    pub id: InstanceId,
    /// Service it belongs to; `onnx` instances serve the model under this name.
    pub service: ServiceName,
    /// The service by whose name its callers know the model, if that is another one (see [`crate::api`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub known_as: Option<ServiceName>,
    /// Revision that it is a copy of.
    pub revision: RevisionNumber,
    /// Digest of the package.
    pub package: Digest,
    /// Digest of the manifest of its container image, where the revision names one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<Digest>,
    /// Folder that holds the package's files and its document, verified by digest. Read-only for the instance.
    pub package_dir: PathBuf,
    /// How the package is run.
    pub runtime: Runtime,
    /// Environment variables: configuration and flags.
    pub environment: BTreeMap<String, String>,
    /// Limits.
    pub resources: Resources,
    /// Generation of the edit that asked for it; a target refuses an older one.
    pub generation: u64,
    /// Where it is to run, on targets that have several machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineId>,
}

/// Where an instance stands, as its target sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "kebab-case")]
pub enum InstanceState {
    /// Started, its address not known yet.
    Starting,
    /// Runs and listens.
    Running {
        /// Where it takes requests.
        address: SocketAddr,
        /// Where it answers probes, if that is another port.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        probe: Option<SocketAddr>,
    },
    /// Ended.
    Exited(Exit),
}

/// How an instance ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// When.
    pub at: Timestamp,
    /// Exit code, if it returned one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<i32>,
    /// Signal that ended it, if one did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// It went past its memory limit.
    #[serde(default)]
    pub out_of_memory: bool,
    /// It was asked to end.
    #[serde(default)]
    pub asked: bool,
    /// Largest resident memory in bytes, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peak_memory_bytes: Option<u64>,
    /// Why it could not be started at all, if so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_error: Option<String>,
}

impl Exit {
    /// An end at this moment of which nothing more is known; the rest is filled in.
    pub const fn at(at: Timestamp) -> Self {
        Self {
            at,
            code: None,
            signal: None,
            out_of_memory: false,
            asked: false,
            peak_memory_bytes: None,
            start_error: None,
        }
    }
}

/// One instance as its target sees it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct InstanceStatus {
    /// Identity.
    pub id: InstanceId,
    /// Service it belongs to.
    pub service: ServiceName,
    /// Revision that it is a copy of.
    pub revision: RevisionNumber,
    /// Where it stands.
    #[serde(flatten)]
    pub state: InstanceState,
    /// When it was started.
    pub started: Timestamp,
    /// Process id, on targets that have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Resident memory in bytes, if known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory_bytes: Option<u64>,
    /// Where it runs, on targets that have several machines.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub machine: Option<MachineId>,
    /// Why its machine cannot be reached, if so: the rest is what was last known of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub out_of_reach: Option<String>,
}
