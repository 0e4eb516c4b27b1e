//! The route table: how requests are spread. The control plane writes it, the gateway applies it whole.
//!
//! Promises: a table that passes [`RouteTable::check`] never sends traffic to a revision without instances, and its weights sum to
//! the whole. It is a document: the gateway keeps the last good one on disk and needs nothing else to serve.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use crate::affinity::AffinityRoute;
use crate::api::ApiRoute;
use crate::mirror::{Mirror, Tap};
use crate::service::{Desired, Routing};
use crate::weight::apportion;
use crate::{InstanceId, RevisionNumber, ServiceName, Version, Weight};

/// Version of the table's form that this build writes.
pub const TABLE_VERSION: u32 = 2;

/// How every service's requests are spread.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RouteTable {
    /// Version of this document's form.
    pub format_version: u32,
    /// Grows with every edit. A gateway refuses an older table than the one that it has.
    pub generation: u64,
    /// Routes by service.
    pub services: BTreeMap<ServiceName, ServiceRoute>,
}

impl Default for RouteTable {
    fn default() -> Self {
        Self { format_version: TABLE_VERSION, generation: 0, services: BTreeMap::new() }
    }
}

/// How one service's requests are spread.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ServiceRoute {
    /// API version that `/v2/models/{service}` and gRPC reach.
    pub default_api: u16,
    /// Traffic share per revision, by API version. Each sums to the whole, or is empty: then requests are parked or refused.
    pub apis: BTreeMap<u16, BTreeMap<RevisionNumber, Weight>>,
    /// Pools by revision, those without weight included: a preview is reached by its own address.
    pub pools: BTreeMap<RevisionNumber, Pool>,
    /// Whether requests wait while nothing can serve them; otherwise they get 503 at once.
    pub park: bool,
    /// Time-outs, retries, parking limits.
    pub routing: Routing,
    /// How sessions stay with their arm; without, each request is spread by itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub affinity: Option<AffinityRoute>,
    /// Copies of requests for shadows.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub mirrors: Vec<Mirror>,
    /// What is told of answers; nothing by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tap: Option<Tap>,
    /// As which API version of another service it is reached too. Of two that claim one, the first by name has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serves: Option<ApiRoute>,
}

/// All instances of one revision that may be sent requests: ready and live.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pool {
    /// Version of the package, for answers' headers and metrics.
    pub version: Version,
    /// Where the instances listen.
    pub instances: BTreeMap<InstanceId, SocketAddr>,
    /// Values of the revision's flags as instances are told them with each request ([`crate::flags::HEADER`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flags: Option<String>,
}

/// What is wrong with a table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// The table is of a newer form.
    #[error("the route table has form {0}; this gateway reads up to {TABLE_VERSION}")]
    Format(u32),
    /// The weights of an API version do not sum to the whole.
    #[error("weights of `{service}` API v{api} sum to {sum}, not to 10000 basis points")]
    Sum {
        /// Service.
        service: ServiceName,
        /// API version.
        api: u16,
        /// The sum in basis points.
        sum: u32,
    },
    /// A revision has weight but no instance.
    #[error("revision {revision} of `{service}` has weight but no instance")]
    Empty {
        /// Service.
        service: ServiceName,
        /// Revision.
        revision: RevisionNumber,
    },
}

impl RouteTable {
    /// Checks that every split sums to the whole and that no weight goes to an empty pool.
    ///
    /// # Errors
    /// The first [`RouteError`].
    pub fn check(&self) -> Result<(), RouteError> {
        if self.format_version > TABLE_VERSION {
            return Err(RouteError::Format(self.format_version));
        }
        self.services.iter().try_for_each(|(service, route)| route.check(service))
    }
}

impl ServiceRoute {
    fn check(&self, service: &ServiceName) -> Result<(), RouteError> {
        for (&api, split) in &self.apis {
            let sum: u32 = split.values().map(|w| u32::from(w.basis_points())).sum();
            if sum != 10_000 && !split.is_empty() {
                return Err(RouteError::Sum { service: service.clone(), api, sum });
            }
            let empty = |revision| self.pools.get(revision).is_none_or(|pool| pool.instances.is_empty());
            if let Some((&revision, _)) = split.iter().find(|&(revision, &w)| w > Weight::NONE && empty(revision)) {
                return Err(RouteError::Empty { service: service.clone(), revision });
            }
        }
        Ok(())
    }
}

/// The split that can be had. The share of a pool without instances goes to the oldest revision (stable), so that no other arm's share and none of its
/// sessions move; while that is dead itself, the others are scaled to the whole.
///
/// When no pool with weight has an instance but another kept pool does (the candidate died after it took everything, blue is still kept),
/// that pool carries the traffic: serving from a kept pool beats refusing. Empty when nothing can serve.
pub fn effective_split(desired: &Desired, pools: &BTreeMap<RevisionNumber, Pool>) -> BTreeMap<RevisionNumber, Weight> {
    split_among(desired, |revision| pools.get(&revision).is_some_and(|pool| !pool.instances.is_empty()))
}

