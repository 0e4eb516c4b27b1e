//! Writes rollouts into experiment tracking while they run: a run of MLflow for each.
//!
//! Promises: nothing waits for a server: each is told by a task of its own that follows the log, and the log is the queue, so memory stays flat however
//! long a server is away. After a crash a run is found by its rollout's id and told on, never made twice; points that were told are told again at most, with
//! the same time and step, and MLflow keeps equal ones once. How far behind each server is, and why, is told in `status` and `/metrics`.
//! Absent on purpose: what MLflow knows of models that were never deployed (`modelyard import` and `export` are for that).

mod follow;
mod server;
mod told;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use modelyard_core::exposition::Exposition;
use modelyard_core::home::Home;
use modelyard_core::tracking::Tracking;
use modelyard_core::{EnvironmentName, RolloutId, Timestamp};
use serde::Serialize;
use tokio::task::JoinSet;

use crate::environments::Environments;
use crate::evidence::fetch::host_of;
use crate::ledger::{Ledger, lock};
use crate::packages::Packages;
use crate::store::fold::ServiceState;
use follow::Follower;

pub use server::login;

/// How often it is looked which servers there are.
const LOOK: Duration = Duration::from_secs(1);
/// Servers that are told, at most.
const SERVERS: usize = 16;
/// Runs whose id is shown, per server.
const SHOWN: usize = 64;

/// How far a server was told.
#[derive(Clone, Debug, Default, PartialEq)]
struct Standing {
    points: u64,
    dropped: u64,
    /// When the oldest event happened that it was not told of.
    behind: Option<Timestamp>,
    error: Option<String>,
    runs: BTreeMap<RolloutId, String>,
}

/// How each server stands, by address.
#[derive(Debug, Default)]
pub struct Tracked(Mutex<BTreeMap<String, Standing>>);

/// How a service's tracking stands, as `status` shows it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Shown {
    /// The server's host: the rest of an address may be secret.
    server: String,
    /// The run of the last rollout, once there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    run: Option<String>,
    /// How old the oldest event is that the server was not told of, in milliseconds; 0 when it was told of all.
    behind_ms: u64,
    /// Values that it will never take.
    #[serde(skip_serializing_if = "is_zero")]
    dropped: u64,
    /// Why it is behind.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Tracked {
    fn change(&self, address: &str, change: impl FnOnce(&mut Standing)) {
        change(lock(&self.0).entry(address.to_owned()).or_default());
    }

    fn told(&self, address: &str, rollout: &RolloutId, run: &str, points: u64) {
        self.change(address, |standing| {
            standing.points += points;
            standing.error = None;
            if standing.runs.len() >= SHOWN && !standing.runs.contains_key(rollout) {
                standing.runs.clear();
            }
            standing.runs.insert(rollout.clone(), run.to_owned());
        });
    }

    fn dropped(&self, address: &str, points: u64, why: &str) {
        self.change(address, |standing| {
            standing.dropped += points.max(1);
            standing.error = Some(why.to_owned());
        });
    }

    fn behind(&self, address: &str, oldest: Option<Timestamp>) {
        self.change(address, |standing| standing.behind = oldest);
    }

    fn trouble(&self, address: &str, why: &str) {
        self.change(address, |standing| standing.error = Some(why.to_owned()));
    }

    fn settle(&self, address: &str) {
        self.change(address, |standing| standing.behind = None);
    }

    /// How a service's tracking stands; none when it has none.
    pub fn shown(&self, tracking: Option<Tracking>, state: &ServiceState, now: Timestamp) -> Option<Shown> {
        let tracking = tracking?;
        let standing = lock(&self.0).get(&tracking.mlflow).cloned().unwrap_or_default();
        let run = state.rollouts.last().and_then(|record| standing.runs.get(&record.id)).cloned();
        Some(Shown {
            server: host_of(&tracking.mlflow),
            run,
            behind_ms: standing.behind.map_or(0, |at| now.0.saturating_sub(at.0)),
            dropped: standing.dropped,
            error: standing.error,
        })
    }

    /// The figures for Prometheus; nothing while no server is told.
    pub fn figures(&self, now: Timestamp) -> String {
        let standings = lock(&self.0).clone();
        let mut out = Exposition::default();
        if standings.is_empty() {
            return String::new();
        }
        // Two servers of one host differ by more than what may be shown: they count together.
        let mut hosts: BTreeMap<String, (f64, u64, u64)> = BTreeMap::new();
        for (address, standing) in &standings {
            let (lag, points, dropped) = hosts.entry(host_of(address)).or_default();
            let behind = standing.behind.map_or(0.0, |at| now.0.saturating_sub(at.0) as f64 / 1e3);
            (*lag, *points, *dropped) = (lag.max(behind), *points + standing.points, *dropped + standing.dropped);
        }
        out.family(
            "modelyard_tracking_lag_seconds",
            "gauge",
            "Age of the oldest event that a tracking server was not told of; 0 when it was told of all.",
        );
        for (host, (lag, _, _)) in &hosts {
            out.sample(&[("server", host)], *lag);
        }
        out.family(
            "modelyard_tracking_points_total",
            "counter",
            "Values for tracking servers: told, or dropped because the server will never take them.",
        );
        for (host, (_, points, dropped)) in &hosts {
            out.sample(&[("server", host), ("result", &"told")], *points);
            out.sample(&[("server", host), ("result", &"dropped")], *dropped);
        }
        out.finish()
    }
}

