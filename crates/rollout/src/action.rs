//! What a step asks to be done or recorded.

use modelyard_core::event::{Order, Outcome};
use modelyard_core::failure::{Cause, Failure};
use modelyard_core::service::Desired;
use modelyard_core::{RevisionNumber, Timestamp};
use serde::{Deserialize, Serialize};

/// What an analysis says of the candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// Within its objectives, on enough evidence.
    Pass,
    /// Past an objective, beyond chance.
    Fail,
    /// Not enough evidence for either. It holds.
    Inconclusive,
}

impl Verdict {
    /// The verdict's name, as events and JSON have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Fail => "fail",
            Self::Inconclusive => "inconclusive",
        }
    }
}

/// What a step asks for. Each states a value, never a change, so carrying one out twice does no harm.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case")]
pub enum Action {
    /// Make this true. Only given when it differs from before; `Rollout::desired` always has the present one.
    Desire {
        /// What should be true now.
        desired: Desired,
    },
    /// Observe and step again no later than this.
    WakeAt {
        /// When.
        at: Timestamp,
    },
    /// Record what the analysis says; given when it says something new.
    Verdict {
        /// What it says.
        verdict: Verdict,
        /// Why, for people, with figures.
        why: String,
        /// Cause, when it failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cause: Option<Cause>,
    },
    /// Record that an order changed nothing.
    Refused {
        /// What was asked.
        order: Order,
        /// Why it was not done, and what can be done instead.
        why: String,
    },
    /// Record how the rollout ended. Given a second time when a blue-green rollout goes back within its rollback window.
    Finish {
        /// How.
        outcome: Outcome,
        /// Cause, when the candidate failed.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        cause: Option<Cause>,
        /// The failure behind it, with evidence.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        failure: Option<Box<Failure>>,
        /// Stable revision from now on; `None` when nothing is left (the first deployment failed).
        #[serde(default, skip_serializing_if = "Option::is_none")]
        stable: Option<RevisionNumber>,
    },
}
