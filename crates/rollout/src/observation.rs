//! What is seen of a service at one moment: everything that [`crate::step`] may know.

use std::collections::BTreeMap;

use modelyard_core::event::Order;
use modelyard_core::evidence::Evidence;
use modelyard_core::failure::Failure;
use modelyard_core::measure::Counters;
use modelyard_core::{RevisionNumber, Timestamp, Weight};
use serde::{Deserialize, Serialize};

/// What is seen of a service at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Observation {
    /// Now, by the wall clock. Set forward or back, it neither finishes a bake nor fails a start: only watched time counts.
    pub at: Timestamp,
    /// What the gateway says; `None` while it is out of reach.
    pub gateway: Option<GatewaySeen>,
    /// What the target says, by revision.
    pub pools: BTreeMap<RevisionNumber, PoolSeen>,
    /// What is known of the arms' metrics, of shadows and of drift; `None` when nothing is measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evidence: Option<Evidence>,
    /// Failures seen since the last observation that was stepped with, each handed over exactly once, oldest first.
    pub failures: Vec<Failure>,
    /// What persons asked since then, oldest first.
    pub orders: Vec<Order>,
}

/// What the gateway says of the service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct GatewaySeen {
    /// Share that is applied, by revision. Sums to the whole, or is empty when nothing can be served.
    pub weights: BTreeMap<RevisionNumber, Weight>,
    /// Requests being answered, by revision.
    pub in_flight: BTreeMap<RevisionNumber, u64>,
    /// Cumulative counts by revision. They only grow: the observer adds up over restarts of the gateway.
    pub counters: BTreeMap<RevisionNumber, Counters>,
}

/// What the target says of the instances of one revision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolSeen {
    /// Instances that run or are being started.
    pub running: u32,
    /// Instances that are ready and live: they accept requests and answer the samples correctly.
    pub live: u32,
    /// Instances that are being drained or stopped (not counted in `running`).
    pub leaving: u32,
    /// Instances of all these whose machine is out of reach: what is counted of them tells nothing of the model.
    #[serde(default)]
    pub lost: u32,
}
