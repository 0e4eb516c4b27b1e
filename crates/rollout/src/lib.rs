//! How a rollout advances: strategies, analysis and rollback policy as one pure function.
//!
//! [`step`] is `(state, observation) -> (state, actions)`: same inputs, same outputs. No clock, no I/O, no randomness, no panic.
//! Actions state desired values, so carrying one out twice does no harm.
//!
//! Promises, by the names that `modelyard-rehearse` and ARCHITECTURE.md use:
//! - **R1** a revision's weight is raised only while it is seen with live instances;
//! - **R2** desired weights sum to the whole, or are empty;
//! - **R3** stable is never scaled to zero before the gateway reports that the candidate carries everything (but for `recreate`, whose
//!   promise is the opposite: there it must first report that nothing is sent to stable);
//! - **R4** every rollout settles once the world stops failing;
//! - **R5** an aborted or failed rollout ends at stable alone;
//! - **R6** going forward, desired capacity never falls below what was asked, less `max-unavailable` (`rolling`);
//! - **R7** a canary is never asked to carry more than 20 % before a passing verdict, a person's `promote` being one;
//! - **R8** an open rollout always asks to be woken;
//! - **R9** a shadow is never asked to carry anything before it goes on as canary;
//! - **R10** an A/B test promotes only after a passing verdict, a person's `promote` being one;
//! - **R11** what runs beside the arms is never promoted: shadows carry nothing, alternatives at most 20 % together, and only while the
//!   candidate is held or the rollout paused.
//!
//! Absent on purpose: how anything is carried out, and how long that takes.

mod action;
mod analysis;
mod beside;
mod clock;
mod forecast;
pub mod judge;
mod notice;
mod observation;
mod orders;
mod phase;
mod plan;
mod quality;
mod readings;
mod rollout;
mod statistics;
mod step;
mod strategies;
mod usual;
mod view;

pub use action::{Action, Verdict};
pub use beside::Beside;
pub use observation::{GatewaySeen, Observation, PoolSeen};
pub use phase::{Phase, Waiting};
pub use plan::{Mistake, Plan, PlanError};
pub use rollout::Rollout;
pub use step::{LOOK_AGAIN, step};