/// How services are tracked: by their own rules, else by those of their environment.
#[derive(Debug, Default)]
pub struct Known(Mutex<BTreeMap<EnvironmentName, Tracking>>);

impl Known {
    /// How a service is tracked, if it is.
    pub fn of(&self, state: &ServiceState) -> Option<Tracking> {
        let spec = state.spec.as_ref()?;
        spec.tracking.clone().or_else(|| lock(&self.0).get(&spec.environment).cloned())
    }
}

/// Looks which servers there are, and has each told.
#[derive(Clone)]
pub struct Tracker {
    /// The log.
    pub ledger: Arc<Ledger>,
    /// Where packages come from.
    pub packages: Arc<dyn Packages>,
    /// How it goes.
    pub tracked: Arc<Tracked>,
    /// How services are tracked.
    pub known: Arc<Known>,
    /// Where environments are kept.
    pub home: Home,
}

impl Tracker {
    /// Runs until dropped.
    pub async fn run(self) {
        let (since, mut servers, mut tasks) = (self.ledger.now(), BTreeMap::new(), JoinSet::new());
        loop {
            self.look().await;
            let world = self.ledger.world();
            for address in world.present().filter_map(|state| self.known.of(state)).map(|tracking| tracking.mlflow) {
                if servers.len() >= SERVERS || servers.contains_key(&address) {
                    continue;
                }
                let follower = Follower {
                    ledger: Arc::clone(&self.ledger),
                    packages: Arc::clone(&self.packages),
                    tracked: Arc::clone(&self.tracked),
                    known: Arc::clone(&self.known),
                    address: address.clone(),
                    since,
                };
                let task = tasks.spawn(follower.run());
                servers.insert(address, task.id());
            }
            tokio::select! {
                () = tokio::time::sleep(LOOK) => {}
                Some(ended) = tasks.join_next_with_id() => {
                    // It is started again with the next look, where the log was told up to.
                    let (id, died) = match ended { Ok((id, ())) => (id, false), Err(error) => (error.id(), true) };
                    servers.retain(|_, known| *known != id);
                    tracing::error!(died, "a tracking server is not followed any more");
                    tokio::time::sleep(LOOK).await;
                }
            }
        }
    }

    /// Reads what the environments say. One that cannot be read is tracked as before.
    async fn look(&self) {
        let folder = self.home.environments();
        let read = tokio::task::spawn_blocking(move || Environments::at(folder).list()).await;
        let Ok(Ok(all)) = read else { return };
        *lock(&self.known.0) = all.into_iter().filter_map(|(name, said)| Some((name, said.tracking?))).collect();
    }
}

#[cfg(test)]
mod tests;
