//! How a rollout advances: strategies, analysis and rollback policy as one pure function.
//!
//! `step(state, observation) -> (state, actions)`: same inputs, same outputs. No clock, no I/O, no randomness, no panic.
//! Actions state desired values, so carrying one out twice does no harm.

mod analysis;
mod observation;
mod rollout;

pub use observation::{GatewaySeen, Observation, PoolSeen};
