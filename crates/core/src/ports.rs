//! Ports: small traits over core's own words, which adapters implement and the control plane calls.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use crate::instance::{InstanceSpec, InstanceStatus};
use crate::machine::MachineSeen;
use crate::{InstanceId, Timestamp};

/// A future that a port returns; boxed so that ports can be `dyn`.
pub type PortFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// Why a target could not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum TargetError {
    /// The instance can never be started as asked: a missing program, a folder that is not there.
    #[error("cannot start `{id}`: {why}")]
    Impossible {
        /// Which instance.
        id: InstanceId,
        /// What is wrong and what to do.
        why: String,
    },
    /// The ask is older than one already carried out.
    #[error("`{id}` was already asked for by generation {seen}")]
    Stale {
        /// Which instance.
        id: InstanceId,
        /// The newer generation.
        seen: u64,
    },
    /// The target itself failed; trying again may help.
    #[error("{doing}")]
    Failed {
        /// What was being done.
        doing: String,
        /// The error beneath.
        #[source]
        source: std::io::Error,
    },
}

/// A place where instances run. Every call is idempotent.
pub trait Target: Send + Sync {
    /// Starts the instance unless it is there already (or has already ended: an id is never started twice).
    fn ensure<'a>(&'a self, spec: &'a InstanceSpec) -> PortFuture<'a, Result<(), TargetError>>;

    /// Every instance that this target knows, ended ones included until they are forgotten.
    fn observe(&self) -> PortFuture<'_, Result<Vec<InstanceStatus>, TargetError>>;

    /// Asks the instance to end (SIGTERM or its like), and ends it by force after `grace`. Returns at once.
    fn stop<'a>(&'a self, id: &'a InstanceId, grace: Duration) -> PortFuture<'a, Result<(), TargetError>>;

    /// Drops what is kept of an ended instance, its log apart.
    fn forget<'a>(&'a self, id: &'a InstanceId) -> PortFuture<'a, Result<(), TargetError>>;

    /// What is left for further instances; nothing of a target that cannot tell.
    fn room(&self) -> PortFuture<'_, Room> {
        Box::pin(async { Room::default() })
    }

    /// The machines that it has, if it has several.
    fn machines(&self) -> Vec<MachineSeen> {
        Vec::new()
    }

    /// Ends what it keeps running beside instances, such as connections to machines. The instances have ended before.
    fn leave(&self) -> PortFuture<'_, ()> {
        Box::pin(async {})
    }

    /// The last lines that the instance wrote to its standard streams, oldest first.
    fn logs<'a>(&'a self, id: &'a InstanceId, lines: usize) -> PortFuture<'a, Result<Vec<String>, TargetError>>;
}

/// What a target has left for further instances.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Memory that can be had without swapping, in bytes.
    pub memory_bytes: Option<u64>,
    /// CPU in thousandths of a core, whoever uses it now.
    pub cpu_millis: Option<u64>,
}

/// Where the present comes from.
pub trait Clock: Send + Sync {
    /// Now.
    fn now(&self) -> Timestamp;
}
