//! One observation in, the next state and what to do out.

use modelyard_core::Millis;

use crate::{Action, Observation, Rollout};

/// How soon a waiting rollout wants to look again: often enough to turn a bad candidate around within two seconds of traffic.
pub const LOOK_AGAIN: Millis = Millis(250);

/// Advances a rollout by one observation. Same inputs, same outputs: no clock, no I/O, no panic.
pub fn step(state: Rollout, seen: &Observation) -> (Rollout, Vec<Action>) {
    let wake = Action::WakeAt { at: seen.at + LOOK_AGAIN };
    (state, vec![wake])
}
