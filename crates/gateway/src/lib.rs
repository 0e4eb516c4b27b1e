//! The data plane: listens, picks a pool, forwards, retries, parks, drains, measures, and hands its sockets to its successor.
//!
//! Promises: it is given whole route tables, applies each on all threads before it says so, and keeps the last good one on disk, so it
//! serves on without a control plane. The revision is chosen per request or stream, never per connection. Threads share nothing per request.
//! What happens beside requests (shadows, the tap) happens on other threads, and is shed before it could slow one down.
//! Absent on purpose: who decides the table (`modelyard-control`, which this crate does not know), and any listen address but loopback, until
//! there are tokens.

mod accept;
mod admin;
mod affinity;
mod baggage;
mod body;
mod compare;
mod error;
mod feedback;
mod forward;
#[cfg(fuzzing)]
pub mod fuzz;
mod grpc;
mod headers;
mod incoming;
mod io;
mod limits;
mod local;
mod mirror;
mod openapi;
mod options;
mod path;
mod policy;
mod run;
mod table;
mod tap;
mod trace;
mod upstream;
mod versions;
mod wire;
mod worker;

pub use error::Error;
pub use options::GatewayOptions;
pub use run::run;
