//! Where a rollout stands, and what it waits for.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Where a rollout stands. Steps count from 0 here and from 1 for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case")]
pub enum Phase {
    /// Blue-green, A/B, shadow: the candidate's pool, or every arm, is being started.
    Starting,
    /// A/B: the split is held until the metric is decided.
    Testing,
    /// Shadow: copies are sent, answers compared.
    Shadowing,
    /// Blue-green: the candidate is held at its preview address, without live traffic.
    Preview,
    /// Canary, blue-green: instances for the step's share are being started.
    Scaling {
        /// Step.
        step: usize,
    },
    /// Canary, blue-green: the step's share is asked for and watched.
    Baking {
        /// Step.
        step: usize,
    },
    /// Rolling: instances are being replaced until the candidate has `goal` live ones.
    Batch {
        /// Candidate instances at the end of this batch.
        goal: u32,
    },
    /// Rolling: the pause after a batch.
    Pausing {
        /// Candidate instances so far.
        goal: u32,
    },
    /// Recreate: stable gets no more requests and finishes those that it has.
    Emptying,
    /// Recreate: stable's instances are being stopped.
    Stopping,
    /// Recreate, first deployment: the candidate is being started and gets everything as soon as it lives.
    Replacing,
    /// Recreate: the candidate serves alone and is watched before it counts as promoted.
    Watching,
    /// Blue-green: promoted; stable's pool is kept for the rollback window.
    Kept,
    /// The candidate is to carry everything; stable finishes its requests.
    Draining,
    /// Going back: traffic returns to stable.
    Returning {
        /// The step whose share is asked for on the way back, when the policy is to go back through the steps.
        step: Option<usize>,
    },
    /// Going back (recreate, first deployment): the candidate gets no more requests and is stopped.
    Clearing,
    /// Going back (recreate): stable is being started again.
    Restoring,
    /// The outcome is settled; the pool that lost is being stopped.
    Retiring,
    /// Nothing more will happen.
    Closed,
}

impl Phase {
    /// Whether the rollout is still on its way to the candidate, and a failure would turn it around.
    pub const fn is_forward(self) -> bool {
        !matches!(self, Self::Returning { .. } | Self::Clearing | Self::Restoring | Self::Retiring | Self::Closed)
    }
}

/// What a rollout waits for that may take long.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "for", rename_all = "kebab-case")]
pub enum Waiting {
    /// A person's decision.
    Person {
        /// Why, and what can be decided.
        why: String,
    },
    /// A person's `resume`.
    Paused,
    /// The gateway is out of reach: nothing moves until it reports again.
    Gateway,
    /// The gateway to report the shares that were asked for.
    Route,
    /// Instances to become ready and live, or to end.
    Instances {
        /// Which and how many, for people.
        why: String,
    },
    /// Requests, or a clearer picture: the analysis is inconclusive.
    Evidence {
        /// What is missing, with figures.
        why: String,
    },
    /// Requests in flight to finish, or the time to pass.
    Time {
        /// What for.
        why: String,
    },
}

impl Waiting {
    /// Whether only a person can end the wait (`deploy --wait` ends with exit code 4).
    pub const fn is_person(&self) -> bool {
        matches!(self, Self::Person { .. } | Self::Paused)
    }

    /// Whether both wait for the same kind of thing, whatever the figures.
    pub fn same_kind(&self, other: &Self) -> bool {
        std::mem::discriminant(self) == std::mem::discriminant(other)
    }
}

impl fmt::Display for Waiting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Person { why } => write!(f, "waits for a person: {why}"),
            Self::Paused => f.write_str("paused; `modelyard resume` goes on, `modelyard abort` goes back"),
            Self::Gateway => f.write_str("the gateway is out of reach; nothing moves until it reports again"),
            Self::Route => f.write_str("waits for the gateway to report the shares that were asked for"),
            Self::Instances { why } | Self::Evidence { why } | Self::Time { why } => f.write_str(why),
        }
    }
}
