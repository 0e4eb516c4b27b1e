//! The data plane as the control plane sees it: what it is told, what it reports, and how its process is kept.
//!
//! Promises: tables are pushed whole with growing generations; a gateway that runs is adopted, never started twice.
//! Absent on purpose: the gateway itself. It is another process and another crate, and goes on without us.

pub mod client;
pub mod keeper;
pub mod process;
pub mod router;

use modelyard_core::measure::GatewayReport;
use modelyard_core::ports::PortFuture;
use modelyard_core::route::RouteTable;

use crate::http_client;

/// Why the gateway did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be reached.
    #[error("the gateway is out of reach")]
    Unreachable(#[from] http_client::Error),
    /// It has a newer table than the one that it was given.
    #[error("the gateway refuses the route table: it has a newer one")]
    Older,
    /// It refused.
    #[error("the gateway answered {status}: {why}")]
    Refused {
        /// HTTP status.
        status: u16,
        /// What it said.
        why: String,
    },
    /// Its answer makes no sense.
    #[error("the gateway's answer cannot be read")]
    Unreadable(#[source] serde_json::Error),
    /// Its process cannot be started.
    #[error("cannot start the gateway: {0}")]
    Start(String),
}

/// The data plane.
pub trait Gateway: Send + Sync {
    /// What it counted, and which table it applies.
    fn report(&self) -> PortFuture<'_, Result<GatewayReport, Error>>;

    /// Gives it a whole table. Returns once it is applied.
    fn push<'a>(&'a self, table: &'a RouteTable) -> PortFuture<'a, Result<(), Error>>;

    /// Starts its process again if it ended; the new process's id then.
    fn revive(&self) -> PortFuture<'_, Result<Option<u32>, Error>>;
}