/// [`effective_split`] for those who know which revisions are alive but not where their instances listen.
pub fn split_among(desired: &Desired, alive: impl Fn(RevisionNumber) -> bool) -> BTreeMap<RevisionNumber, Weight> {
    if desired.weights.is_empty() {
        return BTreeMap::new();
    }
    let wanted = desired.weights.iter().filter(|&(_, &weight)| weight > Weight::NONE);
    let wanted: Vec<(RevisionNumber, u64)> =
        wanted.map(|(&revision, &weight)| (revision, u64::from(weight.basis_points()))).collect();
    type Shares = Vec<(RevisionNumber, u64)>;
    let (mut weighted, dead): (Shares, Shares) = wanted.iter().partition(|&&(revision, _)| alive(revision));
    // The arms of a rollout are younger than the stable revision that they are compared with.
    if let (Some(stable), Some(first)) = (wanted.first(), weighted.first_mut())
        && stable.0 == first.0
    {
        first.1 += dead.iter().map(|(_, share)| share).sum::<u64>();
    }
    let shares: Vec<(RevisionNumber, u64)> = match weighted.is_empty() {
        false => weighted,
        true => desired.instances.keys().copied().filter(|&kept| alive(kept)).take(1).map(|kept| (kept, 1)).collect(),
    };
    let weights = apportion(&shares.iter().map(|&(_, share)| share).collect::<Vec<_>>());
    shares.into_iter().map(|(revision, _)| revision).zip(weights).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pools(alive: &[(u32, bool)]) -> BTreeMap<RevisionNumber, Pool> {
        let address = "127.0.0.1:1".parse().unwrap();
        let pool = |n: u32, alive: bool| Pool {
            version: Version::new("1").unwrap(),
            instances: alive.then(|| (InstanceId::new(format!("i{n}")).unwrap(), address)).into_iter().collect(),
            flags: None,
        };
        alive.iter().map(|&(n, alive)| (RevisionNumber(n), pool(n, alive))).collect()
    }

    fn desired(weights: &[(u32, u16)]) -> Desired {
        Desired {
            instances: weights.iter().map(|&(n, _)| (RevisionNumber(n), 1)).collect(),
            weights: weights.iter().map(|&(n, w)| (RevisionNumber(n), Weight::new(w).unwrap())).collect(),
            park: true,
            ..Desired::default()
        }
    }

    #[test]
    fn dead_pools_give_their_share_to_the_living() {
        let split = effective_split(&desired(&[(1, 9_000), (2, 1_000)]), &pools(&[(1, true), (2, false)]));
        assert_eq!(split, BTreeMap::from([(RevisionNumber(1), Weight::ALL)]));
    }

    #[test]
    fn a_dead_arm_leaves_its_share_to_stable_and_other_arms_keep_theirs() {
        let wanted = desired(&[(1, 4_000), (2, 3_000), (3, 2_000), (4, 1_000)]);
        let split = |alive: &[(u32, bool)]| -> Vec<(u32, u16)> {
            effective_split(&wanted, &pools(alive)).iter().map(|(r, w)| (r.0, w.basis_points())).collect()
        };
        assert_eq!(split(&[(1, true), (2, false), (3, true), (4, true)]), [(1, 7_000), (3, 2_000), (4, 1_000)]);
        assert_eq!(split(&[(1, true), (2, false), (3, true), (4, false)]), [(1, 8_000), (3, 2_000)]);
        assert_eq!(split(&[(1, false), (2, true), (3, false), (4, true)]), [(2, 7_500), (4, 2_500)]);
    }

    #[test]
    fn a_kept_pool_takes_over_when_the_candidate_dies() {
        let split = effective_split(&desired(&[(1, 0), (2, 10_000)]), &pools(&[(1, true), (2, false)]));
        assert_eq!(split, BTreeMap::from([(RevisionNumber(1), Weight::ALL)]));
    }

    #[test]
    fn nothing_serves_when_nothing_lives_or_nothing_is_wanted() {
        assert!(effective_split(&desired(&[(1, 10_000)]), &pools(&[(1, false)])).is_empty());
        assert!(effective_split(&Desired::default(), &pools(&[(1, true)])).is_empty());
    }

    #[test]
    fn a_table_with_weight_on_an_empty_pool_is_refused() {
        let service = ServiceName::new("wine").unwrap();
        let route = ServiceRoute {
            default_api: 1,
            apis: BTreeMap::from([(1, desired(&[(1, 10_000)]).weights)]),
            pools: pools(&[(1, false)]),
            park: true,
            routing: Routing::default(),
            ..ServiceRoute::default()
        };
        let mut table = RouteTable::default();
        table.services.insert(service.clone(), route);
        assert_eq!(table.check(), Err(RouteError::Empty { service, revision: RevisionNumber(1) }));
    }
}
