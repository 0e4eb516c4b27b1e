//! Rollouts under a virtual clock in a faulty world, with the invariants checked after every event.
//!
//! The state machines are the real ones; what surrounds them is modelled: a cluster whose instances start late, die and hang, a gateway
//! that is cut off, restarted and told things late, and a controller that is killed between deciding, committing and acting.
//!
//! Promises: the same seed plays the same world. No real clock, thread, file or socket; a rollout of minutes takes a millisecond.
//! Absent on purpose: latency under load, and anything that needs a real model.

mod cluster;
mod controller;
mod faults;
mod gateway;
pub mod invariants;
pub mod play;
pub mod rollouts;
pub mod script;
mod world;

pub use cluster::Temper;
pub use controller::Move;
pub use faults::Faults;
pub use invariants::{INVARIANTS, Invariant, Violation};
pub use world::{STABLE, Stepper, TICK, World};
