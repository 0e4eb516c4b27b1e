//! The control plane's side of the gateway: tables in, reports out, the end and the hand-over.

pub mod files;
pub mod handover;
mod metrics;
mod plane;
mod predecessor;
mod server;
pub mod socket;
mod succession;
pub mod tally;

use tokio::sync::oneshot;

pub use plane::{Plane, Workers};
pub use server::serve;
pub use succession::Succession;

/// What a worker asks of the admin thread.
pub enum Ask {
    /// The metrics of all threads as text.
    Metrics(oneshot::Sender<String>),
}
