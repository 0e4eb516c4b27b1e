//! The control plane: event store, controller, gateway's keeper, HTTP API.
//!
//! Promises: the log is the truth, and everything else is folded from it; nothing is done before the log says so; a control plane that
//! was killed adopts what runs, and goes on. It listens on loopback only, and once a token exists, it demands one.
//! Absent on purpose: the data plane (another process), strategies (`modelyard-rollout`), how instances run (`modelyard-targets`).

mod api;
mod catalogue;
mod controller;
mod down;
pub mod environments;
mod evidence;
mod flags;
mod gateway;
mod history;
mod http_client;
mod ledger;
pub mod machines;
mod mlflow;
mod notify;
mod orders;
mod packages;
pub mod policy;
mod prober;
mod promotions;
mod run;
mod running;
mod session_key;
mod store;
#[cfg(test)]
mod testing;
mod token_log;
mod tokens;
mod tracking;

pub use run::{ControlOptions, Error, Ready, run};
pub use store::Error as StoreError;
pub use store::chain::{Anchor, Break, Walked, walk_file};
pub use tracking::login as mlflow_login;
